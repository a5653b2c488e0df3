//! The decoders beside a plain reader of the whole stream. Bytes arrive in pieces of any size, and the handler is called only after the
//! requested bytes have arrived, as in the loop. For property tests and for the fuzz target `decoders`.

use super::*;
use crate::buffer::Kept;
use crate::operations::Operations;

/// | | |
/// | --- | --- |
/// | `l` `d` `f` | lines, or items before `\r\n.`, of at most so many bytes; items of so many bytes |
/// | `a` `b` `c` `e` | items after a length of 1, 2, 4, 8 bytes, of at most so many bytes |
/// | `v` `t` | items after a varint, after decimal digits, of at most so many bytes |
/// | `n` | lines with a number after `:`, up to so many |
/// | `o` `r` | a head, a trailer of so many bytes (at most 4) |
/// | `z` `s` | the length has its lowest byte first; the length counts itself |
/// | `i` | an item of so many bytes is sent |
/// | `p` | so many bytes arrive |
#[cfg(test)]
const LETTERS: &[u8] = b"ldfabcevtnorzsiiiiiiipppppppp";

/// An item has at most so many bytes, and so many arrive at once at most.
const LENGTH_MAX: u64 = 700;

/// Chooses a decoder and sends items, or the bytes after the first newline of the text. Panics when the decoder takes other items
/// than a plain reader.
pub fn check(text: &[u8]) {
    let mut parts = text.splitn(2, |&byte| byte == b'\n');
    let orders = parts.next().unwrap_or_default();
    let spec = Spec::of(orders);
    let mut stream = parts.next().unwrap_or_default().to_vec();
    if stream.is_empty() {
        items_of(orders).for_each(|length| spec.encode(length, &mut stream));
    }
    let pieces =
        Operations::of(orders).filter(|&(letter, _)| letter == b'p').map(|(_, count)| (count % LENGTH_MAX) as usize);
    let mut peer = Peer { spec, kept: None, taken: Vec::new(), failed: None };
    let mut at = 0;
    for piece in pieces {
        let end = stream.len().min(at + piece);
        peer.arrive(&stream[at..end]);
        at = end;
    }
    peer.compare(&stream[..at]);
    for byte in &stream[at..] {
        peer.arrive(&[*byte]);
    }
    peer.compare(&stream);
}

fn items_of(orders: &[u8]) -> impl Iterator<Item = usize> {
    Operations::of(orders).filter(|&(letter, _)| letter == b'i').map(|(_, length)| (length % LENGTH_MAX) as usize)
}

/// The decoder of a text.
#[derive(Clone, Copy)]
struct Spec {
    kind: u8,
    max: u64,
    head: usize,
    trailer: usize,
    little_endian: bool,
    counts_itself: bool,
}

/// The body of an item, and the position in the stream behind the item. `None` for an incomplete item.
type Read = Result<Option<(Vec<u8>, usize)>, ()>;

impl Spec {
    fn of(orders: &[u8]) -> Spec {
        let mut spec = Spec { kind: b'l', max: 100, head: 0, trailer: 0, little_endian: false, counts_itself: false };
        for (letter, number) in Operations::of(orders) {
            match letter {
                b'l' | b'd' | b'f' | b'a' | b'b' | b'c' | b'e' | b'v' | b't' | b'n' => {
                    (spec.kind, spec.max) = (letter, number);
                }
                b'o' => spec.head = number as usize % 5,
                b'r' => spec.trailer = number as usize % 5,
                b'z' => spec.little_endian = true,
                b's' => spec.counts_itself = true,
                _ => {}
            }
        }
        spec
    }

    fn max(&self) -> usize {
        usize::try_from(self.max).unwrap_or(usize::MAX)
    }

    fn width(&self) -> usize {
        match self.kind {
            b'a' => 1,
            b'b' => 2,
            b'c' => 4,
            _ => 8,
        }
    }

    fn prefix(&self) -> LengthPrefix {
        let prefix = match self.kind {
            b'a' => LengthPrefix::u8(self.max()),
            b'b' => LengthPrefix::u16(self.max()),
            b'c' => LengthPrefix::u32(self.max()),
            b'e' => LengthPrefix::u64(self.max()),
            b'v' => LengthPrefix::varint(self.max()),
            _ => LengthPrefix::decimal(self.max()),
        };
        let prefix = prefix.offset(self.head).trailer(self.trailer);
        let prefix = if self.little_endian { prefix.little_endian() } else { prefix };
        if self.counts_itself { prefix.counts_itself() } else { prefix }
    }

