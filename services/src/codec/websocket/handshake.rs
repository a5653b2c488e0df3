//! The opening handshake (RFC 6455 section 4.2): from the head of an HTTP request to the answer.
//!
//! ```
//! use reactor::Input;
//! use services::codec::websocket::handshake::{self, Refusal};
//!
//! let mut input = Input::of(
//!     b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
//!       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
//! );
//! let head = handshake::next(&mut input).unwrap().unwrap();
//! assert_eq!(head.target, "/ws");
//! let accepted = handshake::accept(&head).unwrap();
//! assert!(accepted.answer().contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
//!
//! let mut plain = Input::of(b"GET /ws HTTP/1.1\r\nHost: here\r\n\r\n");
//! let head = handshake::next(&mut plain).unwrap().unwrap();
//! assert_eq!(handshake::accept(&head), Err(Refusal::UpgradeRequired));
//! ```

use data_encoding::BASE64;
use reactor::{Framed, Input};
use sha1_smol::Sha1;

use crate::codec::request::{Body, Head, Method, Status, end_of_head};

/// Longest head of a handshake, in bytes. A longer one gets 431.
pub const HEAD_MAX: usize = 8 * 1024;

/// The text that a server appends to the key before hashing, as a proof of speaking WebSocket (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a key, which are sent in base64.
const KEY_BYTES: usize = 16;

/// Unread bytes up to which a head is parsed each time bytes arrive, so that a peer that does not speak HTTP is
/// refused at once. Longer heads are parsed at the end of each line, of which a head has at most
/// [`FIELDS_MAX`](crate::codec::request::FIELDS_MAX); parsing is linear for a peer that sends single bytes.
const EARLY: usize = 64;

/// Takes the next request head from the input; `None` while the head is incomplete, and then nothing was consumed.
///
/// # Errors
/// [`Refusal::BadRequest`] for a malformed head, as early as the fault is certain; [`Refusal::HeadTooLong`] for more than
/// [`HEAD_MAX`] bytes or 100 fields.
pub fn next<'i>(input: &mut Input<'i>) -> Result<Option<Head<'i>>, Refusal> {
    let unread = input.as_slice();
    match input.scan(HEAD_MAX, end_of_head) {
        Framed::Item(bytes) => parse(bytes)?.ok_or(Refusal::BadRequest).map(Some),
        Framed::TooLong => Err(Refusal::HeadTooLong),
        Framed::Incomplete if unread.len() <= EARLY || unread.ends_with(b"\n") => parse(unread).map(|_| None),
        Framed::Incomplete => Ok(None),
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Head<'_>>, Refusal> {
    match Head::parse(bytes) {
        Ok(parsed) => Ok(parsed.map(|(head, _)| head)),
        Err(Status::HeaderFieldsTooLarge) => Err(Refusal::HeadTooLong),
        Err(_) => Err(Refusal::BadRequest),
    }
}

/// Checks a request for the handshake of version 13. For the rules about who may connect, see
/// [`Origins::accept`](super::origin::Origins::accept). Protocols and extensions that the client offers are not taken up.
///
/// # Errors
/// [`Refusal::MethodNotAllowed`] unless it is a `GET`; [`Refusal::UpgradeRequired`] without an upgrade to WebSocket, with
/// HTTP/1.0, which has no upgrades, and for another version; [`Refusal::BadRequest`] without one `Sec-WebSocket-Key` of
/// 16 bytes in base64, and for a request with a body.
pub fn accept(head: &Head<'_>) -> Result<Accepted, Refusal> {
    if head.method != Method::Get {
        return Err(Refusal::MethodNotAllowed);
    }
    if head.body != Body::None {
        return Err(Refusal::BadRequest);
    }
    if head.is_1_0 || !has_token(head, "Upgrade", b"websocket") || !has_token(head, "Connection", b"upgrade") {
        return Err(Refusal::UpgradeRequired);
    }
    if head.value("Sec-WebSocket-Version") != Some(b"13") {
        return Err(Refusal::UpgradeRequired);
    }
    let key = head.value("Sec-WebSocket-Key").ok_or(Refusal::BadRequest)?;
    match BASE64.decode(key) {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(Accepted::new(key)),
        _ => Err(Refusal::BadRequest),
    }
}

/// Whether a field called `name` lists the token. Upper and lower case are the same.
fn has_token(head: &Head<'_>, name: &str, token: &[u8]) -> bool {
    let mut members = head.values(name).flat_map(|value| value.split(|&byte| byte == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(token))
}

/// An accepted handshake, which makes the server's answer.
///
/// ```
/// use services::codec::request::Head;
/// use services::codec::websocket::handshake::{Accepted, accept};
///
/// let request = b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
///     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// let (head, _) = Head::parse(request).unwrap().unwrap();
/// let accepted: Accepted = accept(&head).unwrap();
/// assert!(accepted.answer().starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The SHA-1 of the key and the [`GUID`].
    digest: [u8; 20],
}

