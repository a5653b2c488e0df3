//! A server's operations, from lent input to items that borrow from the input.

use reactor::{Framed, Input};

use super::{
    BadHeaders, CONTROL_LINE_MAX, HEADERS_MAX, Headers, INFO_MAX, Info, PAYLOAD_MAX, ProtocolError, decimal, first_word,
};

const ENDING: usize = 2;

/// One operation of a server.
///
/// ```
/// use reactor::Input;
/// use services::codec::nats::{Decoder, Op};
/// let mut input = Input::of(b"-ERR 'Authorization Violation'\r\n");
/// assert!(matches!(Decoder::default().next(&mut input), Ok(Some(Op::Error(b"Authorization Violation")))));
/// ```
#[derive(Debug)]
pub enum Op<'i> {
    /// `INFO`: the first operation of a connection, and later news about the cluster.
    Info(Box<Info>),
    /// `MSG` or `HMSG`: a message for a subscription.
    Message(Message<'i>),
    /// `PING`, to be answered by [`PONG`](super::PONG).
    Ping,
    /// `PONG`, the answer to [`PING`](super::PING).
    Pong,
    /// `+OK`, sent to verbose clients.
    Ok,
    /// `-ERR`: an error's text without its quotes, in any bytes.
    Error(&'i [u8]),
}

/// A message for a subscription. Subjects, headers and payload are bytes of another client: servers check little of them.
///
/// ```
/// use reactor::Input;
/// use services::codec::nats::{Decoder, Op};
/// let mut input = Input::of(b"HMSG a 1 _INBOX.1 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n");
/// let Ok(Some(Op::Message(message))) = Decoder::default().next(&mut input) else { panic!() };
/// assert_eq!((message.reply, message.payload), (Some(&b"_INBOX.1"[..]), &b"hi"[..]));
/// assert_eq!(message.headers.unwrap().get("k"), Some("v"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'i> {
    /// The subject that the message was published to, in any bytes without spaces.
    pub subject: &'i [u8],
    /// The subscription's number, from [`Subscribe`](super::Subscribe).
    pub sid: u64,
    /// The subject to which the publisher expects an answer; `None` if it expects none.
    pub reply: Option<&'i [u8]>,
    /// The header fields; none in a message without headers. An unreadable header block is the publisher's fault, and does not
    /// end the connection to the server.
    pub headers: Result<Headers<'i>, BadHeaders>,
    /// The content of the message, in any bytes, behind the headers.
    pub payload: &'i [u8],
}

/// The decoder of a server's operations: two limits, and no state.
///
/// ```
/// use reactor::Input;
/// use services::codec::nats::{Decoder, ProtocolError};
/// let decoder = Decoder { payload_max: 4, ..Decoder::default() };
/// let error = decoder.next(&mut Input::of(b"MSG a 1 5\r\n")).unwrap_err();
/// assert_eq!(error, ProtocolError::TooLong { what: "message", limit: 4 });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Most bytes of a message's headers and payload together; [`PAYLOAD_MAX`] by default. The connection's
    /// [`Limits::input`](reactor::Limits::input) must have room for the message and [`CONTROL_LINE_MAX`] bytes besides.
    pub payload_max: usize,
    /// Most bytes of a message's header block; [`HEADERS_MAX`] by default.
    pub headers_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { payload_max: PAYLOAD_MAX, headers_max: HEADERS_MAX }
    }
}

impl Decoder {
    /// Takes the next operation. Returns `None`, and consumes nothing, while the operation is incomplete; then the bytes of an
    /// announced payload are requested by [`Input::need`], so the decoder sees a message in pieces once more, as a whole.
    ///
    /// # Errors
    /// [`ProtocolError`] at the end of a malformed line, and as soon as a length is known to be over its limit.
    pub fn next<'i>(&self, input: &mut Input<'i>) -> Result<Option<Op<'i>>, ProtocolError> {
        input.whole(|input| {
            let is_info = input.as_slice().get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"INFO "));
            let limit = if is_info { INFO_MAX } else { CONTROL_LINE_MAX };
            let line = match input.until(b'\n', limit) {
                Framed::Item(line) => line,
                Framed::Incomplete => return Ok(None),
                Framed::TooLong => return Err(ProtocolError::TooLong { what: "control line", limit }),
            };
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Err(ProtocolError::Malformed("a line does not end with CR LF"));
            };
            self.operation(line, input)
        })
    }

    fn operation<'i>(&self, line: &'i [u8], input: &mut Input<'i>) -> Result<Option<Op<'i>>, ProtocolError> {
        let (name, rest) = first_word(line);
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        let alone = |op| match rest {
            [] => Ok(Some(op)),
            _ => Err(ProtocolError::Malformed("PING, PONG and +OK stand alone in a line")),
        };
        if is(b"MSG") {
            self.message(rest, false, input)
        } else if is(b"HMSG") {
            self.message(rest, true, input)
        } else if is(b"PING") {
            alone(Op::Ping)
        } else if is(b"PONG") {
            alone(Op::Pong)
        } else if is(b"+OK") {
            alone(Op::Ok)
        } else if is(b"-ERR") {
            let text = rest.trim_ascii();
            let unquoted = text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'"));
            Ok(Some(Op::Error(unquoted.unwrap_or(text))))
        } else if is(b"INFO") {
            Ok(Some(Op::Info(Box::new(Info::parse(rest)?))))
        } else {
            Err(ProtocolError::Malformed("the operation is unknown"))
        }
    }

    /// `subject sid [reply] [header length] length`, and the bytes that the lengths announce.
    fn message<'i>(
        &self,
        line: &'i [u8],
        has_headers: bool,
        input: &mut Input<'i>,
    ) -> Result<Option<Op<'i>>, ProtocolError> {
        let mut words = line.split(|&byte| super::is_blank(byte)).filter(|word| !word.is_empty());
        let (subject, sid) = (words.next(), words.next());
        // The last words are lengths; the word before them, if any, is the subject of the answer.
        let length = words.next_back();
        let before = if has_headers { words.next_back() } else { Some(&b"0"[..]) };
        let (Some(subject), Some(sid), Some(before), Some(length)) = (subject, sid, before, length) else {
            return Err(ProtocolError::Malformed("a message's line has too few words"));
        };
        let (reply, None) = (words.next(), words.next()) else {
            return Err(ProtocolError::Malformed("a message's line has too many words"));
        };
        let sid = decimal(sid).ok_or(ProtocolError::Malformed("a subscription's number is no number"))?;
        let before = within(before, self.headers_max, "header block")?;
        let length = within(length, self.payload_max, "message")?;
        if has_headers && !(1..=length).contains(&before) {
            return Err(ProtocolError::Malformed("a header block is empty, or longer than its message"));
        }
        if !input.need(length + ENDING) {
            return Ok(None);
        }
        let Some(body) = input.take(length + ENDING).and_then(|body| body.strip_suffix(b"\r\n")) else {
            return Err(ProtocolError::Malformed("a payload does not end with CR LF"));
        };
        let (block, payload) = body.split_at(before);
        let headers = if has_headers { Headers::parse(block) } else { Ok(Headers::default()) };
        Ok(Some(Op::Message(Message { subject, sid, reply, headers, payload })))
    }
}

/// A length that is a number, and within its limit.
fn within(digits: &[u8], limit: usize, what: &'static str) -> Result<usize, ProtocolError> {
    let length = decimal(digits).ok_or(ProtocolError::Malformed("a message's length is no number"))?;
    usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(ProtocolError::TooLong { what, limit })
}
