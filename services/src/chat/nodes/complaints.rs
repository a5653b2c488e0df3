//! The texts of the engine's refusals for the log. A node repeats each refused request every second, for each member.

use std::time::Duration;

/// Time until a text is logged again while the engine repeats it.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Least time between two lines, if the engine alternates between texts.
const APART: Duration = Duration::from_secs(1);

/// The latest text in the log, and its time.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    latest: Option<(String, Duration)>,
}

impl Complaints {
    /// Whether the text is to be logged now.
    pub(super) fn is_due(&mut self, text: &str, now: Duration) -> bool {
        let wait = |(latest, at): &(String, Duration)| *at + if latest == text { AGAIN_AFTER } else { APART };
        let is_due = self.latest.as_ref().is_none_or(|latest| now >= wait(latest));
        if is_due {
            self.latest = Some((text.to_owned(), now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_repeated_is_logged_once_a_minute_and_two_that_alternate_once_a_second() {
        let mut complaints = Complaints::default();
        let mut lines = |texts: [&str; 2]| {
            let times = (0..1_200).map(|tenth| (texts[tenth % 2], Duration::from_millis(tenth as u64 * 100)));
            times.filter(|(text, now)| complaints.is_due(text, *now)).count()
        };
        assert_eq!(lines(["full"; 2]), 2);
        let mut complaints = Complaints::default();
        let times = (0..100).map(|tenth| (["full", "no leader"][tenth % 2], Duration::from_millis(tenth as u64 * 100)));
        let count = times.filter(|(text, now)| complaints.is_due(text, *now)).count();
        assert!((5..=10).contains(&count), "{count}");
    }
}
