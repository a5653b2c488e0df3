//! The monotonic clock, and a wait that knows what it has left. Everybody else is handed a `Time`.

use std::time::Duration;

use crate::time::Time;

/// 33 ns. Precise, so it is read once a turn.
pub(super) fn now() -> Time {
    read(libc::CLOCK_MONOTONIC)
}

/// 4 ns where the system keeps a coarse clock: the time of its last tick, 1 to 10 ms ago, and never ahead of `now`.
pub(super) fn coarse_now() -> Time {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return read(libc::CLOCK_MONOTONIC_COARSE);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    now()
}

/// When a wait is over, so that a signal in the middle neither shortens nor lengthens it.
///
/// It has to know when it began, before it can know whether a signal comes; so a wait that ends by itself pays for one
/// reading of the clock, one that may not or must not block pays for none.
pub(super) struct Patience {
    end: Option<Time>,
}

impl Patience {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Patience { end: timeout.map(|span| if span.is_zero() { Time::default() } else { now() + span }) }
    }

    /// How long to wait after an interruption. `None`: for ever.
    pub(super) fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.since(now()))
    }
}

fn read(clock: libc::clockid_t) -> Time {
    let mut reading = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, and `reading` is one. The call can't fail: the clock exists on this
    // system.
    unsafe { libc::clock_gettime(clock, &mut reading) };
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
        assert_eq!(Patience::new(None).left(), None);
        assert_eq!(Patience::new(Some(Duration::ZERO)).left(), Some(Duration::ZERO));
        let hour = Duration::from_secs(3600);
        let left = Patience::new(Some(hour)).left().unwrap();
        assert!(left <= hour && left > hour / 2);
        assert!(Patience::new(Some(Duration::MAX)).left().unwrap() > hour);
    }
}
