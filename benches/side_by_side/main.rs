//! Glowplug beside a plain mio loop and a tokio server: equal answers under an equal load, in turns. This file has the
//! options and the order of work. `contender` starts the servers, `measure` takes the times, `report` prints the times.
//! Everything else is the rig's.
//!
//! `cargo bench --bench side_by_side -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

mod contender;
mod report;

use std::process::ExitCode;

use contender::Contender;
use rig::load::Load;
use rig::options::{self, Shared, Value};
use rig::rounds::{Sample, interleaved};
use rig::{Asked, Rig, counts};

const USAGE: &str = "\
Measures glowplug beside mio and tokio on loopback. Takes about five minutes; --quick, some seconds.

usage: cargo bench --bench side_by_side -- [OPTIONS]

--quick               few and short slices: shows that everything works, proves nothing
--work http|echo      this work only; may be repeated
--only NAME,NAME      glowplug, tokio, or both; mio is always there, as what the others are measured by
--control             mio a second time, as one more contender: its ratio is the error of the measurement
--connections N,N…    1,64,256
--depth N,N…          requests sent at once on a connection, for http: 1,16
--size BYTES          one echo message: 64
--rounds N            slices of each contender in each case: 30
--seconds S           one slice: 0.3
--cpu N               the core that server and load share; the first one allowed
--instructions        count user instructions too (valgrind; slow)
--no-counts           leave out the counting of system calls (strace)
--glowplug PATH       measure this binary instead of the one that cargo has built";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Work {
    Http,
    Echo,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Http => "http",
            Work::Echo => "echo",
        }
    }
}

pub(crate) struct Options {
    pub(crate) shared: Shared,
    works: Vec<Work>,
    contenders: Vec<Contender>,
    control: bool,
    connections: Vec<usize>,
    depths: Vec<usize>,
    pub(crate) size: usize,
    counts: bool,
    instructions: bool,
}

/// The conditions of a row.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) depth: usize,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options.complete()))
}

fn run(options: &Options) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
    report::conditions(options, &rig);
    for &work in &options.works {
        time(options, &rig, work)?;
    }
    // Counting comes last: strace and valgrind slow their servers down, so nothing may be timed beside them.
    if options.counts && rig.tools.strace {
        for &work in &options.works {
            count_syscalls(options, &rig, work)?;
        }
    }
    if options.instructions && rig.tools.valgrind {
        for &work in &options.works {
            count_instructions(options, &rig, work)?;
        }
    }
    Ok(())
}

fn time(options: &Options, rig: &Rig, work: Work) -> Result<(), String> {
    let servers = options.each(|contender| rig.serve(&contender.serving(rig, work)?, &[]))?;
    report::time_head(options, work);
    for case in options.cases(work) {
        let asked = case.asked(options.size);
        let mut loads = servers.iter().map(|server| rig.load(server, &asked)).collect::<Result<Vec<Load>, _>>()?;
        let timed = interleaved(options.shared.rounds, servers.len(), |index| {
            Sample::take(&servers[index], &mut loads[index], options.shared.seconds, "requests")
        })?;
        report::time_rows(case, &options.contenders, &timed, &loads)?;
    }
    Ok(())
}

fn count_syscalls(options: &Options, rig: &Rig, work: Work) -> Result<(), String> {
    report::syscalls_head(work);
    for case in options.cases(work) {
        let asked = case.asked(options.size);
        let counted = options.each(|contender| counts::syscalls(rig, &contender.serving(rig, work)?, &asked))?;
        report::syscalls_rows(case, &options.contenders, &counted);
    }
    Ok(())
}

fn count_instructions(options: &Options, rig: &Rig, work: Work) -> Result<(), String> {
    report::instructions_head(work);
    for case in options.cases(work) {
        let asked = case.asked(options.size);
        let counted = options.each(|contender| counts::instructions(rig, &contender.serving(rig, work)?, &asked))?;
        report::instructions_rows(case, &options.contenders, &counted);
    }
    Ok(())
}

impl Case {
    fn asked(self, size: usize) -> Asked {
        Asked { work: self.work.name(), connections: self.connections, depth: self.depth, idle: 0, size }
    }
}

impl options::Options for Options {
    const NAME: &'static str = "side_by_side";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: if quick { Shared::new(3, 0.1) } else { Shared::new(30, 0.3) },
            works: Vec::new(),
            contenders: Vec::new(),
            control: false,
            connections: if quick { vec![64] } else { vec![1, 64, 256] },
            depths: vec![1, 16],
            size: 64,
            counts: true,
            instructions: false,
        }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn flag(&mut self, option: &str) -> bool {
        match option {
            "--control" => self.control = true,
            "--no-counts" => self.counts = false,
            "--instructions" => self.instructions = true,
            _ => return false,
        }
        true
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--work" => {
                self.works.push(value.of(|name| [Work::Http, Work::Echo].into_iter().find(|w| w.name() == name))?)
            }
            "--only" => self.contenders = value.of(|names| names.split(',').map(Contender::named).collect())?,
            "--connections" => self.connections = value.numbers()?,
            "--depth" => self.depths = value.numbers()?,
            "--size" => self.size = value.number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Options {
    /// Fills in the defaults, with mio in front.
    fn complete(mut self) -> Options {
        if self.works.is_empty() {
            self.works = vec![Work::Http, Work::Echo];
        }
        if self.contenders.is_empty() {
            self.contenders = vec![Contender::Glowplug, Contender::Tokio];
        }
        self.contenders.retain(|&c| c != Contender::Mio);
        self.contenders.insert(0, Contender::Mio);
        if self.control {
            self.contenders.push(Contender::MioAgain);
        }
        self
    }

    /// Echo gets one message at a time: several messages arrive as one read, and look like one longer message.
    fn cases(&self, work: Work) -> Vec<Case> {
        let depths: &[usize] = if work == Work::Http { &self.depths } else { &[1] };
        let case = |&depth| self.connections.iter().map(move |&connections| Case { work, connections, depth });
        depths.iter().flat_map(case).collect()
    }

    fn each<T>(&self, of: impl FnMut(Contender) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.contenders.iter().copied().map(of).collect()
    }
}
