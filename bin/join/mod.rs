//! `glowplug chat join`: a member of a chat room, at a terminal or in a pipe.
//!
//! ```text
//!   terminal ──▶ editor (a thread) ──Order::Say──▶ services::chat::Client ──Screen──▶ printer (a thread) ──▶ stdout
//!   pipe, file ───────── watched by the loop ────▶   on the reactor: socket, timers
//! ```

mod continued;
mod editor;
mod front;
mod printer;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use reactor::{Address, Application, ConnectionId, Deadlines, Service, ServiceHandle};
use services::chat::{Client, Ending, Order, client_limits};

use crate::chat::PORT;
use crate::logging::Logging;
use crate::options::{Common, HOST, Place};
use crate::{Failure, logging};
use editor::{Gate, Terminal};
use front::{Front, Outcome};
use printer::Printer;

/// Time limit to connect to one address; a name may have several.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client waits for the server to close after a signal.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client that was told to stop waits for unprinted text: plenty for a terminal, and a pipe without a reader
/// does not delay the exit for longer.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// The name that a server's certificate has to have on a Unix socket.
const HOST_OF_A_SOCKET: &str = "localhost";

const EXAMPLE: &str = "\
On a terminal: a line editor with history; /help lists the room's commands, Ctrl-D leaves.
In a pipe: each input line is a message, each received message is a line of output,
and the exit status is 1 after an error.

Example:
  glowplug chat join --name ann --port 8801

Or: echo 'the build is green' | glowplug chat join --name builder
Or: glowplug chat join --name ann --host localhost --tls --ca cert.pem";

/// Join a chat room, from a terminal or a pipe
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Options {
    /// Your name in the room: 1 to 32 characters
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Name, IPv4 or IPv6 address of the server; the addresses of a name are tried in turn
    #[arg(long, default_value = HOST, value_parser = NonEmptyStringValueParser::new())]
    host: String,

    /// Port of the server
    #[arg(long, default_value = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Connect to the server's Unix socket at this path, instead of TCP
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix: Option<PathBuf>,

    /// Connect with TLS; the server's certificate and name are checked
    #[arg(long)]
    tls: bool,

    /// Check the server's certificate against the roots in this file (PEM), not against the system's
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<PathBuf>,

    /// Connect again when the connection is lost, after a pause of 1 second that grows to 30
    #[arg(long)]
    reconnect: bool,
}

/// The server: the place to look up, and the name for messages.
#[derive(Clone)]
struct Server {
    place: Place,
    called: String,
}

impl Server {
    fn of(options: &Options) -> Self {
        match &options.unix {
            Some(path) => Server { place: Place::Unix(path.clone()), called: Address::Unix(path.clone()).to_string() },
            None => Server { place: Place::tcp(&options.host, options.port), called: format!("port {}", options.port) },
        }
    }

    /// Looks up the server's addresses. **Blocks** while a name is looked up.
    fn look_up(&self) -> Result<Vec<Address>, String> {
        match &self.place {
            Place::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
            Place::Tcp(address) => Address::resolve(address).map_err(|error| error.to_string()),
        }
    }

    /// Looks up the addresses on a thread of its own, so that the loop goes on.
    fn look_up_aside(&self, client: ServiceHandle<Order>) {
        let (server, other) = (self.clone(), client.clone());
        let look_up = move || client.post(ConnectionId::NONE, Order::Found(server.look_up()));
        if let Err(error) = std::thread::Builder::new().name("look-up".to_owned()).spawn(look_up) {
            // An empty mailbox has room.
            let _ = other.post(ConnectionId::NONE, Order::Found(Err(error.to_string())));
        }
    }
}

pub fn run(options: Options, common: &Common) -> ExitCode {
    // Never started on standard error, which belongs to a person here.
    let logging = common.log_file.as_deref().map(|path| Logging::new(common.log_level, Some(path), false));
    if let Some(Err(failure)) = logging {
        return logging::fail_without(&*failure);
    }
    let server = Server::of(&options);
    match join(options, common, &server) {
        Ok(Outcome { unprinted: Some(cause), .. }) => {
            tell(&format!("error: cannot write to standard output: {cause}"), ExitCode::FAILURE)
        }
        Ok(Outcome { ending, unsent, .. }) => match ending.map(|ending| words(&ending, &server)) {
            Some(Some((words, code))) => tell(&words, code),
            Some(None) | None if unsent => ExitCode::FAILURE,
            Some(None) | None => ExitCode::SUCCESS,
        },
        Err(failure) => logging::fail_without(&*failure),
    }
}

