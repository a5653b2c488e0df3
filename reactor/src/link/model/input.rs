//! The start of a connection and its input: the reports of the driver, and the bytes that the loop lends to the handler.

use super::*;

impl World<'_, '_> {
    pub(super) fn connect(&mut self, succeeds: bool) {
        if !std::mem::take(&mut self.kernel.connecting) {
            return;
        }
        let now = self.now;
        if !succeeds {
            self.kernel.failure_reported = true;
            self.link().failed(REFUSED, now);
            return self.advance_link();
        }
        (self.handler.opened, self.kernel.active, self.kernel.heard) = (now, now, now);
        self.link().connected(now);
        if self.link().is_open() {
            self.callback(None);
        }
        self.advance_link();
    }

    /// Reports input as the driver does: bytes before an end or a failure, unless the link does not read.
    pub(super) fn report_input(&mut self, most: u64) {
        let (now, probing) = (self.now, std::mem::take(&mut self.probing));
        let reads = self.link().reads();
        let kernel = &mut self.kernel;
        let waiting = kernel.arrived - kernel.reported;
        if reads && waiting > 0 {
            return self.receive(waiting.min(most.clamp(1, SCRATCH)));
        }
        if kernel.reset && !kernel.failure_reported && !kernel.connecting && (reads || !self.reported_interest.1) {
            (kernel.failure_reported, kernel.failed_at) = (true, Some(now));
            self.link().failed(RESET_BY_PEER, now);
        } else if reads && kernel.fin {
            assert!(!std::mem::replace(&mut kernel.fin_reported, true), "it reads after the end");
            self.link().end_of_input();
        } else if probing {
            self.handler.quiet = reads || kernel.fin_reported;
            self.link().nothing_arrived();
        } else {
            return;
        }
        self.advance_link();
        let is_called = self.handler.stopping_called || self.handler.closing || self.link.is_none();
        assert!(is_called || !self.handler.quiet, "nothing more arrives, and on_stopping is not called");
    }

    pub(super) fn receive(&mut self, count: u64) {
        let bytes: Vec<u8> = (self.kernel.reported..self.kernel.reported + count).map(byte).collect();
        self.kernel.reported += count;
        self.handler.quiet = false;
        (self.kernel.active, self.kernel.heard) = (self.now, self.now);
        let (now, limits) = (self.now, self.limits.clone());
        if !self.link().received(bytes.len(), now) {
            self.link().discard(bytes.len(), &limits);
            assert!(self.handler.closing, "thrown away");
            return self.advance_link();
        }
        match self.link().kept.take() {
            None => {
                let mut input = Input::of(&bytes);
                self.data(&mut input);
                let kept = (!input.is_empty()).then(|| {
                    let mut kept = self.pool.take_kept();
                    kept.keep(&input);
                    kept
                });
                self.keep(kept, input.has_consumed());
            }
            Some(mut kept) => {
                kept.append(&bytes);
                self.lend(kept, true);
            }
        }
        self.advance_link();
    }

    /// Lends kept input, as new data or at the end of the input.
    pub(super) fn lend(&mut self, mut kept: Box<Kept>, as_data: bool) {
        let mut input = kept.lend();
        let before = input.len();
        if as_data {
            self.data(&mut input);
        } else {
            self.compare_input(&input);
            assert_eq!(self.kernel.reported, self.kernel.arrived, "the end comes after everything before it");
            self.callback(Some(&mut input));
        }
        let (left, consumed) = (input.left(), input.len() < before);
        kept.settle(left);
        let kept = Some(kept).filter(|kept| kept.len() > 0);
        self.keep(kept, consumed);
    }

    pub(super) fn keep(&mut self, kept: Option<Box<Kept>>, consumed: bool) {
        let (limits, now) = (self.limits.clone(), self.now);
        let link = self.link.as_mut().expect("it has not ended");
        if consumed {
            link.set_useful();
        }
        let Some(kept) = kept else { return };
        if link.is_open() {
            if kept.len() > limits.input && !link.is_to_be_held_back(&limits) {
                link.input_overflowed(limits.input, now);
                link.kept = Some(kept);
                return self.begin_to_close();
            }
            link.kept = Some(kept);
        }
    }
}
