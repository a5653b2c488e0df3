//! One sender and a thousand members: glowplug's chat beside the publish and subscribe of `nats-server` and
//! `redis-server`, with equal messages and an equal load, in turns. The figure is the server's CPU time for one
//! delivery, a message to a member.
//!
//! `cargo bench --bench fanout -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use rig::figures::{median, quantile};
use rig::load::Load;
use rig::options::{self, Shared, Value};
use rig::rounds::{Sample, interleaved};
use rig::{Rig, Server};
use server::Contender;

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
--before PATH         and this one beside it, as one more contender
--websocket           members of the chat in frames and by WebSocket, beside a server with npm's ws, in place of the others";

struct Options {
    shared: Shared,
    members: usize,
    sizes: Vec<usize>,
    depths: Vec<usize>,
    before: Option<PathBuf>,
    websocket: bool,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options))
}

fn run(options: &Options) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
    let own = |name, way| Ok::<_, String>(Contender::Glowplug { name, way, path: rig.glowplug()?.to_owned() });
    let mut contenders = vec![own("glowplug", "chat")?];
    if options.websocket {
        // Ratios of this table are to members who speak in frames.
        contenders = vec![own("frames", "frames")?, own("websocket", "websocket")?];
    }
    if let Some(before) = &options.before {
        before.metadata().map_err(|why| format!("{}: {why}", before.display()))?;
        let way = if options.websocket { "websocket" } else { "chat" };
        contenders.push(Contender::Glowplug { name: "before", way, path: before.clone() });
    }
    let peers = if options.websocket {
        vec![Contender::Node]
    } else {
        contenders.push(Contender::Floor);
        vec![Contender::Redis, Contender::Nats]
    };
    for peer in peers {
        match peer.version() {
            Some(version) => {
                println!("{} is {version}.", peer.name());
                contenders.push(peer);
            }
            None => println!("{} is not installed ({}), and left out.", peer.name(), peer.advice()),
        }
    }
    rig.conditions();
    let Shared { rounds, seconds, .. } = options.shared;
    println!("{} members, {rounds} rounds of {seconds} s each, in turns.\n", options.members);
    println!(
        "| bytes × in flight | | CPU/delivery | deliveries/CPU s | ratio to {} | p20–p80 | round p50 | p99 |",
        contenders[0].name()
    );
    println!("| --- | --- | ---: | ---: | ---: | :---: | ---: | ---: |");
    let servers = contenders.iter().map(|contender| contender.start(&rig)).collect::<Result<Vec<Server>, _>>()?;
    for &size in &options.sizes {
        for &depth in &options.depths {
            case(options, &rig, &contenders, &servers, size, depth)?;
        }
    }
    if !options.websocket {
        println!("\n{}", server::GUARANTEES);
    }
    Ok(())
}

/// A row of each contender.
fn case(
    options: &Options,
    rig: &Rig,
    contenders: &[Contender],
    servers: &[Server],
    size: usize,
    depth: usize,
) -> Result<(), String> {
    let numbers = [("members", options.members), ("depth", depth), ("size", size)];
    let words = numbers.iter().flat_map(|(option, number)| [format!("--{option}"), number.to_string()]);
    let words: Vec<String> = std::iter::once("--slices".to_owned()).chain(words).collect();
    // All members are subscribed and have received a message.
    let loads = contenders.iter().zip(servers).map(|(c, server)| rig.ask(server, &["fanout", c.way()], &words));
    let mut loads = loads.collect::<Result<Vec<Load>, _>>()?;
    let timed = interleaved(options.shared.rounds, servers.len(), |index| {
        Sample::take(&servers[index], &mut loads[index], options.shared.seconds, "deliveries")
    })?;
    for (server, figures) in servers.iter().zip(&timed) {
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

impl options::Options for Options {
    const NAME: &'static str = "fanout";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: if quick { Shared::new(2, 0.05) } else { Shared::new(30, 0.3) },
            members: if quick { 100 } else { 1000 },
            sizes: vec![64, 1024],
            depths: vec![1, 16],
            before: None,
            websocket: false,
        }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn flag(&mut self, option: &str) -> bool {
        self.websocket |= option == "--websocket";
        option == "--websocket"
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--members" => self.members = value.number()?,
            "--size" => self.sizes = value.numbers()?,
            "--depth" => self.depths = value.numbers()?,
            "--before" => self.before = Some(value.path()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}
