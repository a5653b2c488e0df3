//! Input that a handler has left unread, until more arrives.
//!
//! The bytes are in a shared buffer, so that a handler can take a large item without a copy. Without such an item the loop is the only
//! holder of the buffer, and appends in place.

use std::sync::Arc;

use bytes::Bytes;

use super::{Input, Searcher};

/// Unread bytes of a connection, and the searched length.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(super) bytes: Arc<Vec<u8>>,
    /// Consumed bytes at the beginning that are still in the buffer. They are removed when half of the buffer is
    /// consumed, so consuming takes linear time, too.
    start: usize,
    searched: usize,
    searcher: Searcher,
    /// The position up to which bytes have to be there before the handler is called.
    wanted: usize,
}

impl Kept {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether fewer bytes are unread than the handler has requested.
    pub(crate) fn is_too_short(&self) -> bool {
        self.bytes.len() < self.wanted
    }

    /// Whether no byte is unread, and no byte is requested.
    pub(crate) fn is_idle(&self) -> bool {
        self.len() == 0 && !self.is_too_short()
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
        self.append(input.as_slice());
        self.searched = input.searched.saturating_sub(input.at);
        self.searcher = input.searcher;
        self.wanted = input.wanted - input.at;
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.own(bytes.len()).extend_from_slice(bytes);
    }

    /// The buffer, to write to. While a handler holds bytes of the buffer, a new buffer with a copy of the unread bytes and room for `more`
    /// bytes replaces it.
    fn own(&mut self, more: usize) -> &mut Vec<u8> {
        if Arc::get_mut(&mut self.bytes).is_none() {
            let unread = &self.bytes[self.start..];
            let mut bytes = Vec::with_capacity(unread.len() + more);
            bytes.extend_from_slice(unread);
            self.bytes = Arc::new(bytes);
            self.searched = self.searched.saturating_sub(self.start);
            self.wanted = self.wanted.saturating_sub(self.start);
            self.start = 0;
        }
        Arc::get_mut(&mut self.bytes).expect("nobody else has the buffer")
    }

    /// Lends all kept bytes.
    pub(crate) fn lend(&self) -> Input<'_> {
        Input {
            bytes: &self.bytes,
            at: self.start,
            searched: self.searched,
            searcher: self.searcher,
            wanted: self.bytes.len(),
            buffer: Some(&self.bytes),
        }
    }

    /// Returns the unread bytes of `input` if the handler has replaced the lent input by another; `None` for the lent
    /// input itself. The positions of a replacement have no meaning for this buffer.
    pub(crate) fn replacement(&self, input: &Input<'_>) -> Option<Vec<u8>> {
        let is_own = std::ptr::eq(input.bytes, &self.bytes[..]);
        (!is_own).then(|| input.as_slice().to_vec())
    }

    /// Replaces the kept bytes by `bytes`.
    pub(crate) fn replace(&mut self, bytes: &[u8]) {
        self.clear();
        self.append(bytes);
    }

    /// Takes the lent input back: call with the answer of [`Input::left`].
    pub(crate) fn settle(&mut self, left: Left) {
        self.start = left.at;
        self.searched = left.searched;
        self.searcher = left.searcher;
        self.wanted = left.wanted;
        let length = self.bytes.len();
        if self.start == length {
            let more = self.wanted - length;
            self.clear();
            self.wanted = more;
            // A request for more bytes alone needs no buffer.
            if more > 0 {
                self.bytes = Arc::default();
            }
        } else if self.start > length / 2 {
            let start = self.start;
            let bytes = self.own(0);
            if bytes.len() == length {
                bytes.drain(..start);
                // A formerly long buffer must not take more memory than the budget counts.
                if bytes.capacity() / 4 > bytes.len() {
                    bytes.shrink_to(2 * bytes.len());
                }
                self.searched = self.searched.saturating_sub(start);
                self.wanted -= start;
                self.start = 0;
            }
        } else {
            // At once, and not with the next bytes: the old buffer then belongs to the handler alone.
            self.own(0);
        }
    }

    pub(crate) fn clear(&mut self) {
        match Arc::get_mut(&mut self.bytes) {
            Some(bytes) => bytes.clear(),
            None => self.bytes = Arc::default(),
        }
        self.start = 0;
        self.searched = 0;
        self.searcher = Searcher::Nobody;
        self.wanted = 0;
    }
}

