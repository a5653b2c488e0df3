//! A contestant under a load: a server of its own, all connections served once, then slices, and their cost. Each step
//! has a limit, and a failure is a result, with its reason.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::contestants::{Contestant, Python};
use crate::rig::figures::median;
use crate::rig::load::Load;
use crate::rig::{Rig, Served, Server, tree};
use crate::{Options, SIZE, Work};

/// Limit in seconds until all connections have been served once: Python forks 5,000 times in 30.
const PATIENCE: usize = 45;
/// Limit for a load to report a slice: a load gives up unanswered requests after four seconds.
const AFTER_SLICE: Duration = Duration::from_secs(10);
/// Limit after a slice until the server's CPU time stands still: children end, and their parent waits for them.
const QUIET: Duration = Duration::from_millis(30);
const QUIET_AT_LAST: Duration = Duration::from_secs(3);
/// The limit when requests were given up: the server still works on them, and finds no client to answer.
const CAUGHT_UP_AT_LAST: Duration = Duration::from_secs(12);
/// CPU time that a server without requests may use within the limit.
const QUIET_NANOS: u64 = 500_000;
/// Length of the slice in whose middle memory is read.
const LOOK_SECONDS: f64 = 0.3;
const LOOK_AFTER: Duration = Duration::from_millis(150);

pub(crate) enum Outcome {
    Measured(Figures),
    /// The contestant exists, and cannot carry this load.
    Cannot(String),
    /// The contestant is not installed.
    Absent(String),
}

pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU time of the whole tree of processes, for each request.
    pub(crate) cpu_us: f64,
    pub(crate) memory_mib: f64,
    /// Connections that were refused, reset, or closed too early, and requests without an answer in time.
    pub(crate) failed: f64,
    pub(crate) given_up: f64,
    pub(crate) why: String,
}

impl Outcome {
    pub(crate) fn figures(&self) -> Option<&Figures> {
        match self {
            Outcome::Measured(figures) => Some(figures),
            _ => None,
        }
    }

    /// The remark besides the figures.
    pub(crate) fn remark(&self) -> Option<String> {
        match self {
            Outcome::Measured(Figures { failed, given_up, why, .. }) => {
                let failed = (*failed > 0.0).then(|| format!("{failed} connections failed, the last by: {why}"));
                let given_up = (*given_up > 0.0).then(|| format!("{given_up} unanswered 4 s after the end of a slice"));
                let both: Vec<String> = failed.into_iter().chain(given_up).collect();
                (!both.is_empty()).then(|| both.join("; "))
            }
            Outcome::Cannot(why) => Some(why.clone()),
            Outcome::Absent(why) => Some(format!("not there: {why}")),
        }
    }
}

/// Tries again when not the server but a load or a figure has failed, which happens on a busy machine.
pub(crate) fn measure(
    options: &Options,
    rig: &Rig,
    python: Option<&Python>,
    contestant: &Contestant,
    work: Work,
    connections: usize,
) -> Outcome {
    let served = match contestant.served(rig, python) {
        Ok(served) => served,
        Err(why) => return Outcome::Absent(why),
    };
    let first = attempt(options, rig, &served, work, connections);
    first.or_else(|_| attempt(options, rig, &served, work, connections)).unwrap_or_else(Outcome::Cannot)
}

