//! What comes from elsewhere: mailboxes, signals, other loops; and what goes there at the end of a turn.

use std::sync::PoisonError;

use super::{EventLoop, NO_SERVICE};
use crate::driver::Driver;
use crate::host::guarded;
use crate::token::ConnectionId;

/// Messages published from other threads, or by other loops, that are delivered in one turn.
const PUBLISHED_PER_TURN: usize = 1024;
/// Loops with one connection that are asked for a report when the operator asks for one: the rest of them is in the sum.
const REPORTS_OF_GUESTS: usize = 200;

impl<D: Driver> EventLoop<D> {
    pub(super) fn read_mail(&mut self) {
        self.core.halting |= self.desks.is_halting();
        self.read_published();
        self.take_on_newcomers();
        for index in 0..self.hosts.len() {
            self.mail |= self.hosts[index].host.collect();
            while self.hosts[index].host.message(&mut self.core) {
                self.called(ConnectionId::NONE);
            }
        }
        let signalled =
            self.orders.as_ref().and_then(|orders| Some(orders.signals.as_ref()?.take())).unwrap_or_default();
        if let Some(signal) = signalled.stop {
            log::info!("signal {signal}: stopping");
            self.desks.halt();
            self.core.halting = true;
        }
        if signalled.report {
            self.desks.ask_for_reports(REPORTS_OF_GUESTS);
        }
        if signalled.report || self.desk.take_reporting() {
            let (report, on_report) = (self.report(), self.config.on_report.clone());
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_| {
                on_report.lock().unwrap_or_else(PoisonError::into_inner)(&report);
            });
        }
        if let Some(orders) = self.orders.as_ref().filter(|_| signalled.reopen) {
            self.desks.ask_to_reopen();
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
        let is_behind = self.core.neighbours.as_ref().is_some_and(|neighbours| neighbours.is_behind());
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
        if self.desk.take_crowded() {
            self.desks.wake_all();
        }
    }

    /// At the end of a turn: what it has published goes on to the other loops, and the one that accepts hears of
    /// descriptors that have become free.
    pub(super) fn tell_others(&mut self) {
        let Some(neighbours) = &mut self.core.neighbours else { return };
        neighbours.note_topics(self.core.topics.bits());
        let was_behind = neighbours.is_behind();
        let released = neighbours.flush();
        // Those go on in the next turn, at once, and so do messages of other threads that were left in their mailbox.
        self.mail |= was_behind && !neighbours.is_behind();
        for id in released {
            if let Some(link) = self.core.links.get_mut(id) {
                link.release_hold();
                self.core.touch(id);
            }
        }
        self.note_descriptors();
    }

    pub(super) fn note_descriptors(&self) {
        self.desks.note_descriptors(&self.desk, self.driver.descriptors() + self.own_descriptors);
    }
}
