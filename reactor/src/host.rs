//! A handler with the states of its connections, without their types, for the loop.

mod refused;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::address::Peer;
use crate::buffer::Input;
use crate::context::{Context, Core, Owner};
use crate::handle::Mail;
use crate::handler::Handler;
use crate::link::NO_STATE;
use crate::mailbox::Addressed;
use crate::published::Heed;
use crate::reason::CloseReason;
use crate::shared::{dropped, each_dropped};
use crate::token::ConnectionId;

/// Limit of messages that a service handles in one turn: a flood delays its senders, not the connections.
const MESSAGES_PER_TURN: usize = 1024;

/// A handler with the states of its connections, for the loop. Each method is one callback, and none lets a panic out: the
/// panic is logged and counted, and ends its connection.
pub(crate) trait Host {
    fn start(&mut self, core: &mut Core);
    /// Returns the key of the new connection's state, or `NO_STATE` after a panic.
    fn open(&mut self, core: &mut Core, id: ConnectionId) -> u32;
    /// Stores the state of a connection that the handler requested.
    fn adopt(&mut self, state: Box<dyn Any>) -> u32;
    fn connected(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn data(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>);
    fn end_of_input(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>);
    fn drained(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn missed(&mut self, core: &mut Core, id: ConnectionId, key: u32, count: u64);
    fn too_slow(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn turn(&mut self, core: &mut Core);
    fn refused(&mut self, core: &mut Core, peer: Peer);
    /// The connections that the handler refuses, in one line for the report.
    fn turns_away(&mut self, core: &mut Core) -> Option<String>;
    fn deadline(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    /// The timer `timer` of this owner went off: of the handler, of a connection, or of periodic work.
    fn timer(&mut self, core: &mut Core, owner: Owner, timer: u64);
    fn stopping(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn close(&mut self, core: &mut Core, id: ConnectionId, key: u32, reason: CloseReason);
    /// Takes posted messages, up to a limit. Returns whether more remain.
    fn collect(&mut self) -> bool;
    /// Delivers one of the taken messages, if any.
    fn message(&mut self, core: &mut Core) -> bool;
}

pub(crate) struct Hosted<H: Handler<M>, M: Send + 'static> {
    handler: H,
    states: Slab<H::Connection>,
    service: u16,
    /// Not a type parameter: the callbacks of a request would be compiled for each kind of mailbox, and inlined in
    /// none.
    mailbox: Box<dyn Mail<M>>,
    /// Messages between mailbox and handler; empty between turns, kept for its capacity.
    batch: VecDeque<Addressed<M>>,
    works: Works<H>,
}

/// The periodic work of a service, each with its period.
pub(crate) type Works<H> = Arc<[(Duration, Work<H>)]>;
/// The function of periodic work, which makes its own context.
pub(crate) type Work<H> = Arc<dyn Fn(&mut H, &mut Core, u16) + Send + Sync>;

impl<H: Handler<M>, M: Send + 'static> Hosted<H, M> {
    pub(crate) fn new(handler: H, service: u16, mailbox: impl Mail<M> + 'static) -> Self {
        Hosted {
            handler,
            states: Slab::new(),
            service,
            mailbox: Box::new(mailbox),
            batch: VecDeque::new(),
            works: Arc::new([]),
        }
    }

    /// Adds periodic work.
    pub(crate) fn working(mut self, works: Works<H>) -> Self {
        self.works = works;
        self
    }

    #[inline]
    fn with(
        &mut self,
        core: &mut Core,
        id: ConnectionId,
        key: u32,
        callback: impl FnOnce(&mut H, &mut H::Connection, &mut Context<'_, H::Connection, M>),
    ) {
        let Some(state) = self.states.get_mut(key as usize) else { return refused::unheard(core, id) };
        let handler = &mut self.handler;
        guarded(core, id, self.service, |cx| callback(handler, state, cx));
    }
}

impl<H: Handler<M>, M: Send + 'static> Host for Hosted<H, M> {
    fn start(&mut self, core: &mut Core) {
        let handler = &mut self.handler;
        guarded(core, ConnectionId::NONE, self.service, |cx| handler.on_start(cx));
        for (index, (period, _)) in self.works.iter().enumerate() {
            core.set_timer(Owner::Work(self.service), index as u64, *period, true);
        }
    }

    fn open(&mut self, core: &mut Core, id: ConnectionId) -> u32 {
        let handler = &mut self.handler;
        match guarded(core, id, self.service, |cx| handler.on_open(cx)) {
            Some(state) => self.states.insert(state) as u32,
            None => NO_STATE,
        }
    }

    fn adopt(&mut self, state: Box<dyn Any>) -> u32 {
        // `Context` has checked the type when it stored the state.
        state.downcast().map_or(NO_STATE, |state| self.states.insert(*state) as u32)
    }

    fn connected(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_connected(state, cx));
    }

    #[inline]
    fn data(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>) {
        // No state: the connection is refused, and its bytes choose the refusal.
        let Some(state) = self.states.get_mut(key as usize) else {
            return refused::heard(core, id, self.service, input);
        };
        let handler = &mut self.handler;
        guarded(core, id, self.service, |cx| handler.on_data(state, input, cx));
    }

    fn end_of_input(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>) {
        self.with(core, id, key, |handler, state, cx| handler.on_end_of_input(state, input, cx));
    }

    fn drained(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_drained(state, cx));
    }

    fn missed(&mut self, core: &mut Core, id: ConnectionId, key: u32, count: u64) {
        self.with(core, id, key, |handler, state, cx| handler.on_missed(state, count, cx));
    }

    fn too_slow(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_too_slow(state, cx));
    }

