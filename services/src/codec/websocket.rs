//! WebSocket (RFC 6455), version 13, on the server's side: the opening [`handshake`], the [`Decoder`] of a client's
//! frames, and the encoders of a server's frames.
//!
//! ```text
//!  head ─▶ handshake::accept ─▶ 101 ─▶ Decoder::next ─▶ Event::Text, Binary, Ping, Pong, Close
//!              └─▶ Refusal ─▶ close           └─▶ ProtocolError ─▶ close frame with its code ─▶ close
//! ```
//!
//! Extensions are declined, compression (RFC 7692) among them: the handshake names none, so reserved bits are an error.
//!
//! ```
//! use reactor::Input;
//! use services::codec::websocket::{self, Buffers, Decoder, Event, Kind};
//!
//! // A client's text frame: `hi`, masked with the key 1, 2, 3, 4.
//! let frame = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
//! let (mut decoder, mut buffers) = (Decoder::new(65_536), Buffers::default());
//! let mut input = Input::of(&frame);
//! let event = decoder.next(&mut input, &mut buffers).unwrap();
//! assert_eq!(event, Some(Event::Text("hi")));
//! // The answer is one frame, which may be sent to any number of clients.
//! assert_eq!(websocket::shared(Kind::Text, b"hi"), &[0x81, 2, b'h', b'i'][..]);
//! ```

mod decoder;
mod encoder;
pub mod handshake;
pub mod origin;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use std::fmt;

pub use decoder::{Buffers, Decoder, Event};
pub use encoder::{ControlPayload, FrameHead, Pongs, append, put, put_close, shared};

/// Bytes of payload that a control frame (close, ping, pong) may have.
pub const CONTROL_MAX: usize = 125;

/// The kind of a frame: the opcode. Continuation frames are missing, because servers of this module do not send them.
///
/// ```
/// use services::codec::websocket::{FrameHead, Kind};
/// assert_eq!(FrameHead::new(Kind::Binary, 300).as_ref(), [0x82, 126, 1, 44]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text message, in UTF-8.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// The beginning or the answer of the closing handshake: see [`ControlPayload::close`].
    Close = 8,
    /// A question whether the peer is alive.
    Ping = 9,
    /// The answer to a ping, with the ping's payload.
    Pong = 10,
}

/// Why a WebSocket connection closes (RFC 6455 section 7.4), as a number that a close frame may carry. The reserved
/// numbers 1005, 1006 and 1015, which are never sent, are no values of this type, except [`CloseCode::NONE`].
///
/// ```
/// use services::codec::websocket::CloseCode;
/// assert_eq!(CloseCode::new(1000), Some(CloseCode::NORMAL));
/// assert_eq!(CloseCode::new(4321).map(|code| code.number()), Some(4321));
/// assert_eq!(CloseCode::new(1006), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the conversation is complete.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// 1001: the server stops, or the browser leaves the page.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// 1002: the peer has broken the protocol.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// 1003: the kind of message is not accepted, such as a binary message where texts are expected.
    pub const UNSUPPORTED_DATA: CloseCode = CloseCode(1003);
    /// A close frame without a code, which APIs show as 1005. Encoded as an empty payload.
    pub const NONE: CloseCode = CloseCode(1005);
    /// 1007: the payload does not fit its kind, such as a text that is not UTF-8.
    pub const INVALID_DATA: CloseCode = CloseCode(1007);
    /// 1008: the client has broken a rule of the service, not of the protocol.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// 1009: the message is longer than the decoder accepts.
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    /// 1011: the server has failed, through no fault of the client.
    pub const INTERNAL_ERROR: CloseCode = CloseCode(1011);
    /// 1012: the server restarts; clients may connect again.
    pub const RESTART: CloseCode = CloseCode(1012);
    /// 1013: the server is overloaded; clients may connect again later.
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);

    /// The code of this number, if a close frame may carry it: 1000 to 1003 and 1007 to 1014 by RFC 6455 and IANA's
    /// registry, 3000 to 4999 by libraries and applications.
    pub fn new(number: u16) -> Option<Self> {
        matches!(number, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(CloseCode(number))
    }

    /// The number that a close frame carries; 1005 for [`CloseCode::NONE`], which carries none.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client's bytes break the protocol, or pass a limit. The server sends a close frame with this code and closes; bytes
/// that follow have no meaning.
///
/// ```
/// use reactor::Input;
/// use services::codec::websocket::{Buffers, CloseCode, Decoder};
/// // A frame that is not masked.
/// let error = Decoder::new(10).next(&mut Input::of(&[0x81, 2]), &mut Buffers::default()).unwrap_err();
/// assert_eq!(error.code, CloseCode::PROTOCOL_ERROR);
/// assert_eq!(error.to_string(), "1002: the frame is not masked");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The code for the close frame: 1002, 1007 or 1009.
    pub code: CloseCode,
    /// The rule that was broken, short enough for a close frame.
    pub reason: &'static str,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl std::error::Error for ProtocolError {}
