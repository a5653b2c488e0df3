//! Answers as bytes. The most frequent answer is kept ready: only its date changes, once a second, and is written over
//! the old date.

use std::io::Write;

use bytes::Bytes;

use super::clock::{BEFORE_DATE, Clock, DATE_BYTES};
use super::exchange::{Kind, Owed, Persistence};
use crate::codec::request::Status;

/// Content up to this size is stored behind its head in one piece, so a ready answer is one copy. Above this size, a
/// shared piece costs less than copying.
pub(super) const INLINE_MAX: usize = 4096;

pub(super) const SERVER: &str = "Server: glowplug\r\n";
/// Room for the head of a fixed answer, in bytes.
const HEAD_ROOM: usize = 256;

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

/// The fixed answer, in all its forms.
#[derive(Debug)]
pub(super) struct Page {
    body: Bytes,
    /// Indexed by [`Persistence`]. An entry is made for the first request that needs the entry, since a handler may
    /// serve a single connection.
    ready: [Option<Ready>; 3],
    /// The second that the dates in `ready` name.
    second: u64,
}

/// One complete answer, without a long body.
#[derive(Debug)]
struct Ready {
    bytes: Vec<u8>,
    /// Bytes before the body.
    head: usize,
}

impl Page {
    pub(super) fn new(body: Bytes) -> Self {
        Page { body, ready: [None, None, None], second: 0 }
    }

    /// Returns the answer with the current date: bytes to copy, and a shared piece that follows.
    #[inline]
    pub(super) fn at(&mut self, clock: &Clock, owed: Owed) -> (&[u8], Option<&Bytes>) {
        if self.second != clock.second() {
            self.set_date(clock);
        }
        let Page { body, ready, .. } = self;
        let ready = ready[owed.persistence as usize].get_or_insert_with(|| Ready::new(owed.persistence, body, clock));
        if owed.bodiless {
            return (&ready.bytes[..ready.head], None);
        }
        (&ready.bytes, if body.len() > INLINE_MAX { Some(body) } else { None })
    }

    /// Number of body bytes in the answer to this request.
    #[inline]
    pub(super) fn bytes(&self, owed: Owed) -> u64 {
        if owed.bodiless { 0 } else { self.body.len() as u64 }
    }

    #[cold]
    fn set_date(&mut self, clock: &Clock) {
        self.second = clock.second();
        for ready in self.ready.iter_mut().flatten() {
            ready.bytes[BEFORE_DATE.len()..][..DATE_BYTES].copy_from_slice(clock.date());
        }
    }
}

impl Ready {
    #[cold]
    fn new(persistence: Persistence, body: &[u8], clock: &Clock) -> Self {
        let inline = if body.len() > INLINE_MAX { b"" } else { body };
        let mut bytes = Vec::with_capacity(HEAD_ROOM + inline.len());
        begin(&mut bytes, OK, clock);
        // Writing to memory never fails.
        let _ = write!(bytes, "{TEXT}Content-Length: {}\r\n{}\r\n", body.len(), connection(persistence));
        let head = bytes.len();
        bytes.extend_from_slice(inline);
        Ready { bytes, head }
    }
}

/// Writes the status line and the fields that begin every answer.
pub(super) fn begin(into: &mut Vec<u8>, line: Line, clock: &Clock) {
    let _ = write!(into, "HTTP/1.1 {} {}\r\nDate: ", line.code, line.reason);
    into.extend_from_slice(clock.date());
    into.extend_from_slice(b"\r\n");
    into.extend_from_slice(SERVER.as_bytes());
}

/// An answer that consists of a status line, `fields`, and a short body. Made anew for each request, because such
/// answers are rare.
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

/// Any answer that needs no lookup.
pub(super) fn other(owed: Owed, clock: &Clock) -> (Vec<u8>, u16, u64) {
    let line = match owed.kind {
        Kind::Refusal(status) => status.into(),
        Kind::Page | Kind::Options => OK,
    };
    let (answer, bytes) = short(line, retry_after(line.code), owed, clock);
    (answer, line.code, bytes)
}

/// Field for a refusal: a shortage may be over in a second.
pub(super) fn retry_after(code: u16) -> &'static str {
    if code == Status::ServiceUnavailable.code() { "Retry-After: 1\r\n" } else { "" }
}

/// The `Connection` field of an answer.
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
        let mut page = Page::new(Bytes::from_static(b"Hello"));
        let mut at = |seconds, bodiless, persistence| {
            let owed = Owed { kind: Kind::Page, bodiless, persistence };
            assert_eq!(page.bytes(owed), if bodiless { 0 } else { 5 });
            let (bytes, shared) = page.at(&clock(seconds), owed);
            assert!(shared.is_none());
            text(bytes)
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
    fn a_long_body_is_shared_and_a_short_one_copied() {
        let body = Bytes::from(vec![b'x'; INLINE_MAX + 1]);
        let mut page = Page::new(body.clone());
        let owed = Owed { kind: Kind::Page, bodiless: false, persistence: Persistence::Implied };
        let (bytes, shared) = page.at(&clock(1), owed);
        assert!(text(bytes).ends_with("Content-Length: 4097\r\n\r\n") && shared.unwrap().as_ptr() == body.as_ptr());
        let (_, shared) = page.at(&clock(1), Owed { bodiless: true, ..owed });
        assert!(shared.is_none());
        assert_eq!(page.bytes(Owed { bodiless: true, ..owed }), 0);
        let mut page = Page::new(body.slice(1..));
        let (bytes, shared) = page.at(&clock(1), owed);
        assert!(bytes.ends_with(&body[1..]) && shared.is_none());
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
