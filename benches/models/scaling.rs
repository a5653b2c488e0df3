//! One loop and several, free to use every core: the CPU time of a request, how evenly the loops share connections, and
//! how often one loop has to wake another.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cell::complaint;
use crate::rig::figures::{median, quantile};
use crate::rig::load::Load;
use crate::rig::rounds::{Sample, Timed, interleaved};
use crate::rig::{Rig, Served, Server};
use crate::{Options, SIZE};

/// Time for the loops to write their counters.
const REPORTED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// The request, and the service.
struct Case {
    title: &'static str,
    serve: [&'static str; 2],
    /// Words of the load before the address, and after it.
    load: [&'static str; 2],
    words: &'static [&'static str],
    /// The load's name for its connections, and for the counted events.
    connections: &'static str,
    counted: &'static str,
    many: usize,
    few: usize,
}

const fn echo(title: &'static str, kind: &'static str, many: usize) -> Case {
    let (connections, counted) = ("connections", "requests");
    Case { title, serve: ["echo", "--raw"], load: ["clients", kind], words: &[], connections, counted, many, few: 32 }
}

const fn chat(title: &'static str, words: &'static [&'static str]) -> Case {
    let (connections, counted) = ("members", "deliveries");
    let (serve, load) = (["chat", "serve"], ["fanout", "chat"]);
    Case { title, serve, load, words, connections, counted, many: 1000, few: 100 }
}

const CASES: [Case; 4] = [
    echo("ping-pong", "kept", 256),
    echo("short connections", "short", 64),
    chat("chat, one message in flight", &["--slices", "--depth", "1"]),
    chat("chat, 16 in flight", &["--slices", "--depth", "16"]),
];

/// A binary, and the number of its loops.
struct Row {
    name: &'static str,
    program: PathBuf,
    words: &'static [&'static str],
    loops: usize,
}

/// A row that runs.
struct Running {
    name: &'static str,
    server: Server,
    load: Load,
    loops: usize,
    errors: PathBuf,
    /// Counters of each loop, before the first slice.
    before: Vec<Counters>,
}

/// The counters of a loop's report on SIGUSR1 that matter here.
struct Counters {
    accepted: f64,
    wakes: f64,
}

pub(crate) fn measure(options: &Options, rig: &Rig) -> Result<(), String> {
    let two = &["--loops", "2"];
    let row = |name, program: &Path, words, loops| Row { name, program: program.to_owned(), words, loops };
    let mut rows = vec![row("1 loop", rig.glowplug()?, &[], 1), row("2 loops", rig.glowplug()?, two, 2)];
    if let Some(before) = &options.before {
        rows.push(row("2 loops, before", before, two, 2));
    }
    println!("\n## One loop and several\n");
    println!("glowplug on epoll, messages of {SIZE} bytes; of the chat, a request is one delivery to one member.");
    rig.conditions();
    println!(
        "\n| work | connections | | CPU per request | ratio | p20–p80 | requests/s | most : fewest accepted | wakes per 1,000 | failed |"
    );
    println!("| --- | ---: | --- | ---: | ---: | :---: | ---: | ---: | ---: | ---: |");
    CASES.iter().try_for_each(|case| compare(options, rig, case, &rows))
}

fn compare(options: &Options, rig: &Rig, case: &Case, rows: &[Row]) -> Result<(), String> {
    let connections = if options.quick { case.few } else { case.many };
    let mut running = Vec::new();
    let mut absent = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let errors = rig.scratch.join(format!("errors-{number}"));
        match start(rig, case, row, connections, errors) {
            Ok(one) => running.push(one),
            Err(why) => absent.push((row.name, why)),
        }
    }
    let timed = interleaved(2 * options.shared.rounds, running.len(), |index| {
        let one = &mut running[index];
        Sample::take(&one.server, &mut one.load, options.shared.seconds, case.counted)
    })?;
    for (one, timed) in running.iter().zip(&timed) {
        one.print(case, connections, timed);
    }
    for (name, why) in absent {
        println!("| {} | {connections} | {name} | not there: {why} | | | | | | |", case.title);
    }
    Ok(())
}

fn start(rig: &Rig, case: &Case, row: &Row, connections: usize, errors: PathBuf) -> Result<Running, String> {
    let words = [&case.serve, &["--backend", "epoll", "--log-level", "warn"][..], row.words].concat();
    let served = Served { name: row.name.to_owned(), program: &row.program, words };
    let server = rig.serve_quietly(&served, &errors).map_err(|why| complaint(&errors).unwrap_or(why))?;
    let mut words: Vec<String> = case.words.iter().map(ToString::to_string).collect();
    words.extend([format!("--{}", case.connections), connections.to_string()]);
    words.extend(["--size".to_owned(), SIZE.to_string()]);
    let load = rig.ask(&server, &case.load, &words)?;
    let mut running = Running { name: row.name, server, load, loops: row.loops, errors, before: Vec::new() };
    running.before = running.counters();
    Ok(running)
}

impl Running {
    fn print(&self, case: &Case, connections: usize, timed: &Timed) {
        let (before, after) = (&self.before, self.counters());
        let accepted = after.iter().map(|counters| counters.accepted);
        let (fewest, most) =
            accepted.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), n| (low.min(n), high.max(n)));
        let wakes = |all: &[Counters]| all.iter().map(|counters| counters.wakes).sum::<f64>();
        let per_thousand = (wakes(&after) - wakes(before)) / timed.counted.iter().sum::<f64>() * 1e3;
        // A dash where counters are missing.
        let cell = |value: f64, there: bool| if there { format!("{value:.2}") } else { "–".to_owned() };
        let there = after.len() == self.loops && before.len() == self.loops;
        println!(
            "| {} | {connections} | {} | {:.2} µs | {:.2} | {:.2}–{:.2} | {:.0} | {} | {} | {} |",
            case.title,
            self.name,
            median(&timed.cpu_nanos) / 1e3,
            median(&timed.ratios),
            quantile(&timed.ratios, 0.2),
            quantile(&timed.ratios, 0.8),
            median(&timed.per_second),
            cell(most / fewest, there && self.loops > 1),
            cell(per_thousand, there),
            timed.failed
        );
    }

    /// Asks the server to report, and reads the report from the server's standard error. Empty after the time limit.
    fn counters(&self) -> Vec<Counters> {
        let read = || std::fs::read_to_string(&self.errors).unwrap_or_default();
        let seen = read().len();
        self.server.signal(Signal::USR1);
        let begin = Instant::now();
        loop {
            let counters: Vec<Counters> = read().get(seen..).unwrap_or_default().lines().filter_map(parse).collect();
            if counters.len() >= self.loops || begin.elapsed() > REPORTED {
                return counters;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Reads a line `counters: accepted 7372, refused 0, …`. The sum of all loops has another name.
fn parse(line: &str) -> Option<Counters> {
    let rest = line.strip_prefix("counters: ")?;
    let get = |name: &str| rest.split(", ").find_map(|pair| pair.strip_prefix(name)?.trim().parse().ok());
    Some(Counters { accepted: get("accepted ")?, wakes: get("wakes ")? })
}
