//! `nats-server` as a child process, alone and as a cluster.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use reactor::Backend;
use rustix::process::{Pid, Signal, kill_process};

use crate::recorder::{Node, said};
use crate::support::GUARD;

/// Servers of a cluster: the fewest of which one may end.
const SERVERS: usize = 3;

/// Returns a free port below the range that the system gives to clients. The port stays free while its server is down, and a client
/// of a closed port does not connect to itself.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 450) as u16 * 40;
    loop {
        let port = FIRST + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running server, killed when dropped.
pub struct Engine {
    pub port: u16,
    options: Vec<String>,
    process: Child,
}

impl Engine {
    pub fn start(directory: &Path, options: &[&str]) -> Self {
        let mut engine = Self::begin(directory, options);
        engine.listens();
        engine
    }

    /// Starts a server that does not listen yet.
    fn begin(directory: &Path, options: &[&str]) -> Self {
        let port = free_port();
        let store = directory.join(format!("store-{port}"));
        let mut all = vec!["-a".into(), "127.0.0.1".into(), "-p".into(), port.to_string()];
        all.extend(["-sd".into(), store.to_str().expect("it is text").to_owned()]);
        all.extend(options.iter().map(|option| option.to_string()));
        let process = Self::spawn(&all);
        Engine { port, options: all, process }
    }

    fn spawn(options: &[String]) -> Child {
        let mut command = Process::new("nats-server");
        command.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("nats-server is installed")
    }

    /// Waits until the server listens.
    fn listens(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                started.elapsed() < GUARD && self.process.try_wait().expect("it is ours").is_none(),
                "it does not listen"
            );
            std::thread::yield_now();
        }
    }

    pub fn url(&self, login: &str) -> String {
        format!("nats://{login}127.0.0.1:{}", self.port)
    }

    pub fn tls_url(&self, login: &str) -> String {
        format!("tls://{login}localhost:{}", self.port)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    pub fn kill(&mut self) {
        self.end_by(Signal::KILL);
    }

    /// Ends the server by this signal, and waits for its end.
    pub fn end_by(&mut self, signal: Signal) {
        self.signal(signal);
        self.process.wait().expect("it is ours");
    }

    pub fn restart(&mut self) {
        self.process = Self::spawn(&self.options);
        self.listens();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three servers with JetStream in one cluster.
pub struct Cluster {
    pub engines: Vec<Engine>,
    /// A client for questions.
    asker: Option<Node>,
}

impl Cluster {
    /// Starts the servers. Some seconds may pass until JetStream has a leader.
    pub fn start(directory: &Path) -> Self {
        let routes: Vec<String> = (0..SERVERS).map(|_| format!("nats://127.0.0.1:{}", free_port())).collect();
        let all = routes.join(",");
        let server = |(number, route): (usize, &String)| {
            let name = format!("n{number}");
            let own = ["-js", "-n", &name, "--cluster_name", "tests", "--cluster", route, "--routes", &all];
            Engine::begin(directory, &own)
        };
        let mut engines: Vec<Engine> = routes.iter().enumerate().map(server).collect();
        engines.iter_mut().for_each(Engine::listens);
        Cluster { engines, asker: None }
    }

    /// Waits until the servers have chosen a leader for JetStream.
    pub fn with_leader(mut self, backend: Backend) -> Self {
        self.asker = Some(Node::start(backend, &self.engines.iter().map(|engine| engine.url("")).collect::<Vec<_>>()));
        self.until("$JS.API.STREAM.NAMES", |answer| answer.contains("\"streams\"").then_some(()));
        self
    }

    /// The place of the server that leads the bucket of this room, and the number of the bucket's replicas.
    pub fn leader_of(&self, room: &str) -> (usize, usize) {
        let info = format!("$JS.API.STREAM.INFO.KV_glowplug_{room}");
        self.until(&info, |answer| {
            let place = (0..SERVERS).find(|place| answer.contains(&format!("\"leader\":\"n{place}\"")))?;
            let replicas = (1..=SERVERS).find(|count| answer.contains(&format!("\"num_replicas\":{count}")))?;
            Some((place, replicas))
        })
    }

    /// Asks until the answer is of interest.
    fn until<T>(&self, subject: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let (asker, started) = (self.asker.as_ref().expect("the servers have a leader"), Instant::now());
        loop {
            let answer = asker.try_ask(said(subject, ""), 1);
            match find(answer.as_deref().unwrap_or_default()) {
                Some(found) => return found,
                None => assert!(started.elapsed() < 3 * GUARD, "{subject}: {answer:?}"),
            }
        }
    }
}
