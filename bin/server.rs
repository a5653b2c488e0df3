//! From options to an application that runs: binds its services, says where they listen, and serves.

use std::io::Write;
use std::path::absolute;

use reactor::{Address, Application, Error, Handler, Runner, Service, ServiceHandle};

use crate::Failure;
use crate::inherited::Inherited;
use crate::logging::Logging;
use crate::options::{Common, Model, Place};

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
    listening: Vec<(&'static str, Address)>,
}

impl<'a> Server<'a> {
    /// For the services of these names. From here on a signal ends it in good order, so that no socket file stays
    /// behind.
    pub fn new(common: &'a Common, services: &[&'static str]) -> Result<Self, Failure> {
        // First, since a descriptor that was promised and is not there must not turn out to be one of ours.
        let inherited = Inherited::take(services)?;
        let mut app = Application::with(common.backend, runner(common)?).map_err(|error| match error {
            // A flag is read as wrong usage before it gets here.
            Error::UnknownBackend { .. } => format!("REACTOR_BACKEND: {error}").into(),
            other => Failure::from(other),
        })?;
        app.handle_signals()?;
        app.drain_timeout(common.drain_timeout.0);
        app.max_connections(common.max_connections.map(|connections| connections as usize));
        Ok(Server { common, app, inherited, listening: Vec::new() })
    }

    pub fn common(&self) -> &'a Common {
        self.common
    }

    /// Binds a service, at the listener that was inherited for it or else at `place`. `dress` gives it its limits.
    pub fn add<H, M>(
        &mut self,
        name: &'static str,
        place: &Place,
        factory: impl Fn() -> H + Send + Sync + 'static,
        dress: impl FnOnce(Service<H, M>) -> Service<H, M>,
    ) -> Result<ServiceHandle<M>, Failure>
    where
        H: Handler<M>,
        M: Send + 'static,
    {
        let inherited = self.inherited.of(name);
        let service = match place {
            _ if !inherited.is_empty() => Service::on_all(inherited, factory),
            Place::Tcp(address) => Service::tcp(address, factory),
            Place::Unix(path) => Service::unix(path, factory),
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
        let (reports, reopening) = (logging.reports(), logging.reopening());
        self.app.on_report(move |report| reports.put(report));
        if let Some(reopening) = reopening {
            self.app.on_reopen(reopening);
        }
        logging.start();
        self.announce();
        Ok(self.app.run()?)
    }

    /// One line for each address. Whoever reads them may be gone, which is no reason not to serve.
    fn announce(&self) {
        let mut lines = String::new();
        for (name, address) in &self.listening {
            let address = match address {
                Address::Unix(path) => Address::Unix(absolute(path).unwrap_or_else(|_| path.clone())),
                tcp => tcp.clone(),
            };
            lines.push_str(&format!("listening {name} {address}\n"));
        }
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
    }
}
