//! The requests that a callback can make. A context records requests and never calls user code: the loop acts once the callback
//! has returned, so no handler is called in the middle of another handler's work.

mod bounds;
mod connection;
mod core;
mod dialing;
mod opening;
mod reading;
mod refusal;
mod timers;
mod topics;

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::address::Peer;
use crate::buffer::Writer;
use crate::cluster::LoopKind;
use crate::handle::ServiceHandle;
use crate::link::Link;
use crate::stats::{Counters, Stats};
use crate::token::ConnectionId;

pub(crate) use self::bounds::BoundsTable;
pub use self::connection::ConnectionRef;
pub(crate) use self::core::{Core, OpenKind, Pending, PendingOpen, Terms, Timer};
pub(crate) use self::dialing::{Dials, Resolver};
pub(crate) use self::refusal::Refusal;
pub use self::timers::Timers;
pub(crate) use self::timers::{KeyedTimers, Owner};

/// The outcome of a write: the bytes are queued, or refused as a whole.
///
/// ```
/// use reactor::{Context, Written};
/// # fn more() -> Option<Vec<u8>> { None }
/// fn stream(cx: &mut Context<'_>) {
///     while let Some(piece) = more() {
///         match cx.write(&piece) {
///             Written::Queued => {}
///             Written::AboveHighWater => break, // go on in on_drained
///             Written::Refused => break,        // nobody is there to read it
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The bytes will be sent.
    Queued,
    /// The bytes will be sent, but the handler should wait for [`Handler::on_drained`](crate::Handler::on_drained) before it
    /// writes more: the peer is owed more than [`Limits::output_high`](crate::Limits::output_high).
    AboveHighWater,
    /// Some or all bytes were not taken: the connection is gone, closing, read-only, or over
    /// [`Limits::output_max`](crate::Limits::output_max). In the last case the connection closes once all bytes accepted before
    /// have been sent.
    Refused,
}

/// The argument of every callback: writes to connections, closes them, connects, publishes, sets timers.
///
/// Every method returns at once. A request that calls a handler again (a close, a connection, a message) is carried out after
/// the callback has returned. The verbs of connections are short forms for the callback's own connection. Outside any
/// connection ([`Handler::on_start`](crate::Handler::on_start), [`Handler::on_message`](crate::Handler::on_message), periodic
/// work) these verbs do nothing, as with a stale id. [`Context::at`] has the verbs of any connection of this loop.
///
/// ```
/// use reactor::{ConnectionId, Context, Handler, Input, Written};
///
/// /// Passes what each peer says to the one that came before it.
/// #[derive(Default)]
/// struct Chain {
///     latest: ConnectionId,
/// }
///
/// impl Handler for Chain {
///     type Connection = ConnectionId;
///
///     fn on_open(&mut self, cx: &mut Context<'_, ConnectionId>) -> ConnectionId {
///         std::mem::replace(&mut self.latest, cx.id())
///     }
///
///     fn on_data(&mut self, before: &mut ConnectionId, input: &mut Input<'_>, cx: &mut Context<'_, ConnectionId>) {
///         if cx.at(*before).write(input.take_all()) == Written::Refused {
///             cx.write(b"nobody is listening\n");
///         }
///     }
/// }
/// ```
///
/// The types come from the handler: `C` is [`Handler::Connection`](crate::Handler::Connection), the state of its connections,
/// and `M` is its message type. Both default to `()`, so a handler without state and messages writes `Context<'_>`, and a
/// handler with both writes an alias once: `type Context<'a> = reactor::Context<'a, State, Message>`. A function for any
/// handler takes `&mut Context<'_, C, M>`, or a [`ConnectionRef`]. In periodic work of the application, where no handler
/// exists, both are [`NoHandler`].
///
/// A state of another type is an error of the compiler:
///
/// ```compile_fail,E0308
/// # use reactor::{Address, Context};
/// fn dial(to: Address, cx: &mut Context<'_, String>) {
///     cx.connect(to, 7u32); // the handler's connections have a String
/// }
/// ```
///
/// So are messages of another type, and a handler's request where no handler exists:
///
/// ```compile_fail,E0308
/// # use reactor::{Context, ServiceHandle};
/// fn handle(cx: &mut Context<'_, (), String>) -> ServiceHandle<u8> {
///     cx.service_handle() // of String
/// }
/// ```
///
/// ```compile_fail,E0277
/// # use std::time::Duration;
/// # let mut app = reactor::Application::new().unwrap();
/// app.add_loop(Duration::from_secs(1), |cx| drop(cx.service_handle()));
/// ```
pub struct Context<'a, C = (), M = ()> {
    core: &'a mut Core,
    id: ConnectionId,
    service: u16,
    types: PhantomData<fn(C) -> M>,
}

