//! What comes from elsewhere: mailboxes, signals, other loops; and what goes there at the end of a turn.

use std::sync::PoisonError;

use super::accept::SAY_AGAIN;
use super::{EventLoop, NO_SERVICE};
use crate::driver::Driver;
use crate::host::guarded;
use crate::token::ConnectionId;

/// Messages published from other threads, or by other loops, that are delivered in one turn.
const PUBLISHED_PER_TURN: usize = 1024;
/// Loops with one connection that are asked for a report when the operator asks for one: the rest of them is in the sum.
const REPORTS_OF_PER_CONNECTION: usize = 200;

impl<D: Driver> EventLoop<D> {
    pub(super) fn read_mail(&mut self) {
        self.core.halting |= self.cluster.is_halting();
        self.hear_of_memory();
        self.read_published();
        self.take_on_accepted();
        // What cannot go on slows down whoever posts to this loop, too; but not in a circle.
        let publishes = self.core.outgoing.as_ref().is_none_or(|outgoing| !outgoing.is_full());
        let takes_messages = publishes && !self.core.outbox.is_full() || self.loop_handle.is_crowded();
        for index in 0..self.hosts.len() {
            if takes_messages {
                self.mail |= self.hosts[index].host.collect();
            }
            while self.hosts[index].host.message(&mut self.core) {
                self.after_callback(ConnectionId::NONE);
            }
        }
        // After all mailboxes: whoever has found one full since then finds room in it.
        if self.loop_handle.take_sender_waits() {
            self.cluster.wake_all();
        }
        let signalled =
            self.orders.as_ref().and_then(|orders| Some(orders.signals.as_ref()?.take())).unwrap_or_default();
        if let Some(signal) = signalled.stop {
            log::info!("signal {signal}: stopping");
            self.cluster.halt();
            self.core.halting = true;
        }
        if signalled.report {
            self.cluster.ask_for_reports(REPORTS_OF_PER_CONNECTION);
        }
        if signalled.report || self.loop_handle.take_reporting() {
            let (report, on_report) = (self.report(), self.config.on_report.clone());
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_| {
                on_report.lock().unwrap_or_else(PoisonError::into_inner)(&report);
            });
        }
        if let Some(orders) = self.orders.as_ref().filter(|_| signalled.reopen) {
            self.cluster.ask_to_reopen();
            let on_reopen = orders.on_reopen.clone();
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_| {
                on_reopen.lock().unwrap_or_else(PoisonError::into_inner)();
            });
        }
    }

    /// What was published from other threads, for all loops, and by other loops, for this one.
    fn read_published(&mut self) {
        let mut published = Vec::new();
        // Those who wait for room at another loop come first, so that this one's queue is not a way round it.
        let is_behind = self.core.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_behind());
        if let Some(receiver) = self.inbox.published.as_ref().filter(|_| !is_behind) {
            self.mail |= receiver.take(&mut published, PUBLISHED_PER_TURN);
            for (topic, bytes) in published.drain(..) {
                self.core.publish(&topic, &bytes, Some(&bytes), ConnectionId::NONE, ConnectionId::NONE);
            }
        }
        self.mail |= self.inbox.passed_on.take(&mut published, PUBLISHED_PER_TURN);
        for (topic, bytes) in published {
            self.core.deliver(&topic, &bytes, Some(&bytes), ConnectionId::NONE);
        }
    }

    /// At the end of a turn: what it has posted and published goes on to the other loops, and the one that accepts hears of
    /// descriptors that have become free.
    pub(super) fn tell_others(&mut self) {
        let mut released = match self.core.outbox.is_behind() {
            true => self.post_waiting(),
            false => Vec::new(),
        };
        if let Some(outgoing) = &mut self.core.outgoing {
            outgoing.note_topics(self.core.topics.bits());
            let was_behind = outgoing.is_behind();
            released.extend(outgoing.flush());
            // Those go on in the next turn, at once, and so do messages of other threads that were left in their mailbox.
            self.mail |= was_behind && !outgoing.is_behind();
            if outgoing.has_left_out() {
                let said_lately = self.refusals_said.is_some_and(|at| self.core.now.since(at) < SAY_AGAIN);
                if !said_lately {
                    self.refusals_said = Some(self.core.now);
                    let count = outgoing.take_left_out();
                    log::warn!("{count} publications of periodic work were left out: another loop cannot keep up");
                }
            }
            if outgoing.is_behind() {
                released.drain(..).for_each(|id| outgoing.hold(id));
            }
        }
        if self.core.outbox.is_behind() {
            self.core.outbox.hold(std::mem::take(&mut released));
        }
        for id in released {
            if let Some(link) = self.core.links.get_mut(id) {
                link.release_hold();
                self.core.mark_dirty(id);
            }
        }
        if self.core.outgoing.is_some() {
            self.note_descriptors();
        }
        if self.spawner.is_some() {
            self.config.budget.set_sharers(self.cluster.per_connection_count());
        }
    }

    /// Posts what there is room for now, and reads nothing more from connections whose callbacks have posted the rest. Those
    /// that need not be held any longer.
    #[cold]
    fn post_waiting(&mut self) -> Vec<ConnectionId> {
        for id in self.core.outbox.take_posted() {
            if let Some(link) = self.core.links.get_mut(id) {
                link.hold();
                self.core.mark_dirty(id);
            }
        }
        self.settle();
        let said_lately = self.refusals_said.is_some_and(|at| self.core.now.since(at) < SAY_AGAIN);
        if self.core.outbox.has_refused() && !said_lately {
            self.refusals_said = Some(self.core.now);
            let refused = self.core.outbox.take_refused();
            log::warn!(
                "{refused} messages posted in callbacks were given back: the loops that they are for cannot keep up"
            );
        }
        let was_full = self.core.outbox.is_full();
        let released = self.core.outbox.flush();
        // Then messages are taken again, and those who are released go on, in a turn that begins at once.
        let (is_full, is_behind) = (self.core.outbox.is_full(), self.core.outbox.is_behind());
        self.mail |= was_full && !is_full || !is_behind;
        released
    }

    pub(super) fn note_descriptors(&self) {
        self.cluster.note_descriptors(&self.loop_handle, self.driver.descriptors() + self.own_descriptors);
    }
}
