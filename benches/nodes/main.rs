//! One chat room on two servers, over a real `nats-server`: the way of a message from one server to the members of the other beside its
//! way within one server; the memory of members; joins in a second.
//!
//! `cargo bench --bench nodes -- --help`; benches/README.md says how to read the output.

mod members;
#[path = "../rig/mod.rs"]
mod rig;

use std::path::Path;
use std::process::ExitCode;

use members::Members;
use rig::figures::median;
use rig::options::{self, Shared, Value};
use rig::process::{OTHER_DESCRIPTORS, raise_descriptor_limit, works};
use rig::server::free_port;
use rig::{Rig, Served, Server};

const USAGE: &str = "\
Measures a chat room on two servers with nats-server on loopback. Takes less than a minute; --quick, some seconds. Without
nats-server says so, and measures nothing.

usage: cargo bench --bench nodes -- [OPTIONS]

--quick             few members, few and short slices: shows that everything works, proves nothing
--members N         1000
--depth N,N…        messages in flight: 1,16
--joins N           guests of one measurement of joins: 500
--rounds N          slices of each contender in each case: 15
--seconds S         one slice: 0.3
--cpu N             the core that servers and load share; the first one allowed
--glowplug PATH     measure this binary instead of the one that cargo has built";

struct Options {
    shared: Shared,
    members: usize,
    depths: Vec<usize>,
    joins: usize,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options))
}

fn run(options: &Options) -> Result<(), String> {
    if !works(&[], &["nats-server", "--version"]) {
        println!("SKIPPED: nats-server is not installed (apt-get install nats-server)");
        return Ok(());
    }
    let rig = Rig::prepare(&options.shared)?;
    // Three servers have their members in this process at most.
    raise_descriptor_limit(3 * options.members as u64 + OTHER_DESCRIPTORS)?;
    rig.tell_machine_and_load();
    rig.conditions();
    messages(options, &rig)?;
    joins_and_memory(options, &rig)
}

fn engine(rig: &Rig) -> Result<Server, String> {
    let port = free_port()?.to_string();
    let store = rig.scratch.join("jetstream").display().to_string();
    let log = rig.scratch.join("nats.log").display().to_string();
    let words = vec!["-a", "127.0.0.1", "-p", &port, "-js", "-sd", &store, "-l", &log];
    let served = Served { name: "nats-server".to_owned(), program: Path::new("nats-server"), words };
    rig.serve_at(&served, format!("127.0.0.1:{port}"))
}

/// A server of `room`, or one without NATS.
fn chat(rig: &Rig, name: &str, room: Option<(&Server, &str)>) -> Result<Server, String> {
    let url = room.map(|(engine, _)| format!("nats://{}", engine.address()));
    let mut words = vec!["chat", "serve", "--log-level", "warn"];
    if let (Some(url), Some((_, room))) = (&url, room) {
        words.extend(["--nats", url, "--room", room]);
    }
    rig.serve(&Served { name: name.to_owned(), program: rig.glowplug()?, words }, &[])
}

// ---- messages --------------------------------------------------------------------------------------------------------------

/// Where a message comes from, and who hears it.
struct Contender<'a> {
    name: &'static str,
    near: &'a Server,
    far: &'a Server,
}

/// The figures of one contender, round by round. CPU times are for each delivery.
#[derive(Default)]
struct Figures {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    members_server: Vec<f64>,
    senders_server: Vec<f64>,
    engine: Vec<f64>,
}

fn messages(options: &Options, rig: &Rig) -> Result<(), String> {
    let engine = engine(rig)?;
    let plain = chat(rig, "without NATS", None)?;
    let single = chat(rig, "with NATS", Some((&engine, "one")))?;
    let (near, far) = (chat(rig, "near", Some((&engine, "two")))?, chat(rig, "far", Some((&engine, "two")))?);
    let contenders = [
        Contender { name: "within a server without NATS", near: &plain, far: &plain },
        Contender { name: "within a server with NATS", near: &single, far: &single },
        Contender { name: "from one server to another", near: &near, far: &far },
    ];
    let Shared { rounds, seconds, .. } = options.shared;
    println!("\n{} members, messages of 64 bytes, {rounds} rounds of {seconds} s each, in turns.\n", options.members);
    println!("| in flight | | round p50 | p99 | CPU/delivery: all | members' server | sender's server | nats-server |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for &depth in &options.depths {
        let mut loads = Vec::new();
        for contender in &contenders {
            let numbers = [("members", options.members), ("depth", depth), ("size", 64)];
            let words = numbers.iter().flat_map(|(option, number)| [format!("--{option}"), number.to_string()]);
            let from = ["--slices".to_owned(), "--from".to_owned(), contender.near.address().to_owned()];
            loads.push(rig.ask(
                contender.far,
                &["fanout", "chat"],
                &from.into_iter().chain(words).collect::<Vec<_>>(),
            )?);
        }
        let mut figures: Vec<Figures> = contenders.iter().map(|_| Figures::default()).collect();
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                let index = (round + turn) % contenders.len();
                let (contender, figures) = (&contenders[index], &mut figures[index]);
                let servers = [contender.far, contender.near, &engine];
                let before = servers.map(Server::cpu_nanos);
                let said = loads[index].slice("seconds", seconds)?;
                let deliveries = said.get("deliveries")?;
                let mut spent = [0.0; 3];
                for ((spent, before), server) in spent.iter_mut().zip(before).zip(servers) {
                    *spent = (server.cpu_nanos()? - before?) as f64 / deliveries;
                }
                figures.members_server.push(spent[0]);
                figures.senders_server.push(spent[1]);
                figures.engine.push(spent[2]);
                figures.p50_us.push(said.get("p50_us")?);
                figures.p99_us.push(said.get("p99_us")?);
            }
        }
        for (contender, figures) in contenders.iter().zip(&figures) {
            row(depth, contender, figures);
        }
    }
    Ok(())
}

