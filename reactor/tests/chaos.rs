//! A service whose system calls fail on purpose, over real sockets: what reaches its peers is the same to the byte, and
//! the log says that calls did fail. In a process of its own, since the variable is read from the environment.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use reactor::{Application, Context, Handler, Input, Service};
use rustix::process::{Pid, Signal, kill_process};
use support::{BACKENDS, GUARD};

/// The variable that says which role; without it a child is a test that does nothing.
const ROLE: &str = "CHAOS_ROLE";
const EIGHT_MB: usize = 8 << 20;
const ALL: &str = "short_io:0.3,eagain:0.3,eintr:0.3,emfile:0.3,spurious:0.3,seed=7";

/// Sends everything back, after one byte that says whether accepting has rested.
struct Echo;

impl Handler for Echo {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        let starved = u8::from(cx.stats().accept_starved > 0);
        cx.write([starved]);
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        cx.write(input.take_all());
    }
}

/// Every line of the log, on standard output.
struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            println!("[{}] {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

fn serve() -> Result<(), reactor::Error> {
    let mut application = Application::new()?;
    let echo = application.add_service(Service::tcp("127.0.0.1:0", || Echo))?;
    application.handle_signals()?;
    println!("listening {}", echo.address().expect("it listens"));
    application.run()
}

#[test]
#[ignore = "the other half of tests that need a process of their own"]
fn a_role() {
    let role = std::env::var(ROLE).unwrap_or_default();
    match &*role {
        "" => return,
        "logging" => {
            log::set_logger(&Log).expect("nobody else logs");
            log::set_max_level(log::LevelFilter::Info);
        }
        "silent" => {}
        other => panic!("no role is called {other:?}"),
    }
    println!();
    let outcome = serve();
    if let Err(error) = &outcome {
        println!("error: {error}");
    }
    std::process::exit(i32::from(outcome.is_err()));
}

/// This binary in a role. Killed when dropped.
struct Served {
    child: Child,
    address: Option<SocketAddr>,
    said: BufReader<std::process::ChildStdout>,
    /// The lines of standard output before the address.
    before: String,
}

/// The exit status and the whole output of an example.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Served {
    fn start(role: &str, backend: &str, chaos: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a test knows where it is"));
        command.args(["--exact", "a_role", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env("REACTOR_BACKEND", backend).env_remove("REACTOR_CHAOS");
        command.envs(chaos.map(|chaos| ("REACTOR_CHAOS", chaos)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let (mut before, mut address) = (String::new(), None);
        while address.is_none() {
            let from = before.len();
            if said.read_line(&mut before).expect("it is text") == 0 {
                break;
            }
            address = before[from..].trim().strip_prefix("listening tcp://").map(|at| at.parse().expect("an address"));
        }
        Served { child, address, said, before }
    }

    /// A client, and whether accepting had rested before it was let in.
    fn connect(&self) -> (TcpStream, bool) {
        let mut client = TcpStream::connect(self.address.expect("it listens")).expect("it listens");
        client.set_read_timeout(Some(GUARD)).expect("not zero");
        client.set_write_timeout(Some(GUARD)).expect("not zero");
        let mut starved = [0];
        client.read_exact(&mut starved).expect("it says so");
        (client, starved == [1])
    }

    /// Has it end in good order, or waits until it has ended by itself.
    fn end(mut self) -> Ended {
        if self.address.is_some() {
            kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it is there");
        }
        let (mut stdout, mut stderr) = (std::mem::take(&mut self.before), String::new());
        self.said.read_to_string(&mut stdout).expect("it is text");
        self.child.stderr.take().expect("it is piped").read_to_string(&mut stderr).expect("it is text");
        Ended { code: self.child.wait().expect("it is ours").code(), stdout, stderr }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that show where one is missing, doubled or in the wrong place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

#[test]
fn a_large_transfer_is_the_same_to_the_byte_and_every_fault_has_struck() {
    for backend in BACKENDS {
        let served = Served::start("logging", backend, Some(ALL));
        let begin = Instant::now();
        let mut client = loop {
            let (client, starved) = served.connect();
            if starved {
                break client;
            }
            assert!(begin.elapsed() < GUARD, "no accept has failed");
        };
        let (bytes, mut received) = (pattern(EIGHT_MB), Vec::new());
        std::thread::scope(|scope| {
            let mut sender = client.try_clone().expect("a descriptor is free");
            let bytes = &bytes;
            scope.spawn(move || {
                sender.write_all(bytes).expect("it is open");
                sender.shutdown(Shutdown::Write).expect("it is open");
            });
            client.read_to_end(&mut received).expect("it ends in order");
        });
        assert_eq!(received.len(), bytes.len(), "{backend}");
        assert!(
            received == bytes,
            "they differ at {:?}",
            received.iter().zip(&bytes).position(|(one, two)| one != two)
        );

        let Ended { code, stdout, .. } = served.end();
        assert_eq!(code, Some(0), "{backend}: {stdout}");
        assert!(stdout.contains(&format!("[WARN] system calls fail on purpose: REACTOR_CHAOS={ALL}\n")), "{stdout}");
        let counts = stdout.split_once("[INFO] calls that failed on purpose: ").expect("they are told at the end").1;
        for fault in ["short_io", "eagain", "eintr", "emfile", "spurious"] {
            let count = counts.split_once(&format!("{fault} ")).expect("each is counted").1;
            let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
            assert!(digits.parse::<u64>().expect("a count") > 0, "{backend}: {fault}: {counts}");
        }
    }
}

#[test]
fn unless_it_is_asked_for_nothing_fails_and_nothing_is_said() {
    for chaos in [None, Some("")] {
        let served = Served::start("logging", "auto", chaos);
        drop(served.connect());
        let Ended { code, stdout, stderr } = served.end();
        assert_eq!(code, Some(0), "{stdout}");
        assert!(!stdout.contains("on purpose") && !stderr.contains("on purpose"), "{stdout}{stderr}");
    }
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_before_anything_is_bound() {
    let served = Served::start("logging", "auto", Some("eagain:0.1,slow_io:0.5"));
    assert_eq!(served.address, None);
    let Ended { code, stdout, .. } = served.end();
    assert_eq!(code, Some(1));
    let told =
        "error: REACTOR_CHAOS: \"slow_io:0.5\": no such fault: it is one of short_io, eagain, eintr, emfile, spurious";
    assert!(stdout.contains(told), "{stdout}");
}

#[test]
fn a_seed_that_nobody_chose_is_told_even_where_nobody_logs_and_is_another_each_time() {
    let seed = || {
        let served = Served::start("silent", "auto", Some("short_io:0.5"));
        drop(served.connect());
        let Ended { code, stderr, .. } = served.end();
        assert_eq!(code, Some(0), "{stderr}");
        let told =
            "system calls fail on purpose: REACTOR_CHAOS=short_io:0.5,eagain:0,eintr:0,emfile:0,spurious:0,seed=";
        let seed = stderr.split_once(told).unwrap_or_else(|| panic!("{stderr}")).1;
        seed.trim().parse::<u64>().expect("a seed")
    };
    assert_ne!(seed(), seed());
}
