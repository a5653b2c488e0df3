//! The figures. Times are taken in slices, each contender in its turn, and compared within a round, because the machine
//! drifts; counts are the difference of two run lengths, because starting and connecting are not the work.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::process::written;
use crate::server::{Bench, Contender, Server};
use crate::{Case, Options};

/// One contender in one case.
pub(crate) struct Timed {
    /// Of the server, per request, of each round.
    pub(crate) cpu_nanos: Vec<f64>,
    /// To the first contender, in the same round.
    pub(crate) ratios: Vec<f64>,
    pub(crate) per_second: Vec<f64>,
    pub(crate) p50_us: Vec<f64>,
    pub(crate) p99_us: Vec<f64>,
    pub(crate) answer_bytes: usize,
}

/// A B C, B C A, C A B …: in turns, and each follows each other equally often.
pub(crate) fn interleaved(
    options: &Options,
    bench: &Bench,
    case: Case,
    servers: &[Server],
) -> Result<Vec<Timed>, String> {
    let mut loads = servers
        .iter()
        .map(|server| bench.load(server, case.work, case.connections, case.depth, options.size))
        .collect::<Result<Vec<_>, _>>()?;
    let mut timed: Vec<Timed> = loads
        .iter()
        .map(|load| Timed {
            cpu_nanos: Vec::new(),
            ratios: Vec::new(),
            per_second: Vec::new(),
            p50_us: Vec::new(),
            p99_us: Vec::new(),
            answer_bytes: load.answer_bytes,
        })
        .collect();
    for round in 0..options.rounds {
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            let (load, figures) = (&mut loads[index], &mut timed[index]);
            // Read between slices, when all is answered and the server sleeps.
            let before = servers[index].cpu_nanos()?;
            let slice = load.slice("seconds", options.seconds)?;
            let spent = servers[index].cpu_nanos()? - before;
            figures.cpu_nanos.push(spent as f64 / slice.requests);
            figures.per_second.push(slice.requests / slice.seconds);
            figures.p50_us.push(slice.p50_us);
            figures.p99_us.push(slice.p99_us);
        }
        let base = timed[0].cpu_nanos[round];
        for figures in &mut timed {
            figures.ratios.push(figures.cpu_nanos[round] / base);
        }
    }
    Ok(timed)
}

/// The value that `share` of them are not above.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Calls per request, by kind.
#[derive(Default)]
pub(crate) struct Syscalls {
    pub(crate) receive: f64,
    pub(crate) send: f64,
    pub(crate) wait: f64,
    pub(crate) control: f64,
    pub(crate) other: f64,
    /// Of all these, those that only said EAGAIN or another error.
    pub(crate) failed: f64,
}

impl Syscalls {
    pub(crate) fn all(&self) -> f64 {
        self.receive + self.send + self.wait + self.control + self.other
    }
}

/// What the longer run has more than the shorter one: batches of requests, over all connections, but no fewer for each
/// than `BATCHES_EACH`, so that a call more or less per connection while they connect moves the sum by 0.01 at most.
const SYSCALL_BATCHES: usize = 10_000;
const INSTRUCTION_BATCHES: usize = 2_000;
const BATCHES_EACH: usize = 100;

pub(crate) fn syscalls(options: &Options, bench: &Bench, case: Case, contender: Contender) -> Result<Syscalls, String> {
    let (runs, more) = lengths(case, SYSCALL_BATCHES);
    let mut counts = Vec::new();
    for requests in runs {
        let path = bench.scratch.join(format!("strace-{requests}"));
        let mut watcher = ["strace", "-D", "-f", "-c", "-o"].map(OsString::from).to_vec();
        watcher.push(path.clone().into());
        watched(options, bench, case, contender, &watcher, requests)?;
        let text = written(&path, |text| text.lines().any(|line| line.ends_with(" total"))).map_err(told(contender))?;
        remove(&path)?;
        counts.push(parse_strace(&text));
    }
    let mut found = Syscalls::default();
    for (name, &(calls, errors)) in &counts[1] {
        let (calls_before, errors_before) = counts[0].get(name).copied().unwrap_or_default();
        let per_request = (calls - calls_before) / more;
        found.failed += (errors - errors_before) / more;
        *match name.as_str() {
            "read" | "readv" | "recvfrom" | "recvmsg" => &mut found.receive,
            "write" | "writev" | "sendto" | "sendmsg" | "sendfile" => &mut found.send,
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "select" | "pselect6" | "poll" | "ppoll" => &mut found.wait,
            "epoll_ctl" => &mut found.control,
            _ => &mut found.other,
        } += per_request;
    }
    Ok(found)
}

/// Calls and errors by name, of the table that `strace -c` writes: time, seconds, microseconds a call, calls, errors if
/// any, name.
fn parse_strace(text: &str) -> BTreeMap<String, (f64, f64)> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let calls = words.get(3)?.parse().ok()?;
        let errors = if words.len() > 5 { words[4].parse().ok()? } else { 0.0 };
        let name = *words.last()?;
        (name != "total").then(|| (name.to_owned(), (calls, errors)))
    };
    text.lines().filter_map(row).collect()
}

/// User instructions per request.
pub(crate) fn instructions(options: &Options, bench: &Bench, case: Case, contender: Contender) -> Result<f64, String> {
    let (runs, more) = lengths(case, INSTRUCTION_BATCHES);
    let mut counts = Vec::new();
    for requests in runs {
        let path = bench.scratch.join(format!("callgrind-{requests}"));
        let mut out = OsString::from("--callgrind-out-file=");
        out.push(&path);
        let watcher = ["valgrind".into(), "-q".into(), "--tool=callgrind".into(), out];
        watched(options, bench, case, contender, &watcher, requests)?;
        let total =
            |text: &str| text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
        let text = written(&path, |text| total(text).is_some()).map_err(told(contender))?;
        remove(&path)?;
        counts.push(total(&text).unwrap_or(f64::NAN));
    }
    Ok((counts[1] - counts[0]) / more)
}

/// A short and a long run, in requests, and their difference.
fn lengths(case: Case, batches: usize) -> ([usize; 2], f64) {
    let one_turn = case.connections * case.depth;
    let more = one_turn * batches.div_ceil(case.connections).max(BATCHES_EACH);
    ([one_turn, one_turn + more], more as f64)
}

/// A whole life of a server under a watcher: start, this many requests, end.
fn watched(
    options: &Options,
    bench: &Bench,
    case: Case,
    contender: Contender,
    watcher: &[OsString],
    requests: usize,
) -> Result<(), String> {
    let server = bench.serve(contender, case.work, watcher)?;
    let mut load = bench.load(&server, case.work, case.connections, case.depth, options.size)?;
    load.slice("requests", requests as f64)?;
    // The load first: then the server has nobody left to wait for.
    drop(load);
    server.end()
}

fn told(contender: Contender) -> impl Fn(String) -> String {
    move |why| format!("{}: {why}", contender.name())
}

/// So that the next run's counts are not taken for these.
fn remove(path: &Path) -> Result<(), String> {
    std::fs::remove_file(path).map_err(|why| format!("{}: {why}", path.display()))
}
