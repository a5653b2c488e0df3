//! Services on a loop, from the first bind to the last byte.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::budget::Budget;
use crate::cluster::{Cluster, Inbox};
use crate::context::{Context, NoHandler};
use crate::error::Error;
use crate::handle::{Handle, ServiceHandle};
use crate::handler::Handler;
use crate::runner::{self, Build, Prepared, Runner};
use crate::service::Service;
use crate::settings::{Orders, Periodic, Reopen, Reports, Settings};
use crate::sys::backend::Backend;
use crate::sys::listen::Listening;
use crate::sys::memory;
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use crate::sys::{Sys, System};
use crate::time::Time;

/// Descriptors kept back from connections: for handlers, for logs, and for accepting a connection in order to refuse it. A
/// quarter of the descriptors, where a low limit would leave hardly any for connections.
const DESCRIPTOR_RESERVE: usize = 32;
/// The shortest period: a shorter one would be a busy loop.
const PERIOD_MIN: Duration = Duration::from_millis(1);
/// Default limit of the time that stopping takes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections may hold this fraction of the machine's memory by default: one part of four.
const MEMORY_PART: usize = 4;
/// Default limit of a callback's time: a longer callback is worth a line in the log, since every connection has waited.
const SLOW_CALLBACK: Duration = Duration::from_millis(100);

/// Runs any number of services, on one event loop or on several ([`Runner`]).
///
/// Only signals are global. Several applications can live in one process, each on a thread of its own, which need not be the
/// thread that built the application.
///
/// ```
/// use reactor::{Application, Context, Handler, Input, Service};
/// use std::time::Duration;
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Connection = ();
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
///         cx.write(input.take_all());
///     }
/// }
///
/// let mut app = Application::new()?;
/// let echo = app.add_service(Service::tcp("127.0.0.1:0", || Echo))?;
/// println!("listening at {}", echo.address().unwrap());
/// app.add_loop(Duration::from_millis(1), |cx| cx.halt());
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
pub struct Application {
    /// The system and the receivers of each fixed loop.
    systems: Vec<(System, Inbox)>,
    backend: Backend,
    runner: Runner,
    handle: Handle,
    services: Vec<Prepared>,
    loops: Vec<Periodic>,
    signals: Option<Signals>,
    drain_timeout: Option<Duration>,
    max_connections: Option<usize>,
    memory: Option<usize>,
    slow_callback: Duration,
    on_report: Reports,
    on_reopen: Reopen,
    /// SIGHUP is handled even where the process was started with SIGHUP ignored.
    takes_hang_up: bool,
    descriptor_limit: usize,
    built_in: u32,
}

impl Application {
    /// An application on the backend that `REACTOR_BACKEND` names, or else on the system's best.
    ///
    /// Raises the process's soft limit of open descriptors to the hard limit.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`] for an unusable `REACTOR_BACKEND`, [`Error::BackendUnavailable`], or [`Error::System`]
    /// when the process has no descriptors left. With the feature `chaos`, `Error::Chaos` for an unusable
    /// `REACTOR_CHAOS`.
    pub fn new() -> Result<Self, Error> {
        Self::with_backend(Backend::Auto)
    }

    /// An application on `backend`, whatever the environment says.
    ///
    /// # Errors
    /// As [`Application::new`].
    pub fn with_backend(backend: Backend) -> Result<Self, Error> {
        Self::with(backend, Runner::default())
    }

