//! A service under simulation: the real driver, event loop and handler, over a simulated network and clock that follow
//! a seed. Rare faults happen all the time, time costs nothing, and a failed run is repeated by its seed.
//!
//! Needs the feature `sim`. The checks run at every call, and over all connections whenever the loop waits:
//!
//! - Bytes: a handler is lent exactly the bytes of its peer, in order. A peer gets exactly the bytes written and
//!   published to it. Bytes before an end or a reset are delivered first. The counters equal the moved bytes.
//! - Lives: each connection opens once, ends once with its reason, and has no callback afterwards, nor a delivery while
//!   it is paused. It receives once a turn. No descriptor is used after its close, closed before the poller has
//!   forgotten it, or reused in the turn of its close.
//! - Interest: the poller knows exactly the interest of every connection. Queued bytes are sent, open connections are
//!   read, drained outputs are reported, and bytes kept in a pause are offered after the pause.
//! - Limits: kept input, and messages that wait for a slow member, stay within the service's limits. The memory of all
//!   connections is counted correctly, and stays within the memory budget.
//! - Progress: the loop neither waits for ever nor spins, no deadline comes early, no connection waits in a backlog
//!   while there is room, every connection is told of a stop, and a stop ends within its drain time.
//! - End: no descriptor, timer or state is left.
//!
//! A failed check is a panic that names the seed. The simulation has one loop: transfers between loops, and wake-ups by
//! other threads, depend on real threads, which no seed controls.
//!
//! ```
//! use reactor::sim::{Script, Simulation};
//! use reactor::{Context, Handler, Input, Service};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Connection = ();
//!     fn on_open(&mut self, _: &mut Context<'_>) {}
//!     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
//!         while let Some(line) = input.until_eol() {
//!             cx.write(line);
//!         }
//!     }
//! }
//!
//! for seed in 0..100 {
//!     let mut sim = Simulation::new(seed);
//!     let echo = sim.add_service(Service::tcp("127.0.0.1:0", || Echo))?;
//!     let script = Script::new().send("one\ntw").send("o\n").expect("one\ntwo\n").shutdown().expect_end();
//!     let peer = sim.connect(echo.address().unwrap(), script);
//!     sim.run();
//!     assert_eq!(peer.received(), b"one\ntwo\n");
//! }
//! # Ok::<(), reactor::Error>(())
//! ```

mod checked;
mod exercise;
mod ledger;
#[cfg(test)]
mod planted;
mod script;
#[cfg(test)]
mod tests;
mod veil;
mod witness;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::address::{Address, AddressError};
use crate::budget::Budget;
use crate::cluster::Cluster;
use crate::context::{Context, NoHandler};
use crate::driver::{Driver, Readiness};
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::handle::{Handle, ServiceHandle};
use crate::handler::Handler;
use crate::host::Host;
use crate::reason::CloseReason;
use crate::service::{Bound, Service};
use crate::settings::{Periodic, Settings};
use crate::sys::Sys;
use crate::sys::simulated::{Happening, Network, Remote, Shared, Simulated, SimulatedListener, Stage};
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::ConnectionId;
use checked::Checked;
use ledger::Books;
use witness::Witness;

pub use crate::sys::simulated::Faults;
pub use exercise::exercise;
pub use script::Script;

/// Services and peers in a simulated network, and a seed that decides all orders, times and faults.
///
/// ```
/// use reactor::sim::{Faults, Script, Simulation};
/// use reactor::{Context, Handler, Input, Service};
/// use std::time::Duration;
///
/// struct Silent;
///
/// impl Handler for Silent {
///     type Connection = ();
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
///         input.take_all();
///     }
/// }
///
/// let mut sim = Simulation::with_faults(7, Faults::none());
/// let silent = sim.add_service(Service::tcp("127.0.0.1:0", || Silent))?;
/// let peer = sim.connect_after(Duration::from_secs(60), silent.address().unwrap(), Script::new().send("hello"));
/// sim.run();
/// assert!(peer.received().is_empty() && !peer.was_refused());
/// # Ok::<(), reactor::Error>(())
/// ```
pub struct Simulation {
    network: Shared,
    books: Books,
    waker: Waker,
    handle: Handle,
    services: Vec<(Bound, Build)>,
    loops: Vec<Periodic>,
    drain_timeout: Duration,
    descriptors: usize,
    connections: Option<usize>,
    names: HashMap<String, Vec<Address>>,
    /// `memory`: bytes that all connections may hold. `is_memory_bounded`: whether the loop knows the bound; a test
    /// hides it.
    memory: usize,
    is_memory_bounded: bool,
}

type Build = Box<dyn FnOnce(u16) -> Result<Box<dyn Host>, Error>>;

