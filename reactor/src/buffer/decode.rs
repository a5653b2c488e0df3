//! Decoders: from unread bytes to items. Each ready decoder has a maximum, consumes only whole items, and requests the bytes of an
//! item, so that a decoder sees the pieces of an item once.

mod counted;
mod length;

use std::borrow::Cow;

use thiserror::Error;

use super::{Framed, Input};

pub use counted::Counted;
pub use length::{Frame, LengthPrefix};

/// Takes items out of unread bytes, one at a time.
///
/// An item may borrow from the input, which lives as long as the callback. The ready decoders ([`Lines`], [`Delimiter`],
/// [`FixedLength`], [`LengthPrefix`], [`Decimal`], [`Counted`]) are plain values without a state, so constants can hold them. A
/// custom decoder may have a state, which belongs into [`Handler::Connection`](crate::Handler::Connection).
///
/// ```
/// use reactor::{Context, Decoder, FrameError, Handler, Input, LengthPrefix};
///
/// /// Packets as MQTT has them: a byte with the kind, the length as a varint, the body.
/// const PACKETS: LengthPrefix = LengthPrefix::varint(268_435_455).offset(1);
///
/// /// Sums: each packet has numbers of two bytes.
/// struct Sums;
///
/// impl Decoder for Sums {
///     type Item<'a> = (u8, u64);
///     type Error = FrameError;
///
///     fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<(u8, u64)>, FrameError> {
///         let Some(packet) = PACKETS.decode(input)? else { return Ok(None) };
///         let numbers = packet.body.as_chunks().0.iter().map(|bytes| u16::from_be_bytes(*bytes) as u64);
///         Ok(Some((packet.head[0] >> 4, numbers.sum())))
///     }
/// }
///
/// impl Handler for Sums {
///     type Connection = ();
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
///         loop {
///             match self.decode(input) {
///                 Ok(Some((kind, sum))) => cx.encode(|writer| {
///                     writer.put_u8(kind);
///                     writer.put_u64(sum);
///                 }),
///                 Ok(None) => return,
///                 Err(error) => {
///                     log::info!("a peer sends no packets: {error}");
///                     return cx.close();
///                 }
///             };
///         }
///     }
/// }
///
/// assert_eq!(Sums.decode(&mut Input::of(b"\x30\x04\x00\x01\x00\x02")), Ok(Some((3, 3))));
/// assert_eq!(Sums.decode(&mut Input::of(b"\x30\x04\x00\x01")), Ok(None));
/// ```
pub trait Decoder {
    /// The type of the items.
    type Item<'a>;
    /// The reason for which the input has no further item.
    type Error;

    /// Takes the next item. Returns `Ok(None)`, and consumes nothing, while bytes of the item are missing; the handler then returns
    /// and is called again with more bytes. After an error no item follows, so a handler closes the connection.
    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<Self::Item<'a>>, Self::Error>;
}

/// The reason for which bytes are no item. The input is unchanged.
///
/// ```
/// use reactor::{FrameError, Input, Lines};
/// let error = Lines::within(8).decode(&mut Input::of(b"a line that has no end")).unwrap_err();
/// assert_eq!(error, FrameError::TooLong { max: 8 });
/// assert_eq!(error.to_string(), "an item is longer than 8 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The item is longer than the decoder allows, in bytes. Reported when the length is known, or after `max` bytes.
    #[error("an item is longer than {max} bytes")]
    TooLong {
        /// The maximum of the decoder.
        max: usize,
    },
    /// A number exceeds the maximum of the decoder.
    #[error("a number is greater than {max}")]
    TooLarge {
        /// The maximum of the decoder.
        max: u64,
    },
    /// The bytes violate the format: no decimal digits, another first byte, …
    #[error("{0}")]
    Malformed(&'static str),
}

/// A decoder of lines: each is returned without its ending, `\n` or `\r\n`.
///
/// ```
/// use reactor::{Input, Lines};
/// const LINES: Lines = Lines::within(512);
/// let mut input = Input::of(b"NICK ann\r\nUSER\nQU");
/// assert_eq!(LINES.decode(&mut input), Ok(Some(&b"NICK ann"[..])));
/// assert_eq!(LINES.decode(&mut input), Ok(Some(&b"USER"[..])));
/// assert_eq!(LINES.decode(&mut input), Ok(None));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    max: usize,
}

