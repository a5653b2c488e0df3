//! The deadlines of a link. One timer serves all.

use std::time::Duration;

use super::flags::*;
use super::{Link, Origin, Phase};
use crate::limits::{Deadlines, PROGRESS_MIN};
use crate::reason::{CloseReason, Deadline};
use crate::time::Time;
use crate::timer::{TimerKey, Wheel};

/// The value of `Link::mark` until the driver has been asked.
pub(super) const UNMARKED: u64 = u64::MAX;

/// Time until the next look at an idle connection whose peer is still taking the kernel's bytes.
const TAKING: Duration = Duration::from_secs(5);

/// Number of looks at a peer's acknowledgements within one progress deadline, and the longest and shortest time between
/// two looks. A peer's system takes bytes into its buffers although the peer reads nothing. A deadline that started
/// again only at its end would count those bytes as progress, and last twice as long.
const LOOKS: u8 = 5;
const LOOK_MAX: Duration = Duration::from_secs(5);
const LOOK_MIN: Duration = Duration::from_millis(1);

/// Time between looks at a connection that ends, at a stop of the application, when its peer has acknowledged
/// everything. A delayed acknowledgement takes 40 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Number of extensions of the linger deadline for a peer that goes on sending: half a minute in all with the default,
/// as in nginx.
const LINGER_EXTENSIONS_MAX: u8 = 5;

/// The kind of event at a link's next due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Loop(Deadline),
    /// No deadline: the time to look at the peer's acknowledgements.
    Look,
    /// The handler's own: `on_deadline`.
    Handler,
}

impl Due {
    /// Whether it depends on how much the peer has acknowledged.
    pub(crate) fn asks_for_progress(self) -> bool {
        matches!(self, Due::Look | Due::Loop(Deadline::WriteProgress | Deadline::Linger | Deadline::Idle))
    }
}

impl Link {
    /// Sets the handler's deadline to this span after the end of the callback, or cancels the deadline.
    pub(crate) fn set_deadline(&mut self, after: Option<Duration>) {
        if self.is_open() {
            self.deadline = after.map_or(Time::NEVER, |after| Time::default() + after);
            self.flags.put(DEADLINE_FRESH, after.is_some());
            self.flags.set(DEADLINE_CHANGED);
        }
    }

    /// The time and kind of the next action: a deadline, or a look at the peer's acknowledgements.
    pub(crate) fn next_due(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        earliest([self.next_deadline(deadlines), self.next_look(deadlines)])
    }

    /// The time and kind of the next deadline.
    pub(super) fn next_deadline(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        let at = |from: Time, span: Option<Duration>, deadline| span.map(|span| (from + span, Due::Loop(deadline)));
        match self.phase {
            Phase::Connecting if self.origin == Origin::Accepted => {
                at(self.since, deadlines.handshake, Deadline::Handshake)
            }
            Phase::Connecting if self.origin == Origin::Adopted => {
                earliest([self.handlers_due(), at(self.since, deadlines.handshake, Deadline::Handshake)])
            }
            Phase::Connecting => earliest([self.handlers_due(), at(self.since, deadlines.connect, Deadline::Connect)]),
            Phase::Open if self.flags.has(BROKEN) => at(self.since, Some(deadlines.linger), Deadline::Linger),
            // At equal times the handler's deadline comes first, because the handler can still write.
            Phase::Open => earliest([
                self.handlers_due(),
                if self.flags.has(USEFUL) {
                    None
                } else {
                    at(self.since, deadlines.first_request, Deadline::FirstRequest)
                },
                // A member that stays at any speed need not make progress.
                if self.must_progress() {
                    at(self.since, deadlines.write_progress, Deadline::WriteProgress)
                } else {
                    None
                },
                // While output waits, the write-progress deadline takes the place of the idle deadline: a large answer
                // may take long.
                if self.must_progress() || self.origin == Origin::Watched {
                    None
                } else {
                    at(self.active, deadlines.idle, Deadline::Idle)
                },
            ]),
            // For queued output a peer has as much time as if the connection were not closing.
            Phase::Flushing => at(self.since, Some(flush_span(deadlines)), Deadline::Linger),
            Phase::Lingering => at(self.since, Some(deadlines.linger), Deadline::Linger),
            Phase::Over => None,
        }
    }

    /// Whether the peer must take output that is beyond the kernel's room. A member that stays at any speed need not.
    pub(super) fn must_progress(&self) -> bool {
        self.flags.has(BLOCKED) && !self.flags.has(KEPT_AS_MEMBER)
    }

    /// The time of the next look at the peer's acknowledgements.
    fn next_look(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        let span = match self.phase {
            Phase::Open if self.must_progress() && !self.flags.has(BROKEN) => deadlines.write_progress?,
            Phase::Flushing => flush_span(deadlines),
            Phase::Lingering if self.awaits_acknowledgement() => return Some((self.deadline, Due::Look)),
            // If no bytes are on their way to the peer, a look is useless.
            Phase::Lingering if self.mark != UNMARKED && self.sent > self.mark + 1 => deadlines.linger,
            _ => return None,
        };
        // The counter of looks must not overflow before the deadline.
        let least = LOOK_MIN.max(span / u32::from(u8::MAX));
        let between = (span / u32::from(LOOKS + 1)).min(LOOK_MAX).max(least);
        Some((self.since + between * (u32::from(self.looks) + 1), Due::Look))
    }