impl Accepted {
    fn new(key: &[u8]) -> Self {
        let mut sha1 = Sha1::new();
        sha1.update(key);
        sha1.update(GUID);
        Accepted { digest: sha1.digest().bytes() }
    }

    /// The whole answer, `101 Switching Protocols`. After it, both sides send frames.
    pub fn answer(&self) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            BASE64.encode(&self.digest)
        )
    }
}

/// Why a request does not become a WebSocket connection.
///
/// ```
/// use services::codec::websocket::handshake::Refusal;
/// assert!(Refusal::Forbidden.answer().starts_with("HTTP/1.1 403 Forbidden\r\n"));
/// assert!(Refusal::UpgradeRequired.answer().contains("\r\nSec-WebSocket-Version: 13\r\n"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: the head, or its key, is malformed.
    BadRequest,
    /// 403: a page of this origin may not connect, or the request names a host that is not this server's.
    Forbidden,
    /// 405: the method is not `GET`.
    MethodNotAllowed,
    /// 408: the head has not arrived in time.
    RequestTimeout,
    /// 426: the request asks for no upgrade, or for another version of WebSocket.
    UpgradeRequired,
    /// 431: the head has more than [`HEAD_MAX`] bytes.
    HeadTooLong,
    /// 503: the server has no room for a further connection.
    ServiceUnavailable,
}

/// A whole answer: the status, further fields, the length of the body, which repeats the status, and the options of the
/// connection before `close`.
macro_rules! answer {
    ($status:literal, $fields:literal, $length:literal) => {
        answer!($status, $fields, $length, "")
    };
    ($status:literal, $fields:literal, $length:literal, $options:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nServer: glowplug\r\n",
            $fields,
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: ",
            $length,
            "\r\nConnection: ",
            $options,
            "close\r\n\r\n",
            $status,
            "\n"
        )
    };
}

