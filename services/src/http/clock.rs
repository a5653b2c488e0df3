//! The calendar date in the formats of answers and log lines, written once a second.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of every date (RFC 9110 section 5.6.7).
pub(super) const DATE_BYTES: usize = 29;

/// The bytes before the date in an answer with content.
pub(super) const BEFORE_DATE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: ";
const OK_BYTES: usize = BEFORE_DATE.len() + DATE_BYTES + 2;

/// `23/Nov/2026:08:57:46 +0000`
const LOG_DATE_BYTES: usize = 26;

/// The current second as text.
#[derive(Debug)]
pub(super) struct Clock {
    /// Since 1970.
    second: u64,
    /// The first two lines of most answers.
    ok: [u8; OK_BYTES],
    log_date: [u8; LOG_DATE_BYTES],
    /// When the second ends, by the loop's clock.
    stale_at: Duration,
}

impl Clock {
    pub(super) fn new() -> Self {
        let mut ok = [b' '; OK_BYTES];
        ok[..BEFORE_DATE.len()].copy_from_slice(BEFORE_DATE);
        ok[OK_BYTES - 2..].copy_from_slice(b"\r\n");
        Clock { second: 0, ok, log_date: [b' '; LOG_DATE_BYTES], stale_at: Duration::ZERO }
    }

    /// Reads the calendar when the second is over. `now` is the loop's clock.
    #[inline]
    pub(super) fn refresh(&mut self, now: Duration) {
        if now >= self.stale_at {
            self.set(now, SystemTime::now());
        }
    }

    #[cold]
    pub(super) fn set(&mut self, now: Duration, calendar: SystemTime) {
        // A clock set before 1970 is wrong in any case.
        let since = calendar.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.stale_at = now + Duration::from_secs(1) - Duration::from_nanos(since.subsec_nanos().into());
        self.second = since.as_secs();
        // A date is exactly as long as its place.
        let mut date = [b' '; DATE_BYTES];
        let _ = write!(&mut date[..], "{}", httpdate::HttpDate::from(UNIX_EPOCH + since));
        self.ok[BEFORE_DATE.len()..][..DATE_BYTES].copy_from_slice(&date);
        // `Sun, 06 Nov 1994 08:49:37 GMT`, put in another order.
        let [day, month, year, time] = [5..7, 8..11, 12..16, 17..25].map(|part| &date[part]);
        let words = [day, b"/", month, b"/", year, b":", time, b" +0000"];
        let mut rest = &mut self.log_date[..];
        for word in words {
            let _ = rest.write(word);
        }
    }

    /// Seconds since 1970.
    #[inline]
    pub(super) fn second(&self) -> u64 {
        self.second
    }

    /// For the `Date` field.
    #[inline]
    pub(super) fn date(&self) -> &[u8] {
        &self.ok[BEFORE_DATE.len()..][..DATE_BYTES]
    }

    /// The status line of a 200 answer, and the `Date` field.
    #[inline]
    pub(super) fn ok(&self) -> &[u8] {
        &self.ok
    }

    /// For the log.
    pub(super) fn log_date(&self) -> &[u8] {
        &self.log_date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_written_in_both_ways() {
        let mut clock = Clock::new();
        clock.set(Duration::ZERO, UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert_eq!(clock.date(), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(clock.ok(), b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(clock.log_date(), b"06/Nov/1994:08:49:37 +0000");
        assert_eq!(clock.second(), 784_111_777);
    }

    #[test]
    fn it_changes_when_its_second_is_over_and_not_before() {
        let mut clock = Clock::new();
        clock.set(Duration::from_secs(10), UNIX_EPOCH + Duration::from_millis(1_700_000_000_250));
        assert_eq!(clock.stale_at, Duration::from_millis(10_750));
        let date = clock.date().to_vec();
        clock.refresh(Duration::from_millis(10_749));
        assert_eq!(clock.date(), date);
        clock.refresh(Duration::from_millis(10_750));
        assert_ne!(clock.date(), date);
    }
}
