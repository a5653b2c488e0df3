//! A point on the monotonic clock. Only `sys` reads the clock; all other code receives a `Time`, so tests and the
//! simulator control time.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds of the monotonic clock. Eight bytes; additions saturate, so a deadline of a century is merely far away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) const NEVER: Time = Time(u64::MAX);

    /// The time from `earlier` until this point; zero if this point is earlier.
    pub(crate) fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the time `span` before `self`. `NEVER` stays `NEVER`.
    pub(crate) fn before(self, span: Duration) -> Time {
        if self == Time::NEVER { self } else { Time(self.0.saturating_sub(span.as_nanos() as u64)) }
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        let nanos = span.as_secs().saturating_mul(1_000_000_000).saturating_add(span.subsec_nanos().into());
        Time(self.0.saturating_add(nanos))
    }
}

/// The shorter of two waits. `None` has no end.
#[inline]
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    other.map_or(one, |other| Some(one.map_or(other, |one| one.min(other))))
}

/// Allows one log line in a second, for events that peers can cause at will.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Option<Time>);

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(1);

    /// Whether a line may be logged at `now`. If so, the next line has to wait.
    pub(crate) fn passes(&mut self, now: Time) -> bool {
        let passes = self.0.is_none_or(|last| now.since(last) >= LogLimit::PERIOD);
        if passes {
            self.0 = Some(now);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_end_is_longer_than_any_other() {
        let [short, long] = [1, 2].map(|seconds| Some(Duration::from_secs(seconds)));
        assert_eq!([shorter(short, long), shorter(long, short)], [short, short]);
        assert_eq!([shorter(None, long), shorter(long, None), shorter(None, None)], [long, long, None]);
    }

    #[test]
    fn one_line_passes_in_a_second() {
        let (mut limit, second) = (LogLimit::default(), 1_000_000_000);
        let passed: Vec<bool> = [0, second - 1, second, second + 1, 2 * second - 1, 2 * second]
            .map(|nanos| limit.passes(Time(nanos)))
            .to_vec();
        assert_eq!(passed, [true, false, true, false, false, true]);
    }
}