fn attempt(options: &Options, rig: &Rig, served: &Served, work: Work, connections: usize) -> Result<Outcome, String> {
    let errors = rig.scratch.join("errors");
    let mut server = match rig.serve_quietly(served, &errors) {
        Ok(server) => server,
        Err(why) => return Ok(not_started(why, &errors)),
    };
    let numbers = [("connections", connections), ("size", SIZE), ("patience", PATIENCE)];
    let words: Vec<String> = numbers.iter().flat_map(|(name, n)| [format!("--{name}"), n.to_string()]).collect();
    let outcome = rig.ask(&server, &["clients", work.kind()], &words).and_then(|mut load| {
        let served = load.ready.get("served")?;
        if served < connections as f64 {
            let why = complaint(&errors).unwrap_or_else(|| load.ready.rest("why").to_owned());
            let why = if why.is_empty() { why } else { format!(": {why}") };
            return Ok(Outcome::Cannot(format!("{served} of {connections} were served within {PATIENCE} s{why}")));
        }
        slices(options, &server, &mut load, work).map(Outcome::Measured)
    });
    // The load is gone, and all connections with it: processes and threads that served them end by themselves.
    let begin = Instant::now();
    while tree::processes(server.id()).len() > 1 && begin.elapsed() < QUIET_AT_LAST {
        std::thread::sleep(QUIET);
    }
    if server.has_ended() && !matches!(outcome, Ok(Outcome::Cannot(_))) {
        return Ok(Outcome::Cannot(format!("it has ended: {}", complaint(&errors).unwrap_or_default())));
    }
    outcome
}

fn slices(options: &Options, server: &Server, load: &mut Load, work: Work) -> Result<Figures, String> {
    let (mut requests, mut failed, mut given_up) = (0.0, 0.0, 0.0);
    let (mut per_second, mut p50_us, mut p99_us, mut why) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    let before = cpu_when_quiet(server, QUIET_AT_LAST)?;
    for _ in 0..options.shared.rounds {
        load.begin("seconds", options.shared.seconds)?;
        let said = load.end(AFTER_SLICE + Duration::from_secs_f64(options.shared.seconds))?;
        requests += said.get("requests")?;
        failed += said.get("failed")?;
        if said.get("given_up")? > 0.0 {
            given_up += said.get("given_up")?;
            cpu_when_quiet(server, CAUGHT_UP_AT_LAST)?;
        }
        per_second.push(said.get("in_time")? / options.shared.seconds);
        p50_us.push(said.get("p50_us")?);
        p99_us.push(said.get("p99_us")?);
        if !said.rest("why").is_empty() {
            said.rest("why").clone_into(&mut why);
        }
    }
    let spent = cpu_when_quiet(server, QUIET_AT_LAST)? - before;
    if requests == 0.0 {
        return Err(format!("nothing was answered, {failed} connections failed, the last by: {why}"));
    }
    let memory = match work {
        // All connections stand.
        Work::Echo => tree::proportional(server.id()),
        Work::Short => {
            load.begin("seconds", LOOK_SECONDS)?;
            std::thread::sleep(LOOK_AFTER);
            let memory = tree::proportional(server.id());
            load.end(AFTER_SLICE)?;
            memory
        }
    };
    Ok(Figures {
        per_second: median(&per_second),
        p50_us: median(&p50_us),
        p99_us: median(&p99_us),
        cpu_us: spent as f64 / requests / 1e3,
        memory_mib: memory as f64 / f64::from(1 << 20),
        failed,
        given_up,
        why,
    })
}

/// CPU time so far, once all requests are done.
fn cpu_when_quiet(server: &Server, at_last: Duration) -> Result<u64, String> {
    let begin = Instant::now();
    let mut before = server.cpu_nanos()?;
    loop {
        std::thread::sleep(QUIET);
        let now = server.cpu_nanos()?;
        if now - before.min(now) < QUIET_NANOS || begin.elapsed() > at_last {
            return Ok(now);
        }
        before = now;
    }
}

/// An option that this glowplug lacks exists in another version.
fn not_started(why: String, errors: &Path) -> Outcome {
    match complaint(errors) {
        Some(said) if said.contains("unexpected argument") => Outcome::Absent(said),
        Some(said) => Outcome::Cannot(said),
        None => Outcome::Cannot(why),
    }
}

/// The server's last line of output, or its first error.
pub(crate) fn complaint(errors: &Path) -> Option<String> {
    let text = std::fs::read_to_string(errors).unwrap_or_default();
    let error = text.lines().find(|line| line.starts_with("error: ")).map(str::to_owned);
    error.or_else(|| text.lines().rfind(|line| line.contains(char::is_alphanumeric)).map(|line| line.trim().to_owned()))
}
