//! The servers, each on a port of its own, and the load; pinned together.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::Rig;
use crate::rig::process::Process;
use crate::rig::server::cpu_nanos;

/// For a server to accept.
const START: Duration = Duration::from_secs(30);
/// For a load to have all its members in, and to end a slice.
const ANSWER: Duration = Duration::from_secs(60);

/// What the three promise for that time.
pub(crate) const GUARANTEES: &str = "\
| | glowplug chat | redis | nats (core) |
| --- | --- | --- | --- |
| order | each sender's, and each topic's | each channel's | each publisher's |
| one message | UTF-8 text checked and cleaned of control characters, the sender's name before it | bytes | bytes |
| a member that does not read | owed 1 MiB at most (`--member-queue`), then by `--slow`: told and disconnected, or whole messages dropped and \
counted in their place | owed 32 MB at most, 8 MB for 60 s; then cut off | owed 64 MiB at most, 10 s for a write; then cut off |
| what was dropped is told | yes | no | no |
| memory for that | bounded for each member | bounded for each member | bounded for each member |";

pub(crate) enum Contender {
    Glowplug { name: &'static str, path: PathBuf },
    Redis,
    Nats,
}

impl Contender {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Contender::Glowplug { name, .. } => name,
            Contender::Redis => "redis",
            Contender::Nats => "nats",
        }
    }

    pub(crate) fn program(&self) -> &'static str {
        match self {
            Contender::Glowplug { .. } => "glowplug",
            Contender::Redis => "redis-server",
            Contender::Nats => "nats-server",
        }
    }

    /// What it says of itself, if it is there.
    pub(crate) fn version(&self) -> Option<String> {
        let said = Command::new(self.program()).arg("--version").output().ok().filter(|said| said.status.success())?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    /// How the load speaks to it.
    fn way(&self) -> &'static str {
        match self {
            Contender::Glowplug { .. } => "chat",
            Contender::Redis => "redis",
            Contender::Nats => "nats",
        }
    }
}

pub(crate) struct Server {
    process: Process,
    address: String,
    pub(crate) name: &'static str,
    way: &'static str,
}

impl Server {
    /// Started, and accepting.
    pub(crate) fn start(rig: &Rig, contender: &Contender) -> Result<Server, String> {
        let name = contender.name();
        let told = |why: String| format!("{name}: {why}");
        let port = free_port().map_err(|why| told(why.to_string()))?;
        let number = port.to_string();
        let scratch = rig.scratch.display().to_string();
        let program = match contender {
            Contender::Glowplug { path, .. } => path.as_path(),
            other => Path::new(other.program()),
        };
        let words: Vec<&str> = match contender {
            Contender::Glowplug { .. } => vec!["chat", "serve", "--port", &number, "--log-level", "warn"],
            // Nothing is kept on disk, and nothing else is done beside.
            Contender::Redis => vec![
                "--bind",
                "127.0.0.1",
                "--port",
                &number,
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                &scratch,
                "--loglevel",
                "warning",
                "--maxclients",
                "20000",
            ],
            Contender::Nats => {
                let path = rig.scratch.join("nats.conf");
                // It asks idle clients whether they are there; the load answers once.
                let config = "ping_interval: \"1h\"\nmax_connections: 20000\nlogfile_size_limit: 1MB\n";
                std::fs::write(&path, config).map_err(|why| told(why.to_string()))?;
                vec!["-a", "127.0.0.1", "-p", &number, "-c", "nats.conf", "-l", "nats.log"]
            }
        };
        let words: Vec<String> = words
            .into_iter()
            .map(|word| match word {
                "nats.conf" | "nats.log" => rig.scratch.join(word).display().to_string(),
                word => word.to_owned(),
            })
            .collect();
        let mut process = Process::start(&rig.words(program, &words)).map_err(told)?;
        let (begin, address) = (Instant::now(), format!("127.0.0.1:{port}"));
        while std::net::TcpStream::connect(&address).is_err() {
            if let Ok(Some(status)) = process.wait(Duration::ZERO) {
                return Err(told(format!("it has ended: {status}")));
            }
            if begin.elapsed() > START {
                return Err(told(format!("it does not listen at {address}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Server { process, address, name, way: contender.way() })
    }

    /// A load whose members are all in, and have heard something.
    pub(crate) fn load(&self, rig: &Rig, members: usize, depth: usize, size: usize) -> Result<Load, String> {
        let [members, depth, size] = [members, depth, size].map(|number| number.to_string());
        let words =
            ["fanout", self.way, &self.address, "--slices", "--members", &members, "--depth", &depth, "--size", &size];
        let told = |why| format!("load for {}: {why}", self.name);
        let mut process = Process::start(&rig.words(&rig.peers, &words.map(str::to_owned))).map_err(told)?;
        let ready = process.line(ANSWER).map_err(told)?;
        if ready.starts_with("ready ") { Ok(Load { process, name: self.name }) } else { Err(told(ready)) }
    }

    /// CPU time of all its threads so far, in nanoseconds.
    pub(crate) fn cpu_nanos(&self) -> Result<u64, String> {
        cpu_nanos(self.process.id()).map_err(|why| format!("{}: its CPU time: {why}", self.name))
    }
}

pub(crate) struct Load {
    process: Process,
    name: &'static str,
}

/// What the load says of one slice.
pub(crate) struct Slice {
    pub(crate) deliveries: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Load {
    /// Runs one slice; every member has got everything, and rightly, when this returns.
    pub(crate) fn slice(&mut self, seconds: f64) -> Result<Slice, String> {
        let told = |why| format!("load for {}: {why}", self.name);
        self.process.say(&format!("seconds {seconds}\n")).map_err(|why| told(why.to_string()))?;
        let line = self.process.line(ANSWER + Duration::from_secs_f64(seconds)).map_err(told)?;
        let field = |name: &str| -> Option<f64> {
            line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        };
        let get = |name| field(name).ok_or_else(|| told(format!("no {name} in: {line}")));
        Ok(Slice { deliveries: get("deliveries")?, p50_us: get("p50_us")?, p99_us: get("p99_us")? })
    }
}

/// Free a moment ago, and on loopback nobody takes it that soon.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
