//! A room of members that do not read, within the memory budget: what the server takes of the system's memory, and how
//! long a message takes to a member that reads.
//!
//! `cargo bench --bench memory -- --help`; benches/README.md says how to read the output.

#[path = "../rig/mod.rs"]
mod rig;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rig::figures::quantile;
use rig::options::{self, Shared, Value};
use rig::process::{OTHER_DESCRIPTORS, raise_descriptor_limit};
use rig::{Rig, Served};
use socket2::{Domain, SockAddr, Socket, Type};

const USAGE: &str = "\
Measures glowplug's chat with thousands of members that do not read, on loopback. Takes about a minute and a half;
--quick, some seconds.

usage: cargo bench --bench memory -- [OPTIONS]

--quick             1000 members, a budget of 32 MiB, one short round: shows that everything works, proves nothing
--members N,N…      members that do not read: 10000
--budget MIB        of all connections together: 256
--size N            bytes of a message: 1000
--rounds N          servers, one after the other: 3
--seconds S         messages of one round: 20
--cpu N             the server's core; the first one allowed
--glowplug PATH     measure this binary instead of the one that cargo has built";

/// Between two messages: the talker speaks without end, and is no flood.
const PAUSE: Duration = Duration::from_millis(5);
/// For a message to come back, or a member to be let in.
const GUARD: Duration = Duration::from_secs(60);
/// Bytes that the kernel keeps for a client that does not read: the least that the system allows.
const RECEIVE_BUFFER: usize = 4096;
const MIB: u64 = 1024 * 1024;

struct Options {
    shared: Shared,
    members: Vec<usize>,
    budget: usize,
    size: usize,
}

fn main() -> ExitCode {
    options::main(|options: Options| run(&options))
}

fn run(options: &Options) -> Result<(), String> {
    let rig = Rig::prepare(&options.shared)?;
    // The members' ends are in this process.
    raise_descriptor_limit(options.members.iter().max().map_or(0, |&most| most as u64) + OTHER_DESCRIPTORS)?;
    rig.tell_machine_and_load();
    println!("Budget {} MiB, messages of {} bytes, {:?} apart.\n", options.budget, options.size, PAUSE);
    println!("| members | resident before | most resident | over the budget | messages | p50 | p99 | longest |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for &members in &options.members {
        for _ in 0..options.shared.rounds {
            row(options, &rig, members)?;
        }
    }
    Ok(())
}

fn row(options: &Options, rig: &Rig, count: usize) -> Result<(), String> {
    let budget = format!("{}M", options.budget);
    let words = vec!["chat", "serve", "--log-level", "off", "--memory", &budget];
    let server = rig.serve(&Served { name: "chat".to_owned(), program: rig.glowplug()?, words }, &[])?;
    let address = server.address().parse().map_err(|why| format!("{}: {why}", server.address()))?;
    let before = server.resident()?;
    let mut most = before;
    let mut reader = Member::join(address, "reader", None)?;
    let mut talker = Member::join(address, "talker", None)?;
    let mut silent = Vec::with_capacity(count);
    for number in 0..count {
        silent.push(Member::join(address, &format!("silent{number}"), Some(RECEIVE_BUFFER))?);
        if number % 100 == 0 {
            reader.discard()?;
            talker.discard()?;
            most = most.max(server.resident()?);
        }
    }
    let mut micros = Vec::new();
    let (begin, text) = (Instant::now(), "x".repeat(options.size));
    while begin.elapsed().as_secs_f64() < options.shared.seconds || micros.is_empty() {
        let (sent, mark) = (Instant::now(), format!(">>{} ", micros.len()));
        talker.say(&format!("{} {text}", micros.len()))?;
        reader.until(&mark)?;
        micros.push(sent.elapsed().as_secs_f64() * 1e6);
        talker.discard()?;
        // Reading `smaps_rollup` takes the server's lock on its memory for milliseconds.
        if micros.len() % 20 == 0 {
            most = most.max(server.resident()?);
        }
        std::thread::sleep(PAUSE);
    }
    most = most.max(server.resident()?);
    drop(silent);
    println!(
        "| {count} | {:.1} MiB | {:.1} MiB | {:.1} MiB | {} | {:.1} ms | {:.1} ms | {:.1} ms |",
        before as f64 / MIB as f64,
        most as f64 / MIB as f64,
        most as f64 / MIB as f64 - options.budget as f64,
        micros.len(),
        quantile(&micros, 0.5) / 1e3,
        quantile(&micros, 0.99) / 1e3,
        quantile(&micros, 1.0) / 1e3,
    );
    server.end()
}

/// A client of the chat.
struct Member {
    stream: BufReader<TcpStream>,
}

impl Member {
    /// A member that has been let in.
    fn join(address: SocketAddr, name: &str, receive_buffer: Option<usize>) -> Result<Member, String> {
        let named = |why: std::io::Error| format!("{name}: {why}");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(named)?;
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size).map_err(named)?;
        }
        socket.connect(&SockAddr::from(address)).map_err(named)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).map_err(named)?;
        stream.set_read_timeout(Some(GUARD)).map_err(named)?;
        stream.set_write_timeout(Some(GUARD)).map_err(named)?;
        let mut member = Member { stream: BufReader::new(stream) };
        member.say(&format!("NAME: {name}"))?;
        member.until("CLIENT: ")?;
        Ok(member)
    }

    fn say(&mut self, line: &str) -> Result<(), String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).map_err(|why| format!("saying {line}: {why}"))
    }

    /// Reads up to a line with this in it.
    fn until(&mut self, mark: &str) -> Result<(), String> {
        let mut line = String::new();
        while !line.contains(mark) {
            line.clear();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(format!("the connection ended before {mark}")),
                Ok(_) if line.starts_with("ERROR: ") => return Err(line),
                Ok(_) => {}
                Err(why) => return Err(format!("no {mark}: {why}")),
            }
        }
        Ok(())
    }

    /// Throws away all that has come.
    fn discard(&mut self) -> Result<(), String> {
        let named = |why: std::io::Error| format!("reading: {why}");
        self.stream.get_ref().set_nonblocking(true).map_err(named)?;
        loop {
            match self.stream.fill_buf() {
                Ok([]) => return Err("the connection has ended".to_owned()),
                Ok(bytes) => {
                    let count = bytes.len();
                    self.stream.consume(count);
                }
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(why) => return Err(named(why)),
            }
        }
        self.stream.get_ref().set_nonblocking(false).map_err(named)
    }
}

impl options::Options for Options {
    const NAME: &'static str = "memory";
    const USAGE: &'static str = USAGE;

    fn new(quick: bool) -> Options {
        Options {
            shared: if quick { Shared::new(1, 1.0) } else { Shared::new(3, 20.0) },
            members: vec![if quick { 1000 } else { 10_000 }],
            budget: if quick { 32 } else { 256 },
            size: 1000,
        }
    }

    fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--members" => self.members = value.numbers()?,
            "--budget" => self.budget = value.number()?,
            "--size" => self.size = value.number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}
