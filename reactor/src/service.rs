//! Services: their listeners, limits and deadlines, and the handlers that serve connections.

mod bound;
mod factory;
pub(crate) mod listener;
mod open;
mod served;
mod source;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::address::Address;
use crate::context::{Context, Core, Refusal, Terms};
use crate::error::Error;
use crate::handle::{Handle, ServiceHandle};
use crate::handler::Handler;
use crate::host::{Work, guarded};
use crate::layer::{Layer, Layers};
use crate::limits::{Deadlines, Limits};
use crate::socket_options::SocketOptions;
use crate::sys::listen::{ListenOptions, Listens};
use crate::token::ConnectionId;
pub(crate) use bound::Bound;
use bound::BoundListener;
use factory::Factory;
pub(crate) use factory::ServiceParts;
pub use open::{Listener, inherited_listeners};
pub(crate) use served::Served;
use source::Source;

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
    sources: Vec<Source>,
    name: String,
    limits: Limits,
    deadlines: Deadlines,
    sockets: SocketOptions,
    refusal: Refusal,
    speaks_first: Option<Duration>,
    shares_memory: bool,
    urgent_in_line: bool,
    layers: Option<Layers>,
    /// Further listeners, each with a layer for its connections.
    layered: Vec<(Source, Layers)>,
    works: Vec<(Duration, Work<H>)>,
    factory: Factory<H, M>,
    /// The factory makes a single handler.
    makes_one: bool,
}

