//! The steps of links: takes the steps that each link's state machine names, until the link rests.

use std::time::Duration;

use super::EventLoop;
use crate::context::{Core, Pending, Timer};
use crate::driver::Driver;
use crate::link::{Due, NO_STATE, Origin, Sent, Step};
use crate::recorder::What;
use crate::time::Time;
use crate::token::ConnectionId;

impl<D: Driver> EventLoop<D> {
    /// Takes the steps of one link, until the link rests.
    pub(super) fn advance_link(&mut self, id: ConnectionId) {
        self.advance_answered(id);
    }

    /// As `advance_link`, inlined after `on_data`. The short way: nearly every answer is one piece, which the kernel takes whole.
    #[inline(always)]
    pub(super) fn advance_answered(&mut self, id: ConnectionId) {
        let Core { links, pool, counters, recorder, now, .. } = &mut self.core;
        let Some(link) = links.get_mut(id) else { return };
        if !link.has_plain_answer_only() {
            return self.run_steps(id);
        }
        let Some(bytes) = link.answer() else {
            return if link.output().is_some() {
                self.run_steps(id)
            };
        };
        match self.driver.send_bytes(link, bytes) {
            Sent::Bytes(count) if count == bytes.len() => {
                recorder.note(id, What::Sent(count as u32), *now);
                if link.is_counted() {
                    counters.sent.add(count as u64);
                }
                link.answered(count, *now, pool);
            }
            outcome => self.sent(id, outcome),
        }
    }

    /// The long way: each step that the state machine names.
    #[inline(never)]
    fn run_steps(&mut self, id: ConnectionId) {
        while let Some(step) = self.advance(id) {
            self.call(id, step);
        }
    }

    /// Takes the steps that call no handler. Returns the next step that calls the handler, or `None` when the link rests.
    fn advance(&mut self, id: ConnectionId) -> Option<Step> {
        loop {
            let Core { links, bounds, recorder, now, turn, .. } = &mut self.core;
            let link = links.get_mut(id)?;
            match link.step(*turn, &bounds[link.bounds].limits) {
                Step::Rest => break,
                Step::Send => {
                    let outcome = self.driver.send(link);
                    self.core.note_sent(id, outcome, || self.driver.unacknowledged(id));
                }
                Step::Goodbye => {
                    let outcome = self.driver.say_goodbye(id);
                    link.said_goodbye(matches!(outcome, Sent::Blocked(_)));
                    if matches!(outcome, Sent::Failed(_)) {
                        self.core.note_sent(id, outcome, || 0);
                    }
                }
                Step::Finish => {
                    let driver = &mut self.driver;
                    link.finished(*now, || driver.unacknowledged(id));
                    recorder.note(id, What::Finished, *now);
                    self.driver.finish(id);
                }
                Step::Overflowed => link.close(*now),
                Step::Probe => self.driver.probe(id),
                Step::NextTurn => {
                    if link.defer() {
                        self.deferred_next.push(id);
                    }
                    break;
                }
                step => return Some(step),
            }
        }
        let Core { links, bounds, holdings, wheel, now, .. } = &mut self.core;
        let link = links.get_mut(id)?;
        link.weigh(holdings);
        if link.take_interest_change() {
            self.driver.changed(id);
        }
        let driver = &mut self.driver;
        if link.take_deadline_change(*now, || driver.unacknowledged(id)) {
            link.arm(&bounds[link.bounds].deadlines, wheel, Timer::Link(id));
        }
        None
    }

    /// Takes a step that calls the handler.
    fn call(&mut self, id: ConnectionId, step: Step) {
        self.before_callback();
        let Some(link) = self.core.links.get_mut(id) else { return };
        let (service, key) = (link.service as usize, link.state);
        let host = &mut self.hosts[service].host;
        match step {
            Step::Close => return self.close(id),
            Step::Deliver => {
                if let Some(kept) = link.kept.take_if(|kept| !kept.is_too_short()) {
                    self.lend_kept(id, kept, |host, core, key, input| host.data(core, id, key, input));
                }
                return;
            }
            Step::EndOfInput => {
                let kept = link.kept.take().unwrap_or_else(|| self.core.pool.take_kept());
                return self.lend_kept(id, kept, |host, core, key, input| host.end_of_input(core, id, key, input));
            }
            Step::Drained => host.drained(&mut self.core, id, key),
            Step::Missed => {
                let count = link.take_missed();
                host.missed(&mut self.core, id, key, count);
                if let Some(link) = self.core.links.get_mut(id) {
                    link.notice_done();
                }
            }
            Step::TooSlow => {
                host.too_slow(&mut self.core, id, key);
                if let Some(link) = self.core.links.get_mut(id) {
                    link.close_slow(self.core.now);
                }
            }
            Step::Stopping => host.stopping(&mut self.core, id, key),
            _ => debug_assert!(false, "{step:?} takes no handler"),
        }
        self.after_callback(id);
    }