/// The positions of a lent input after the callback.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    at: usize,
    searched: usize,
    searcher: Searcher,
    wanted: usize,
}

impl Input<'_> {
    pub(crate) fn left(&self) -> Left {
        Left { at: self.at, searched: self.searched, searcher: self.searcher, wanted: self.wanted }
    }

    /// Whether any byte has been consumed.
    pub(crate) fn has_consumed(&self) -> bool {
        self.at > 0
    }

    /// Whether no byte is unread, and no byte is requested.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.at == self.wanted
    }
}

/// Shares a part of the buffer. Copies an `item` from elsewhere.
pub(super) fn share(buffer: &Arc<Vec<u8>>, item: &[u8]) -> Bytes {
    let start = item.as_ptr().addr().wrapping_sub(buffer.as_ptr().addr());
    match start.checked_add(item.len()) {
        Some(end) if end <= buffer.len() => Bytes::from_owner(Buffer(buffer.clone())).slice(start..end),
        _ => Bytes::copy_from_slice(item),
    }
}

/// A holder of the buffer besides the loop.
struct Buffer(Arc<Vec<u8>>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer of `length` bytes, of which a handler has consumed `consumed` and asked for `more` beyond the unread.
    fn after(length: usize, consumed: usize, more: usize) -> Kept {
        let mut kept = Kept::default();
        kept.append(&vec![7; length]);
        let mut input = kept.lend();
        assert!(!input.has_consumed());
        input.consume(consumed);
        assert_eq!(input.has_consumed(), consumed > 0);
        if more > 0 {
            input.need(input.len() + more);
        }
        let left = input.left();
        kept.settle(left);
        kept
    }

    #[test]
    fn a_buffer_is_idle_when_nothing_is_unread_and_nothing_requested() {
        assert!(Kept::default().is_idle());
        assert!(!after(10, 0, 0).is_idle());
        assert!(after(10, 10, 0).is_idle());
        let waits = after(10, 10, 5);
        assert!(!waits.is_idle() && waits.is_too_short());
    }

    #[test]
    fn a_request_for_more_bytes_alone_needs_no_buffer() {
        assert_eq!(after(1000, 1000, 5).capacity(), 0);
        assert!(after(1000, 1000, 0).capacity() >= 1000);
    }

    #[test]
    fn consumed_bytes_stay_until_they_are_more_than_half() {
        for (consumed, memory) in [(0, 1000), (1, 1000), (500, 1000), (501, 499), (1000, 0)] {
            let kept = after(1000, consumed, 0);
            assert_eq!((kept.memory(), kept.len()), (memory, 1000 - consumed), "{consumed}");
        }
    }

    #[test]
    fn a_long_buffer_that_has_become_short_gives_memory_back() {
        let capacity = after(10_000, 0, 0).capacity();
        // A quarter of the capacity is not short yet.
        assert_eq!(after(10_000, 10_000 - capacity / 4, 0).capacity(), capacity);
        let short = after(10_000, 9000, 0).capacity();
        assert!((1500..=2000).contains(&short), "{short}");
    }

    #[test]
    fn another_input_takes_the_place_of_the_lent_one() {
        let mut kept = after(10, 0, 0);
        assert_eq!(kept.replacement(&kept.lend()), None);
        let other = kept.replacement(&Input::of(b"other"));
        assert_eq!(other.as_deref(), Some(&b"other"[..]));
        kept.replace(b"other");
        assert_eq!(kept.lend().as_slice(), b"other");
    }
}
