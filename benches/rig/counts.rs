//! Counts, which do not drift: the difference of a short and a long life of a server under a watcher, because starting
//! and connecting are not the work.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::process::written;
use super::{Asked, Rig, Served};

/// Batches of requests by which a longer run exceeds the shorter: over all connections, but no fewer for each than
/// `BATCHES_EACH`, so that a call more or less per connection while they connect moves the sum by 0.01 at most.
const SYSCALL_BATCHES: usize = 10_000;
const INSTRUCTION_BATCHES: usize = 2_000;
const BATCHES_EACH: usize = 100;
/// The number for silent connections, possibly thousands: 0.05 at most.
const REQUESTS_PER_IDLE: usize = 20;

/// Calls per request, by kind.
#[derive(Default)]
pub struct Syscalls {
    pub receive: f64,
    pub send: f64,
    pub wait: f64,
    pub control: f64,
    pub other: f64,
    /// Calls of all kinds that returned EAGAIN or another error.
    pub failed: f64,
}

impl Syscalls {
    pub fn all(&self) -> f64 {
        self.receive + self.send + self.wait + self.control + self.other
    }
}

pub fn syscalls(rig: &Rig, served: &Served, asked: &Asked) -> Result<Syscalls, String> {
    let (runs, more) = lengths(asked, SYSCALL_BATCHES);
    let mut counts = Vec::new();
    for requests in runs {
        let path = rig.scratch.join(format!("strace-{requests}"));
        let mut watcher = ["strace", "-D", "-f", "-c", "-o"].map(OsString::from).to_vec();
        watcher.push(path.clone().into());
        watched(rig, served, asked, &watcher, requests)?;
        let text = written(&path, |text| text.lines().any(|line| line.ends_with(" total"))).map_err(named(served))?;
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
pub fn instructions(rig: &Rig, served: &Served, asked: &Asked) -> Result<f64, String> {
    let (runs, more) = lengths(asked, INSTRUCTION_BATCHES);
    let mut counts = Vec::new();
    for requests in runs {
        let path = rig.scratch.join(format!("callgrind-{requests}"));
        let mut out = OsString::from("--callgrind-out-file=");
        out.push(&path);
        let watcher = ["valgrind".into(), "-q".into(), "--tool=callgrind".into(), out];
        watched(rig, served, asked, &watcher, requests)?;
        let total =
            |text: &str| text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
        let text = written(&path, |text| total(text).is_some()).map_err(named(served))?;
        remove(&path)?;
        counts.push(total(&text).unwrap_or(f64::NAN));
    }
    Ok((counts[1] - counts[0]) / more)
}

/// A short and a long run, in requests, and their difference.
fn lengths(asked: &Asked, batches: usize) -> ([usize; 2], f64) {
    let one_turn = asked.connections * asked.depth;
    let for_idle = (asked.idle * REQUESTS_PER_IDLE).div_ceil(one_turn);
    let more = one_turn * batches.div_ceil(asked.connections).max(BATCHES_EACH).max(for_idle);
    ([one_turn, one_turn + more], more as f64)
}

/// A whole life of a server under a watcher: start, this many requests, end.
fn watched(rig: &Rig, served: &Served, asked: &Asked, watcher: &[OsString], requests: usize) -> Result<(), String> {
    let server = rig.serve(served, watcher)?;
    let mut load = rig.load(&server, asked)?;
    load.slice("requests", requests as f64)?;
    // The load ends first: then the server has no client left to wait for.
    drop(load);
    server.end()
}

fn named(served: &Served) -> impl Fn(String) -> String {
    move |why| format!("{}: {why}", served.name)
}

/// Removes the file, so that the next run does not take these counts for its own.
fn remove(path: &Path) -> Result<(), String> {
    std::fs::remove_file(path).map_err(|why| format!("{}: {why}", path.display()))
}
