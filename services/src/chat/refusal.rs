//! The refusal of a guest for whom the server has no room, in the protocol that the guest's first bytes choose.

use std::time::{Duration, SystemTime};

use reactor::Bytes;

use super::encoded::Encoded;
use super::guest::Opening;
use super::said::Way;
use crate::codec::request::Method;
use crate::codec::websocket::handshake::Refusal;

/// Longest wait for the first bytes of a guest for whom there is no room. A browser sends its request with the connection, and a
/// slow mobile network takes less than a second. For [`Service::refusal_by`](reactor::Service::refusal_by).
pub const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

const NO_ROOM: &str = "ERROR: no room left";

/// The refusal of a guest for whom the server has no room, for [`Service::refusal_by`](reactor::Service::refusal_by): `503` for
/// an HTTP request, a WebSocket handshake included, or else `ERROR: no room left` as a line or a frame. `None` while the
/// first bytes do not decide.
///
/// ```
/// use services::chat;
/// let refusal = chat::refusal(b"GET /ws HTTP/1.1\r\n").unwrap();
/// assert!(refusal.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
/// assert_eq!(chat::refusal(b"ann\n").unwrap(), "ERROR: no room left\n");
/// assert_eq!(chat::refusal(b"GET "), None);
/// ```
pub fn refusal(first: &[u8]) -> Option<Bytes> {
    let way = match Opening::of(first) {
        Opening::Undecided => return None,
        Opening::Http if first.starts_with(b"HEAD ") => return Some(http(Method::Head)),
        Opening::Http => return Some(http(Method::Get)),
        Opening::Lines => Way::Lines,
        Opening::Frames => Way::Frames,
    };
    let mut encoded = Encoded::default();
    encoded.encode(|bytes| bytes.extend_from_slice(NO_ROOM.as_bytes()));
    Some(Bytes::copy_from_slice(encoded.of(way)))
}

/// `503`, with the date.
fn http(method: Method) -> Bytes {
    let (status, rest) = Refusal::ServiceUnavailable.answer_to(method).split_once("\r\n").unwrap_or_default();
    format!("{status}\r\nDate: {}\r\n{rest}", httpdate::fmt_http_date(SystemTime::now())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_guest_reads_the_reason_in_its_own_protocol() {
        for (first, told) in [
            (&b"n"[..], "ERROR: no room left\n"),
            (b"NAME: ann\n", "ERROR: no room left\n"),
            (b"ANN\n", "ERROR: no room left\n"),
            (b"\n", "ERROR: no room left\n"),
            (b"\xff\xfb\x01", "ERROR: no room left\n"),
            (b"\0", "\0\0\0\x13ERROR: no room left"),
        ] {
            assert_eq!(refusal(first).unwrap(), told, "{}", first.escape_ascii());
        }
        for first in [&b""[..], b"A", b"ANN", b"GET", b"GET "] {
            assert_eq!(refusal(first), None, "{}", first.escape_ascii());
        }
    }

    #[test]
    fn an_http_request_gets_503_with_a_date_and_a_time_to_try_again() {
        for (first, body) in
            [("GET /", "503 Service Unavailable\n"), ("OPTIONS *", "503 Service Unavailable\n"), ("HEAD /", "")]
        {
            let told = String::from_utf8(refusal(first.as_bytes()).unwrap().to_vec()).unwrap();
            let (head, rest) = told.split_once("\r\n\r\n").unwrap();
            assert_eq!(rest, body, "{first}");
            assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\nDate: "), "{head}");
            for field in ["Retry-After: 1", "Connection: close", "Content-Length: 24"] {
                assert!(head.lines().any(|line| line == field), "{field}: {head}");
            }
        }
    }
}
