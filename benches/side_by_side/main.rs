//! Glowplug beside a plain mio loop and a tokio server: the same answers under the same load, in turns. This file has
//! the options and the order of work; `contender` knows who is measured, `measure` takes the times, `report` prints
//! them; the rest is the rig's.
//!
//! `cargo bench --bench side_by_side -- --help`; how to read what it prints is in benches/README.md.

#[path = "../rig/mod.rs"]
mod rig;

mod contender;
mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use contender::Contender;
use rig::figures::SLICE_SECONDS;
use rig::{Asked, Rig, counts};

const USAGE: &str = "\
Measures glowplug beside mio and tokio on loopback. Takes about five minutes; --quick, some seconds.

usage: cargo bench --bench side_by_side -- [OPTIONS]

--quick               few and short slices: shows that everything works, proves nothing
--work http|echo      this work only; may be repeated
--only NAME…          glowplug, tokio, or both; mio is always there, as what the others are measured by
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
    works: Vec<Work>,
    contenders: Vec<Contender>,
    connections: Vec<usize>,
    depths: Vec<usize>,
    pub(crate) size: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    cpu: Option<usize>,
    counts: bool,
    instructions: bool,
    glowplug: Option<PathBuf>,
}

/// One row's worth of conditions.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) depth: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // `cargo bench` says --bench; `cargo test --all-targets` runs this file too, and does not want minutes of load.
    if !arguments.iter().any(|a| a == "--bench") {
        println!("not measured: this is run by `cargo bench --bench side_by_side`");
        return ExitCode::SUCCESS;
    }
    let outcome = Options::parse(&arguments).map_err(|why| format!("{why}\n\n{USAGE}")).and_then(|o| run(&o));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let rig = Rig::prepare(options.cpu, options.glowplug.clone())?;
    report::conditions(options, &rig);
    for &work in &options.works {
        time(options, &rig, work)?;
    }
    // Counting comes last: its servers are slowed down by who watches them, so nothing may be timed beside them.
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
        let timed = measure::interleaved(options, rig, case, &servers)?;
        report::time_rows(case, &options.contenders, &timed);
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

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            works: Vec::new(),
            contenders: Vec::new(),
            connections: vec![1, 64, 256],
            depths: vec![1, 16],
            size: 64,
            rounds: 30,
            seconds: 0.3,
            cpu: None,
            counts: true,
            instructions: false,
            glowplug: None,
        };
        // First, so that what is said besides holds whatever the order.
        if arguments.iter().any(|a| a == "--quick") {
            (options.connections, options.rounds, options.seconds) = (vec![64], 3, 0.1);
        }
        let mut control = false;
        let mut words = arguments.iter().map(String::as_str).peekable();
        while let Some(option) = words.next() {
            match option {
                "--bench" | "--quick" => continue,
                "--control" => control = true,
                "--no-counts" => options.counts = false,
                "--instructions" => options.instructions = true,
                "--only" => {
                    while let Some(name) = words.next_if(|word| !word.starts_with("--")) {
                        options.contenders.push(Contender::named(name).ok_or_else(|| format!("no contender {name}"))?);
                    }
                }
                _ => {
                    let value = words.next().ok_or_else(|| format!("{option}: unknown, or without its value"))?;
                    options.set(option, value)?;
                }
            }
        }
        if options.works.is_empty() {
            options.works = vec![Work::Http, Work::Echo];
        }
        if options.contenders.is_empty() {
            options.contenders = vec![Contender::Glowplug, Contender::Tokio];
        }
        options.contenders.retain(|&c| c != Contender::Mio);
        options.contenders.insert(0, Contender::Mio);
        if control {
            options.contenders.push(Contender::MioAgain);
        }
        Ok(options)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        let numbers =
            || value.split(',').map(|n| n.parse().ok().filter(|&n: &usize| n > 0)).collect::<Option<Vec<_>>>();
        let number = || value.parse().ok().filter(|&n: &usize| n > 0);
        let seconds = || value.parse().ok().filter(|s: &f64| SLICE_SECONDS.contains(s));
        let bad = || format!("{option} does not take {value}");
        match option {
            "--work" => self.works.push(match value {
                "http" => Work::Http,
                "echo" => Work::Echo,
                _ => return Err(bad()),
            }),
            "--connections" => self.connections = numbers().ok_or_else(bad)?,
            "--depth" => self.depths = numbers().ok_or_else(bad)?,
            "--size" => self.size = number().ok_or_else(bad)?,
            "--rounds" => self.rounds = number().ok_or_else(bad)?,
            "--seconds" => self.seconds = seconds().ok_or_else(bad)?,
            "--cpu" => self.cpu = Some(value.parse().map_err(|_| bad())?),
            "--glowplug" => self.glowplug = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown option {option}")),
        }
        Ok(())
    }

    /// Echo is asked one message at a time: several at once arrive as one read, and are one longer message.
    fn cases(&self, work: Work) -> Vec<Case> {
        let depths: &[usize] = if work == Work::Http { &self.depths } else { &[1] };
        let case = |&depth| self.connections.iter().map(move |&connections| Case { work, connections, depth });
        depths.iter().flat_map(case).collect()
    }

    fn each<T>(&self, of: impl FnMut(Contender) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.contenders.iter().copied().map(of).collect()
    }
}
