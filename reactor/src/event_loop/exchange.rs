//! One loop's side of several loops and of other threads: what it receives (mailboxes, signals), accepted connections that
//! are handed over, what it sends at the end of a turn, and the parting of a child process from its parent.

use std::any::Any;
use std::io;
use std::sync::{Arc, PoisonError};

use super::{EventLoop, NO_SERVICE};
use crate::address::Peer;
use crate::cluster::{Accepted, Cluster, Inbox, LoopHandle, LoopKind};
use crate::context::{Context, Core};
use crate::driver::{Driver, Socket};
use crate::error::Errno;
use crate::host::guarded;
use crate::reason::CloseReason;
use crate::report::{Admits, Counted};
use crate::service::listener::Listener;
use crate::stats::Stats;
use crate::sys::Fd;
use crate::sys::wake::Waker;
use crate::time::LogLimit;
use crate::token::ConnectionId;

/// Connections accepted for this loop that are taken on in one turn: as many as a listener gives.
const ACCEPTED_PER_TURN: usize = 64;
/// Messages published from other threads, or by other loops, that are delivered in one turn.
const PUBLISHED_PER_TURN: usize = 1024;
/// Loops with one connection that are asked for a report when the operator asks for one: the rest of them is in the sum.
const REPORTS_OF_PER_CONNECTION: usize = 200;

/// Gives an accepted connection a loop of its own.
pub(crate) trait Spawner {
    /// What those loops run in, for the operator.
    fn kind(&self) -> &'static str;
    /// Descriptors of this process that each of them takes, its connection's included.
    fn descriptors_each(&self) -> usize;
    /// `held` are all descriptors of the loop that accepts, for who has copies of them.
    fn spawn(&mut self, core: &mut Core, service: u16, newcomer: Accepted, held: &dyn Fn() -> Vec<Fd>) -> Spawned;
}

/// What became of the descriptor of a connection that was to get a loop of its own.
pub(crate) enum Spawned {
    /// It belongs to that loop.
    Moved,
    /// That loop has a copy.
    Copied(Socket),
    /// There is no loop for it: none for now, where the system says so, and otherwise none at all.
    Failed(Socket, io::Error),
}

/// The loop's place among the loops of the application.
pub(super) struct Exchange {
    pub(super) cluster: Arc<Cluster>,
    pub(super) loop_handle: Arc<LoopHandle>,
    pub(super) inbox: Inbox,
    pub(super) waker: Option<Waker>,
    /// The loop's own descriptors, where they count with those of connections.
    pub(super) own_descriptors: usize,
    /// Descriptors that a fixed loop has had since its first callbacks. They do not count with those of connections: most were open
    /// before the loop began, so the limit leaves them out already.
    pub(super) descriptors_at_start: usize,
    /// A mailbox may have a message: set by a wake-up, and by whatever leaves messages for the next turn.
    pub(super) mail: bool,
    /// For messages that were given back for want of room.
    pub(super) refusals_log: LogLimit,
    /// Of a per-connection loop: its connection, and the channel to the parent process.
    pub(super) own: Option<ConnectionId>,
    pub(super) channel: Option<ConnectionId>,
    /// The channel alone is left.
    pub(super) parting: bool,
    /// Dropped after the inbox, as the last field.
    _leaving: Leaving,
}