    /// Takes one item with the decoder.
    fn decode(&self, input: &mut Input<'_>) -> Result<Option<Vec<u8>>, FrameError> {
        let bytes = |item: Option<&[u8]>| item.map(<[u8]>::to_vec);
        match self.kind {
            b'l' => Lines::within(self.max()).decode(input).map(bytes),
            b'd' => Delimiter::of(b"\r\n.", self.max()).decode(input).map(bytes),
            b'f' => FixedLength::of(self.max().max(1)).decode(input).map(bytes),
            b'n' => {
                Ok(Decimal::within(self.max).after(b":").decode(input)?.map(|number| number.to_string().into_bytes()))
            }
            _ => {
                let Some(frame) = self.prefix().decode(input)? else { return Ok(None) };
                assert_eq!(frame.head, &frame.whole[..self.head]);
                Ok(Some(frame.body.to_vec()))
            }
        }
    }

    /// Reads one item from the beginning, in the plainest way.
    fn read(&self, bytes: &[u8]) -> Read {
        let position = |ending: &[u8]| bytes.windows(ending.len()).position(|window| window == ending);
        match self.kind {
            b'l' => {
                let end = position(b"\n");
                let text = &bytes[..end.unwrap_or(bytes.len())];
                let text = text.strip_suffix(b"\r").unwrap_or(text);
                if text.len() > self.max() { Err(()) } else { Ok(end.map(|end| (text.to_vec(), end + 1))) }
            }
            b'd' => {
                let end = position(b"\r\n.");
                match end {
                    Some(end) if end <= self.max() => Ok(Some((bytes[..end].to_vec(), end + 3))),
                    None if bytes.len() <= self.max().saturating_add(3) => Ok(None),
                    _ => Err(()),
                }
            }
            b'f' => {
                let length = self.max().max(1);
                Ok(bytes.get(..length).map(|item| (item.to_vec(), length)))
            }
            b'n' => match bytes.first() {
                None => Ok(None),
                Some(b':') => {
                    let line = decimal(&bytes[1..], self.max)?;
                    Ok(line.map(|(number, width)| (number.to_string().into_bytes(), 1 + width)))
                }
                Some(_) => Err(()),
            },
            _ => self.read_after_length(bytes),
        }
    }

    fn read_after_length(&self, bytes: &[u8]) -> Read {
        let Some(after) = bytes.get(self.head..) else { return Ok(None) };
        let longest = if self.counts_itself { self.max.saturating_add(22) } else { self.max };
        let length = match self.kind {
            b'v' => varint(after, longest)?,
            b't' => decimal(after, longest)?,
            _ => after.get(..self.width()).map(|bytes| {
                let bytes: Vec<u8> =
                    if self.little_endian { bytes.iter().rev().copied().collect() } else { bytes.to_vec() };
                (bytes.iter().fold(0, |length, byte| length << 8 | u128::from(*byte)), bytes.len())
            }),
        };
        let Some((length, width)) = length else { return Ok(None) };
        let own = if self.counts_itself { width as u128 } else { 0 };
        let length = length.checked_sub(own).filter(|length| *length <= u128::from(self.max)).ok_or(())?;
        let start = self.head + width;
        let end = start as u128 + length + self.trailer as u128;
        if end > usize::MAX as u128 {
            return Err(());
        }
        let end = end as usize;
        Ok(bytes.get(..end).map(|whole| (whole[start..end - self.trailer].to_vec(), end)))
    }

    /// Appends an item as a peer would send it.
    fn encode(&self, length: usize, stream: &mut Vec<u8>) {
        let body: Vec<u8> = b"abc\r:\n.5".iter().cycle().take(length).copied().collect();
        let plain = vec![b'x'; length];
        match self.kind {
            b'l' => stream.extend_from_slice(&[&plain[..], b"\r\n"].concat()),
            b'd' => stream.extend_from_slice(&[&plain[..], b"\r\n."].concat()),
            b'f' => stream.extend_from_slice(&body),
            b'n' => stream.extend_from_slice(format!(":{}\r\n", length * length).as_bytes()),
            _ => {
                stream.extend_from_slice(&b"head"[..self.head]);
                let digits = |number: usize| format!("{number}\n").into_bytes();
                let leb = |mut number: usize| {
                    let mut bytes = Vec::new();
                    while number >= 0x80 {
                        bytes.push(number as u8 | 0x80);
                        number >>= 7;
                    }
                    bytes.push(number as u8);
                    bytes
                };
                let form = |number: usize| match self.kind {
                    b't' => digits(number),
                    b'v' => leb(number),
                    _ if self.little_endian => (number as u64).to_le_bytes()[..self.width()].to_vec(),
                    _ => (number as u64).to_be_bytes()[8 - self.width()..].to_vec(),
                };
                // The own bytes of a length may make the length longer.
                let own = |count: usize| if self.counts_itself { form(length + count).len() } else { 0 };
                stream.extend_from_slice(&form(length + own(own(own(0)))));
                stream.extend_from_slice(&body);
                stream.extend_from_slice(&b"tail"[..self.trailer]);
            }
        }
    }
}

