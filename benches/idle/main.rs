//! The cost of thousands of silent peers for the active ones, on epoll and on select: memory of each, and CPU time of a
//! request beside them. This file has the options and the order of work. `measure` takes the figures, `report` prints
//! the figures, `chart` draws them. Everything else is the rig's.
//!
//! `cargo bench --bench idle -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

mod chart;
mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use rig::options::{self, Shared, Value};
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

/// Bytes of one line. Few, because the benchmark does not measure moving bytes.
const SIZE: usize = 64;
/// Descriptors of server and load besides their connections, and the descriptors that the server reserves.
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
    pub(crate) shared: Shared,
    pub(crate) backends: Vec<Backend>,
    works: Vec<Work>,
    /// The first is 0, the base of all ratios.
    pub(crate) idle: Vec<usize>,
    active: Vec<usize>,
    control: bool,
    counts: bool,
    svg: Option<PathBuf>,
}

/// The subject of a table.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) active: usize,
}

impl Case {
    /// Idle connections of HTTP each have a deadline, far enough off that no connection ends.
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
    options::main(|options: Options| run(options.complete()))
}

fn run(mut options: Options) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
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
        std::fs::write(path, chart::svg(&lines, &rig.machine())).map_err(|why| format!("{}: {why}", path.display()))?;
    }
    // Counting comes last: strace slows its servers down, so nothing may be timed beside them.
    if options.counts && rig.tools.strace {
        count_syscalls(&options, &rig)?;
    }
    Ok(())
}

/// With no idle connections and with the most, of the first of the cases: calls do not depend on the messages.
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

impl options::Options for Options {
    const NAME: &'static str = "idle";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: Shared::of_a_comparison(quick),
            backends: Vec::new(),
            works: Vec::new(),
            idle: if quick { vec![500] } else { vec![1_000, 10_000, 15_000] },
            active: if quick { vec![64] } else { vec![256, 1] },
            control: false,
            counts: true,
            svg: None,
        }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn flag(&mut self, option: &str) -> bool {
        match option {
            "--control" => self.control = true,
            "--no-counts" => self.counts = false,
            _ => return false,
        }
        true
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--backend" => {
                let all = [Backend::Epoll, Backend::Select];
                self.backends.push(value.of(|name| all.into_iter().find(|b| b.name() == name))?);
            }
            "--work" => {
                self.works.push(value.of(|name| [Work::Echo, Work::Http].into_iter().find(|w| w.name() == name))?)
            }
            "--idle" => self.idle = value.numbers()?,
            "--active" => self.active = value.numbers()?,
            "--svg" => self.svg = Some(value.path()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Options {
    /// Fills in the defaults, with 0 idle connections in front, twice as a control.
    fn complete(mut self) -> Options {
        if self.backends.is_empty() {
            self.backends = vec![Backend::Epoll, Backend::Select];
        }
        if self.works.is_empty() {
            self.works = vec![Work::Echo, Work::Http];
        }
        self.idle.splice(0..0, std::iter::repeat_n(0, 1 + usize::from(self.control)));
        self
    }

    /// Lowers the number of connections to the descriptor limit, and says so.
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
