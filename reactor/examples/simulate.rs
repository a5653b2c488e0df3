//! Runs the loop's own exercise on one seed after another, for as long as one likes:
//! `cargo run -p reactor --features sim --example simulate -- --seconds 600`, or `--seed 7` to see one again.

use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if let Some(seed) = value("--seed") {
        println!("{:#?}", reactor::sim::exercise(seed));
        return;
    }
    let (began, first) = (Instant::now(), value("--from").unwrap_or(0));
    let lasts = Duration::from_secs(value("--seconds").unwrap_or(60));
    let (mut seed, mut waits, mut connections) = (first, 0, 0);
    while began.elapsed() < lasts {
        let report = reactor::sim::exercise(seed);
        waits += report.waits;
        connections += report.closed.len();
        seed += 1;
    }
    println!("{} seeds, {connections} connections, {waits} turns: no failure", seed - first);
}
