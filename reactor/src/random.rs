//! Random numbers from a seed: a seed always gives one sequence. For the simulation and for chaos.
#![cfg_attr(not(feature = "sim"), allow(dead_code, reason = "chaos draws less than a simulation"))]

use std::ops::Range;
use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): eight bytes of state, and every seed is good.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The bias is below 2^-32 for all uses here.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Whether an event of this probability happens. A probability of 0 draws no number.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < probability
    }

    /// A size from 1 to `most`; small sizes are more frequent.
    pub(crate) fn size(&mut self, most: usize) -> usize {
        self.order(most as u64) as usize
    }

    /// A span from a nanosecond to `most`, below 584 years; short spans are more frequent.
    pub(crate) fn span(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.order(most.as_nanos() as u64))
    }

    /// A number from 1 to `most`: first its order of magnitude, then the number.
    fn order(&mut self, most: u64) -> u64 {
        let bits = u64::from(u64::BITS - most.leading_zeros());
        let order = self.below(bits) + 1;
        self.below(1 << order).clamp(1, most)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// Spreads a few bits over all bits.
pub(crate) fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_all_stay_in_their_bounds() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        for most in 1..2000 {
            assert_eq!(one.next(), other.next());
            assert!(one.below(most) < most);
            assert!((1..=most as usize).contains(&one.size(most as usize)));
            let _ = (other.below(most), other.size(most as usize));
        }
        assert!(!one.chance(0.0) && one.chance(1.0));
    }
}
