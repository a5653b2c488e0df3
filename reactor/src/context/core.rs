//! The loop's state behind a [`Context`](super::Context), and the requests of callbacks that the loop has yet to carry out.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::{BoundsTable, Dials, KeyedTimers, Refusal, Written};
use crate::address::{Address, Peer};
use crate::budget::{Budget, Holdings};
use crate::buffer::{Output, Pool};
use crate::cluster::{Cluster, LoopHandle, LoopKind};
use crate::layer::Layer;
use crate::limits::{Deadlines, Limits};
use crate::link::{Link, Links, NO_STATE, Origin, Sent};
use crate::outbox::Outbox;
use crate::outgoing::Outgoing;
use crate::published::{Heard, Published};
use crate::recorder::{EVENTS, EVENTS_OF_ONE, Recorder, What};
use crate::socket_options::{SocketOptions, Tuning};
use crate::stats::{Counters, Counts};
use crate::sys::Sockets;
use crate::time::Time;
use crate::timer::Wheel;
use crate::token::ConnectionId;
use crate::topics::Topics;

/// The part of a loop that a callback can reach: the links, but no descriptor and no handler.
pub(crate) struct Core {
    pub(crate) links: Links,
    pub(crate) topics: Topics,
    pub(crate) published: Published,
    /// Publications that wait for the callbacks of listening handlers.
    pub(crate) heard: Heard,
    pub(crate) wheel: Wheel<Timer>,
    /// Timers with keys, of handlers and of connections.
    pub(crate) timers: KeyedTimers,
    pub(crate) pool: Pool,
    /// The memory of this loop's connections, and the application's budget.
    pub(crate) holdings: Holdings,
    /// Written by this loop alone, read by any thread.
    pub(crate) counters: Arc<Counters>,
    /// The latest events, logged for a connection that ends badly.
    pub(crate) recorder: Recorder,
    /// Messages posted by callbacks that wait for room in a mailbox.
    pub(crate) outbox: Rc<Outbox>,
    /// Publications and connections on their way to other loops. `None` where the application has one loop.
    pub(crate) outgoing: Option<Box<Outgoing>>,
    /// The calls that callbacks may make about sockets.
    pub(crate) sockets: Sockets,
    /// Connections of all services at once; a further connection is refused.
    pub(crate) connections_max: Option<usize>,
    /// How long the loop lives.
    pub(crate) kind: LoopKind,
    /// Each service's name, limits and deadlines, by its number.
    pub(crate) terms: Vec<Terms>,
    /// The limits and deadlines of every connection.
    pub(crate) bounds: BoundsTable,
    /// Connections by name that are not established.
    pub(crate) dials: Dials,
    /// When the current turn began. After a slow callback: when the callback ended, rounded to a few milliseconds.
    pub(crate) now: Time,
    /// The number of the current turn, never 0. A link remembers the number for callbacks that come once a turn.
    pub(crate) turn: u32,
    /// A dirty link has more than `output_high` queued. The link sends before further input is read, so that a peer that reads
    /// is not mistaken for a slow peer.
    pub(crate) flush_now: bool,
    /// Services whose handlers have requested `on_turn` in the next turn, or have publications to hear.
    pub(crate) turn_requested: Vec<u16>,
    /// Services whose handlers hold up the end of the loop.
    pub(crate) end_held: Vec<u16>,
    /// Links that have changed since their steps were last taken.
    pub(crate) dirty: Vec<ConnectionId>,
    /// Connections opened by callbacks that the loop has not begun, and timers that do not count yet.
    pub(crate) opening: Vec<Pending>,
    /// A callback has called `halt`.
    pub(crate) halting: bool,
    /// The application is stopping.
    pub(crate) stopping: bool,
    /// The drain time is over: no connection is opened any more.
    pub(crate) opens_refused: bool,
    /// Periodic work has called `end_loop`.
    pub(crate) loop_ended: bool,
    /// The result of a layer's handshake ([`Layer::agreed`]), while the handler hears of the connection.
    pub(crate) agreed: Option<Box<dyn Any>>,
}