/// The result of a simulation: counts, reasons of closes, and the seed that repeats the run.
///
/// ```
/// use reactor::sim::Simulation;
/// use std::time::Duration;
///
/// let mut sim = Simulation::new(7);
/// sim.halt_after(Duration::from_secs(3600));
/// let report = sim.run(); // an hour of simulated time, within milliseconds
/// assert!(report.elapsed >= Duration::from_secs(3600));
/// assert_eq!((report.seed, report.closed.len()), (7, 0));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed of the run: [`Simulation::new`] with this seed repeats every event.
    pub seed: u64,
    /// Simulated time from the start of the loop until its end.
    pub elapsed: Duration,
    /// Number of times that the loop has waited in its poller.
    pub waits: u64,
    /// Number of simulated system calls that the driver has made.
    pub calls: u64,
    /// The end of each connection that a handler had.
    pub closed: Vec<(ConnectionId, CloseReason)>,
    /// A hash of all events and their times: equal for two equal runs.
    pub fingerprint: u64,
    /// The latest calls and callbacks in words, one in each line: `0.250000 s  0.8.6 on_data 21 bytes`. The last 60, or as many as the
    /// environment variable `REACTOR_SIM_HISTORY` says. A failure prints them, too.
    pub trace: Vec<String>,
}

impl Simulation {
    /// Makes a simulation with [`Faults::of`] the seed.
    ///
    /// # Panics
    /// If the process has no free descriptor: wake-ups between threads are real.
    pub fn new(seed: u64) -> Self {
        Self::with_faults(seed, Faults::of(seed))
    }

    /// Makes a simulation with exactly these faults.
    ///
    /// # Panics
    /// As [`Simulation::new`].
    pub fn with_faults(seed: u64, faults: Faults) -> Self {
        let waker = Waker::new().expect("a descriptor for wake-ups");
        let handle = Handle(Arc::new(Cluster::new([waker.clone()])));
        let network = Network::new(seed, faults);
        Simulation {
            network: Shared::new(network.into()),
            books: Books::default(),
            waker,
            handle,
            services: Vec::new(),
            loops: Vec::new(),
            drain_timeout: Duration::from_secs(10),
            descriptors: usize::MAX,
            connections: None,
            names: HashMap::new(),
            memory: usize::MAX,
            is_memory_bounded: true,
        }
    }

    /// Binds the service's addresses in the simulated network, where every address is free at first. Names are not
    /// looked up.
    ///
    /// # Errors
    /// As [`Application::add_service`](crate::Application::add_service).
    pub fn add_service<H, M>(&mut self, service: Service<H, M>) -> Result<ServiceHandle<M>, Error>
    where
        H: Handler<M>,
        M: Send + 'static,
    {
        let network = &self.network;
        let (bound, parts) =
            service.bind(self.handle.clone(), |address, options| SimulatedListener::bind(network, address, options))?;
        let (handle, mailbox) = (parts.handle.clone(), parts.handle.receivers().next().expect("there is one loop"));
        self.services.push((bound, Box::new(move |number| parts.host(number, mailbox))));
        Ok(handle)
    }

    /// Calls `work` every `period` of simulated time, as [`Application::add_loop`](crate::Application::add_loop) does; 1 ms at least.
    pub fn add_loop(
        &mut self,
        period: Duration,
        work: impl FnMut(&mut Context<'_, NoHandler, NoHandler>) + Send + 'static,
    ) {
        self.loops.push(Periodic {
            period: period.max(Duration::from_millis(1)),
            work: Box::new(work),
            at: Time::NEVER,
        });
    }

    /// As [`Application::memory`](crate::Application::memory); unbounded by default.
    pub fn memory(&mut self, bytes: usize) -> &mut Self {
        self.memory = bytes;
        self
    }

    /// Longest simulated time of a stop, as [`Application::drain_timeout`](crate::Application::drain_timeout).
    pub fn drain_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.drain_timeout = timeout;
        self
    }

    /// Connects a peer soon after the start of the loop, with this script.
    pub fn connect(&mut self, to: &Address, script: Script) -> Peer {
        self.connect_after(Duration::ZERO, to, script)
    }

    /// Connects a peer with this script after `time`, counted from the start of the loop.
    pub fn connect_after(&mut self, time: Duration, to: &Address, script: Script) -> Peer {
        let mut network = self.network.borrow_mut();
        let line = network.new_line(Stage::Away, to.clone(), script.acts);
        let span = network.latency() + time.as_nanos() as u64;
        network.after(span, Happening::Connect(line));
        Peer { network: self.network.clone(), line }
    }

    /// Sets the peer that answers when a handler connects to `address`: each time, `answer` returns its script, or
    /// `None` for a silent address, where the deadline passes. At all other addresses connections are refused.
    pub fn remote(&mut self, address: Address, mut answer: impl FnMut() -> Option<Script> + 'static) {
        let answer = move || answer().map_or(Remote::Silent, |script| Remote::Answers(script.acts));
        self.network.borrow_mut().remotes.insert(address, Box::new(answer));
    }

    /// Sets the addresses of a name, for handlers that connect by name
    /// ([`Context::connect_to`](crate::Context::connect_to)). A look-up takes no time, and all other names are unknown.
    pub fn name(&mut self, name: &str, addresses: Vec<Address>) {
        self.names.insert(name.to_owned(), addresses);
    }

