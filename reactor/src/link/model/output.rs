//! The output of a connection: one send into the room of the kernel, and the consequences of its outcome.

use super::*;

impl World<'_, '_> {
    pub(super) fn report_output(&mut self) {
        if self.link().writes() && !self.kernel.connecting && (self.kernel.room > 0 || self.kernel.broken) {
            let outcome = self.transmit();
            self.sent(outcome);
            self.advance_link();
        }
    }

    /// Sends once, like the driver.
    pub(super) fn transmit(&mut self) -> Sent {
        let output = self.link.as_ref().and_then(Link::output).expect("something to send");
        let offered = output.offered();
        let kernel = &mut self.kernel;
        assert!(!kernel.connecting && (kernel.finished_at.is_none() || offered.is_empty()), "sends when it cannot");
        let expected: Vec<u8> = (kernel.sent..kernel.sent + offered.len() as u64).map(byte).collect();
        assert!(offered == expected, "what is sent is what was written, in order");
        if offered.is_empty() {
            return Sent::Bytes(0);
        }
        if kernel.broken {
            return Sent::Failed(BROKEN_PIPE);
        }
        let taken = kernel.room.min(offered.len() as u64);
        kernel.room -= taken;
        kernel.sent += taken;
        kernel.unacknowledged += taken;
        if taken == offered.len() as u64 { Sent::Bytes(taken as usize) } else { Sent::Blocked(taken as usize) }
    }

    pub(super) fn sent(&mut self, outcome: Sent) {
        let (now, limits, owed) = (self.now, self.limits.clone(), self.link().queued());
        let unacknowledged = self.kernel.unacknowledged as usize;
        let Some(link) = &mut self.link else { return };
        let lost = link.sent(outcome, now, &limits, &mut self.pool, || unacknowledged).bytes;
        let kernel = &mut self.kernel;
        match outcome {
            Sent::Bytes(_) => kernel.blocked_at = None,
            Sent::Blocked(_) if kernel.blocked_at.is_none() => {
                (kernel.blocked_at, kernel.acknowledged) = (Some(now), 0);
            }
            Sent::Blocked(_) | Sent::ShortFile => {}
            Sent::Failed(_) => {
                assert_eq!(lost, owed, "what is lost is counted");
                self.handler.lost |= lost > 0;
                (kernel.broken_at, kernel.blocked_at) = (Some(now), None);
                return;
            }
        }
        assert_eq!(lost, 0);
        // The wait for the output is over, whether input was kept or not.
        self.handler.waiting &= link.queued() > 0;
        let closes = self.handler.overflowed && !self.handler.closing && !link.is_open();
        kernel.active = now;
        if matches!(outcome, Sent::Bytes(1..) | Sent::Blocked(1..)) {
            kernel.heard = now;
        }
        if closes {
            self.begin_to_close();
        }
    }
}
