//! The closing side of a link: the ways to end, the reason of the end, and the returned buffers.

use bytes::Bytes;

use super::deadlines::UNMARKED;
use super::flags::*;
use super::{GOODBYE_DUE, Link, Origin, Phase, Stopping};
use crate::buffer::Pool;
use crate::error::Errno;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Time;

impl Link {
    /// Ends our half when the output has left, and goes on reading.
    pub(crate) fn finish(&mut self) {
        self.flags.set(FINISHING);
    }

    /// Whether our half ends as soon as the output has left. A layer's last words come in between.
    pub(crate) fn ends_with_output(&self) -> bool {
        (self.phase == Phase::Flushing || self.flags.has(FINISHING)) && !self.marks.has(GOODBYE_DUE)
    }

    /// The layer has said its last words. `blocked`: the kernel has not taken them yet.
    pub(crate) fn said_goodbye(&mut self, blocked: bool) {
        self.marks.clear(GOODBYE_DUE);
        if blocked {
            self.flags.set(BLOCKED.and(DEADLINE_CHANGED));
        }
    }

    /// Notes that our FIN leaves next. Lingering costs time, so a stop skips it if no peer can lose bytes.
    pub(crate) fn finished(&mut self, now: Time, unacknowledged: impl FnOnce() -> usize) {
        if self.phase == Phase::Open {
            self.flags.set(HALF_FINISHED);
            return;
        }
        self.phase = Phase::Lingering;
        self.progressed(now);
        self.flags.set(DEADLINE_CHANGED);
        if self.flags.has(ENDED.and(DISCARD_LIMIT_REACHED).and(NO_LINGER)) || self.origin == Origin::Watched {
            self.phase = Phase::Over;
        } else if self.stopping != Stopping::No && !self.flags.has(ANSWERED) {
            match unacknowledged() {
                0 => self.phase = Phase::Over,
                // The acknowledgement may be on its way, so further looks follow until it arrives.
                _ => self.await_acknowledgement(now),
            }
        }
    }

    /// Closes: the output leaves, FIN, further input is discarded, close.
    pub(crate) fn close(&mut self, now: Time) {
        let reason = match self.stopping {
            _ if self.flags.has(ENDED) => CloseReason::PeerEnded,
            Stopping::No => CloseReason::Closed,
            _ => CloseReason::Stopped,
        };
        match self.phase {
            Phase::Connecting if self.queued() > 0 => {
                self.flags.set(CLOSE_DUE);
                self.deadline = Time::NEVER;
                self.flags.clear(DEADLINE_FRESH);
            }
            Phase::Connecting => self.over(reason),
            Phase::Open if self.flags.has(BROKEN) => self.over(CloseReason::Reset),
            Phase::Open => {
                self.phase = Phase::Flushing;
                let has_gap = self.output.as_ref().is_some_and(|output| output.overflowed());
                let overflow = CloseReason::OutputOverflow { queued: self.queued() };
                self.reason = Some(if has_gap { overflow } else { reason });
                self.deadline = Time::NEVER;
                self.flags.clear(DEADLINE_FRESH);
                self.flags.set(DEADLINE_CHANGED);
                // The progress deadline of a blocked peer goes on, and does not start again.
                if !self.must_progress() {
                    self.progressed(now);
                    self.mark = UNMARKED;
                }
            }
            Phase::Flushing | Phase::Lingering | Phase::Over => {}
        }
    }

    /// Closes with `reason`, because a limit was reached. Accepted output still leaves.
    pub(crate) fn close_because(&mut self, reason: CloseReason, now: Time) {
        let is_new = matches!(self.phase, Phase::Open | Phase::Connecting);
        self.close(now);
        if is_new && self.phase != Phase::Over {
            self.reason = Some(reason);
        }
    }

    /// Closes because the layer has failed: an alert and FIN have left, or are about to, and queued output cannot
    /// leave. The peer's end is awaited, since an earlier close could reset the alert away.
    pub(super) fn linger_because(&mut self, reason: CloseReason, now: Time) {
        match self.phase {
            Phase::Connecting | Phase::Open => {
                self.reason = Some(reason);
                self.phase = Phase::Lingering;
                self.deadline = Time::NEVER;
                self.flags.clear(DEADLINE_FRESH);
                self.flags.clear(BLOCKED);
                self.progressed(now);
                self.mark = UNMARKED;
                self.flags.set(DEADLINE_CHANGED);
            }
            Phase::Flushing | Phase::Lingering => self.over(self.reason.unwrap_or(reason)),
            Phase::Over => {}
        }
    }