/// A varint of at most as many bytes as `max` has, and its width.
fn varint(bytes: &[u8], max: u64) -> Result<Option<(u128, usize)>, ()> {
    let most = (1..10).find(|width| u128::from(max) >> (7 * width) == 0).unwrap_or(10);
    let Some(last) = bytes.iter().take(most).position(|byte| byte & 0x80 == 0) else {
        return if bytes.len() >= most { Err(()) } else { Ok(None) };
    };
    let number = bytes[..=last].iter().rev().fold(0, |number, byte| number << 7 | u128::from(byte & 0x7f));
    if number > u128::from(u64::MAX) { Err(()) } else { Ok(Some((number, last + 1))) }
}

/// A line of decimal digits, and its width.
fn decimal(bytes: &[u8], max: u64) -> Result<Option<(u128, usize)>, ()> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = bytes[..digits].iter().try_fold(0u128, |number, digit| {
        Some(number * 10 + u128::from(digit - b'0')).filter(|number| *number <= u128::from(max))
    });
    // Leading zeros count as digits.
    let number = number.filter(|_| digits <= DIGITS_MAX).ok_or(())?;
    match &bytes[digits..] {
        [] => Ok(None),
        [b'\n', ..] if digits > 0 => Ok(Some((number, digits + 1))),
        [b'\r'] if digits > 0 => Ok(None),
        [b'\r', b'\n', ..] if digits > 0 => Ok(Some((number, digits + 2))),
        _ => Err(()),
    }
}

/// A connection whose handler takes items with the decoder.
struct Peer {
    spec: Spec,
    kept: Option<Kept>,
    taken: Vec<Vec<u8>>,
    failed: Option<FrameError>,
}

impl Peer {
    /// Lends the bytes as the loop does: from the receive buffer while nothing is kept, and only after the requested bytes have arrived.
    fn arrive(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if let Some(mut kept) = self.kept.take() {
            kept.append(bytes);
            if kept.is_too_short() {
                self.kept = Some(kept);
                return;
            }
            let mut input = kept.lend();
            self.take_all(&mut input);
            let left = input.left();
            kept.settle(left);
            self.kept = Some(kept).filter(|kept| !kept.is_idle());
        } else {
            let mut input = Input::of(bytes);
            self.take_all(&mut input);
            if !input.is_idle() {
                assert!(!input.is_empty(), "a connection between two items keeps a buffer");
                self.kept.insert(Kept::default()).keep(&input);
            }
        }
    }

    fn take_all(&mut self, input: &mut Input<'_>) {
        loop {
            let before = input.len();
            match self.spec.decode(input) {
                Ok(Some(item)) => {
                    assert!(input.len() < before, "an item of no bytes");
                    self.taken.push(item);
                }
                other => {
                    assert_eq!(input.len(), before, "{other:?} has consumed something");
                    self.failed = other.err();
                    return;
                }
            }
        }
    }

    fn compare(&self, stream: &[u8]) {
        let (mut at, mut items, mut failed) = (0, Vec::new(), false);
        loop {
            match self.spec.read(&stream[at..]) {
                Ok(Some((item, length))) => {
                    at += length;
                    items.push(item);
                }
                Ok(None) => break,
                Err(()) => {
                    failed = true;
                    break;
                }
            }
        }
        assert_eq!(self.taken, items, "{:?}", self.failed);
        // The plain reader may know that an item is too long before the handler is called again.
        assert!(self.failed.is_none() || failed, "{:?} where nothing is wrong", self.failed);
        let waits = self.kept.as_ref().is_some_and(Kept::is_too_short);
        assert!(self.failed.is_some() || !failed || waits, "an error went unnoticed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::{operations, seeds};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_decoder_takes_what_a_reading_of_the_whole_finds(text in operations(LETTERS, 3, 60, &[0, 127, 128, 255, 256])) {
            check(text.as_bytes());
        }

        #[test]
        fn and_of_any_bytes(
            text in operations(LETTERS, 2, 30, &[0, 1, 9]),
            bytes in prop::collection::vec(prop::sample::select(&b":0123\r\n.\x00\x01\x05\x7f\x80\x81\xffx"[..]), 1..60),
        ) {
            check(&[text.as_bytes(), b"\n", &bytes].concat());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("decoders").iter().for_each(|seed| check(seed));
    }
}