impl<H, M> fmt::Debug for Service<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl<H: Handler<M>, M: Send + 'static> Service<H, M> {
    /// Listens on TCP at `host:port`. `host` is a name (each of its addresses), an IPv4 address, or an IPv6 address in
    /// brackets; `[::]` takes IPv4 too, and port 0 is any free port. `factory` is called once for each loop, on the loop's
    /// thread.
    pub fn tcp(address: &str, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::outbound(factory).and_tcp(address)
    }

    /// Listens on a Unix stream socket. A stale socket file is replaced; a live socket, or any other file, is an error. The
    /// file is removed when the service stops listening.
    pub fn unix(path: impl Into<PathBuf>, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::outbound(factory).and_unix(path)
    }

    /// Listens on each of `addresses`, TCP or Unix. One handler for each loop serves the connections of all of them.
    pub fn at(addresses: Vec<Address>, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::outbound(factory).and_from(Source::Addresses(addresses))
    }

    /// Takes over an open listener, from the standard library or from [`inherited_listeners`].
    pub fn on(listener: Listener, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::on_all(vec![listener], factory)
    }

    /// Takes over several open listeners: one service, reached in several ways.
    pub fn on_all(listeners: Vec<Listener>, factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::outbound(factory).and_on(listeners)
    }

    /// Listens nowhere: for a handler that only connects to servers or watches descriptors, beginning in [`Handler::on_start`].
    pub fn outbound(factory: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self::new(Box::new(move |_| Ok(factory())))
    }

    fn new(factory: Factory<H, M>) -> Self {
        Service {
            sources: Vec::new(),
            name: short_name::<H>().to_owned(),
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            sockets: SocketOptions::default(),
            refusal: Refusal::default(),
            speaks_first: None,
            shares_memory: false,
            urgent_in_line: false,
            layers: None,
            layered: Vec::new(),
            works: Vec::new(),
            factory,
            makes_one: false,
        }
    }

    /// Sets the service's name in logs and reports; by default the name of the handler's type.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the limits on the number of connections and on the bytes that each may hold.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the time limits of the service's connections.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Sets the options of the service's sockets: TCP_NODELAY, keepalive probes, and the kernel's buffers. For listeners that
    /// are taken over ([`Service::on`]), too.
    ///
    /// A value out of range is an [`Error::SocketOption`] when the service is added.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.sockets = options;
        self
    }

    /// Sets the bytes that a connection over [`Limits::connections`] is sent before its end. Empty by default.
    pub fn refusal(mut self, told: impl Into<Bytes>) -> Self {
        self.refusal = Refusal::Always(told.into());
        self
    }

    /// Has `choose` choose the refusal by the first bytes of a connection over [`Limits::connections`], for a service that
    /// speaks several protocols. Replaces [`Service::refusal`].
    ///
    /// `choose` gets all bytes that have arrived, each time further bytes arrive, and must not block. `None`: the bytes do not
    /// decide yet. `Some` of empty bytes: the connection is closed without a word. So is a connection whose bytes have not
    /// decided within `patience`, by 8 KiB, or by the end of its input.
    ///
    /// At most [`Limits::refused_lingering`] refused connections wait or linger at the same time. A further one is refused by the
    /// bytes that have arrived when the loop accepts it, and is closed in the same turn. The loop that accepts calls
    /// `choose`, in every model. A connection with a [`Layer`] is closed without a handshake, as ever.
    ///
    /// ```
    /// use reactor::{Application, Bytes, Context, Handler, Input, Limits, Service};
    /// use std::io::{Read, Write};
    /// use std::net::TcpStream;
    /// use std::time::Duration;
    ///
    /// struct Both;
    ///
    /// impl Handler for Both {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         input.take_all();
    ///     }
    /// }
    ///
    /// let nobody = Limits { connections: Some(0), ..Limits::default() };
    /// let service = Service::tcp("127.0.0.1:0", || Both).limits(nobody).refusal_by(Duration::from_secs(1), |first| {
    ///     match first {
    ///         _ if first.starts_with(b"GET ") => Some(Bytes::from_static(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")),
    ///         _ if b"GET ".starts_with(first) => None,
    ///         _ => Some(Bytes::from_static(b"full\r\n")),
    ///     }
    /// });
    /// let mut app = Application::new()?;
    /// let address = app.add_service(service)?.address().unwrap().to_string();
    /// let handle = app.handle();
    /// let client = std::thread::spawn(move || {
    ///     let mut client = TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    ///     client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    ///     let mut answer = String::new();
    ///     client.read_to_string(&mut answer).unwrap();
    ///     handle.halt();
    ///     answer
    /// });
    /// app.run()?;
    /// assert!(client.join().unwrap().starts_with("HTTP/1.1 503 "));
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn refusal_by(
        mut self,
        patience: Duration,
        choose: impl Fn(&[u8]) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.refusal = Refusal::ByFirstBytes { patience, choose: Arc::new(choose) };
        self
    }

    /// Declares that the client speaks first. The kernel then keeps a connection to itself until the client has sent something,
    /// for up to `patience` (TCP_DEFER_ACCEPT, tcp(7)). The loop reads as soon as it has accepted, which saves a tenth of the
    /// cost of a short connection; the kernel's waiting saves up to 5 %. The price: a silent client stays invisible for that time, and is reset if the service stops
    /// meanwhile. With a patience of zero the kernel delivers every connection at once, and only the early read is left.
    pub fn client_speaks_first(mut self, patience: Duration) -> Self {
        self.speaks_first = Some(patience);
        self
    }

    /// Reads urgent data of TCP at its place in the stream (SO_OOBINLINE, socket(7)), as a protocol like telnet needs. Without
    /// `urgent_in_line` the system takes the last urgent byte out of the stream, and the handler never sees the byte. No effect
    /// on Unix sockets.
    ///
    /// ```
    /// use reactor::{Context, Handler, Input, Service};
    ///
    /// struct Telnet;
    ///
    /// impl Handler for Telnet {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         cx.write(input.take_all());
    ///     }
    /// }
    ///
    /// let service = Service::tcp("127.0.0.1:0", || Telnet).urgent_in_line();
    /// # let _: Service<Telnet> = service;
    /// ```
    pub fn urgent_in_line(mut self) -> Self {
        self.urgent_in_line = true;
        self
    }

    /// Calls `work` with the handler every `period` (at least a millisecond), on each loop, first one period after the loop has
    /// begun. The schedule is kept: when the loop was held up, missed ticks are left out. `work` must not block, and goes on
    /// while the application is stopping. For timers that begin and end: [`Context::timers`].
    ///
    /// ```
    /// use reactor::{Application, Context, Handler, Input, Service};
    /// use std::time::Duration;
    ///
    /// struct Count(u32);
    ///
    /// impl Handler for Count {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         input.take_all();
    ///     }
    /// }
    ///
    /// let counts = Service::outbound(|| Count(0)).every(Duration::from_millis(1), |count, cx| {
    ///     count.0 += 1;
    ///     if count.0 == 3 {
    ///         cx.halt();
    ///     }
    /// });
    /// let mut app = Application::new()?;
    /// app.add_service(counts)?;
    /// app.run()?;
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn every(
        mut self,
        period: Duration,
        work: impl Fn(&mut H, &mut Context<'_, H::Connection, M>) + Send + Sync + 'static,
    ) -> Self {
        let work: Work<H> = Arc::new(move |handler: &mut H, core: &mut Core, service| {
            guarded(core, ConnectionId::NONE, service, |cx| work(handler, cx));
        });
        self.works.push((period, work));
        self
    }

    /// Declares that the service's connections share memory: an object that the factory gives to every handler, such as an
    /// `Arc<Mutex<…>>`, or threads that post back to handlers. Where each connection has a process
    /// ([`Runner::processes`](crate::Runner::processes)) memory cannot be shared, and adding the service is an error. Topics
    /// need no declaration: publications reach members in every model.
    ///
    /// A callback that panics while holding a `Mutex` poisons the mutex: `lock().unwrap()` would panic in every later callback
    /// of every connection, and one fault would end all connections. So share atomics where atomics suffice. Otherwise take the
    /// lock with `lock().unwrap_or_else(PoisonError::into_inner)`, provided that the guarded state is consistent after every
    /// single change, or can be repaired:
    ///
    /// ```
    /// use std::sync::{Mutex, MutexGuard, PoisonError};
    ///
    /// /// The lock of what handlers share, also after one of them has panicked while it held it.
    /// fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    ///     shared.lock().unwrap_or_else(PoisonError::into_inner)
    /// }
    ///
    /// let shared = Mutex::new(0);
    /// let panicked = std::panic::catch_unwind(|| {
    ///     let mut count = locked(&shared);
    ///     *count += 1;
    ///     panic!("in a callback");
    /// });
    /// assert!(panicked.is_err() && shared.is_poisoned());
    /// assert_eq!(*locked(&shared), 1);
    /// ```
    ///
    /// Where a change has several steps, the next callback may find the steps half done: it rebuilds the state and clears the
    /// poison with [`Mutex::clear_poison`](std::sync::Mutex::clear_poison).
    ///
    /// ```
    /// use reactor::{Application, Backend, Context, Handler, Input, Runner, Service};
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
    ///
    /// struct Ticket(Arc<AtomicU64>);
    ///
    /// impl Handler for Ticket {
    ///     type Connection = ();
    ///     fn on_open(&mut self, cx: &mut Context<'_>) {
    ///         cx.write(format!("you are number {}\n", self.0.fetch_add(1, Relaxed)));
    ///     }
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         input.take_all();
    ///     }
    /// }
    ///
    /// let tickets = Arc::<AtomicU64>::default();
    /// let service = Service::tcp("127.0.0.1:0", move || Ticket(tickets.clone())).shares_memory();
    /// let mut app = Application::with(Backend::Auto, Runner::processes())?;
    /// let error = app.add_service(service).unwrap_err();
    /// assert!(error.to_string().starts_with("Ticket: its connections share memory"));
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn shares_memory(mut self) -> Self {
        self.shares_memory = true;
        self
    }

    /// Gives every connection a [`Layer`] between the connection and the wire, such as TLS. The handler hears of a connection
    /// when the layer is ready ([`Deadlines::handshake`]), and all counts and limits are in plaintext from there on. `layer` is
    /// called on the loop's thread when a connection is accepted. A connection over a limit is closed without a handshake, and
    /// without a [`Service::refusal`]. Does not concern listeners added by [`Service::layered_at`] and [`Service::layered_on`].
    pub fn layered(mut self, layer: impl Fn() -> Box<dyn Layer> + Send + Sync + 'static) -> Self {
        self.layers = Some(Arc::new(layer));
        self
    }

    /// Listens at `addresses`, too, with a layer between these listeners' connections and the wire, as [`Service::layered`]
    /// does: one service with and without TLS.
    pub fn layered_at(
        mut self,
        addresses: Vec<Address>,
        layer: impl Fn() -> Box<dyn Layer> + Send + Sync + 'static,
    ) -> Self {
        self.layered.push((Source::Addresses(addresses), Arc::new(layer)));
        self
    }

    /// Takes over open listeners, too, with a layer as [`layered_at`](Self::layered_at) has.
    pub fn layered_on(
        mut self,
        listeners: Vec<Listener>,
        layer: impl Fn() -> Box<dyn Layer> + Send + Sync + 'static,
    ) -> Self {
        self.layered.push((Source::Listeners(listeners), Arc::new(layer)));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the service's connections share memory.
    pub(crate) fn needs_memory(&self) -> bool {
        self.shares_memory
    }

    /// Whether the service has a single handler.
    pub(crate) fn makes_one(&self) -> bool {
        self.makes_one
    }

    /// Binds the addresses with `listen`. Each loop builds its handler from the returned parts.
    pub(crate) fn bind<L: Listens + 'static>(
        self,
        application: Handle,
        listen: impl Fn(&Address, &ListenOptions) -> Result<L, Error>,
    ) -> Result<(Bound, ServiceParts<H, M>), Error> {
        self.sockets.check()?;
        let options = ListenOptions {
            backlog: self.limits.backlog.min(i32::MAX as u32) as i32,
            defer_accept: self.speaks_first.filter(|patience| !patience.is_zero()),
            tuning: self.sockets.tuning(&self.limits),
            urgent_in_line: self.urgent_in_line,
        };
        let mut listeners: Vec<BoundListener> = Vec::new();
        let layered = self.layered.into_iter().map(|(source, layers)| (source, Some(layers)));
        let sources = self.sources.into_iter().map(|source| (source, self.layers.clone()));
        for (source, layers) in sources.chain(layered) {
            let bound = source.bind(&options, &listen)?;
            listeners.extend(bound.into_iter().map(|listener| (Some(listener), layers.clone())));
        }
        let addresses =
            listeners.iter().flat_map(|(listening, _)| listening).map(|one| one.address().clone()).collect();
        let plain = listeners.iter().filter(|(_, layers)| layers.is_none()).count();
        let handle = ServiceHandle::new(application, addresses, plain);
        let name: Arc<str> = self.name.into();
        let terms = Terms {
            name: name.clone(),
            limits: self.limits,
            deadlines: self.deadlines,
            refusal: self.refusal,
            sockets: self.sockets,
            counts: Arc::default(),
            internal: false,
            handle: Arc::new(handle.clone()),
        };
        let bound = Bound { terms, listeners, reads_first: self.speaks_first.is_some() };
        Ok((bound, ServiceParts { factory: self.factory, works: self.works.into(), name, handle }))
    }
}

/// The last word of the type's path, its parameters left out: `Echo` of `my_crate::Echo<T>`.
fn short_name<H>() -> &'static str {
    let path = std::any::type_name::<H>();
    let path = path.split('<').next().unwrap_or(path);
    path.rsplit("::").next().unwrap_or(path)
}
