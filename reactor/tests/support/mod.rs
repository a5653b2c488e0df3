//! Helpers of the tests of this crate: starting examples as from a shell, and leaving tests out under chaos.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses its part of this")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a test waits for what has to come. A guard against hanging, and never what makes a test pass.
pub const GUARD: Duration = Duration::from_secs(120);

/// The backends, by the names that `REACTOR_BACKEND` knows.
pub const BACKENDS: [&str; 2] = ["epoll", "select"];

/// Whether system calls fail on purpose, here and in every process that a test starts.
pub fn under_chaos() -> bool {
    cfg!(feature = "chaos") && std::env::var_os("REACTOR_CHAOS").is_some_and(|orders| !orders.is_empty())
}

/// Leaves out the rest of a test under chaos, and says so past the capture of its output: what is counted there comes
/// out differently when calls fail. Bytes, order, ends and reasons do not, so no test of those may be left out.
macro_rules! unless_chaos {
    ($why:literal) => {
        if crate::support::under_chaos() {
            use std::io::Write as _;
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = writeln!(std::io::stderr(), "left out under chaos: {test} {}", $why);
            return;
        }
    };
}
pub(crate) use unless_chaos;

/// Where `cargo test` has put the example: beside the directory of this test.
pub fn path_of(example: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a test knows where it is");
    let directory = this.parent().and_then(|deps| deps.parent()).expect("it is in target/PROFILE/deps");
    let path = directory.join("examples").join(example);
    assert!(path.exists(), "{} is not built: `cargo build --examples`", path.display());
    path
}

/// An example as a child process. Killed when dropped.
pub struct Example {
    pub child: Child,
    pub address: SocketAddr,
    /// The lines of standard output after the address.
    pub said: BufReader<ChildStdout>,
}

impl Example {
    pub fn start(name: &str, backend: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(path_of(name));
        command.args(arguments);
        Self::spawn(command, backend)
    }

    /// Starts `command`, whose first line says `listening tcp://ADDRESS`.
    pub fn spawn(mut command: Command, backend: &str) -> Self {
        command.env("REACTOR_BACKEND", backend).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (mut said, mut line) = (BufReader::new(child.stdout.take().expect("it is piped")), String::new());
        said.read_line(&mut line).expect("it is text");
        let address = line.trim().strip_prefix("listening tcp://").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("it said {line:?}"));
        Example { child, address, said }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Waits until no further client is let in, as is the case soon after a signal to stop. Attempts to connect without a pause would
    /// fill the listener's queue, and an attempt then takes seconds, in which the drain time passes.
    pub fn wait_for_closed_listener(&self) {
        while TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks it to end, and tells how it did.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
