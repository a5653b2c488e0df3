//! What listens where, with which limits, and who serves it; and that handler beside its connections, its types
//! forgotten, as the loop drives it.

use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use crate::address::Address;
use crate::buffer::Input;
use crate::context::{Context, Core, Terms};
use crate::error::{Errno, Error};
use crate::handle::{Handle, ServiceHandle};
use crate::handler::Handler;
use crate::limits::{Deadlines, Limits};
use crate::link::NO_STATE;
use crate::mailbox::{Addressed, Mailbox, Receiver};
use crate::reason::CloseReason;
use crate::sys::listen::{self, ListenOptions, Listening, Listens};
use crate::token::ConnectionId;

/// Messages that one service gets in one turn: whoever posts a flood waits, not those who are connected.
const MESSAGES_PER_TURN: usize = 1024;

/// A handler bound to an address, with its limits and deadlines.
///
/// ```
/// use reactor::{Application, Context, Deadlines, Handler, Input, Limits, Service};
/// use std::time::Duration;
///
/// struct Shout;
///
/// impl Handler for Shout {
///     type Connection = ();
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
///         cx.write(&input.take_all().to_ascii_uppercase());
///     }
/// }
///
/// let mut app = Application::new()?;
/// let shout = Service::tcp("127.0.0.1:0", || Shout)
///     .named("shout")
///     .limits(Limits { connections: Some(100), ..Limits::default() })
///     .deadlines(Deadlines { idle: Some(Duration::from_secs(60)), ..Deadlines::default() })
///     .refusal("too many are shouting\r\n");
/// let handle = app.add_service(shout)?;
/// println!("shout at {}", handle.address().unwrap());
/// # Ok::<(), reactor::Error>(())
/// ```
#[must_use = "a service does nothing until it is added to an application"]
pub struct Service<H, M = ()> {
    source: Source,
    name: String,
    limits: Limits,
    deadlines: Deadlines,
    refusal: Bytes,
    speaks_first: Option<Duration>,
    factory: Box<dyn Fn() -> H + Send + Sync>,
    messages: PhantomData<fn(M)>,
}

impl<H, M> fmt::Debug for Service<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Where a service's listeners come from.
#[derive(Debug)]
enum Source {
    Text(String),
    Addresses(Vec<Address>),
    Listeners(Vec<Listener>),
    Nothing,
}

