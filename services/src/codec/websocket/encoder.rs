//! A server's frames: unmasked, each message in one frame.

use bytes::Bytes;
use reactor::Writer;

use super::{CONTROL_MAX, CloseCode, Kind};

/// The head of a server's frame: 2, 4 or 10 bytes, by the length of the payload.
///
/// ```
/// use services::codec::websocket::{FrameHead, Kind};
/// assert_eq!(FrameHead::new(Kind::Text, 5).as_ref(), [0x81, 5]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FrameHead {
    bytes: [u8; 10],
    length: u8,
}

impl FrameHead {
    /// The head of a frame with `payload` bytes of payload, in the shortest of the three encodings.
    #[inline]
    pub fn new(kind: Kind, payload: usize) -> Self {
        let mut bytes = [0x80 | kind as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let length = match payload {
            0..126 => {
                bytes[1] = payload as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(payload as u64).to_be_bytes());
                10
            }
        };
        FrameHead { bytes, length }
    }
}

impl AsRef<[u8]> for FrameHead {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Puts one frame into a connection's output. The payload is copied.
///
/// A control frame (close, ping, pong) must not have more than [`CONTROL_MAX`] bytes: see [`ControlPayload`].
///
/// ```
/// use reactor::Output;
/// use services::codec::websocket::{self, Kind};
/// let mut output = Output::default();
/// websocket::put(Kind::Text, b"hello", &mut output.writer());
/// assert_eq!(output.queued(), 7);
/// ```
#[inline]
pub fn put(kind: Kind, payload: &[u8], output: &mut Writer<'_>) {
    output.put(FrameHead::new(kind, payload.len()).as_ref());
    output.put(payload);
}

/// Appends one frame to `bytes`: see [`put`].
///
/// ```
/// use services::codec::websocket::{self, Kind};
/// let mut bytes = Vec::new();
/// websocket::append(Kind::Ping, b"", &mut bytes);
/// assert_eq!(bytes, [0x89, 0]);
/// ```
#[inline]
pub fn append(kind: Kind, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(FrameHead::new(kind, payload.len()).as_ref());
    bytes.extend_from_slice(payload);
}

/// Puts a close frame into a connection's output: see [`ControlPayload::close`]. No frame may follow.
///
/// ```
/// use reactor::Output;
/// use services::codec::websocket::{self, CloseCode};
/// let mut output = Output::default();
/// websocket::put_close(CloseCode::GOING_AWAY, "the server stops", &mut output.writer());
/// assert_eq!(output.queued(), 2 + 2 + 16);
/// ```
pub fn put_close(code: CloseCode, reason: &str, output: &mut Writer<'_>) {
    put(Kind::Close, ControlPayload::close(code, reason).as_ref(), output);
}

/// A frame, built once, for any number of connections: the frames of a server are equal for all clients. See [`put`].
///
/// ```
/// use services::codec::websocket::{self, Kind};
/// assert_eq!(websocket::shared(Kind::Text, "é".as_bytes()), &[0x81, 2, 0xc3, 0xa9][..]);
/// ```
pub fn shared(kind: Kind, payload: &[u8]) -> Bytes {
    let head = FrameHead::new(kind, payload.len());
    let mut bytes = Vec::with_capacity(head.as_ref().len() + payload.len());
    bytes.extend_from_slice(head.as_ref());
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// The payload of a control frame, at most [`CONTROL_MAX`] bytes.
///
/// ```
/// use services::codec::websocket::{CloseCode, ControlPayload};
/// assert_eq!(ControlPayload::close(CloseCode::NORMAL, "bye").as_ref(), b"\x03\xe8bye");
/// assert_eq!(ControlPayload::close(CloseCode::NONE, "bye").as_ref(), b"");
/// ```
#[derive(Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_MAX],
    length: u8,
}

impl ControlPayload {
    /// The payload of a close frame. A reason that does not fit is cut at the end of a character. Without a code there is
    /// no room for a reason either, so [`CloseCode::NONE`] gives an empty payload.
    pub fn close(code: CloseCode, reason: &str) -> Self {
        let mut payload = ControlPayload { bytes: [0; CONTROL_MAX], length: 0 };
        if code != CloseCode::NONE {
            payload.push(&code.number().to_be_bytes());
            let fits = |end: &usize| reason.is_char_boundary(*end);
            let end = (0..=reason.len().min(CONTROL_MAX - 2)).rev().find(fits).unwrap_or(0);
            payload.push(&reason.as_bytes()[..end]);
        }
        payload
    }

    /// Makes a payload of the first [`CONTROL_MAX`] of `bytes`. Further bytes are left out.
    pub fn of(bytes: &[u8]) -> Self {
        let mut payload = ControlPayload { bytes: [0; CONTROL_MAX], length: 0 };
        payload.push(&bytes[..bytes.len().min(CONTROL_MAX)]);
        payload
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[usize::from(self.length)..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len() as u8;
    }
}

impl AsRef<[u8]> for ControlPayload {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlPayload({})", self.as_ref().escape_ascii())
    }
}

/// The answers to the pings of a callback: a pong for each of the first [`Pongs::EACH`] pings, and a pong for the newest of
/// the rest, as RFC 6455 section 5.5.3 allows. A flood of pings is therefore answered by few pongs, and at most a single
/// ping waits.
///
/// ```
/// use reactor::Output;
/// use services::codec::websocket::Pongs;
/// let (mut pongs, mut output) = (Pongs::default(), Output::default());
/// for _ in 0..20_000 {
///     pongs.answer(b"", &mut output.writer());
/// }
/// pongs.finish(&mut output.writer());
/// assert_eq!(output.queued(), (Pongs::EACH as usize + 1) * 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pongs {
    answered: u32,
    /// The newest ping that has no pong yet.
    newest: Option<ControlPayload>,
}

impl Pongs {
    /// Number of pings in a callback that get a pong each.
    pub const EACH: u32 = 32;

    /// Puts the pong for a ping with this payload, or keeps the payload for [`Pongs::finish`].
    #[inline]
    pub fn answer(&mut self, ping: &[u8], output: &mut Writer<'_>) {
        if self.answered < Pongs::EACH {
            self.answered += 1;
            put(Kind::Pong, ping, output);
        } else {
            self.newest = Some(ControlPayload::of(ping));
        }
    }

    /// At the end of the callback: puts the pong for the newest ping, unless [`Pongs::answer`] has put the pong already.
    #[inline]
    pub fn finish(&mut self, output: &mut Writer<'_>) {
        if let Some(payload) = self.newest.take() {
            put(Kind::Pong, payload.as_ref(), output);
        }
    }

    /// Whether the answer to the newest ping is not put yet: [`Pongs::finish`] puts it.
    #[inline]
    pub fn is_unfinished(&self) -> bool {
        self.newest.is_some()
    }
}
