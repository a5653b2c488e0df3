//! Builds an application from options: binds its services, announces their addresses, and serves.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use reactor::{Address, Application, CloseReason, Error, Handler, Listener, Runner, Service, ServiceHandle};
use rustix::event::Timespec;

use crate::Failure;
use crate::inherited::Inherited;
use crate::line::in_one_line;
use crate::logging::{FLUSH_TIME, Logging};
use crate::losses::{Collected, Watcher};
use crate::names::{ECHO, HTTP};
use crate::options::{At, Common, Model, Place, Size};
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

/// Addresses of one service, without TLS and with it.
#[derive(Default)]
struct Bindings {
    plain: Vec<Address>,
    tls: Vec<Address>,
}

/// An application before it runs. A drop undoes everything; a Unix socket's file is removed too.
pub struct Server<'a> {
    common: &'a Common,
    app: Application,
    inherited: Inherited,
    /// Addresses of the services without an inherited listener.
    addresses: BTreeMap<&'static str, Bindings>,
    listening: Vec<(&'static str, Address, bool)>,
    tls: Option<tls::Server>,
    /// The command serves a single service, and with a certificate all of its listeners speak TLS.
    always_tls: bool,
    /// In a process that forks. A child closes the reading end.
    losses: Option<Collected>,
    /// Lines of a report about the whole process.
    reports: Vec<Box<dyn Fn() -> String + Send>>,
}

