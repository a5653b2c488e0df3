//! The unread bytes of one connection, lent to its handler, and the rest that the handler leaves unread.
//!
//! Framing takes linear time: the searched length is kept beside the bytes, so the bytes of a slow peer are not
//! searched again with each new byte.

/// The unread bytes of one connection, lent for one callback: first the kept bytes, then the new ones.
///
/// Bytes that a callback does not consume are kept, and come first the next time. A framer takes one item and never
/// copies; the returned bytes live as long as the callback.
///
/// ```
/// use reactor::{Framed, Input};
/// let mut input = Input::of(b"one\r\ntwo\nthr");
/// assert_eq!(input.until_eol(), Some(&b"one\r\n"[..]));
/// assert_eq!(input.until_eol_within(3), Framed::Item(b"two\n"));
/// assert_eq!(input.until_eol_within(3), Framed::Incomplete);
/// assert_eq!(input.until_eol_within(2), Framed::TooLong);
/// assert_eq!(input.take_all(), b"thr");
/// assert!(input.is_empty());
/// ```
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    /// Number of consumed bytes.
    at: usize,
    /// The framer in `searcher` has searched up to here without a match.
    searched: usize,
    searcher: Searcher,
}

/// The answer of a framer.
///
/// ```
/// use reactor::{Framed, Input};
/// match Input::of(b"GET").until(b' ', 16) {
///     Framed::Item(word) => panic!("{word:?}"),
///     Framed::Incomplete => {} // return, and be called again when there is more
///     Framed::TooLong => panic!(),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A complete item, its ending included. The item has been consumed.
    Item(&'a [u8]),
    /// The item is incomplete. Nothing was consumed.
    Incomplete,
    /// The item is longer than allowed, or will be. Nothing was consumed.
    TooLong,
}

/// The framer of the remembered search position: a position has no meaning for a framer with another ending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Searcher {
    #[default]
    Nobody,
    Byte(u8),
    Scan,
}

impl<'a> Input<'a> {
    /// Makes an input of `bytes`, to test a codec without a connection.
    pub fn of(bytes: &'a [u8]) -> Self {
        Input { bytes, at: 0, searched: 0, searcher: Searcher::Nobody }
    }

    /// All unread bytes, without consuming any.
    #[inline]
    pub fn as_slice(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The number of unread bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Whether all bytes have been consumed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Consumes the first `count` unread bytes.
    ///
    /// # Panics
    /// If fewer bytes are unread.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consume({count}) of an input of {} bytes", self.len());
        self.at += count;
    }

