//! HTTP beside nginx: the files that both servers send, the servers' words, and the rows of a case.

use std::time::Duration;

use super::figures::{median, quantile, verdict};
use super::load::Load;
use super::options::Shared;
use super::others;
use super::rounds::{Sample, interleaved};
use super::{Rig, Server};

/// The answer of a server without files.
pub const BODY: &str = "Hello from Epoll Server!";
/// The file with the same content, which nginx sends instead.
pub const FIXED: &str = "fixed";

/// Age at which the tag of a file no longer changes.
const TAG_IS_STRONG: Duration = Duration::from_secs(3);

/// Words of `glowplug http` for every case.
pub const WORDS: [&str; 5] = ["http", "--log-level", "warn", "--idle-timeout", "0"];

/// Writes [`FIXED`] and files of these names and lengths below `root`. **Blocks** for 3 s: a load compares every byte, and the
/// tag of a file of less than two seconds is weak, then strong.
pub fn prepare<'a>(rig: &Rig, files: impl IntoIterator<Item = (&'a str, usize)>) -> Result<(), String> {
    let root = rig.scratch.join("root");
    std::fs::create_dir(&root).map_err(|why| format!("root: {why}"))?;
    let write =
        |name: &str, content: &[u8]| std::fs::write(root.join(name), content).map_err(|why| format!("{name}: {why}"));
    for (name, size) in files {
        let content: Vec<u8> = (0..size).map(|at| b'a' + (at % 23) as u8).collect();
        write(name, &content)?;
    }
    write(FIXED, BODY.as_bytes())?;
    std::thread::sleep(TAG_IS_STRONG);
    Ok(())
}

/// Prints what is measured, the conditions, and the head of the table. Returns whether nginx is installed; `without_nginx` says
/// what the ratios are then.
pub fn begin(rig: &Rig, what: &str, each: &str, without_nginx: &str) -> bool {
    let with_nginx = others::has_nginx();
    println!("{what}");
    rig.conditions();
    if !with_nginx {
        println!("nginx is not installed: {without_nginx}.");
    }
    println!("\n| what | connections × depth | who | CPU {each} | ratio | p20–p80 | verdict |");
    println!("| --- | ---: | --- | ---: | ---: | --- | --- |");
    with_nginx
}

/// Gives the servers their loads in turns, and prints a row for each server. Ratios are to the first server.
pub fn measure(
    (case, connections, depth): (&str, usize, usize),
    shared: &Shared,
    servers: &[Server],
    load: impl FnMut(&Server) -> Result<Load, String>,
) -> Result<(), String> {
    let mut loads = servers.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let timed = interleaved(shared.rounds, servers.len(), |index| {
        Sample::take(&servers[index], &mut loads[index], shared.seconds, "requests")
    })?;
    for (server, figures) in servers.iter().zip(&timed) {
        let (micros, ratios) = (median(&figures.cpu_nanos) / 1e3, &figures.ratios);
        let [low, middle, high] = [0.2, 0.5, 0.8].map(|share| quantile(ratios, share));
        let (name, verdict) = (&server.name, verdict(ratios));
        let what = format!("{case} | {connections} × {depth}");
        println!("| {what} | {name} | {micros:.2} µs | {middle:.2} | {low:.2}–{high:.2} | {verdict} |");
    }
    Ok(())
}