fn row(depth: usize, contender: &Contender<'_>, figures: &Figures) {
    let is_one = std::ptr::eq(contender.near, contender.far);
    let [members, sender, engine] =
        [&figures.members_server, &figures.senders_server, &figures.engine].map(|v| median(v));
    let sender = if is_one { 0.0 } else { sender };
    let shown = if is_one { "–".to_owned() } else { format!("{sender:.0} ns") };
    println!(
        "| {depth} | {} | {:.2} ms | {:.2} ms | {:.0} ns | {members:.0} ns | {shown} | {engine:.0} ns |",
        contender.name,
        median(&figures.p50_us) / 1e3,
        median(&figures.p99_us) / 1e3,
        members + sender + engine,
    );
}

// ---- joins and memory ------------------------------------------------------------------------------------------------------

fn joins_and_memory(options: &Options, rig: &Rig) -> Result<(), String> {
    println!("\nGuests who ask for their names all at once, into an empty room.\n");
    println!("| joins | | joins/s | CPU/join: server | nats-server |");
    println!("| ---: | --- | ---: | ---: | ---: |");
    for name in ["a server without NATS", "a server with NATS"] {
        let engine = engine(rig)?;
        let (mut rates, mut servers, mut engines) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..3 {
            let room = format!("joins{round}");
            let server = chat(rig, name, name.ends_with("with NATS").then_some((&engine, &*room)))?;
            // The first guest of a server waits for the lists of the others.
            let first = Members::join(&server, "first", 1)?;
            let before = (server.cpu_nanos()?, engine.cpu_nanos()?);
            let (guests, time) = Members::join_at_once(&server, "guest", options.joins)?;
            let count = options.joins as f64;
            rates.push(count / time.as_secs_f64());
            servers.push((server.cpu_nanos()? - before.0) as f64 / count / 1e3);
            engines.push((engine.cpu_nanos()? - before.1) as f64 / count / 1e3);
            drop((first, guests));
        }
        let [rate, server, engine] = [&rates, &servers, &engines].map(|values| median(values));
        println!("| {} | {name} | {rate:.0} | {server:.0} µs | {engine:.0} µs |", options.joins);
    }
    println!("\nResident memory of a server, before and with its members.\n");
    println!("| | empty | with members | for each of its own members |");
    println!("| --- | ---: | ---: | ---: |");
    let engine = engine(rig)?;
    let plain = chat(rig, "memory", None)?;
    let (one, other) = (chat(rig, "one", Some((&engine, "memory")))?, chat(rig, "other", Some((&engine, "memory")))?);
    let before = [&plain, &one, &other].map(Server::resident);
    let all = [(&plain, "p"), (&one, "a"), (&other, "b")];
    let mut members = Vec::new();
    for (server, prefix) in all {
        members.push(Members::join(server, prefix, options.members)?);
    }
    // Each server has told its members of all arrivals.
    for (members, servers) in members.iter_mut().zip([1, 2, 2]) {
        members.hear_of(servers * options.members)?;
    }
    let names = ["without NATS", "one of two with NATS", "the other one"];
    for ((name, before), (server, _)) in names.iter().zip(before).zip(all) {
        let (before, after) = (before? as f64, server.resident()? as f64);
        let each = (after - before) / options.members as f64;
        println!("| {name} | {:.1} MiB | {:.1} MiB | {:.1} KiB |", before / MIB, after / MIB, each / 1024.0);
    }
    println!(
        "\nnats-server: {:.1} MiB with the names of {} members.",
        engine.resident()? as f64 / MIB,
        2 * options.members
    );
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

impl options::Options for Options {
    const NAME: &'static str = "nodes";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: if quick { Shared::new(2, 0.05) } else { Shared::new(15, 0.3) },
            members: if quick { 50 } else { 1000 },
            depths: vec![1, 16],
            joins: if quick { 20 } else { 500 },
        }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--members" => self.members = value.number()?,
            "--depth" => self.depths = value.numbers()?,
            "--joins" => self.joins = value.number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}
