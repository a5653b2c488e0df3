//! Answers as bytes. The one that is given all the time is kept ready; what changes in it is the date, once a second,
//! and that is written over the old one.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::exchange::{Kind, Persistence, Reply};

/// Where the date stands in a ready answer, and how long any date is (RFC 9110 section 5.6.7).
const BEFORE_DATE: &str = "HTTP/1.1 200 OK\r\nDate: ";
const DATE_BYTES: usize = 29;

const SERVER: &str = "Server: glowplug\r\n";
const TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";
const ALLOW: &str = "Allow: GET, HEAD, OPTIONS\r\n";

/// Everything that this service ever says.
#[derive(Debug)]
pub(super) struct Answers {
    implied: Ready,
    stated: Ready,
    ended: Ready,
    date: [u8; DATE_BYTES],
    /// When the date is over, by the loop's clock.
    stale_at: Duration,
}

/// One whole answer.
#[derive(Debug)]
struct Ready {
    bytes: Vec<u8>,
    /// Bytes before the body.
    head: usize,
}

impl Answers {
    pub(super) fn new(body: &[u8]) -> Self {
        Answers {
            implied: Ready::new(Persistence::Implied, body),
            stated: Ready::new(Persistence::Stated, body),
            ended: Ready::new(Persistence::Ended, body),
            date: [b' '; DATE_BYTES],
            stale_at: Duration::ZERO,
        }
    }

    /// Looks at the calendar when the second is over; `now` is the loop's clock.
    #[inline]
    pub(super) fn refresh(&mut self, now: Duration) {
        if now >= self.stale_at {
            self.set_date(now, SystemTime::now());
        }
    }

    #[cold]
    fn set_date(&mut self, now: Duration, calendar: SystemTime) {
        // A clock set before 1970 is wrong in any case.
        let since = calendar.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.stale_at = now + Duration::from_secs(1) - Duration::from_nanos(since.subsec_nanos().into());
        // A date is exactly as long as its place.
        let _ = write!(&mut self.date[..], "{}", httpdate::HttpDate::from(UNIX_EPOCH + since));
        for ready in [&mut self.implied, &mut self.stated, &mut self.ended] {
            ready.bytes[BEFORE_DATE.len()..][..DATE_BYTES].copy_from_slice(&self.date);
        }
    }

    /// The fixed answer.
    #[inline]
    pub(super) fn page(&self, reply: Reply) -> &[u8] {
        let ready = match reply.persistence {
            Persistence::Implied => &self.implied,
            Persistence::Stated => &self.stated,
            Persistence::Ended => &self.ended,
        };
        if reply.bodiless { &ready.bytes[..ready.head] } else { &ready.bytes }
    }

    /// Any other answer. Made anew each time: they are few.
    pub(super) fn other(&self, reply: Reply) -> Vec<u8> {
        let (code, reason, body) = match reply.kind {
            Kind::Page => return self.page(reply).to_vec(),
            Kind::Options => (200, "OK", String::new()),
            Kind::Refusal(status) => {
                (status.code(), status.reason(), format!("{} {}\n", status.code(), status.reason()))
            }
        };
        let date = String::from_utf8_lossy(&self.date);
        let allow = if matches!(code, 200 | 405) { ALLOW } else { "" };
        let text = if body.is_empty() { "" } else { TEXT };
        let length = body.len();
        let connection = connection(reply.persistence);
        let shown = if reply.bodiless { "" } else { &body };
        format!(
            "HTTP/1.1 {code} {reason}\r\nDate: {date}\r\n{SERVER}{allow}{text}Content-Length: {length}\r\n{connection}\r\n{shown}"
        )
        .into_bytes()
    }
}

impl Ready {
    fn new(persistence: Persistence, body: &[u8]) -> Self {
        let (date, length, connection) = (" ".repeat(DATE_BYTES), body.len(), connection(persistence));
        let head =
            format!("{BEFORE_DATE}{date}\r\n{SERVER}{TEXT}Content-Length: {length}\r\n{connection}\r\n").into_bytes();
        Ready { head: head.len(), bytes: [&head, body].concat() }
    }
}

fn connection(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Implied => "",
        Persistence::Stated => "Connection: keep-alive\r\n",
        Persistence::Ended => "Connection: close\r\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::request::Status;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_fixed_answer_is_exactly_this() {
        let mut answers = Answers::new(b"Hello");
        answers.set_date(Duration::ZERO, UNIX_EPOCH + Duration::from_secs(784_111_777));
        let page = |bodiless, persistence| text(answers.page(Reply { kind: Kind::Page, bodiless, persistence }));
        let expected = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: glowplug\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(page(true, Persistence::Implied), expected);
        assert_eq!(page(false, Persistence::Implied), format!("{expected}Hello"));
        assert!(page(false, Persistence::Stated).ends_with("\r\nConnection: keep-alive\r\n\r\nHello"));
        assert!(page(false, Persistence::Ended).ends_with("\r\nConnection: close\r\n\r\nHello"));
    }

    #[test]
    fn a_refusal_has_a_body_of_the_length_that_it_says_and_tells_what_becomes_of_the_connection() {
        let mut answers = Answers::new(b"");
        answers.refresh(Duration::ZERO);
        let whole = text(&answers.other(Reply::refusal(Status::RequestTimeout)));
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "408 Request Timeout\n");
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\nDate: "));
        assert!(head.contains("\r\nContent-Length: 20\r\nConnection: close"));

        let reply =
            Reply { kind: Kind::Refusal(Status::MethodNotAllowed), bodiless: true, persistence: Persistence::Implied };
        let whole = text(&answers.other(reply));
        assert!(
            whole.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n") && whole.ends_with("\r\nContent-Length: 23\r\n\r\n")
        );
    }

    #[test]
    fn the_date_changes_when_its_second_is_over_and_not_before() {
        let mut answers = Answers::new(b"");
        let calendar = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        answers.set_date(Duration::from_secs(10), calendar);
        assert_eq!(answers.stale_at, Duration::from_millis(10_750));
        let date = answers.date;
        answers.refresh(Duration::from_millis(10_749));
        assert_eq!(answers.date, date);
        answers.refresh(Duration::from_millis(10_750));
        assert_ne!(answers.date, date);
    }
}