    /// Takes exactly `count` bytes, or nothing while fewer are unread. Each attempt takes O(1).
    #[inline]
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let item = self.as_slice().get(..count)?;
        self.at += count;
        Some(item)
    }

    /// Takes all unread bytes.
    #[inline]
    pub fn take_all(&mut self) -> &'a [u8] {
        let all = self.as_slice();
        self.at = self.bytes.len();
        all
    }

    /// Takes one line with its `\n`. The method has no limit of its own: the loop closes a connection that keeps more
    /// than [`Limits::input`](crate::Limits::input) bytes unread.
    #[inline]
    pub fn until_eol(&mut self) -> Option<&'a [u8]> {
        match self.until(b'\n', usize::MAX) {
            Framed::Item(line) => Some(line),
            Framed::Incomplete | Framed::TooLong => None,
        }
    }

    /// Takes one line with its ending, `\n` or `\r\n`. The line has at most `max` bytes without the ending.
    pub fn until_eol_within(&mut self, max: usize) -> Framed<'a> {
        let before = (self.at, self.as_slice());
        match self.until(b'\n', usize::MAX) {
            Framed::Item(line) => {
                let text = &line[..line.len() - 1];
                if text.strip_suffix(b"\r").unwrap_or(text).len() > max {
                    self.at = before.0;
                    return Framed::TooLong;
                }
                Framed::Item(line)
            }
            _ if before.1.strip_suffix(b"\r").unwrap_or(before.1).len() > max => Framed::TooLong,
            _ => Framed::Incomplete,
        }
    }

    /// Takes the bytes up to and including the first `byte`, at most `max` bytes in total.
    #[inline]
    pub fn until(&mut self, byte: u8, max: usize) -> Framed<'a> {
        self.search(Searcher::Byte(byte), max, |bytes, from| find_byte(byte, &bytes[from..]).map(|at| from + at + 1))
    }

    /// Takes the item that `find` finds, at most `max` bytes: a framer for any other protocol.
    ///
    /// `find(unread, from)` returns the length of the first item in `unread`, or `None` while the item has no end.
    /// Earlier calls at this place have searched the first `from` bytes without a match. Start the search at `from`,
    /// less the length of a partial ending.
    ///
    /// # Panics
    /// If `find` returns a length beyond the end of `unread`.
    pub fn scan(&mut self, max: usize, find: impl FnOnce(&[u8], usize) -> Option<usize>) -> Framed<'a> {
        self.search(Searcher::Scan, max, find)
    }

    #[inline]
    fn search(
        &mut self,
        searcher: Searcher,
        max: usize,
        find: impl FnOnce(&[u8], usize) -> Option<usize>,
    ) -> Framed<'a> {
        let unread = self.as_slice();
        let from = if self.searcher == searcher { self.searched.saturating_sub(self.at) } else { 0 };
        match find(unread, from) {
            Some(end) if end > max => Framed::TooLong,
            Some(end) => {
                // An `end` beyond the input is the caller's mistake: the panic comes before any byte is consumed.
                let item = &unread[..end];
                self.at += end;
                Framed::Item(item)
            }
            None => {
                self.searched = self.bytes.len();
                self.searcher = searcher;
                if unread.len() > max { Framed::TooLong } else { Framed::Incomplete }
            }
        }
    }
}

/// Bytes that a handler has left unread, and how far they have been searched.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    /// Consumed bytes at the beginning that are still in the buffer. They are removed when half of the buffer is
    /// consumed, so consuming takes linear time, too.
    start: usize,
    searched: usize,
    searcher: Searcher,
}

impl Kept {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Bytes of memory in use, including consumed bytes that are still in the buffer.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Keeps the unread bytes of `input`, which was lent from another buffer. This buffer must be empty.
    pub(crate) fn keep(&mut self, input: &Input<'_>) {
        debug_assert_eq!(self.bytes.len(), 0);
        self.bytes.extend_from_slice(input.as_slice());
        self.searched = input.searched.saturating_sub(input.at);
        self.searcher = input.searcher;
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Lends all kept bytes.
    pub(crate) fn lend(&self) -> Input<'_> {
        Input { bytes: &self.bytes, at: self.start, searched: self.searched, searcher: self.searcher }
    }

    /// Returns the unread bytes of `input` if the handler has replaced the lent input by another; `None` for the lent
    /// input itself. The positions of a replacement have no meaning for this buffer.
    pub(crate) fn replacement(&self, input: &Input<'_>) -> Option<Vec<u8>> {
        let is_own = std::ptr::eq(input.bytes, &self.bytes[..]);
        (!is_own).then(|| input.as_slice().to_vec())
    }

    /// Replaces the kept bytes.
    pub(crate) fn replace(&mut self, bytes: &[u8]) {
        self.clear();
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the lent input back. `left` is the result of [`Input::left`].
    pub(crate) fn settle(&mut self, left: Left) {
        self.start = left.at;
        self.searched = left.searched;
        self.searcher = left.searcher;
        if self.start == self.bytes.len() {
            self.clear();
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
            // A long buffer that has become short must not take more memory than is counted.
            if self.bytes.capacity() / 4 > self.bytes.len() {
                self.bytes.shrink_to(2 * self.bytes.len());
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.searched = 0;
        self.searcher = Searcher::Nobody;
    }
}

/// The position of a lent input at its return.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    at: usize,
    searched: usize,
    searcher: Searcher,
}

impl Input<'_> {
    pub(crate) fn left(&self) -> Left {
        Left { at: self.at, searched: self.searched, searcher: self.searcher }
    }

    /// Whether any byte has been consumed.
    pub(crate) fn has_consumed(&self) -> bool {
        self.at > 0
    }
}

/// Finds the first `byte` in `bytes`, eight bytes at a time. A word has a zero byte exactly if `(w - 0x01…) & !w &
/// 0x80…` is not zero, and the lowest set bit marks the first zero byte in little-endian order.
fn find_byte(byte: u8, bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let difference = u64::from_le_bytes(*word) ^ (LOW * byte as u64);
        let zeros = difference.wrapping_sub(LOW) & !difference & HIGH;
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&b| b == byte).map(|at| words.len() * 8 + at)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_wherever_it_stands() {
        for length in 0..40 {
            for at in 0..length {
                let mut bytes = vec![0x0bu8; length];
                bytes[at] = b'\n';
                assert_eq!(find_byte(b'\n', &bytes), Some(at));
                bytes[at] = 0x8a;
                assert_eq!(find_byte(b'\n', &bytes), None);
            }
        }
    }

