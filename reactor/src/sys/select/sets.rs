//! The sets of select(2): bitmaps of our own, as long as the highest descriptor needs, and never an `fd_set`. FD_SET on
//! descriptor 1024 writes past the end of one.

use std::os::fd::RawFd;

use super::super::Interest;

/// The word that the kernel reads the sets by (an `unsigned long`).
type Word = usize;
const BITS: usize = Word::BITS as usize;

/// The first descriptor that select(2) can't take on this system; `None`: no limit. Linux and the BSDs take any length.
pub(super) const LIMIT: Option<RawFd> = if cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)) {
    None
} else {
    Some(libc::FD_SETSIZE as RawFd)
};

/// Descriptors to read and descriptors to write, a bit each. Both sets have one length.
#[derive(Default)]
pub(super) struct Sets {
    read: Vec<Word>,
    write: Vec<Word>,
}

impl Sets {
    /// Makes both sets long enough for descriptor `number`.
    pub(super) fn make_room(&mut self, number: usize) {
        let words = self.read.len().max(number / BITS + 1);
        self.read.resize(words, 0);
        self.write.resize(words, 0);
    }

    /// Puts descriptor `number` into the sets that are wanted, and takes it out of the others.
    pub(super) fn set(&mut self, number: usize, interest: Interest) {
        let (word, bit) = (number / BITS, 1 << (number % BITS));
        for (set, wanted) in [(&mut self.read, interest.read), (&mut self.write, interest.write)] {
            set[word] = if wanted { set[word] | bit } else { set[word] & !bit };
        }
    }

    /// Whether descriptor `number` is in either set.
    pub(super) fn has(&self, number: usize) -> bool {
        (self.read[number / BITS] | self.write[number / BITS]) >> (number % BITS) & 1 == 1
    }

    /// Becomes a copy of `other` up to its highest bit. Returns the number of bits up to there.
    pub(super) fn copy(&mut self, other: &Sets) -> usize {
        let both = |word: usize| other.read[word] | other.write[word];
        let words = (0..other.read.len()).rev().find(|&word| both(word) != 0).map_or(0, |last| last + 1);
        self.read.clear();
        self.read.extend_from_slice(&other.read[..words]);
        self.write.clear();
        self.write.extend_from_slice(&other.write[..words]);
        words.checked_sub(1).map_or(0, |last| words * BITS - both(last).leading_zeros() as usize)
    }

    /// Where the kernel reads and writes the words of both sets.
    pub(super) fn as_mut_ptrs(&mut self) -> (*mut libc::fd_set, *mut libc::fd_set) {
        (self.read.as_mut_ptr().cast(), self.write.as_mut_ptr().cast())
    }

    /// Calls `tell` for each descriptor in either set, in order, from `start` on and round to it. Ends after `found` bits. 64
    /// idle descriptors cost one comparison.
    pub(super) fn each(&self, start: usize, mut found: usize, mut tell: impl FnMut(usize, Interest)) {
        let words = self.read.len();
        if words == 0 {
            return;
        }
        let origin = start % (words * BITS);
        let later = Word::MAX << (origin % BITS);
        // The word of the origin comes twice: at the beginning for its later bits, at the end for its earlier ones.
        for step in 0..=words {
            if found == 0 {
                return;
            }
            let word = (origin / BITS + step) % words;
            let (read, write) = (self.read[word], self.write[word]);
            let mut both = read | write;
            if step == 0 {
                both &= later;
            } else if step == words {
                both &= !later;
            }
            while both != 0 {
                let number = word * BITS + both.trailing_zeros() as usize;
                let bit = both & both.wrapping_neg();
                both ^= bit;
                let interest = Interest { read: read & bit != 0, write: write & bit != 0, edges: false };
                tell(number, interest);
                found -= usize::from(interest.read) + usize::from(interest.write);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Interest = Interest { read: true, write: false, edges: false };

    fn sets(numbers: &[usize], interest: Interest) -> Sets {
        let mut sets = Sets::default();
        for &number in numbers {
            sets.make_room(number);
            sets.set(number, interest);
        }
        sets
    }

    #[test]
    fn a_copy_is_as_long_as_the_highest_descriptor_needs() {
        let (mut wanted, mut copy) = (sets(&[3, 64, 1500], READ), Sets::default());
        for (length, highest) in [(1501, 1500), (65, 64), (4, 3)] {
            assert_eq!(copy.copy(&wanted), length);
            wanted.set(highest, Interest::default());
        }
        assert_eq!(copy.copy(&wanted), 0);
    }

    #[test]
    fn every_start_tells_all_descriptors_in_order_and_once() {
        let numbers = [0, 1, 62, 63, 64, 127, 128, 200];
        let both = Interest { read: true, write: true, edges: false };
        for start in 0..300 {
            let mut told = Vec::new();
            sets(&numbers, both).each(start, 2 * numbers.len(), |number, interest| {
                assert!(interest == both);
                told.push(number);
            });
            let origin = start % (201_usize.div_ceil(BITS) * BITS);
            let later = numbers.iter().filter(|&&number| number >= origin);
            let expected: Vec<_> = later.chain(numbers.iter().filter(|&&number| number < origin)).copied().collect();
            assert_eq!(told, expected, "from {start}");
        }
        Sets::default().each(7, 0, |number, _| panic!("{number}"));
    }
}
