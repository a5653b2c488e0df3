//! HTTP over TLS 1.3 beside nginx: requests on kept connections, full handshakes, resumed handshakes, and the latency of
//! an established connection among new ones. The figure is the CPU time of a request, or of a handshake, for each server.
//!
//! `cargo bench --bench tls -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rig::load::Load;
use rig::options::{self, Cases, Shared, Value};
use rig::others;
use rig::site::{self, BODY, FIXED};
use rig::{Rig, Served, Server};

const USAGE: &str = "\
Measures glowplug's HTTP over TLS 1.3 beside nginx on loopback, with one cipher suite, X25519 and an ECDSA P-256
certificate. Takes about five minutes; --quick, some seconds.

usage: cargo bench --bench tls -- [OPTIONS]

--quick               few and short slices: shows that everything works, proves nothing
--only CASE           the cases whose name has this in it
--suite SUITE         aes128, aes256 or chacha20: aes128
--rate N              new connections per second beside an established one: 500
--rounds N            slices of each server in each case: 30
--seconds S           one slice: 0.3
--cpu N               the core that servers and load share; the first one allowed
--glowplug PATH       measure this binary instead of the one that cargo has built";

/// A row: the load.
struct Case {
    name: &'static str,
    load: What,
    connections: usize,
}

enum What {
    /// Requests for a path on kept connections: its bytes, and the requests that are sent at once.
    Requests { path: &'static str, size: usize, depth: usize },
    /// `full` or `resumed`.
    Handshakes(&'static str),
}

const fn kept(name: &'static str, path: &'static str, size: usize, connections: usize, depth: usize) -> Case {
    Case { name, load: What::Requests { path, size, depth }, connections }
}

const CASES: [Case; 8] = [
    kept("fixed answer", FIXED, BODY.len(), 1, 1),
    kept("fixed answer", FIXED, BODY.len(), 64, 1),
    kept("fixed answer", FIXED, BODY.len(), 256, 1),
    kept("fixed answer", FIXED, BODY.len(), 64, 16),
    kept("16 KiB", "16k.txt", 16 << 10, 64, 1),
    kept("1 MiB", "1m.txt", 1 << 20, 16, 1),
    Case { name: "full handshake", load: What::Handshakes("full"), connections: 16 },
    Case { name: "resumed handshake", load: What::Handshakes("resumed"), connections: 16 },
];

/// Connections that may be open at once while new ones begin on a schedule.
const PACED: usize = 1000;
/// The name of the last case, for `--only`.
const AMONG: &str = "among new connections";

struct Options {
    cases: Cases,
    suite: String,
    rate: usize,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options))
}

impl options::Options for Options {
    const NAME: &'static str = "tls";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options { cases: Cases::new(quick), suite: "aes128".to_owned(), rate: 500 }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.cases.shared
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--suite" => self.suite = value.text(),
            "--rate" => self.rate = value.number()?,
            _ => return Ok(self.cases.set(value)),
        }
        Ok(true)
    }
}

/// A file of the certificate that the tests use: ECDSA P-256, for `localhost`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls_files").join(name)
}

fn run(options: &Options) -> Result<(), String> {
    let mut rig = Rig::prepare(&options.cases.shared)?;
    let files = CASES.iter().filter_map(|case| match case.load {
        What::Requests { path, size, .. } if path != FIXED => Some((path, size)),
        _ => None,
    });
    site::prepare(&rig, files)?;
    let Shared { rounds, seconds, .. } = options.cases.shared;
    let what = format!("TLS 1.3, {}: {rounds} rounds of {seconds} s each, CPU time of the server.", options.suite);
    let with_nginx = site::begin(&rig, &what, "for each", "there are no ratios");
    for case in CASES.iter().filter(|case| options.cases.has(case.name)) {
        let (depth, has_file) = match case.load {
            What::Requests { path, depth, .. } => (depth, path != FIXED),
            What::Handshakes(_) => (1, false),
        };
        let servers = servers(&rig, with_nginx, has_file)?;
        let figures = (case.name, case.connections, depth);
        site::measure(figures, &options.cases.shared, &servers, |server| load(case, options, &rig, server))?;
    }
    if options.cases.has(AMONG) {
        // The clients' own cryptography would hold up the requests whose latency counts.
        rig.unpin();
        among_new_connections(options, &rig, with_nginx)?;
    }
    Ok(())
}

