//! The duration of turns as a histogram: the longest wait of a peer that sends in the middle of a turn.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use super::Counter;

/// Number of buckets, at powers of two from 64 µs (a turn with a batch of requests takes some hundred) to a second
/// (which people notice). A finer scale would tell no more.
const BUCKETS: usize = 16;
/// 2^16 ns, the end of the first bucket.
const FIRST: u32 = 16;

/// The duration of a loop's turns, from the end of one wait for events to the beginning of the next: the longest time
/// for which new input was not noticed.
///
/// A histogram whose buckets end at powers of two, from 65 µs to about a second; the last has no end.
///
/// ```
/// use reactor::Lag;
/// use std::time::Duration;
/// fn is_healthy(lag: &Lag) -> bool {
///     lag.quantile(0.999).is_none_or(|most| most < Duration::from_millis(20))
/// }
/// assert!(is_healthy(&Lag::default()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    counts: [u64; BUCKETS],
    longest: Duration,
}

impl Lag {
    /// Number of turns that the histogram has counted.
    pub fn turns(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Length of the longest turn, to the nanosecond; zero before the first turn.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The buckets from the shortest on: the exclusive end of each ([`Duration::MAX`] for the last), and its number of
    /// turns.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.counts.iter().enumerate().map(|(bucket, &count)| (end(bucket), count))
    }

    /// The duration that the given share of the turns (0.99: 99 of 100) did not exceed, rounded up to the end of its bucket,
    /// and at most [`Lag::longest`]. `None` before the first turn.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.turns() as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut turns = 0;
        let bucket = self.counts.iter().position(|&count| {
            turns += count;
            turns >= rank
        })?;
        Some(end(bucket).min(self.longest))
    }
}

fn end(bucket: usize) -> Duration {
    if bucket + 1 == BUCKETS { Duration::MAX } else { Duration::from_nanos(1 << (FIRST + bucket as u32)) }
}

impl AddAssign<&Lag> for Lag {
    fn add_assign(&mut self, other: &Lag) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.longest = self.longest.max(other.longest);
    }
}

impl fmt::Display for Lag {
    /// For the operator: `of 1000 turns: p50 66 µs, p99 132 µs, p99.9 1.1 ms, max 1.1 ms`. The percentiles are upper bounds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} turns", self.turns())?;
        let mut separator = ": ";
        for (share, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            let Some(most) = self.quantile(share) else { return Ok(()) };
            write!(f, "{separator}{name} {}", Short(most))?;
            separator = ", ";
        }
        write!(f, ", max {}", Short(self.longest))
    }
}

/// Formats a time, in the unit that leaves at most three digits before the point.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_nanos().div_ceil(1000);
        match micros {
            0..1_000 => write!(f, "{micros} µs"),
            1_000..1_000_000 => write!(f, "{:.1} ms", micros as f64 / 1e3),
            _ => write!(f, "{:.1} s", micros as f64 / 1e6),
        }
    }
}

/// The counters of a loop's turns.
#[derive(Debug, Default)]
pub(crate) struct LagCounters {
    counts: [Counter; BUCKETS],
    longest: Counter,
}

impl LagCounters {
    /// All numbers, always in one order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Counter> {
        self.counts.iter().chain(std::iter::once(&self.longest))
    }

    /// Counts a turn, by its duration.
    #[inline]
    pub(crate) fn count(&self, took: Duration) {
        let nanos = took.as_nanos() as u64;
        let bucket = (u64::BITS - nanos.leading_zeros()).saturating_sub(FIRST) as usize;
        self.counts[bucket.min(BUCKETS - 1)].add(1);
        if nanos > self.longest.get() {
            self.longest.set(nanos);
        }
    }

    pub(crate) fn read(&self) -> Lag {
        Lag { counts: self.counts.each_ref().map(Counter::get), longest: Duration::from_nanos(self.longest.get()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag_of(turns: &[u64]) -> Lag {
        let counters = LagCounters::default();
        turns.iter().for_each(|&nanos| counters.count(Duration::from_nanos(nanos)));
        counters.read()
    }

    #[test]
    fn a_turn_is_in_the_bucket_whose_end_it_is_under() {
        for (nanos, bucket) in [(0, 0), (65_535, 0), (65_536, 1), (131_071, 1), (131_072, 2), (1 << 29, 14)] {
            let found = lag_of(&[nanos]).buckets().position(|(_, count)| count == 1);
            assert_eq!(found, Some(bucket), "{nanos} ns");
            assert!(Duration::from_nanos(nanos) < end(bucket));
        }
        assert_eq!(lag_of(&[1 << 30, u64::MAX]).buckets().last(), Some((Duration::MAX, 2)));
    }

    #[test]
    fn a_quantile_is_never_under_the_truth_and_never_over_the_longest() {
        let mut turns: Vec<u64> = (0..999).map(|turn| 1_000 + turn).collect();
        turns.push(3_000_000);
        let lag = lag_of(&turns);
        assert_eq!(lag.turns(), 1_000);
        assert_eq!(lag.quantile(0.5), Some(Duration::from_nanos(65_536)));
        assert_eq!(lag.quantile(0.999), Some(Duration::from_nanos(65_536)));
        assert_eq!(lag.quantile(1.0), Some(Duration::from_millis(3)), "the longest, and not the end of its bucket");
        assert_eq!(lag_of(&[]).quantile(0.5), None);
        assert_eq!(lag.to_string(), "of 1000 turns: p50 66 µs, p99 66 µs, p99.9 66 µs, max 3.0 ms");
    }
}
