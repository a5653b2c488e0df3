//! Compares the framers with searches from the beginning, over bytes that arrive in any pieces and are kept between
//! callbacks in any amounts. For property tests and for the fuzz target `input_framers`.

use super::*;
use crate::operations::Operations;

/// | | |
/// | --- | --- |
/// | `a` | so many bytes arrive, and a callback begins, which does what follows |
/// | `l` `m` | a line; of at most so many bytes |
/// | `u` `v` | up to the byte `;`, up to the newline, of at most so many bytes |
/// | `s` | a scan for `\r\n`, of at most so many bytes |
/// | `n` | says that it needs so many bytes |
/// | `t` `c` `x` | takes exactly so many; consumes at most so many; takes everything |
#[cfg(test)]
const LETTERS: &[u8] = b"aaaalmuvstcxn";
const IN_CALLBACK: &[u8] = b"lmuvstcxn";

/// The repeated content of the input: endings, halves of endings, bytes that differ from endings in one bit, and
/// stretches longer than a word.
const STREAM: &[u8] = b"a;bc\r\n\n;;a longer one\r;\r\r\nand one that is longer than two words\n\x0b\x8a\x3a\xbb\r\n";

/// Largest number of bytes that arrive at once: a few times `STREAM`.
const AT_ONCE: usize = 400;

/// Runs the operations of the text, and panics if the input is wrong. The bytes are `STREAM`, or the bytes after the
/// first newline of the text.
pub fn check(text: &[u8]) {
    let mut parts = text.splitn(2, |&byte| byte == b'\n');
    let mut operations = Operations::of(parts.next().unwrap_or_default());
    let stream = parts.next().filter(|stream| !stream.is_empty()).unwrap_or(STREAM);
    let mut arriving = stream.iter().cycle();
    let mut model = Model { unread: Vec::new(), vain: None, wanted: 0 };
    let mut kept: Option<Kept> = None;
    while let Some((letter, number)) = operations.next() {
        if letter != b'a' {
            continue;
        }
        let new: Vec<u8> = arriving.by_ref().take(number as usize % AT_ONCE).copied().collect();
        model.unread.extend_from_slice(&new);
        // As in the loop: lent from another buffer while no byte is kept.
        if let Some(mut bytes) = kept.take() {
            bytes.append(&new);
            assert_eq!(bytes.is_too_short(), model.unread.len() < model.wanted);
            if bytes.is_too_short() {
                kept = Some(bytes);
                continue;
            }
            model.wanted = 0;
            let mut input = bytes.lend();
            model.callback(&mut input, &mut operations);
            let left = input.left();
            bytes.settle(left);
            kept = Some(bytes).filter(|bytes| !bytes.is_idle());
        } else {
            let mut input = Input::of(&new);
            model.wanted = 0;
            model.callback(&mut input, &mut operations);
            if !input.is_idle() {
                kept.insert(Kept::default()).keep(&input);
            }
        }
        let bytes = kept.as_ref().map(|kept| kept.lend().as_slice()).unwrap_or_default();
        assert_eq!(bytes, model.unread, "what is kept");
        let waste = kept.as_ref().map_or(0, |kept| kept.bytes.len() - kept.len());
        assert!(waste <= model.unread.len(), "{waste} bytes are kept that have been read");
    }
}

/// The unread bytes, and the number of bytes that the last search covered without a match, with the searcher.
struct Model {
    unread: Vec<u8>,
    vain: Option<(u8, usize)>,
    /// The handler is not called before so many bytes are unread.
    wanted: usize,
}

impl Model {
    fn callback(&mut self, input: &mut Input<'_>, operations: &mut Operations<'_>) {
        let consumed = input.bytes.len() - input.len();
        while let Some((letter, number)) = operations.next_of(IN_CALLBACK) {
            self.call(letter, number as usize % (2 * AT_ONCE), input);
            assert_eq!(input.as_slice(), self.unread, "after {}{number}", char::from(letter));
            assert_eq!((input.len(), input.is_empty()), (self.unread.len(), self.unread.is_empty()));
            let has_consumed = input.bytes.len() - input.len() > consumed;
            assert!(!has_consumed || input.has_consumed());
        }
    }

