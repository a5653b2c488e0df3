//! What a connection still owes its peer: bytes that were copied, and large ones that are shared, in order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

/// From this many bytes on, sharing beats copying: gathering two pieces in one call costs 2 to 8 % of a send, which is
/// what copying 4 KiB costs.
pub(crate) const SHARE_MIN: usize = 4096;
/// Sent bytes that are not worth moving the others for.
const RECLAIM_MIN: usize = 64 * 1024;

/// The queue of bytes that a connection owes its peer. Small pieces are copied together, large ones shared.
///
/// What is put in a callback leaves after it, in one send. [`Context::write`](crate::Context::write) is the short way;
/// this is for encoders, which put many pieces: it is an [`io::Write`] that never fails, so `write!` works on it.
///
/// ```
/// use reactor::Output;
/// use std::io::Write;
/// fn encode(number: u32, output: &mut Output) {
///     write!(output, "{number}\r\n").unwrap();
/// }
/// let mut output = Output::default();
/// encode(7, &mut output);
/// assert_eq!(output.queued(), 3);
/// ```
#[derive(Debug)]
pub struct Output {
    /// All copied bytes, in order; those before `sent` have left.
    copied: Vec<u8>,
    sent: usize,
    /// What comes before the last run of copied bytes, and how many bytes that is. Nothing while nothing is shared,
    /// which is nearly always.
    pieces: VecDeque<Piece>,
    ahead: usize,
    /// Where the last run begins in `copied`.
    run: usize,
    max: usize,
    overflowed: bool,
}

#[derive(Debug)]
enum Piece {
    /// This many of the copied bytes.
    Copied(usize),
    Shared(Bytes),
}

impl Default for Output {
    fn default() -> Self {
        Output {
            copied: Vec::new(),
            sent: 0,
            pieces: VecDeque::new(),
            ahead: 0,
            run: 0,
            max: usize::MAX,
            overflowed: false,
        }
    }
}

impl Output {
    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if self.admits(bytes.len()) {
            self.copied.extend_from_slice(bytes);
        }
    }

    /// Appends `bytes` without copying them, if they are many enough (4 KiB) for that to pay.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_MIN {
            return self.put(&bytes);
        }
        if self.admits(bytes.len()) {
            let run = self.copied.len() - self.run;
            if run > 0 {
                self.pieces.push_back(Piece::Copied(run));
                self.run = self.copied.len();
            }
            self.ahead += run + bytes.len();
            self.pieces.push_back(Piece::Shared(bytes));
        }
    }

    /// Bytes that have not left yet.
    #[inline]
    pub fn queued(&self) -> usize {
        self.ahead + self.copied.len() - self.run
    }

    /// Whether nothing is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queued() == 0
    }

    /// One item is always taken when nothing is owed; past the limit nothing is, and the connection is going to end.
    #[inline]
    fn admits(&mut self, more: usize) -> bool {
        let queued = self.queued();
        if self.overflowed || (queued > 0 && queued.saturating_add(more) > self.max) {
            self.overflowed = true;
            return false;
        }
        true
    }

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    pub(crate) fn capacity(&self) -> usize {
        self.copied.capacity()
    }

    /// The bytes to send next, when they stand in one piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        match self.pieces.front() {
            None => Some(&self.copied[self.sent..]),
            Some(Piece::Shared(bytes)) if self.ahead == bytes.len() && self.run == self.copied.len() => Some(bytes),
            Some(_) => None,
        }
    }

    /// The bytes to send next, as far as `slices` go; how many slices were filled.
    pub(crate) fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        let (mut filled, mut at) = (0, self.sent);
        let room = slices.len();
        let pieces = self.pieces.iter().map(Some).chain(std::iter::once(None));
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            let bytes = match piece {
                Some(Piece::Shared(bytes)) => &bytes[..],
                Some(Piece::Copied(length)) => {
                    at += length;
                    &self.copied[at - length..at]
                }
                None => &self.copied[self.run..],
            };
            *slot = IoSlice::new(bytes);
            filled += usize::from(!bytes.is_empty());
        }
        debug_assert!(filled <= room);
        filled
    }

    /// Notes that the first `count` bytes have left.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.queued());
        if self.ahead > 0 {
            return self.advance_pieces(count);
        }
        self.run += count;
        self.sent = self.run;
        self.reclaim();
    }

    fn advance_pieces(&mut self, mut left: usize) {
        while left > 0 {
            let step = match self.pieces.front_mut() {
                None => {
                    self.run += left;
                    self.sent = self.run;
                    break;
                }
                Some(Piece::Copied(length)) => {
                    let step = left.min(*length);
                    *length -= step;
                    self.sent += step;
                    if *length == 0 {
                        self.pieces.pop_front();
                    }
                    step
                }
                Some(Piece::Shared(bytes)) => {
                    let step = left.min(bytes.len());
                    bytes::Buf::advance(bytes, step);
                    if bytes.is_empty() {
                        self.pieces.pop_front();
                    }
                    step
                }
            };
            left -= step;
            self.ahead -= step;
        }
        self.reclaim();
    }

    /// Uses the room of what has left again.
    #[inline]
    fn reclaim(&mut self) {
        if self.sent == self.copied.len() {
            self.copied.clear();
            (self.sent, self.run) = (0, 0);
        } else if self.sent > RECLAIM_MIN && self.sent > self.copied.len() / 2 {
            // A peer that never quite catches up would otherwise make the sent part grow for ever. Amortised O(1).
            self.copied.drain(..self.sent);
            self.run -= self.sent;
            self.sent = 0;
        }
    }

    /// Forgets what is owed.
    pub(crate) fn clear(&mut self) {
        self.copied.clear();
        self.pieces.clear();
        (self.sent, self.run, self.ahead, self.overflowed) = (0, 0, 0, false);
    }
}

