//! The stage for the promises: a service that acts as a [`Plan`] says and reports its callbacks, on a loop that runs
//! orders from outside and can be frozen between two turns. So a test chooses the events of one batch.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use reactor::{Application, CloseReason, ConnectionId, Deadlines, Handler, Input, Service, Stats};

pub use crate::clients::*;
use crate::records::Records;
use crate::support::GUARD;
use crate::support::application::{Running, serve_with};
pub use crate::transport::{Client, Transport};

/// How long a test watches that nothing happens. A shorter time proves less, and never fails.
pub const QUIET: Duration = Duration::from_millis(150);

/// A callback, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Opened(ConnectionId),
    Connected(ConnectionId),
    /// With the consumed bytes.
    Data(ConnectionId, Vec<u8>),
    /// With the number of unread bytes.
    End(ConnectionId, usize),
    Drained(ConnectionId),
    /// With the number of messages.
    Missed(ConnectionId, u64),
    TooSlow(ConnectionId),
    /// Belongs to no connection.
    Turn,
    Deadline(ConnectionId),
    Stopping(ConnectionId),
    /// With the number of bytes that were still queued.
    Closed(ConnectionId, CloseReason, usize),
}

impl Seen {
    pub fn id(&self) -> ConnectionId {
        match *self {
            Seen::Opened(id) | Seen::Connected(id) | Seen::Data(id, _) | Seen::End(id, _) => id,
            Seen::Drained(id) | Seen::Deadline(id) | Seen::Stopping(id) | Seen::Closed(id, ..) => id,
            Seen::Missed(id, _) | Seen::TooSlow(id) => id,
            Seen::Turn => ConnectionId::NONE,
        }
    }
}

