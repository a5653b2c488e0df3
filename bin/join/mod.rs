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

/// For one address to answer; there may be more to try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the server to hang up when it is left because of a signal.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client that was told to stop stays for what is not yet printed: plenty for a terminal, and a pipe that
/// nobody reads does not keep it.
const FLUSH_TIME: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "\
On a terminal: a line editor with history; /help tells the room's commands, Ctrl-D leaves.
In a pipe: lines in, messages out, and the exit status 1 when something went wrong.

Example:
  glowplug chat join --name ann --port 8801

Or: echo 'the build is green' | glowplug chat join --name builder";

/// Join a chat room
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Options {
    /// What others call you: 1 to 32 characters
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Name, IPv4 or IPv6 address of the server; each address of a name is tried in turn
    #[arg(long, default_value = HOST, value_parser = NonEmptyStringValueParser::new())]
    host: String,

    /// Port of the server
    #[arg(long, default_value = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// The server's Unix socket instead
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix: Option<PathBuf>,

    /// Connect again when the connection is lost, after a pause of 1 second that grows to 30
    #[arg(long)]
    reconnect: bool,
}

/// The server, as it is looked up and as it is spoken of.
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

    /// **Blocks** while a name is looked up.
    fn look_up(&self) -> Result<Vec<Address>, String> {
        match &self.place {
            Place::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
            Place::Tcp(address) => Address::resolve(address).map_err(|error| error.to_string()),
        }
    }

    /// The same on a thread of its own, for a loop that has others to listen to.
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

/// What is to be said of an end that its member did not bring about.
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
        // If nobody is there to read it, the exit status still says it.
        let _ = writeln!(io::stderr(), "{words}");
    }
    code
}

fn join(options: Options, common: &Common, server: &Server) -> Result<Outcome, Failure> {
    let mut app = Application::with_backend(common.backend)?;
    // Before signals are the loop's: until the name is looked up, which may take long, they end the process.
    let addresses = server.look_up();
    app.handle_signals()?;
    // Whoever hangs up a terminal leaves.
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
    // Whatever ends this, a panic too.
    let restored = gate.clone().map(Restored);
    let keyboard = if gate.is_none() { Some(io::stdin().as_fd().try_clone_to_owned()?) } else { None };
    let printer = Printer::new(writer, app.handle())?;
    let (front, outcome) = Front::new(&options.name, &server.called, terminal, printer.queue());
    let service = app.add_service(client(options, server, addresses, keyboard, front))?;
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
    // A reader who takes his time gets everything, unless it was a signal that ended this.
    printer.finish((gate.is_some() || outcome.ending.is_none()).then_some(FLUSH_TIME));
    drop(restored);
    // Who closes a pipe wants no more messages, as `head` does; anything else has lost some.
    let failure = printer.failure().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
    outcome.unprinted = failure.map(|error| error.to_string());
    ran?;
    Ok(outcome)
}

/// A terminal that is put back as it was when this is dropped.
struct Restored(Arc<Gate>);

impl Drop for Restored {
    fn drop(&mut self) {
        self.0.restore();
    }
}

fn client(
    options: Options,
    server: &Server,
    addresses: Vec<Address>,
    keyboard: Option<OwnedFd>,
    front: Front,
) -> Service<Client<Front>, Order> {
    let server = server.clone();
    // There is one loop, so it is made once.
    let parts = Mutex::new(Some((front, keyboard)));
    let factory = move || {
        let parts = parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (front, keyboard) = parts.expect("one loop makes one client");
        let mut client = Client::new(options.name.clone(), addresses.clone(), front);
        if let Some(keyboard) = keyboard {
            client = client.keyboard(keyboard);
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
