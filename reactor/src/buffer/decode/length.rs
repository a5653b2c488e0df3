//! Items after their length: the length as a number in binary, as a varint, or as decimal digits.

use super::{FrameError, Input, OTHER_BEGINNING, agrees, number_line, want};

/// A decoder of items that stand after their length.
///
/// ```text
///  offset      length          body              trailer
/// ┌──────────┬───────────────┬─────────────────┬─────────┐
/// │ head     │ u8 … u64,     │ as many bytes   │ skipped │
/// │          │ varint, digits│ as length says  │         │
/// └──────────┴───────────────┴─────────────────┴─────────┘
/// ```
///
/// As soon as the length has arrived, the handler is not called again before the whole item is there
/// ([`Input::need`]). A length over the maximum is an error at once.
///
/// ```
/// use reactor::{FrameError, Input, LengthPrefix};
///
/// /// The length in four bytes, the lowest first, after a byte with the kind.
/// const MESSAGES: LengthPrefix = LengthPrefix::u32(1 << 20).little_endian().offset(1);
///
/// let mut input = Input::of(b"K\x05\0\0\0helloL\x02\0\0\0h");
/// let message = MESSAGES.decode(&mut input).unwrap().unwrap();
/// assert_eq!((message.head, message.body), (&b"K"[..], &b"hello"[..]));
/// assert_eq!(message.whole, b"K\x05\0\0\0hello");
/// assert_eq!(MESSAGES.decode(&mut input), Ok(None));
/// let error = MESSAGES.decode(&mut Input::of(b"K\0\0\0\x01")).unwrap_err();
/// assert_eq!(error, FrameError::TooLong { max: 1 << 20 });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LengthPrefix {
    form: Form,
    max: usize,
    offset: usize,
    before: &'static [u8],
    trailer: usize,
    little_endian: bool,
    counts_itself: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// An integer of this many bytes.
    Binary(usize),
    Varint,
    Decimal,
}

/// One item that [`LengthPrefix::decode`] has taken, borrowed from the input.
///
/// ```
/// use reactor::{Input, LengthPrefix};
/// let mut input = Input::of(b"\x30\x05topic");
/// let frame = LengthPrefix::u8(100).offset(1).decode(&mut input).unwrap().unwrap();
/// assert_eq!((frame.head, frame.body, frame.whole), (&b"\x30"[..], &b"topic"[..], &b"\x30\x05topic"[..]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The bytes before the length, as many as [`LengthPrefix::offset`] says.
    pub head: &'a [u8],
    /// The content: the bytes that the length counts, without head, length and trailer.
    pub body: &'a [u8],
    /// Everything from the first byte of the head to the last of the trailer, for a relay.
    pub whole: &'a [u8],
}

impl LengthPrefix {
    const fn new(form: Form, max: usize) -> Self {
        LengthPrefix { form, max, offset: 0, before: b"", trailer: 0, little_endian: false, counts_itself: false }
    }

    /// The length is one byte. Bodies have at most `max` bytes.
    pub const fn u8(max: usize) -> Self {
        Self::new(Form::Binary(1), max)
    }

    /// The length is two bytes, the highest first. Bodies have at most `max` bytes.
    pub const fn u16(max: usize) -> Self {
        Self::new(Form::Binary(2), max)
    }

    /// The length is four bytes, the highest first. Bodies have at most `max` bytes.
    pub const fn u32(max: usize) -> Self {
        Self::new(Form::Binary(4), max)
    }

    /// The length is eight bytes, the highest first. Bodies have at most `max` bytes.
    pub const fn u64(max: usize) -> Self {
        Self::new(Form::Binary(8), max)
    }

    /// The length is a varint (LEB128): seven bits a byte, the lowest first, and the highest bit says that more follow. It has at
    /// most as many bytes as `max` has. Bodies have at most `max` bytes.
    pub const fn varint(max: usize) -> Self {
        Self::new(Form::Varint, max)
    }

    /// The length is a line of decimal digits. Bodies have at most `max` bytes.
    ///
    /// ```
    /// use reactor::{Input, LengthPrefix};
    /// /// A bulk string of RESP.
    /// const BULK: LengthPrefix = LengthPrefix::decimal(512 << 20).after(b"$").trailer(2);
    /// let mut input = Input::of(b"$5\r\nhello\r\n");
    /// assert_eq!(BULK.decode(&mut input).unwrap().unwrap().body, b"hello");
    /// ```
    pub const fn decimal(max: usize) -> Self {
        Self::new(Form::Decimal, max)
    }

