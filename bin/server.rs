//! From options to an application that runs: binds its services, says where they listen, and serves.

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

/// How long the process stays for lines that are not yet written when the drain time is over.
const HURRIED_FLUSH: Duration = Duration::from_millis(100);
/// What a pipe that is reported to have room takes without waiting (`PIPE_BUF`).
const ROOM_OF_A_PIPE: usize = 4096;

/// Who serves connections, as the options have it.
fn runner(common: &Common) -> Result<Runner, Failure> {
    let runner = match common.model {
        Model::Loops => Runner::loops(common.loops.unwrap_or(1).into())?,
        Model::Threads => Runner::threads(),
        Model::Processes => Runner::processes(),
    };
    let runner = if common.pin { runner.pinned() } else { runner };
    Ok(common.at_most.map_or(runner, |most| runner.at_most(most as usize)))
}

/// Adds what to do instead, where it is the model that is in the way.
pub fn advised(failure: Failure, advice: &str) -> Failure {
    match failure.downcast_ref() {
        Some(Error::Runner { why }) => format!("{why}; {advice}").into(),
        _ => failure,
    }
}

/// An application in the making. Nothing of it is left if it is dropped: a Unix socket's file goes with it.
pub struct Server<'a> {
    common: &'a Common,
    app: Application,
    inherited: Inherited,
    /// Where services listen that have no inherited listener.
    addresses: BTreeMap<&'static str, Vec<Address>>,
    listening: Vec<(&'static str, Address)>,
    /// Of a process that forks: a child has no use for the reading end.
    losses: Option<Collected>,
}

impl<'a> Server<'a> {
    /// For the services of these names, at these places. Names of hosts are looked up, which may take long, so until that is
    /// done a signal ends the process at once. From then on a signal ends the application in good order, and no socket file
    /// stays behind.
    pub fn new(common: &'a Common, services: &[(&'static str, &Place)], logging: &Logging) -> Result<Self, Failure> {
        // First, since a descriptor that was promised and is not there must not turn out to be one of ours.
        let inherited = Inherited::take(&services.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let mut app = Application::with(common.backend, runner(common)?).map_err(|error| match error {
            // A flag is read as wrong usage before it gets here.
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

    /// Binds a service, at the listeners that were inherited for it or else at its place. `dress` gives it its limits.
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
            // A child begins with its handler.
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

    /// Adds a handler that listens nowhere.
    pub fn add_beside<H: Handler>(
        &mut self,
        name: &'static str,
        factory: impl Fn() -> H + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        self.app.add_service(Service::outbound(factory).named(name))?;
        Ok(())
    }

    /// Serves until a signal stops it.
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
        // Who has used up the drain time leaves none for an output that nobody reads.
        let stats = handle.stats();
        let is_late = stats.closed(CloseReason::DrainExpired) > 0 || stats.open > 0;
        logging.finish(if is_late { HURRIED_FLUSH } else { drain_time.unwrap_or(FLUSH_TIME).min(FLUSH_TIME) });
        Ok(outcome?)
    }

    /// What to try with it, in one line.
    fn suggest(&self) {
        let suggestions: Vec<String> = self.listening.iter().map(|(name, address)| trial(name, address)).collect();
        log::info!("try: {}", suggestions.join(", or "));
    }

    /// One line for each address. Whoever reads them may be gone, which is no reason not to serve; or may not read, and
    /// then a thread waits.
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
        let outcome = if is_waiting { "a thread waits until it does" } else { "they are left out" };
        log::warn!("standard output takes no `listening` lines: {outcome}");
    }
}

/// What somebody types to try a service at this address from the same machine.
fn trial(name: &str, address: &Address) -> String {
    match address {
        Address::Tcp(address) => {
            let mut at = *address;
            // Listens everywhere: this machine is one of the places.
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
                // No path, but a name in the kernel.
                _ if shown.starts_with("unix:@") => format!("socat - ABSTRACT-CONNECT:{}", &shown["unix:@".len()..]),
                HTTP => format!("curl --unix-socket {path} http://localhost/"),
                _ => format!("nc -U {path}"),
            }
        }
    }
}
