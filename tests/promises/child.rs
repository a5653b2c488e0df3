//! Child processes for tests of signals, of limits, and of the number of descriptors. A child runs this test binary again, in a
//! role that the environment names.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use reactor::{Application, Backend, Context, Handler, Input, Runner, Service};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::records::Records;
use crate::stage::{Client, Transport, client_of};

/// The variable with the role. Without a role, the child is a test that does nothing.
const ROLE: &str = "PROMISES_ROLE";
/// The variable that has the child put a layer below its connections.
const LAYERED: &str = "PROMISES_LAYERED";

/// Lines of a kilobyte each, to fill the buffers towards a peer that does not read.
pub static LINES: [u8; 64 << 10] = {
    let mut lines = [b'x'; 64 << 10];
    let mut at = 1023;
    while at < lines.len() {
        lines[at] = b'\n';
        at += 1024;
    }
    lines
};

/// Read-locked while a process starts, until it says something. Until it has become another program it has a copy of every
/// descriptor of this process, listening sockets included, and the kernel wakes the parent a little before the copies are
/// closed. A test that binds an address again right after its release takes the write lock.
pub static STARTS: RwLock<()> = RwLock::new(());

/// This binary in a role. Killed on drop.
pub struct Child {
    pub process: std::process::Child,
    pub address: SocketAddr,
    transport: Transport,
}

impl Child {
    pub fn start(role: &str, transport: impl Into<Transport>) -> Self {
        // A shell ignores SIGINT for background processes, and the child would inherit the ignored signal.
        Self::start_by(role, transport, "exec env --default-signal=INT \"$0\" \"$@\"")
    }

    /// Starts the child by a shell, which sets limits before it becomes the child.
    pub fn start_by(role: &str, transport: impl Into<Transport>, script: &str) -> Self {
        let transport = transport.into();
        let this = std::env::current_exe().expect("a test knows where it is");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(this);
        command.args(["--exact", "child::a_role", "--ignored", "--nocapture", "--test-threads=2"]);
        command.env(ROLE, role).env("REACTOR_BACKEND", transport.backend.to_string());
        if transport.layered {
            command.env(LAYERED, "1");
        }
        let starts = STARTS.read().unwrap_or_else(|failed| failed.into_inner());
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("there is a shell");
        let mut said = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let address =
            said.find_map(|line| line.expect("it is text").split_once("listening tcp://")?.1.trim().parse().ok());
        drop(starts);
        Child { process, address: address.expect("it says where it listens"), transport }
    }

    pub fn client(&self) -> Client {
        let socket = client_of(self.address);
        if self.transport.layered { Client::layered(socket) } else { socket.into() }
    }

    /// Resident memory of the child, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is told");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it is there");
    }

    /// Waits for the child to end by itself. Returns its exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.process.wait().expect("it is our child").code()
    }

    /// Stops the child with SIGTERM. Returns its exit code.
    pub fn terminate(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers each line with the line itself, and `counters` with the values of a [`Count`].
struct Lines;

impl Handler for Lines {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            if line == b"file\n" {
                let file = std::env::temp_dir().join(format!("promises-files-{}", std::process::id()));
                let long = File::options().read(true).write(true).create(true).truncate(true).open(&file);
                let long = long.expect("there is room for it");
                std::fs::remove_file(file).expect("it is ours");
                long.set_len(1 << 30).expect("it takes no room");
                cx.write_file(Arc::new(long), 0..1 << 30);
            } else if line == b"counters\n" {
                let (stats, warnings) = (cx.stats(), WARNINGS.0.load(SeqCst));
                cx.write(format!("{} {} {warnings}\n", stats.turns, stats.accept_starved));
            } else {
                cx.write(line);
            }
        }
    }
}

/// Counters of an echoing child.
pub struct Count {
    pub turns: u64,
    /// How often accepting was suspended for lack of descriptors.
    pub starved: u64,
    /// Lines of its log at WARN.
    pub warnings: u64,
}

