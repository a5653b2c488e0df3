//! The models: which loop serves an accepted connection. Used by [`Application`](crate::Application); uses the loop and
//! its spawner.

mod loops;
mod processes;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, Inbox, LoopHandle};
use crate::driver::Readiness;
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::handler::Handler;
use crate::host::Host;
use crate::service::{Bound, Service};
use crate::settings::{Orders, Periodic, Settings};
use crate::sys::System;
use crate::sys::affinity::Cores;
use crate::sys::backend::Backend;
use crate::sys::signal::ChildrenAreReaped;
use crate::token::LOOPS_MAX;
use processes::Processes;
use threads::Threads;

/// Default limit on threads: each takes three descriptors, a stack and some 40 KiB, and some thousands of threads only
/// wait for one another.
const THREADS: usize = 4096;

/// The part of the drain time that a per-connection loop leaves to the first loop: enough to abort its connection, to
/// report its counters, and to end. A loop that has not ended by then is stuck in a callback: its process is killed,
/// its thread is left behind.
fn drain_margin(drain_time: Duration) -> Duration {
    (drain_time / 8).min(Duration::from_millis(250))
}

/// Default limit on processes: each costs the memory that its handler writes, at least some hundred KiB, and one of the
/// system's process numbers (often 32,768).
const PROCESSES: usize = 1024;

/// The model by which connections are served: one of several event loops, a thread for each connection, or a process
/// for each. A [`Handler`] has the same methods under each model.
///
/// | | a connection is served by | handlers | a callback that blocks holds up |
/// |---|---|---|---|
/// | [`Runner::loops`] | one of *n* event loops, each on a thread | one for each loop | the connections of its loop |
/// | [`Runner::threads`] | a thread of its own | one for each connection | itself |
/// | [`Runner::processes`] | a process of its own | one for each connection | itself |
///
/// With `threads` and `processes`, one further handler runs where connections are accepted, and serves no accepted
/// connection. It receives messages posted to [`ConnectionId::NONE`](crate::ConnectionId::NONE), and serves connections
/// that it opens in [`Handler::on_start`].
///
/// [Topics](crate::Topic) reach all connections under each model. Shared memory does not reach other processes: a
/// service that needs shared memory declares so ([`Service::shares_memory`](crate::Service::shares_memory)).
///
/// ```
/// use reactor::Runner;
/// assert_eq!(Runner::default(), Runner::loops(1)?);
/// assert!(Runner::loops(0).is_err());
/// # Ok::<(), reactor::Error>(())
/// ```
///
/// [`Handler`]: crate::Handler
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner(Model);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    Loops { count: usize, pinned: bool },
    Threads { most: usize },
    Processes { most: usize },
}

impl Runner {
    /// `count` event loops, 1 to 256, each on a thread; the first runs on the thread that calls
    /// [`Application::run`](crate::Application::run). Each loop has its own handlers, and a connection stays with its
    /// loop. Loops share only what a handler's factory shares. The first loop accepts for all, and hands each
    /// connection to the loop with the fewest.
    ///
    /// # Errors
    /// [`Error::Runner`] for any other number.
    pub fn loops(count: usize) -> Result<Self, Error> {
        if (1..=LOOPS_MAX as usize).contains(&count) {
            return Ok(Runner(Model::Loops { count, pinned: false }));
        }
        Err(Error::Runner { why: format!("{count} loops: it is 1 to {LOOPS_MAX}") })
    }

    /// Pins each loop to one of the cores that the thread calling [`Application::run`](crate::Application::run) may
    /// use: the first loop to the first core, and so on; further loops start again with the first core. Without pinning
    /// the system moves the loops, which is nearly always better: if other programs run on the machine, and whenever
    /// some loops are idle. Has no effect on threads and processes.
    ///
    /// A thread that a handler starts stays on the core of its loop, and takes turns with the loop, until it calls
    /// [`Handle::leave_core`](crate::Handle::leave_core). The thread that calls `run` gets its cores back afterwards.
    ///
    /// Needs Linux: on other systems `run` returns [`Error::Runner`].
    ///
    /// ```
    /// use reactor::{Application, Backend, Runner};
    /// use std::time::Duration;
    ///
    /// let mut app = Application::with(Backend::Auto, Runner::loops(2)?.pinned())?;
    /// app.add_loop(Duration::from_millis(1), |cx| cx.halt());
    /// # #[cfg(target_os = "linux")]
    /// app.run()?;
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn pinned(self) -> Self {
        match self.0 {
            Model::Loops { count, .. } => Runner(Model::Loops { count, pinned: true }),
            Model::Threads { .. } | Model::Processes { .. } => self,
        }
    }