    /// An application on `backend`, with connections served as `runner` says.
    ///
    /// ```
    /// use reactor::{Application, Backend, Runner};
    /// let app = Application::with(Backend::Auto, Runner::loops(2)?)?;
    /// assert_eq!(app.runner(), Runner::loops(2)?);
    /// # Ok::<(), reactor::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Application::new`].
    pub fn with(backend: Backend, runner: Runner) -> Result<Self, Error> {
        let descriptor_limit = process::raise_descriptor_limit();
        let (backend, reason) = backend.choose()?;
        let systems = (0..runner.fixed()).map(|_| System::new(backend)).collect::<Result<Vec<_>, _>>()?;
        log::info!("backend {backend}: {reason}");
        #[cfg(feature = "chaos")]
        systems[0].announce();
        let cluster = Cluster::new(systems.iter().map(System::waker));
        let inboxes: Vec<_> = cluster.fixed().iter().map(|loop_handle| cluster.inbox(loop_handle)).collect();
        Ok(Application {
            handle: Handle(Arc::new(cluster)),
            systems: systems.into_iter().zip(inboxes).collect(),
            backend,
            runner,
            services: Vec::new(),
            loops: Vec::new(),
            signals: None,
            drain_timeout: Some(DRAIN_TIMEOUT),
            max_connections: None,
            memory: None,
            slow_callback: SLOW_CALLBACK,
            on_report: Arc::new(Mutex::new(|report: &str| {
                // Standard error may be closed: then the report is lost.
                let _ = std::io::stderr().write_all(report.as_bytes());
            })),
            on_reopen: Arc::new(Mutex::new(|| {})),
            takes_hang_up: false,
            descriptor_limit,
            built_in: process::pid(),
        })
    }

    /// The backend of the loops: the one that [`Backend::Auto`] has chosen, if it was asked for, and never `Auto` itself.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The model by which connections are served, as given to [`Application::with`]; by default a single loop.
    pub fn runner(&self) -> Runner {
        self.runner
    }

    /// Binds the service's addresses. From then on peers can connect; [`Application::run`] serves their connections.
    ///
    /// **Blocks** while a host name is looked up, and a signal that [`Application::handle_signals`] handles waits meanwhile.
    /// Where a lookup may be slow, look names up with [`Address::resolve`](crate::Address::resolve) before calling
    /// `handle_signals`.
    ///
    /// # Errors
    /// [`Error::Bind`] or [`Error::Address`], with the address and the cause. [`Error::Runner`] when the runner cannot serve
    /// such a service: see [`Service::shares_memory`]. [`Error::NoDescriptors`] when no descriptor would be left for a
    /// connection.
    pub fn add_service<H, M>(&mut self, service: Service<H, M>) -> Result<ServiceHandle<M>, Error>
    where
        H: Handler<M>,
        M: Send + 'static,
    {
        self.runner.admits(&service)?;
        let (bound, parts) = service.bind(self.handle.clone(), Listening::bind)?;
        let handle = parts.handle.clone();
        if !handle.addresses().is_empty() {
            let (open, needed) = (process::open_descriptors(), self.runner.descriptors_each());
            if open + needed > self.descriptor_limit {
                return Err(Error::NoDescriptors { limit: self.descriptor_limit, needed, open });
            }
        }
        for address in handle.addresses() {
            log::info!("{} at {address}", bound.terms.name);
        }
        let parts = Arc::new(parts);
        let build = |mailbox| -> Build {
            let parts = parts.clone();
            Box::new(move |number| parts.host(number, mailbox))
        };
        let builds = handle.receivers().map(build).collect();
        self.services.push(Prepared {
            bound,
            builds,
            for_per_connection_loop: Arc::new(move |loop_handle| parts.per_connection_host(loop_handle)),
        });
        Ok(handle)
    }

