//! The head of an HTTP request (RFC 9112): from bytes to what an answer depends on, and which status says what is wrong
//! with it.
//!
//! `httparse` reads the syntax. This file adds what it leaves open: limits, which body belongs to the request, which
//! `Host` it is for, and whether the connection goes on. Where two parsers could differ about the end of a request,
//! the request is refused.

use std::mem::MaybeUninit;

use httparse::{Error, Header};

/// Bytes of the request line, its ending not counted: the 8000 that RFC 9112 section 3 asks for, rounded up.
pub const LINE_MAX: usize = 8 * 1024;

/// Bytes of the request line and the header: more than any browser sends with all its cookies.
pub const HEAD_MAX: usize = 32 * 1024;

/// Lines of the header.
pub const FIELDS_MAX: usize = 100;

/// What an answer depends on.
///
/// ```
/// use services::codec::request::{Body, Head, Method};
/// let bytes = b"GET /who HTTP/1.1\r\nHost: here\r\n\r\nGET /next";
/// let (head, length) = Head::parse(bytes).unwrap().unwrap();
/// assert_eq!((head.method, head.target, length), (Method::Get, "/who", 33));
/// assert_eq!((head.body, head.persistent), (Body::None, true));
/// assert_eq!(Head::parse(&bytes[..32]), Ok(None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// What is to be done.
    pub method: Method,
    /// To what: a path, a whole URI, or `*`.
    pub target: &'a str,
    /// HTTP/1.0, whose connections end after an answer unless both sides say otherwise.
    pub is_1_0: bool,
    /// Whether the client wants the connection to go on.
    pub persistent: bool,
    /// What follows the head.
    pub body: Body,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// The methods of RFC 9110, as far as they are told apart. Their names are case-sensitive.
///
/// ```
/// use services::codec::request::Method;
/// assert_eq!(Method::named("GET"), Method::Get);
/// assert_eq!(Method::named("get"), Method::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// OPTIONS
    Options,
    /// CONNECT, whose target is unlike all others
    Connect,
    /// POST, PUT, DELETE, TRACE and PATCH (RFC 5789)
    Other,
    /// Any other token.
    Unknown,
}

/// What follows a head.
///
/// ```
/// use services::codec::request::{Body, Head};
/// let (head, _) = Head::parse(b"PUT / HTTP/1.0\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap();
/// assert_eq!(head.body, Body::Length(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A status that says why a request is not answered as it was meant to be.
///
/// ```
/// use services::codec::request::{Head, Status};
/// let error = Head::parse(b"GET / HTTP/3.0\r\n\r\n").unwrap_err();
/// assert_eq!((error, error.code(), error.reason()), (Status::VersionNotSupported, 505, "HTTP Version Not Supported"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400
    BadRequest,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 413
    ContentTooLarge,
    /// 414
    UriTooLong,
    /// 417
    ExpectationFailed,
    /// 431
    HeaderFieldsTooLarge,
    /// 501
    NotImplemented,
    /// 505
    VersionNotSupported,
}

impl Status {
    /// Its number.
    pub fn code(self) -> u16 {
        match self {
            Status::BadRequest => 400,
            Status::MethodNotAllowed => 405,
            Status::RequestTimeout => 408,
            Status::ContentTooLarge => 413,
            Status::UriTooLong => 414,
            Status::ExpectationFailed => 417,
            Status::HeaderFieldsTooLarge => 431,
            Status::NotImplemented => 501,
            Status::VersionNotSupported => 505,
        }
    }