    /// Puts the length behind a head of `bytes` bytes of any value, which [`Frame::head`] returns.
    pub const fn offset(self, bytes: usize) -> Self {
        LengthPrefix { offset: bytes, before: b"", ..self }
    }

    /// Puts the length behind the bytes `before`. Other bytes in their place are an error.
    pub const fn after(self, before: &'static [u8]) -> Self {
        LengthPrefix { offset: before.len(), before, ..self }
    }

    /// `bytes` bytes follow the body and are skipped. The length does not count them.
    pub const fn trailer(self, bytes: usize) -> Self {
        LengthPrefix { trailer: bytes, ..self }
    }

    /// Reads the length with the lowest byte first. Without effect on varints and decimal digits.
    pub const fn little_endian(self) -> Self {
        LengthPrefix { little_endian: true, ..self }
    }

    /// The length counts its own bytes, too. The maximum does not.
    pub const fn counts_itself(self) -> Self {
        LengthPrefix { counts_itself: true, ..self }
    }

    /// The length of the shortest item.
    #[inline]
    pub(super) fn least(&self) -> usize {
        let length = match self.form {
            Form::Binary(width) => width,
            Form::Varint => 1,
            // A digit and the end of the line.
            Form::Decimal => 2,
        };
        self.offset.saturating_add(length).saturating_add(self.trailer)
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] for a length over the maximum, [`FrameError::Malformed`] for bytes that are no length.
    #[inline]
    pub fn decode<'a>(&self, input: &mut Input<'a>) -> Result<Option<Frame<'a>>, FrameError> {
        let unread = input.as_slice();
        if !agrees(unread, self.before) {
            return Err(OTHER_BEGINNING);
        }
        let after = unread.get(self.offset..).unwrap_or_default();
        let Some((length, width)) = self.length(after)? else {
            let least = if let Form::Binary(width) = self.form { width } else { 1 };
            want(input, self.offset + least);
            return Ok(None);
        };
        let length = if self.counts_itself {
            length
                .checked_sub(width as u64)
                .ok_or(FrameError::Malformed("a length is less than the bytes of itself"))?
        } else {
            length
        };
        if length > self.max as u64 {
            return Err(FrameError::TooLong { max: self.max });
        }
        let (start, length) = (self.offset + width, length as usize);
        let Some(whole) = start.checked_add(length).and_then(|end| end.checked_add(self.trailer)) else {
            return Err(FrameError::TooLong { max: self.max });
        };
        if unread.len() < whole {
            want(input, whole);
            return Ok(None);
        }
        input.consume(whole);
        let whole = &unread[..whole];
        Ok(Some(Frame { head: &whole[..self.offset], body: &whole[start..start + length], whole }))
    }

    /// The length at the beginning of these bytes, and the number of its own bytes; `None` while some of them are missing.
    #[inline]
    fn length(&self, bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
        match self.form {
            Form::Binary(width) => {
                let Some(bytes) = bytes.get(..width) else { return Ok(None) };
                let mut word = [0; 8];
                if self.little_endian {
                    word[..width].copy_from_slice(bytes);
                    return Ok(Some((u64::from_le_bytes(word), width)));
                }
                word[8 - width..].copy_from_slice(bytes);
                Ok(Some((u64::from_be_bytes(word), width)))
            }
            Form::Varint => self.varint_length(bytes),
            Form::Decimal => {
                // A longer number is a longer item: the caller compares.
                let line = number_line(bytes, b"", self.longest());
                line.map_err(|error| match error {
                    FrameError::TooLarge { .. } => FrameError::TooLong { max: self.max },
                    error => error,
                })
            }
        }
    }

    /// The greatest length that is worth reading.
    #[inline]
    fn longest(&self) -> u64 {
        // A length that counts itself has at most 22 bytes, with the end of its line.
        if self.counts_itself { (self.max as u64).saturating_add(22) } else { self.max as u64 }
    }

    fn varint_length(&self, bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
        let bits = (u64::BITS - self.longest().leading_zeros()).max(1);
        let most = bits.div_ceil(7) as usize;
        let mut length = 0u64;
        for (at, byte) in bytes.iter().take(most).enumerate() {
            let part = u64::from(byte & 0x7f);
            // The tenth byte has one bit of a `u64`.
            let shifted = if at == 9 && part > 1 { None } else { Some(part << (7 * at)) };
            length |= shifted.ok_or(FrameError::TooLong { max: self.max })?;
            if byte & 0x80 == 0 {
                return Ok(Some((length, at + 1)));
            }
        }
        if bytes.len() >= most { Err(FrameError::TooLong { max: self.max }) } else { Ok(None) }
    }
}
