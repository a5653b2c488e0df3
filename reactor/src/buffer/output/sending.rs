//! Sends an output to the kernel: returns the next bytes, and removes the sent ones.

use std::io::IoSlice;

use super::{Output, Piece};
use crate::buffer::file::FilePart;

/// Sent bytes that may stay in the buffer: up to this number, moving the unsent bytes costs more.
const RECLAIM_MIN: usize = 64 * 1024;

impl Output {
    /// Returns all queued bytes if all are copied, the case of nearly every answer.
    #[inline]
    pub(crate) fn plain(&self) -> Option<&[u8]> {
        let bytes = self.copied.get(self.run..)?;
        ((self.ahead == 0) & self.behind.is_none() & !self.overflowed & !bytes.is_empty()).then_some(bytes)
    }

    /// Returns the bytes of `plain` if they do not exceed the high-water mark.
    #[inline]
    pub(crate) fn answer(&self) -> Option<&[u8]> {
        self.plain().filter(|bytes| bytes.len() <= self.high)
    }

    /// Notes that all bytes of `plain` have left.
    #[inline]
    pub(crate) fn plain_left(&mut self) {
        self.copied.clear();
        (self.sent, self.run, self.bounded) = (0, 0, false);
    }

    /// Returns the next bytes to send if they are in one piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        if let Some(behind) = &self.behind {
            return if self.of_head() == 0 { behind.single() } else { None };
        }
        match self.pieces.front() {
            None => Some(&self.copied[self.sent..]),
            Some(Piece::Shared(bytes)) if self.ahead == bytes.len() && self.run == self.copied.len() => Some(bytes),
            Some(_) => None,
        }
    }

    /// Returns the next bytes to send if they are in one piece before a part of a file.
    #[inline]
    pub(crate) fn before_file(&self) -> Option<&[u8]> {
        match (self.pieces.front(), self.pieces.get(1)) {
            (Some(Piece::Copied(length)), Some(Piece::File(_))) => Some(&self.copied[self.sent..][..*length]),
            _ => None,
        }
    }

    /// Fills `slices` with the next bytes to send, up to a notice of missed messages. Returns the number of filled
    /// slices.
    pub(crate) fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        let (mut filled, mut at) = (0, self.sent);
        let pieces = self.pieces.iter().map(Some).chain(std::iter::once(None));
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            let bytes = match piece {
                Some(Piece::File(_)) => return filled,
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
        match &self.behind {
            Some(behind) => filled + behind.gather(&mut slices[filled..]),
            None => filled,
        }
    }

    /// Returns a copy of the bytes that the driver offers in its next send. For models.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn offered(&self) -> Vec<u8> {
        if let Some(bytes) = self.single() {
            return bytes.to_vec();
        }
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = self.gather(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    /// Returns the next piece if it is a part of a file.
    pub(crate) fn file(&self) -> Option<&FilePart> {
        match self.pieces.front() {
            Some(Piece::File(part)) => Some(part),
            Some(_) => None,
            None if self.copied.len() > self.run => None,
            None => self.behind.as_ref()?.file(),
        }
    }

    /// Returns the part of a file that has stopped [`Output::gather`].
    pub(crate) fn file_behind(&self) -> Option<&FilePart> {
        self.pieces.iter().find_map(|piece| if let Piece::File(part) = piece { Some(part) } else { None })
    }

    /// Whether a part of a file is queued; then earlier bytes are better sent together with the file.
    pub(crate) fn has_file(&self) -> bool {
        self.filed > 0
    }

    /// Notes that the first `count` bytes have left.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.queued());
        if self.ahead != 0 || self.behind.is_some() {
            return self.advance_past(count);
        }
        self.run += count;
        self.sent = self.run;
        self.reclaim();
    }

    fn advance_past(&mut self, count: usize) {
        let of_head = count.min(self.of_head());
        self.advance_pieces(of_head);
        if let Some(mut behind) = self.behind.take() {
            behind.advance(count - of_head, self);
            self.behind = Some(behind);
            self.put_empty_backlog_away();
        }
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
                    bytes.advance(step);
                    if bytes.is_empty() {
                        self.pieces.pop_front();
                    }
                    step
                }
                Some(Piece::File(part)) => {
                    let step = left.min(part.length());
                    part.advance(step);
                    self.filed -= step;
                    if part.length() == 0 {
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

    /// Reuses the memory of sent bytes.
    #[inline]
    fn reclaim(&mut self) {
        if self.sent == self.copied.len() {
            self.copied.clear();
            (self.sent, self.run) = (0, 0);
        } else if self.sent > RECLAIM_MIN && self.sent > self.copied.len() / 2 {
            // A peer that is always a little behind would otherwise make the sent part grow without limit. Amortised
            // O(1).
            self.copied.drain(..self.sent);
            self.run -= self.sent;
            self.sent = 0;
            // A long queue that has become short must not take more memory than is counted.
            if self.copied.capacity() / 4 > self.copied.len() {
                self.copied.shrink_to(2 * self.copied.len());
            }
        }
    }
}
