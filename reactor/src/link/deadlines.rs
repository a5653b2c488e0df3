//! The deadlines that a link lives under. One timer stands for all of them.

use std::time::Duration;

use super::facts::*;
use super::{Link, Origin, Phase};
use crate::limits::{Deadlines, PROGRESS_MIN};
use crate::reason::{CloseReason, Deadline};
use crate::time::Time;
use crate::timer::TimerKey;

/// Where `Link::mark` has not been looked up.
pub(super) const UNMARKED: u64 = u64::MAX;

/// How soon an idle connection is looked at again whose peer is still taking what the kernel has for it.
const TAKING: Duration = Duration::from_secs(5);

/// How often the linger deadline is moved for a peer that goes on speaking: half a minute in all with the default,
/// which is what nginx takes too.
const PROLONGED_MAX: u8 = 5;

/// The deadline that a link lives under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Loop(Deadline),
    /// The handler's own: `on_deadline`.
    Handler,
}

impl Link {
    /// When the next deadline is, and which.
    pub(crate) fn next_due(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        let at = |from: Time, span: Option<Duration>, deadline| span.map(|span| (from + span, Due::Loop(deadline)));
        match self.phase {
            Phase::Connecting => earliest([self.handlers_due(), at(self.since, deadlines.connect, Deadline::Connect)]),
            Phase::Open if self.facts.has(BROKEN) => at(self.since, Some(deadlines.linger), Deadline::Linger),
            // Of two at the same time the handler's comes first: it can say something.
            Phase::Open => earliest([
                self.handlers_due(),
                if self.facts.has(USEFUL) {
                    None
                } else {
                    at(self.since, deadlines.first_request, Deadline::FirstRequest)
                },
                // A member that stays however slow it is need not make progress.
                if self.facts.has(BLOCKED) && !self.facts.has(KEPT_AS_MEMBER) {
                    at(self.since, deadlines.write_progress, Deadline::WriteProgress)
                } else {
                    None
                },
                // While output waits, the progress deadline says it better: a large answer may take its time.
                if self.facts.has(BLOCKED) && !self.facts.has(KEPT_AS_MEMBER) || self.origin == Origin::Watched {
                    None
                } else {
                    at(self.active, deadlines.idle, Deadline::Idle)
                },
            ]),
            // Who still has to be sent something may take as long over it as if the connection were not closing.
            Phase::Flushing => {
                let patience = deadlines.write_progress.map_or(deadlines.linger, |span| span.max(deadlines.linger));
                at(self.since, Some(patience), Deadline::Linger)
            }
            Phase::Lingering => at(self.since, Some(deadlines.linger), Deadline::Linger),
            Phase::Over => None,
        }
    }

    fn handlers_due(&self) -> Option<(Time, Due)> {
        // One that another's callback has just set does not count from any moment yet.
        (self.deadline != Time::NEVER && !self.facts.has(DEADLINE_FRESH)).then_some((self.deadline, Due::Handler))
    }

    /// Whether the next deadline may have become earlier. Bytes that move only ever make it later.
    #[inline]
    pub(crate) fn take_deadline_change(&mut self, now: Time, unacknowledged: impl FnOnce() -> usize) -> bool {
        let changed = self.facts.take(DEADLINE_CHANGED);
        if changed {
            if self.facts.take(DEADLINE_FRESH) {
                self.deadline = now + self.deadline.since(Time::default());
            }
            if self.mark == UNMARKED {
                self.mark = self.sent.saturating_sub(unacknowledged() as u64);
            }
        }
        changed
    }

    pub(crate) fn set_deadline_changed(&mut self) {
        self.facts.set(DEADLINE_CHANGED);
    }

    /// The timer that stands for the next deadline, and when it goes off. It is moved only to be earlier: a deadline
    /// that moves away with every byte costs one look when the timer goes off, and nothing per byte.
    pub(crate) fn timer(&self) -> Option<(TimerKey, Time)> {
        self.timer.map(|key| (key, self.timer_at))
    }

    pub(crate) fn set_timer(&mut self, timer: Option<(TimerKey, Time)>) {
        self.timer = timer.map(|(key, _)| key);
        self.timer_at = timer.map_or(Time::NEVER, |(_, at)| at);
    }

    /// A deadline passed at `now`. What to do about it, or `None` when the link has been busy since.
    pub(crate) fn due(&mut self, due: Due, now: Time, unacknowledged: usize) -> Option<Due> {
        match due {
            Due::Loop(Deadline::Linger) if self.is_still_speaking() => {
                self.since = now;
                return None;
            }
            Due::Handler => {
                self.deadline = Time::NEVER;
                return Some(due);
            }
            Due::Loop(Deadline::WriteProgress | Deadline::Linger) => {
                let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
                // With everything acknowledged but our FIN, which counts as one, there is nothing left to progress
                // with.
                let under_way = self.queued() > 0 || unacknowledged > 1;
                if under_way && self.has_taken_more(acknowledged) && !self.facts.has(BROKEN) {
                    (self.since, self.mark) = (now, acknowledged);
                    return None;
                }
            }
            // The kernel may be hours from having delivered what it took at once: as long as the peer goes on taking
            // that, the connection is not idle.
            Due::Loop(Deadline::Idle) if unacknowledged > 0 => {
                let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
                if self.has_taken_more(acknowledged) {
                    (self.active, self.mark) = (self.active + TAKING, acknowledged);
                    return None;
                }
            }
            Due::Loop(_) => {}
        }
        let Due::Loop(deadline) = due else { return None };
        let reason = match (deadline, self.reason) {
            (Deadline::Linger, _) if self.facts.has(BROKEN) => CloseReason::Reset,
            (Deadline::Linger, Some(reason)) if self.queued() == 0 => reason,
            // It was given time to finish what had begun, and the cause is the same if it does not.
            (Deadline::Linger, Some(reason @ CloseReason::OutputOverflow { .. })) => reason,
            _ => CloseReason::TimedOut(deadline),
        };
        self.facts
            .put(RESET, deadline == Deadline::WriteProgress || (deadline == Deadline::Linger && self.queued() > 0));
        self.over(reason);
        Some(due)
    }

    fn has_taken_more(&self, acknowledged: u64) -> bool {
        self.mark != UNMARKED && acknowledged >= self.mark + PROGRESS_MIN
    }

    /// Whether a peer that is lingered for has sent so much since it was last looked at that it is worth hearing it
    /// out: one that is still uploading gives up when it is cut off, and never reads why.
    fn is_still_speaking(&mut self) -> bool {
        let heard = self.discarded - self.heard;
        self.heard = self.discarded;
        let speaks = self.phase == Phase::Lingering && heard >= PROGRESS_MIN && self.prolonged < PROLONGED_MAX;
        self.prolonged += u8::from(speaks);
        speaks
    }
}

fn earliest<const N: usize>(dues: [Option<(Time, Due)>; N]) -> Option<(Time, Due)> {
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