impl io::Write for Output {
    /// Takes all of `bytes`, like [`Output::put`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod model;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends everything in steps of at most `step` bytes, as a kernel would take it, and returns what arrived.
    fn drain(output: &mut Output, step: usize) -> Vec<u8> {
        let mut arrived = Vec::new();
        while !output.is_empty() {
            let mut taken = Vec::new();
            if let Some(bytes) = output.single() {
                taken.extend_from_slice(bytes);
            } else {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = output.gather(&mut slices);
                slices[..filled].iter().for_each(|slice| taken.extend_from_slice(slice));
            }
            taken.truncate(step);
            assert!(!taken.is_empty());
            output.advance(taken.len());
            arrived.extend(taken);
        }
        arrived
    }

    #[test]
    fn copied_and_shared_bytes_leave_in_order_whatever_the_kernel_takes() {
        // Miri would take minutes over single bytes.
        for step in [1, 7, 4096, 5000, usize::MAX].into_iter().skip(if cfg!(miri) { 2 } else { 0 }) {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for round in 0..6u8 {
                let small = vec![round; 5 + round as usize];
                let large = Bytes::from(vec![100 + round; SHARE_MIN + round as usize]);
                expected.extend_from_slice(&small);
                expected.extend_from_slice(&large);
                output.put(&small);
                output.put_shared(large.clone());
                if round % 2 == 0 {
                    output.put_shared(large.clone());
                    expected.extend_from_slice(&large);
                }
            }
            output.put(b"end");
            expected.extend_from_slice(b"end");
            assert_eq!(output.queued(), expected.len());
            assert_eq!(drain(&mut output, step), expected, "step {step}");
            assert_eq!((output.queued(), output.ahead, output.run, output.sent), (0, 0, 0, 0));
        }
    }

    #[test]
    fn small_shared_bytes_are_copied_together_into_one_piece() {
        let mut output = Output::default();
        output.put_shared(Bytes::from_static(b"a"));
        output.put(b"b");
        assert_eq!(output.single(), Some(&b"ab"[..]));
    }

    #[test]
    fn the_limit_takes_one_item_when_nothing_is_owed_and_none_past_it() {
        let mut output = Output::default();
        output.set_max(10);
        output.put(&[0; 50]);
        assert_eq!((output.queued(), output.overflowed()), (50, false));
        output.put(b"x");
        assert_eq!((output.queued(), output.overflowed()), (50, true));
    }

    #[test]
    fn a_peer_that_never_catches_up_does_not_make_the_sent_part_grow() {
        let mut output = Output::default();
        output.put(&[1; 1000]);
        for _ in 0..10_000 {
            output.put(&[2; 1000]);
            output.advance(1000);
        }
        assert_eq!(output.queued(), 1000);
        assert!(output.capacity() < 512 * 1024, "{}", output.capacity());
    }
}