type Act = Arc<dyn Fn(&mut Context<'_>) + Send + Sync>;
type Count = Arc<dyn Fn(u64, &mut Context<'_>) + Send + Sync>;
type Digest = Arc<dyn Fn(&mut Input<'_>, &mut Context<'_>) + Send + Sync>;

/// The callbacks' actions. By default all input is taken, and other callbacks do as [`Handler`] does by default.
#[derive(Clone)]
pub struct Plan {
    open: Act,
    data: Digest,
    end: Digest,
    drained: Act,
    missed: Count,
    too_slow: Act,
    turn: Act,
    deadline: Act,
    stopping: Act,
    closed: Act,
}

impl Plan {
    pub fn new() -> Self {
        let (nothing, close): (Act, Act) = (Arc::new(|_| {}), Arc::new(|cx| cx.close()));
        Plan {
            open: nothing.clone(),
            data: Arc::new(|input, _| {
                input.take_all();
            }),
            end: Arc::new(|_, cx| cx.close()),
            drained: nothing.clone(),
            missed: Arc::new(|_, _| {}),
            too_slow: nothing.clone(),
            turn: nothing.clone(),
            deadline: close.clone(),
            stopping: close,
            closed: nothing,
        }
    }

    /// Sends all input back.
    pub fn echo() -> Self {
        Plan::new().data(|input, cx| {
            cx.write(input.take_all());
        })
    }

    /// Sends each line back.
    pub fn lines() -> Self {
        Plan::new().data(|input, cx| {
            while let Some(line) = input.until_eol() {
                cx.write(line);
            }
        })
    }

    pub fn open(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.open = Arc::new(act);
        self
    }

    pub fn data(mut self, act: impl Fn(&mut Input<'_>, &mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.data = Arc::new(act);
        self
    }

    pub fn end(mut self, act: impl Fn(&mut Input<'_>, &mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.end = Arc::new(act);
        self
    }

    pub fn drained(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.drained = Arc::new(act);
        self
    }

    pub fn missed(mut self, act: impl Fn(u64, &mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.missed = Arc::new(act);
        self
    }

    pub fn too_slow(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.too_slow = Arc::new(act);
        self
    }

    pub fn turn(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.turn = Arc::new(act);
        self
    }

    pub fn deadline(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.deadline = Arc::new(act);
        self
    }

    pub fn stopping(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.stopping = Arc::new(act);
        self
    }

    pub fn closed(mut self, act: impl Fn(&mut Context<'_>) + Send + Sync + 'static) -> Self {
        self.closed = Arc::new(act);
        self
    }
}

/// The loop, as an order reaches it.
pub type Context<'a> = reactor::Context<'a, (), Order>;

/// An action on the loop, outside any connection.
pub struct Order(pub Box<dyn FnOnce(&mut Context<'_>) + Send>);

/// Reports each callback, and then acts as the plan says.
pub struct Witness {
    plan: Plan,
    tell: Sender<Seen>,
}

impl Witness {
    fn tell(&self, seen: Seen) {
        // The test may have stopped listening.
        let _ = self.tell.send(seen);
    }
}

impl Handler<Order> for Witness {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        self.tell(Seen::Opened(cx.id()));
        (self.plan.open)(cx);
    }

    fn on_connected(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.tell(Seen::Connected(cx.id()));
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        let before = input.as_slice();
        (self.plan.data)(input, cx);
        self.tell(Seen::Data(cx.id(), before[..before.len() - input.len()].to_vec()));
    }

    fn on_end_of_input(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.tell(Seen::End(cx.id(), input.len()));
        (self.plan.end)(input, cx);
    }

    fn on_drained(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.tell(Seen::Drained(cx.id()));
        (self.plan.drained)(cx);
    }

    fn on_missed(&mut self, _: &mut (), count: u64, cx: &mut Context<'_>) {
        self.tell(Seen::Missed(cx.id(), count));
        (self.plan.missed)(count, cx);
    }

    fn on_too_slow(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.tell(Seen::TooSlow(cx.id()));
        (self.plan.too_slow)(cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.tell(Seen::Turn);
        (self.plan.turn)(cx);
    }

    fn on_deadline(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.tell(Seen::Deadline(cx.id()));
        (self.plan.deadline)(cx);
    }

    fn on_stopping(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.tell(Seen::Stopping(cx.id()));
        (self.plan.stopping)(cx);
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, order: Order, cx: &mut Context<'_>) {
        order.0(cx);
    }

    fn on_close(&mut self, _: (), reason: CloseReason, cx: &mut Context<'_>) {
        self.tell(Seen::Closed(cx.id(), reason, cx.queued()));
        (self.plan.closed)(cx);
    }
}

/// A running witness.
pub struct Stage {
    pub running: Running<Order>,
    pub seen: Receiver<Seen>,
    transport: Transport,
}

impl Stage {
    /// Listens on TCP, with all defaults.
    pub fn new(transport: impl Into<Transport>, plan: Plan) -> Self {
        Self::tuned(transport, plan, |service| service, |_| {})
    }

    /// Listens on TCP, after the closures have changed the service and the application.
    pub fn tuned(
        transport: impl Into<Transport>,
        plan: Plan,
        tune: impl FnOnce(Service<Witness, Order>) -> Service<Witness, Order> + Send + 'static,
        configure: impl FnOnce(&mut Application) + Send + 'static,
    ) -> Self {
        Self::at(transport, plan, |factory| Service::tcp("127.0.0.1:0", factory), tune, configure)
    }

    /// Listens on TCP, without a deadline for the first request.
    pub fn patient(transport: impl Into<Transport>, plan: Plan) -> Self {
        let patient = Deadlines { first_request: None, ..Deadlines::default() };
        Self::tuned(transport, plan, |service| service.deadlines(patient), |_| {})
    }

    /// Listens at the address that `make` chooses.
    pub fn at(
        transport: impl Into<Transport>,
        plan: Plan,
        make: impl FnOnce(Factory) -> Service<Witness, Order> + Send + 'static,
        tune: impl FnOnce(Service<Witness, Order>) -> Service<Witness, Order> + Send + 'static,
        configure: impl FnOnce(&mut Application) + Send + 'static,
    ) -> Self {
        let (tell, seen) = channel();
        let factory: Factory = Box::new(move || Witness { plan: plan.clone(), tell: tell.clone() });
        let transport = transport.into();
        let service = move || {
            let service = tune(make(factory));
            if transport.layered { service.layered(Records::quiet_server) } else { service }
        };
        Stage { running: serve_with(transport.backend, service, configure), seen, transport }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// Connects a client. The loop may not have accepted the client yet.
    pub fn client(&self) -> Client {
        self.speaks(client_of(self.address()))
    }

    /// Connects a client with a small receive buffer: bytes that the client does not read stay with the loop.
    pub fn narrow_client(&self) -> Client {
        self.client_with(4096)
    }

    /// Connects a client with a receive buffer of twice `receive_buffer` bytes, which never grows.
    pub fn client_with(&self, receive_buffer: usize) -> Client {
        self.speaks(client_with(self.address(), receive_buffer))
    }

    /// Connects a client that speaks through no layer.
    pub fn stream(&self) -> TcpStream {
        client_of(self.address())
    }

    fn speaks(&self, socket: TcpStream) -> Client {
        if self.transport.layered { Client::layered(socket) } else { socket.into() }
    }

    /// Connects a client, and returns its id. Events of other connections meanwhile are dropped.
    pub fn open(&self) -> (Client, ConnectionId) {
        let client = self.client();
        let id = self.until(|seen| matches!(seen, Seen::Opened(_))).id();
        (client, id)
    }

    /// The next event.
    pub fn next(&self) -> Seen {
        self.seen.recv_timeout(GUARD).expect("something happens")
    }

    /// Skips events until `wanted` holds for one.
    pub fn until(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        loop {
            let seen = self.next();
            if wanted(&seen) {
                return seen;
            }
        }
    }

    /// Waits for the end of a connection. Returns its reason and the number of bytes still queued.
    pub fn closed(&self, id: ConnectionId) -> (CloseReason, usize) {
        match self.until(|seen| matches!(seen, Seen::Closed(closed, ..) if *closed == id)) {
            Seen::Closed(_, reason, owed) => (reason, owed),
            _ => unreachable!("`until` returns what was wanted"),
        }
    }

    /// Waits until `count` bytes of a connection were consumed, and returns them.
    pub fn data(&self, id: ConnectionId, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                Seen::Data(from, bytes) if from == id => all.extend(bytes),
                Seen::Closed(closed, reason, _) if closed == id => {
                    panic!("{reason} after {} of {count} bytes", all.len())
                }
                _ => {}
            }
        }
        all
    }

    /// Checks that no event comes for a while.
    pub fn sees_nothing(&self) {
        match self.seen.recv_timeout(QUIET) {
            Err(RecvTimeoutError::Timeout) => {}
            other => panic!("{other:?}"),
        }
    }

    /// The events that were not looked at.
    pub fn left_over(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            match self.seen.try_recv() {
                Ok(seen) => all.push(seen),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return all,
            }
        }
    }

    /// Runs an order on the loop, some time soon.
    pub fn order(&self, order: impl FnOnce(&mut Context<'_>) + Send + 'static) {
        self.running.service.post(ConnectionId::NONE, Order(Box::new(order))).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs an order on the loop, and waits for its result.
    pub fn ask<R: Send + 'static>(&self, order: impl FnOnce(&mut Context<'_>) -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        self.order(move |cx| drop(answer.send(order(cx))));
        answered.recv_timeout(GUARD).expect("the loop answers")
    }

    pub fn stats(&self) -> Stats {
        self.ask(|cx| cx.stats())
    }

    /// Waits until the condition holds on the loop. Each check is a turn.
    pub fn wait_until(&self, what: &str, so: impl Fn(&mut Context<'_>) -> bool + Send + Sync + 'static) {
        let (so, start) = (Arc::new(so), Instant::now());
        loop {
            let so = so.clone();
            if self.ask(move |cx| so(cx)) {
                return;
            }
            assert!(start.elapsed() < GUARD, "waited in vain until {what}");
            std::thread::yield_now();
        }
    }

    /// Stops the loop between two turns, until the returned value is dropped. All events meanwhile form one batch.
    pub fn freeze(&self) -> Frozen {
        self.freeze_after(|_| {})
    }

    /// Stops the loop as [`freeze`](Self::freeze) does, right after it has run an order.
    pub fn freeze_after(&self, order: impl FnOnce(&mut Context<'_>) + Send + 'static) -> Frozen {
        let (frozen, is_frozen) = channel();
        let (thaw, thawed) = channel::<()>();
        self.order(move |cx| {
            order(cx);
            let _ = frozen.send(());
            let _ = thawed.recv();
        });
        is_frozen.recv_timeout(GUARD).expect("the loop takes the order");
        Frozen { _thaw: thaw }
    }

    /// Waits until the loop sleeps: hardly a turn in a while. A loop that spins never sleeps; a slow machine, or chaos, may have
    /// work left for some time.
    pub fn is_quiet(&self) {
        let start = Instant::now();
        loop {
            let before = self.stats().turns;
            std::thread::sleep(2 * QUIET);
            let turns = self.stats().turns - before;
            if turns <= 4 {
                return;
            }
            assert!(start.elapsed() < GUARD, "{turns} turns in {:?} in which nothing was to do", 2 * QUIET);
        }
    }

    /// Stops the application and waits for its end. Returns the remaining events.
    pub fn end(self) -> Vec<Seen> {
        self.running.handle.halt();
        self.running.join().expect("it ends well");
        self.seen.iter().collect()
    }
}

pub type Factory = Box<dyn Fn() -> Witness + Send + Sync>;

/// Holds the loop until the drop.
pub struct Frozen {
    _thaw: Sender<()>,
}