/// The type of states and messages in the [`Context`] of periodic work ([`Application::add_loop`]), where no handler exists.
/// `NoHandler` has no value, so no method that takes a state or a message can be called with it.
///
/// ```
/// use reactor::{Application, Context, NoHandler};
/// use std::time::Duration;
///
/// fn tick(cx: &mut Context<'_, NoHandler, NoHandler>) {
///     cx.halt();
/// }
///
/// let mut app = Application::new()?;
/// app.add_loop(Duration::from_millis(1), tick);
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
///
/// [`Application::add_loop`]: crate::Application::add_loop
pub struct NoHandler {
    _no_value: Infallible,
    /// Makes the type not `Send`, so that methods for messages, which must be `Send`, are refused too.
    _not_send: PhantomData<*const ()>,
}

impl<'a, C, M> Context<'a, C, M> {
    pub(crate) fn new(core: &'a mut Core, id: ConnectionId, service: u16) -> Self {
        Context { core, id, service, types: PhantomData }
    }

    /// The connection's id, by which other callbacks reach the connection; [`ConnectionId::NONE`] outside a connection.
    #[inline]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The peer at the other end; `None` outside a connection.
    pub fn peer(&self) -> Option<Peer> {
        self.core.links.get(self.id).map(|link| link.peer)
    }

    /// The name of the service that the callback belongs to, as logs and reports have it; `application` in periodic work of the application.
    pub fn service(&self) -> &str {
        self.core.terms.get(self.service as usize).map_or("application", |terms| &terms.name)
    }