    /// Closes without lingering when the output has left: by the protocol no further input comes.
    pub(crate) fn close_briefly(&mut self, now: Time) {
        if matches!(self.phase, Phase::Open | Phase::Connecting) {
            self.flags.set(NO_LINGER);
        }
        self.close(now);
    }

    /// Closes because more input is kept than `limit`. Earlier answers still leave. A link that has sent nothing, and
    /// has an empty output, ends at once.
    pub(crate) fn input_overflowed(&mut self, limit: usize, now: Time) {
        let reason = CloseReason::InputOverflow { limit };
        if self.sent == 0 && self.queued() == 0 {
            self.end(reason, now);
        } else {
            self.close_because(reason, now);
        }
    }

    /// Ends now, without lingering. A layer's last words leave before that, although the kernel may not take them at once:
    /// without them the peer would take the end for a truncation. Queued output is lost, and then the end is one.
    pub(super) fn end(&mut self, reason: CloseReason, now: Time) {
        if self.phase == Phase::Open
            && self.marks.has(GOODBYE_DUE)
            && self.queued() == 0
            && !self.flags.has(BROKEN.and(RESET))
        {
            self.flags.set(NO_LINGER);
            self.close_because(reason, now);
        } else {
            self.over(reason);
        }
    }

    /// Sends an accepted connection its refusal, and closes. Only a few linger; others may be reset before they have
    /// read the refusal.
    pub(crate) fn refuse(&mut self, refusal: &Bytes, lingers: bool, now: Time, pool: &mut Pool) {
        self.flags.put(NO_LINGER, !lingers);
        self.send_refusal(refusal, now, pool);
    }

    /// Waits until `until` for the first bytes of an accepted connection, which choose its refusal.
    pub(crate) fn await_first_bytes(&mut self, until: Time, lingers: bool) {
        self.flags.put(NO_LINGER, !lingers);
        self.deadline = until;
    }

    /// Sends the refusal that the first bytes have chosen, and closes.
    pub(crate) fn send_refusal(&mut self, refusal: &Bytes, now: Time, pool: &mut Pool) {
        if !refusal.is_empty() {
            // The first write of a link is accepted in full, at any size.
            let mut output = pool.take_output(&Limits::default());
            output.put_shared(refusal.clone());
            self.output = Some(output);
        }
        self.close(now);
    }

    /// Begins the stop of the application.
    pub(crate) fn stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
            self.flags.put(
                ANSWERED,
                self.queued() > 0
                    || self.kept.as_ref().is_some_and(|kept| kept.len() > 0)
                    || self.phase == Phase::Flushing,
            );
        }
    }

    /// Ends now, with a reset.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        self.flags.set(RESET);
        self.over(reason);
    }

    /// Ends now, and leaves the close to the kernel.
    pub(crate) fn over(&mut self, reason: CloseReason) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            self.reason = Some(reason);
        }
    }

    /// The reason for which the link is closing or over. Lack of memory stays the reason, whether the handler closes
    /// with its last words or the peer never reads them.
    pub(crate) fn reason(&self) -> CloseReason {
        match self.reason {
            Some(CloseReason::Panicked) => CloseReason::Panicked,
            _ if self.flags.has(OUT_OF_MEMORY) => CloseReason::Memory,
            reason => reason.unwrap_or(CloseReason::Closed),
        }
    }

    /// Whether the connection is closed with a reset.
    pub(crate) fn resets(&self) -> bool {
        self.flags.has(RESET)
    }

    /// Gives the buffers back. Returns the bytes of input never delivered, and of output never sent.
    pub(crate) fn release(&mut self, pool: &mut Pool) -> (usize, usize) {
        let lost = (self.kept.as_ref().map_or(0, |kept| kept.len()), self.queued());
        if let Some(kept) = self.kept.take() {
            pool.give_kept(kept);
        }
        if let Some(output) = self.output.take() {
            pool.give_output(output);
        }
        lost
    }
}

/// Translates the errors for a peer that has gone into a reset; other errors stay.
pub(super) fn reason_of(errno: Errno) -> CloseReason {
    match errno.to_io().kind() {
        std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::BrokenPipe
        | std::io::ErrorKind::ConnectionAborted
        | std::io::ErrorKind::NotConnected => CloseReason::Reset,
        _ => CloseReason::Failed(errno),
    }
}
