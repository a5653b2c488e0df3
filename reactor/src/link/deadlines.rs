//! The deadlines that a link lives under. One timer stands for all of them.

use std::time::Duration;

use super::flags::*;
use super::{Link, Origin, Phase};
use crate::limits::{Deadlines, PROGRESS_MIN};
use crate::reason::{CloseReason, Deadline};
use crate::time::Time;
use crate::timer::TimerKey;

/// The value of `Link::mark` until the driver has been asked.
pub(super) const UNMARKED: u64 = u64::MAX;

/// How soon an idle connection is looked at again whose peer is still taking what the kernel has for it.
const TAKING: Duration = Duration::from_secs(5);

/// Looks at a peer's acknowledgements within one progress deadline, and the longest and the shortest time between two of them. A peer's system
/// takes what fits into its buffers although the peer reads nothing; a deadline that began anew only when it had passed would
/// count that as progress at its end, and last twice as long.
const LOOKS: u8 = 5;
const LOOK_MAX: Duration = Duration::from_secs(5);
const LOOK_MIN: Duration = Duration::from_millis(1);

/// How soon a connection is looked at again that ends as soon as its peer has acknowledged all, because the application stops.
/// A delayed acknowledgement takes 40 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How often the linger deadline is extended for a peer that goes on sending: half a minute in all with the default, as in
/// nginx.
const LINGER_EXTENSIONS_MAX: u8 = 5;

/// The deadline that a link lives under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Loop(Deadline),
    /// No deadline: the time to ask how much the peer has acknowledged.
    Look,
    /// The handler's own: `on_deadline`.
    Handler,
}

impl Link {
    /// Sets the handler's deadline to this span after the end of the callback, or calls it off.
    pub(crate) fn set_deadline(&mut self, after: Option<Duration>) {
        if self.is_open() {
            self.deadline = after.map_or(Time::NEVER, |after| Time::default() + after);
            self.flags.put(DEADLINE_FRESH, after.is_some());
            self.flags.set(DEADLINE_CHANGED);
        }
    }

    /// When there is something to do next, and what: a deadline, or a look at what the peer has acknowledged.
    pub(crate) fn next_due(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        earliest([self.next_deadline(deadlines), self.next_look(deadlines)])
    }

    /// When the next deadline is, and which.
    pub(super) fn next_deadline(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        let at = |from: Time, span: Option<Duration>, deadline| span.map(|span| (from + span, Due::Loop(deadline)));
        match self.phase {
            Phase::Connecting if self.origin == Origin::Accepted => {
                at(self.since, deadlines.handshake, Deadline::Handshake)
            }
            Phase::Connecting => earliest([self.handlers_due(), at(self.since, deadlines.connect, Deadline::Connect)]),
            Phase::Open if self.flags.has(BROKEN) => at(self.since, Some(deadlines.linger), Deadline::Linger),
            // At the same time the handler's deadline comes first: the handler can still write.
            Phase::Open => earliest([
                self.handlers_due(),
                if self.flags.has(USEFUL) {
                    None
                } else {
                    at(self.since, deadlines.first_request, Deadline::FirstRequest)
                },
                // A member that stays however slow it is need not make progress.
                if self.must_progress() {
                    at(self.since, deadlines.write_progress, Deadline::WriteProgress)
                } else {
                    None
                },
                // While output waits, the write-progress deadline stands in: a large answer may take its time.
                if self.must_progress() || self.origin == Origin::Watched {
                    None
                } else {
                    at(self.active, deadlines.idle, Deadline::Idle)
                },
            ]),
            // A peer may take as long over queued output as if the connection were not closing.
            Phase::Flushing => at(self.since, Some(flush_span(deadlines)), Deadline::Linger),
            Phase::Lingering => at(self.since, Some(deadlines.linger), Deadline::Linger),
            Phase::Over => None,
        }
    }

    /// Whether the peer has to take output that the kernel has no room for. A member that stays however slow it is need not.
    pub(super) fn must_progress(&self) -> bool {
        self.flags.has(BLOCKED) && !self.flags.has(KEPT_AS_MEMBER)
    }

    /// When to look next at what the peer has acknowledged.
    fn next_look(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        let span = match self.phase {
            Phase::Open if self.must_progress() && !self.flags.has(BROKEN) => deadlines.write_progress?,
            Phase::Flushing => flush_span(deadlines),
            Phase::Lingering if self.awaits_acknowledgement() => return Some((self.deadline, Due::Look)),
            // Where nothing is on its way to the peer, there is nothing to look at.
            Phase::Lingering if self.mark != UNMARKED && self.sent > self.mark + 1 => deadlines.linger,
            _ => return None,
        };
        // The count of looks must not come to its end before the deadline does.
        let least = LOOK_MIN.max(span / u32::from(u8::MAX - 1));
        let between = (span / u32::from(LOOKS + 1)).min(LOOK_MAX).max(least);
        Some((self.since + between * (u32::from(self.looks) + 1), Due::Look))
    }