    /// The monotonic clock of the system, read once a turn: the time since some moment before the loop began. The time only
    /// goes forward, and is comparable between the loops of one machine.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.now.0)
    }

    /// The service's own handle, for threads that the handler starts: such a thread [`post`](ServiceHandle::post)s its results
    /// back to the service.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context, Handler, Input};
    ///
    /// /// Answers each line with its length, which takes so long to find out that a thread has to do it.
    /// struct Measure;
    ///
    /// impl Handler<String> for Measure {
    ///     type Connection = ();
    ///
    ///     fn on_open(&mut self, _: &mut Context<'_, (), String>) {}
    ///
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_, (), String>) {
    ///         while let Some(line) = input.until_eol() {
    ///             let (line, id, service) = (line.to_vec(), cx.id(), cx.service_handle());
    ///             std::thread::spawn(move || service.post_wait(id, format!("{}\n", line.len())));
    ///         }
    ///     }
    ///
    ///     fn on_message(&mut self, to: ConnectionId, _: Option<&mut ()>, answer: String, cx: &mut Context<'_, (), String>) {
    ///         cx.at(to).write(answer);
    ///     }
    /// }
    /// ```
    pub fn service_handle(&self) -> ServiceHandle<M>
    where
        M: Send + 'static,
    {
        let terms = self.core.terms.get(self.service as usize);
        let handle = terms.and_then(|terms| terms.handle.downcast_ref::<ServiceHandle<M>>());
        handle.expect("a context has the types of its handler").clone()
    }

    /// Whether the loop serves only this connection, and ends with the connection ([`Runner::threads`](crate::Runner::threads),
    /// [`Runner::processes`](crate::Runner::processes)). Then a callback that waits holds up no other connection, and state
    /// kept in the handler is kept for this connection alone.
    pub fn serves_alone(&self) -> bool {
        self.core.kind != LoopKind::Fixed
    }

    /// The number of loops that live as long as the application: 1 to 256 with [`Runner::loops`](crate::Runner::loops). With
    /// [`Runner::threads`](crate::Runner::threads) and [`Runner::processes`](crate::Runner::processes) 1, which accepts, and each
    /// connection has a loop of its own besides.
    ///
    /// ```
    /// use reactor::Context;
    /// fn is_first<C, M>(cx: &Context<'_, C, M>) -> bool {
    ///     cx.loops() == 1 || cx.loop_number() == 0
    /// }
    /// ```
    pub fn loops(&self) -> usize {
        self.core.outbox.loops()
    }

    /// The loop's number, from 0 on; the accepting loop has number 0. A loop that serves one connection
    /// ([`Context::serves_alone`]) has a number of 256 or more, which another loop gets after its end.
    pub fn loop_number(&self) -> usize {
        self.core.links.event_loop() as usize
    }

    /// The number of the loop's turn, different from the turn before. For work that is limited within each turn.
    pub fn turn(&self) -> u32 {
        self.core.turn
    }

    /// A copy of the loop's counters. Copies some hundred bytes, so not for every request.
    pub fn stats(&self) -> Stats {
        self.core.counters.read()
    }

    // ---- writing ---------------------------------------------------------------------------------------------------

    /// Queues a copy of `bytes`. The copy leaves after the callback, together with all other bytes written in the callback, in
    /// one send.
    // Inlined by force: nearly every answer is one write, and the call takes a fifth of its instructions.
    #[inline(always)]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Written {
        self.core.put(self.id, |output| output.put(bytes.as_ref()))
    }

    /// Queues all of `bytes`, a buffer that the handler fills again and again. Leaves `bytes` empty, also where the write is refused.
    /// When nothing is queued for the peer, exchanges the memory of `bytes` with the memory of an empty output, and copies nothing.
    ///
    /// ```
    /// use reactor::{Context, Handler, Input, Service};
    /// use std::io::Write;
    ///
    /// /// Answers with the number of received bytes. All connections share the buffer.
    /// struct Counting {
    ///     answer: Vec<u8>,
    /// }
    ///
    /// impl Handler for Counting {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         writeln!(self.answer, "{}", input.take_all().len()).unwrap();
    ///         cx.write_vec(&mut self.answer);
    ///     }
    /// }
    /// # Service::tcp("127.0.0.1:0", || Counting { answer: Vec::new() });
    /// ```
    // Inlined by force, as `write` is.
    #[inline(always)]
    pub fn write_vec(&mut self, bytes: &mut Vec<u8>) -> Written {
        let written = self.core.put(self.id, |output| output.put_vec(bytes));
        bytes.clear();
        written
    }

    /// Queues `bytes`: shared without a copy from 4 KiB on, copied if shorter.
    pub fn write_shared(&mut self, bytes: Bytes) -> Written {
        self.core.put(self.id, |output| output.put_shared(bytes))
    }

    /// Queues a range of a file: see [`Output::put_file`](crate::Output::put_file).
    pub fn write_file(&mut self, file: Arc<File>, range: Range<u64>) -> Written {
        self.core.put(self.id, |output| output.put_file(file, range))
    }

    /// Queues all bytes that `encode` puts into the [`Writer`], at the price of one write. Where a write would be refused,
    /// `encode` is not called.
    #[inline]
    pub fn encode(&mut self, encode: impl FnOnce(&mut Writer<'_>)) -> Written {
        self.core.put(self.id, |output| encode(&mut Writer::new(output)))
    }

    /// Lends a [`Writer`] that appends to the output, for encoders; `None` where a write would be refused.
    /// [`Context::encode`] says in addition how much is queued then.
    #[inline]
    pub fn output(&mut self) -> Option<Writer<'_>> {
        self.core.output(self.id).map(Writer::new)
    }

    /// Number of bytes queued for this connection's peer that the kernel has not taken; 0 outside a connection.
    pub fn queued(&self) -> usize {
        self.core.links.get(self.id).map_or(0, Link::queued)
    }

    // ---- ending ----------------------------------------------------------------------------------------------------

    /// Closes the connection in order, after all queued bytes have left: see [`ConnectionRef::close`].
    pub fn close(&mut self) {
        self.own().close();
    }

    /// Closes the connection without waiting for the peer to end its half: see [`ConnectionRef::close_briefly`].
    pub fn close_briefly(&mut self) {
        self.own().close_briefly();
    }

    /// Ends our half of the connection, and goes on reading: see [`ConnectionRef::finish`].
    pub fn finish(&mut self) {
        self.own().finish();
    }

    /// Ends the connection at once with a reset: see [`ConnectionRef::abort`].
    pub fn abort(&mut self) {
        self.own().abort();
    }

    /// Whether the application is stopping. `on_stopping` is not called for connections that are opened from now on.
    pub fn is_stopping(&self) -> bool {
        self.core.stopping
    }

    /// Stops the application as a signal would: the application stops listening, lets every connection finish, and returns from
    /// [`Application::run`](crate::Application::run).
    pub fn halt(&mut self) {
        self.core.halting = true;
    }

    // ---- memory ----------------------------------------------------------------------------------------------------

    /// Tells the memory budget how many heap bytes this connection's state holds: see [`ConnectionRef::set_state_bytes`].
    pub fn set_state_bytes(&mut self, bytes: usize) {
        self.own().set_state_bytes(bytes);
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    /// Calls [`Handler::on_deadline`](crate::Handler::on_deadline) for the connection after the time `after`: see
    /// [`ConnectionRef::set_deadline`].
    pub fn set_deadline(&mut self, after: Duration) {
        self.own().set_deadline(after);
    }

    /// Cancels the deadline that [`set_deadline`](Self::set_deadline) has set. Without one, does nothing.
    pub fn clear_deadline(&mut self) {
        self.own().clear_deadline();
    }

    /// Whether the drain time is over.
    pub(crate) fn has_given_up(&self) -> bool {
        self.core.opens_refused
    }

    /// The loop's counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.core.counters
    }
}