    /// Whether the connection is over when the peer has acknowledged everything: the application stops, and the peer
    /// has sent nothing meanwhile.
    pub(super) fn awaits_acknowledgement(&self) -> bool {
        self.flags.has(LAST_ACKNOWLEDGEMENT) && !self.flags.has(ANSWERED)
    }

    /// Sets the first look a short time from now.
    pub(super) fn await_acknowledgement(&mut self, now: Time) {
        self.flags.set(LAST_ACKNOWLEDGEMENT);
        self.deadline = now + LOOK_AGAIN;
    }

    fn handlers_due(&self) -> Option<(Time, Due)> {
        // A deadline that another connection's callback has just set has no start yet.
        (self.deadline != Time::NEVER && !self.flags.has(DEADLINE_FRESH)).then_some((self.deadline, Due::Handler))
    }

    /// Whether the next deadline may have become earlier. Moving bytes only make it later.
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

    /// The timer of the next deadline.
    pub(crate) fn timer(&self) -> Option<TimerKey> {
        self.timer
    }

    /// Notes that the timer has fired.
    pub(crate) fn timer_gone(&mut self) {
        (self.timer, self.timer_at) = (None, Time::NEVER);
    }

    /// Puts a timer for the next deadline into `wheel`. The timer moves only to an earlier time: a deadline that recedes with
    /// every byte costs one look when the timer fires, and nothing per byte.
    pub(crate) fn arm<T: Copy>(&mut self, deadlines: &Deadlines, wheel: &mut Wheel<T>, owner: T) {
        let Some((at, _)) = self.next_due(deadlines) else { return };
        if self.timer.is_none() || at < self.timer_at {
            if let Some(timer) = self.timer.take() {
                wheel.cancel(timer);
            }
            (self.timer, self.timer_at) = (Some(wheel.insert(at, owner)), at);
        }
    }

    /// Notes that `due` passed at `now`. Returns the action, or `None` if the link was active since.
    pub(crate) fn due(&mut self, due: Due, now: Time, unacknowledged: usize) -> Option<Due> {
        match due {
            Due::Loop(Deadline::Linger) if self.extends_linger() => {
                // Its last bytes may have come long ago.
                self.progressed(self.since.max(self.active));
                return None;
            }
            Due::Look => {
                if self.awaits_acknowledgement() {
                    // Our FIN counts as one byte.
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
            // The kernel may take hours to deliver accepted bytes: while the peer goes on taking them, the connection
            // is not idle.
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
        // A layer may owe sealed bytes, which have left the queue.
        let owes = self.queued() > 0 || (self.phase == Phase::Flushing && self.flags.has(BLOCKED));
        let reason = match (deadline, self.reason) {
            (Deadline::Linger, _) if self.flags.has(BROKEN) => CloseReason::Reset,
            (Deadline::Linger, Some(reason)) if !owes => reason,
            // A limit or an earlier deadline stays the reason, whether the output leaves in time or not.
            (
                Deadline::Linger,
                Some(
                    reason @ (CloseReason::OutputOverflow { .. }
                    | CloseReason::InputOverflow { .. }
                    | CloseReason::TimedOut(_)),
                ),
            ) => reason,
            _ => CloseReason::TimedOut(deadline),
        };
        self.flags.put(RESET, deadline == Deadline::WriteProgress || (deadline == Deadline::Linger && owes));
        self.end(reason, now);
        Some(due)
    }

    /// Whether the peer has taken enough since the last progress, and has more to take. If so, its deadline starts
    /// again.
    fn note_progress(&mut self, now: Time, unacknowledged: usize) -> bool {
        let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
        // If everything but our FIN (one byte) is acknowledged, no further progress is possible.
        let under_way = self.queued() > 0 || unacknowledged > 1;
        let progressed = under_way && self.has_taken_more(acknowledged) && !self.flags.has(BROKEN);
        if progressed {
            self.progressed(now);
            self.mark = acknowledged;
        }
        progressed
    }

    /// Restarts the time that `since` counts.
    pub(super) fn progressed(&mut self, now: Time) {
        (self.since, self.looks) = (now, 0);
    }

    fn has_taken_more(&self, acknowledged: u64) -> bool {
        self.mark != UNMARKED && acknowledged >= self.mark + PROGRESS_MIN
    }

    /// Whether the linger deadline is extended because the peer has sent enough since the last one. A peer that is cut
    /// off during an upload gives up, and never reads the answer.
    fn extends_linger(&mut self) -> bool {
        let heard = u64::from(std::mem::take(&mut self.discarded_lately));
        let speaks =
            self.phase == Phase::Lingering && heard >= PROGRESS_MIN && self.linger_extensions < LINGER_EXTENSIONS_MAX;
        self.linger_extensions += u8::from(speaks);
        speaks
    }
}

/// How long a closing peer may go without progress while output is queued.
fn flush_span(deadlines: &Deadlines) -> Duration {
    deadlines.write_progress.map_or(deadlines.linger, |span| span.max(deadlines.linger))
}

fn earliest<const N: usize>(dues: [Option<(Time, Due)>; N]) -> Option<(Time, Due)> {
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}
