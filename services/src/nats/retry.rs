//! The pauses between attempts to connect, and chance for pauses and inboxes.

use std::time::Duration;

use super::PAUSE_MAX;

/// The pause after the first failure. Each round over all servers doubles the pause, up to [`PAUSE_MAX`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// xorshift64*: any generator would do.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        // The generator must not start with 0, and is poor while most of its bits are 0.
        Chance((seed ^ 0x9E37_79B9_7F4A_7C15).max(1))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The state of reconnecting.
pub(super) struct Retry {
    step: Duration,
    /// Failed attempts since the latest connection.
    pub(super) failures: u64,
}

impl Retry {
    pub(super) fn new() -> Self {
        Retry { step: FIRST_PAUSE, failures: 0 }
    }

    /// Starts with the first pause again, after a successful connection.
    pub(super) fn begin_anew(&mut self) {
        *self = Retry::new();
    }

    /// Returns the pause before the next attempt, between a half and the whole of a step, so that the clients of a restarted server
    /// do not return all at once. The other servers of a cluster are tried after the first pause each.
    pub(super) fn pause(&mut self, servers: usize, chance: &mut Chance) -> Duration {
        let is_end_of_round = self.failures > 0 && self.failures.is_multiple_of(servers.max(1) as u64);
        let step = if is_end_of_round { self.step } else { FIRST_PAUSE };
        if is_end_of_round {
            self.step = (self.step * 2).min(PAUSE_MAX);
        }
        step / 2 + (step / 2).mul_f64((chance.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_round_to_a_second_and_begin_anew_after_a_connection() {
        let (mut retry, mut chance) = (Retry::new(), Chance::new(7));
        let mut pauses = |retry: &mut Retry, servers: usize, count: usize| -> Vec<Duration> {
            let pause = |_| {
                retry.failures += 1;
                retry.pause(servers, &mut chance)
            };
            (0..count).map(pause).collect()
        };
        let one = pauses(&mut retry, 1, 100);
        for (pause, most) in one.iter().zip([100, 200, 400, 800, 1000, 1000]) {
            assert!((most / 2..=most).contains(&(pause.as_millis() as u64)), "{pause:?} of {most}");
        }
        assert!(one.iter().all(|pause| *pause <= PAUSE_MAX) && one[10..].iter().any(|pause| *pause != one[10]));
        retry.begin_anew();
        let two = pauses(&mut retry, 2, 20);
        assert!(two.iter().step_by(2).all(|pause| *pause <= FIRST_PAUSE), "{two:?}");
        assert!(two[19] >= PAUSE_MAX / 2);
    }
}
