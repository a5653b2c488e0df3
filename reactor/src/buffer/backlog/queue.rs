//! A queue of the backlog: items in order, and the copied bytes of all items in one sequence.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::buffer::blocks::Blocks;
use crate::buffer::file::FilePart;
use crate::buffer::payload::Payload;

/// Number of items that one send visits at most. Short items rarely fill a send, and the bound keeps sending linear.
const GATHERED_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    /// The bytes of all copied items.
    pub(super) copied: Blocks,
    pub(super) length: usize,
    /// The part of `length` that belongs to files, which take no memory.
    pub(super) filed: usize,
    /// Number of shared items at the end that the memory budget has not counted; some may have left since.
    pub(super) uncounted: usize,
}

/// An item. `message`: a published message; other bytes were written by the handler to this peer alone.
#[derive(Debug)]
pub(super) enum Item {
    Copied {
        message: bool,
        length: usize,
    },
    /// Boxed, because this kind is rare and items should stay small.
    Shared {
        message: bool,
        bytes: Box<Payload>,
    },
    /// Never a message.
    File(Box<FilePart>),
    /// The place of this many dropped messages.
    Missed(u64),
}

impl Item {
    pub(super) fn length(&self) -> usize {
        match self {
            Item::Copied { length, .. } => *length,
            Item::Shared { bytes, .. } => bytes.len(),
            Item::File(part) => part.length(),
            Item::Missed(_) => 0,
        }
    }

    pub(super) fn is_message(&self) -> bool {
        matches!(self, Item::Copied { message: true, .. } | Item::Shared { message: true, .. })
    }
}

impl Queue {
    pub(super) fn miss(&mut self, count: u64) {
        match self.items.back_mut() {
            Some(Item::Missed(before)) => *before += count,
            _ => self.items.push_back(Item::Missed(count)),
        }
    }

    /// Subtracts an item from the counts, and drops its bytes if they are copied. The item must be the first.
    pub(super) fn forget(&mut self, item: &Item) {
        self.hand_over(item, |_| {});
    }

    /// Subtracts an item from the counts, and passes its bytes to `to` if they are copied.
    pub(super) fn hand_over(&mut self, item: &Item, to: impl FnMut(&[u8])) {
        self.length -= item.length();
        if let Item::File(part) = item {
            self.filed -= part.length();
        }
        if let Item::Copied { length, .. } = *item {
            self.copied.take(length, to);
        }
    }

    /// Appends a copy of all bytes, those in files included, to `all`.
    pub(super) fn copy_into(&self, all: &mut Vec<u8>) -> io::Result<()> {
        let copied: Vec<u8> = self.copied.pieces().flatten().copied().collect();
        let mut copied = &copied[..];
        for item in &self.items {
            match item {
                Item::Copied { length, .. } => {
                    let (bytes, rest) = copied.split_at(*length);
                    all.extend_from_slice(bytes);
                    copied = rest;
                }
                Item::Shared { bytes, .. } => all.extend_from_slice(bytes),
                Item::File(part) => part.read_into(all)?,
                Item::Missed(_) => {}
            }
        }
        Ok(())
    }

    /// Fills `slices`. Returns the number of filled slices, and whether they hold the whole queue.
    pub(super) fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> (usize, bool) {
        let (mut pieces, mut piece) = (self.copied.pieces(), &b""[..]);
        let (mut filled, mut run) = (0, 0);
        // A run of copied bytes is one slice for each block that the run touches.
        let mut flush = |slices: &mut [IoSlice<'s>], filled: &mut usize, run: &mut usize| {
            while *run > 0 && *filled < slices.len() {
                if piece.is_empty() {
                    piece = pieces.next().unwrap_or_default();
                }
                let (bytes, rest) = piece.split_at(piece.len().min(*run));
                slices[*filled] = IoSlice::new(bytes);
                (*filled, *run, piece) = (*filled + 1, *run - bytes.len(), rest);
            }
            *run == 0
        };
        for item in self.items.iter().take(GATHERED_MAX) {
            match item {
                Item::Copied { length, .. } => run += length,
                Item::Shared { bytes, .. } => {
                    if !flush(slices, &mut filled, &mut run) || filled == slices.len() {
                        return (filled, false);
                    }
                    slices[filled] = IoSlice::new(bytes);
                    filled += 1;
                }
                Item::File(_) | Item::Missed(_) => {
                    flush(slices, &mut filled, &mut run);
                    return (filled, false);
                }
            }
        }
        let whole = flush(slices, &mut filled, &mut run);
        (filled, whole && self.items.len() <= GATHERED_MAX)
    }
}
