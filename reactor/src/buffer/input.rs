//! The unread bytes of one connection, lent to its handler, and the rest that the handler leaves unread.
//!
//! Framing takes linear time: the searched length is kept beside the bytes, so the bytes of a slow peer are not
//! searched again with each new byte. `kept` has the bytes between callbacks.

mod kept;

use std::sync::Arc;

use bytes::Bytes;

use super::SHARE_MIN;

pub(crate) use kept::Kept;

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
    /// The position up to which bytes have to be there before the next callback; never before the end of `bytes`.
    wanted: usize,
    /// The kept buffer behind `bytes`. `None` for bytes in the receive buffer.
    buffer: Option<&'a Arc<Vec<u8>>>,
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
        Input { bytes, at: 0, searched: 0, searcher: Searcher::Nobody, wanted: bytes.len(), buffer: None }
    }

    /// Returns all unread bytes, the oldest first, without consuming any.
    #[inline]
    pub fn as_slice(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Number of bytes that have arrived and are not consumed yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Whether every byte that has arrived is consumed.
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

    /// Takes all unread bytes at once, however many have arrived; an empty slice if there are none.
    #[inline]
    pub fn take_all(&mut self) -> &'a [u8] {
        let all = self.as_slice();
        self.at = self.bytes.len();
        all
    }

    /// Takes exactly `count` bytes as a value of their own, or nothing while there are fewer: see [`share`](Self::share).
    ///
    /// ```
    /// use reactor::Input;
    /// let mut input = Input::of(b"hello, world");
    /// assert_eq!(input.take_bytes(5).unwrap(), "hello");
    /// assert_eq!(input.take_bytes(5000), None);
    /// assert_eq!(input.len(), 7);
    /// ```
    pub fn take_bytes(&mut self, count: usize) -> Option<Bytes> {
        let item = self.take(count)?;
        Some(self.share(item))
    }

    /// An item of this input as a value that outlives the callback.
    ///
    /// A large item that came in several pieces is not copied: the value shares the buffer of the kept pieces. Items of less than 4 KiB
    /// are copied, and items of less than a quarter of the buffer, whose value would hold four times its own memory. So are items that
    /// arrived in one piece, because the loop receives into that buffer for the next connection. The memory of a value belongs to the
    /// handler, and does not count against [`Application::memory`](crate::Application::memory).
    ///
    /// ```
    /// use reactor::{Bytes, Framed, Input};
    /// let mut input = Input::of(b"SET name;value");
    /// let Framed::Item(command) = input.until(b';', 100) else { panic!() };
    /// let name: Bytes = input.share(&command[4..8]);
    /// assert_eq!(name, "name");
    /// ```
    pub fn share(&self, item: &[u8]) -> Bytes {
        match self.buffer {
            Some(buffer) if item.len() >= SHARE_MIN && item.len() >= buffer.len() / 4 => kept::share(buffer, item),
            _ => Bytes::copy_from_slice(item),
        }
    }

    /// Requests `count` unread bytes, and returns whether so many are unread. While fewer bytes are unread, the handler is not called for
    /// input. The end of the input is reported with any number of bytes.
    ///
    /// A handler of long items requests the length of an item, or a lower bound of the length, and then sees the pieces of an item
    /// once. Of several requests in a callback the furthest position counts. A request holds until the next callback. A connection that keeps
    /// more than [`Limits::input`](crate::Limits::input) bytes ends with [`CloseReason::InputOverflow`](crate::CloseReason::InputOverflow). [`Context::offer_again`](crate::Context::offer_again)
    /// and the end of a pause do not bring fewer bytes either.
    ///
    /// ```
    /// use reactor::Input;
    ///
    /// /// Records of 4,096 bytes.
    /// fn records(input: &mut Input<'_>) -> usize {
    ///     let mut count = 0;
    ///     while input.need(4096) {
    ///         input.consume(4096);
    ///         count += 1;
    ///     }
    ///     count
    /// }
    /// assert_eq!(records(&mut Input::of(&[0; 10_000])), 2);
    /// ```
    #[inline]
    pub fn need(&mut self, count: usize) -> bool {
        self.wanted = self.wanted.max(self.at.saturating_add(count));
        count <= self.len()
    }

    /// Reads an item of several parts completely, or not at all. Unless `read` returns `Ok(Some(_))`, the bytes that `read` has
    /// consumed are unread again. Requests of `read` for bytes ([`need`](Self::need)) stay.
    ///
    /// With new bytes the item is read again from its first part. For items of many parts, `read` requests the least length of the
    /// rest, so that there are few attempts.
    ///
    /// ```
    /// use reactor::{Input, LengthPrefix, FrameError};
    ///
    /// /// A key and a value, each after its length.
    /// fn pair<'a>(input: &mut Input<'a>) -> Result<Option<(&'a [u8], &'a [u8])>, FrameError> {
    ///     let part = LengthPrefix::u8(255);
    ///     input.whole(|input| {
    ///         let Some(key) = part.decode(input)? else { return Ok(None) };
    ///         let Some(value) = part.decode(input)? else { return Ok(None) };
    ///         Ok(Some((key.body, value.body)))
    ///     })
    /// }
    /// assert_eq!(pair(&mut Input::of(b"\x03key\x05va")), Ok(None));
    /// assert_eq!(pair(&mut Input::of(b"\x03key\x05value")), Ok(Some((&b"key"[..], &b"value"[..]))));
    /// ```
    pub fn whole<T, E>(&mut self, read: impl FnOnce(&mut Input<'a>) -> Result<Option<T>, E>) -> Result<Option<T>, E> {
        let at = self.at;
        let outcome = read(self);
        if !matches!(outcome, Ok(Some(_))) && self.at != at {
            self.at = at;
            // The vain search began at a later position.
            self.searcher = Searcher::Nobody;
        }
        outcome
    }

    /// Takes the next line, including its `\n`. The method has no limit of its own: the loop closes a connection that keeps more
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
        let (at, unread) = (self.at, self.as_slice());
        let found = self.until(b'\n', usize::MAX);
        let text = match found {
            // Short enough even with its ending.
            Framed::Item(line) if line.len() <= max => return found,
            Framed::Item(line) => &line[..line.len() - 1],
            Framed::Incomplete | Framed::TooLong => unread,
        };
        if text.strip_suffix(b"\r").unwrap_or(text).len() > max {
            self.at = at;
            return Framed::TooLong;
        }
        found
    }

    /// Takes the bytes up to and including the first `byte`, at most `max` bytes in total.
    #[inline]
    pub fn until(&mut self, byte: u8, max: usize) -> Framed<'a> {
        // A handler asks once more after its last item, and mostly nothing is left.
        if self.is_empty() {
            return Framed::Incomplete;
        }
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

    // Inlined by force, like `find_byte`: a call takes as many instructions as the search of a short line.
    #[inline(always)]
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

