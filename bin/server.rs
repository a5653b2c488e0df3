//! Builds an application from options: binds its services, announces their addresses, and serves.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use reactor::{Address, Application, CloseReason, Error, Handler, Runner, Service, ServiceHandle};
use rustix::event::Timespec;

use crate::Failure;
use crate::inherited::Inherited;
use crate::line::in_one_line;
use crate::logging::{FLUSH_TIME, Logging};
use crate::losses::{Collected, Watcher};
use crate::names::HTTP;
use crate::options::{Common, Model, Place, Size};
use crate::target::has_room;

/// How long the process waits for unwritten lines when the drain time is used up.
const HURRIED_FLUSH: Duration = Duration::from_millis(100);
/// Bytes that a pipe with room takes without waiting (`PIPE_BUF`).
const ROOM_OF_A_PIPE: usize = 4096;

/// The runner that the options ask for.
fn runner(common: &Common) -> Result<Runner, Failure> {
    let runner = match common.model {
        Model::Loops => Runner::loops(common.loops.unwrap_or(1).into())?,
        Model::Threads => Runner::threads(),
        Model::Processes => Runner::processes(),
    };
    let runner = if common.pin { runner.pinned() } else { runner };
    Ok(common.at_most.map_or(runner, |most| runner.at_most(most as usize)))
}

/// Adds the advice if the model is the cause of the failure.
pub fn advised(failure: Failure, advice: &str) -> Failure {
    match failure.downcast_ref() {
        Some(Error::Runner { why }) => format!("{why}; {advice}").into(),
        _ => failure,
    }
}

/// An application before it runs. A drop undoes everything; a Unix socket's file is removed too.
pub struct Server<'a> {
    common: &'a Common,
    app: Application,
    inherited: Inherited,
    /// Addresses of the services without an inherited listener.
    addresses: BTreeMap<&'static str, Vec<Address>>,
    listening: Vec<(&'static str, Address)>,
    /// In a process that forks. A child closes the reading end.
    losses: Option<Collected>,
}