/// The requests of a handler. Periodic work of the application, where no handler exists, has no such requests: [`NoHandler`] is
/// not [`Send`].
impl<C, M: Send + 'static> Context<'_, C, M> {
    /// Calls [`Handler::on_turn`](crate::Handler::on_turn) in the next turn: for work of the handler that is too much for
    /// one turn and belongs to no connection. In between everybody else is served.
    pub fn request_turn(&mut self) {
        let service = self.service;
        if !self.core.turn_requested.contains(&service) {
            self.core.turn_requested.push(service);
        }
    }

    /// Holds up the end of the loop (`true`), or no longer (`false`), for work that belongs to no connection: a result that a
    /// thread has yet to [`post`](ServiceHandle::post), a task whose peer is gone. While the application is stopping, the loop goes
    /// on until no connection exists and no handler holds up the end, or until the drain time
    /// ([`Application::drain_timeout`](crate::Application::drain_timeout)) is over. A loop that serves one connection
    /// ([`Context::serves_alone`]) goes on after the end of its connection in the same way.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context, Handler, Input};
    ///
    /// /// Has a thread store each line, and ends when all lines are stored, also of peers that are gone.
    /// #[derive(Default)]
    /// struct Store {
    ///     under_way: usize,
    /// }
    /// # fn store(_: Vec<u8>) {}
    ///
    /// impl Handler for Store {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         while let Some(line) = input.until_eol() {
    ///             let (line, id, service) = (line.to_vec(), cx.id(), cx.service_handle());
    ///             self.under_way += 1;
    ///             cx.hold_end(true);
    ///             std::thread::spawn(move || {
    ///                 store(line);
    ///                 service.post_wait(id, ())
    ///             });
    ///         }
    ///     }
    ///     fn on_message(&mut self, to: ConnectionId, _: Option<&mut ()>, _: (), cx: &mut Context<'_>) {
    ///         self.under_way -= 1;
    ///         cx.hold_end(self.under_way > 0);
    ///         cx.at(to).write("stored\n");
    ///     }
    /// }
    /// ```
    pub fn hold_end(&mut self, hold: bool) {
        let (held, service) = (&mut self.core.end_held, self.service);
        held.retain(|other| *other != service);
        if hold {
            held.push(service);
        }
    }
}

impl Context<'_, NoHandler, NoHandler> {
    /// Ends the periodic work that calls `end_loop`: no further calls of the work follow.
    pub fn end_loop(&mut self) {
        self.core.loop_ended = true;
    }
}

impl<C, M> fmt::Debug for Context<'_, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("id", &self.id).field("service", &self.service()).finish_non_exhaustive()
    }
}