/// Finds the first `byte` in `bytes`, eight bytes at a time. A word has a zero byte exactly if `(w - 0x01…) & !w &
/// 0x80…` is not zero, and the lowest set bit marks the first zero byte in little-endian order.
#[inline(always)]
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
    fn whatever_is_put_back_is_searched_again() {
        let mut input = Input::of(b"one\ntwo");
        let nothing = input.whole(|input| {
            assert_eq!(input.until_eol(), Some(&b"one\n"[..]));
            assert_eq!(input.until_eol(), None);
            Ok::<Option<()>, ()>(None)
        });
        assert_eq!((nothing, input.len()), (Ok(None), 7));
        assert_eq!(input.until_eol(), Some(&b"one\n"[..]));
    }

    /// Bytes that came in two pieces, the first of which was kept.
    fn kept(bytes: &[u8]) -> Kept {
        let mut kept = Kept::default();
        let (first, second) = bytes.split_at(bytes.len() / 2);
        kept.append(first);
        kept.append(second);
        kept
    }

    #[test]
    fn a_large_item_that_was_kept_is_shared_and_outlives_the_buffer() {
        let bytes: Vec<u8> = (0..20_000u32).map(|at| at as u8).collect();
        let mut kept = kept(&bytes);
        let mut input = kept.lend();
        let start = input.as_slice().as_ptr();
        let item = input.take_bytes(15_000).unwrap();
        assert_eq!(item.as_ptr(), start, "no copy");
        let small = input.take_bytes(100).unwrap();
        assert_ne!(small.as_ptr(), start.wrapping_add(15_000), "a value of 100 bytes would hold 20,000");
        let left = input.left();
        kept.settle(left);
        kept.append(b"more");
        assert_eq!(item, bytes[..15_000]);
        assert_eq!(small, bytes[15_000..15_100]);
        assert_eq!(kept.lend().as_slice(), [&bytes[15_100..], b"more"].concat());
        kept.clear();
        assert_eq!(item, bytes[..15_000]);
    }

    #[test]
    fn an_item_is_shared_from_4_kib_and_a_quarter_of_its_buffer_on() {
        for (buffer, item, is_shared) in [
            (16_384, 4096, true),
            (16_388, 4096, false),
            (40_000, 9999, false),
            (40_000, 10_000, true),
            (8000, 4095, false),
        ] {
            let kept = kept(&vec![1; buffer]);
            let mut input = kept.lend();
            let start = input.as_slice().as_ptr();
            let value = input.take_bytes(item).unwrap();
            assert_eq!(value.as_ptr() == start, is_shared, "{item} of {buffer}");
        }
    }

    #[test]
    fn a_part_of_another_buffer_is_copied() {
        let (kept, other) = (kept(&[1; 8000]), [2; 8000]);
        assert_eq!(kept.lend().share(&other), other[..]);
        assert_eq!(Input::of(&other).share(&other), other[..]);
    }

    #[test]
    fn the_buffer_is_written_to_in_place_again_once_nobody_has_bytes_of_it() {
        let mut kept = kept(&[1; 8000]);
        let address = kept.lend().as_slice().as_ptr();
        let mut input = kept.lend();
        drop(input.take_bytes(8000).unwrap());
        let left = input.left();
        kept.settle(left);
        kept.append(&[2; 100]);
        assert_eq!(kept.lend().as_slice().as_ptr(), address);
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
