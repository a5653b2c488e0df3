//! One line of a log: time, level, text; and text that cannot break the line.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use log::Level;

/// `2026-07-01T12:34:56.789012Z [INFO] text`, with a line end. The part before the level has a constant width.
pub fn stamped(level: Level, text: impl Display) -> String {
    format!("{} [{level}] {}\n", stamp(SystemTime::now()), in_one_line(&text.to_string()))
}

/// Escapes control characters except tabs. So a name chosen by a client neither begins another line nor controls a
/// terminal.
pub fn in_one_line(text: &str) -> Cow<'_, str> {
    let is_harmless = |c: char| c == '\t' || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut spelt = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmless(c) {
            spelt.push(c);
        } else {
            spelt.extend(c.escape_default());
        }
    }
    Cow::Owned(spelt)
}

/// Formats a time in microseconds, the precision of the system clock. A time before 1970 becomes 1970.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date_of(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:06}Z", second % 60, since.subsec_micros())
}

/// The date a number of days after 1 January 1970. The year begins in March here, so the leap day is the last day;
/// 146,097 days are four centuries.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_stamp_is_the_date_and_the_time_and_of_one_width() {
        let table = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, 1_000, "2000-02-29T00:00:00.000001Z"),
            (951_868_799, 999_999_999, "2000-02-29T23:59:59.999999Z"),
            (951_868_800, 500_000_000, "2000-03-01T00:00:00.500000Z"),
            (1_767_225_599, 120_000_000, "2025-12-31T23:59:59.120000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, nanos, expected) in table {
            assert_eq!(stamp(UNIX_EPOCH + Duration::new(seconds, nanos)), expected);
        }
    }

    #[test]
    fn text_stays_in_its_line() {
        assert_eq!(in_one_line("a\tb \u{fc}"), "a\tb \u{fc}");
        assert_eq!(in_one_line("a\nb\r\u{1b}[2J\u{7f}\u{2028}\0"), "a\\nb\\r\\u{1b}[2J\\u{7f}\\u{2028}\\u{0}");
        assert!(stamped(Level::Warn, "a\nb").ends_with("Z [WARN] a\\nb\n"));
    }
}
