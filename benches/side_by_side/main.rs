//! Glowplug beside a C loop, a plain mio loop, tokio, nginx and hyper: equal answers under an equal load, in turns. This file has the
//! options and the order of work. `contender` starts the servers, `measure` takes the times, `report` prints the times.
//! Everything else is the rig's.
//!
//! `cargo bench --bench side_by_side -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

mod contender;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use contender::Contender;
use rig::load::Load;
use rig::options::{self, Shared, Value};
use rig::rounds::{Sample, interleaved};
use rig::{Asked, Rig, Server, counts};

const USAGE: &str = "\
Measures glowplug beside a C loop, mio, tokio and nginx on loopback. Takes about ten minutes; --quick, some seconds.

usage: cargo bench --bench side_by_side -- [OPTIONS]

--quick               few and short slices: shows that everything works, proves nothing
--work NAME           this work only; may be repeated: http (kept connections), echo, short (a connection for each request)
--only NAME,NAME      of: c, c-at-once, c-deferred, mio, glowplug, deferred, tokio, nginx, hyper
--base NAME           the contender to which ratios are: mio
--hyper               hyper too (its first build takes minutes)
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
    /// A connection for each HTTP request.
    Short,
}

impl Work {
    const ALL: [Work; 3] = [Work::Http, Work::Echo, Work::Short];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Http => "http",
            Work::Echo => "echo",
            Work::Short => "short",
        }
    }
}

pub(crate) struct Options {
    pub(crate) shared: Shared,
    works: Vec<Work>,
    /// The base of the ratios is the first.
    contenders: Vec<Contender>,
    base: Contender,
    c_loop: Option<PathBuf>,
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
    options::main(|options: Options| run(options.complete()))
}

fn run(mut options: Options) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
    (options.contenders, options.c_loop) = contender::present(&rig, &options.contenders)?;
    if options.contenders.first() != Some(&options.base) {
        return Err(format!("without {}, the base of the ratios, nothing is compared", options.base.name()));
    }
    let options = &options;
    report::conditions(options, &rig);
    for &work in &options.works {
        time(options, &rig, work)?;
    }
    // Counting comes last: strace and valgrind slow their servers down, so nothing may be timed beside them. The load of
    // short connections goes by time, not by number, so what it does is not counted.
    let counted: Vec<Work> = options.works.iter().copied().filter(|&work| work != Work::Short).collect();
    if options.counts && rig.tools.strace {
        for &work in &counted {
            count_syscalls(options, &rig, work)?;
        }
    }
    if options.instructions && rig.tools.valgrind {
        for &work in &counted {
            count_instructions(options, &rig, work)?;
        }
    }
    Ok(())
}

fn time(options: &Options, rig: &Rig, work: Work) -> Result<(), String> {
    let contenders = options.doing(work);
    let servers = contenders
        .iter()
        .map(|contender| contender.start(rig, options.c_loop.as_deref(), work))
        .collect::<Result<Vec<_>, _>>()?;
    report::time_head(options, work);
    for case in options.cases(work) {
        let load = |server| case.load(rig, server, options.size);
        let mut loads = servers.iter().map(load).collect::<Result<Vec<Load>, _>>()?;
        let timed = interleaved(options.shared.rounds, servers.len(), |index| {
            Sample::take(&servers[index], &mut loads[index], options.shared.seconds, "requests")
        })?;
        report::time_rows(case, &contenders, &timed, &loads)?;
    }
    Ok(())
}

fn count_syscalls(options: &Options, rig: &Rig, work: Work) -> Result<(), String> {
    report::syscalls_head(options, work);
    let contenders = options.counted(work);
    for case in options.cases(work) {
        let asked = case.asked(options.size);
        let count = |contender: &Contender| {
            counts::syscalls(rig, &contender.serving(rig, options.c_loop.as_deref(), work)?, &asked)
        };
        let counted = contenders.iter().map(count).collect::<Result<Vec<_>, _>>()?;
        report::syscalls_rows(case, &contenders, &counted);
    }
    Ok(())
}

fn count_instructions(options: &Options, rig: &Rig, work: Work) -> Result<(), String> {
    report::instructions_head(options, work);
    let contenders = options.counted(work);
    for case in options.cases(work) {
        let asked = case.asked(options.size);
        let count = |contender: &Contender| {
            counts::instructions(rig, &contender.serving(rig, options.c_loop.as_deref(), work)?, &asked)
        };
        let counted = contenders.iter().map(count).collect::<Result<Vec<_>, _>>()?;
        report::instructions_rows(case, &contenders, &counted);
    }
    Ok(())
}

impl Case {
    fn load(self, rig: &Rig, server: &Server, size: usize) -> Result<Load, String> {
        if self.work != Work::Short {
            return rig.load(server, &self.asked(size));
        }
        rig.ask(
            server,
            &["fetch"],
            &["/", "--fresh", "--connections", &self.connections.to_string()].map(str::to_owned),
        )
    }

    fn asked(self, size: usize) -> Asked {
        Asked { work: self.work.name(), connections: self.connections, depth: self.depth, idle: 0, size }
    }
}

impl options::Options for Options {
    const NAME: &'static str = "side_by_side";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: Shared::of_a_comparison(quick),
            works: Vec::new(),
            contenders: Vec::new(),
            base: Contender::Mio,
            c_loop: None,
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
            "--hyper" => self.shared.hyper = true,
            "--no-counts" => self.counts = false,
            "--instructions" => self.instructions = true,
            _ => return false,
        }
        true
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--work" => self.works.push(value.of(|name| Work::ALL.into_iter().find(|w| w.name() == name))?),
            "--only" => self.contenders = value.of(|names| names.split(',').map(Contender::named).collect())?,
            "--base" => self.base = value.of(Contender::named)?,
            "--connections" => self.connections = value.numbers()?,
            "--depth" => self.depths = value.numbers()?,
            "--size" => self.size = value.number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Options {
    /// Fills in the defaults, with the base in front.
    fn complete(mut self) -> Options {
        if self.works.is_empty() {
            self.works = Work::ALL.to_vec();
        }
        if self.contenders.is_empty() {
            self.contenders = Contender::ALL.to_vec();
            self.contenders.retain(|&c| c != Contender::Hyper);
        }
        if self.shared.hyper && !self.contenders.contains(&Contender::Hyper) {
            self.contenders.push(Contender::Hyper);
        }
        self.shared.hyper = self.contenders.contains(&Contender::Hyper);
        self.contenders.retain(|&c| c != self.base);
        self.contenders.insert(0, self.base);
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

    fn doing(&self, work: Work) -> Vec<Contender> {
        self.contenders.iter().copied().filter(|contender| contender.does(work)).collect()
    }

    fn counted(&self, work: Work) -> Vec<Contender> {
        self.doing(work).into_iter().filter(|contender| contender.can_be_counted()).collect()
    }
}