    /// Whether the connection is over as soon as the peer has acknowledged all: the application stops, and nothing has come
    /// from the peer meanwhile.
    pub(super) fn awaits_acknowledgement(&self) -> bool {
        self.flags.has(LAST_ACKNOWLEDGEMENT) && !self.flags.has(ANSWERED)
    }

    /// Looks for the first time a while from now.
    pub(super) fn await_acknowledgement(&mut self, now: Time) {
        self.flags.set(LAST_ACKNOWLEDGEMENT);
        self.deadline = now + LOOK_AGAIN;
    }

    fn handlers_due(&self) -> Option<(Time, Due)> {
        // A deadline that another connection's callback has just set does not count from any moment yet.
        (self.deadline != Time::NEVER && !self.flags.has(DEADLINE_FRESH)).then_some((self.deadline, Due::Handler))
    }

    /// Whether the next deadline may have become earlier. Bytes that move only ever make it later.
    #[inline]
    pub(crate) fn take_deadline_change(&mut self, now: Time, unacknowledged: impl FnOnce() -> usize) -> bool {
        let changed = self.flags.take(DEADLINE_CHANGED);
        if changed {
            if self.flags.take(DEADLINE_FRESH) {
                self.deadline = now + self.deadline.since(Time::default());
            }
            if self.mark == UNMARKED {
                self.mark = self.sent.saturating_sub(unacknowledged() as u64);
            }
        }
        changed
    }

    pub(crate) fn set_deadline_changed(&mut self) {
        self.flags.set(DEADLINE_CHANGED);
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

    /// Notes that `due` passed at `now`. Returns what to do about it, or `None` if the link has been busy since.
    pub(crate) fn due(&mut self, due: Due, now: Time, unacknowledged: usize) -> Option<Due> {
        match due {
            Due::Loop(Deadline::Linger) if self.extends_linger() => {
                // Its last bytes may have come long ago.
                self.progressed(self.since.max(self.active));
                return None;
            }
            Due::Look => {
                if self.awaits_acknowledgement() {
                    // Our FIN counts as one.
                    if unacknowledged <= 1 {
                        self.over(self.reason());
                        return Some(due);
                    }
                    self.deadline = now + LOOK_AGAIN;
                    return None;
                }
                self.looks = self.looks.saturating_add(1);
                self.note_progress(now, unacknowledged);
                return None;
            }
            Due::Handler => {
                self.deadline = Time::NEVER;
                return Some(due);
            }
            Due::Loop(Deadline::WriteProgress | Deadline::Linger) => {
                if self.note_progress(now, unacknowledged) {
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
            (Deadline::Linger, _) if self.flags.has(BROKEN) => CloseReason::Reset,
            (Deadline::Linger, Some(reason)) if self.queued() == 0 => reason,
            // The limit that was reached stays the reason, whether the output leaves in time or not.
            (
                Deadline::Linger,
                Some(reason @ (CloseReason::OutputOverflow { .. } | CloseReason::InputOverflow { .. })),
            ) => reason,
            _ => CloseReason::TimedOut(deadline),
        };
        self.flags
            .put(RESET, deadline == Deadline::WriteProgress || (deadline == Deadline::Linger && self.queued() > 0));
        self.over(reason);
        Some(due)
    }

    /// Whether the peer has taken enough since the last progress, and has more to take. If so, its deadline begins anew.
    fn note_progress(&mut self, now: Time, unacknowledged: usize) -> bool {
        let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
        // With everything acknowledged but our FIN, which counts as one, there is nothing left to progress with.
        let under_way = self.queued() > 0 || unacknowledged > 1;
        let progressed = under_way && self.has_taken_more(acknowledged) && !self.flags.has(BROKEN);
        if progressed {
            self.progressed(now);
            self.mark = acknowledged;
        }
        progressed
    }

    /// What `since` counts from begins anew.
    pub(super) fn progressed(&mut self, now: Time) {
        (self.since, self.looks) = (now, 0);
    }

    fn has_taken_more(&self, acknowledged: u64) -> bool {
        self.mark != UNMARKED && acknowledged >= self.mark + PROGRESS_MIN
    }

    /// Whether the linger deadline is extended because the peer has sent enough since the last one. A peer that is cut off in
    /// the middle of an upload gives up, and never reads the answer.
    fn extends_linger(&mut self) -> bool {
        let heard = u64::from(std::mem::take(&mut self.discarded_lately));
        let speaks =
            self.phase == Phase::Lingering && heard >= PROGRESS_MIN && self.linger_extensions < LINGER_EXTENSIONS_MAX;
        self.linger_extensions += u8::from(speaks);
        speaks
    }
}

/// How long a peer that is closed may go without progress while it still has to be sent something.
fn flush_span(deadlines: &Deadlines) -> Duration {
    deadlines.write_progress.map_or(deadlines.linger, |span| span.max(deadlines.linger))
}

fn earliest<const N: usize>(dues: [Option<(Time, Due)>; N]) -> Option<(Time, Due)> {
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
