//! A queue of bytes in blocks of one size.
//!
//! A ring that doubles would copy its content each time, and leave holes that no later ring fits into: thousands of
//! queues that grow together would take twice their content. Freed blocks fit every queue.

use std::collections::VecDeque;

/// Size of a block in bytes: a page of 4,096, less 16 for the allocator.
const BLOCK: usize = 4080;
/// Capacity of a new queue. The first block doubles up to [`BLOCK`].
const FIRST: usize = 128;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// All blocks but the last are full. A single block may be empty.
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the first block that have been taken.
    begin: usize,
    length: usize,
}

impl Blocks {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            if self.blocks.back().is_none_or(|last| last.len() == BLOCK) {
                self.blocks.push_back(Vec::new());
            }
            let is_first = self.blocks.len() == 1;
            let Some(last) = self.blocks.back_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - last.len()));
            let needed = last.len() + now.len();
            if needed > last.capacity() {
                let wanted = if is_first { needed.max(FIRST).max(2 * last.capacity()).min(BLOCK) } else { BLOCK };
                last.reserve_exact(wanted - last.len());
            }
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    /// All bytes, one piece for each block.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = self.begin;
        let each = self.blocks.iter().map(move |block| &block[std::mem::take(&mut begin)..]);
        each.filter(|piece| !piece.is_empty())
    }

    /// Returns all bytes, if the bytes are in one piece.
    pub(super) fn single(&self) -> Option<&[u8]> {
        let mut pieces = self.pieces();
        let first = pieces.next()?;
        pieces.next().is_none().then_some(first)
    }

    /// Takes the first `count` bytes, and hands each piece to `to`.
    pub(super) fn take(&mut self, mut count: usize, mut to: impl FnMut(&[u8])) {
        self.length -= count;
        while count > 0
            && let Some(first) = self.blocks.front_mut()
        {
            let end = first.len().min(self.begin + count);
            to(&first[self.begin..end]);
            count -= end - self.begin;
            self.begin = end;
            if end == first.len() {
                self.begin = 0;
                match self.blocks.len() {
                    1 => self.blocks[0].clear(),
                    _ => drop(self.blocks.pop_front()),
                }
            }
        }
    }

    /// Bytes of memory.
    pub(super) fn capacity(&self) -> usize {
        let last = self.blocks.back().map_or(0, Vec::capacity);
        self.blocks.len().saturating_sub(1) * BLOCK + last + self.blocks.capacity() * size_of::<Vec<u8>>()
    }

    /// Gives back unused memory.
    pub(super) fn shrink_to_fit(&mut self) {
        if self.length == 0 {
            self.blocks.clear();
        } else if let Some(last) = self.blocks.back_mut() {
            last.shrink_to_fit();
        }
        self.blocks.shrink_to_fit();
    }

    /// Removes all bytes. The first block stays, for reuse.
    pub(super) fn clear(&mut self) {
        self.blocks.truncate(1);
        if let Some(first) = self.blocks.front_mut() {
            first.clear();
        }
        (self.begin, self.length) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_however_it_is_cut(
            steps in prop::collection::vec((any::<bool>(), 0..3 * BLOCK), 1..40),
        ) {
            let (mut blocks, mut model, mut next) = (Blocks::default(), VecDeque::new(), 0u8);
            for (puts, count) in steps {
                if puts {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    blocks.extend(&bytes);
                    model.extend(bytes);
                } else {
                    let (count, mut taken) = (count.min(model.len()), Vec::new());
                    blocks.take(count, |bytes| taken.extend_from_slice(bytes));
                    prop_assert_eq!(taken, model.drain(..count).collect::<Vec<u8>>());
                }
                prop_assert_eq!(blocks.len(), model.len());
                prop_assert_eq!(blocks.pieces().collect::<Vec<_>>().concat(), model.iter().copied().collect::<Vec<_>>());
                let held: usize = blocks.blocks.iter().map(Vec::capacity).sum();
                prop_assert_eq!(blocks.capacity(), held + blocks.blocks.capacity() * size_of::<Vec<u8>>());
                prop_assert!(held <= blocks.len() + 2 * BLOCK);
            }
            blocks.clear();
            prop_assert!(blocks.single().is_none() && blocks.capacity() <= BLOCK + blocks.blocks.capacity() * 24);
        }
    }

    #[test]
    fn a_short_queue_takes_little_and_an_empty_one_nothing() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.capacity(), 0);
        blocks.extend(b"short");
        assert_eq!((blocks.single(), blocks.capacity() < 256), (Some(&b"short"[..]), true));
        blocks.take(5, |_| {});
        blocks.shrink_to_fit();
        assert_eq!(blocks.capacity(), 0);
    }

    #[test]
    fn the_first_block_doubles_when_it_is_full_and_stays_when_it_is_empty() {
        let mut blocks = Blocks::default();
        let places = |blocks: &Blocks| blocks.blocks.capacity() * size_of::<Vec<u8>>();
        for (more, capacity) in [(100, FIRST), (28, FIRST), (1, 2 * FIRST), (127, 2 * FIRST), (1, 4 * FIRST)] {
            blocks.extend(&vec![0; more]);
            assert_eq!(blocks.capacity() - places(&blocks), capacity);
        }
        blocks.take(blocks.len(), |_| {});
        assert_eq!(blocks.capacity() - places(&blocks), 4 * FIRST);
    }
}
