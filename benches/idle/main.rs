//! What thousands of silent peers cost those who speak, on epoll and on select: memory for each, and CPU time of a
//! request beside them. This file has the options and the order of work; `measure` takes the figures, `report` prints
//! them, `chart` draws them; the rest is the rig's.
//!
//! `cargo bench --bench idle -- --help`; how to read what it prints is in benches/README.md.

#[path = "../rig/mod.rs"]
mod rig;

mod chart;
mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use rig::{Asked, Rig, Served, counts};

const USAGE: &str = "\
Measures glowplug with thousands of idle connections, on loopback. Takes about six minutes; --quick, some seconds.

usage: cargo bench --bench idle -- [OPTIONS]

--quick                   few connections, few and short slices: shows that everything works, proves nothing
--backend epoll|select    this poller only
--work echo|http          this work only
--idle N,N…               idle connections, besides none: 1000,10000,15000
--active N,N…             connections that ask, one request at a time on each: 256,1
--control                 none idle a second time: its ratio is the error of the measurement
--rounds N                slices of each server in each case: 30
--seconds S               one slice: 0.3
--cpu N                   the core that server and load share; the first one allowed
--no-counts               leave out the counting of system calls (strace)
--svg FILE                draw the chart of echo too
--glowplug PATH           measure this binary instead of the one that cargo has built";

/// Bytes of one line. Few, because moving them is not what is measured.
const SIZE: usize = 64;
/// Descriptors that server and load have besides their connections, and those that the server keeps back.
const OTHER_DESCRIPTORS: usize = 64;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Backend {
    Epoll,
    Select,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Epoll => "epoll",
            Backend::Select => "select",
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Work {
    Echo,
    Http,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Echo => "echo",
            Work::Http => "http",
        }
    }
}

pub(crate) struct Options {
    pub(crate) backends: Vec<Backend>,
    works: Vec<Work>,
    /// The first is none, by which the others are measured.
    pub(crate) idle: Vec<usize>,
    active: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    cpu: Option<usize>,
    counts: bool,
    svg: Option<PathBuf>,
    glowplug: Option<PathBuf>,
}

/// What a table is of.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) active: usize,
}

impl Case {
    /// Idle connections of HTTP each have a deadline, far enough off that none ends.
    pub(crate) fn served(self, rig: &Rig, backend: Backend, idle: usize) -> Result<Served<'_>, String> {
        let mut words = vec![self.work.name(), "--log-level", "warn", "--backend", backend.name()];
        if self.work == Work::Http {
            words.extend(["--idle-timeout", "3600"]);
        }
        let name = format!("{} on {} with {idle} idle", self.work.name(), backend.name());
        Ok(Served { name, program: rig.glowplug()?, words })
    }

    pub(crate) fn asked(self, idle: usize) -> Asked {
        let work = if self.work == Work::Http { "http" } else { "lines" };
        Asked { work, connections: self.active, depth: 1, idle, size: SIZE }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // `cargo bench` says --bench; `cargo test --all-targets` runs this file too, and does not want minutes of load.
    if !arguments.iter().any(|a| a == "--bench") {
        println!("not measured: this is run by `cargo bench --bench idle`");
        return ExitCode::SUCCESS;
    }
    let outcome = Options::parse(&arguments).map_err(|why| format!("{why}\n\n{USAGE}")).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<(), String> {
    let rig = Rig::prepare(options.cpu, options.glowplug.clone())?;
    report::conditions(&options, &rig);
    options.fit(rig::server::descriptor_limit()?)?;
    let mut lines = Vec::new();
    for case in options.cases() {
        report::head(case);
        for &backend in &options.backends {
            let measured = measure::interleaved(&options, &rig, case, backend)?;
            report::rows(backend, &measured);
            if case.work == Work::Echo {
                lines.push(chart::Line::of(case.active, backend, &measured));
            }
        }
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, chart::svg(&lines)).map_err(|why| format!("{}: {why}", path.display()))?;
    }
    // Counting comes last: its servers are slowed down by who watches them, so nothing may be timed beside them.
    if options.counts && rig.tools.strace {
        count_syscalls(&options, &rig)?;
    }
    Ok(())
}

