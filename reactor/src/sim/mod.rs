//! A service under simulation: the same driver, event loop and handler as ever, over a network and a clock that are
//! made up from a seed. What may happen on a bad day happens all the time, time costs nothing, and a run that fails
//! is the same when it is run again.
//!
//! Needs the feature `sim`. What is checked, at every call, and of all connections whenever the loop waits:
//!
//! - Bytes: a handler is lent exactly what its peer has sent, in order, and a peer gets exactly what was written to it and
//!   published to it; what came before an end or a reset is heard before it; counters agree with what was moved.
//! - Lives: each connection opens once, ends once with its reason, and hears nothing after that, nor while it is paused; it
//!   receives once a turn; no descriptor is used after it was closed, closed before the poller has forgotten it, or given
//!   away in the turn in which it was another's.
//! - Interest: the poller knows of every connection exactly what that waits for; who is owed bytes is sent them, who is open
//!   is read, who has drained is told, what was kept in a pause is offered after it.
//! - Limits: input that is kept, and messages that wait for a slow member, are within what their service says. What all
//!   connections hold is counted right, and within the memory budget.
//! - Progress: the loop neither waits for ever nor turns for nothing, no deadline comes early, nobody waits in a backlog
//!   while there is room, a stop ends within its drain time.
//! - In the end no descriptor, timer or state is left.
//!
//! What is wrong is a panic that names the seed. There is one loop: what several of them hand each other, and wake-ups by
//! other threads, are a matter of real threads, and no seed decides those.
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
mod witness;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::address::Address;
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

/// Services, peers, and a seed that decides all else.
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
    /// Bytes that all connections may hold, and whether the loop knows: a test has it not know.
    memory: usize,
    is_memory_bounded: bool,
}

type Build = Box<dyn FnOnce(u16) -> Box<dyn Host>>;

/// What a simulation has come to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed that brings it about again.
    pub seed: u64,
    /// How long it took for those in it.
    pub elapsed: Duration,
    /// Times the loop waited, and calls it made.
    pub waits: u64,
    /// Calls that the driver made.
    pub calls: u64,
    /// How each connection of a handler ended.
    pub closed: Vec<(ConnectionId, CloseReason)>,
    /// Of everything that happened and when: equal for two runs that are the same.
    pub fingerprint: u64,
}

impl Simulation {
    /// With [`Faults::of`] this seed.
    ///
    /// # Panics
    /// When the process has no descriptor left: wake-ups between threads are the one thing that is real.
    pub fn new(seed: u64) -> Self {
        Self::with_faults(seed, Faults::of(seed))
    }

    /// With these faults and no others.
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
            memory: usize::MAX,
            is_memory_bounded: true,
        }
    }

    /// Binds the service's addresses in the simulated network, where every address is free at first. No name is
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

    /// As [`Application::add_loop`](crate::Application::add_loop).
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

    /// As [`Application::memory`](crate::Application::memory); no bound by default.
    pub fn memory(&mut self, bytes: usize) -> &mut Self {
        self.memory = bytes;
        self
    }

    /// As [`Application::drain_timeout`](crate::Application::drain_timeout).
    pub fn drain_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.drain_timeout = timeout;
        self
    }

    /// A peer connects, soon after the loop begins, and does as the script says.
    pub fn connect(&mut self, to: &Address, script: Script) -> Peer {
        self.connect_after(Duration::ZERO, to, script)
    }

    /// A peer connects after this time.
    pub fn connect_after(&mut self, time: Duration, to: &Address, script: Script) -> Peer {
        let mut network = self.network.borrow_mut();
        let line = network.new_line(Stage::Away, to.clone(), script.acts);
        let span = network.latency() + time.as_nanos() as u64;
        network.after(span, Happening::Connect(line));
        Peer { network: self.network.clone(), line }
    }

    /// Who answers when a handler connects to this address: each time, what `answer` returns, and nobody for `None`,
    /// until the deadline passes. Where nobody was said to answer, connections are refused.
    pub fn remote(&mut self, address: Address, mut answer: impl FnMut() -> Option<Script> + 'static) {
        let answer = move || answer().map_or(Remote::Silent, |script| Remote::Answers(script.acts));
        self.network.borrow_mut().remotes.insert(address, Box::new(answer));
    }

    /// Tells the application to stop after this time. Otherwise that happens when no peer has anything left to do.
    pub fn halt_after(&mut self, time: Duration) {
        self.network.borrow_mut().after(time.as_nanos() as u64, Happening::Halt);
    }

    /// Runs until the application has stopped.
    ///
    /// # Panics
    /// When anything was not as it has to be, with the seed and the last calls.
    pub fn run(self) -> Report {
        let simulated = self.simulated();
        self.run_on(simulated, |driver| driver)
    }

    fn simulated(&self) -> Simulated {
        Simulated::new(self.network.clone(), self.waker.clone())
    }

    /// The same on a system, and with a driver, that need not be sound.
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
            let host = Witness::new(build(number as u16), self.network.clone(), self.books.clone());
            event_loop.add_service(bound, Box::new(host));
        }
        for periodic in self.loops {
            event_loop.add_periodic(periodic);
        }
        if let Err(error) = event_loop.run() {
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
        }
    }
}

/// Says which seed it was, whoever panics.
struct Announced(u64);

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation of seed {} has failed", self.0);
        }
    }
}

/// One who has connected, or will.
pub struct Peer {
    network: Shared,
    line: usize,
}

impl Peer {
    /// What it has read.
    pub fn received(&self) -> Vec<u8> {
        let network = self.network.borrow();
        let line = &network.lines[self.line];
        line.taken[..line.delivered].to_vec()
    }

    /// Whether it was refused: nobody listened there.
    pub fn was_refused(&self) -> bool {
        self.network.borrow().lines[self.line].stage == Stage::Refused
    }

    /// Whether it saw the end of what the service had to say, in order.
    pub fn saw_end(&self) -> bool {
        self.network.borrow().lines[self.line].heard_end
    }

    /// Whether the connection was reset, by either side.
    pub fn was_reset(&self) -> bool {
        self.network.borrow().lines[self.line].cut
    }
}
