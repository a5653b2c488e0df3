//! The result of a slice of a load.

use std::time::Duration;

/// The result of a slice. Latencies are counted in buckets a thirty-second of their size wide.
pub struct Report {
    pub requests: u64,
    pub elapsed: Duration,
    longest: Duration,
    buckets: Vec<u64>,
}

const STEPS_LOG2: u32 = 5;

impl Default for Report {
    fn default() -> Report {
        let buckets = vec![0; bucket(u64::MAX) + 1];
        Report { requests: 0, elapsed: Duration::ZERO, longest: Duration::ZERO, buckets }
    }
}

/// Exact below 2^STEPS_LOG2, then that many steps for each doubling.
fn bucket(nanos: u64) -> usize {
    let doublings = (u64::BITS - nanos.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    ((u64::from(doublings) << STEPS_LOG2) + (nanos >> doublings)) as usize
}

/// The beginning of a bucket: the inverse of `bucket`.
fn nanos(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket >> STEPS_LOG2).saturating_sub(1);
    (bucket - (doublings << STEPS_LOG2)) << doublings
}

impl Report {
    pub fn record(&mut self, requests: u64, latency: Duration) {
        self.requests += requests;
        self.longest = self.longest.max(latency);
        self.buckets[bucket(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX))] += requests;
    }

    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = (self.requests as f64 * share).ceil() as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|&count| {
            seen += count;
            seen >= wanted
        });
        nanos(found.unwrap_or(0)) as f64 / 1e3
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "requests={} seconds={:.6} p50_us={:.1} p99_us={:.1} max_us={:.1}",
            self.requests,
            self.elapsed.as_secs_f64(),
            self.quantile_us(0.5),
            self.quantile_us(0.99),
            self.longest.as_secs_f64() * 1e6
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_begins_at_most_a_thirty_second_below_what_it_counts() {
        for n in (0..64).flat_map(|shift| [1u64 << shift, (1 << shift) + 1, u64::MAX >> shift]) {
            let start = nanos(bucket(n));
            assert!(start <= n && n - start <= n >> STEPS_LOG2, "{n} is counted at {start}");
        }
    }
}
