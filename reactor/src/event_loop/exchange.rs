//! The loop's side of the cluster: mailboxes and signals, accepted connections that are handed over, posts and publications at
//! the end of a turn, and the parting of a child process from its parent.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use super::{EventLoop, NO_SERVICE};
use crate::address::Peer;
use crate::cluster::{Accepted, Cluster, Inbox, LoopHandle, LoopKind};
use crate::context::{Context, Core, PendingOpen, Resolver};
use crate::driver::{Driver, Socket};
use crate::error::Errno;
use crate::host::guarded;
use crate::report::{Admits, Counted};
use crate::service::listener::Listener;
use crate::shared::each_dropped;
use crate::stats::Stats;
use crate::sys::Fd;
use crate::sys::wake::Waker;
use crate::time::LogLimit;
use crate::token::ConnectionId;

/// Connections from the accepting loop that a loop takes on in one turn, at most: as many as a listener gives.
const ACCEPTED_PER_TURN: usize = 64;
/// Limit of publications from other threads, and of publications from other loops, delivered in one turn.
const PUBLISHED_PER_TURN: usize = 1024;
/// Limit of per-connection loops that write a report when the operator asks for reports: the sum includes the rest.
const REPORTS_OF_PER_CONNECTION: usize = 200;

/// Gives an accepted connection a loop of its own.
pub(crate) trait Spawner {
    /// The kind of the per-connection loops, for the operator: threads or processes.
    fn kind(&self) -> &'static str;
    /// Descriptors of this process for each per-connection loop, including the connection's descriptor.
    fn descriptors_each(&self) -> usize;
    /// `held`: all descriptors of the accepting loop, for a child that has copies of them to close.
    fn spawn(&mut self, core: &mut Core, service: u16, accepted: Accepted, held: &dyn Fn() -> Vec<Fd>) -> Spawned;
}

/// The owner of an accepted connection's descriptor after `Spawner::spawn`.
pub(crate) enum Spawned {
    /// The per-connection loop owns the descriptor.
    Moved,
    /// The child process has a copy: the caller closes its own.
    Copied(Socket),
    /// No loop: an error of the system is worth a retry, any other error is final.
    Failed(Socket, io::Error),
}

/// The loop's place among the loops of the application.
pub(super) struct Exchange {
    pub(super) cluster: Arc<Cluster>,
    pub(super) loop_handle: Arc<LoopHandle>,
    pub(super) inbox: Inbox,
    pub(super) waker: Option<Waker>,
    /// The loop's own descriptors, where the loop counts them with its connections' descriptors.
    pub(super) own_descriptors: usize,
    /// Descriptors that a fixed loop has held since its first callbacks. Not counted as connections: most were open before the
    /// loop began, so the descriptor limit leaves them out already.
    pub(super) descriptors_at_start: usize,
    /// A mailbox may have a message: set by a wake-up, and by whatever leaves messages for the next turn.
    pub(super) mail: bool,
    /// Rate limit for the log lines about refused messages, which found no room.
    pub(super) refusals_log: LogLimit,
    /// Set on a per-connection loop: its connection; and in a child process the channel to the parent.
    pub(super) own: Option<ConnectionId>,
    pub(super) channel: Option<ConnectionId>,
    /// The channel alone is left.
    pub(super) parting: bool,
    /// Dropped after the inbox, as the last field.
    _leaving: Leaving,
}

/// Wakes all loops when the mailboxes of an ended loop are closed: senders that wait for room must try again.
struct Leaving(Arc<Cluster>, Arc<LoopHandle>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.1.take_sender_waits() {
            self.0.wake_all();
        }
    }
}

impl Exchange {
    pub(super) fn new(cluster: Arc<Cluster>, loop_handle: Arc<LoopHandle>, inbox: Inbox) -> Self {
        Exchange {
            _leaving: Leaving(cluster.clone(), loop_handle.clone()),
            waker: loop_handle.waker(),
            own_descriptors: loop_handle.descriptors(),
            descriptors_at_start: 0,
            cluster,
            loop_handle,
            inbox,
            mail: true,
            refusals_log: LogLimit::default(),
            own: None,
            channel: None,
            parting: false,
        }
    }
}

