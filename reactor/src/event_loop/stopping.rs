//! The end of a loop: serves the connections in the accept queues, lets each connection finish, and aborts the rest when the
//! drain time is over.

use super::EventLoop;
use crate::driver::Driver;
use crate::reason::CloseReason;
use crate::service::listener::Round;
use crate::shared::each_dropped;
use crate::time::Time;

/// A stop under way.
pub(super) struct Stopping {
    pub(super) since: Time,
    pub(super) until: Option<Time>,
    pub(super) closed_before: u64,
    /// The drain time is over.
    pub(super) expired: bool,
}

impl<D: Driver> EventLoop<D> {
    /// Whether every connection has ended, every accepted message has reached its handler, and no handler holds up the end.
    pub(super) fn is_done(&self) -> bool {
        let nothing_waits = !self.exchange.mail && self.core.turn_requested.is_empty() && !self.core.outbox.is_behind();
        let heard = nothing_waits && self.core.end_held.is_empty() || self.has_given_up();
        self.stopping.is_some() && heard && self.core.links.len() == 0 && self.nobody_comes()
    }

    /// At the end of each turn: begins a requested stop, and continues a stop under way.
    pub(super) fn keep_stopping(&mut self) {
        let is_over = self.exchange.own.is_some_and(|own| self.core.links.get(own).is_none());
        if (self.core.halting || is_over) && self.stopping.is_none() {
            self.stop();
        } else if let Some(stopping) = &self.stopping {
            let expired = stopping.expired || stopping.until.is_some_and(|until| until <= self.core.now);
            self.close_listeners(expired);
            if expired {
                self.give_up();
            }
        }
        if self.stopping.is_some() {
            self.part();
            self.note_closed_listeners();
        }
    }

    /// Asks every connection to finish, and drains the accept queues.
    fn stop(&mut self) {
        let now = self.core.now;
        self.core.log_stopping(&self.which(), self.open_connections());
        self.core.stopping = true;
        if self.core.outgoing.is_some() && self.core.halting {
            self.exchange.cluster.halt();
        }
        // A loop that begins late, with a connection from the accept queue, gets the rest of the application's drain time.
        let own = self.config.drain_timeout.map(|time| now + time);
        let until = if self.core.halting { self.exchange.cluster.drain_until(own) } else { own };
        self.stopping = Some(Stopping {
            since: now,
            until: until.map(|until| until.before(self.config.drain_margin)),
            closed_before: self.counted().closed_total(),
            expired: false,
        });
        self.pressure.resume(&mut self.core);
        self.settle();
        for listener in &mut self.listeners {
            listener.drain(self.core.terms[listener.service as usize].limits.backlog);
        }
        self.close_listeners(false);
        for id in self.core.links.ids() {
            if let Some(link) = self.core.links.get_mut(id).filter(|_| self.exchange.channel != Some(id)) {
                link.stop();
                self.core.mark_dirty(id);
            }
        }
        self.settle();
    }

    /// Closes each listener whose queue has been drained, or whose last round of accepting has brought no connection.
    fn close_listeners(&mut self, at_once: bool) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            match listener.next_round(self.admission.at_cap, || self.driver.is_suspended(index), at_once) {
                Round::Wait => {}
                Round::Accept => self.driver.probe_listener(index),
                Round::Close => {
                    self.driver.forget_listener(index);
                    listener.close();
                }
            }
        }
    }

    pub(super) fn has_given_up(&self) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| stopping.expired)
    }

    /// Aborts all connections: the drain time is over.
    fn give_up(&mut self) {
        self.core.opens_refused = true;
        let channel = self.spare_channel();
        std::mem::take(&mut self.admission.waiting).into_iter().for_each(|accepted| self.let_go(accepted));
        for id in self.core.links.ids() {
            if let Some(link) = self.core.links.get_mut(id).filter(|_| channel != Some(id)) {
                link.abort(CloseReason::DrainExpired);
                self.core.mark_dirty(id);
            }
        }
        self.settle();
    }

    pub(super) fn end(mut self) {
        self.close_late();
        let stopped =
            self.stopping.as_ref().map(|stopping| (self.driver.now().since(stopping.since), stopping.closed_before));
        self.core.log_stopped(&self.which(), &self.counted(), stopped);
        self.core.cancel_all_timers();
        debug_assert!(self.core.links.len() == 0 && self.driver.descriptors() == 0, "every slot is accounted for");
        debug_assert_eq!(self.core.wheel.len(), self.periodic.iter().flatten().count(), "and so is every timer");
        each_dropped(self.hosts);
        each_dropped(self.periodic);
    }
}
