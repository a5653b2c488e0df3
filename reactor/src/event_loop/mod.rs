//! One turn: wait, move bytes, callbacks, settle, flush, deadlines. The promises rest on this order:
//!
//! 1. wait for the driver; read the clock, once; call `on_turn` of the handlers that requested this turn;
//! 2. for each completion: tell the link, call its handler, and send the connection's own answer at once;
//! 3. continue the links that the last turn deferred; take messages and signals;
//! 4. settle: carry out the requests of callbacks for *other* connections, never inside a callback, with one send for each
//!    connection (earlier if a connection has more than the high-water mark queued);
//! 5. deadlines, after the writes, so that a connection with a new reply is not counted as idle; settle again.

mod accept;
mod advance;
mod exchange;
mod input;
mod stopping;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Accepted, Cluster, Inbox, LoopHandle, LoopKind};
use crate::context::{Core, Timer};
use crate::driver::{Completion, Driver};
use crate::error::{Errno, Error};
use crate::host::{Host, guarded};
use crate::link::{Link, Origin, Sent};
use crate::outbox::LoopsThread;
use crate::pressure::Pressure;
use crate::recorder::What;
use crate::report::WaitedForCore;
use crate::service::listener::Listener;
use crate::service::{Bound, Served};
use crate::settings::{Orders, Periodic, Settings};
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::ConnectionId;
use accept::Admission;
use exchange::Exchange;
pub(crate) use exchange::{Spawned, Spawner};
use stopping::Stopping;

/// Size of the one receive buffer of a loop, and so the largest number of bytes that one connection delivers in one turn. Allocated
/// once and never cleared: clearing 64 KiB for every read costs half as much again as the read.
const SCRATCH: usize = 64 * 1024;
/// Size of the receive buffer of a per-connection loop. There are thousands of such loops, and in each no other connection waits.
const SCRATCH_OF_ONE: usize = 16 * 1024;
/// A wait that ends later than planned by this time was a stall: the process was stopped, or the machine slept.
const STALL: Duration = Duration::from_millis(50);

/// The service number of callbacks that belong to no service: periodic work, and the orders of operators.
const NO_SERVICE: u16 = u16::MAX;

/// One loop: a driver, the links, the handlers, and the order in which they get their turn.
pub(crate) struct EventLoop<D> {
    driver: D,
    core: Core,
    hosts: Vec<Served>,
    listeners: Vec<Listener>,
    periodic: Vec<Option<Periodic>>,
    exchange: Exchange,
    admission: Admission,
    config: Settings,
    orders: Option<Orders>,
    /// Number of consecutive turns that left deadlines out, because not every connection had been read.
    postponed: usize,
    /// Links with steps left for the next turn; and links deferred to this turn that have not been continued yet.
    deferred_next: Vec<ConnectionId>,
    deferred: Vec<ConnectionId>,
    waited: WaitedForCore,
    stopping: Option<Stopping>,
    pressure: Pressure,
}

impl<D: Driver> EventLoop<D> {
    /// A loop that lives as long as its kind says.
    pub(crate) fn new(
        mut driver: D,
        cluster: Arc<Cluster>,
        loop_handle: Arc<LoopHandle>,
        inbox: Inbox,
        config: Settings,
    ) -> Self {
        let (now, sockets) = (driver.now(), driver.sockets());
        let mut core = Core::new(now, &cluster, &loop_handle, config.budget.clone(), sockets);
        core.connections_max = config.connections;
        EventLoop {
            driver,
            core,
            hosts: Vec::new(),
            listeners: Vec::new(),
            periodic: Vec::new(),
            exchange: Exchange::new(cluster, loop_handle, inbox),
            admission: Admission::default(),
            config,
            orders: None,
            postponed: 0,
            deferred_next: Vec::new(),
            deferred: Vec::new(),
            waited: WaitedForCore::default(),
            stopping: None,
            pressure: Pressure::default(),
        }
    }

    pub(crate) fn add_service(&mut self, bound: Bound, host: Box<dyn Host>) {
        let service = self.hosts.len() as u16;
        for (listening, layers) in bound.listeners {
            if let Some(listening) = &listening {
                let name = format!("{} at {}", bound.terms.name, listening.address());
                let listener = self.driver.listen(listening.fd(), &name, &bound.terms.tuning());
                debug_assert_eq!(listener, self.listeners.len(), "the driver numbers listeners as they come");
            }
            self.listeners.push(Listener::new(service, listening, bound.reads_first, layers));
        }
        self.core.add_service(bound.terms);
        self.hosts.push(Served::new(host));
    }

    pub(crate) fn take_orders(&mut self, orders: Orders) {
        self.orders = Some(orders);
    }