/// When the mailboxes of an ended loop are closed, senders that wait for room in them have to look again.
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
        self.read_published();
        self.take_on_accepted();
        // What cannot go on slows down whoever posts to this loop, too; but not in a circle.
        let publishes = self.core.outgoing.as_ref().is_none_or(|outgoing| !outgoing.is_full());
        let takes_messages = publishes && !self.core.outbox.is_full() || self.exchange.loop_handle.is_crowded();
        for index in 0..self.hosts.len() {
            if takes_messages {
                self.exchange.mail |= self.hosts[index].host.collect();
            }
            while self.hosts[index].host.message(&mut self.core) {
                self.after_callback(ConnectionId::NONE);
            }
        }
        // After all mailboxes: whoever has found one full since then finds room in it.
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

    /// The report of this loop. Those of all services are the first loop's to tell.
    fn report(&mut self) -> String {
        let listeners: Vec<String> =
            (0..self.listeners.len()).filter_map(|index| self.describe_listener(index)).collect();
        let Exchange { cluster, loop_handle, .. } = &self.exchange;
        let all = (loop_handle.number == cluster.first()).then(|| cluster.stats());
        let counts = self.hosts.iter().map(|served| &*served.counts).filter(|_| loop_handle.number == 0);
        self.core.report(loop_handle.number, all, &listeners, counts)
    }

    /// For the report: the address of a listener, and whom it admits.
    fn describe_listener(&mut self, index: usize) -> Option<String> {
        // First: where another loop has the socket, the driver of this one knows no listener to be asked about.
        let address = self.listeners[index].socket()?.address();
        let service = self.listeners[index].service;
        let admits = match self.limit_reached(service) {
            _ if self.admission.at_cap => Admits::NobodyAtCap,
            _ if self.driver.is_suspended(index) => Admits::NobodySuspended,
            Some(limit) => Admits::NobodyAtLimit(limit),
            None => Admits::AllBut(self.hosts[service as usize].host.turns_away(&mut self.core)),
        };
        Some(format!("{} at {address}: {admits}", self.core.terms[service as usize].name))
    }

    /// What was published from other threads, for all loops, and by other loops, for this one.
    fn read_published(&mut self) {
        let mut published = Vec::new();
        // Those who wait for room at another loop come first, so that this one's queue is not a way round it.
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
        if self.core.outbox.has_refused() && self.exchange.refusals_log.passes(self.core.now) {
            let refused = self.core.outbox.take_refused();
            log::warn!(
                "{refused} messages posted in callbacks were given back: the loops that they are for cannot keep up"
            );
        }
        let was_full = self.core.outbox.is_full();
        let released = self.core.outbox.flush();
        // Then messages are taken again, and those who are released go on, in a turn that begins at once.
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

    /// Counters of this loop, and of those that came with a connection which this one has accepted.
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

    /// Logs that the loop begins to stop; a per-connection loop does that as often as a connection ends.
    pub(super) fn log_stopping(&self) {
        if self.core.kind == LoopKind::Fixed {
            let per_connection = self.admission.spawner.as_ref().map(|_| self.exchange.cluster.per_connection_count());
            let open = Counted(per_connection.unwrap_or(self.core.counters.open.get() as usize), "connection");
            log::info!("{}stopping: {open} to finish", self.which());
        }
    }

    /// Logs how the loop has stopped.
    pub(super) fn log_stopped(&mut self) {
        let (now, stats, which) = (self.driver.now(), self.counted(), self.which());
        let level = if self.core.kind == LoopKind::Fixed { log::Level::Info } else { log::Level::Debug };
        if let Some(stopping) = &self.stopping {
            let aborted = stats.closed(CloseReason::DrainExpired);
            let finished = Counted((stats.closed_total() - stopping.closed_before - aborted) as usize, "connection");
            let span = now.since(stopping.since).as_millis();
            log::log!(level, "{which}stopped after {span} ms: {finished} finished, {aborted} aborted");
        }
        log::log!(level, "{which}counters: {stats}");
    }

    // ---- hand-over ---------------------------------------------------------------------------------------------------

    /// At the cap that comes from the descriptor limit, or from that of threads or processes, nobody is accepted: newcomers
    /// wait in the backlog.
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
                log::warn!("at the limit of {limit} {what}: newcomers have to wait");
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

    /// To a loop that comes with this connection, and ends with it.
    pub(super) fn give_a_loop(&mut self, newcomer: Accepted) {
        // The driver owns every descriptor that callbacks of this batch have opened, and the channel of the last child,
        // before the next child is forked: a child closes what the driver names.
        self.settle();
        let Some(spawner) = &mut self.admission.spawner else { return };
        let (listener, peer) = (newcomer.listener, newcomer.peer);
        let service = self.listeners[listener].service;
        let (driver, waiting, listeners) = (&self.driver, &self.admission.waiting, &self.listeners);
        let held = || {
            let waiting = waiting.iter().map(|newcomer| newcomer.socket.fd());
            // Not all of them are the driver's: during a stop the driver forgets a listener with the last connection in
            // its queue, and the listener is closed after that connection has been given its child.
            let listeners = listeners.iter().filter_map(Listener::socket).map(|socket| socket.fd());
            driver.held().into_iter().chain(waiting).chain(listeners).collect()
        };
        match spawner.spawn(&mut self.core, service, newcomer, &held) {
            Spawned::Moved => self.driver.count_out(),
            Spawned::Copied(socket) => self.driver.close_accepted(socket),
            Spawned::Failed(socket, cause) => match cause.raw_os_error() {
                // As where accept finds none: it waits, and whoever comes after it does so in the backlog.
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

    /// Those for whom there was no loop, once their listener rests no more.
    pub(super) fn try_again(&mut self) {
        for newcomer in std::mem::take(&mut self.admission.waiting) {
            if self.driver.is_suspended(newcomer.listener) {
                self.admission.waiting.push(newcomer);
            } else {
                self.give_a_loop(newcomer);
            }
        }
    }

    /// One that was let in, and that nobody is going to serve.
    pub(super) fn let_go(&mut self, newcomer: Accepted) {
        let service = self.listeners[newcomer.listener].service;
        self.hosts[service as usize].counts.take_back();
        self.core.counters.refused.add(1);
        self.driver.close_accepted(newcomer.socket);
    }

    /// Connections that another loop has accepted for this one.
    pub(super) fn take_on_accepted(&mut self) {
        let mut accepted = Vec::new();
        self.exchange.mail |= self.exchange.inbox.accepted.take(&mut accepted, ACCEPTED_PER_TURN);
        for newcomer in accepted {
            self.take_on(newcomer);
        }
    }

    /// Closes the connections that other loops have accepted for this one when nobody serves them any more.
    pub(super) fn close_late(&mut self) {
        let mut late = Vec::new();
        self.exchange.inbox.accepted.take(&mut late, usize::MAX);
        for newcomer in late {
            self.driver.count_in();
            self.driver.close_accepted(newcomer.socket);
        }
    }

    pub(super) fn take_on(&mut self, newcomer: Accepted) -> Option<ConnectionId> {
        self.driver.count_in();
        self.note_descriptors();
        self.exchange.cluster.has_counted();
        self.welcome(newcomer)
    }

    /// While stopping: the other loops hear of it when the last listener is closed.
    pub(super) fn note_closed_listeners(&self) {
        let closed = || self.listeners.iter().all(|listener| listener.socket().is_none());
        if self.exchange.loop_handle.number == 0 && closed() {
            self.exchange.cluster.close_listeners();
        }
    }

    /// While stopping: no connection is accepted or handed over any more, and all per-connection loops have ended. A per-connection
    /// loop gets no other connection than its own.
    pub(super) fn nobody_comes(&self) -> bool {
        if self.core.kind != LoopKind::Fixed {
            return true;
        }
        let nobody_comes = match self.has_given_up() {
            true => self.exchange.cluster.are_listeners_closed(),
            false => self.exchange.cluster.nobody_comes(&self.exchange.inbox.accepted),
        };
        // A loop that goes on after the drain time is stuck in a callback.
        let others =
            || self.admission.spawner.is_none() || self.has_given_up() || self.exchange.cluster.have_guests_gone();
        nobody_comes && self.admission.waiting.is_empty() && others()
    }

    // ---- parting -----------------------------------------------------------------------------------------------------

    /// The channel from this child to its parent process. It is served last.
    pub(crate) fn take_channel(
        &mut self,
        service: u16,
        socket: Socket,
        peer: Peer,
        state: Box<dyn Any>,
    ) -> ConnectionId {
        let id = self.core.adopt(service, socket, peer, state);
        self.exchange.channel = Some(id);
        id
    }

    /// The line to the process that sent this connection is asked to finish when nothing else is left, and all that there
    /// was to say to that process has been said: what the connection has published last, and that it wants to halt.
    pub(super) fn part(&mut self) {
        let Some(channel) = self.exchange.channel.filter(|_| self.core.links.len() == 1) else { return };
        if !std::mem::replace(&mut self.exchange.parting, true) {
            // A turn more, in which that is looked for.
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