impl<D: Driver> EventLoop<D> {
    pub(super) fn read_mail(&mut self) {
        self.core.halting |= self.exchange.cluster.is_halting();
        self.pressure.hear_of_others(&mut self.core);
        self.core.take_found(&mut self.driver);
        self.read_published();
        self.take_on_accepted();
        // A loop that cannot pass messages on takes no more, so its senders slow down too; but never in a circle.
        let publishes = self.core.outgoing.as_ref().is_none_or(|outgoing| !outgoing.is_full());
        let takes_messages = publishes && !self.core.outbox.is_full() || self.exchange.loop_handle.is_sender_waiting();
        for index in 0..self.hosts.len() {
            if takes_messages {
                self.exchange.mail |= self.hosts[index].host.collect();
            }
            while self.hosts[index].host.message(&mut self.core) {
                self.after_callback(ConnectionId::NONE);
            }
        }
        // After all mailboxes: a sender that has found a mailbox full since then finds room in the mailbox now.
        if self.exchange.loop_handle.take_sender_waits() {
            self.exchange.cluster.wake_all();
        }
        let signalled =
            self.orders.as_ref().and_then(|orders| Some(orders.signals.as_ref()?.take())).unwrap_or_default();
        if let Some(signal) = signalled.stop {
            log::info!("signal {signal}: stopping");
            self.exchange.cluster.halt();
            self.core.halting = true;
        }
        if signalled.report {
            self.exchange.cluster.ask_for_reports(REPORTS_OF_PER_CONNECTION);
        }
        if signalled.report || self.exchange.loop_handle.take_reporting() {
            let (report, on_report) = (self.report(), self.config.on_report.clone());
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_: &mut Context<'_>| {
                on_report.lock().unwrap_or_else(PoisonError::into_inner)(&report);
            });
        }
        if let Some(orders) = self.orders.as_ref().filter(|_| signalled.reopen) {
            self.exchange.cluster.ask_to_reopen();
            let on_reopen = orders.on_reopen.clone();
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_: &mut Context<'_>| {
                on_reopen.lock().unwrap_or_else(PoisonError::into_inner)();
            });
        }
    }

    /// Writes the report of this loop. The first loop adds the sums of all loops and the counts of each service.
    fn report(&mut self) -> String {
        let listeners: Vec<String> =
            (0..self.listeners.len()).filter_map(|index| self.describe_listener(index)).collect();
        let Exchange { cluster, loop_handle, .. } = &self.exchange;
        let all = (loop_handle.number == cluster.first()).then(|| cluster.stats());
        self.core.report(loop_handle.number, all, &listeners)
    }

    /// For the report: the address of a listener, and the peers that the listener admits.
    fn describe_listener(&mut self, index: usize) -> Option<String> {
        // First: where another loop has the socket, the driver of this loop knows no such listener.
        let address = self.listeners[index].socket()?.address();
        let service = self.listeners[index].service;
        let admits = match self.core.limit_reached(service) {
            _ if self.admission.at_cap => Admits::NobodyAtCap,
            _ if self.driver.is_suspended(index) => Admits::NobodySuspended,
            Some(limit) => Admits::NobodyAtLimit(Counted(limit, "connection")),
            None => Admits::AllBut(self.hosts[service as usize].host.turns_away(&mut self.core)),
        };
        Some(format!("{} at {address}: {admits}", self.core.terms[service as usize].name))
    }

    /// Delivers publications of other threads, to all loops, and of other loops, to members on this loop.
    fn read_published(&mut self) {
        let mut published = Vec::new();
        // While publications wait for room at another loop, none is taken from other threads: no way round the wait.
        let is_behind = self.core.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_behind());
        if let Some(receiver) = self.exchange.inbox.published.as_ref().filter(|_| !is_behind) {
            self.exchange.mail |= receiver.take(&mut published, PUBLISHED_PER_TURN);
            for (topic, bytes) in published.drain(..) {
                self.core.publish(&topic, &bytes, Some(&bytes), ConnectionId::NONE, ConnectionId::NONE);
            }
        }
        self.exchange.mail |= self.exchange.inbox.passed_on.take(&mut published, PUBLISHED_PER_TURN);
        for (topic, bytes) in published {
            self.core.deliver(&topic, &bytes, Some(&bytes), ConnectionId::NONE);
        }
    }

    /// At the end of a turn: passes posts and publications on to the other loops, and tells the accepting loop about freed
    /// descriptors.
    #[inline]
    pub(super) fn tell_others(&mut self) {
        if self.core.outbox.is_behind() || self.core.outgoing.is_some() || self.admission.spawner.is_some() {
            self.tell();
        }
    }

    /// Out of line, because an application with one loop never calls it.
    #[inline(never)]
    fn tell(&mut self) {
        let mut released = match self.core.outbox.is_behind() {
            true => self.post_waiting(),
            false => Vec::new(),
        };
        if let Some(outgoing) = &mut self.core.outgoing {
            outgoing.note_topics(self.core.topics.bits());
            let was_behind = outgoing.is_behind();
            released.extend(outgoing.flush());
            // Released connections go on in the next turn, which begins at once, and so do messages left in mailboxes.
            self.exchange.mail |= was_behind && !outgoing.is_behind();
            if outgoing.has_left_out() && self.exchange.refusals_log.passes(self.core.now) {
                let count = outgoing.take_left_out();
                log::warn!("{count} publications of periodic work were left out: another loop cannot keep up");
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
        if self.admission.spawner.is_some() {
            self.config.budget.set_sharers(self.exchange.cluster.per_connection_count());
        }
    }

    /// Posts waiting messages as far as there is room, and holds the connections whose callbacks posted the rest. Returns the
    /// connections that need no longer be held.
    #[cold]
    fn post_waiting(&mut self) -> Vec<ConnectionId> {
        for id in self.core.outbox.take_posted() {
            if let Some(link) = self.core.links.get_mut(id) {
                link.hold();
                self.core.mark_dirty(id);
            }
        }
        self.settle();
        if self.core.outbox.has_refused() && self.exchange.refusals_log.passes(self.core.now) {
            let refused = self.core.outbox.take_refused();
            log::warn!("{refused} messages posted in callbacks were given back: the loops addressed cannot keep up");
        }
        let was_full = self.core.outbox.is_full();
        let released = self.core.outbox.flush();
        // The next turn begins at once: the loop takes messages again, and the released connections are read again.
        let (is_full, is_behind) = (self.core.outbox.is_full(), self.core.outbox.is_behind());
        self.exchange.mail |= was_full && !is_full || !is_behind;
        released
    }

    pub(super) fn note_descriptors(&mut self) {
        let Exchange { cluster, loop_handle, own_descriptors, descriptors_at_start, .. } = &mut self.exchange;
        let open = self.driver.descriptors();
        *descriptors_at_start = open.min(*descriptors_at_start);
        cluster.note_descriptors(loop_handle, open - *descriptors_at_start + *own_descriptors);
    }

    /// Counters of this loop; for the accepting loop under threads and processes, the sum over all loops.
    pub(super) fn counted(&self) -> Stats {
        if self.admission.spawner.is_some() { self.exchange.cluster.stats() } else { self.core.counters.read() }
    }

    /// The loop's name at the beginning of a line of the log, where there are several loops.
    pub(super) fn which(&self) -> String {
        match self.exchange.cluster.fixed().len() {
            1 => String::new(),
            _ => format!("loop {}: ", self.exchange.loop_handle.number),
        }
    }

    /// Number of connections of this loop; on the accepting loop under threads and processes, of per-connection loops.
    pub(super) fn open_connections(&self) -> usize {
        let per_connection = self.admission.spawner.as_ref().map(|_| self.exchange.cluster.per_connection_count());
        per_connection.unwrap_or(self.core.counters.open.get() as usize)
    }

    /// Begins a connection that a callback has opened.
    pub(super) fn open_pending(&mut self, open: PendingOpen) {
        let (hosts, Exchange { cluster, waker, loop_handle, .. }) = (&mut self.hosts, &self.exchange);
        let resolver = Resolver { look_ups: &cluster.look_ups, cores: cluster.cores(), waker: waker.clone() };
        let adopt = |service: u16, state| hosts[service as usize].host.adopt(state);
        self.core.begin(&mut self.driver, open, adopt, resolver, loop_handle);
    }

    // ---- hand-over ---------------------------------------------------------------------------------------------------

    /// Stops accepting at the cap that comes from the limit of descriptors, threads or processes: further connections wait in
    /// the backlog.
    pub(super) fn mind_the_cap(&mut self) {
        self.note_descriptors();
        if self.listeners.is_empty() || self.exchange.loop_handle.number != 0 {
            return;
        }
        let (each, kind) = match &self.admission.spawner {
            Some(spawner) => (spawner.descriptors_each(), spawner.kind()),
            None => (1, ""),
        };
        let no_descriptor = || self.exchange.cluster.descriptors() + each > self.config.descriptors;
        let at_cap = self.exchange.cluster.look_for_room(|| {
            no_descriptor() || self.exchange.cluster.per_connection_count() >= self.config.per_connection
        });
        if at_cap != self.admission.at_cap {
            self.admission.at_cap = at_cap;
            if at_cap && self.admission.at_cap_log.passes(self.core.now) {
                let (limit, what) = match no_descriptor() {
                    true => (self.config.descriptors, "descriptors"),
                    false => (self.config.per_connection, kind),
                };
                log::warn!("at the limit of {limit} {what}: new connections wait");
            }
            for listener in 0..self.listeners.len() {
                self.driver.set_accepting(listener, !at_cap);
            }
        }
    }

    /// From now on every accepted connection gets a loop of its own.
    pub(crate) fn set_spawner(&mut self, spawner: Box<dyn Spawner>) {
        self.admission.spawner = Some(spawner);
        self.core.join_cluster(&self.exchange.cluster, &self.exchange.loop_handle);
    }

    /// Hands the connection to a new per-connection loop, which ends with the connection.
    pub(super) fn give_a_loop(&mut self, accepted: Accepted) {
        // The driver owns every descriptor that callbacks of this batch have opened, and the channel of the last child,
        // before the next child is forked: a child closes what the driver names.
        self.settle();
        let Some(spawner) = &mut self.admission.spawner else { return };
        let (listener, peer) = (accepted.listener, accepted.peer);
        let service = self.listeners[listener].service;
        let (driver, waiting, listeners) = (&self.driver, &self.admission.waiting, &self.listeners);
        let held = || {
            let waiting = waiting.iter().map(|accepted| accepted.socket.fd());
            // During a stop the driver forgets a listener with the last connection in the queue, but the listener is closed
            // only after the connection has its child. So listeners count besides the driver's descriptors.
            let listeners = listeners.iter().filter_map(Listener::socket).map(|socket| socket.fd());
            driver.held().into_iter().chain(waiting).chain(listeners).collect()
        };
        match spawner.spawn(&mut self.core, service, accepted, &held) {
            Spawned::Moved => self.driver.count_out(),
            Spawned::Copied(socket) => self.driver.close_accepted(socket),
            Spawned::Failed(socket, cause) => match cause.raw_os_error() {
                // As where accept finds no descriptor: this connection waits here, later connections in the backlog.
                Some(errno) => {
                    self.driver.suspend(listener, Errno(errno));
                    self.admission.waiting.push(Accepted { listener, socket, peer });
                }
                None => {
                    if self.admission.failure_log.passes(self.core.now) {
                        let name = &self.core.terms[service as usize].name;
                        log::error!("{name}: refused {peer}: {cause}");
                    }
                    self.let_go(Accepted { listener, socket, peer });
                }
            },
        }
    }

    /// Tries again to give waiting connections a loop, once the suspension of their listener is over.
    pub(super) fn try_again(&mut self) {
        for accepted in std::mem::take(&mut self.admission.waiting) {
            if self.driver.is_suspended(accepted.listener) {
                self.admission.waiting.push(accepted);
            } else {
                self.give_a_loop(accepted);
            }
        }
    }

    /// Closes an accepted connection that no loop serves, and counts a refusal.
    pub(super) fn let_go(&mut self, accepted: Accepted) {
        let service = self.listeners[accepted.listener].service;
        self.core.terms[service as usize].counts.take_back();
        self.core.counters.refused.add(1);
        self.driver.close_accepted(accepted.socket);
    }

    /// Serves connections that the accepting loop has handed to this loop.
    pub(super) fn take_on_accepted(&mut self) {
        let mut accepted = Vec::new();
        self.exchange.mail |= self.exchange.inbox.accepted.take(&mut accepted, ACCEPTED_PER_TURN);
        for connection in accepted {
            self.take_on(connection);
        }
    }

    /// Closes connections that were handed to this loop after the loop had ended its last connection.
    pub(super) fn close_late(&mut self) {
        for accepted in self.exchange.inbox.accepted.take_last() {
            self.driver.count_in();
            self.driver.close_accepted(accepted.socket);
            self.exchange.cluster.has_counted();
        }
    }

    /// Ends a loop that cannot begin. Closes connections that were handed to the loop; further ones go back to the acceptor loop.
    pub(crate) fn abandon(mut self) {
        self.close_late();
        each_dropped(self.hosts);
    }

    pub(super) fn take_on(&mut self, accepted: Accepted) -> Option<ConnectionId> {
        self.driver.count_in();
        self.note_descriptors();
        self.exchange.cluster.has_counted();
        self.welcome(accepted)
    }

    /// While stopping: tells the other loops when the last listener is closed.
    pub(super) fn note_closed_listeners(&self) {
        let closed = || self.listeners.iter().all(|listener| listener.socket().is_none());
        if self.exchange.loop_handle.number == 0 && closed() {
            self.exchange.cluster.close_listeners();
        }
    }

    /// While stopping: no connection is accepted or handed over any more, and all per-connection loops have ended. A
    /// per-connection loop serves its own connection only.
    pub(super) fn nobody_comes(&self) -> bool {
        if self.core.kind != LoopKind::Fixed {
            return true;
        }
        let nobody_comes = match self.has_given_up() {
            true => self.exchange.cluster.are_listeners_closed(),
            false => self.exchange.cluster.nobody_comes(&self.exchange.inbox.accepted),
        };
        // A loop that goes on after the drain time is stuck in a callback.
        let others = || {
            self.admission.spawner.is_none() || self.has_given_up() || self.exchange.cluster.have_per_connection_ended()
        };
        nobody_comes && self.admission.waiting.is_empty() && others()
    }

    // ---- parting -----------------------------------------------------------------------------------------------------

    /// The channel from this child to its parent process. It is served last.
    pub(crate) fn take_channel(
        &mut self,
        service: u16,
        socket: OwnedFd,
        peer: Peer,
        state: Box<dyn Any>,
    ) -> ConnectionId {
        let id = self.core.adopt_channel(service, socket, peer, state);
        self.exchange.channel = Some(id);
        id
    }

    /// The drain time is over. In a child process the channel has the margin in addition before it is aborted: the channel carries
    /// the counters to the parent, which would otherwise take the child for one that has panicked. Returns the spared channel.
    pub(super) fn spare_channel(&mut self) -> Option<ConnectionId> {
        let (channel, stopping) = (self.exchange.channel, self.stopping.as_mut()?);
        if !std::mem::replace(&mut stopping.expired, true) && channel.is_some() {
            stopping.until = stopping.until.map(|until| until + self.config.drain_margin);
        }
        channel.filter(|_| stopping.until.is_some_and(|until| self.core.now < until))
    }

    /// Asks the channel to the parent process to finish when nothing else is left, and everything for the parent has been sent:
    /// the last publications of the connection, and a request to halt.
    pub(super) fn part(&mut self) {
        let is_last = self.core.links.len() == 1 && (self.core.end_held.is_empty() || self.has_given_up());
        let Some(channel) = self.exchange.channel.filter(|_| is_last) else { return };
        if !std::mem::replace(&mut self.exchange.parting, true) {
            // One turn more, in which the loop looks for publications and for a request to halt.
            self.exchange.mail = true;
            return;
        }
        let is_behind = self.core.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_behind());
        if self.exchange.mail || is_behind || !self.exchange.cluster.fixed()[0].is_read_out() {
            return;
        }
        if let Some(link) = self.core.links.get_mut(channel) {
            link.stop();
            self.core.mark_dirty(channel);
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests;
