//! Files beside nginx, and beside a floor that sends as many bytes without reading the request: an equal load, in
//! turns. The figure is the CPU time of a request for each server.
//!
//! `cargo bench --bench files -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

use std::process::ExitCode;
use std::time::Duration;

use rig::figures::{median, quantile, verdict};
use rig::load::Load;
use rig::options::{self, Shared, Value};
use rig::others;
use rig::rounds::{Sample, interleaved};
use rig::{Rig, Served, Server};

const USAGE: &str = "\
Measures glowplug's files beside nginx on loopback. Takes about five minutes; --quick, some seconds.

usage: cargo bench --bench files -- [OPTIONS]

--quick               few and short slices: shows that everything works, proves nothing
--only CASE           the cases whose name has this in it
--rounds N            slices of each server in each case: 30
--seconds S           one slice: 0.3
--cpu N               the core that servers and load share; the first one allowed
--glowplug PATH       measure this binary instead of the one that cargo has built";

/// A row: the request, and the load.
struct Case {
    name: &'static str,
    path: &'static str,
    /// Bytes of the content.
    size: usize,
    connections: usize,
    depth: usize,
    fresh: bool,
}

const fn kept(name: &'static str, file: (&'static str, usize), connections: usize, depth: usize) -> Case {
    Case { name, path: file.0, size: file.1, connections, depth, fresh: false }
}

const BODY: &str = "Hello from Epoll Server!";
const FIXED: (&str, usize) = ("fixed", BODY.len());
const KIB: (&str, usize) = ("1k.txt", 1 << 10);
const KIB_16: (&str, usize) = ("16k.txt", 16 << 10);
const KIB_64: (&str, usize) = ("64k.txt", 64 << 10);
const MIB: (&str, usize) = ("1m.txt", 1 << 20);

const CASES: [Case; 8] = [
    kept("fixed answer", FIXED, 64, 1),
    kept("fixed answer", FIXED, 64, 16),
    kept("1 KiB", KIB, 64, 1),
    kept("1 KiB", KIB, 64, 16),
    Case { fresh: true, ..kept("1 KiB, a connection each", KIB, 64, 1) },
    kept("16 KiB", KIB_16, 64, 1),
    kept("64 KiB", KIB_64, 64, 1),
    kept("1 MiB", MIB, 16, 1),
];

/// Age at which the tag of a file no longer changes.
const TAG_IS_STRONG: Duration = Duration::from_secs(3);

struct Options {
    shared: Shared,
    only: String,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options))
}

impl options::Options for Options {
    const NAME: &'static str = "files";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        let shared = if quick { Shared::new(3, 0.1) } else { Shared::new(30, 0.3) };
        Options { shared, only: String::new() }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--only" => self.only = value.text(),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn run(options: &Options) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
    std::fs::create_dir(rig.scratch.join("root")).map_err(|why| format!("root: {why}"))?;
    for (name, size) in [KIB, KIB_16, KIB_64, MIB] {
        let content: Vec<u8> = (0..size).map(|at| b'a' + (at % 23) as u8).collect();
        write(&rig, &format!("root/{name}"), &content)?;
    }
    write(&rig, "root/fixed", BODY.as_bytes())?;
    // A load compares every byte, and the tag of a file of less than two seconds is weak, then strong.
    std::thread::sleep(TAG_IS_STRONG);
    let with_nginx = others::has_nginx();
    let Shared { rounds, seconds, .. } = options.shared;
    println!("{rounds} rounds of {seconds} s each, CPU time of the server per request.");
    rig.conditions();
    if !with_nginx {
        println!("nginx is not installed: ratios are to the floor.");
    }
    println!("\n| what | connections × depth | who | CPU per request | ratio | p20–p80 | verdict |");
    println!("| --- | ---: | --- | ---: | ---: | --- | --- |");
    for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
        measure(case, options, &rig, with_nginx)?;
    }
    Ok(())
}

/// Ratios are to the first contender: nginx, where nginx is installed.
fn measure(case: &Case, options: &Options, rig: &Rig, with_nginx: bool) -> Result<(), String> {
    let mut servers = if with_nginx { vec![others::nginx(rig, BODY)?] } else { Vec::new() };
    servers.push(floor(case, rig)?);
    servers.push(glowplug(case, rig)?);
    let mut loads = servers.iter().map(|server| load(case, rig, server)).collect::<Result<Vec<_>, _>>()?;
    let timed = interleaved(options.shared.rounds, servers.len(), |index| {
        Sample::take(&servers[index], &mut loads[index], options.shared.seconds, "requests")
    })?;
    for (server, figures) in servers.iter().zip(&timed) {
        let (micros, ratios) = (median(&figures.cpu_nanos) / 1e3, &figures.ratios);
        let [low, middle, high] = [0.2, 0.5, 0.8].map(|share| quantile(ratios, share));
        let (name, verdict) = (&server.name, verdict(ratios));
        let what = format!("{} | {} × {}", case.name, case.connections, case.depth);
        println!("| {what} | {name} | {micros:.2} µs | {middle:.2} | {low:.2}–{high:.2} | {verdict} |");
    }
    Ok(())
}

/// Two of glowplug: one without files for the fixed answer, one with files.
fn glowplug(case: &Case, rig: &Rig) -> Result<Server, String> {
    let root = rig.scratch.join("root").display().to_string();
    let mut words = vec!["http", "--log-level", "warn", "--idle-timeout", "0"];
    if case.path != FIXED.0 {
        words.extend(["--root", &root]);
    }
    rig.serve(&Served { name: "glowplug".to_owned(), program: rig.glowplug()?, words }, &[])
}

/// As many bytes from memory, for any request that ends with an empty line.
fn floor(case: &Case, rig: &Rig) -> Result<Server, String> {
    let size = case.size.to_string();
    let words = vec!["floor", &size, if case.fresh { "closed" } else { "kept" }];
    rig.serve(&Served { name: "floor".to_owned(), program: &rig.peers, words }, &[])
}

fn load(case: &Case, rig: &Rig, server: &Server) -> Result<Load, String> {
    let mut words = vec![format!("/{}", case.path)];
    words.extend(["--connections".to_owned(), case.connections.to_string()]);
    words.extend(["--depth".to_owned(), case.depth.to_string()]);
    words.extend(case.fresh.then(|| "--fresh".to_owned()));
    rig.ask(server, &["fetch"], &words)
}

fn write(rig: &Rig, name: &str, content: &[u8]) -> Result<(), String> {
    std::fs::write(rig.scratch.join(name), content).map_err(|why| format!("{name}: {why}"))
}
