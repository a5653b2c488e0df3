//! Chance as an argument, for tests: a failing seed is a bug report.

/// A small generator (xorshift64*), the same on every machine.
pub(crate) struct Chance(u64);

impl Chance {
    /// `seed` is any number but 0.
    pub(crate) fn new(seed: u64) -> Self {
        Chance(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % limit
    }

    /// Up to `most` bytes, nearly all out of `alphabet`, so that they often come close to meaning something.
    pub(crate) fn bytes(&mut self, most: usize, alphabet: &[u8]) -> Vec<u8> {
        let length = self.below(most + 1);
        let byte = |_| if self.below(32) == 0 { self.below(256) as u8 } else { alphabet[self.below(alphabet.len())] };
        (0..length).map(byte).collect()
    }
}