impl<'a> Server<'a> {
    /// Prepares the services of these names, at these places. Host names are looked up here, which may take long: until
    /// the look-up ends, a signal ends the process at once. Afterwards a signal stops the application in good order,
    /// and no socket file stays behind.
    pub fn new(common: &'a Common, services: &[(&'static str, &[At])], logging: &Logging) -> Result<Self, Failure> {
        // Comes first: a missing inherited descriptor must not be mistaken for a descriptor opened here.
        let inherited = Inherited::take(&services.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let tls = if common.has_tls() { Some(tls::Server::new(&common.pairs())?) } else { None };
        if tls.is_none() && inherited.any_tls() {
            return Err("an inherited listener speaks TLS by its name: it needs --tls-cert and --tls-key".into());
        }
        let mut app = Application::with(common.backend, runner(common)?).map_err(|error| match error {
            // A wrong value of the option is refused earlier, as wrong usage.
            Error::UnknownBackend { .. } => format!("REACTOR_BACKEND: {error}").into(),
            other => Failure::from(other),
        })?;
        let mut addresses = BTreeMap::new();
        for &(name, all) in services.iter().filter(|(name, _)| !inherited.has(name)) {
            let bindings: &mut Bindings = addresses.entry(name).or_default();
            for At { place, tls } in all {
                let resolved = match place {
                    Place::Tcp(address) => Address::resolve(address).map_err(Error::from)?,
                    Place::Unix(path) => vec![Address::Unix(path.clone())],
                };
                if *tls { &mut bindings.tls } else { &mut bindings.plain }.extend(resolved);
            }
        }
        let always_tls = matches!(services, [(_, [At { tls: true, .. }])]);
        app.handle_signals()?;
        app.drain_timeout(common.drain_timeout.0);
        if let Some(Size(bytes)) = common.memory {
            app.memory(bytes);
        }
        app.max_connections(common.max_connections.map(|connections| connections as usize));
        let (listening, losses) = (Vec::new(), logging.losses());
        Ok(Server { common, app, inherited, addresses, listening, tls, always_tls, losses, reports: Vec::new() })
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
        let always = self.always_tls;
        let (layered, plain): (Vec<_>, Vec<_>) =
            self.inherited.of(name).into_iter().partition(|(_, tls)| *tls || always);
        let bare = |all: Vec<(Listener, bool)>| all.into_iter().map(|(listener, _)| listener).collect::<Vec<_>>();
        let Bindings { plain: at_plain, tls: at_tls } = self.addresses.remove(name).unwrap_or_default();
        let mut service =
            if plain.is_empty() { Service::at(at_plain, factory) } else { Service::on_all(bare(plain), factory) };
        if let Some(tls) = &self.tls {
            // The echo ignores the protocols that clients name (ALPN).
            let tls = if name == ECHO { tls.clone() } else { tls.clone().protocols(&["http/1.1", "http/1.0"]) };
            service = service.layered_at(at_tls, tls.layer()).layered_on(bare(layered), tls.layer());
        }
        let mut service = dress(service.named(name));
        if let Some(patience) = self.common.defer_accept.0 {
            service = service.client_speaks_first(patience);
        }
        let bound = self.app.add_service(service)?;
        let plain = bound.addresses().len() - bound.layered_addresses().len();
        let all = bound.addresses().iter().enumerate();
        self.listening.extend(all.map(|(at, address)| (name, address.clone(), at >= plain)));
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

    /// Adds a client of another server.
    pub fn add_client<H, M>(&mut self, service: Service<H, M>) -> Result<ServiceHandle<M>, Failure>
    where
        H: Handler<M>,
        M: Send + 'static,
    {
        Ok(self.app.add_service(service)?)
    }

    /// Adds a line to the reports that SIGUSR1 asks for.
    pub fn reports(&mut self, line: impl Fn() -> String + Send + 'static) {
        self.reports.push(Box::new(line));
    }

    /// Serves until a signal stops the application.
    pub fn run(mut self, logging: &mut Logging) -> Result<(), Failure> {
        let reopening = logging.reopening();
        let (mut asked, more) = (logging.asked(), std::mem::take(&mut self.reports));
        self.app.on_report(move |report| {
            asked(report);
            // Each loop reports. The lines are the process's, and follow the counters of all loops.
            if !report.starts_with("loop ") {
                more.iter().for_each(|line| asked(&format!("{}\n", line())));
            }
        });
        let tls = self.tls.clone();
        if reopening.is_some() || tls.is_some() {
            let (forks, parent) = (self.common.forks(), std::process::id());
            self.app.on_reopen(move || {
                reopening.iter().for_each(|reopen| reopen());
                // A child has done its only handshake.
                if let Some(tls) = tls.clone().filter(|_| std::process::id() == parent) {
                    reload(tls, forks);
                }
            });
        }
        if let Some(losses) = logging.losses() {
            self.add_beside("lost lines", move || Watcher(losses.clone()))?;
        }
        logging.start();
        if self.tls.is_some() && !self.listening.iter().any(|(.., tls)| *tls) {
            log::warn!("no service uses the certificate: none of the addresses begins with tls:");
        }
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
        let suggestions: Vec<String> =
            self.listening.iter().map(|(name, address, tls)| trial(name, address, *tls)).collect();
        log::info!("try: {}", suggestions.join(", or "));
    }

    /// Writes one line for each address to standard output. A missing reader does not prevent serving, and a reader
    /// that does not read gets the lines from a thread that waits.
    fn announce(&self) {
        let mut lines = String::new();
        for (name, address, tls) in &self.listening {
            lines.push_str(&format!("listening {name} {}\n", shown(address, *tls)));
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

/// Reads all certificates anew, on a thread of its own, since a disk may be slow; in this thread in a process that forks,
/// which must have no other.
fn reload(tls: tls::Server, forks: bool) {
    let load = move || match tls.reload() {
        Ok(()) => log::info!("certificates loaded anew"),
        Err(error) => log::error!("the old certificates stay: {error}"),
    };
    if forks {
        return load();
    }
    if let Err(error) = thread::Builder::new().name("certificates".to_owned()).spawn(load) {
        log::error!("the old certificates stay, since there is no thread to load new ones: {error}");
    }
}

/// The address in the form of `listening` lines.
fn shown(address: &Address, tls: bool) -> String {
    let text = address.to_string();
    match text.strip_prefix("tcp://") {
        _ if !tls => text,
        Some(rest) => format!("tls://{rest}"),
        None => format!("tls+{text}"),
    }
}

/// A command that tries the service at `address` from this machine.
fn trial(name: &str, address: &Address, tls: bool) -> String {
    match address {
        Address::Tcp(address) => {
            let mut at = *address;
            // An unspecified address includes this machine.
            if at.ip().is_unspecified() {
                at.set_ip(if at.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            match name {
                HTTP if tls => format!("https://{at}/ in a browser"),
                HTTP => format!("http://{at}/ in a browser"),
                _ if tls => format!("openssl s_client -quiet -connect {at}"),
                _ => format!("nc {} {}", at.ip(), at.port()),
            }
        }
        Address::Unix(path) => {
            let (path, shown) = (path.display().to_string(), address.to_string());
            let path = in_one_line(&path);
            match name {
                // An abstract address: a name in the kernel, not a path.
                _ if shown.starts_with("unix:@") => format!("socat - ABSTRACT-CONNECT:{}", &shown["unix:@".len()..]),
                HTTP if tls => format!("curl --insecure --unix-socket {path} https://localhost/"),
                HTTP => format!("curl --unix-socket {path} http://localhost/"),
                _ if tls => format!("openssl s_client -quiet -unix {path}"),
                _ => format!("nc -U {path}"),
            }
        }
    }
}
