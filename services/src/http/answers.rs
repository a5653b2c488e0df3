//! Answers as bytes. The one that is given all the time is kept ready; what changes in it is the date, once a second,
//! and that is written over the old one.

use std::io::Write;

use super::clock::{Clock, DATE_BYTES};
use super::exchange::{Kind, Owed, Persistence};
use crate::codec::request::Status;

/// Where the date stands in an answer that begins with [`OK`].
pub(super) const BEFORE_DATE: usize = "HTTP/1.1 200 OK\r\nDate: ".len();

const SERVER: &str = "Server: glowplug\r\n";
const TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";
const ALLOW: &str = "Allow: GET, HEAD, OPTIONS\r\n";

/// The first line of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

pub(super) const OK: Line = Line { code: 200, reason: "OK" };
pub(super) const PARTIAL_CONTENT: Line = Line { code: 206, reason: "Partial Content" };
pub(super) const NOT_MODIFIED: Line = Line { code: 304, reason: "Not Modified" };

impl From<Status> for Line {
    fn from(status: Status) -> Self {
        Line { code: status.code(), reason: status.reason() }
    }
}

/// The fixed answer, in each of its forms.
#[derive(Debug)]
pub(super) struct Page {
    implied: Ready,
    stated: Ready,
    ended: Ready,
    /// Which second their date names.
    second: u64,
}

/// One whole answer.
#[derive(Debug)]
struct Ready {
    bytes: Vec<u8>,
    /// Bytes before the body.
    head: usize,
}

impl Page {
    pub(super) fn new(body: &[u8]) -> Self {
        let clock = Clock::new();
        Page {
            implied: Ready::new(Persistence::Implied, body, &clock),
            stated: Ready::new(Persistence::Stated, body, &clock),
            ended: Ready::new(Persistence::Ended, body, &clock),
            second: clock.second(),
        }
    }

    /// It as it is at this time, and how many bytes of it are the body.
    #[inline]
    pub(super) fn at(&mut self, clock: &Clock, owed: Owed) -> (&[u8], u64) {
        if self.second != clock.second() {
            self.set_date(clock);
        }
        let ready = match owed.persistence {
            Persistence::Implied => &self.implied,
            Persistence::Stated => &self.stated,
            Persistence::Ended => &self.ended,
        };
        let bytes = if owed.bodiless { &ready.bytes[..ready.head] } else { &ready.bytes };
        (bytes, (bytes.len() - ready.head) as u64)
    }

    #[cold]
    fn set_date(&mut self, clock: &Clock) {
        self.second = clock.second();
        for ready in [&mut self.implied, &mut self.stated, &mut self.ended] {
            ready.bytes[BEFORE_DATE..][..DATE_BYTES].copy_from_slice(clock.date());
        }
    }
}

impl Ready {
    fn new(persistence: Persistence, body: &[u8], clock: &Clock) -> Self {
        let mut bytes = Vec::new();
        begin(&mut bytes, OK, clock);
        // Writing to memory never fails.
        let _ = write!(bytes, "{TEXT}Content-Length: {}\r\n{}\r\n", body.len(), connection(persistence));
        let head = bytes.len();
        bytes.extend_from_slice(body);
        Ready { bytes, head }
    }
}

/// What every answer begins with.
pub(super) fn begin(into: &mut Vec<u8>, line: Line, clock: &Clock) {
    let _ = write!(into, "HTTP/1.1 {} {}\r\nDate: ", line.code, line.reason);
    into.extend_from_slice(clock.date());
    into.extend_from_slice(b"\r\n");
    into.extend_from_slice(SERVER.as_bytes());
}

/// An answer that says nothing but its first line, and what these fields say, and how long its body is. Made anew each
/// time: they are few.
pub(super) fn short(line: Line, fields: &str, owed: Owed, clock: &Clock) -> (Vec<u8>, u64) {
    let Line { code, reason } = line;
    let body = if code == 200 { String::new() } else { format!("{code} {reason}\n") };
    let allow = if matches!(code, 200 | 405) { ALLOW } else { "" };
    let text = if body.is_empty() { "" } else { TEXT };
    let (length, connection) = (body.len(), connection(owed.persistence));
    let shown = if owed.bodiless { "" } else { &body };
    let mut answer = Vec::new();
    begin(&mut answer, line, clock);
    let _ = write!(answer, "{allow}{fields}{text}Content-Length: {length}\r\n{connection}\r\n{shown}");
    (answer, shown.len() as u64)
}

/// Any answer that needs nothing looked up.
pub(super) fn other(owed: Owed, clock: &Clock) -> (Vec<u8>, u16, u64) {
    let line = match owed.kind {
        Kind::Refusal(status) => status.into(),
        Kind::Page | Kind::Options => OK,
    };
    let (answer, bytes) = short(line, "", owed, clock);
    (answer, line.code, bytes)
}

/// What an answer says about the connection.
pub(super) fn connection(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Implied => "",
        Persistence::Stated => "Connection: keep-alive\r\n",
        Persistence::Ended => "Connection: close\r\n",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn clock(seconds: u64) -> Clock {
        let mut clock = Clock::new();
        clock.set(Duration::ZERO, UNIX_EPOCH + Duration::from_secs(seconds));
        clock
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_fixed_answer_is_exactly_this_at_every_time() {
        let mut page = Page::new(b"Hello");
        let mut at = |seconds, bodiless, persistence| {
            text(page.at(&clock(seconds), Owed { kind: Kind::Page, bodiless, persistence }).0)
        };
        let expected = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: glowplug\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(at(784_111_777, true, Persistence::Implied), expected);
        assert_eq!(at(784_111_777, false, Persistence::Implied), format!("{expected}Hello"));
        assert!(at(784_111_777, false, Persistence::Stated).ends_with("\r\nConnection: keep-alive\r\n\r\nHello"));
        assert!(at(784_111_777, false, Persistence::Ended).ends_with("\r\nConnection: close\r\n\r\nHello"));
        assert_eq!(at(784_111_778, true, Persistence::Implied), expected.replace(":37 ", ":38 "));
    }

    #[test]
    fn a_refusal_has_a_body_of_the_length_that_it_says_and_tells_what_becomes_of_the_connection() {
        let (whole, code, bytes) = other(Owed::refusal(Status::RequestTimeout), &clock(1));
        let whole = text(&whole);
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!((body, code, bytes), ("408 Request Timeout\n", 408, 20));
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\nDate: "));
        assert!(head.contains("\r\nContent-Length: 20\r\nConnection: close"));

        let owed =
            Owed { kind: Kind::Refusal(Status::MethodNotAllowed), bodiless: true, persistence: Persistence::Implied };
        let whole = text(&other(owed, &clock(1)).0);
        assert!(
            whole.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n") && whole.ends_with("\r\nContent-Length: 23\r\n\r\n")
        );
    }
}