impl<H: Handler<M>, M: Send + 'static> Service<H, M> {
    /// Listens on TCP at `host:port`: a name (each of its addresses), an IPv4 address, an IPv6 address in brackets;
    /// `[::]` takes IPv4 too, and port 0 is any free one. `factory` is called once for each loop, on that loop's
    /// thread.
    pub fn tcp(address: &str, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::new(Source::Text(address.to_owned()), factory)
    }

    /// Listens on a Unix stream socket. A stale socket file is replaced; a live one, and anything that is no socket, is
    /// an error. The file is removed when the service stops listening.
    pub fn unix(path: impl Into<PathBuf>, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::new(Source::Addresses(vec![Address::Unix(path.into())]), factory)
    }

    /// Listens on every one of these addresses.
    pub fn at(addresses: Vec<Address>, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::new(Source::Addresses(addresses), factory)
    }

    /// Takes over a listener that is open already, from the standard library or from [`inherited_listeners`].
    pub fn on(listener: Listener, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::on_all(vec![listener], factory)
    }

    /// Takes over several: one service, however it is reached.
    pub fn on_all(listeners: Vec<Listener>, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::new(Source::Listeners(listeners), factory)
    }

    /// Listens nowhere: for a handler that only connects to others or watches descriptors, beginning in
    /// [`Handler::on_start`].
    pub fn outbound(factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::new(Source::Nothing, factory)
    }

    fn new(source: Source, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Service {
            source,
            name: short_name::<H>().to_owned(),
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            refusal: Bytes::new(),
            speaks_first: None,
            factory: Box::new(factory),
            messages: PhantomData,
        }
    }

    /// What logs and reports call it; by default the handler's type.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How much it takes and keeps.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long it waits.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// What a newcomer over [`Limits::connections`] is told before it is closed. Nothing by default.
    pub fn refusal(mut self, told: impl Into<Bytes>) -> Self {
        self.refusal = told.into();
        self
    }

    /// In this protocol the client speaks first. The kernel then keeps a newcomer to itself for up to `patience` until
    /// it has said something (TCP_DEFER_ACCEPT, tcp(7)), and the loop reads as soon as it has accepted. Saves a quarter
    /// of the cost of a short connection. The price: a silent client stays invisible for that time, and is reset if the
    /// service stops meanwhile. With a patience of zero the kernel keeps nobody to itself, and only the early read is left.
    pub fn client_speaks_first(mut self, patience: Duration) -> Self {
        self.speaks_first = Some(patience);
        self
    }

    /// Binds, with `listen`. What comes out of it can be built on a loop.
    pub(crate) fn bind<L: Listens + 'static>(
        self,
        application: Handle,
        mailboxes: Vec<Arc<Mailbox<Addressed<M>>>>,
        listen: impl Fn(&Address, &ListenOptions) -> Result<L, Error>,
    ) -> Result<(Bound, ServiceParts<H, M>), Error> {
        let options = ListenOptions {
            backlog: self.limits.backlog.min(i32::MAX as u32) as i32,
            defer_accept: self.speaks_first.filter(|patience| !patience.is_zero()),
        };
        let listeners: Vec<Box<dyn Listens>> = match self.source {
            Source::Nothing => Vec::new(),
            Source::Listeners(listeners) => {
                if let Some(patience) = options.defer_accept {
                    for Listener(listening) in &listeners {
                        let failed =
                            |errno: Errno| Error::Bind { address: listening.address().clone(), cause: errno.into() };
                        listening.defer_accept(patience).map_err(failed)?;
                    }
                }
                listeners.into_iter().map(|Listener(listening)| Box::new(listening) as _).collect()
            }
            Source::Text(text) => bind_all(&Address::resolve(&text)?, &options, listen)?,
            Source::Addresses(addresses) => bind_all(&addresses, &options, listen)?,
        };
        let addresses = listeners.iter().map(|listening| listening.address().clone()).collect();
        let handle = ServiceHandle::new(application, mailboxes, addresses);
        let terms = Terms {
            name: self.name.into(),
            limits: self.limits,
            deadlines: self.deadlines,
            connection_type: TypeId::of::<H::Connection>(),
            handle: Arc::new(handle.clone()),
        };
        let bound = Bound {
            terms,
            listeners: listeners.into_iter().map(Some).collect(),
            refusal: self.refusal,
            reads_first: self.speaks_first.is_some(),
            open: Arc::default(),
        };
        Ok((bound, ServiceParts { factory: self.factory, handle }))
    }
}

/// Binds each of several addresses of one name. An address that this host does not have (IPv6 switched off, say) is left
/// out as long as there is another.
fn bind_all<L: Listens + 'static>(
    addresses: &[Address],
    options: &ListenOptions,
    listen: impl Fn(&Address, &ListenOptions) -> Result<L, Error>,
) -> Result<Vec<Box<dyn Listens>>, Error> {
    let mut listeners: Vec<Box<dyn Listens>> = Vec::new();
    let mut absent = None;
    for address in addresses {
        match listen(address, options) {
            Ok(listener) => listeners.push(Box::new(listener)),
            Err(Error::Bind { address, cause }) if cause.kind() == std::io::ErrorKind::AddrNotAvailable => {
                absent = Some(Error::Bind { address, cause });
            }
            Err(error) => return Err(error),
        }
    }
    match absent {
        Some(error) if listeners.is_empty() => Err(error),
        Some(error) => {
            log::warn!("not listening there: {error}");
            Ok(listeners)
        }
        None => Ok(listeners),
    }
}

