//! The loop of the model: the next turn, the passing of time with its timers, and the steps of the link after each event.

use super::*;

impl World<'_, '_> {
    pub(super) fn next_turn(&mut self) {
        self.turn += 1;
        if std::mem::take(&mut self.deferred) {
            self.advance_link();
        }
        if self.link.is_some() && self.probing {
            self.report_input(SCRATCH);
        }
    }

    /// Lets time pass, with the events that are due by then.
    pub(super) fn pass(&mut self, tenths: u64) {
        let until = self.now + TENTH * tenths as u32;
        let mut sweeps = 0;
        // Callbacks may take longer than the given time.
        while let Some(next) = self.wheel.next_deadline().filter(|next| *next <= until.max(self.now)) {
            if next > self.now {
                (self.now, sweeps) = (next, 0);
            }
            while self.wheel.expire(self.now).is_some() {
                if self.link.is_some() {
                    self.deadline();
                }
            }
            sweeps += 1;
            assert!(sweeps <= SWEEPS_MAX, "the timer never rests");
        }
        self.now = self.now.max(until);
        if self.link.is_some() {
            self.compare_time();
        }
    }

    /// Handles a timer as the loop does.
    pub(super) fn deadline(&mut self) {
        let (now, deadlines) = (self.now, self.deadlines.clone());
        let unacknowledged = self.kernel.unacknowledged as usize;
        self.link().timer_gone();
        match self.link().next_due(&deadlines) {
            Some((at, due)) if at <= now => {
                self.link().set_deadline_changed();
                if self.link().due(due, now, unacknowledged) == Some(Due::Handler) {
                    let (earliest, _) = self.handler.deadline.take().expect("there is one");
                    assert!(earliest <= now, "on_deadline is early");
                    self.callback(None);
                }
                self.advance_link();
            }
            _ => self.arm(),
        }
    }

    pub(super) fn arm(&mut self) {
        if let Some(link) = &mut self.link {
            link.arm(&self.deadlines, &mut self.wheel, ());
        }
    }

    /// Advances the link as the loop does after any event: until it rests.
    pub(super) fn advance_link(&mut self) {
        let limits = self.limits.clone();
        if self.link().has_plain_answer_only() {
            if let Some(count) = self.link().answer().map(<[u8]>::len) {
                let (outcome, now) = (self.transmit(), self.now);
                if outcome == Sent::Bytes(count)
                    && let Some(link) = &mut self.link
                {
                    link.answered(count, now, &mut self.pool);
                    (self.kernel.active, self.kernel.heard) = (now, now);
                } else {
                    self.sent(outcome);
                }
            }
            // Where the short way applies, the long way must have nothing to add.
            let whole = self.link().has_plain_answer_only() && self.link().output().is_none();
            let turn = self.turn;
            assert!(!whole || self.link().step(turn, &limits) == Step::Rest, "the short way leaves something undone");
        }
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps <= STEPS_MAX, "it never rests");
            let (turn, now) = (self.turn, self.now);
            match self.link().step(turn, &limits) {
                Step::Rest => break,
                Step::NextTurn => {
                    self.deferred = true;
                    break;
                }
                Step::Send => {
                    let outcome = self.transmit();
                    self.sent(outcome);
                }
                Step::Goodbye => panic!("no link of this world has a layer"),
                Step::Finish => {
                    let unacknowledged = self.kernel.unacknowledged as usize;
                    assert!(self.handler.closing || self.handler.finishing, "nobody wanted to finish");
                    let before = self.kernel.finished_at.replace(now);
                    assert!(before.is_none() || self.handler.finishing, "our half ends once");
                    let all = self.kernel.sent == self.handler.written;
                    assert!(all || self.kernel.broken_at.is_some(), "FIN before everything has left");
                    (self.kernel.heard, self.kernel.acknowledged_since_fin) = (now, 0);
                    self.link().finished(now, || unacknowledged);
                }
                Step::Overflowed => {
                    assert!(self.handler.overflowed, "nothing was refused");
                    self.begin_to_close();
                    self.link().close(now);
                }
                // A stream that has paused is looked at like any other connection.
                Step::Probe => (self.probing, self.handler.streams) = (true, false),
                Step::Drained => {
                    assert!(std::mem::take(&mut self.handler.owes_drained), "nothing had filled up");
                    assert!(self.link().queued() <= limits.output_high, "it has filled up again");
                    let is_called = self.handler.stopping_called;
                    assert!(!self.handler.streams || is_called, "a stream drains again before on_stopping");
                    self.handler.streams |= self.handler.stopping && !self.probing;
                    self.callback(None);
                }
                Step::Deliver => {
                    if let Some(kept) = self.link().kept.take() {
                        self.lend(kept, true);
                    }
                }
                Step::EndOfInput => {
                    assert!(self.kernel.fin_reported && !std::mem::replace(&mut self.handler.end_called, true));
                    assert!(!self.handler.paused, "on_end_of_input in a pause");
                    let all_read = self.handler.consumed == self.kernel.reported;
                    assert!(all_read || !self.handler.offer_owed, "on_end_of_input before the input that comes first");
                    let kept = self.link().kept.take().unwrap_or_else(|| self.pool.take_kept());
                    self.lend(kept, false);
                }
                Step::Stopping => {
                    assert!(self.handler.stopping && !std::mem::replace(&mut self.handler.stopping_called, true));
                    let handler = &self.handler;
                    let all_read = handler.quiet || self.kernel.fin_reported;
                    let asks_at_once = handler.paused || handler.streams || self.kernel.connecting;
                    assert!(all_read || asks_at_once, "on_stopping before the input that has arrived");
                    self.callback(None);
                }
                Step::Missed | Step::TooSlow => unreachable!("nobody publishes to it: see `buffer::backlog`"),
                Step::Close => return self.close(),
            }
        }
        if self.link().take_interest_change() {
            self.reported_interest = (self.link().reads(), self.link().writes());
        }
        let (now, unacknowledged) = (self.now, self.kernel.unacknowledged as usize);
        if self.link().take_deadline_change(now, || unacknowledged) {
            self.arm();
        }
        if let Some(span) = self.handler.fresh.take()
            && let Some((_, latest)) = &mut self.handler.deadline
        {
            *latest = now + span;
        }
        self.compare();
    }
}