    /// A thread for each connection, at most 4,096 at one time ([`Runner::at_most`]); further connections wait in the
    /// backlog. The thread runs a loop with this connection, so a handler has all methods: deadlines, topics, messages,
    /// outbound connections. The factory makes a handler for each connection, on its thread
    /// ([`Context::serves_alone`](crate::Context::serves_alone)). When the connection has ended, connections that its
    /// handler has opened are asked to stop, and the thread ends.
    ///
    /// A thread that is still in a callback at the end of a stop's drain time is left behind: `run` returns, and the
    /// thread goes on until it returns from the callback, or until the process ends.
    ///
    /// Use this model for handlers that compute or block. For many connections that mostly wait it costs more: a stack
    /// and two descriptors for each connection, and a thread switch and a system call for each request.
    ///
    /// ```
    /// use reactor::{Application, Backend, Context, Handler, Input, Runner, Service};
    ///
    /// struct Sum;
    ///
    /// impl Handler for Sum {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         // May take long: no other connection waits for this thread.
    ///         cx.write(input.take_all().iter().map(|&byte| u64::from(byte)).sum::<u64>().to_string());
    ///     }
    /// }
    ///
    /// let mut app = Application::with(Backend::Auto, Runner::threads().at_most(100))?;
    /// app.add_service(Service::tcp("127.0.0.1:0", || Sum))?;
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn threads() -> Self {
        Runner(Model::Threads { most: THREADS })
    }

    /// A process for each connection, at most 1,024 at one time ([`Runner::at_most`]); further connections wait in the
    /// backlog. Each process is made by fork(2). It runs a loop with this connection, and with a handler that the
    /// factory makes in the process, and ends with the connection. This process reaps it. A crash costs a single
    /// connection, and is logged.
    ///
    /// - The process that calls [`Application::run`](crate::Application::run) **must have a single thread**, then and
    ///   whenever a client connects: a lock of another thread would stay locked in the child for ever. Otherwise `run`
    ///   returns an error, and later connections are refused, with the reason in the log.
    /// - Publications reach members in all processes, by way of this process; a message of more than 16 MiB does not.
    ///   [`ServiceHandle::post`](crate::ServiceHandle::post) reaches only connections of the calling process.
    /// - [`Context::halt`](crate::Context::halt) halts the whole application. Only this process handles signals, and
    ///   tells the others; a second stop signal kills the others. If this process dies in any other way, the others
    ///   stop in good order.
    /// - A process closes all descriptors of this process's loop: listeners, watched descriptors and all other
    ///   connections. Descriptors that the program has opened itself stay open; the factory, which runs in each
    ///   process, can close them.
    /// - [`Handle::stats`](crate::Handle::stats) includes the counters of a process when the process has ended.
    ///
    /// ```
    /// use reactor::Runner;
    /// assert_ne!(Runner::processes(), Runner::processes().at_most(100));
    /// ```
    pub fn processes() -> Self {
        Runner(Model::Processes { most: PROCESSES })
    }

    /// Limits the number of threads or processes at one time to `count`, at least one. Has no effect on loops.
    pub fn at_most(self, count: usize) -> Self {
        match self.0 {
            Model::Loops { .. } => self,
            Model::Threads { .. } => Runner(Model::Threads { most: count.max(1) }),
            Model::Processes { .. } => Runner(Model::Processes { most: count.max(1) }),
        }
    }

    /// Whether connections have a process each.
    pub(crate) fn is_processes(self) -> bool {
        matches!(self.0, Model::Processes { .. })
    }

    /// Number of loops that run as long as the application.
    pub(crate) fn fixed(self) -> usize {
        match self.0 {
            Model::Loops { count, .. } => count,
            Model::Threads { .. } | Model::Processes { .. } => 1,
        }
    }

    /// Descriptors for each connection, including its loop's.
    pub(crate) fn descriptors_each(self) -> usize {
        match self.0 {
            Model::Loops { .. } => 1,
            Model::Threads { .. } => threads::DESCRIPTORS_EACH,
            Model::Processes { .. } => processes::DESCRIPTORS_EACH,
        }
    }

    /// Largest number of per-connection loops.
    pub(crate) fn per_connection(self) -> usize {
        match self.0 {
            Model::Loops { .. } => usize::MAX,
            Model::Threads { most } | Model::Processes { most } => most,
        }
    }

