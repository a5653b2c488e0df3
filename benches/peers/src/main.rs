//! The peers of the benchmarks, in one binary, which takes one build. `peers mio|tokio http|echo`, `peers threads|fork
//! echo` and `peers floor …` serve until they are killed; `peers load http|echo ADDR` and the like ask. mio and tokio
//! share the answers in `protocol`, so that the loops alone differ.

mod bare;
mod clients;
mod fanout;
mod fetch;
mod floor;
mod handshakes;
mod load;
#[cfg(feature = "hyper")]
mod on_hyper;
mod on_mio;
mod on_tokio;
mod protocol;
mod report;
mod secure;
mod storm;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use protocol::{Echo, Http};

const USAGE: &str = "usage: peers mio|tokio http|echo [--port PORT]
       peers hyper http [--port PORT]    (with the feature `hyper`)
       peers threads|fork echo [--port PORT]
       peers floor fanout [--port PORT]
       peers floor BYTES kept|closed [--port PORT]
       peers fetch ADDR PATH [--connections N] [--depth N] [--fresh] [--tls CERTIFICATE SUITE]
       peers handshakes full|resumed ADDR CERTIFICATE SUITE [--connections N] [--rate N]
       peers load http|echo|lines ADDR [--connections N] [--idle N] [--depth N] [--size BYTES]
                                       [--seconds S | --requests N | --slices]
       peers clients kept|short ADDR [--connections N] [--size BYTES] [--patience S]
       peers fanout chat|floor|nats|redis ADDR [--from ADDR] [--members N] [--depth N] [--size BYTES] [--seconds S | --slices]
       peers storm ADDR [--members N] [--guests N] [--seconds S] [--every MILLISECONDS] [--rude]

load prints one line: requests=N seconds=S p50_us=N p99_us=N max_us=N
clients,      first `ready …`, then one such line, and more, for each line `seconds S` of standard input
fetch,
handshakes
--slices      first `ready …`, then one such line for each line `seconds S` or `requests N` of standard input;
              `greet` there asks once on each connection, and is answered `greeted`";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *words.as_slice() {
        ["load", work, address, ref rest @ ..] => load::run(work, address, rest),
        ["clients", kind, address, ref rest @ ..] => clients::run(kind, address, rest),
        ["fanout", way, address, ref rest @ ..] => fanout::run(way, address, rest),
        ["storm", address, ref rest @ ..] => storm::run(address, rest),
        ["handshakes", kind, address, ref rest @ ..] => handshakes::run(kind, address, rest),
        ["fetch", address, path, ref rest @ ..] => fetch::run(address, path, rest),
        ["mio", "http", ref rest @ ..] => port(rest).and_then(|p| outcome(on_mio::serve(p, "http", Http::default()))),
        ["mio", "echo", ref rest @ ..] => port(rest).and_then(|p| outcome(on_mio::serve(p, "echo", Echo))),
        ["tokio", "http", ref rest @ ..] => port(rest).and_then(|p| outcome(on_tokio::serve::<Http>(p, "http"))),
        ["tokio", "echo", ref rest @ ..] => port(rest).and_then(|p| outcome(on_tokio::serve::<Echo>(p, "echo"))),
        #[cfg(feature = "hyper")]
        ["hyper", "http", ref rest @ ..] => port(rest).and_then(|p| outcome(on_hyper::serve(p))),
        ["threads", "echo", ref rest @ ..] => port(rest).and_then(|p| outcome(bare::threads(p))),
        ["fork", "echo", ref rest @ ..] => port(rest).and_then(|p| outcome(bare::fork(p))),
        ["floor", "fanout", ref rest @ ..] => port(rest).and_then(|p| outcome(floor::fanout::serve(p))),
        ["floor", size, kind, ref rest @ ..] => port(rest).and_then(|p| floor(p, size, kind)),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The address to listen on: always loopback, on any free port by default.
fn port(rest: &[&str]) -> Result<SocketAddr, String> {
    let port = match rest {
        [] => 0,
        ["--port", port] => port.parse().map_err(|_| format!("not a port: {port}"))?,
        _ => return Err(USAGE.to_owned()),
    };
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn floor(address: SocketAddr, size: &str, kind: &str) -> Result<(), String> {
    let size = size.parse().map_err(|_| format!("not a number of bytes: {size}"))?;
    match kind {
        "kept" | "closed" => outcome(floor::answers::serve(address, size, kind == "closed")),
        _ => Err(USAGE.to_owned()),
    }
}

fn outcome(served: std::io::Result<()>) -> Result<(), String> {
    served.map_err(|why| why.to_string())
}

/// Prints the one line of standard output that a server owes, in glowplug's words.
fn listening(service: &str, address: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "listening {service} tcp://{address}")?;
    out.flush()
}
