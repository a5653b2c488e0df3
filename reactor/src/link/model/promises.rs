//! The promises: at the end of a link, whenever it rests, and as time passes.

use super::*;

impl World<'_, '_> {
    pub(super) fn close(&mut self) {
        let (now, settling) = (self.now, self.settling);
        let Some(mut link) = self.link.take() else { return };
        let (kernel, handler, deadlines) = (&self.kernel, &self.handler, &self.deadlines);
        let (owed, reason) = (link.queued() as u64, link.reason());
        let after = |from: Option<Time>, span: Option<Duration>| match (from, span) {
            (Some(from), Some(span)) => from + span <= now,
            _ => false,
        };
        let is_right = match reason {
            CloseReason::PeerEnded => kernel.fin_reported && (handler.closing || handler.finishing),
            CloseReason::Closed => handler.closing,
            CloseReason::Stopped => handler.closing && handler.stopping,
            CloseReason::Aborted => handler.aborted && link.resets(),
            CloseReason::Reset => {
                let late = [kernel.broken_at, kernel.failed_at].iter().any(|&at| after(at, Some(deadlines.linger)));
                let all_read = handler.consumed == kernel.reported || handler.paused || handler.closing || late;
                assert!(all_read || !handler.offer_due, "a reset comes before what was to be offered again");
                kernel.broken_at.is_some() || kernel.failure_reported
            }
            CloseReason::ConnectFailed(errno) => errno == REFUSED && kernel.failure_reported,
            CloseReason::OutputOverflow { .. } => handler.overflowed && link.resets() == (owed > 0),
            CloseReason::InputOverflow { limit } => link.kept.as_ref().is_some_and(|kept| kept.len() > limit),
            CloseReason::TimedOut(Deadline::Connect) => {
                kernel.connecting && after(Some(handler.opened), deadlines.connect)
            }
            CloseReason::TimedOut(Deadline::FirstRequest) => {
                !handler.useful && after(Some(handler.opened), deadlines.first_request)
            }
            CloseReason::TimedOut(Deadline::Idle) => !handler.closing && after(Some(kernel.active), deadlines.idle),
            CloseReason::TimedOut(Deadline::WriteProgress) => {
                owed > 0 && after(kernel.blocked_at, deadlines.write_progress)
            }
            CloseReason::TimedOut(Deadline::Linger) => owed > 0 && handler.closing,
            CloseReason::Failed(_)
            | CloseReason::LookUpFailed
            | CloseReason::Handshake
            | CloseReason::TimedOut(Deadline::Handshake)
            | CloseReason::ShortFile
            | CloseReason::Panicked
            | CloseReason::Killed
            | CloseReason::Memory
            | CloseReason::DrainExpired => false,
        };
        assert!(is_right, "ends with {reason:?}");
        if matches!(reason, CloseReason::PeerEnded | CloseReason::Closed | CloseReason::Stopped) {
            assert!(owed == 0 && !handler.lost, "{reason:?} although {owed} bytes are owed");
            assert_eq!(kernel.sent, handler.written);
        }
        assert!(!settling || !matches!(reason, CloseReason::TimedOut(_)), "everybody wanted it to end: {reason:?}");
        assert_eq!((link.received, link.sent), (kernel.reported, kernel.sent));
        if let Some(key) = link.timer() {
            self.wheel.cancel(key);
        }
        let kept = link.kept.as_ref().map_or(0, |kept| kept.len());
        assert_eq!(link.release(&mut self.pool), (kept, owed as usize));
        assert!(kernel.broken_at.is_some() || kernel.sent + owed == handler.written, "bytes are lost");
        assert!(self.wheel.is_empty(), "a timer is left");
    }