    pub(crate) fn add_periodic(&mut self, mut periodic: Periodic) {
        periodic.at = self.core.now + periodic.period;
        self.core.wheel.insert(periodic.at, Timer::Periodic(self.periodic.len() as u32));
        self.periodic.push(Some(periodic));
    }

    /// Runs turns until the application stops and all connections have ended, or until the end of the drain time. A per-connection
    /// loop ends with `accepted`, its connection.
    pub(crate) fn run(mut self, accepted: Option<Accepted>) -> Result<(), Error> {
        let _here = LoopsThread::enter(self.core.outbox.clone());
        let room = if self.core.kind == LoopKind::Fixed { SCRATCH } else { SCRATCH_OF_ONE };
        let mut scratch = vec![0; room].into_boxed_slice();
        self.waited.read(self.driver.now(), self.driver.waited_for_a_core());
        self.start();
        if let Some(accepted) = accepted {
            // Without a place for its connection the loop ends, as it does when the connection ends.
            self.exchange.own = Some(self.take_on(accepted).unwrap_or(ConnectionId::NONE));
            self.keep_stopping();
        }
        while !self.is_done() {
            self.turn(&mut scratch)
                .map_err(|errno| Error::System { what: "waiting for events", cause: errno.into() })?;
        }
        self.end();
        Ok(())
    }

    /// Calls `on_start` of each handler.
    fn start(&mut self) {
        for index in 0..self.hosts.len() {
            self.hosts[index].host.start(&mut self.core);
            self.after_callback(ConnectionId::NONE);
        }
        self.settle();
        if self.core.kind == LoopKind::Fixed {
            self.exchange.descriptors_at_start = self.driver.descriptors();
        }
    }

    fn turn(&mut self, scratch: &mut [u8]) -> Result<(), Errno> {
        self.core.turn = self.core.turn.wrapping_add(1).max(1);
        let timeout = self.timeout();
        let planned = timeout.map_or(Time::NEVER, |timeout| self.core.now + timeout);
        self.driver.wait(&self.core.links, timeout, self.core.now)?;
        let heard = self.driver.now();
        self.core.now = heard;
        if !self.admission.waiting.is_empty() {
            // Before the connections that are accepted in this batch.
            self.try_again();
        }
        for service in std::mem::take(&mut self.core.turn_requested) {
            self.hosts[service as usize].host.turn(&mut self.core);
            self.after_callback(ConnectionId::NONE);
        }
        self.take_batch(scratch);
        std::mem::swap(&mut self.deferred_next, &mut self.deferred);
        while let Some(id) = self.deferred.pop() {
            self.update(id, |link| link.no_longer_deferred());
        }
        if std::mem::take(&mut self.exchange.mail) {
            self.read_mail();
        }
        self.settle();
        if self.has_heard_all(heard, planned) {
            self.expire(heard);
            self.settle();
        }
        self.keep_stopping();
        if self.pressure.is_to_compare(&mut self.core) {
            self.compare_with_budget();
        }
        self.tell_others();
        self.count_turn(heard);
        Ok(())
    }

    /// Handles the completions of this batch. Not a part of `turn`, where the variables of a turn would take the registers.
    #[inline(never)]
    fn take_batch(&mut self, scratch: &mut [u8]) {
        loop {
            if self.received(scratch, D::next_received) {
            } else if let Some(completion) = self.driver.next(&self.core.links, scratch) {
                self.dispatch(completion, scratch);
            } else {
                return;
            }
            if std::mem::take(&mut self.core.flush_now) {
                self.settle();
            }
        }
    }

    /// Compares with the memory budget, before the other loops are told of this turn.
    #[inline(never)]
    fn compare_with_budget(&mut self) {
        self.pressure.give_back(&mut self.core);
        // The last words of closed connections take memory, too, and so may messages that handlers send to other connections.
        while self.pressure.close_largest(&mut self.core) {
            self.settle();
        }
        self.pressure.suspend_or_resume(&mut self.core, self.stopping.is_some());
        self.settle();
        self.pressure.plan_next_look(&self.core);
    }

    /// Counts the turn and its duration. Reads the clock a second time, besides the reading after each wait: 33 ns a turn.
    fn count_turn(&mut self, heard: Time) {
        let (now, counters) = (self.driver.now(), &self.core.counters);
        counters.lag.count(now.since(heard));
        counters.turns.add(1);
        counters.wakes.set(self.exchange.waker.as_ref().map_or(0, Waker::writes));
        if self.waited.is_old(now) {
            self.waited.read(now, self.driver.waited_for_a_core());
        }
    }

    /// Handles the timers that were due when the wait ended. Timers that became due later, in a slow callback, go off next turn.
    fn expire(&mut self, heard: Time) {
        while let Some(timer) = self.core.wheel.expire(heard) {
            match timer {
                Timer::Link(id) => self.deadline(id, heard),
                Timer::Dial(id) => self.core.dial_overdue(&mut self.driver, id),
                Timer::Periodic(index) => self.work(index as usize),
                Timer::Keyed(place) => self.keyed_timer(place),
            }
        }
    }