/// The owner of a timer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Link(ConnectionId),
    /// The next address of a connection by name.
    Dial(ConnectionId),
    Periodic(u32),
    /// A timer with a key, by its place.
    Keyed(u32),
}

/// A service's name, limits and deadlines. Each loop has its own copy.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) name: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) deadlines: Deadlines,
    /// The bytes that a connection over a limit is sent.
    pub(crate) refusal: Refusal,
    pub(crate) sockets: SocketOptions,
    /// The service's connections on all loops.
    pub(crate) counts: Arc<Counts>,
    /// A service of the crate itself.
    pub(crate) internal: bool,
    /// The service's `ServiceHandle<M>`.
    pub(crate) handle: Arc<dyn Any + Send + Sync>,
}

impl Terms {
    /// Whether the service belongs to the crate itself; no report shows such a service.
    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    /// The options of the service's sockets.
    pub(crate) fn tuning(&self) -> Tuning {
        self.sockets.tuning(&self.limits)
    }

    /// The terms of a service of the crate itself, to which no thread posts.
    pub(crate) fn internal(name: &str, limits: Limits, deadlines: Deadlines) -> Self {
        Terms {
            name: name.into(),
            limits,
            deadlines,
            refusal: Refusal::default(),
            sockets: SocketOptions::default(),
            counts: Arc::default(),
            internal: true,
            handle: Arc::new(()),
        }
    }
}

/// A request of a callback that the loop carries out when it settles.
pub(crate) enum Pending {
    Open(PendingOpen),
    /// The timer at this place counts from that time on.
    Timer(u32),
}

/// A connection that a callback has opened and the loop has not begun. Its link exists already.
pub(crate) struct PendingOpen {
    pub(crate) id: ConnectionId,
    pub(crate) state: Box<dyn Any>,
    pub(crate) kind: OpenKind,
}

/// The way in which the loop begins a connection.
pub(crate) enum OpenKind {
    Connect(Address, Option<Box<dyn Layer>>),
    /// Look the name up, and connect.
    Dial(String, Option<Box<dyn Layer>>),
    Watch(OwnedFd),
    /// Take over a connected socket.
    Adopt(OwnedFd, Option<Box<dyn Layer>>),
}

impl Core {
    /// The state of a new loop. Joins the cluster if the application has several fixed loops, or if the loop is a
    /// per-connection loop.
    pub(crate) fn new(
        now: Time,
        cluster: &Arc<Cluster>,
        loop_handle: &Arc<LoopHandle>,
        budget: Arc<Budget>,
        sockets: Sockets,
    ) -> Self {
        let kind = loop_handle.kind;
        let (generation, events) = match kind {
            LoopKind::Fixed => (1, EVENTS),
            LoopKind::PerConnection { generation } => (generation, EVENTS_OF_ONE),
        };
        let mut core = Core {
            links: Links::new(loop_handle.number, generation),
            topics: Topics::default(),
            published: Published::default(),
            heard: Heard::default(),
            wheel: Wheel::new(now),
            timers: KeyedTimers::default(),
            pool: Pool::default(),
            holdings: Holdings::new(budget),
            counters: loop_handle.counters.clone(),
            recorder: Recorder::new(events),
            outbox: Rc::new(Outbox::new(cluster.clone())),
            outgoing: None,
            sockets,
            connections_max: None,
            kind,
            terms: Vec::new(),
            bounds: BoundsTable::default(),
            dials: Dials::default(),
            now,
            turn: 0,
            flush_now: false,
            turn_requested: Vec::new(),
            end_held: Vec::new(),
            dirty: Vec::new(),
            opening: Vec::new(),
            halting: false,
            stopping: false,
            opens_refused: false,
            loop_ended: false,
            agreed: None,
        };
        if kind != LoopKind::Fixed || cluster.fixed().len() > 1 {
            core.join_cluster(cluster, loop_handle);
        }
        core
    }