    pub(super) fn compare(&mut self) {
        let (deferred, probing, limits) = (self.deferred, self.probing, self.limits.clone());
        let (kernel, handler) = (&self.kernel, &self.handler);
        let Some(link) = &self.link else { return };
        let (reads, writes, owed) = (link.reads(), link.writes(), link.queued());
        assert_eq!(self.reported_interest, (reads, writes), "the driver knows what the link wants");
        assert!(!handler.aborted, "it ends at once");
        assert!(!handler.overflowed || handler.closing || kernel.connecting, "nothing follows a gap but the end");
        let broken = kernel.broken_at.is_some() || kernel.failure_reported;
        assert!(!(broken && handler.paused), "a reset does not end the pause");
        assert!(broken || kernel.sent + owed as u64 == handler.written, "what was written is owed or has left");
        assert_eq!(writes, owed > 0 || kernel.connecting, "what is owed is waited for, and nothing else");
        assert!(!(reads && (kernel.connecting || kernel.fin_reported)), "there is nothing to read");
        if kernel.connecting {
            let is_called = !handler.stopping || handler.stopping_called || handler.closing;
            return assert!(is_called, "on_stopping comes at once while connecting");
        }
        if handler.closing {
            assert!(kernel.finished_at.is_some() || owed > 0, "all has left, and no FIN has");
            assert!(!(kernel.fin_reported && owed == 0), "both halves have ended");
            return;
        }
        let full = owed > limits.output_high && !handler.relayed;
        let waits = handler.waiting && owed > 0;
        assert!(!(reads && (handler.paused || full || waits)), "nobody wants to read");
        let relays = handler.relayed && !handler.paused && !waits;
        assert!(reads || !relays || deferred || probing || kernel.fin_reported || broken, "a relay does not read on");
        if deferred || probing || owed > limits.output_low || waits {
            return;
        }
        assert!(!handler.owes_drained || broken, "on_drained is forgotten");
        if handler.paused {
            let is_called = !handler.stopping || handler.stopping_called || broken;
            return assert!(is_called, "a pause holds back the stop");
        }
        assert!(reads || kernel.fin_reported || broken, "it has stopped reading for nothing");
        let all_read = handler.consumed == kernel.reported;
        assert!(all_read || !handler.offer_owed || broken, "what is to be offered again is forgotten");
        assert!(!kernel.fin_reported || handler.end_called, "the end of the input is forgotten");
        assert!(!handler.stopping || handler.stopping_called || broken, "the stop is forgotten");
        assert!(!handler.finishing || kernel.finished_at.is_some() || owed > 0 || broken, "finishing is forgotten");
    }

    /// Checks that every deadline that has passed was reported.
    pub(super) fn compare_time(&mut self) {
        let (now, deadlines) = (self.now, self.deadlines.clone());
        let (kernel, handler) = (&self.kernel, &self.handler);
        let Some(link) = &self.link else { return };
        let passed = |from: Time, span: Option<Duration>| span.is_some_and(|span| from + span <= now);
        if let Some((at, _)) = link.next_due(&deadlines) {
            assert!(link.timer().is_some(), "a timer stands for the deadline, and for the next look");
            assert!(link.timer_at <= at && at > now, "a deadline, or a look at acknowledgements, is late");
        }
        if kernel.connecting {
            return assert!(!passed(handler.opened, deadlines.connect), "connecting for ever");
        }
        if let Some(broken_at) = kernel.broken_at.filter(|_| !handler.closing) {
            return assert!(!passed(broken_at, Some(deadlines.linger)), "broken for ever");
        }
        if handler.closing {
            let flush_span = deadlines.linger.max(deadlines.write_progress.unwrap_or_default());
            assert!(!passed(kernel.heard, Some(flush_span * 2)), "closing for ever");
            let finished_at = kernel.finished_at.filter(|_| kernel.acknowledged_since_fin < PROGRESS_MIN);
            // Five extensions for the peer's input, and one for bytes that it took before.
            let longest = deadlines.linger * 7 + TENTH;
            return assert!(
                !finished_at.is_some_and(|at| passed(at, Some(longest))),
                "a peer that sends single bytes is heard for ever"
            );
        }
        if kernel.failure_reported {
            return;
        }
        assert!(handler.deadline.is_none_or(|(_, latest)| latest > now), "on_deadline is late");
        assert!(handler.useful || !passed(handler.opened, deadlines.first_request), "of no use for ever");
        if let Some(blocked_at) = kernel.blocked_at {
            let stalled = kernel.acknowledged < PROGRESS_MIN && passed(blocked_at, deadlines.write_progress);
            assert!(!stalled, "a few acknowledged bytes count as progress");
        } else if kernel.unacknowledged == 0 && link.origin != Origin::Watched {
            assert!(!passed(kernel.active, deadlines.idle), "idle for ever");
        }
    }
}
