//! One echo service under every model (a process or a thread for each connection, one loop on select, one or several on
//! epoll), by glowplug, by Python's own library and by nothing but blocking calls, from 1 to 5,000 connections. This
//! file has the options and the order of work. `contestants` is the list, `cell` takes the figures of a contestant,
//! `report` prints and `chart` draws the figures, and `scaling` compares one loop with several.
//!
//! `cargo bench --bench models -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

mod cell;
mod chart;
mod contestants;
mod report;
mod scaling;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use contestants::{Contestant, Python};
use report::Table;
use rig::Rig;
use rig::options::{self, Shared, Value};

const USAGE: &str = "\
Measures one echo service under every model of concurrency on loopback. Takes about seven minutes; --quick, a quarter of one.

usage: cargo bench --bench models -- [OPTIONS]

--quick               few connections, one short slice: shows that everything works, proves nothing
--work echo|short     this work only: connections that stay, or one for each request
--only NAME           the contestants whose name has this in it
--connections N,N…    1,10,100,1000,5000
--rounds N            slices of each cell: 3
--seconds S           one slice: 0.5
--cpu N               the core that server and load share; the first one allowed
--all-cores           let servers and load use every core
--no-models           only the table of one loop and several
--no-scaling          without it
--svg FILE            draw the chart, too
--glowplug PATH       measure this binary instead of the one that cargo has built
--before PATH         and this one beside it, in the table of one loop and several";

/// Bytes of one message. Few, because the benchmark does not measure moving bytes.
const SIZE: usize = 64;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Work {
    Echo,
    Short,
}

impl Work {
    const ALL: [Work; 2] = [Work::Echo, Work::Short];

    fn name(self) -> &'static str {
        match self {
            Work::Echo => "echo",
            Work::Short => "short",
        }
    }

    /// The load's name for its clients.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Work::Echo => "kept",
            Work::Short => "short",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Work::Echo => "Ping-pong: connections stay, one message in flight on each",
            Work::Short => "Short connections: connect, one message, its echo, close",
        }
    }
}

pub(crate) struct Options {
    pub(crate) shared: Shared,
    pub(crate) quick: bool,
    works: Vec<Work>,
    only: String,
    connections: Vec<usize>,
    all_cores: bool,
    models: bool,
    scaling: bool,
    svg: Option<PathBuf>,
    pub(crate) before: Option<PathBuf>,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options))
}

fn run(options: &Options) -> Result<(), String> {
    let begin = Instant::now();
    let mut rig = Rig::prepare(&options.shared)?;
    if options.all_cores {
        rig.unpin();
    }
    if options.models {
        let python = Python::find();
        report::conditions(options, &rig, python.as_ref());
        let works = if options.works.is_empty() { &Work::ALL[..] } else { &options.works };
        let tables: Vec<Table> = works.iter().map(|&work| measure(options, &rig, python.as_ref(), work)).collect();
        if let Some(path) = &options.svg {
            std::fs::write(path, chart::svg(&tables, &report::machine(options, &rig)))
                .map_err(|why| format!("{}: {why}", path.display()))?;
        }
    }
    if options.scaling {
        // Several loops are for several cores.
        rig.unpin();
        scaling::measure(options, &rig)?;
    }
    println!("\nAll of it took {:.0} s.", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Measures a column at a time, so that contestants to be compared are measured one after another.
fn measure(options: &Options, rig: &Rig, python: Option<&Python>, work: Work) -> Table {
    let wanted = |contestant: &&Contestant| contestant.name().contains(&options.only);
    let mut rows: Vec<_> = contestants::ALL.iter().filter(wanted).map(|contestant| (contestant, Vec::new())).collect();
    for &connections in &options.connections {
        for (contestant, outcomes) in &mut rows {
            if std::io::stderr().is_terminal() {
                eprintln!("{} with {connections}: {}", work.name(), contestant.name());
            }
            outcomes.push(cell::measure(options, rig, python, contestant, work, connections));
        }
    }
    let table = Table { work, connections: options.connections.clone(), rows };
    table.print();
    table
}

impl options::Options for Options {
    const NAME: &'static str = "models";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: if quick { Shared::new(1, 0.1) } else { Shared::new(3, 0.5) },
            quick,
            works: Vec::new(),
            only: String::new(),
            connections: if quick { vec![32] } else { vec![1, 10, 100, 1000, 5000] },
            all_cores: false,
            models: true,
            scaling: true,
            svg: None,
            before: None,
        }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn flag(&mut self, option: &str) -> bool {
        match option {
            "--all-cores" => self.all_cores = true,
            "--no-models" => self.models = false,
            "--no-scaling" => self.scaling = false,
            _ => return false,
        }
        true
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--work" => self.works.push(value.of(|name| Work::ALL.into_iter().find(|work| work.name() == name))?),
            "--only" => self.only = value.text(),
            "--connections" => self.connections = value.numbers()?,
            "--svg" => self.svg = Some(value.path()),
            "--before" => self.before = Some(value.path()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}
