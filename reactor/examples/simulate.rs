//! Runs the loop's exercise on a sequence of seeds, for a given time:
//!
//! ```text
//! cargo run --release -p glowplug-reactor --features sim --example simulate -- --seconds 600 --from 1000000
//! cargo run --release -p glowplug-reactor --features sim --example simulate -- --seed 7       # one of them again, exactly
//! ```

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use reactor::sim::exercise;

const USAGE: &str = "usage: simulate [--seconds N] [--from SEED] | --seed SEED";

struct Options {
    lasts: Duration,
    from: u64,
    only: Option<u64>,
}

fn options(mut words: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options { lasts: Duration::from_secs(60), from: 0, only: None };
    while let Some(name) = words.next() {
        let value = words.next()?.parse().ok()?;
        match &*name {
            "--seconds" => options.lasts = Duration::from_secs(value),
            "--from" => options.from = value,
            "--seed" => options.only = Some(value),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(seed) = options.only {
        println!("{:#?}", exercise(seed));
        return ExitCode::SUCCESS;
    }
    let (began, mut seed, mut waits, mut connections) = (Instant::now(), options.from, 0, 0);
    while began.elapsed() < options.lasts {
        let Ok(report) = catch_unwind(|| exercise(seed)) else {
            // The panic has printed the fault.
            eprintln!("seed {seed} fails; again: {} --seed {seed}", std::env::args().next().unwrap_or_default());
            return ExitCode::FAILURE;
        };
        waits += report.waits;
        connections += report.closed.len();
        seed += 1;
    }
    println!("{} seeds, {connections} connections, {waits} turns: no failure", seed - options.from);
    ExitCode::SUCCESS
}