/// Returns the message and the exit status for an end that the member did not cause.
fn words(ending: &Ending, server: &Server) -> Option<(String, ExitCode)> {
    let called = &server.called;
    let failed = |words| Some((words, ExitCode::FAILURE));
    match ending {
        Ending::Left => None,
        Ending::Closed => Some((format!("The chat server @ {called} has hung up"), ExitCode::SUCCESS)),
        Ending::Refused(error) => failed(error.clone()),
        Ending::Unreachable(cause) => failed(format!("Failed to connect to chat server @ {called}: {cause}")),
        Ending::Lost(cause) => failed(format!("Lost the chat server @ {called}: {cause}")),
    }
}

fn tell(words: &str, code: ExitCode) -> ExitCode {
    if io::stderr().is_terminal() {
        printer::last_words(io::stderr(), &format!("{words}\n"));
    } else {
        // Without a reader the exit status alone reports the end.
        let _ = writeln!(io::stderr(), "{words}");
    }
    code
}

fn join(options: Options, common: &Common, server: &Server) -> Result<Outcome, Failure> {
    let mut app = Application::with_backend(common.backend)?;
    // The look-up may take long. It runs before the loop handles signals, so a signal ends the process.
    let addresses = server.look_up();
    let tls = secured(&options)?;
    app.handle_signals()?;
    // A terminal that hangs up ends the client.
    let handle = app.handle();
    app.on_hang_up(move || handle.halt());
    app.drain_timeout(Some(LINGER + FLUSH_TIME));
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(cause) => return Ok(Outcome::of(Ending::Unreachable(cause))),
    };

    let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let (terminal, writer) = match if on_terminal { Terminal::new()? } else { None } {
        Some((terminal, writer)) => (Some(terminal), writer),
        None => (None, printer::standard_output()?),
    };
    let gate = terminal.as_ref().map(Terminal::gate);
    // Restores the terminal at every exit, after a panic too.
    let restored = gate.clone().map(Restored);
    let keyboard = if gate.is_none() { Some(io::stdin().as_fd().try_clone_to_owned()?) } else { None };
    let printer = Printer::new(writer, app.handle())?;
    let (front, outcome) = Front::new(&options.name, &server.called, terminal, printer.queue());
    let service = app.add_service(client(options, server, tls, addresses, keyboard, front))?;
    printer.attach(service);
    if let Some(gate) = &gate {
        app.add_service(continued::service(gate.clone(), printer.queue())?)?;
        let queue = printer.queue();
        app.on_report(move |report| {
            queue.put(report);
        });
    }
    let ran = app.run();
    let mut outcome = outcome.take();
    // A slow reader gets all messages, unless a signal ended the client.
    printer.finish((gate.is_some() || outcome.ending.is_none()).then_some(FLUSH_TIME));
    drop(restored);
    // A reader that closes the pipe wants no more messages, as `head` does. Any other error has lost messages.
    let failure = printer.failure().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
    outcome.unprinted = failure.map(|error| error.to_string());
    ran?;
    Ok(outcome)
}

/// Restores the terminal's settings when it is dropped.
struct Restored(Arc<Gate>);

impl Drop for Restored {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// The client's side of TLS, and the name that the server's certificate has to have: the host, or on a Unix socket
/// `localhost`.
fn secured(options: &Options) -> Result<Option<(tls::Client, String)>, Failure> {
    if !options.tls {
        return Ok(None);
    }
    let client = tls::Client::new(options.ca.as_deref().map_or(tls::Roots::System, tls::Roots::File))?;
    let name = if options.unix.is_some() { HOST_OF_A_SOCKET } else { options.host.trim_matches(['[', ']']) };
    client.layer(name)?;
    Ok(Some((client, name.to_owned())))
}

fn client(
    options: Options,
    server: &Server,
    tls: Option<(tls::Client, String)>,
    addresses: Vec<Address>,
    keyboard: Option<OwnedFd>,
    front: Front,
) -> Service<Client<Front>, Order> {
    let server = server.clone();
    // One loop makes one client, so the parts are taken once.
    let parts = Mutex::new(Some((front, keyboard)));
    let factory = move || {
        let parts = parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (front, keyboard) = parts.expect("one loop makes one client");
        let mut client = Client::new(options.name.clone(), addresses.clone(), front);
        if let Some(keyboard) = keyboard {
            client = client.keyboard(keyboard);
        }
        if let Some((tls, name)) = tls.clone() {
            let (layers, named) = (tls.clone(), name);
            let layer = move || layers.layer(&named).expect("the name was taken before");
            client = client.layered(layer, move || tls.take_cause());
        }
        if options.reconnect {
            let server = server.clone();
            client = client.reconnects(RandomState::new().hash_one(()), move |handle| server.look_up_aside(handle));
        }
        client
    };
    let deadlines = Deadlines { connect: Some(CONNECT_TIMEOUT), linger: LINGER, ..Deadlines::default() };
    Service::outbound(factory).named("join").limits(client_limits()).deadlines(deadlines)
}