    /// Calls `work` every `period` (at least a millisecond), first one period after the loop begins. The schedule is kept: when
    /// the loop was held up, missed ticks are left out. A call of [`Context::end_loop`] in `work` ends the periodic work.
    pub fn add_loop(
        &mut self,
        period: Duration,
        work: impl FnMut(&mut Context<'_, NoHandler, NoHandler>) + Send + 'static,
    ) {
        let period = period.max(PERIOD_MIN);
        self.loops.push(Periodic { period, work: Box::new(work), at: Time::NEVER });
    }

    /// A handle that reaches the application from other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Handles signals on the loop. SIGTERM and SIGINT stop the application; a second SIGTERM or SIGINT ends the process at
    /// once, with status 128+n. SIGUSR1 reports counters and connections. SIGHUP calls the function given to
    /// [`Application::on_reopen`] or [`Application::on_hang_up`]. SIGPIPE and SIGXFSZ do nothing.
    ///
    /// Unblocks these signals in the calling thread and in the thread that calls [`Application::run`]. SIGINT stays ignored if
    /// the process was started with SIGINT ignored, as a shell starts background jobs; so does SIGHUP, unless a function to
    /// [reopen](Application::on_reopen) logs is set. When the application is dropped, each signal gets its earlier disposition
    /// back, and stays unblocked.
    ///
    /// # Errors
    /// [`Error::SignalsTaken`]: signals belong to the process, so only one application in a process can handle signals.
    pub fn handle_signals(&mut self) -> Result<(), Error> {
        self.signals = Some(signal::install(self.systems[0].0.waker())?);
        Ok(())
    }

    /// Sets how long stopping may take; connections still open then are aborted. 10 s by default; `None`: no limit. A callback
    /// that does not return holds up the stop of [`Runner::loops`](crate::Runner::loops) all the same, like all other work of
    /// the loop.
    pub fn drain_timeout(&mut self, timeout: Option<Duration>) -> &mut Self {
        self.drain_timeout = timeout;
        self
    }

    /// Limits the connections of all services together. A further connection is accepted, sent [`Service::refusal`], and
    /// closed. `None`, the default: only the descriptor limit counts, and further connections wait in the backlog.
    pub fn max_connections(&mut self, connections: Option<usize>) -> &mut Self {
        self.max_connections = connections;
        self
    }

    /// Limits the bytes that all connections together hold: input that handlers have not consumed, output that has not left,
    /// and messages that wait for slow members. A payload held by several connections counts once. Bytes in the kernel
    /// ([`Limits::unsent`](crate::Limits::unsent)) and in handlers do not count. The default is a quarter of this machine's
    /// memory, or of the memory limit of the process's cgroup if smaller; `usize::MAX`: no limit.
    ///
    /// From 80 % on, the largest holders are not read, until less than 70 % is held. Connections without queued output are
    /// still read, because only further input completes their requests. Above 100 % the largest holders of all loops are
    /// closed: their queued output is dropped and counted, [`Handler::on_too_slow`] may write last
    /// words, and the reason is [`CloseReason::Memory`](crate::CloseReason::Memory). A connection with more than 128 KiB of
    /// unshared output left is reset after that. Holders of less than 4 KiB are left alone.
    ///
    /// With [`Runner::processes`] each process may hold the limit divided by the current number of processes. A process
    /// compares when its own bytes change, so an idle connection may go on holding more after further processes have come.
    ///
    /// ```
    /// use reactor::Application;
    /// let mut app = Application::new()?;
    /// app.memory(256 * 1024 * 1024);
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn memory(&mut self, bytes: usize) -> &mut Self {
        self.memory = Some(bytes);
        self
    }

    /// Sets the limit of a callback's time: a slower callback is named in the log, with its connection. 100 ms by default; a
    /// few milliseconds are the clock's own. On Linux, time in which the thread was ready while other threads had its core does
    /// not count; sleeping and blocking do. That time is known to within a second, so the log line gives an upper bound.
    pub fn slow_callback(&mut self, limit: Duration) -> &mut Self {
        self.slow_callback = limit;
        self
    }

    /// Sets the receiver of the reports that SIGUSR1 asks for: some lines of text. With several loops each loop reports: the first
    /// loop's report begins with `counters of all loops: `, the report of any further loop with `loop <number>:`. The default receiver
    /// is standard error, which blocks the loop if no process reads at the other end.
    pub fn on_report(&mut self, report: impl FnMut(&str) + Send + 'static) -> &mut Self {
        self.on_report = Arc::new(Mutex::new(report));
        self
    }

    /// Sets the action of SIGHUP, such as opening log files anew. No action by default. The function must not block. SIGHUP is
    /// handled even where the process was started with SIGHUP ignored: a server started by nohup(1) opens its logs anew, too.
    pub fn on_reopen(&mut self, reopen: impl FnMut() + Send + 'static) -> &mut Self {
        self.on_reopen = Arc::new(Mutex::new(reopen));
        self.takes_hang_up = true;
        self
    }

    /// Sets the action of SIGHUP for a program that belongs to its terminal, such as to end when the terminal is closed.
    /// Replaces [`Application::on_reopen`]. The function must not block. Where the process was started with SIGHUP ignored, as
    /// by nohup(1), SIGHUP stays ignored.
    ///
    /// ```
    /// let mut app = reactor::Application::new()?;
    /// let handle = app.handle();
    /// app.on_hang_up(move || handle.halt());
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn on_hang_up(&mut self, leave: impl FnMut() + Send + 'static) -> &mut Self {
        self.on_reopen = Arc::new(Mutex::new(leave));
        self.takes_hang_up = false;
        self
    }

    /// Serves until a signal, [`Handle::halt`] or [`Context::halt`] stops the application and all connections have ended.
    /// **Blocks** until then.
    ///
    /// Ignores SIGPIPE and SIGXFSZ from then on, unless the process has handlers for these signals: a peer that goes away while
    /// a file is sent, or a log that reaches `ulimit -f`, must not end the process. With [`Runner::processes`], SIGCHLD is not
    /// ignored until `run` returns.
    ///
    /// # Errors
    /// [`Error::Forked`] in a forked child of the process that built the application; [`Error::Runner`] with
    /// [`Runner::processes`] in a process that has more than one thread; [`Error::System`] when waiting for events fails.
    pub fn run(mut self) -> Result<(), Error> {
        if self.built_in != process::pid() {
            return Err(Error::Forked { built: self.built_in, here: process::pid() });
        }
        signal::survive_failed_writes();
        if let Some(signals) = &mut self.signals {
            signals.unblock();
            if self.takes_hang_up {
                signals.handle_hang_up();
            }
        }
        let others = process::open_descriptors() + DESCRIPTOR_RESERVE.min(self.descriptor_limit / 4);
        let memory = self.memory.unwrap_or_else(|| memory::size().map_or(usize::MAX, |size| size / MEMORY_PART));
        let sharers = self.runner.is_processes().then(memory::shared_counter).flatten();
        let settings = Settings {
            drain_timeout: self.drain_timeout,
            drain_margin: Duration::ZERO,
            connections: self.max_connections,
            // The reserve leaves room for one connection: `add_service` has checked that.
            descriptors: self.descriptor_limit.saturating_sub(others).max(self.runner.descriptors_each()),
            per_connection: self.runner.per_connection(),
            slow_callback: self.slow_callback,
            on_report: self.on_report,
            budget: Arc::new(Budget::new(memory, sharers)),
        };
        runner::run(
            self.runner,
            (self.backend, self.handle.0, settings),
            self.systems,
            self.services,
            self.loops,
            Orders { signals: self.signals.map(Arc::new), on_reopen: self.on_reopen },
        )
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.services.iter().map(|one| &one.bound.terms.name).collect();
        f.debug_struct("Application")
            .field("backend", &self.backend)
            .field("services", &services)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork::FORKS;

    #[test]
    fn an_application_does_not_run_in_a_fork_of_the_process_that_built_it() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let application = Application::new().unwrap();
        let here = process::pid();
        let status = process::status_of(move || match application.run() {
            Err(Error::Forked { built, here: fork }) if built == here && fork != here => {}
            _ => std::process::abort(),
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn an_application_may_run_on_another_thread_than_it_was_built_on() {
        fn is_send(_: impl Send) {}
        is_send(Application::new().unwrap());
    }
}
