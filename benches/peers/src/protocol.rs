//! The answers of the servers, without a socket: bytes in, bytes out. Both loops call this module, so they differ as
//! loops alone.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The protocol of a connection. Bytes that are not consumed come again, with more behind them.
pub trait Protocol {
    fn answer<'a>(&'a mut self, input: &'a [u8]) -> Answer<'a>;

    /// Called once a turn, for parts that depend on the clock.
    fn tick() {}
}

pub struct Answer<'a> {
    pub consumed: usize,
    pub bytes: &'a [u8],
    /// After these bytes the connection ends.
    pub close: bool,
}

#[derive(Default)]
pub struct Echo;

impl Protocol for Echo {
    fn answer<'a>(&'a mut self, input: &'a [u8]) -> Answer<'a> {
        Answer { consumed: input.len(), bytes: input, close: false }
    }
}

/// The fixed answer. All requests that have arrived are answered in one run of bytes, so pipelined requests share a
/// send.
#[derive(Default)]
pub struct Http {
    out: Vec<u8>,
}

pub const BODY: &str = "Hello from Epoll Server!";

/// Bytes of one request header. Less than any receive buffer here, so an unfinished header always leaves room to read.
const MAX_HEADER: usize = 8 * 1024;
const MAX_FIELDS: usize = 64;

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NOT_ALLOWED: &[u8] =
    b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

thread_local! {
    /// One per thread and not per connection, because the date moves for all connections at once.
    static FIXED: RefCell<Fixed> = RefCell::new(Fixed::new());
}

struct Fixed {
    second: u64,
    /// Status line, fields, empty line, body.
    answer: Vec<u8>,
    /// The index of the empty line.
    fields_end: usize,
}

impl Fixed {
    fn new() -> Fixed {
        let mut fixed = Fixed { second: 0, answer: Vec::new(), fields_end: 0 };
        fixed.refresh();
        fixed
    }

    fn refresh(&mut self) {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second == self.second {
            return;
        }
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        let fields = format!(
            "HTTP/1.1 200 OK\r\nServer: glowplug\r\nDate: {date}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n",
            BODY.len()
        );
        self.fields_end = fields.len();
        self.answer = format!("{fields}\r\n{BODY}").into_bytes();
        self.second = second;
    }
}

impl Protocol for Http {
    fn answer<'a>(&'a mut self, input: &'a [u8]) -> Answer<'a> {
        self.out.clear();
        let mut consumed = 0;
        let mut close = false;
        FIXED.with_borrow(|fixed| {
            while consumed < input.len() && !close {
                match answer_one(&input[consumed..], fixed, &mut self.out) {
                    One::Answered { length } => consumed += length,
                    One::Last => close = true,
                    One::Incomplete => break,
                }
            }
        });
        Answer { consumed, bytes: &self.out, close }
    }

    fn tick() {
        FIXED.with_borrow_mut(Fixed::refresh);
    }
}

enum One {
    Answered {
        length: usize,
    },
    /// Answered, and nothing after this request will be.
    Last,
    Incomplete,
}

fn answer_one(input: &[u8], fixed: &Fixed, out: &mut Vec<u8>) -> One {
    // The fields are left uninitialised: 64 of them are 2 KiB, which a request of two fields would pay to clear.
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(input, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEADER => return One::Incomplete,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return last(TOO_LARGE, out),
        Err(_) => return last(BAD_REQUEST, out),
    };
    let mut close = request.version == Some(0);
    for field in request.headers.iter() {
        let name = field.name;
        if name.eq_ignore_ascii_case("connection") {
            close |= field.value.split(|&b| b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding") {
            // Nothing here reads a body, and taking a body for the next request would be request smuggling.
            return last(BAD_REQUEST, out);
        }
    }
    let end = match request.method {
        Some("GET") => fixed.answer.len(),
        Some("HEAD") => fixed.fields_end + b"\r\n".len(),
        _ => return last(NOT_ALLOWED, out),
    };
    if !close {
        out.extend_from_slice(&fixed.answer[..end]);
        return One::Answered { length };
    }
    out.extend_from_slice(&fixed.answer[..fixed.fields_end]);
    out.extend_from_slice(b"Connection: close\r\n");
    out.extend_from_slice(&fixed.answer[fixed.fields_end..end]);
    One::Last
}

fn last(answer: &[u8], out: &mut Vec<u8>) -> One {
    out.extend_from_slice(answer);
    One::Last
}
