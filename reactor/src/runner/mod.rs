//! Who serves an accepted connection. Below: the loop and its spawner. Above: [`Application`](crate::Application).

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

/// Threads at one time, unless said otherwise: each takes three descriptors, a stack and some 40 KiB, and beyond some
/// thousands they only wait for one another.
const THREADS: usize = 4096;

/// How much of the drain time a loop with one connection leaves to the first loop: enough to abort its connection, to say what
/// it has counted, and to end. A loop that has not ended by then is stuck in a callback: its process is killed, its thread is
/// left behind.
fn drain_margin(drain_time: Duration) -> Duration {
    (drain_time / 8).min(Duration::from_millis(250))
}

/// Processes at one time, unless said otherwise: each costs what its handler makes of its memory anew, some hundred KiB
/// at least, and one of the numbers that a system has for processes (often 32,768).
const PROCESSES: usize = 1024;

/// Who serves a connection that was accepted: one of some event loops, a thread of its own, or a process of its own. A
/// [`Handler`] is the same under each of them.
///
/// | | a connection is served by | handlers | a callback that blocks holds up |
/// |---|---|---|---|
/// | [`Runner::loops`] | one of *n* event loops, each on a thread | one for each loop | the connections of its loop |
/// | [`Runner::threads`] | a thread of its own | one for each connection | itself |
/// | [`Runner::processes`] | a process of its own | one for each connection | itself |
///
/// With `threads` and `processes` there is one handler more where connections are accepted, which has none: it gets what is
/// posted to [`ConnectionId::NONE`](crate::ConnectionId::NONE), and what it connects to in
/// [`Handler::on_start`](crate::Handler::on_start) is served there.
///
/// What connections tell one another by [topics](crate::Topic), each model carries. What they share in memory it does not
/// where they are processes: a service that needs it says so ([`Service::shares_memory`](crate::Service::shares_memory)).
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
    /// So many event loops, 1 to 256, each on a thread, the first on the one that calls
    /// [`Application::run`](crate::Application::run). They share nothing but what a handler's factory gives them: each has
    /// its own handlers, and a connection stays with its loop. The first accepts for all, and hands each newcomer to the
    /// loop that has the fewest.
    ///
    /// # Errors
    /// [`Error::Runner`] for another number.
    pub fn loops(count: usize) -> Result<Self, Error> {
        if (1..=LOOPS_MAX as usize).contains(&count) {
            return Ok(Runner(Model::Loops { count, pinned: false }));
        }
        Err(Error::Runner { why: format!("{count} loops: it is 1 to {LOOPS_MAX}") })
    }

    /// Keeps each loop to one core, of those that the thread which calls [`Application::run`](crate::Application::run) may
    /// use: the first loop to the first core, and so on in turn, from the first core again where there are more loops.
    /// Otherwise the system moves them as it sees fit, which is better nearly always: where other programs run beside, and
    /// whenever the loops are not all busy. Changes nothing where there are threads or processes.
    ///
    /// A thread that a handler starts is kept to the core of its loop, and takes turns with it, until it calls
    /// [`Handle::leave_core`](crate::Handle::leave_core). The one that calls `run` has all of its cores back afterwards.
    ///
    /// Needs Linux: elsewhere `run` is an [`Error::Runner`].
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

    /// A thread for each connection, at most 4,096 at one time ([`Runner::at_most`]); further newcomers wait in the
    /// backlog. It runs a loop with this one connection, so a handler has there all that it has elsewhere: deadlines,
    /// topics, messages, connections of its own. The factory makes a handler for each connection, on its thread
    /// ([`Context::serves_alone`](crate::Context::serves_alone)). When the connection has ended, what its handler has opened
    /// beside it is asked to stop, and the thread ends.
    ///
    /// A thread that is still in a callback when the drain time of a stop is over is left behind: `run` returns without it, and the
    /// thread goes on until it returns from the callback, or the process ends.
    ///
    /// For handlers that compute or block. For many connections that mostly wait it is the dearer model: each costs a
    /// stack and two descriptors more, and a request a switch of threads and a system call more.
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
    ///         // May take its time: nobody else waits for this thread.
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

    /// A process for each connection, at most 1,024 at one time ([`Runner::at_most`]); further newcomers wait in the
    /// backlog. It is made by fork(2), runs a loop with this one connection and with a handler that the factory makes in
    /// it, and ends with the connection; this one reaps it. A crash costs that connection and is logged.
    ///
    /// - The process that calls [`Application::run`](crate::Application::run) **must have a single thread**, then and
    ///   whenever somebody connects: what another one had locked would stay locked in the copy for ever. Otherwise `run` is
    ///   an error, and later on newcomers are refused, with the reason in the log.
    /// - What is published reaches members in all processes, by way of this one; a message of more than 16 MiB does not.
    ///   [`ServiceHandle::post`](crate::ServiceHandle::post) reaches connections of the same process only.
    /// - [`Context::halt`](crate::Context::halt) halts the whole application. Signals are handled by this process alone,
    ///   which tells the others; a second one to stop kills them. When it is gone in any other way, they stop as if it had
    ///   asked them to.
    /// - A process closes all descriptors that the loop of this one has: listeners, watched descriptors and all other
    ///   connections. It keeps what the program has opened by itself; the factory, which is called in each process, can
    ///   close those.
    /// - [`Handle::stats`](crate::Handle::stats) has what a process has counted once it has ended.
    ///
    /// ```
    /// use reactor::Runner;
    /// assert_ne!(Runner::processes(), Runner::processes().at_most(100));
    /// ```
    pub fn processes() -> Self {
        Runner(Model::Processes { most: PROCESSES })
    }

    /// So many threads or processes at one time and no more, at least one. Changes nothing where there are loops.
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

    /// Loops that run as long as the application does.
    pub(crate) fn fixed(self) -> usize {
        match self.0 {
            Model::Loops { count, .. } => count,
            Model::Threads { .. } | Model::Processes { .. } => 1,
        }
    }

    /// Descriptors that a connection takes, with the loop that serves it.
    pub(crate) fn descriptors_each(self) -> usize {
        match self.0 {
            Model::Loops { .. } => 1,
            Model::Threads { .. } => threads::DESCRIPTORS_EACH,
            Model::Processes { .. } => processes::DESCRIPTORS_EACH,
        }
    }

    /// Loops that come with one connection each, at the most.
    pub(crate) fn per_connection(self) -> usize {
        match self.0 {
            Model::Loops { .. } => usize::MAX,
            Model::Threads { most } | Model::Processes { most } => most,
        }
    }

    /// Whether this service can be run so.
    pub(crate) fn admits<H: Handler<M>, M: Send + 'static>(self, service: &Service<H, M>) -> Result<(), Error> {
        if matches!(self.0, Model::Processes { .. }) && service.needs_memory() {
            let name = service.name();
            return Err(Error::Runner {
                why: format!(
                    "{name}: its connections share memory, which is impossible with a process for each connection"
                ),
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

/// Makes a service's handler for a loop that stands, on its thread. The service's number on that loop.
pub(crate) type Build = Box<dyn FnOnce(u16) -> Box<dyn Host> + Send>;
/// The same for a loop that comes with one connection, as often as one does.
pub(crate) type BuildForGuest = Arc<dyn Fn(&Arc<LoopHandle>) -> Box<dyn Host> + Send + Sync>;

/// A service that is bound, and what makes its handlers.
pub(crate) struct Prepared {
    pub(crate) bound: Bound,
    /// One for each loop that stands.
    pub(crate) builds: Vec<Build>,
    pub(crate) for_per_connection_loop: BuildForGuest,
}

/// A loop as it runs here.
type Running = EventLoop<Readiness<System>>;
/// The last that happens to the first loop before it runs.
type Prepare = Box<dyn FnOnce(&mut Running)>;

/// What every loop of an application is made with.
#[derive(Clone)]
struct Common {
    backend: Backend,
    cluster: Arc<Cluster>,
    settings: Settings,
}

/// The number that a listener of this service has on a loop with this service alone.
fn own_listener(services: &[(Bound, BuildForGuest)], service: u16, listener: usize) -> usize {
    listener - services[..service as usize].iter().map(|(bound, _)| bound.listeners.len()).sum::<usize>()
}

/// Serves until the application is stopped and all connections have ended. The first error of any loop.
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
    // After an error of the first loop, the others still serve. Otherwise those that are left have had their drain time.
    let patience = if outcome.is_ok() { Some(Duration::ZERO) } else { drain_timeout };
    let stuck = common.cluster.wait_for_per_connection(patience);
    if stuck > 0 {
        let (threads, are) = if stuck == 1 { ("thread", "is") } else { ("threads", "are") };
        log::error!("{stuck} {threads} {are} stuck in a callback beyond the drain time: left behind");
    }
    if common.cluster.fixed().len() > 1 {
        log::info!("counters of all loops: {}", common.cluster.stats());
    }
    outcome
}