impl Refusal {
    /// The whole answer. The connection is closed after it.
    pub const fn answer(self) -> &'static str {
        match self {
            Refusal::BadRequest => answer!("400 Bad Request", "", "16"),
            Refusal::Forbidden => answer!("403 Forbidden", "", "14"),
            Refusal::MethodNotAllowed => answer!("405 Method Not Allowed", "Allow: GET\r\n", "23"),
            Refusal::RequestTimeout => answer!("408 Request Timeout", "", "20"),
            Refusal::UpgradeRequired => answer!(
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                "21",
                "upgrade, "
            ),
            Refusal::HeadTooLong => answer!("431 Request Header Fields Too Large", "", "36"),
            Refusal::ServiceUnavailable => answer!("503 Service Unavailable", "Retry-After: 1\r\n", "24"),
        }
    }

    /// The whole answer to a request with this method: an answer to `HEAD` has no body (RFC 9110 section 9.3.2).
    ///
    /// ```
    /// use services::codec::request::Method;
    /// use services::codec::websocket::handshake::Refusal;
    /// assert!(Refusal::MethodNotAllowed.answer_to(Method::Head).ends_with("\r\n\r\n"));
    /// assert_eq!(Refusal::Forbidden.answer_to(Method::Get), Refusal::Forbidden.answer());
    /// ```
    pub fn answer_to(self, method: Method) -> &'static str {
        let answer = self.answer();
        match answer.find("\r\n\r\n") {
            Some(end) if method == Method::Head => &answer[..end + 4],
            _ => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with these fields in place of the usual ones of the same name, and without those that are empty.
    fn request(line: &str, fields: &[(&str, &str)]) -> String {
        let usual = [
            ("Host", "here"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let kept = usual.iter().filter(|(name, _)| fields.iter().all(|(other, _)| !other.eq_ignore_ascii_case(name)));
        let given = fields.iter().filter(|(_, value)| !value.is_empty());
        let fields: String = kept.chain(given).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{line}\r\n{fields}\r\n")
    }

    fn outcome(request: &str) -> Result<Accepted, Refusal> {
        let mut input = Input::of(request.as_bytes());
        accept(&next(&mut input)?.expect("the head is whole"))
    }

    const GET: &str = "GET / HTTP/1.1";

    #[test]
    fn a_handshake_is_answered_as_rfc_6455_shows() {
        let answer = outcome(&request(GET, &[])).unwrap().answer();
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn fields_may_be_written_in_several_ways() {
        for fields in [
            &[("connection", "keep-alive, UPGRADE"), ("UPGRADE", "WebSocket")][..],
            &[("Connection", "keep-alive"), ("Connection", "upgrade")],
            &[("Upgrade", "h2c, websocket")],
            &[("Sec-WebSocket-Extensions", "permessage-deflate"), ("Sec-WebSocket-Protocol", "chat")],
        ] {
            assert!(outcome(&request(GET, fields)).is_ok(), "{fields:?}");
        }
    }

    #[test]
    fn a_request_that_is_no_handshake_is_refused_for_its_reason() {
        use Refusal::*;
        for (line, name, value, refusal) in [
            (GET, "Upgrade", "", UpgradeRequired),
            (GET, "Upgrade", "websocketx", UpgradeRequired),
            (GET, "Connection", "", UpgradeRequired),
            (GET, "Connection", "close", UpgradeRequired),
            (GET, "Sec-WebSocket-Version", "", UpgradeRequired),
            (GET, "Sec-WebSocket-Version", "8", UpgradeRequired),
            (GET, "Sec-WebSocket-Version", "13, 8", UpgradeRequired),
            ("GET / HTTP/1.0", "A", "1", UpgradeRequired),
            (GET, "Sec-WebSocket-Key", "", BadRequest),
            (GET, "Sec-WebSocket-Key", "x", BadRequest),
            (GET, "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ", BadRequest),
            (GET, "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE=", BadRequest),
            (GET, "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR==", BadRequest),
            (GET, "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j", BadRequest),
            (GET, "Host", "", BadRequest),
            (GET, "Content-Length", "3", BadRequest),
            (GET, "Transfer-Encoding", "chunked", BadRequest),
            (GET, "Expect", "200-ok", BadRequest),
            (GET, " folded", "x", BadRequest),
            ("GET / HTTP/2.0", "A", "1", BadRequest),
            ("GET nowhere HTTP/1.1", "A", "1", BadRequest),
            ("GET /", "A", "1", BadRequest),
            ("POST / HTTP/1.1", "A", "1", MethodNotAllowed),
            ("HEAD / HTTP/1.1", "A", "1", MethodNotAllowed),
        ] {
            assert_eq!(outcome(&request(line, &[(name, value)])), Err(refusal), "{line} {name}: {value}");
        }
        let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(outcome(&request(GET, &[key, key])), Err(BadRequest), "two keys");
        let version = ("Sec-WebSocket-Version", "13");
        assert_eq!(outcome(&request(GET, &[version, version])), Err(UpgradeRequired), "two versions");
    }

    #[test]
    fn a_head_byte_by_byte_is_taken_at_its_end_and_what_follows_stays() {
        let whole = request(GET, &[]);
        let stream = format!("{whole}\u{1}");
        for end in 0..whole.len() {
            let mut input = Input::of(&stream.as_bytes()[..end]);
            assert_eq!((next(&mut input).map(|head| head.is_some()), input.len()), (Ok(false), end));
        }
        let mut input = Input::of(stream.as_bytes());
        assert!(next(&mut input).unwrap().is_some());
        assert_eq!(input.as_slice(), b"\x01");
    }

    #[test]
    fn a_head_has_8_kib_at_most_whether_it_ends_or_not() {
        let padded = |length: usize| {
            let padding = length - request(GET, &[("A", "x")]).len() + 1;
            request(GET, &[("A", &"x".repeat(padding))])
        };
        assert_eq!(padded(HEAD_MAX).len(), HEAD_MAX);
        assert!(outcome(&padded(HEAD_MAX)).is_ok());
        assert_eq!(outcome(&padded(HEAD_MAX + 1)), Err(Refusal::HeadTooLong));
        let endless = format!("{GET}\r\nHost: {}", "x".repeat(HEAD_MAX));
        assert_eq!(next(&mut Input::of(endless.as_bytes())).unwrap_err(), Refusal::HeadTooLong);
        let target = format!("GET /{}", "x".repeat(HEAD_MAX));
        assert_eq!(next(&mut Input::of(target.as_bytes())).unwrap_err(), Refusal::HeadTooLong);
        let fields = (0..101).map(|at| format!("A{at}: 1\r\n")).collect::<String>();
        let many = format!("{GET}\r\n{fields}\r\n");
        assert_eq!(next(&mut Input::of(many.as_bytes())).unwrap_err(), Refusal::HeadTooLong);
    }

    #[test]
    fn a_peer_that_does_not_speak_http_is_refused_before_its_head_could_end() {
        for bytes in [&b"\x16\x03\x01\x02"[..], b"NAME: me\n", b"\n\n", b"GET / HTTP/1.1\r\nno field\r\n"] {
            assert_eq!(next(&mut Input::of(bytes)).unwrap_err(), Refusal::BadRequest, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn refusals_have_the_length_that_they_say_and_426_names_the_version() {
        use Refusal::*;
        for refusal in
            [BadRequest, Forbidden, MethodNotAllowed, RequestTimeout, UpgradeRequired, HeadTooLong, ServiceUnavailable]
        {
            let (head, body) = refusal.answer().split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert_eq!(head.lines().next().unwrap(), format!("HTTP/1.1 {}", body.trim_end()));
            assert!(head.ends_with("close"), "{head}");
        }
        let upgrade = UpgradeRequired.answer();
        let fields = ["Upgrade: websocket", "Connection: upgrade, close", "Sec-WebSocket-Version: 13"];
        assert!(fields.iter().all(|field| upgrade.contains(&format!("\r\n{field}\r\n"))), "{upgrade}");
    }
}