    /// Its words.
    pub fn reason(self) -> &'static str {
        match self {
            Status::BadRequest => "Bad Request",
            Status::MethodNotAllowed => "Method Not Allowed",
            Status::RequestTimeout => "Request Timeout",
            Status::ContentTooLarge => "Content Too Large",
            Status::UriTooLong => "URI Too Long",
            Status::ExpectationFailed => "Expectation Failed",
            Status::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Status::NotImplemented => "Not Implemented",
            Status::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

impl Method {
    /// The method of this name.
    #[inline]
    pub fn named(name: &str) -> Self {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            "CONNECT" => Method::Connect,
            "POST" | "PUT" | "DELETE" | "TRACE" | "PATCH" => Method::Other,
            _ => Method::Unknown,
        }
    }
}

impl<'a> Head<'a> {
    /// The head at the beginning of `bytes`, and its length; `None` while its end, an empty line, is not there. Lines
    /// end with `\r\n`, or with `\n` as people type them. There is no empty line before it.
    ///
    /// # Errors
    /// What is wrong with it, as early as that is certain. What follows such a head has no meaning.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Head<'a>, usize)>, Status> {
        let mut fields = [const { MaybeUninit::<Header<'a>>::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return within_limits(bytes).map(|()| None),
            Err(error) => return fault(error, bytes),
        };
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Status::BadRequest);
        };
        if method.len() + target.len() + " HTTP/1.1 ".len() > LINE_MAX {
            return Err(Status::UriTooLong);
        }
        if length > HEAD_MAX {
            return Err(Status::HeaderFieldsTooLarge);
        }
        let method = Method::named(method);
        check_target(method, target)?;
        let fields = Fields::read(request.headers)?;
        Ok(Some((fields.head(method, target, version == 0)?, length)))
    }
}

/// The length of the head at the beginning of `bytes`, by its empty line alone; `None` while that is not there. The
/// first `searched` bytes have been searched already.
pub fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    // `\n\r\n` may have begun in what was searched.
    let start = searched.saturating_sub(2);
    memchr::memchr_iter(b'\n', &bytes[start..]).map(|at| start + at + 1).find_map(|after| match bytes[after..] {
        [b'\n', ..] => Some(after + 1),
        [b'\r', b'\n', ..] => Some(after + 2),
        _ => None,
    })
}

/// Whether a head whose end is not there has kept to the limits so far.
///
/// # Errors
/// 414 for the line, 431 for the whole.
#[cold]
pub fn within_limits(bytes: &[u8]) -> Result<(), Status> {
    let line = &bytes[..bytes.len().min(LINE_MAX + 2)];
    let line = memchr::memchr(b'\n', line).map_or(line, |end| &line[..end]);
    if line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_MAX {
        return Err(Status::UriTooLong);
    }
    if bytes.len() > HEAD_MAX { Err(Status::HeaderFieldsTooLarge) } else { Ok(()) }
}

/// What to say about a head that `httparse` does not take.
#[cold]
fn fault<'a>(error: Error, bytes: &[u8]) -> Result<Option<(Head<'a>, usize)>, Status> {
    within_limits(bytes)?;
    match error {
        Error::TooManyHeaders => Err(Status::HeaderFieldsTooLarge),
        // How the version goes on decides whether it is another one or none at all.
        Error::Version => match memchr::memchr(b'\n', bytes) {
            None => Ok(None),
            Some(end) if names_a_version(&bytes[..end]) => Err(Status::VersionNotSupported),
            Some(_) => Err(Status::BadRequest),
        },
        _ => Err(Status::BadRequest),
    }
}