impl<'a> Server<'a> {
    /// Prepares the services of these names, at these places. Host names are looked up here, which may take long: until
    /// the look-up ends, a signal ends the process at once. Afterwards a signal stops the application in good order,
    /// and no socket file stays behind.
    pub fn new(common: &'a Common, services: &[(&'static str, &Place)], logging: &Logging) -> Result<Self, Failure> {
        // Comes first: a missing inherited descriptor must not be mistaken for a descriptor opened here.
        let inherited = Inherited::take(&services.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let mut app = Application::with(common.backend, runner(common)?).map_err(|error| match error {
            // A wrong value of the option is refused earlier, as wrong usage.
            Error::UnknownBackend { .. } => format!("REACTOR_BACKEND: {error}").into(),
            other => Failure::from(other),
        })?;
        let mut addresses = BTreeMap::new();
        for &(name, place) in services.iter().filter(|(name, _)| !inherited.has(name)) {
            let of_service = match place {
                Place::Tcp(address) => Address::resolve(address).map_err(Error::from)?,
                Place::Unix(path) => vec![Address::Unix(path.clone())],
            };
            addresses.insert(name, of_service);
        }
        app.handle_signals()?;
        app.drain_timeout(common.drain_timeout.0);
        if let Some(Size(bytes)) = common.memory {
            app.memory(bytes);
        }
        app.max_connections(common.max_connections.map(|connections| connections as usize));
        Ok(Server { common, app, inherited, addresses, listening: Vec::new(), losses: logging.losses() })
    }

    pub fn common(&self) -> &'a Common {
        self.common
    }

    /// Binds a service to its inherited listeners, or to its address. `dress` sets the service's limits.
    pub fn add<H, M>(
        &mut self,
        name: &'static str,
        factory: impl Fn() -> H + Send + Sync + 'static,
        dress: impl FnOnce(Service<H, M>) -> Service<H, M>,
    ) -> Result<ServiceHandle<M>, Failure>
    where
        H: Handler<M>,
        M: Send + 'static,
    {
        let (losses, parent) = (self.losses.clone(), std::process::id());
        let factory = move || {
            // A child makes its handler first.
            if let Some(losses) = losses.as_ref().filter(|_| std::process::id() != parent) {
                losses.leave_to_the_parent();
            }
            factory()
        };
        let service = match self.inherited.of(name) {
            none if none.is_empty() => Service::at(self.addresses.remove(name).unwrap_or_default(), factory),
            inherited => Service::on_all(inherited, factory),
        };
        let bound = self.app.add_service(dress(service.named(name)))?;
        self.listening.extend(bound.addresses().iter().map(|address| (name, address.clone())));
        Ok(bound)
    }

    /// Adds a handler without a listener.
    pub fn add_beside<H: Handler>(
        &mut self,
        name: &'static str,
        factory: impl Fn() -> H + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        self.app.add_service(Service::outbound(factory).named(name))?;
        Ok(())
    }

    /// Serves until a signal stops the application.
    pub fn run(mut self, logging: &mut Logging) -> Result<(), Failure> {
        let reopening = logging.reopening();
        self.app.on_report(logging.asked());
        if let Some(reopening) = reopening {
            self.app.on_reopen(reopening);
        }
        if let Some(losses) = logging.losses() {
            self.add_beside("lost lines", move || Watcher(losses.clone()))?;
        }
        logging.start();
        self.announce();
        self.suggest();
        let (handle, drain_time) = (self.app.handle(), self.common.drain_timeout.0);
        let outcome = self.app.run();
        // A stop that has used up the drain time leaves no time for an output without a reader.
        let stats = handle.stats();
        let is_late = stats.closed(CloseReason::DrainExpired) > 0 || stats.open > 0;
        logging.finish(if is_late { HURRIED_FLUSH } else { drain_time.unwrap_or(FLUSH_TIME).min(FLUSH_TIME) });
        Ok(outcome?)
    }

    /// Logs one line with commands to try.
    fn suggest(&self) {
        let suggestions: Vec<String> = self.listening.iter().map(|(name, address)| trial(name, address)).collect();
        log::info!("try: {}", suggestions.join(", or "));
    }

    /// Writes one line for each address to standard output. A missing reader does not prevent serving, and a reader
    /// that does not read gets the lines from a thread that waits.
    fn announce(&self) {
        let mut lines = String::new();
        for (name, address) in &self.listening {
            lines.push_str(&format!("listening {name} {address}\n"));
        }
        let mut stdout = std::io::stdout();
        if has_room(&stdout, Timespec::default()) && lines.len() <= ROOM_OF_A_PIPE {
            let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
            return;
        }
        let wait = move || stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
        let is_waiting = !self.common.forks() && thread::Builder::new().name("stdout".to_owned()).spawn(wait).is_ok();
        let outcome = if is_waiting { "a thread waits for room" } else { "the lines are dropped" };
        log::warn!("standard output takes no `listening` lines: {outcome}");
    }
}

/// A command that tries the service at `address` from this machine.
fn trial(name: &str, address: &Address) -> String {
    match address {
        Address::Tcp(address) => {
            let mut at = *address;
            // An unspecified address includes this machine.
            if at.ip().is_unspecified() {
                at.set_ip(if at.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            match name {
                HTTP => format!("http://{at}/ in a browser"),
                _ => format!("nc {} {}", at.ip(), at.port()),
            }
        }
        Address::Unix(path) => {
            let (path, shown) = (path.display().to_string(), address.to_string());
            let path = in_one_line(&path);
            match name {
                // An abstract address: a name in the kernel, not a path.
                _ if shown.starts_with("unix:@") => format!("socat - ABSTRACT-CONNECT:{}", &shown["unix:@".len()..]),
                HTTP => format!("curl --unix-socket {path} http://localhost/"),
                _ => format!("nc -U {path}"),
            }
        }
    }
}
