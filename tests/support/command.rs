//! The `glowplug` command as a child process. Its output is read as it comes, so the command never waits for the test.
//! The command is killed when the test is done with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{io::Read, thread};

use reactor::{Address, Backend};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::{GUARD, under_chaos};

/// A running command.
pub struct Glowplug {
    child: Child,
    stdout: Told,
    stderr: Told,
    listening: Vec<(String, Address)>,
}

/// The result of a command that has ended.
pub struct Ended {
    /// `None` after a death by signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The command with these words, split at blanks, on this backend.
pub fn command(backend: Backend, words: &str) -> Command {
    // A shell ignores SIGINT in background jobs, and tests and their children would inherit the ignored signal.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let glowplug = env!("CARGO_BIN_EXE_glowplug");
    let mut command = if ignored.is_some_and(|set| set & (1 << (Signal::INT.as_raw() - 1)) != 0) {
        let mut by_env = Command::new("env");
        by_env.args(["--default-signal=INT", glowplug]);
        by_env
    } else {
        Command::new(glowplug)
    };
    command.args(words.split_whitespace());
    dress(&mut command, backend);
    command
}

/// Copies the command, for a user who cannot search the directory of the command itself. Another process writes the copy: a program
/// that this process starts meanwhile has the descriptors of this process for a moment, and a file that is open for writing cannot be
/// executed.
pub fn copy_of_the_command(to: &Path) {
    let copied = Command::new("install").args(["-m", "755", env!("CARGO_BIN_EXE_glowplug")]).arg(to).status();
    assert!(copied.expect("install(1) is there").success(), "no room for a copy");
}

/// The command, started by a shell: `script` ends with `exec "$0" "$@"` and a redirection.
pub fn shell(backend: Backend, script: &str, words: &str) -> Command {
    shell_named("/bin/sh", backend, script, words)
}

fn shell_named(shell: &str, backend: Backend, script: &str, words: &str) -> Command {
    let mut command = Command::new(shell);
    command.args(["-c", script, env!("CARGO_BIN_EXE_glowplug")]).args(words.split_whitespace());
    dress(&mut command, backend);
    command
}

/// Runs a script as [`shell`] does, with bash, for scripts that sh(1) does not know.
pub fn bash(backend: Backend, script: &str, words: &str) -> Command {
    shell_named("bash", backend, script, words)
}

fn dress(command: &mut Command, backend: Backend) {
    command.env("REACTOR_BACKEND", backend.to_string());
    for inherited in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NO_COLOR"] {
        command.env_remove(inherited);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Runs the command to its end.
pub fn run(backend: Backend, words: &str) -> Ended {
    Glowplug::spawn(command(backend, words)).end()
}

impl Glowplug {
    /// Starts the command and waits for the first `listening` line.
    pub fn start(backend: Backend, words: &str) -> Self {
        let mut glowplug = Glowplug::spawn(command(backend, words));
        glowplug.listens();
        glowplug
    }

    /// Starts any command. Only pipes are read.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the command is built");
        let stdout = child.stdout.take().map_or_else(Told::nothing, Told::of);
        let stderr = child.stderr.take().map_or_else(Told::nothing, Told::of);
        Glowplug { child, stdout, stderr, listening: Vec::new() }
    }

    /// Reads the next `listening` line: the service and its address.
    pub fn listens(&mut self) -> (String, Address) {
        let Some(line) = self.stdout.line() else {
            panic!("it listens nowhere: {}", self.stderr.rest());
        };
        let words: Vec<_> = line.split(' ').collect();
        let ["listening", service, address] = words[..] else { panic!("not a listening line: {line:?}") };
        let address: Address = address.parse().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        self.listening.push((service.to_owned(), address.clone()));
        (service.to_owned(), address)
    }

    /// The address of the first service.
    pub fn address(&self) -> &Address {
        &self.listening[0].1
    }

    /// The TCP address of the first service.
    pub fn tcp(&self) -> SocketAddr {
        tcp_of(self.address())
    }

    /// A client of the first service.
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The command's standard input, if that is a pipe. Dropping it closes the pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it is piped, and asked for once")
    }

    /// The next line of standard output; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        self.stdout.line()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        // The test has not waited for the child yet, so its number is still valid.
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Stops the command with SIGSTOP, and waits until each of its threads stands still. Bytes and connections that come meanwhile
    /// are there together when [`go_on`](Self::go_on) has the command continue.
    pub fn stand_still(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        let is_still = |task: PathBuf| {
            // A thread that has ended meanwhile has no state.
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['T', 'Z', 'X']))
        };
        eventually("threads that stand still", || {
            let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").map_while(Result::ok);
            tasks.all(|task| is_still(task.path())).then_some(())
        });
    }

    /// Has the command continue after [`stand_still`](Self::stand_still).
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until standard error contains the text.
    pub fn told(&mut self, text: &str) {
        self.stderr.until(text);
    }

    /// Waits until standard error contains this text, and removes everything up to its end, so that a later call waits
    /// for new text.
    pub fn told_up_to(&mut self, text: &str) -> String {
        self.stderr.until(text);
        let end = self.stderr.text.find(text).expect("it was waited for") + text.len();
        self.stderr.text.drain(..end).collect()
    }

    /// Waits for the command to end.
    pub fn end(mut self) -> Ended {
        let status = self.wait();
        Ended { code: status.code(), stdout: self.stdout.rest(), stderr: without_chaos(self.stderr.rest()) }
    }

    /// Stops the command with SIGTERM, and expects status 0.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// Whether the command has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the end of the command", || self.child.try_wait().expect("it is ours"))
    }
}

impl Drop for Glowplug {
    fn drop(&mut self) {
        // Fails if the command has ended, which does not matter here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn tcp_of(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("not TCP: {}", path.display()),
    }
}

/// Standard error without the lines that chaos causes.
fn without_chaos(stderr: String) -> String {
    if !under_chaos() {
        return stderr;
    }
    let by_chaos = ["REACTOR_CHAOS=", "new connections wait: Too many open files"];
    stderr.split_inclusive('\n').filter(|line| !by_chaos.iter().any(|said| line.contains(said))).collect()
}

/// Tries until the attempt returns a value.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(begin.elapsed() < GUARD, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The text of a pipe, read by a thread as it comes.
struct Told {
    pieces: Receiver<Vec<u8>>,
    /// The whole text so far.
    text: String,
    /// The length of the text that was already taken by lines.
    taken: usize,
}

impl Told {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = channel();
        thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Told { pieces, text: String::new(), taken: 0 }
    }

    fn nothing() -> Self {
        Told { pieces: channel().1, text: String::new(), taken: 0 }
    }

    /// Waits for more text; false at the end.
    fn hear(&mut self) -> bool {
        match self.pieces.recv_timeout(GUARD) {
            Ok(piece) => {
                self.text.push_str(&String::from_utf8_lossy(&piece));
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("waited in vain after {:?}", self.text),
        }
    }

    /// The next line without its ending; none at the end.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(length) = self.text[self.taken..].find('\n') {
                let line = self.text[self.taken..][..length].to_owned();
                self.taken += length + 1;
                return Some(line);
            }
            if !self.hear() {
                return None;
            }
        }
    }

    fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            assert!(self.hear(), "{wanted:?} is not in {:?}", self.text);
        }
    }

    /// Everything, once the pipe has ended.
    fn rest(&mut self) -> String {
        while self.hear() {}
        std::mem::take(&mut self.text)
    }
}

/// A directory for one test, removed at its end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("glowplug-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory for the test");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