/// Asks an echoing child for its counters.
pub fn counters(client: &mut Client) -> Count {
    client.write_all(b"counters\n").expect("it is open");
    let mut line = String::new();
    BufReader::with_capacity(1, client).read_line(&mut line).expect("it answers");
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let [turns, starved, warnings] = numbers[..] else { panic!("{line:?}") };
    Count { turns, starved, warnings }
}

/// A log that only counts lines.
struct Warnings(AtomicU64);

static WARNINGS: Warnings = Warnings(AtomicU64::new(0));

impl Log for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // The duration of a callback depends on the machine.
        if !record.args().to_string().contains("held the loop") {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn flush(&self) {}
}

pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count() - 1
}

/// Runs a loop that echoes lines, until a signal ends the process.
fn echo(change: impl FnOnce(&mut Application)) {
    echo_by(Runner::default(), change);
}

fn echo_by(runner: Runner, change: impl FnOnce(&mut Application)) {
    log::set_logger(&WARNINGS).expect("this process has no other");
    log::set_max_level(LevelFilter::Warn);
    let mut application = Application::with(Backend::Auto, runner).expect("the backend is there");
    let service = Service::tcp("127.0.0.1:0", || Lines);
    let service = if std::env::var_os(LAYERED).is_some() { service.layered(Records::quiet_server) } else { service };
    let echo = application.add_service(service).expect("a port is free");
    application.handle_signals().expect("nobody else has them");
    application.on_report(|_| {});
    change(&mut application);
    println!("\nlistening {}", echo.address().expect("it listens"));
    application.run().expect("it ends well");
}

/// Leaves only three or four free descriptors, without telling the application.
fn starve(_: &mut Application) {
    let listing = std::fs::read_dir("/proc/self/fd").expect("procfs");
    let taken: Vec<u64> = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let fourth = (0..).filter(|number| !taken.contains(number)).nth(3);
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: fourth, maximum }).expect("it is less");
}

/// Leaves only three or four free descriptors, and waits at a stop without limit until all connections have ended.
fn starve_for_ever(application: &mut Application) {
    application.drain_timeout(None);
    starve(application);
}

/// Runs and ends applications repeatedly in one process, and compares the number of open descriptors.
fn come_and_go() {
    let once = || {
        let mut application = Application::new().expect("the backend is there");
        let echo = application.add_service(Service::tcp("127.0.0.1:0", || Lines)).expect("a port is free");
        let Some(&reactor::Address::Tcp(address)) = echo.address() else { panic!("it listens on TCP") };
        let handle = application.handle();
        application.drain_timeout(Some(Duration::from_millis(10)));
        let talk = std::thread::spawn(move || {
            let mut clients: Vec<Client> = (0..10).map(|_| client_of(address).into()).collect();
            clients.iter_mut().for_each(|client| crate::stage::round_trip(client, b"hello\n"));
            clients.truncate(5);
            // One client has queued bytes at the end, and does not read them.
            crate::stage::send_until_stuck(&clients[0], &LINES, 64 << 20);
            handle.halt();
            clients
        });
        application.run().expect("it ends well");
        drop(talk.join().expect("all were answered"));
    };
    once();
    let before = open_descriptors();
    (0..3).for_each(|_| once());
    assert_eq!(open_descriptors(), before);
}

#[test]
#[ignore = "the other half of tests that need a process of their own"]
fn a_role() {
    let role = std::env::var(ROLE).unwrap_or_default();
    let told = std::panic::catch_unwind(|| match &*role {
        "" => {}
        "echo" => echo(|_| {}),
        "patient" => echo(|application| {
            application.drain_timeout(None);
        }),
        "files" => echo(|_| {}),
        "two loops" => echo_by(Runner::loops(2).expect("it is a number"), |_| {}),
        "starving" => echo(starve),
        "starving and patient" => echo(starve_for_ever),
        "come and go" => {
            println!("\nlistening tcp://127.0.0.1:1");
            come_and_go();
        }
        other => panic!("no role is called {other:?}"),
    });
    if !role.is_empty() {
        std::process::exit(i32::from(told.is_err()));
    }
}
