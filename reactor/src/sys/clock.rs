//! The monotonic clock, and a wait that knows its remaining time. All other code receives a `Time`.

use std::time::Duration;

use crate::time::Time;

/// The clocks that a loop reads.
pub(crate) trait Clock {
    /// The monotonic clock.
    fn now(&mut self) -> Time;
    /// The monotonic clock to a few milliseconds, at a tenth of the cost of `now`.
    fn coarse_now(&mut self) -> Time;
    /// How long the calling thread has waited for a core, in all, where the system keeps an account of it.
    fn waited_for_a_core(&mut self) -> Option<Duration> {
        None
    }
}

/// Reads the precise clock. Takes 33 ns, so the loop reads it once a turn.
pub(super) fn now() -> Time {
    read(libc::CLOCK_MONOTONIC)
}

/// Reads the coarse clock: the time of its last tick, 1 to 10 ms ago, never ahead of `now`. Takes 4 ns where the system
/// has such a clock.
pub(super) fn coarse_now() -> Time {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return read(libc::CLOCK_MONOTONIC_COARSE);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    now()
}

/// The end of a wait, so that a signal neither shortens nor lengthens the wait.
///
/// The time runs from the caller's last reading of the clock, so only a wait that a signal interrupts pays for a
/// reading.
pub(super) struct WaitBudget {
    end: Option<Time>,
}

impl WaitBudget {
    pub(super) fn new(began: Time, timeout: Option<Duration>) -> Self {
        WaitBudget { end: timeout.map(|span| began + span) }
    }

    /// The remaining time after an interruption. `None`: without limit.
    pub(super) fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.since(now()))
    }
}

fn read(clock: libc::clockid_t) -> Time {
    let mut reading = std::mem::MaybeUninit::uninit();
    // SAFETY: the kernel writes one timespec, and `reading` has room for one. The call cannot fail: the clock exists on this
    // system.
    let reading: libc::timespec = unsafe {
        libc::clock_gettime(clock, reading.as_mut_ptr());
        reading.assume_init()
    };
    Time(reading.tv_sec as u64 * 1_000_000_000 + reading.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_is_never_ahead_and_neither_goes_back() {
        let mut before = now();
        for _ in 0..10_000 {
            let coarse = coarse_now();
            let precise = now();
            assert!(coarse <= precise && before <= precise);
            before = precise;
        }
    }

    #[test]
    fn the_time_left_shrinks_to_nothing_and_for_ever_stays_for_ever() {
        let began = now();
        let left = |timeout| WaitBudget::new(began, timeout).left();
        assert_eq!(left(None), None);
        assert_eq!(left(Some(Duration::ZERO)), Some(Duration::ZERO));
        let hour = Duration::from_secs(3600);
        assert!(left(Some(hour)).unwrap() <= hour && left(Some(hour)).unwrap() > hour / 2);
        assert!(left(Some(Duration::MAX)).unwrap() > hour);
    }
}