    fn call(&mut self, letter: u8, number: usize, input: &mut Input<'_>) {
        match letter {
            b'l' => {
                let line = self.found(b'\n', self.end_after(b"\n"), usize::MAX, 0);
                assert_eq!(input.until_eol().map(<[u8]>::to_vec), line.ok());
            }
            b'm' => {
                let end = self.end_after(b"\n");
                let text = &self.unread[..end.map_or(self.unread.len(), |end| end - 1)];
                let ending = usize::from(text.ends_with(b"\r")) + usize::from(end.is_some());
                let expected = self.found(b'\n', end, number, ending);
                same(input.until_eol_within(number), expected);
            }
            b'u' | b'v' => {
                let byte = if letter == b'u' { b';' } else { b'\n' };
                let expected = self.found(byte, self.end_after(&[byte]), number, 0);
                same(input.until(byte, number), expected);
            }
            b's' => {
                let searched = self.vain.filter(|&(what, _)| what == b's').map_or(0, |(_, searched)| searched);
                let expected = self.found(b's', self.end_after(b"\r\n"), number, 0);
                let item = input.scan(number, |bytes, from| {
                    assert_eq!(from, searched, "what was searched in vain is not searched again");
                    let start = from.saturating_sub(1);
                    let at = bytes[start..].windows(2).position(|pair| pair == b"\r\n")?;
                    Some(start + at + 2)
                });
                same(item, expected);
            }
            b'n' => {
                self.wanted = self.wanted.max(number);
                assert_eq!(input.need(number), self.unread.len() >= number);
            }
            b't' => {
                let expected = (number <= self.unread.len()).then(|| self.consume(number));
                assert_eq!(input.take(number).map(<[u8]>::to_vec), expected);
            }
            b'c' => {
                let count = number.min(self.unread.len());
                input.consume(count);
                self.consume(count);
            }
            _ => assert_eq!(input.take_all(), self.consume(self.unread.len())),
        }
    }

    fn end_after(&self, ending: &[u8]) -> Option<usize> {
        self.unread.windows(ending.len()).position(|bytes| bytes == ending).map(|at| at + ending.len())
    }

    fn consume(&mut self, count: usize) -> Vec<u8> {
        if let Some((_, searched)) = &mut self.vain {
            *searched = searched.saturating_sub(count);
        }
        self.wanted = self.wanted.saturating_sub(count);
        self.unread.drain(..count).collect()
    }

    /// Takes the item that ends at `end`, if it has at most `max` bytes besides the uncounted ones. The error says
    /// whether the item is too long.
    fn found(&mut self, what: u8, end: Option<usize>, max: usize, uncounted: usize) -> Result<Vec<u8>, bool> {
        let length = end.unwrap_or(self.unread.len());
        if end.is_none() {
            self.vain = Some((what, length));
        }
        match end {
            _ if length - uncounted > max => Err(true),
            Some(end) => Ok(self.consume(end)),
            None => Err(false),
        }
    }
}

#[track_caller]
fn same(framed: Framed<'_>, expected: Result<Vec<u8>, bool>) {
    match expected {
        Ok(item) => assert_eq!(framed, Framed::Item(&item)),
        Err(true) => assert_eq!(framed, Framed::TooLong),
        Err(false) => assert_eq!(framed, Framed::Incomplete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::{operations, seeds};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn any_framers_take_what_a_search_from_the_beginning_finds(text in operations(LETTERS, 3, 60, &[1, 8])) {
            check(text.as_bytes());
        }

        #[test]
        fn and_of_any_bytes(text in operations(LETTERS, 2, 40, &[1, 8]), bytes in "[;\r\n\u{b}ab]{1,40}") {
            check(format!("{text}\n{bytes}").as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("input_framers").iter().for_each(|seed| check(seed));
    }
}