    /// Joins the cluster: from now on publications reach the members on other loops, and connections can be handed over.
    pub(crate) fn join_cluster(&mut self, cluster: &Arc<Cluster>, loop_handle: &Arc<LoopHandle>) {
        self.outgoing = Some(Box::new(Outgoing::new(cluster.clone(), loop_handle.clone())));
    }

    /// Adds a service, before the first connection comes.
    pub(crate) fn add_service(&mut self, terms: Terms) {
        self.bounds.add_service(terms.limits.clone(), terms.deadlines.clone());
        self.terms.push(terms);
    }

    /// The explicit limit of connections, of the service or else of the application, that admits no further connection now.
    pub(crate) fn limit_reached(&self, service: u16) -> Option<usize> {
        let Terms { limits, counts, .. } = &self.terms[service as usize];
        let own = limits.connections.filter(|&limit| counts.open() >= limit);
        let in_all = || self.terms.iter().map(|terms| terms.counts.open()).sum::<usize>();
        own.or_else(|| self.connections_max.filter(|&limit| in_all() >= limit))
    }

    /// Puts a link on the list `dirty`, once.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(link) = self.links.get_mut(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(id);
        }
    }

    #[inline]
    pub(super) fn output(&mut self, id: ConnectionId) -> Option<&mut Output> {
        self.put_in_order(id);
        let link = self.links.get_mut(id)?;
        let limits = &self.bounds[link.bounds].limits;
        link.writable_output(&mut self.pool, limits)
    }

    #[inline(always)]
    pub(super) fn put(&mut self, id: ConnectionId, put: impl FnOnce(&mut Output)) -> Written {
        self.put_in_order(id);
        let Some(link) = self.links.get_mut(id) else { return Written::Refused };
        let limits = &self.bounds[link.bounds].limits;
        let Some(output) = link.writable_output(&mut self.pool, limits) else { return Written::Refused };
        put(output);
        match output {
            output if output.overflowed() => Written::Refused,
            output if output.is_above_high() => {
                self.flush_now |= !link.is_blocked();
                Written::AboveHighWater
            }
            _ => Written::Queued,
        }
    }

    /// Opens the channel to another process, with the state for its handler.
    pub(crate) fn adopt_channel(
        &mut self,
        service: u16,
        socket: OwnedFd,
        peer: Peer,
        state: Box<dyn Any>,
    ) -> ConnectionId {
        let id = self.links.insert(Link::new(Origin::Channel, peer, service, NO_STATE, self.now));
        self.opening.push(Pending::Open(PendingOpen { id, state, kind: OpenKind::Adopt(socket, None) }));
        id
    }

    /// Counts and records bytes sent and bytes lost.
    pub(crate) fn note_sent(&mut self, id: ConnectionId, outcome: Sent, unacknowledged: impl FnOnce() -> usize) {
        let Core { links, bounds, pool, counters, recorder, now, .. } = self;
        let Some(link) = links.get_mut(id) else { return };
        let what = match outcome {
            Sent::Bytes(count) => What::Sent(count as u32),
            Sent::Blocked(count) => What::Blocked(count as u32),
            Sent::Failed(errno) => What::SendFailed(errno),
            Sent::ShortFile => What::ShortFile,
        };
        recorder.note(id, what, *now);
        if let Sent::Bytes(count) | Sent::Blocked(count) = outcome
            && link.is_counted()
        {
            counters.sent.add(count as u64);
        }
        let limits = &bounds[link.bounds].limits;
        let lost = link.sent(outcome, *now, limits, pool, unacknowledged);
        counters.unsent.add(lost.bytes as u64);
        counters.missed.add(lost.messages);
    }

    /// Removes the link of a connection that has ended. Gives the buffers back, and counts the bytes lost in the buffers.
    pub(crate) fn remove(&mut self, id: ConnectionId) {
        if let Some(mut link) = self.links.remove(id) {
            self.bounds.give_back(link.bounds);
            self.end_dial(id);
            link.weigh_nothing(&mut self.holdings);
            let (unread, unsent) = link.release(&mut self.pool);
            self.counters.unread.add(unread as u64);
            self.counters.unsent.add(unsent as u64);
        }
    }
}