impl Lines {
    /// Lines of at most `max` bytes, the ending not counted.
    pub const fn within(max: usize) -> Self {
        Lines { max }
    }

    /// Takes the next line, and returns it without its ending. `None` while the line is incomplete: nothing is consumed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] for a line over the maximum, also before its ending has come.
    pub fn decode<'a>(&self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, FrameError> {
        match input.until_eol_within(self.max) {
            Framed::Item(line) => {
                let text = &line[..line.len() - 1];
                Ok(Some(text.strip_suffix(b"\r").unwrap_or(text)))
            }
            Framed::Incomplete => Ok(None),
            Framed::TooLong => Err(FrameError::TooLong { max: self.max }),
        }
    }
}

/// A decoder of items that end with a delimiter. Returns each item without the delimiter.
///
/// ```
/// use reactor::{Delimiter, Input};
/// const RECORDS: Delimiter = Delimiter::of(b"\r\n.\r\n", 65536);
/// let mut input = Input::of(b"a mail\r\n.\r\nanother\r\n.");
/// assert_eq!(RECORDS.decode(&mut input), Ok(Some(&b"a mail"[..])));
/// assert_eq!(RECORDS.decode(&mut input), Ok(None));
/// ```
#[derive(Clone, Debug)]
pub struct Delimiter {
    ending: Cow<'static, [u8]>,
    max: usize,
}

impl Delimiter {
    /// Items of at most `max` bytes before the delimiter `ending`. An empty `ending` does not compile.
    pub const fn of<const LENGTH: usize>(ending: &'static [u8; LENGTH], max: usize) -> Self {
        const { assert!(LENGTH > 0, "a delimiter has at least one byte") };
        Delimiter { ending: Cow::Borrowed(ending), max }
    }

    /// Items before an ending that is known only at run time: see [`Delimiter::of`].
    ///
    /// # Panics
    /// When `ending` is empty.
    pub fn new(ending: impl Into<Vec<u8>>, max: usize) -> Self {
        let ending = ending.into();
        assert!(!ending.is_empty(), "a delimiter has at least one byte");
        Delimiter { ending: Cow::Owned(ending), max }
    }

    /// Takes the next item, and returns it without its ending. `None` while the item is incomplete: nothing is consumed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] for an item over the maximum, also before its ending has come.
    pub fn decode<'a>(&self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, FrameError> {
        let ending = &self.ending[..];
        // An incomplete ending may belong to an item of `max` bytes.
        let room = self.max.saturating_add(ending.len());
        let framed = match ending {
            [byte] => input.until(*byte, room),
            _ => input.scan(room, |bytes, from| {
                let start = from.saturating_sub(ending.len() - 1);
                let at = bytes[start..].windows(ending.len()).position(|window| window == ending)?;
                Some(start + at + ending.len())
            }),
        };
        match framed {
            Framed::Item(item) => Ok(Some(&item[..item.len() - ending.len()])),
            Framed::Incomplete => Ok(None),
            Framed::TooLong => Err(FrameError::TooLong { max: self.max }),
        }
    }
}

/// A decoder of items of a fixed length.
///
/// ```
/// use reactor::{FixedLength, Input};
/// let mut input = Input::of(b"abcdefg");
/// assert_eq!(FixedLength::of(3).decode(&mut input), Ok(Some(&b"abc"[..])));
/// assert_eq!(FixedLength::of(5).decode(&mut input), Ok(None));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FixedLength {
    length: usize,
}

impl FixedLength {
    /// Items of `length` bytes.
    ///
    /// # Panics
    /// When `length` is 0. In a constant, a length of 0 does not compile.
    pub const fn of(length: usize) -> Self {
        assert!(length > 0, "an item has at least one byte");
        FixedLength { length }
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// Never. The return type equals the type of the other decoders.
    pub fn decode<'a>(&self, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, FrameError> {
        want(input, self.length);
        Ok(input.take(self.length))
    }
}