/// Whether the third and last word of a request line is `HTTP/` and a number.
fn names_a_version(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let third = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    let Some(version) = third.strip_prefix(b"HTTP/") else { return false };
    let mut numbers = version.split(|&byte| byte == b'.');
    numbers.by_ref().take(2).all(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
        && numbers.next().is_none()
}

/// RFC 9112 section 3.2: a path, or a whole URI as for a proxy, or `*` for `OPTIONS`, or for `CONNECT` whatever that
/// wants.
#[inline]
fn check_target(method: Method, target: &str) -> Result<(), Status> {
    match (method, target.as_bytes()) {
        (Method::Connect, _) | (_, [b'/', ..]) | (Method::Options, b"*") => Ok(()),
        (_, uri) if authority_of(uri).is_some_and(|authority| !authority.is_empty() && is_host(authority)) => Ok(()),
        _ => Err(Status::BadRequest),
    }
}

/// What stands between `http://` or `https://` and the path.
fn authority_of(uri: &[u8]) -> Option<&[u8]> {
    let scheme = memchr::memmem::find(uri, b"://")?;
    if !matches!(uri[..scheme].to_ascii_lowercase().as_slice(), b"http" | b"https") {
        return None;
    }
    let rest = &uri[scheme + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// The fields that say where the request ends and what becomes of the connection.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    expects_other: bool,
}

impl Fields {
    #[inline]
    fn read(fields: &[Header<'_>]) -> Result<Self, Status> {
        let mut read = Fields::default();
        for field in fields {
            let (name, value) = (field.name, field.value);
            // Lengths differ, so at most one comparison is made.
            match name.len() {
                4 if name.eq_ignore_ascii_case("Host") => read.host(value)?,
                6 if name.eq_ignore_ascii_case("Expect") => read.expect(value),
                10 if name.eq_ignore_ascii_case("Connection") => read.connection(value),
                14 if name.eq_ignore_ascii_case("Content-Length") => read.content_length(value)?,
                17 if name.eq_ignore_ascii_case("Transfer-Encoding") => read.transfer_encoding(value)?,
                _ => {}
            }
        }
        Ok(read)
    }

    #[inline]
    fn host(&mut self, value: &[u8]) -> Result<(), Status> {
        self.hosts += 1;
        if self.hosts > 1 || !is_host(value) { Err(Status::BadRequest) } else { Ok(()) }
    }

    fn expect(&mut self, value: &[u8]) {
        match value.eq_ignore_ascii_case(b"100-continue") {
            true => self.expects_continue = true,
            false => self.expects_other = true,
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// One length, in digits. Even the same one twice is refused: no client means it.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Status> {
        if self.length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Status::BadRequest);
        }
        let add = |length: u64, digit: &u8| length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        self.length = Some(value.iter().fold(0, add));
        Ok(())
    }

    /// `chunked` and nothing else, once. Other codings before it are legal, and unknown here.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Status> {
        let mut codings = value.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let last = codings.next().unwrap_or_default();
        if self.chunked || !last.eq_ignore_ascii_case(b"chunked") {
            return Err(Status::BadRequest);
        }
        self.chunked = true;
        match codings.next() {
            None => Ok(()),
            Some(coding) if coding.is_empty() || coding.eq_ignore_ascii_case(b"chunked") => Err(Status::BadRequest),
            Some(_) => Err(Status::NotImplemented),
        }
    }

    #[inline]
    fn head<'a>(&self, method: Method, target: &'a str, is_1_0: bool) -> Result<Head<'a>, Status> {
        let body = match (self.chunked, self.length) {
            // HTTP/1.0 has no chunks: whoever sends them there was not meant to be understood (RFC 9112 section 6.1).
            (true, Some(_)) => return Err(Status::BadRequest),
            (true, None) if is_1_0 => return Err(Status::BadRequest),
            (true, None) => Body::Chunked,
            (false, None | Some(0)) => Body::None,
            (false, Some(length)) => Body::Length(length),
        };
        if self.hosts == 0 && !is_1_0 {
            return Err(Status::BadRequest);
        }
        if self.expects_other && !is_1_0 {
            return Err(Status::ExpectationFailed);
        }
        Ok(Head {
            method,
            target,
            is_1_0,
            persistent: !self.close && (!is_1_0 || self.keep_alive),
            body,
            expects_continue: self.expects_continue && !is_1_0,
        })
    }
}

/// Whether `value` is a host and perhaps a port (RFC 9110 section 7.2), or nothing at all, which is what a client
/// says whose target has no host.
#[inline]
fn is_host(value: &[u8]) -> bool {
    let end = value.iter().position(|&byte| !IN_NAME[byte as usize]).unwrap_or(value.len());
    match value[end..] {
        [] => true,
        [b':', ..] => end > 0 && is_port(&value[end..]),
        _ => is_bracketed(value),
    }
}

/// An IPv6 address in brackets and perhaps a port. A zone has no meaning to anybody else, and addresses of a future
/// version (RFC 3986) have none yet.
#[cold]
fn is_bracketed(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"[") else { return false };
    let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
    let is_address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    std::str::from_utf8(&rest[..end]).is_ok_and(is_address) && is_port(&rest[end + 1..])
}

/// Nothing, or a colon and what may be a port.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// The bytes of a registered name: unreserved, percent-encoded and sub-delimiters (RFC 3986 section 3.2.2).
static IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