    /// Whether the service can run under this model.
    pub(crate) fn admits<H: Handler<M>, M: Send + 'static>(self, service: &Service<H, M>) -> Result<(), Error> {
        if matches!(self.0, Model::Processes { .. }) && service.needs_memory() {
            let name = service.name();
            return Err(Error::Runner {
                why: format!(
                    "{name}: its connections share memory, which is impossible with a process for each connection"
                ),
            });
        }
        if !matches!(self.0, Model::Loops { count: 1, .. }) && service.makes_one() {
            let name = service.name();
            return Err(Error::Runner {
                why: format!("{name}: its handler is made once, which is enough for one loop and for no other model"),
            });
        }
        Ok(())
    }
}

impl Default for Runner {
    /// One loop.
    fn default() -> Self {
        Runner(Model::Loops { count: 1, pinned: false })
    }
}

/// Makes a service's handler for a fixed loop, on the loop's thread. The argument is the service's number on the loop.
pub(crate) type Build = Box<dyn FnOnce(u16) -> Result<Box<dyn Host>, Error> + Send>;
/// Makes a service's handler for each per-connection loop.
pub(crate) type BuildForGuest = Arc<dyn Fn(&Arc<LoopHandle>) -> Result<Box<dyn Host>, Error> + Send + Sync>;

/// A bound service, with the functions that make its handlers.
pub(crate) struct Prepared {
    pub(crate) bound: Bound,
    /// One for each fixed loop.
    pub(crate) builds: Vec<Build>,
    pub(crate) for_per_connection_loop: BuildForGuest,
}

/// The type of all loops here.
type Running = EventLoop<Readiness<System>>;
/// Prepares the first loop, as the last step before it runs.
type Prepare = Box<dyn FnOnce(&mut Running)>;

/// The parts that every loop of an application is made with.
#[derive(Clone)]
struct Common {
    backend: Backend,
    cluster: Arc<Cluster>,
    settings: Settings,
}

/// The index of a listener on a loop that runs only this service.
fn own_listener(services: &[(Bound, BuildForGuest)], service: u16, listener: usize) -> usize {
    listener - services[..service as usize].iter().map(|(bound, _)| bound.listeners.len()).sum::<usize>()
}

/// Serves until the application is stopped and all connections have ended. Returns the first error of any loop.
pub(crate) fn run(
    runner: Runner,
    common: (Backend, Arc<Cluster>, Settings),
    systems: Vec<(System, Inbox)>,
    services: Vec<Prepared>,
    periodic: Vec<Periodic>,
    orders: Orders,
) -> Result<(), Error> {
    let (backend, cluster, settings) = common;
    let mut common_per_connection = Common { backend, cluster: cluster.clone(), settings: settings.clone() };
    let for_per_connection =
        || services.iter().map(|one| (one.bound.for_another_loop(), one.for_per_connection_loop.clone())).collect();
    let prepare: Prepare = match runner.0 {
        Model::Loops { .. } => Box::new(|_| {}),
        Model::Threads { .. } => {
            common_per_connection.settings.drain_margin = settings.drain_timeout.map_or(Duration::ZERO, drain_margin);
            let threads = Threads::new(common_per_connection, for_per_connection());
            Box::new(|event_loop| event_loop.set_spawner(Box::new(threads)))
        }
        Model::Processes { .. } => {
            processes::alone()?;
            common_per_connection.settings.drain_margin = settings.drain_timeout.map_or(Duration::ZERO, drain_margin);
            let (services, on_reopen, deaf) =
                (for_per_connection(), orders.on_reopen.clone(), orders.signals.is_some());
            Box::new(move |event_loop| Processes::install(event_loop, common_per_connection, services, on_reopen, deaf))
        }
    };
    if let Model::Loops { pinned: true, .. } = runner.0 {
        cluster.set_cores(Cores::of_this_thread()?);
    }
    // A process that was started with SIGCHLD ignored would not learn how its children end.
    let _reaps = matches!(runner.0, Model::Processes { .. }).then(ChildrenAreReaped::by_this_process);
    let drain_timeout = settings.drain_timeout;
    let common = Common { backend, cluster, settings };
    let outcome = loops::run(&common, systems, services, periodic, orders, prepare);
    // After an error of the first loop, the other threads still serve. Otherwise remaining threads have had their drain
    // time.
    let patience = if outcome.is_ok() { Some(Duration::ZERO) } else { drain_timeout };
    let stuck = common.cluster.wait_for_per_connection(patience);
    if stuck > 0 {
        let (threads, are) = if stuck == 1 { ("thread", "is") } else { ("threads", "are") };
        log::error!(
            "{stuck} {threads} {are} stuck in a callback beyond the drain time: the stop does not wait for them"
        );
    }
    if common.cluster.fixed().len() > 1 {
        log::info!("counters of all loops: {}", common.cluster.stats());
    }
    outcome
}
