//! One says something and a thousand hear it: glowplug's chat beside the publish and subscribe of `nats-server` and
//! `redis-server`, same messages, same load, in turns. What is compared is the server's CPU time for one delivery: one
//! message to one member.
//!
//! `cargo bench --bench fanout -- --help`; how to read what it prints is in benches/README.md.

#[path = "../rig/mod.rs"]
mod rig;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use rig::Rig;
use rig::figures::{SLICE_SECONDS, median, quantile};
use server::{Contender, Server};

const USAGE: &str = "\
Measures a message to many beside nats-server and redis-server on loopback. Takes about four minutes; --quick, some
seconds. What is not installed is left out.

usage: cargo bench --bench fanout -- [OPTIONS]

--quick               few members, few and short slices: shows that everything works, proves nothing
--members N           1000
--size N,N…           bytes of a message: 64,1024
--depth N,N…          messages in flight: 1,16
--rounds N            slices of each contender in each case: 30
--seconds S           one slice: 0.3
--cpu N               the core that server and load share; the first one allowed
--glowplug PATH       measure this binary instead of the one that cargo has built
--before PATH         and this one beside it, as one more contender";

struct Options {
    members: usize,
    sizes: Vec<usize>,
    depths: Vec<usize>,
    rounds: usize,
    seconds: f64,
    cpu: Option<usize>,
    glowplug: Option<PathBuf>,
    before: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // `cargo bench` says --bench; `cargo test --all-targets` runs this file too, and does not want minutes of load.
    if !arguments.iter().any(|a| a == "--bench") {
        println!("not measured: this is run by `cargo bench --bench fanout`");
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
    let mut contenders = vec![Contender::Glowplug { name: "glowplug", path: rig.glowplug()?.to_owned() }];
    if let Some(before) = &options.before {
        before.metadata().map_err(|why| format!("{}: {why}", before.display()))?;
        contenders.push(Contender::Glowplug { name: "before", path: before.clone() });
    }
    for peer in [Contender::Redis, Contender::Nats] {
        match peer.version() {
            Some(version) => {
                println!("{} is {version}.", peer.name());
                contenders.push(peer);
            }
            None => println!("{} is not installed (apt-get install {}), and left out.", peer.name(), peer.program()),
        }
    }
    rig.conditions();
    println!("{} members, {} rounds of {} s each, in turns.\n", options.members, options.rounds, options.seconds);
    println!(
        "| bytes × in flight | | CPU/delivery | deliveries/CPU s | ratio to glowplug | p20–p80 | round p50 | p99 |"
    );
    println!("| --- | --- | ---: | ---: | ---: | :---: | ---: | ---: |");
    let servers = contenders.iter().map(|contender| Server::start(&rig, contender)).collect::<Result<Vec<_>, _>>()?;
    for &size in &options.sizes {
        for &depth in &options.depths {
            case(options, &rig, &servers, size, depth)?;
        }
    }
    println!("\n{}", server::GUARANTEES);
    Ok(())
}

/// What each contender came to in each round.
#[derive(Default)]
struct Figures {
    cpu_nanos: Vec<f64>,
    ratios: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

/// A B C, B C A, C A B …: in turns, and each follows each other equally often.
fn case(options: &Options, rig: &Rig, servers: &[Server], size: usize, depth: usize) -> Result<(), String> {
    let mut loads =
        servers.iter().map(|server| server.load(rig, options.members, depth, size)).collect::<Result<Vec<_>, _>>()?;
    let mut figures: Vec<Figures> = servers.iter().map(|_| Figures::default()).collect();
    for round in 0..options.rounds {
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            // Read between slices, when everything has arrived and the server sleeps.
            let before = servers[index].cpu_nanos()?;
            let slice = loads[index].slice(options.seconds)?;
            let spent = servers[index].cpu_nanos()? - before;
            figures[index].cpu_nanos.push(spent as f64 / slice.deliveries);
            figures[index].p50_us.push(slice.p50_us);
            figures[index].p99_us.push(slice.p99_us);
        }
        let base = figures[0].cpu_nanos[round];
        for figures in &mut figures {
            figures.ratios.push(figures.cpu_nanos[round] / base);
        }
    }
    for (server, figures) in servers.iter().zip(&figures) {
        let nanos = median(&figures.cpu_nanos);
        println!(
            "| {size} × {depth} | {} | {nanos:.0} ns | {:.0} | {:.2} | {:.2}–{:.2} | {:.1} ms | {:.1} ms |",
            server.name,
            1e9 / nanos,
            median(&figures.ratios),
            quantile(&figures.ratios, 0.2),
            quantile(&figures.ratios, 0.8),
            median(&figures.p50_us) / 1e3,
            median(&figures.p99_us) / 1e3
        );
    }
    Ok(())
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            members: 1000,
            sizes: vec![64, 1024],
            depths: vec![1, 16],
            rounds: 30,
            seconds: 0.3,
            cpu: None,
            glowplug: None,
            before: None,
        };
        // First, so that what is said besides holds whatever the order.
        if arguments.iter().any(|a| a == "--quick") {
            (options.members, options.rounds, options.seconds) = (100, 2, 0.05);
        }
        let mut words = arguments.iter().map(String::as_str);
        while let Some(option) = words.next() {
            if matches!(option, "--bench" | "--quick") {
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{option}: unknown, or without its value"))?;
            let number = || value.parse().ok().filter(|&n: &usize| n > 0);
            let numbers =
                || value.split(',').map(|n| n.parse().ok().filter(|&n: &usize| n > 0)).collect::<Option<Vec<_>>>();
            let bad = || format!("{option} does not take {value}");
            match option {
                "--members" => options.members = number().ok_or_else(bad)?,
                "--size" => options.sizes = numbers().ok_or_else(bad)?,
                "--depth" => options.depths = numbers().ok_or_else(bad)?,
                "--rounds" => options.rounds = number().ok_or_else(bad)?,
                "--seconds" => {
                    options.seconds = value.parse().ok().filter(|s| SLICE_SECONDS.contains(s)).ok_or_else(bad)?;
                }
                "--cpu" => options.cpu = Some(value.parse().map_err(|_| bad())?),
                "--glowplug" => options.glowplug = Some(PathBuf::from(value)),
                "--before" => options.before = Some(PathBuf::from(value)),
                _ => return Err(format!("unknown option {option}")),
            }
        }
        Ok(options)
    }
}
