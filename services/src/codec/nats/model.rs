//! A server's operations in any pieces, beside a reading of the whole stream from its beginning. For property tests and for the
//! fuzz target `nats`.

use reactor::Input;

use super::{CONTROL_LINE_MAX, Decoder, Headers, INFO_MAX, Info, Message, Op, ProtocolError};
use crate::pieces::Stream;

/// Limits within the reach of short inputs.
pub(super) const DECODER: Decoder = Decoder { payload_max: 5000, headers_max: 60 };

/// Panics where the pieces in which operations arrive matter, and where decoder and model differ.
pub fn check(text: &[u8]) {
    let stream = Stream::of(text);
    let whole = hear([&stream.bytes[..]]);
    assert_eq!(whole, read(&stream.bytes));
    stream.in_pieces(|pieces| assert!(hear(pieces.iter().copied()) == whole, "in pieces"));
}

/// The header block as status, description and fields; none if it cannot be read.
type Block = Option<Box<(Option<u16>, String, Vec<(String, String)>)>>;

/// An operation that is kept, or the error at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Info(Box<Info>),
    Message { subject: Vec<u8>, sid: u64, reply: Option<Vec<u8>>, headers: Block, payload: Vec<u8> },
    Ping,
    Pong,
    Ok,
    Error(Vec<u8>),
    Malformed,
    TooLong(&'static str),
}

/// Decodes a stream that arrives in pieces. Unread bytes are kept for the next piece, as the loop does, and the decoder is called
/// only where `need` allows the call.
pub(super) fn hear<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Said> {
    let (mut said, mut kept) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let unread = std::mem::take(&mut kept);
        let mut input = Input::of(&unread);
        loop {
            let left = input.len();
            match DECODER.next(&mut input) {
                Ok(Some(op)) => said.push(keep(op)),
                Ok(None) => {
                    assert_eq!(input.len(), left, "an incomplete operation is consumed");
                    break;
                }
                Err(error) => {
                    assert_eq!(input.len(), left, "a faulty operation is consumed");
                    said.push(match error {
                        ProtocolError::Malformed(_) => Said::Malformed,
                        ProtocolError::TooLong { what, .. } => Said::TooLong(what),
                    });
                    return said;
                }
            }
        }
        kept = input.as_slice().to_vec();
    }
    said
}

fn keep(op: Op<'_>) -> Said {
    match op {
        Op::Info(info) => Said::Info(info),
        Op::Message(Message { subject, sid, reply, headers, payload }) => Said::Message {
            subject: subject.to_vec(),
            sid,
            reply: reply.map(<[u8]>::to_vec),
            headers: headers.ok().map(|headers: Headers<'_>| {
                let fields = headers.fields().map(|(name, value)| (name.to_owned(), value.to_owned()));
                Box::new((headers.status(), headers.description().to_owned(), fields.collect()))
            }),
            payload: payload.to_vec(),
        },
        Op::Ping => Said::Ping,
        Op::Pong => Said::Pong,
        Op::Ok => Said::Ok,
        Op::Error(text) => Said::Error(text.to_vec()),
    }
}

/// Operations, read from the beginning.
pub(super) fn read(stream: &[u8]) -> Vec<Said> {
    let (mut said, mut rest) = (Vec::new(), stream);
    loop {
        match one(rest) {
            Ok(Some((op, length))) => {
                said.push(op);
                rest = &rest[length..];
            }
            Ok(None) => return said,
            Err(end) => {
                said.push(end);
                return said;
            }
        }
    }
}

