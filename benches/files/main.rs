//! Files beside nginx, and beside a floor that sends as many bytes without reading the request: an equal load, in
//! turns. The figure is the CPU time of a request for each server.
//!
//! `cargo bench --bench files -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

use std::process::ExitCode;

use rig::load::Load;
use rig::options::{self, Cases, Shared, Value};
use rig::others;
use rig::site::{self, BODY};
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

const FIXED: (&str, usize) = (site::FIXED, BODY.len());
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

struct Options(Cases);

fn main() -> ExitCode {
    options::main(|options: Options| run(&options.0))
}

impl options::Options for Options {
    const NAME: &'static str = "files";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options(Cases::new(quick))
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.0.shared
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        Ok(self.0.set(value))
    }
}

fn run(options: &Cases) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
    site::prepare(&rig, [KIB, KIB_16, KIB_64, MIB])?;
    let Shared { rounds, seconds, .. } = options.shared;
    let what = format!("{rounds} rounds of {seconds} s each, CPU time of the server per request.");
    let with_nginx = site::begin(&rig, &what, "per request", "ratios are to the floor");
    for case in CASES.iter().filter(|case| options.has(case.name)) {
        let mut servers = if with_nginx { vec![others::nginx(&rig, BODY)?] } else { Vec::new() };
        servers.push(floor(case, &rig)?);
        servers.push(glowplug(case, &rig)?);
        let figures = (case.name, case.connections, case.depth);
        site::measure(figures, &options.shared, &servers, |server| load(case, &rig, server))?;
    }
    Ok(())
}

/// Two of glowplug: one without files for the fixed answer, one with files.
fn glowplug(case: &Case, rig: &Rig) -> Result<Server, String> {
    let root = rig.scratch.join("root").display().to_string();
    let mut words = site::WORDS.to_vec();
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