    fn turn(&mut self, core: &mut Core) {
        let (handler, service) = (&mut self.handler, self.service);
        if !core.heard.is_empty() {
            hear(handler, core, service);
        }
        guarded(core, ConnectionId::NONE, service, |cx| handler.on_turn(cx));
    }

    fn refused(&mut self, core: &mut Core, peer: Peer) {
        let handler = &mut self.handler;
        guarded(core, ConnectionId::NONE, self.service, |cx| handler.on_refused(peer, cx));
    }

    fn turns_away(&mut self, core: &mut Core) -> Option<String> {
        let handler = &self.handler;
        guarded(core, ConnectionId::NONE, self.service, |_: &mut Context<'_, H::Connection, M>| handler.turns_away())
            .flatten()
    }

    fn deadline(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_deadline(state, cx));
    }

    fn timer(&mut self, core: &mut Core, owner: Owner, timer: u64) {
        let (handler, service) = (&mut self.handler, self.service);
        match owner {
            Owner::Handler(_) => {
                guarded(core, ConnectionId::NONE, service, |cx| handler.on_timer(timer, cx));
            }
            Owner::Connection(id) => {
                let Some(key) = core.links.get(id).map(|link| link.state) else { return };
                self.with(core, id, key, |handler, state, cx| handler.on_connection_timer(state, timer, cx));
            }
            Owner::Work(_) => {
                if let Some((_, work)) = self.works.get(timer as usize) {
                    work(handler, core, service);
                }
            }
        }
    }

    fn stopping(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_stopping(state, cx));
    }

    fn close(&mut self, core: &mut Core, id: ConnectionId, key: u32, reason: CloseReason) {
        if let Some(state) = self.states.try_remove(key as usize) {
            let handler = &mut self.handler;
            guarded(core, id, self.service, |cx| handler.on_close(state, reason, cx));
        }
    }

    fn collect(&mut self) -> bool {
        self.mailbox.take(&mut self.batch, MESSAGES_PER_TURN)
    }

    fn message(&mut self, core: &mut Core) -> bool {
        let Some((to, message)) = self.batch.pop_front() else { return false };
        core.counters.messages.add(1);
        let (handler, service) = (&mut self.handler, self.service);
        let key = core.links.get(to).filter(|link| link.service == service).map(|link| link.state);
        let state = key.and_then(|key| self.states.get_mut(key as usize));
        let is_lent = state.is_some();
        let outcome = guarded(core, ConnectionId::NONE, service, |cx| handler.on_message(to, state, message, cx));
        // A panic may leave the lent state half changed.
        if outcome.is_none() && is_lent {
            end_panicked(core, to);
        }
        true
    }
}

impl<H: Handler<M>, M: Send + 'static> Drop for Hosted<H, M> {
    fn drop(&mut self) {
        each_dropped(self.batch.drain(..));
    }
}

/// Calls a listening handler with the publications that wait, up to a limit. The rest waits for the next turn.
fn hear<H: Handler<M>, M: Send + 'static>(handler: &mut H, core: &mut Core, service: u16) {
    let waiting = core.heard.waiting(service);
    for _ in 0..waiting.min(MESSAGES_PER_TURN) {
        let Some((topic, heed)) = core.heard.take(service) else { break };
        guarded(core, ConnectionId::NONE, service, |cx| match heed {
            Heed::Message(message) => handler.on_publication(&topic, &message, cx),
            Heed::Missed(count) => handler.on_publications_missed(&topic, count, cx),
        });
    }
    if core.heard.waiting(service) > 0 && !core.turn_requested.contains(&service) {
        core.turn_requested.push(service);
    }
}

/// Runs a callback. A panic ends the callback's connection, and nothing else.
///
/// A panic may leave the handler's own state half changed. The loop's state is consistent after every call on
/// `Context`.
#[inline]
pub(crate) fn guarded<C, M, R>(
    core: &mut Core,
    id: ConnectionId,
    service: u16,
    callback: impl FnOnce(&mut Context<'_, C, M>) -> R,
) -> Option<R> {
    core.outbox.set_caller(id);
    let outcome = catch_unwind(AssertUnwindSafe(|| callback(&mut Context::new(core, id, service))));
    match outcome {
        Ok(value) => Some(value),
        Err(panic) => {
            panicked(core, id, service, panic);
            None
        }
    }
}

#[cold]
fn panicked(core: &mut Core, id: ConnectionId, service: u16, panic: Box<dyn Any + Send>) {
    let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("(no message)").to_owned();
    dropped(panic);
    core.counters.panics.add(1);
    let name = core.terms.get(service as usize).map_or("application", |terms| &terms.name);
    match core.links.get_mut(id) {
        Some(link) => {
            log::error!("{name}: a callback of connection {id} from {} panicked: {said}", link.peer);
            end_panicked(core, id);
        }
        None => log::error!("{name}: a callback panicked: {said}"),
    }
}

/// Ends a connection after a panic in its callback, or with its state.
#[cold]
fn end_panicked(core: &mut Core, id: ConnectionId) {
    if let Some(link) = core.links.get_mut(id) {
        link.over(CloseReason::Panicked);
        core.mark_dirty(id);
    }
}