/// The last word of the type's path, its parameters left out: `Echo` of `my_crate::Echo<T>`.
fn short_name<H>() -> &'static str {
    let path = std::any::type_name::<H>();
    let path = path.split('<').next().unwrap_or(path);
    path.rsplit("::").next().unwrap_or(path)
}

/// A listener that is open already.
///
/// ```
/// use reactor::Listener;
/// let listener = Listener::try_from(std::net::TcpListener::bind("127.0.0.1:0")?)?;
/// assert!(listener.address().port().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener(Listening);

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.0.address()
    }
}

impl TryFrom<OwnedFd> for Listener {
    type Error = Error;

    /// Takes a listening stream socket, TCP or Unix, and makes it non-blocking and close-on-exec.
    fn try_from(descriptor: OwnedFd) -> Result<Self, Error> {
        Listening::from_fd(descriptor).map(Listener)
    }
}

impl TryFrom<std::net::TcpListener> for Listener {
    type Error = Error;

    fn try_from(listener: std::net::TcpListener) -> Result<Self, Error> {
        OwnedFd::from(listener).try_into()
    }
}

impl TryFrom<std::os::unix::net::UnixListener> for Listener {
    type Error = Error;

    fn try_from(listener: std::os::unix::net::UnixListener) -> Result<Self, Error> {
        OwnedFd::from(listener).try_into()
    }
}

/// The listeners that a service manager has handed to this process, each with the name it gave it, by the protocol of
/// `sd_listen_fds(3)`: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`. Empty when there are none, and from the second
/// call on.
///
/// # Errors
/// [`Error::Inherited`] when one of them is not a listening stream socket.
pub fn inherited_listeners() -> Result<Vec<(Option<String>, Listener)>, Error> {
    let inherited = listen::inherited()?;
    Ok(inherited.into_iter().map(|one| (one.name, Listener(one.listening))).collect())
}

/// A service whose addresses are bound, without its types.
pub(crate) struct Bound {
    pub(crate) terms: Terms,
    /// One of the loops accepts from them; the others know of each that it is there.
    pub(crate) listeners: Vec<Option<Box<dyn Listens>>>,
    pub(crate) refusal: Bytes,
    pub(crate) reads_first: bool,
    /// Connections that were let in and have not ended, on all loops.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Bound {
    /// The same service for a loop that accepts nobody by itself.
    pub(crate) fn for_another_loop(&self) -> Self {
        Bound {
            terms: self.terms.clone(),
            listeners: self.listeners.iter().map(|_| None).collect(),
            refusal: self.refusal.clone(),
            reads_first: self.reads_first,
            open: self.open.clone(),
        }
    }
}

/// The rest of it, from which each loop builds its own handler.
pub(crate) struct ServiceParts<H, M> {
    factory: Box<dyn Fn() -> H + Send + Sync>,
    pub(crate) handle: ServiceHandle<M>,
}

impl<H: Handler<M>, M: Send + 'static> ServiceParts<H, M> {
    pub(crate) fn host(&self, service: u16, mailbox: Receiver<Addressed<M>>) -> Box<dyn Host> {
        Box::new(Hosted { handler: (self.factory)(), states: Slab::new(), service, mailbox, batch: VecDeque::new() })
    }
}