    /// Handles the link's timer: a deadline has passed, or the deadline has receded and the timer is set anew.
    pub(super) fn deadline(&mut self, id: ConnectionId, heard: Time) {
        let Some(link) = self.core.links.get_mut(id) else { return };
        link.timer_gone();
        let service = link.service as usize;
        match link.next_due(&self.core.bounds[link.bounds].deadlines) {
            Some((at, due)) if at <= heard => {
                let unacknowledged = if due.asks_for_progress() { self.driver.unacknowledged(id) } else { 0 };
                let key = link.state;
                link.set_deadline_changed();
                if due != Due::Look {
                    self.core.recorder.note(id, What::Overdue, heard);
                }
                if link.due(due, self.core.now, unacknowledged) == Some(Due::Handler) {
                    self.before_callback();
                    self.hosts[service].host.deadline(&mut self.core, id, key);
                    self.after_callback(id);
                }
                self.advance_link(id);
            }
            _ => link.arm(&self.core.bounds[link.bounds].deadlines, &mut self.core.wheel, Timer::Link(id)),
        }
    }

    /// Handles the timer with a key at `place`: calls the handler.
    pub(super) fn keyed_timer(&mut self, place: u32) {
        let Some((service, owner, key)) = self.core.timer_is_due(place) else { return };
        self.before_callback();
        self.hosts[service as usize].host.timer(&mut self.core, owner, key);
        self.after_callback(owner.connection());
        self.advance_link(owner.connection());
    }

    /// Ends a link. The only place where `on_close` is called.
    pub(super) fn close(&mut self, id: ConnectionId) {
        let Some(link) = self.core.links.get(id) else { return };
        let (service, key, origin, reason) = (link.service as usize, link.state, link.origin, link.reason());
        if let Some(timer) = link.timer() {
            self.core.wheel.cancel(timer);
        }
        self.driver.release(id, link.resets());
        self.core.topics.leave_all(id);
        self.core.cancel_timers_of(id);
        self.core.log_end(id);
        if origin.is_counted_in() {
            // Before `on_close`: a client that the handler tells to come now finds room, on any loop.
            self.core.terms[service].counts.go();
            self.exchange.loop_handle.load_less();
        }
        if key != NO_STATE {
            self.before_callback();
            self.core.opens_refused |= self.core.stopping;
            self.hosts[service].host.close(&mut self.core, id, key, reason);
            self.after_callback(id);
            self.core.opens_refused = self.has_given_up();
        }
        self.core.remove(id);
        match origin {
            // A refused connection was never counted as open.
            Origin::Refused => self.hosts[service].refused -= 1,
            // The process at the other end counts the traffic of a channel.
            Origin::Channel => {}
            Origin::Accepted | Origin::Adopted => self.core.counters.count_closed(reason),
            Origin::Outbound | Origin::Watched => self.core.counters.ended.add(1),
        }
    }

    /// Carries out the requests of callbacks, if there are any.
    #[inline]
    pub(super) fn settle(&mut self) {
        let Core { dirty, published, opening, .. } = &self.core;
        if !(dirty.is_empty() && published.is_empty() && opening.is_empty()) || self.admission.at_cap {
            self.settle_all();
        }
    }

    /// Callbacks may make further requests meanwhile. Those go to the end of the list, so the stack stays flat.
    #[inline(never)]
    fn settle_all(&mut self) {
        let mut next = 0;
        loop {
            if next == self.core.dirty.len() && !self.core.published.is_empty() {
                let driver = &mut self.driver;
                self.core.send_out(|link, bytes| Some(driver.send_bytes(link, bytes)));
            }
            if !self.core.opening.is_empty() {
                self.carry_out_opening();
            }
            let Some(&id) = self.core.dirty.get(next) else { break };
            next += 1;
            if let Some(link) = self.core.links.get_mut(id) {
                link.dirty = false;
                self.advance_link(id);
                // Compared within the turn, because one message can be copied for many members.
                if self.core.holdings.is_beyond() {
                    self.pressure.close_largest(&mut self.core);
                }
            }
        }
        self.core.dirty.clear();
        if self.admission.at_cap {
            self.mind_the_cap();
        }
    }

    /// Begins the connections and sets the timers that callbacks have requested. The list keeps its capacity.
    fn carry_out_opening(&mut self) {
        let mut opening = std::mem::take(&mut self.core.opening);
        for pending in opening.drain(..) {
            match pending {
                Pending::Open(open) => self.open_pending(open),
                Pending::Timer(place) => self.core.arm_timer(place),
            }
        }
        if self.core.opening.is_empty() {
            self.core.opening = opening;
        }
    }

    /// Reads the clock before a callback, because sends to other peers may have taken time since the last reading.
    pub(super) fn before_callback(&mut self) {
        self.core.now = self.core.now.max(self.driver.coarse_now());
    }

    /// Reads the coarse clock after a callback. A slow callback is logged, and deadlines that it has set count from its end.
    #[inline]
    pub(super) fn after_callback(&mut self, id: ConnectionId) {
        let now = self.driver.coarse_now();
        if now > self.core.now {
            let held = now.since(self.core.now);
            self.core.now = now;
            if held >= self.config.slow_callback {
                self.slow(id, held);
            }
        }
    }

    #[cold]
    fn slow(&mut self, id: ConnectionId, held: Duration) {
        let waited = self.waited.read(self.driver.now(), self.driver.waited_for_a_core()).min(held);
        // `waited` includes time of other threads before the callback, so the difference is a lower bound.
        if held - waited >= self.config.slow_callback {
            self.core.log_slow_callback(id, held, waited);
        }
    }
}