    /// Whether every connection has been read since its bytes could arrive, so that deadlines may be checked. After a stall all
    /// deadlines have passed, although peers may have sent in time: their bytes are read first. That takes one further turn, or
    /// as many turns as a full batch of events needs for all connections.
    fn has_heard_all(&mut self, heard: Time, planned: Time) -> bool {
        let all = match self.driver.full_batch() {
            _ if heard.since(planned) > STALL && self.postponed == 0 => false,
            Some(events) => self.postponed > self.core.links.len() / events,
            None => true,
        };
        self.postponed = if all { 0 } else { self.postponed + 1 };
        all
    }

    /// The longest time for which the loop may wait for events; `None` without a limit.
    fn timeout(&self) -> Option<Duration> {
        let left_over = !self.deferred_next.is_empty() || !self.core.turn_requested.is_empty();
        // The memory of connections may have changed since the comparison with the budget at the end of the turn.
        let unweighed = self.core.holdings.has_changed();
        if self.exchange.mail || self.core.halting && self.stopping.is_none() || left_over || unweighed {
            return Some(Duration::ZERO);
        }
        let drain = self.stopping.as_ref().and_then(|stopping| stopping.until).unwrap_or(Time::NEVER);
        let next = self.core.wheel.next_deadline().unwrap_or(Time::NEVER).min(drain).min(self.pressure.next_look());
        (next != Time::NEVER).then(|| next.since(self.core.now))
    }

    // ---- what the driver reports -----------------------------------------------------------------------------------

    #[inline(never)]
    fn dispatch(&mut self, completion: Completion, scratch: &mut [u8]) {
        let now = self.core.now;
        match completion {
            Completion::Received { id, count } => {
                self.received(scratch, |_, links, _| Some((links.get_mut(id)?, count)));
            }
            Completion::Sent { id, outcome } => self.sent(id, outcome),
            Completion::Accepted { listener, socket, peer } => self.accepted(listener, socket, peer),
            Completion::Connected { id } => self.connected(id),
            Completion::Ended { id } => {
                self.core.recorder.note(id, What::Ended, now);
                self.update(id, Link::end_of_input);
            }
            Completion::Nothing { id } => self.update(id, Link::nothing_arrived),
            Completion::Failed { id, errno } => {
                self.core.recorder.note(id, What::Failed(errno), now);
                if !self.core.dial_failed(&mut self.driver, id, errno.to_io()) {
                    self.update(id, |link| link.failed(errno, now));
                }
            }
            Completion::Layer { id, event } => self.update(id, |link| link.layer_reported(event, now)),
            Completion::Woken => self.exchange.mail = true,
        }
    }

    fn update(&mut self, id: ConnectionId, tell: impl FnOnce(&mut Link)) {
        if let Some(link) = self.core.links.get_mut(id) {
            tell(link);
            self.advance_link(id);
        }
    }

    fn connected(&mut self, id: ConnectionId) {
        self.core.end_dial(id);
        let Some(link) = self.core.links.get_mut(id) else { return };
        link.connected(self.core.now);
        self.core.recorder.note(id, What::Connected, self.core.now);
        let (service, key, origin, open) = (link.service as usize, link.state, link.origin, link.is_open());
        self.core.agreed = self.driver.agreed(id);
        if origin == Origin::Accepted {
            self.open(id, service as u16);
            self.core.agreed = None;
            return;
        }
        self.core.counters.connected.add((origin == Origin::Outbound).into());
        if open {
            self.hosts[service].host.connected(&mut self.core, id, key);
            self.after_callback(id);
        }
        self.core.agreed = None;
        self.advance_link(id);
    }

    /// Handles a send of a blocked link, a failed send, or a send of which the kernel has taken only a part.
    #[inline(never)]
    pub(super) fn sent(&mut self, id: ConnectionId, outcome: Sent) {
        self.core.note_sent(id, outcome, || self.driver.unacknowledged(id));
        self.advance_link(id);
    }

    /// Calls periodic work, and sets its timer for the next tick of its schedule that has not passed.
    fn work(&mut self, index: usize) {
        let Some(mut periodic) = self.periodic[index].take() else { return };
        self.core.loop_ended = false;
        guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |cx| (periodic.work)(cx));
        self.after_callback(ConnectionId::NONE);
        if self.core.loop_ended {
            return;
        }
        periodic.advance(self.core.now);
        self.core.wheel.insert(periodic.at, Timer::Periodic(index as u32));
        self.periodic[index] = Some(periodic);
    }
}