/// With none idle and with the most, of the first of the cases: calls do not depend on what is said.
fn count_syscalls(options: &Options, rig: &Rig) -> Result<(), String> {
    let case = options.cases()[0];
    report::syscalls_head(case);
    for &backend in &options.backends {
        for idle in [0, options.idle.iter().copied().max().unwrap_or(0)] {
            let counted = counts::syscalls(rig, &case.served(rig, backend, idle)?, &case.asked(idle))?;
            report::syscalls_row(backend, idle, &counted);
        }
    }
    Ok(())
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            backends: Vec::new(),
            works: Vec::new(),
            idle: vec![1_000, 10_000, 15_000],
            active: vec![256, 1],
            rounds: 30,
            seconds: 0.3,
            cpu: None,
            counts: true,
            svg: None,
            glowplug: None,
        };
        // First, so that what is said besides holds whatever the order.
        if arguments.iter().any(|a| a == "--quick") {
            (options.idle, options.active, options.rounds, options.seconds) = (vec![500], vec![64], 3, 0.1);
        }
        let mut control = false;
        let mut words = arguments.iter().map(String::as_str);
        while let Some(option) = words.next() {
            match option {
                "--bench" | "--quick" => continue,
                "--control" => control = true,
                "--no-counts" => options.counts = false,
                _ => {
                    let value = words.next().ok_or_else(|| format!("{option}: unknown, or without its value"))?;
                    options.set(option, value)?;
                }
            }
        }
        if options.backends.is_empty() {
            options.backends = vec![Backend::Epoll, Backend::Select];
        }
        if options.works.is_empty() {
            options.works = vec![Work::Echo, Work::Http];
        }
        options.idle.splice(0..0, std::iter::repeat_n(0, 1 + usize::from(control)));
        Ok(options)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        let numbers =
            || value.split(',').map(|n| n.parse().ok().filter(|&n: &usize| n > 0)).collect::<Option<Vec<_>>>();
        let bad = || format!("{option} does not take {value}");
        match option {
            "--backend" => self.backends.push(match value {
                "epoll" => Backend::Epoll,
                "select" => Backend::Select,
                _ => return Err(bad()),
            }),
            "--work" => self.works.push(match value {
                "echo" => Work::Echo,
                "http" => Work::Http,
                _ => return Err(bad()),
            }),
            "--idle" => self.idle = numbers().ok_or_else(bad)?,
            "--active" => self.active = numbers().ok_or_else(bad)?,
            "--rounds" => self.rounds = value.parse().ok().filter(|&n| n > 0).ok_or_else(bad)?,
            "--seconds" => {
                let seconds = value.parse().ok().filter(|s| rig::figures::SLICE_SECONDS.contains(s));
                self.seconds = seconds.ok_or_else(bad)?;
            }
            "--cpu" => self.cpu = Some(value.parse().map_err(|_| bad())?),
            "--svg" => self.svg = Some(PathBuf::from(value)),
            "--glowplug" => self.glowplug = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown option {option}")),
        }
        Ok(())
    }

    /// No more than descriptors allow; where that is less than was asked for, as many as fit, and a word about it.
    fn fit(&mut self, limit: usize) -> Result<(), String> {
        let most = self.active.iter().copied().max().unwrap_or(0) + OTHER_DESCRIPTORS;
        let room = limit.checked_sub(most).filter(|&room| room > 0);
        let room = room.ok_or_else(|| format!("a limit of {limit} descriptors leaves no room for idle connections"))?;
        if self.idle.iter().any(|&idle| idle > room) {
            println!("The limit of {limit} descriptors for one process leaves room for {room} idle connections.");
            self.idle.iter_mut().for_each(|idle| *idle = room.min(*idle));
            self.idle.dedup_by(|idle, before| *idle == *before && *idle > 0);
        }
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        let of = |&work| self.active.iter().map(move |&active| Case { work, active });
        self.works.iter().flat_map(of).collect()
    }
}
