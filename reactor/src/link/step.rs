//! The steps of a link: the actions that the loop must take, one at a time, until the link rests.

use super::flags::*;
use super::{GOODBYE_DUE, GREETED, Link, Origin, Phase, Stopping};
use crate::limits::Limits;
use crate::reason::CloseReason;

/// The next action of the loop for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hand the output to the driver.
    Send,
    /// Call `on_missed`.
    Missed,
    /// Call `on_too_slow`, and close.
    TooSlow,
    /// Close: a write was refused, and no byte may leave after that gap. Earlier output still leaves.
    Overflowed,
    /// Call `on_drained`.
    Drained,
    /// Call `on_data` with the kept bytes.
    Deliver,
    /// Call `on_end_of_input`.
    EndOfInput,
    /// Ask the driver whether input has arrived, whatever readiness was reported.
    Probe,
    /// Call `on_stopping`.
    Stopping,
    /// Have the layer end our half: the layer's last bytes leave before FIN.
    Goodbye,
    /// End our half.
    Finish,
    /// Give the buffers back and call `on_close`.
    Close,
    /// Wait for the next turn: a callback is due that was called in this turn already.
    NextTurn,
    /// Wait for the next event.
    Rest,
}

impl Link {
    /// Returns the next step. Sending comes first, so that a close finds an empty output. Kept input comes before the
    /// end of input, so that the end is the handler's last input. A callback that can cause itself comes once a turn.
    #[inline]
    pub(crate) fn step(&mut self, turn: u32, limits: &Limits) -> Step {
        match self.phase {
            Phase::Open => match &self.output {
                None => self.open_step(turn),
                Some(output) if output.overflowed() => Step::Overflowed,
                Some(_) if self.flags.has(TOO_SLOW) && !self.flags.has(SLOW_REPORTED) => self.report_too_slow(),
                Some(output) if output.is_behind() && output.is_missing() && !self.flags.has(BLOCKED) => Step::Missed,
                Some(output) => {
                    if output.queued() > limits.output_high {
                        self.flags.choke();
                    }
                    if self.flags.has(BLOCKED) { self.open_step(turn) } else { Step::Send }
                }
            },
            // After the handler has closed the link, no callback follows.
            Phase::Connecting if self.is_open() && self.flags.has(TOO_SLOW) && !self.flags.has(SLOW_REPORTED) => {
                self.report_too_slow()
            }
            Phase::Connecting if self.origin == Origin::Accepted => self.handshake_step(),
            Phase::Connecting if self.stopping == Stopping::Asked && self.is_open() => self.report_stopping(),
            Phase::Connecting => Step::Rest,
            Phase::Flushing => match &self.output {
                // A layer has not sent all taken bytes yet.
                None if self.flags.has(BLOCKED) => Step::Rest,
                None if self.marks.has(GOODBYE_DUE) => Step::Goodbye,
                None => Step::Finish,
                Some(_) if self.flags.has(BLOCKED) => Step::Rest,
                Some(output) if output.is_missing() => Step::Missed,
                Some(_) => Step::Send,
            },
            Phase::Lingering if self.flags.has(ENDED) => {
                self.phase = Phase::Over;
                self.step(turn, limits)
            }
            Phase::Lingering => Step::Rest,
            Phase::Over => Step::Close,
        }
    }

    #[inline]
    fn open_step(&mut self, turn: u32) -> Step {
        if !self.flags.has(ATTENTION) && self.stopping == Stopping::No {
            return Step::Rest;
        }
        self.attended_step(turn)
    }

    /// The next step of an open link because of an `ATTENTION` flag or a stop.
    #[inline]
    pub(super) fn attended_step(&mut self, turn: u32) -> Step {
        if self.flags.has(BROKEN) && self.flags.has(PAUSED) {
            // The handler wants no further input, and nothing can be sent: the reset ends the pause.
            self.over(CloseReason::Reset);
            return Step::Close;
        }
        if self.flags.has(FINISHING) && !self.flags.has(HALF_FINISHED.and(BLOCKED)) && self.output.is_none() {
            return if self.marks.has(GOODBYE_DUE) { Step::Goodbye } else { Step::Finish };
        }
        if self.stopping == Stopping::Quiet {
            return self.report_stopping();
        }
        if self.flags.has(DRAINED_DUE) {
            if self.drained_turn == turn as u16 {
                return Step::NextTurn;
            }
            // A stream does not end by itself, so reading first gains nothing. `on_drained` comes after `on_stopping`.
            if self.stopping == Stopping::Streaming {
                return self.report_stopping();
            }
            self.flags.clear(DRAINED_DUE);
            self.drained_turn = turn as u16;
            if self.stopping == Stopping::Asked {
                self.stopping = Stopping::Streaming;
            }
            return Step::Drained;
        }
        if self.is_held_back() {
            // Only the handler knows the reason of its own pause, so `on_stopping` is called at once.
            let ask = self.flags.has(PAUSED) && matches!(self.stopping, Stopping::Asked | Stopping::Streaming);
            return if ask { self.report_stopping() } else { Step::Rest };
        }
        if self.flags.has(OFFER_DUE) {
            if self.offered_turn == turn as u16 {
                return Step::NextTurn;
            }
            self.flags.clear(OFFER_DUE);
            self.offered_turn = turn as u16;
            if self.stopping == Stopping::Streaming {
                self.stopping = Stopping::Asked;
            }
            return Step::Deliver;
        }
        if self.flags.has(ENDED) && self.flags.has(BROKEN) {
            self.over(CloseReason::Reset);
            return Step::Close;
        }
        if self.flags.has(ENDED) && !self.flags.has(END_REPORTED) {
            self.flags.set(END_REPORTED);
            return Step::EndOfInput;
        }
        if self.flags.has(ENDED) && self.flags.has(HALF_FINISHED) {
            // Both halves have ended, so the link is over without a callback.
            self.over(CloseReason::PeerEnded);
            return Step::Close;
        }
        match self.stopping {
            Stopping::Asked | Stopping::Streaming if self.flags.has(ENDED) => self.report_stopping(),
            Stopping::Asked | Stopping::Streaming => {
                self.stopping = Stopping::Probing;
                Step::Probe
            }
            Stopping::No | Stopping::Probing | Stopping::Quiet | Stopping::Reported => Step::Rest,
        }
    }

    /// The next step of an accepted connection in its layer's handshake, before any callback. At a stop, a handshake
    /// that the peer has begun goes on; a silent peer is closed.
    fn handshake_step(&mut self) -> Step {
        match self.stopping {
            Stopping::Asked => {
                self.stopping = Stopping::Probing;
                Step::Probe
            }
            Stopping::Quiet if !self.marks.has(GREETED) => {
                self.over(CloseReason::Stopped);
                Step::Close
            }
            _ => Step::Rest,
        }
    }

    fn report_too_slow(&mut self) -> Step {
        self.flags.set(SLOW_REPORTED);
        Step::TooSlow
    }

    fn report_stopping(&mut self) -> Step {
        self.stopping = Stopping::Reported;
        Step::Stopping
    }
}
