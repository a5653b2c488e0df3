//! A client's frames, from lent input to messages.
//!
//! ```text
//!  Head ─▶ Data ────▶ Head, or a message if the frame is its last
//!    ├───▶ Control ─▶ Head, with a ping or a pong; Ended, with a close
//!    └───▶ Ended (protocol error)
//! ```
//!
//! Payload is unmasked into the message's buffer as it arrives, and a text is checked in the buffer, so a
//! connection ends at the first wrong byte of a text. The payload of a control frame stands behind the unfinished
//! message in the same buffer, so a connection needs a single buffer, and only while a message or a frame is unfinished.

use std::str::from_utf8;

use reactor::Input;

use super::{CONTROL_MAX, CloseCode, ProtocolError};

/// Number of buffers that [`Buffers`] keeps, and the most bytes of a kept buffer: enough for the usual messages of many
/// connections, since few connections have an unfinished message at the end of a callback.
const KEPT: usize = 4;
const KEPT_BYTES: usize = 128 * 1024;

/// Bytes of a new buffer, so that frames of a single byte do not make the buffer grow often.
const FIRST_BYTES: usize = 64;

/// A pool of buffers for all connections of a handler. A decoder takes a buffer when payload arrives and gives the buffer
/// back after the message, so that silent connections hold no buffer and messages are received without allocating.
///
/// At most 4 buffers of at most 128 KiB are kept.
///
/// ```
/// use reactor::Input;
/// use services::codec::websocket::{Buffers, Decoder, Event};
///
/// let mut buffers = Buffers::default(); // a field of the handler
/// let (mut ann, mut bob) = (Decoder::new(1024), Decoder::new(1024)); // states of two connections
/// for decoder in [&mut ann, &mut bob] {
///     let mut input = Input::of(b"\x81\x82\0\0\0\0hi");
///     assert_eq!(decoder.next(&mut input, &mut buffers), Ok(Some(Event::Text("hi"))));
/// }
/// ```
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Vec<u8>>,
}

