//! The end of a loop: what waits in the accept queues is taken in, each connection gets to finish, and what has not
//! when the drain time is over is aborted.

use super::EventLoop;
use super::report::Counted;
use crate::driver::Driver;
use crate::reason::CloseReason;
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
        let nothing_waits = !self.mail && self.core.turn_requested.is_empty() && !self.core.outbox.is_behind();
        let heard = nothing_waits || self.has_given_up();
        self.stopping.is_some() && heard && self.core.links.len() == 0 && (self.core.alone || self.nobody_comes())
    }

    fn nobody_comes(&self) -> bool {
        let nobody_comes = match self.has_given_up() {
            true => self.cluster.are_listeners_closed(),
            false => self.cluster.nobody_comes(&self.inbox.accepted),
        };
        // A loop that goes on after the drain time is stuck in a callback.
        let others = || self.spawner.is_none() || self.has_given_up() || self.cluster.have_guests_gone();
        nobody_comes && self.waiting.is_empty() && others()
    }

    /// At the end of each turn: begins to stop when asked to, and goes on with it.
    pub(super) fn keep_stopping(&mut self) {
        let is_over = self.own.is_some_and(|own| self.core.links.get(own).is_none());
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
        let closed = || self.listeners.iter().all(|listener| listener.listening.is_none());
        if self.loop_handle.number == 0 && self.stopping.is_some() && closed() {
            self.cluster.close_listeners();
        }
    }

    /// Asks every connection to finish, and takes in those that wait in the accept queues.
    fn stop(&mut self) {
        let now = self.core.now;
        if !self.core.alone {
            let per_connection = self.spawner.as_ref().map(|_| self.cluster.per_connection_count());
            let open = Counted(per_connection.unwrap_or(self.core.counters.open.get() as usize), "connection");
            log::info!("{}stopping: {open} to finish", self.which());
        }
        self.core.stopping = true;
        if self.core.outgoing.is_some() && self.core.halting {
            self.cluster.halt();
        }
        // A loop that begins late, with a connection from the accept queue, has what is left of the application's time.
        let own = self.config.drain_timeout.map(|time| now + time);
        let until = if self.core.halting { self.cluster.drain_until(own) } else { own };
        self.stopping = Some(Stopping {
            since: now,
            until: until.map(|until| until.before(self.config.drain_margin)),
            closed_before: self.counted().closed_total(),
            expired: false,
        });
        self.release_suspended();
        for listener in &mut self.listeners {
            let Some(listening) = &listener.listening else { continue };
            // Where nobody tells how many wait, no more than a queue can hold: Linux takes one more than it is told.
            let backlog = self.core.terms[listener.service as usize].limits.backlog as usize;
            (listener.left, listener.busy) = (listening.waiting().unwrap_or(backlog + 1), true);
        }
        self.close_listeners(false);
        for id in self.core.links.ids() {
            if let Some(link) = self.core.links.get_mut(id).filter(|_| self.channel != Some(id)) {
                link.stop();
                self.core.mark_dirty(id);
            }
        }
        self.settle();
    }

    /// The line to the process that sent this connection is asked to finish when nothing else is left, and all that there
    /// was to say to that process has been said: what the connection has published last, and that it wants to halt.
    fn part(&mut self) {
        let Some(channel) = self.channel.filter(|_| self.core.links.len() == 1) else { return };
        if !std::mem::replace(&mut self.parting, true) {
            // A turn more, in which that is looked for.
            self.mail = true;
            return;
        }
        let is_behind = self.core.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_behind());
        if self.mail || is_behind || !self.cluster.fixed()[0].is_read_out() {
            return;
        }
        if let Some(link) = self.core.links.get_mut(channel) {
            link.stop();
            self.core.mark_dirty(channel);
            self.settle();
        }
    }

    /// Somebody has come. While stopping, those are taken in who were in the queue when the stop began, and nobody who has
    /// come since: a connect storm must not put off the end, least of all where each newcomer is a process.
    pub(super) fn note_arrival(&mut self, listener: usize) {
        self.listeners[listener].busy = true;
        if self.stopping.is_some() {
            let left = &mut self.listeners[listener].left;
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.driver.forget_listener(listener);
            }
        }
    }

    /// A listener is closed once all who waited have been taken in, or a round of accepting has brought nobody.
    fn close_listeners(&mut self, at_once: bool) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.listening.is_none() {
                continue;
            }
            let has_no_room = self.at_cap || self.driver.is_suspended(index);
            if has_no_room && listener.left > 0 && !at_once {
                // Who waits for room gets a round of its own once there is some. Where nobody does, no event would say so: a
                // listener that rests is looked at as soon as it rests no more.
                listener.busy = true;
                if !self.at_cap {
                    self.driver.probe_listener(index);
                }
                continue;
            }
            if at_once || listener.left == 0 || !std::mem::take(&mut listener.busy) {
                self.driver.forget_listener(index);
                listener.listening = None;
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
        std::mem::take(&mut self.waiting).into_iter().for_each(|newcomer| self.let_go(newcomer));
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
        if self.spawner.is_some() { self.cluster.stats() } else { self.core.counters.read() }
    }

    /// Which loop it is, before a line of the log, where there are several.
    fn which(&self) -> String {
        match self.cluster.fixed().len() {
            1 => String::new(),
            _ => format!("loop {}: ", self.loop_handle.number),
        }
    }

    /// At which it is told how a loop has ended: of one with a single connection, not more than of that.
    fn level(&self) -> log::Level {
        if self.core.alone { log::Level::Debug } else { log::Level::Info }
    }

    pub(super) fn end(mut self) {
        let mut late = Vec::new();
        self.inbox.accepted.take(&mut late, usize::MAX);
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
    }
}