/// A decoder of a line with a decimal number, as in RESP and memcached.
///
/// ```
/// use reactor::{Decimal, Input};
/// const COUNT: Decimal = Decimal::within(1_000_000).after(b"*");
/// let mut input = Input::of(b"*3\r\n*x\r\n");
/// assert_eq!(COUNT.decode(&mut input), Ok(Some(3)));
/// let error = COUNT.decode(&mut input).unwrap_err();
/// assert_eq!(error.to_string(), "a line has no decimal number where it should");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    before: &'static [u8],
    max: u64,
}

/// Digits of the longest number that a `u64` holds.
const DIGITS_MAX: usize = 20;

impl Decimal {
    /// Reads numbers from 0 to `max`, without a prefix. A larger number is an error.
    pub const fn within(max: u64) -> Self {
        Decimal { before: b"", max }
    }

    /// Expects the bytes `before` at the beginning of each line, before the digits. Other bytes are an error.
    pub const fn after(self, before: &'static [u8]) -> Self {
        Decimal { before, ..self }
    }

    /// Takes the next line, and returns its number.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for any other line; [`FrameError::TooLarge`].
    #[inline]
    pub fn decode(&self, input: &mut Input<'_>) -> Result<Option<u64>, FrameError> {
        match number_line(input.as_slice(), self.before, self.max)? {
            Some((number, length)) => {
                input.consume(length);
                Ok(Some(number))
            }
            None => Ok(None),
        }
    }
}

/// The number of the line at the beginning of `bytes`, and the length of the line with its ending; `None` while its end is
/// missing. Looks at 23 bytes after `before` at most, so that a line in pieces costs little.
// Inlined by force: a decoder is mostly a constant, and with a known `before` the line takes half of its instructions.
#[inline(always)]
fn number_line(bytes: &[u8], before: &[u8], max: u64) -> Result<Option<(u64, usize)>, FrameError> {
    const MALFORMED: FrameError = FrameError::Malformed("a line has no decimal number where it should");
    let Some(text) = bytes.strip_prefix(before) else {
        return if agrees(bytes, before) { Ok(None) } else { Err(OTHER_BEGINNING) };
    };
    let (mut number, mut digits) = (0u64, 0);
    loop {
        match text.get(digits) {
            None => return Ok(None),
            Some(digit @ b'0'..=b'9') if digits < DIGITS_MAX => {
                let more = number.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
                number = more.filter(|number| *number <= max).ok_or(FrameError::TooLarge { max })?;
                digits += 1;
            }
            Some(b'\n') if digits > 0 => return Ok(Some((number, before.len() + digits + 1))),
            Some(b'\r') if digits > 0 => {
                return match text.get(digits + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((number, before.len() + digits + 2))),
                    Some(_) => Err(MALFORMED),
                };
            }
            Some(_) => return Err(MALFORMED),
        }
    }
}

const OTHER_BEGINNING: FrameError = FrameError::Malformed("an item begins with another byte than it should");

/// Whether `bytes` begin with `word`, as far as `bytes` go.
#[inline]
fn agrees(bytes: &[u8], word: &[u8]) -> bool {
    bytes.starts_with(word) || word.starts_with(bytes)
}

/// Requests `count` bytes if any byte is unread. A connection between two items keeps no buffer.
#[inline]
fn want(input: &mut Input<'_>, count: usize) {
    if !input.is_empty() {
        input.need(count);
    }
}

/// Implements the trait for the ready decoders.
macro_rules! decoders {
    ($($name:ident: $item:ty;)*) => {
        $(
            impl Decoder for $name {
                type Item<'a> = $item;
                type Error = FrameError;

                fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<$item>, FrameError> {
                    $name::decode(self, input)
                }
            }
        )*
    };
}

