//! The end of a loop: what waits in the accept queues is taken in, each connection gets to finish, and what has not
//! when the drain time is over is aborted.

use super::EventLoop;
use super::accept::ListenerState;
use crate::driver::Driver;
use crate::reason::CloseReason;
use crate::report::Counted;
use crate::shared::each_dropped;
use crate::stats::Stats;
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
    /// Every connection has ended, and every message that was taken is with its handler.
    pub(super) fn is_done(&self) -> bool {
        let nothing_waits = !self.exchange.mail && self.core.turn_requested.is_empty() && !self.core.outbox.is_behind();
        let heard = nothing_waits || self.has_given_up();
        self.stopping.is_some() && heard && self.core.links.len() == 0 && (self.core.alone || self.nobody_comes())
    }

    fn nobody_comes(&self) -> bool {
        let nobody_comes = match self.has_given_up() {
            true => self.exchange.cluster.are_listeners_closed(),
            false => self.exchange.cluster.nobody_comes(&self.exchange.inbox.accepted),
        };
        // A loop that goes on after the drain time is stuck in a callback.
        let others =
            || self.admission.spawner.is_none() || self.has_given_up() || self.exchange.cluster.have_guests_gone();
        nobody_comes && self.admission.waiting.is_empty() && others()
    }

    /// At the end of each turn: begins to stop when asked to, and goes on with it.
    pub(super) fn keep_stopping(&mut self) {
        let is_over = self.exchange.own.is_some_and(|own| self.core.links.get(own).is_none());
        if (self.core.halting || is_over) && self.stopping.is_none() {
            self.stop();
        } else if let Some(stopping) = &self.stopping {
            let expired = stopping.until.is_some_and(|until| until <= self.core.now);
            self.close_listeners(expired);
            if expired {
                self.give_up();
            }
        }
        if self.stopping.is_some() {
            self.part();
        }
        let closed = || self.listeners.iter().all(|listener| listener.socket().is_none());
        if self.exchange.loop_handle.number == 0 && self.stopping.is_some() && closed() {
            self.exchange.cluster.close_listeners();
        }
    }

    /// Asks every connection to finish, and takes in those that wait in the accept queues.
    fn stop(&mut self) {
        let now = self.core.now;
        if !self.core.alone {
            let per_connection = self.admission.spawner.as_ref().map(|_| self.exchange.cluster.per_connection_count());
            let open = Counted(per_connection.unwrap_or(self.core.counters.open.get() as usize), "connection");
            log::info!("{}stopping: {open} to finish", self.which());
        }
        self.core.stopping = true;
        if self.core.outgoing.is_some() && self.core.halting {
            self.exchange.cluster.halt();
        }
        // A loop that begins late, with a connection from the accept queue, has what is left of the application's time.
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
            let ListenerState::Open(socket) = std::mem::replace(&mut listener.state, ListenerState::Closed) else {
                continue;
            };
            // Where the system does not tell how many wait: the most that a queue can hold. Linux takes one more than asked.
            let backlog = self.core.terms[listener.service as usize].limits.backlog as usize;
            let left = socket.waiting().unwrap_or(backlog + 1);
            listener.state = ListenerState::Draining { socket, left, busy: true };
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

    /// A connection was accepted. While stopping, the loop takes in the connections that were in the queue when the stop began,
    /// and none that has come since: a connect storm must not put off the end, least of all where each connection is a process.
    pub(super) fn note_arrival(&mut self, listener: usize) {
        if let ListenerState::Draining { left, busy, .. } = &mut self.listeners[listener].state {
            *busy = true;
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.driver.forget_listener(listener);
            }
        }
    }

    /// Closes each listener whose queue has been taken in, or whose last round of accepting has brought nobody.
    fn close_listeners(&mut self, at_once: bool) {
        for index in 0..self.listeners.len() {
            let ListenerState::Draining { left, busy, .. } = &mut self.listeners[index].state else { continue };
            let has_no_room = self.admission.at_cap || self.driver.is_suspended(index);
            if has_no_room && *left > 0 && !at_once {
                // Connections that wait for room get a round of their own once there is some. No event reports that there is
                // none in the queue, so a suspended listener is looked at as soon as its suspension ends.
                *busy = true;
                if !self.admission.at_cap {
                    self.driver.probe_listener(index);
                }
            } else if at_once || *left == 0 || !std::mem::take(busy) {
                self.driver.forget_listener(index);
                self.listeners[index].state = ListenerState::Closed;
            } else {
                self.driver.probe_listener(index);
            }
        }
    }

    pub(super) fn has_given_up(&self) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| stopping.expired)
    }

    /// The drain time is over.
    fn give_up(&mut self) {
        self.core.opens_refused = true;
        if let Some(stopping) = &mut self.stopping {
            stopping.expired = true;
        }
        std::mem::take(&mut self.admission.waiting).into_iter().for_each(|newcomer| self.let_go(newcomer));
        for id in self.core.links.ids() {
            if let Some(link) = self.core.links.get_mut(id) {
                link.abort(CloseReason::DrainExpired);
                self.core.mark_dirty(id);
            }
        }
        self.settle();
    }

    /// By this loop; and by those that came with a connection which it has accepted.
    fn counted(&self) -> Stats {
        if self.admission.spawner.is_some() { self.exchange.cluster.stats() } else { self.core.counters.read() }
    }

    /// Which loop it is, before a line of the log, where there are several.
    fn which(&self) -> String {
        match self.exchange.cluster.fixed().len() {
            1 => String::new(),
            _ => format!("loop {}: ", self.exchange.loop_handle.number),
        }
    }

    /// At which it is told how a loop has ended: of one with a single connection, not more than of that.
    fn level(&self) -> log::Level {
        if self.core.alone { log::Level::Debug } else { log::Level::Info }
    }

    pub(super) fn end(mut self) {
        let mut late = Vec::new();
        self.exchange.inbox.accepted.take(&mut late, usize::MAX);
        for newcomer in late {
            self.driver.count_in();
            self.driver.close_accepted(newcomer.socket);
        }
        if let Some(stopping) = self.stopping.take() {
            let stats = self.counted();
            let aborted = stats.closed(CloseReason::DrainExpired);
            log::log!(
                self.level(),
                "{}stopped after {} ms: {} finished, {aborted} aborted",
                self.which(),
                self.driver.now().since(stopping.since).as_millis(),
                Counted((stats.closed_total() - stopping.closed_before - aborted) as usize, "connection"),
            );
        }
        log::log!(self.level(), "{}counters: {}", self.which(), self.counted());
        debug_assert!(self.core.links.len() == 0 && self.driver.descriptors() == 0, "every slot is accounted for");
        debug_assert_eq!(self.core.wheel.len(), self.periodic.iter().flatten().count(), "and so is every timer");
        each_dropped(self.hosts);
        each_dropped(self.periodic);
    }
}
