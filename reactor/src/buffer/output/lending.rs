//! An output as encoders and their tests need it: room to write into, and a copy of all that was put.

use std::io;

use super::{Output, Piece};

impl Output {
    /// Lends room for at most `max` bytes and appends as many as `encode` returns.
    pub(in crate::buffer) fn put_with(&mut self, max: usize, encode: impl FnOnce(&mut [u8]) -> usize) -> usize {
        if self.behind.is_some() || !self.fits(max) {
            // The bytes have another place, or only some of the room is allowed.
            let mut room = vec![0; max];
            let length = encode(&mut room);
            check(length, max);
            self.put(&room[..length]);
            return length;
        }
        let end = self.copied.len();
        let mut room = Room { copied: &mut self.copied, end };
        room.copied.resize(end + max, 0);
        let length = encode(&mut room.copied[end..]);
        check(length, max);
        room.end = end + length;
        length
    }

    /// Appends a copy of all bytes that have not left to `all`.
    pub(super) fn copy_into(&self, all: &mut Vec<u8>) -> io::Result<()> {
        let mut copied = &self.copied[self.sent..];
        for piece in &self.pieces {
            match piece {
                Piece::Copied(count) => {
                    let (bytes, rest) = copied.split_at(*count);
                    all.extend_from_slice(bytes);
                    copied = rest;
                }
                Piece::Shared(payload) => all.extend_from_slice(payload),
                Piece::File(part) => part.read_into(all)?,
            }
        }
        all.extend_from_slice(copied);
        self.behind.as_ref().map_or(Ok(()), |behind| behind.copy_into(all))
    }
}

fn check(length: usize, max: usize) {
    assert!(length <= max, "an encoder returned {length} for the bytes that it has written into room for {max}");
}

/// Room at the end of the copied bytes. When it goes, also by a panic, the bytes from `end` on are cut off.
struct Room<'a> {
    copied: &'a mut Vec<u8>,
    end: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.copied.truncate(self.end);
    }
}