impl Buffers {
    fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if (1..=KEPT_BYTES).contains(&buffer.capacity()) && self.free.len() < KEPT {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

/// A message or a control frame of a client.
///
/// ```
/// use services::codec::websocket::{CloseCode, Event};
/// let event = Event::Close(CloseCode::NORMAL, "done");
/// assert!(matches!(event, Event::Close(code, _) if code.number() == 1000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping, which is to be answered by a pong with the same payload: see [`Pongs`](super::Pongs).
    Ping(&'a [u8]),
    /// A pong. A pong without a ping before is allowed, and means nothing.
    Pong(&'a [u8]),
    /// The client closes, with a code ([`CloseCode::NONE`] for an empty frame) and a reason. The answer is a close frame
    /// with the same code. Bytes after the close are not decoded.
    Close(CloseCode, &'a str),
}

/// The state of a client's frames, about 80 bytes without a message.
///
/// ```
/// use reactor::Input;
/// use services::codec::websocket::{Buffers, Decoder, Event};
///
/// let mut buffers = Buffers::default();
/// let mut decoder = Decoder::new(1024);
/// // `hello` in two fragments with a ping between them, masked with zeros.
/// let frames = b"\x01\x83\0\0\0\0hel\x89\x80\0\0\0\0\x80\x82\0\0\0\0lo";
/// let mut input = Input::of(frames);
/// assert_eq!(decoder.next(&mut input, &mut buffers), Ok(Some(Event::Ping(b""))));
/// assert_eq!(decoder.next(&mut input, &mut buffers), Ok(Some(Event::Text("hello"))));
/// assert_eq!(decoder.next(&mut input, &mut buffers), Ok(None));
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Bytes of the current frame's payload that have not arrived.
    left: u64,
    /// Bytes that a message may have.
    max: usize,
    /// The unfinished message, unmasked, and behind it the payload of a control frame while one arrives or is lent.
    buffer: Vec<u8>,
    /// Where the payload of the control frame begins in `buffer`.
    control_at: usize,
    /// Bytes of the unfinished text that are known to be UTF-8.
    checked: usize,
    mask: [u8; 4],
    /// The control frame's opcode, set with its head.
    control: u8,
    /// Whether the current data frame is the last of its message.
    is_last: bool,
    state: State,
    /// The unfinished message, set by its first frame.
    message: Message,
    /// The part of `buffer` that the last event lends. The next call gives the part up.
    lent: Lent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Data,
    Control,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    Text,
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lent {
    Nothing,
    Message,
    Control,
}

impl Decoder {
    /// Heap bytes of the buffer for an unfinished message, for [`set_state_bytes`](reactor::Context::set_state_bytes).
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// A decoder for messages of at most `message_max` bytes.
    pub fn new(message_max: usize) -> Self {
        Decoder {
            left: 0,
            max: message_max,
            buffer: Vec::new(),
            control_at: 0,
            checked: 0,
            mask: [0; 4],
            control: 0,
            is_last: false,
            state: State::Head,
            message: Message::None,
            lent: Lent::Nothing,
        }
    }

    /// The next event, or `None` when the input has no further event. At most 13 bytes, a part of a frame's head, are then
    /// left unread. After a close or an error, `None`, and nothing is consumed.
    ///
    /// # Errors
    /// At the first byte that breaks the protocol; at a frame's head if the message would be longer than it may be.
    pub fn next<'s>(
        &'s mut self,
        input: &mut Input<'_>,
        buffers: &mut Buffers,
    ) -> Result<Option<Event<'s>>, ProtocolError> {
        self.release(buffers);
        match self.advance(input, buffers) {
            Ok(Lent::Nothing) => Ok(None),
            Ok(lent) => {
                self.lent = lent;
                self.event(lent).map(Some)
            }
            Err(error) => {
                self.state = State::Ended;
                buffers.give_back(std::mem::take(&mut self.buffer));
                Err(error)
            }
        }
    }

    /// The message of the last event, [`Event::Text`] or [`Event::Binary`], taken out of the decoder: for a long message
    /// that is passed on without a copy. Empty after any other event.
    ///
    /// ```
    /// use reactor::Input;
    /// use services::codec::websocket::{Buffers, Decoder, Event};
    /// let (mut decoder, mut buffers) = (Decoder::new(10), Buffers::default());
    /// let mut input = Input::of(b"\x82\x82\0\0\0\0ab");
    /// assert_eq!(decoder.next(&mut input, &mut buffers), Ok(Some(Event::Binary(b"ab"))));
    /// assert_eq!(decoder.take_message(), b"ab");
    /// ```
    pub fn take_message(&mut self) -> Vec<u8> {
        if self.lent == Lent::Message { std::mem::take(&mut self.buffer) } else { Vec::new() }
    }

    /// Gives up what the last event lends, and returns whether no frame and no message is unfinished. The decoder holds no
    /// memory then, and may be dropped or decode another connection's bytes: a silent connection needs none.
    ///
    /// ```
    /// use reactor::Input;
    /// use services::codec::websocket::{Buffers, Decoder};
    /// let (mut decoder, mut buffers) = (Decoder::new(10), Buffers::default());
    /// decoder.next(&mut Input::of(b"\x81\x82\0\0\0\0a"), &mut buffers).unwrap();
    /// assert!(!decoder.settle(&mut buffers));
    /// decoder.next(&mut Input::of(b"b"), &mut buffers).unwrap();
    /// assert!(decoder.settle(&mut buffers));
    /// ```
    pub fn settle(&mut self, buffers: &mut Buffers) -> bool {
        self.release(buffers);
        self.state == State::Head && self.message == Message::None
    }

    /// Bytes of memory that the buffer has.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether a message or a control frame is unfinished.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn is_unfinished(&self) -> bool {
        self.message != Message::None || self.state == State::Control
    }

    /// Gives up the part of the buffer that the last event has lent.
    fn release(&mut self, buffers: &mut Buffers) {
        match std::mem::replace(&mut self.lent, Lent::Nothing) {
            Lent::Nothing => return,
            Lent::Message => {
                (self.message, self.checked) = (Message::None, 0);
                self.buffer.clear();
            }
            Lent::Control => self.buffer.truncate(self.control_at),
        }
        if self.buffer.is_empty() {
            buffers.give_back(std::mem::take(&mut self.buffer));
        }
    }

    /// Reads up to the next event. Returns the part of the buffer that the event lends.
    fn advance(&mut self, input: &mut Input<'_>, buffers: &mut Buffers) -> Result<Lent, ProtocolError> {
        loop {
            match self.state {
                State::Head => {
                    if !self.head(input)? {
                        return Ok(Lent::Nothing);
                    }
                }
                State::Data => {
                    let is_whole = self.payload(input, buffers);
                    let is_message = is_whole && self.is_last;
                    // A text that arrives as a whole is checked once, by `event`.
                    if self.message == Message::Text && !(is_message && self.checked == 0) {
                        self.check_text(is_message)?;
                    }
                    if !is_whole {
                        return Ok(Lent::Nothing);
                    }
                    self.state = State::Head;
                    if is_message {
                        return Ok(Lent::Message);
                    }
                }
                State::Control => {
                    if !self.payload(input, buffers) {
                        return Ok(Lent::Nothing);
                    }
                    self.state = if self.control == 8 { State::Ended } else { State::Head };
                    return Ok(Lent::Control);
                }
                State::Ended => return Ok(Lent::Nothing),
            }
        }
    }

    /// Reads a frame's head, and checks each rule as soon as the bytes of the rule have arrived. Returns whether the head is
    /// whole.
    fn head(&mut self, input: &mut Input<'_>) -> Result<bool, ProtocolError> {
        let bytes = input.as_slice();
        let Some(&first) = bytes.first() else { return Ok(false) };
        let (is_last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let is_control = opcode >= 8;
        match (opcode, self.message) {
            _ if first & 0x70 != 0 => return Err(wrong("a reserved bit is set")),
            (3..=7 | 11.., _) => return Err(wrong("the opcode is unknown")),
            (8.., _) if !is_last => return Err(wrong("a control frame is fragmented")),
            (0, Message::None) => return Err(wrong("there is no message to continue")),
            (1 | 2, Message::Text | Message::Binary) => return Err(wrong("the message before is unfinished")),
            _ => {}
        }
        let Some(&second) = bytes.get(1) else { return Ok(false) };
        let short = second & 0x7f;
        if second & 0x80 == 0 {
            return Err(wrong("the frame is not masked"));
        }
        if is_control && usize::from(short) > CONTROL_MAX {
            return Err(wrong("a control frame is longer than 125 bytes"));
        }
        let (extended, least) = match short {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => (0, 0),
        };
        let Some(rest) = bytes.get(2..2 + extended) else { return Ok(false) };
        let length = match extended {
            0 => u64::from(short),
            _ => rest.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
        };
        if length < least || length > i64::MAX as u64 {
            return Err(wrong("the length is not encoded in the shortest way"));
        }
        let received = if is_control || opcode != 0 { 0 } else { self.buffer.len() };
        if !is_control && length > (self.max - received) as u64 {
            return Err(ProtocolError { code: CloseCode::TOO_BIG, reason: "the message is too long" });
        }
        let Some(&mask) = bytes[2 + extended..].first_chunk::<4>() else { return Ok(false) };
        input.consume(2 + extended + 4);
        (self.left, self.mask) = (length, mask);
        if is_control {
            (self.control, self.control_at, self.state) = (opcode, self.buffer.len(), State::Control);
            return Ok(true);
        }
        (self.is_last, self.state) = (is_last, State::Data);
        match opcode {
            1 => self.message = Message::Text,
            2 => self.message = Message::Binary,
            _ => {}
        }
        Ok(true)
    }

    /// Moves the current frame's payload, as much as has arrived, into the buffer without the mask. Returns whether the
    /// payload is whole.
    fn payload(&mut self, input: &mut Input<'_>, buffers: &mut Buffers) -> bool {
        let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        if step > 0 {
            if self.buffer.capacity() == 0 {
                self.buffer = buffers.take();
            }
            self.reserve(step);
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&input.as_slice()[..step]);
            input.consume(step);
            unmask(&mut self.buffer[start..], self.mask);
            self.mask.rotate_left(step % 4);
            self.left -= step as u64;
        }
        self.left == 0
    }

    /// Makes room for `step` bytes more. The buffer doubles, so moving it is linear, but never exceeds the message, as far
    /// as its length is known: a frame's length reserves nothing until its payload arrives.
    fn reserve(&mut self, step: usize) {
        let (length, capacity) = (self.buffer.len(), self.buffer.capacity());
        let needed = length + step;
        if needed <= capacity {
            return;
        }
        let most = match self.state {
            State::Data if self.is_last => length + self.left as usize,
            _ => self.max,
        };
        let target = (2 * capacity).max(FIRST_BYTES).min(most).max(needed);
        self.buffer.reserve_exact(target - length);
    }

    /// Checks the part of the text that has arrived since the last check. A character may be cut where the text goes on.
    fn check_text(&mut self, is_whole: bool) -> Result<(), ProtocolError> {
        match from_utf8(&self.buffer[self.checked..]) {
            Ok(_) => self.checked = self.buffer.len(),
            Err(error) if error.error_len().is_none() && !is_whole => self.checked += error.valid_up_to(),
            Err(_) => return Err(INVALID),
        }
        Ok(())
    }

    /// Makes an event of the buffer: of a whole message, or of the control frame's payload at the end.
    fn event(&mut self, lent: Lent) -> Result<Event<'_>, ProtocolError> {
        let Decoder { buffer, state, .. } = self;
        let event = match (lent, self.message, self.control) {
            (Lent::Message, Message::Text, _) => from_utf8(buffer).map(Event::Text).map_err(|_| INVALID),
            (Lent::Message, ..) => Ok(Event::Binary(buffer)),
            (_, _, 9) => Ok(Event::Ping(&buffer[self.control_at..])),
            (_, _, 10) => Ok(Event::Pong(&buffer[self.control_at..])),
            _ => close(&buffer[self.control_at..]),
        };
        if event.is_err() {
            *state = State::Ended;
        }
        event
    }
}

const INVALID: ProtocolError = ProtocolError { code: CloseCode::INVALID_DATA, reason: "the text is not UTF-8" };

fn wrong(reason: &'static str) -> ProtocolError {
    ProtocolError { code: CloseCode::PROTOCOL_ERROR, reason }
}

/// Reads the payload of a close frame: nothing, or a code and a reason.
fn close(payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    let Some((number, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(Event::Close(CloseCode::NONE, ""))
        } else {
            Err(wrong("a close frame has one byte"))
        };
    };
    let code = CloseCode::new(u16::from_be_bytes(*number)).ok_or(wrong("the close code is not valid"))?;
    let not_utf8 = ProtocolError { code: CloseCode::INVALID_DATA, reason: "the close reason is not UTF-8" };
    Ok(Event::Close(code, from_utf8(reason).map_err(|_| not_utf8)?))
}

/// Takes the mask off, eight bytes at a time.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for eight in words {
        *eight = (u64::from_ne_bytes(*eight) ^ word).to_ne_bytes();
    }
    for (at, byte) in rest.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
}