    #[test]
    fn a_line_limit_does_not_count_the_ending() {
        assert_eq!(Input::of(b"abc\n").until_eol_within(3), Framed::Item(b"abc\n"));
        assert_eq!(Input::of(b"abc\r\n").until_eol_within(3), Framed::Item(b"abc\r\n"));
        assert_eq!(Input::of(b"abc\r").until_eol_within(3), Framed::Incomplete);
        assert_eq!(Input::of(b"abcd").until_eol_within(3), Framed::TooLong);
        assert_eq!(Input::of(b"abcd\n").until_eol_within(3), Framed::TooLong);
        assert_eq!(Input::of(b"abc\rd").until_eol_within(3), Framed::TooLong);
    }

    #[test]
    fn too_long_consumes_nothing() {
        let mut input = Input::of(b"abcdef\nrest");
        assert_eq!(input.until_eol_within(2), Framed::TooLong);
        assert_eq!(input.as_slice(), b"abcdef\nrest");
    }

    /// Runs a framing loop over `stream` in pieces of `size`. Returns the items, and the number of searched bytes.
    fn lines_in_pieces(stream: &[u8], size: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut kept, mut lines, mut searched) = (Kept::default(), Vec::new(), 0);
        for piece in stream.chunks(size) {
            kept.append(piece);
            let mut input = kept.lend();
            while let Framed::Item(line) = input.scan(1 << 20, |bytes, from| {
                let found = find_byte(b'\n', &bytes[from..]).map(|at| from + at + 1);
                searched += found.unwrap_or(bytes.len()) - from;
                found
            }) {
                lines.push(line.to_vec());
            }
            let left = input.left();
            kept.settle(left);
        }
        (lines, searched)
    }

    #[test]
    fn every_split_gives_the_same_lines() {
        let stream = b"one\n\nthree is longer\r\nfour\n";
        let whole = lines_in_pieces(stream, stream.len()).0;
        assert_eq!(whole.len(), 4);
        for size in 1..stream.len() {
            assert_eq!(lines_in_pieces(stream, size).0, whole, "pieces of {size}");
        }
    }

    #[test]
    fn framing_a_byte_at_a_time_searches_each_byte_once() {
        let mut stream = vec![b'x'; if cfg!(miri) { 500 } else { 20_000 }];
        stream.push(b'\n');
        assert_eq!(lines_in_pieces(&stream, 1).1, stream.len());
    }

    #[test]
    fn consuming_a_long_tail_item_by_item_moves_each_byte_a_bounded_number_of_times() {
        let mut kept = Kept::default();
        kept.append(&[b'x'; 1 << 16]);
        let mut total = 0;
        while kept.len() > 0 {
            let mut input = kept.lend();
            total += input.take(16).unwrap().len();
            let left = input.left();
            kept.settle(left);
        }
        assert_eq!(total, 1 << 16);
    }

    #[test]
    fn a_search_position_means_nothing_to_another_framer() {
        let mut kept = Kept::default();
        kept.append(b"a;b");
        let mut input = kept.lend();
        assert_eq!(input.until(b'\n', 100), Framed::Incomplete);
        let left = input.left();
        kept.settle(left);
        assert_eq!(kept.lend().until(b';', 100), Framed::Item(b"a;"));
    }
}