decoders! {
    Lines: &'a [u8];
    Delimiter: &'a [u8];
    FixedLength: &'a [u8];
    LengthPrefix: Frame<'a>;
    Decimal: u64;
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Kept;

    #[test]
    fn an_item_of_many_parts_is_begun_few_times_when_each_try_says_what_the_rest_needs() {
        const PARTS: u64 = 50_000;
        const PART: LengthPrefix = LengthPrefix::decimal(100).after(b"$").trailer(2);
        let mut stream = b"*50000\r\n".to_vec();
        (0..PARTS).for_each(|_| stream.extend_from_slice(b"$3\r\nabc\r\n"));
        let (mut kept, mut tries, mut read) = (Kept::default(), 0, 0);
        for piece in stream.chunks(1000) {
            kept.append(piece);
            if kept.is_too_short() {
                continue;
            }
            tries += 1;
            let mut input = kept.lend();
            let parts = input.whole(|input| {
                let Some(count) = Decimal::within(PARTS).after(b"*").decode(input)? else { return Ok(None) };
                let part = |at| {
                    input.need((count - at) as usize * 5);
                    PART.decode(input).map(|frame| frame.map(|frame| frame.body))
                };
                (0..count).map(part).collect::<Result<Option<Vec<_>>, FrameError>>()
            });
            read += parts.unwrap().map_or(0, |parts| parts.len() as u64);
            let left = input.left();
            kept.settle(left);
        }
        assert_eq!(read, PARTS);
        // Each try waits for half of the missing bytes. Without the request the number of tries is 450.
        assert!(tries <= 20, "{tries} tries");
    }

    #[test]
    fn a_number_has_twenty_digits_at_most_and_one_at_least() {
        let number = |line: &str| Decimal::within(u64::MAX).decode(&mut Input::of(line.as_bytes()));
        assert_eq!(number(&format!("{:020}\n", 7)), Ok(Some(7)));
        for line in [format!("{:021}\n", 7), "\n".into(), "\r\n".into(), "\r".into()] {
            let error = number(&line).expect_err("it is no number");
            assert!(matches!(error, FrameError::Malformed(_)), "{line:?}: {error}");
        }
        assert_eq!(number("18446744073709551615\r\n"), Ok(Some(u64::MAX)));
        assert_eq!(number("18446744073709551616\r\n"), Err(FrameError::TooLarge { max: u64::MAX }));
    }

    #[test]
    fn a_decoder_asks_for_the_rest_of_an_item_that_has_begun_and_for_nothing_between_items() {
        let waits = |bytes: &[u8]| {
            let mut kept = Kept::default();
            kept.append(bytes);
            let mut input = kept.lend();
            while let Some(item) = FixedLength::of(3).decode(&mut input).expect("never an error") {
                assert_eq!(item.len(), 3);
            }
            let left = input.left();
            kept.settle(left);
            (kept.is_too_short(), kept.is_idle())
        };
        assert_eq!(waits(b"abcd"), (true, false));
        assert_eq!(waits(b"abc"), (false, true));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_tenth_byte_of_a_varint_has_one_bit() {
        let decode = |tenth: u8| {
            let bytes = [&[0x80; 9][..], &[tenth]].concat();
            LengthPrefix::varint(usize::MAX)
                .decode(&mut Input::of(&bytes))
                .map(|frame| frame.map(|frame| frame.body.len()))
        };
        assert_eq!(decode(0), Ok(Some(0)));
        assert_eq!(decode(1), Ok(None), "more bytes than there can be, but a length");
        assert_eq!(decode(2), Err(FrameError::TooLong { max: usize::MAX }));
    }

    /// Constants are decoders of a program that is compiled: each part of their description has an effect.
    #[test]
    fn each_part_of_a_decoder_s_description_holds_whatever_follows_it() {
        const PREFIX: LengthPrefix = LengthPrefix::u16(10).offset(1).trailer(2).little_endian().counts_itself();
        const AFTER: LengthPrefix = LengthPrefix::decimal(10).trailer(1).after(b"$");
        let frame = PREFIX.decode(&mut Input::of(b"h\x05\0abct!")).expect("an item").expect("a whole one");
        assert_eq!((frame.head, frame.body, frame.whole), (&b"h"[..], &b"abc"[..], &b"h\x05\0abct!"[..]));
        let frame = AFTER.decode(&mut Input::of(b"$3\nabct")).expect("an item").expect("a whole one");
        assert_eq!((frame.head, frame.body, frame.whole), (&b"$"[..], &b"abc"[..], &b"$3\nabct"[..]));
        assert_eq!(AFTER.decode(&mut Input::of(b"#3\nabct")), Err(OTHER_BEGINNING));
        assert_eq!(AFTER.offset(1).decode(&mut Input::of(b"#3\nabct")).map(|frame| frame.is_some()), Ok(true));
        assert_eq!(Decimal::within(10).after(b":").decode(&mut Input::of(b"#3\n")), Err(OTHER_BEGINNING));
    }
}