    /// Stops the application after `time`. By default the stop comes when no peer has anything left to do.
    pub fn halt_after(&mut self, time: Duration) {
        self.network.borrow_mut().after(time.as_nanos() as u64, Happening::Halt);
    }

    /// Runs until the application has stopped.
    ///
    /// # Panics
    /// If any check fails, with the seed and the last calls.
    pub fn run(self) -> Report {
        let simulated = self.simulated();
        self.run_on(simulated, |driver| driver)
    }

    fn simulated(&self) -> Simulated {
        Simulated::new(self.network.clone(), self.waker.clone())
    }

    /// Runs with a system and a driver that may be faulty.
    fn run_on<S: Sys, D: Driver>(self, system: S, dress: impl FnOnce(Readiness<S>) -> D) -> Report {
        let _announced = Announced(self.network.borrow().seed);
        let began = self.network.borrow().now();
        let handle = self.handle.clone();
        {
            let mut network = self.network.borrow_mut();
            network.halt = Box::new(move || handle.halt());
            network.drain = Some(self.drain_timeout);
            network.cap = self.descriptors;
        }
        let names = self.names;
        self.handle.0.look_ups.answer_by(Box::new(move |name| {
            let unknown = || AddressError { address: name.to_owned(), cause: io::ErrorKind::NotFound.into() };
            Some(names.get(name).cloned().ok_or_else(unknown))
        }));
        let loop_handle = self.handle.0.fixed()[0].clone();
        let inbox = self.handle.0.inbox(&loop_handle);
        let budget = Arc::new(Budget::new(if self.is_memory_bounded { self.memory } else { usize::MAX }, None));
        let settings = Settings {
            drain_timeout: Some(self.drain_timeout),
            drain_margin: Duration::ZERO,
            connections: self.connections,
            descriptors: self.descriptors,
            per_connection: usize::MAX,
            slow_callback: Duration::from_secs(1),
            on_report: Arc::new(Mutex::new(|_: &str| {})),
            budget: budget.clone(),
        };
        let driver = Readiness::new(system, 0, loop_handle.counters.clone());
        let driver = Checked::new(dress(driver), self.network.clone(), self.books.clone())
            .with_limits(self.services.iter().map(|(bound, _)| bound.terms.limits.clone()).collect())
            .with_budget(budget, self.memory);
        let mut event_loop = EventLoop::new(driver, self.handle.0, loop_handle, inbox, settings);
        for (number, (bound, build)) in self.services.into_iter().enumerate() {
            let host = build(number as u16).unwrap_or_else(|error| self.network.borrow().violation(&error.to_string()));
            let host = Witness::new(host, self.network.clone(), self.books.clone());
            event_loop.add_service(bound, Box::new(host));
        }
        for periodic in self.loops {
            event_loop.add_periodic(periodic);
        }
        if let Err(error) = event_loop.run(None) {
            self.network.borrow().violation(&error.to_string());
        }
        let elapsed = Duration::from_nanos(self.network.borrow().now() - began);
        self.network.borrow_mut().finish();
        let network = self.network.borrow();
        let books = self.books.borrow();
        if network.count_open() > 0 {
            network.violation(&format!("{} descriptors are left", network.count_open()));
        }
        if books.opened != books.closed {
            network.violation(&format!("{} states came into being and {} were given back", books.opened, books.closed));
        }
        Report {
            seed: network.seed,
            elapsed,
            waits: network.waits,
            calls: network.calls,
            closed: books.entries.iter().filter_map(|(id, entry)| Some((*id, entry.closed?))).collect(),
            fingerprint: network.fingerprint,
            trace: network.trace(),
        }
    }
}

/// Prints the seed at any panic.
struct Announced(u64);

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation of seed {} has failed", self.0);
        }
    }
}

/// A handle of a simulated peer: what the peer has read, and how its connection ended. Read after [`Simulation::run`].
///
/// ```
/// use reactor::sim::{Script, Simulation};
///
/// let mut sim = Simulation::new(7);
/// let peer = sim.connect(&"127.0.0.1:9".parse().unwrap(), Script::new());
/// sim.run();
/// assert!(peer.was_refused());
/// ```
pub struct Peer {
    network: Shared,
    line: usize,
}

impl Peer {
    /// All bytes that the peer has read until now, the oldest first.
    pub fn received(&self) -> Vec<u8> {
        let network = self.network.borrow();
        let line = &network.lines[self.line];
        line.taken[..line.delivered].to_vec()
    }

    /// Whether the connection was refused, because the address had no listener.
    pub fn was_refused(&self) -> bool {
        self.network.borrow().lines[self.line].stage == Stage::Refused
    }

    /// Whether the peer saw the orderly end of the service's output.
    pub fn saw_end(&self) -> bool {
        self.network.borrow().lines[self.line].heard_end
    }

    /// Whether the connection was reset, by either side.
    pub fn was_reset(&self) -> bool {
        self.network.borrow().lines[self.line].cut
    }
}