/// A handler and the states of its connections as the loop drives them. Each verb is one callback; none lets a panic
/// out: it is logged and counted, and the connection it happened in is over.
pub(crate) trait Host {
    fn start(&mut self, core: &mut Core);
    /// The key of the new connection's state, or `NO_STATE` after a panic.
    fn open(&mut self, core: &mut Core, id: ConnectionId) -> u32;
    /// Takes over the state of a connection that the handler asked for.
    fn adopt(&mut self, state: Box<dyn Any>) -> u32;
    fn connected(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn data(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>);
    fn end_of_input(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>);
    fn drained(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn missed(&mut self, core: &mut Core, id: ConnectionId, key: u32, count: u64);
    fn too_slow(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn turn(&mut self, core: &mut Core);
    fn deadline(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn stopping(&mut self, core: &mut Core, id: ConnectionId, key: u32);
    fn close(&mut self, core: &mut Core, id: ConnectionId, key: u32, reason: CloseReason);
    /// Takes what was posted, up to a bound. Whether there is more.
    fn collect(&mut self) -> bool;
    /// Hands over one message of those taken, if there is one.
    fn message(&mut self, core: &mut Core) -> bool;
}

struct Hosted<H: Handler<M>, M: Send + 'static> {
    handler: H,
    states: Slab<H::Connection>,
    service: u16,
    mailbox: Receiver<Addressed<M>>,
    /// Messages on their way from the mailbox to the handler; empty between turns, kept for its capacity.
    batch: VecDeque<Addressed<M>>,
}

impl<H: Handler<M>, M: Send + 'static> Hosted<H, M> {
    #[inline]
    fn with(
        &mut self,
        core: &mut Core,
        id: ConnectionId,
        key: u32,
        callback: impl FnOnce(&mut H, &mut H::Connection, &mut Context<'_>),
    ) {
        let Some(state) = self.states.get_mut(key as usize) else { return };
        let handler = &mut self.handler;
        guarded(core, id, self.service, |cx| callback(handler, state, cx));
    }
}

impl<H: Handler<M>, M: Send + 'static> Host for Hosted<H, M> {
    fn start(&mut self, core: &mut Core) {
        let handler = &mut self.handler;
        guarded(core, ConnectionId::NONE, self.service, |cx| handler.on_start(cx));
    }

    fn open(&mut self, core: &mut Core, id: ConnectionId) -> u32 {
        let handler = &mut self.handler;
        match guarded(core, id, self.service, |cx| handler.on_open(cx)) {
            Some(state) => self.states.insert(state) as u32,
            None => NO_STATE,
        }
    }

    fn adopt(&mut self, state: Box<dyn Any>) -> u32 {
        // `Context` has checked the type when it took the state.
        state.downcast().map_or(NO_STATE, |state| self.states.insert(*state) as u32)
    }

    fn connected(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_connected(state, cx));
    }

    #[inline]
    fn data(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>) {
        self.with(core, id, key, |handler, state, cx| handler.on_data(state, input, cx));
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
        let handler = &mut self.handler;
        guarded(core, ConnectionId::NONE, self.service, |cx| handler.on_turn(cx));
    }

    fn deadline(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.with(core, id, key, |handler, state, cx| handler.on_deadline(state, cx));
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
        let handler = &mut self.handler;
        guarded(core, ConnectionId::NONE, self.service, |cx| handler.on_message(to, message, cx));
        true
    }
}

/// Runs a callback. A panic in it ends the connection that it is for, and nothing else.
///
/// What the callback left half changed is its handler's own state; the loop's half is in order after every call on
/// `Context`.
#[inline]
pub(crate) fn guarded<R>(
    core: &mut Core,
    id: ConnectionId,
    service: u16,
    callback: impl FnOnce(&mut Context<'_>) -> R,
) -> Option<R> {
    let outcome = catch_unwind(AssertUnwindSafe(|| callback(&mut Context::new(core, id, service))));
    match outcome {
        Ok(value) => Some(value),
        Err(panic) => {
            panicked(core, id, service, &*panic);
            None
        }
    }
}

#[cold]
fn panicked(core: &mut Core, id: ConnectionId, service: u16, panic: &(dyn Any + Send)) {
    let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("(no message)");
    core.counters.panics.add(1);
    let name = core.terms.get(service as usize).map_or("application", |terms| &terms.name);
    match core.links.get_mut(id) {
        Some(link) => {
            log::error!("{name}: a callback of connection {id} from {} panicked: {said}", link.peer);
            link.over(CloseReason::Panicked);
            core.touch(id);
        }
        None => log::error!("{name}: a callback panicked: {said}"),
    }
}
