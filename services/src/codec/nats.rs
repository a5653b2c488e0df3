//! The client protocol of [NATS](https://docs.nats.io/reference/reference-protocols/nats-protocol), on the client's side: the
//! [`Decoder`] of a server's operations, and encoders of a client's operations.
//!
//! ```text
//!  server ─▶ Decoder::next ─▶ Op::Info, Message, Ping, Pong, Ok, Error
//!                └─▶ ProtocolError ─▶ the connection has no further meaning
//!  Connect, Publish, Subscribe, Unsubscribe ─▶ put ─▶ server
//! ```
//!
//! Every length has a limit: [`CONTROL_LINE_MAX`], [`INFO_MAX`], and the payload and header limits of the decoder. Items borrow
//! from the input, so a message costs no allocation and no copy. Subjects and header fields are checked before a byte is written.
//!
//! ```
//! use reactor::{Input, Output};
//! use services::codec::nats::{Decoder, Op, PUBLISH_SUBJECTS, Publish};
//!
//! let mut input = Input::of(b"MSG room.lobby 7 5\r\nhello\r\nPING\r\n");
//! let decoder = Decoder::default();
//! let Some(Op::Message(message)) = decoder.next(&mut input)? else { panic!() };
//! assert_eq!((message.subject, message.sid, message.payload), (&b"room.lobby"[..], 7, &b"hello"[..]));
//! assert!(matches!(decoder.next(&mut input)?, Some(Op::Ping)));
//!
//! let mut output = Output::default();
//! Publish::new("room.lobby", b"hello")?.put(&mut output.writer());
//! assert_eq!(output.to_vec(), b"PUB room.lobby 5\r\nhello\r\n");
//! assert!(Publish::new("room.*", b"").is_err(), "{PUBLISH_SUBJECTS}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decoder;
mod encoder;
mod headers;
mod info;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use std::fmt;

pub use decoder::{Decoder, Message, Op};
pub use encoder::{
    Connect, EncodeError, Login, PING, PONG, PUBLISH_SUBJECTS, Publish, SUBSCRIBE_SUBJECTS, Subscribe, Unsubscribe,
};
pub use headers::{BadHeaders, Fields, Headers};
pub use info::{Info, URLS_MAX};

/// Longest line of an operation other than INFO, in bytes with its ending. Servers have the same limit for clients
/// (`max_control_line`), so encoders refuse longer lines, too.
pub const CONTROL_LINE_MAX: usize = 4096;
/// Longest line of INFO, in bytes with its ending: room for the addresses of a large cluster.
pub const INFO_MAX: usize = 64 * 1024;
/// Default limit of a message's headers and payload together, in bytes. Equals the servers' default `max_payload`.
pub const PAYLOAD_MAX: usize = 1024 * 1024;
/// Default limit of a message's header block, in bytes.
pub const HEADERS_MAX: usize = 64 * 1024;

/// Bytes that are not the protocol of a NATS server, or an item over its limit. The input after the error has no meaning.
///
/// ```
/// use reactor::Input;
/// use services::codec::nats::{Decoder, ProtocolError};
/// let error = Decoder::default().next(&mut Input::of(b"HTTP/1.1 400 Bad Request\r\n")).unwrap_err();
/// assert_eq!(error, ProtocolError::Malformed("the operation is unknown"));
/// assert_eq!(error.to_string(), "not the protocol of a NATS server: the operation is unknown");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The broken rule.
    Malformed(&'static str),
    /// An item is longer than its limit. Reported when the length is known, before the item has arrived.
    TooLong {
        /// The kind of item.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Malformed(rule) => write!(f, "not the protocol of a NATS server: {rule}"),
            ProtocolError::TooLong { what, limit } => write!(f, "{what} longer than {limit} bytes"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The first word of a line, and the rest without spaces and tabs at its beginning.
fn first_word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
    let rest = &line[end..];
    let start = rest.iter().position(|&byte| !is_blank(byte)).unwrap_or(rest.len());
    (&line[..end], &rest[start..])
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// A number in decimal digits, without a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if !(1..=19).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