/// nginx, where nginx is installed, and glowplug.
fn servers(rig: &Rig, with_nginx: bool, with_files: bool) -> Result<Vec<Server>, String> {
    let (certificate, key) = (file("localhost.pem"), file("localhost.key"));
    let mut servers = Vec::new();
    if with_nginx {
        servers.push(others::nginx_tls(rig, BODY, &certificate, &key)?);
    }
    let [root, certificate, key] = [rig.scratch.join("root"), certificate, key].map(|path| path.display().to_string());
    let mut words = site::WORDS.to_vec();
    words.extend(["--tls-cert", &certificate, "--tls-key", &key]);
    if with_files {
        words.extend(["--root", &root]);
    }
    servers.push(rig.serve(&Served { name: "glowplug".to_owned(), program: rig.glowplug()?, words }, &[])?);
    Ok(servers)
}

fn load(case: &Case, options: &Options, rig: &Rig, server: &Server) -> Result<Load, String> {
    let connections = case.connections.to_string();
    match case.load {
        What::Requests { path, depth, .. } => requests(options, rig, server, path, [&connections, &depth.to_string()]),
        What::Handshakes(kind) => handshakes(options, rig, server, kind, &["--connections", &connections]),
    }
}

fn requests(
    options: &Options,
    rig: &Rig,
    server: &Server,
    path: &str,
    [connections, depth]: [&str; 2],
) -> Result<Load, String> {
    let path = format!("/{path}");
    let session = session(options);
    let words = [&path, "--connections", connections, "--depth", depth, "--tls"].into_iter();
    rig.ask(server, &["fetch"], &words.map(str::to_owned).chain(session).collect::<Vec<_>>())
}

fn handshakes(options: &Options, rig: &Rig, server: &Server, kind: &str, more: &[&str]) -> Result<Load, String> {
    let more = more.iter().copied().map(str::to_owned);
    rig.ask(server, &["handshakes", kind], &session(options).into_iter().chain(more).collect::<Vec<_>>())
}

/// The words of a load for its session: the certificate to trust, and the cipher suite.
fn session(options: &Options) -> [String; 2] {
    [file("localhost.pem").display().to_string(), options.suite.clone()]
}

/// The latency of requests on one established connection, alone and while new connections shake hands.
fn among_new_connections(options: &Options, rig: &Rig, with_nginx: bool) -> Result<(), String> {
    println!("\nRequests on one established connection while {} new connections a second shake hands.", options.rate);
    rig.conditions();
    println!("\n| who | new connections a second | p50 | p99 |");
    println!("| --- | ---: | ---: | ---: |");
    let seconds = options.cases.shared.rounds as f64 * options.cases.shared.seconds / 3.0;
    let (rate, most) = (options.rate.to_string(), PACED.to_string());
    for server in servers(rig, with_nginx, false)? {
        let mut established = requests(options, rig, &server, FIXED, ["1", "1"])?;
        let mut new = handshakes(options, rig, &server, "full", &["--connections", &most, "--rate", &rate])?;
        let alone = established.slice("seconds", seconds)?;
        new.begin("seconds", seconds)?;
        let among = established.slice("seconds", seconds)?;
        let begun = new.end(Duration::from_secs(60))?;
        let reached = begun.get("requests")? / begun.get("seconds")?;
        for (said, rate) in [(alone, 0.0), (among, reached)] {
            let [p50, p99] = [said.get("p50_us")?, said.get("p99_us")?].map(|micros| micros / 1e3);
            println!("| {} | {rate:.0} | {p50:.2} ms | {p99:.2} ms |", server.name);
        }
    }
    Ok(())
}