/// The first operation and its length.
fn one(stream: &[u8]) -> Result<Option<(Said, usize)>, Said> {
    let limit = if stream.to_ascii_uppercase().starts_with(b"INFO ") { INFO_MAX } else { CONTROL_LINE_MAX };
    let end = stream.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
    if end.unwrap_or(stream.len()) > limit {
        return Err(Said::TooLong("control line"));
    }
    let Some(end) = end else { return Ok(None) };
    let line = stream[..end].strip_suffix(b"\r\n").ok_or(Said::Malformed)?;
    // The bytes as characters, so that words are found by the standard library.
    let text: String = line.iter().map(|&byte| char::from(byte)).collect();
    let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let bytes = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    if text.starts_with([' ', '\t']) || words.is_empty() {
        return Err(Said::Malformed);
    }
    let after = bytes(&text[words[0].len()..]);
    let op = match (words[0].to_ascii_uppercase().as_str(), words.len()) {
        ("PING", 1) if after.trim_ascii().is_empty() => Said::Ping,
        ("PONG", 1) if after.trim_ascii().is_empty() => Said::Pong,
        ("+OK", 1) if after.trim_ascii().is_empty() => Said::Ok,
        ("-ERR", _) => {
            let text = after.trim_ascii();
            let is_quoted = text.len() >= 2 && text[0] == b'\'' && text[text.len() - 1] == b'\'';
            Said::Error(if is_quoted { text[1..text.len() - 1].to_vec() } else { text.to_vec() })
        }
        ("INFO", _) => Said::Info(Box::new(Info::parse(&after).map_err(|_| Said::Malformed)?)),
        ("MSG", 4 | 5) | ("HMSG", 5 | 6) => return message(&words, &stream[end..], end),
        _ => return Err(Said::Malformed),
    };
    Ok(Some((op, end)))
}

fn message(words: &[&str], body: &[u8], end: usize) -> Result<Option<(Said, usize)>, Said> {
    let bytes = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    let number = |text: &str| {
        let is_number = text.len() <= 19 && text.chars().all(|c| c.is_ascii_digit());
        if is_number { text.parse::<u64>().map_err(|_| Said::Malformed) } else { Err(Said::Malformed) }
    };
    let has_headers = words[0].len() == 4;
    let lengths = if has_headers { 2 } else { 1 };
    let at = words.len() - lengths;
    let sid = number(words[2])?;
    let block = if has_headers { number(words[at])? } else { 0 };
    if block > DECODER.headers_max as u64 {
        return Err(Said::TooLong("header block"));
    }
    let length = number(words[words.len() - 1])?;
    if length > DECODER.payload_max as u64 {
        return Err(Said::TooLong("message"));
    }
    if has_headers && (block == 0 || block > length) {
        return Err(Said::Malformed);
    }
    let (block, length) = (block as usize, length as usize);
    let Some(body) = body.get(..length + 2) else { return Ok(None) };
    if &body[length..] != b"\r\n" {
        return Err(Said::Malformed);
    }
    let said = Said::Message {
        subject: bytes(words[1]),
        sid,
        reply: (at == 4).then(|| bytes(words[3])),
        headers: if has_headers { fields(&body[..block]) } else { Some(Box::default()) },
        payload: body[block..length].to_vec(),
    };
    Ok(Some((said, end + length + 2)))
}

fn fields(block: &[u8]) -> Block {
    let text = String::from_utf8(block.to_vec()).ok()?;
    let lines: Vec<&str> = text.split("\r\n").collect();
    // Behind the empty line nothing stands, which `split` finds, too.
    let [first, fields @ .., "", ""] = &lines[..] else { return None };
    if lines.iter().any(|line| line.contains(['\r', '\n'])) || fields.contains(&"") {
        return None;
    }
    let status = first.strip_prefix("NATS/1.0")?;
    let words: Vec<&str> = status.split_ascii_whitespace().collect();
    let (status, description) = match words.first() {
        None => (None, String::new()),
        Some(_) if !status.starts_with(' ') => return None,
        Some(number) => {
            if number.len() != 3 || !number.chars().all(|c| c.is_ascii_digit()) {
                return None;
            }
            let rest = &status.trim_ascii()[3..];
            if !(rest.is_empty() || rest.starts_with(' ')) {
                return None;
            }
            (number.parse().ok(), rest.trim_ascii().to_owned())
        }
    };
    let mut found = Vec::new();
    for field in fields {
        let (name, value) = field.split_at(field.find(':')?);
        if name.is_empty() || !name.chars().all(|c| ('!'..='~').contains(&c)) {
            return None;
        }
        found.push((name.to_owned(), value[1..].trim_ascii().to_owned()));
    }
    Some(Box::new((status, description, found)))
}
