//! Slices in turns: all contenders in each round, compared within the round, because the machine drifts.

use super::load::Load;
use super::server::Server;

/// A slice of a contender.
pub struct Sample {
    /// CPU time of the server for each counted event.
    pub cpu_nanos: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub counted: f64,
    /// Failed connections, and abandoned requests, as far as the load goes on after them.
    pub failed: f64,
}

impl Sample {
    /// `counted`: the load's name for the event over which the server's CPU time is shared out.
    pub fn take(server: &Server, load: &mut Load, seconds: f64, counted: &str) -> Result<Sample, String> {
        // Read between slices, when all requests are answered and the server sleeps.
        let before = server.cpu_nanos()?;
        let said = load.slice("seconds", seconds)?;
        let spent = server.cpu_nanos()? - before;
        let count = said.get(counted)?;
        if count == 0.0 {
            return Err(said.failure("nothing was answered"));
        }
        let failures = ["failed", "given_up"].map(|name| said.get(name).unwrap_or(0.0));
        Ok(Sample {
            counted: count,
            failed: failures.iter().sum(),
            cpu_nanos: spent as f64 / count,
            per_second: count / said.get("seconds")?,
            p50_us: said.get("p50_us")?,
            p99_us: said.get("p99_us")?,
        })
    }
}

/// The figures of a contender, round by round.
#[derive(Default)]
pub struct Timed {
    pub cpu_nanos: Vec<f64>,
    /// Ratio to the first contender, in each round.
    pub ratios: Vec<f64>,
    pub per_second: Vec<f64>,
    pub p50_us: Vec<f64>,
    pub p99_us: Vec<f64>,
    pub counted: Vec<f64>,
    /// Sum over all rounds.
    pub failed: f64,
}

/// A B C, B C A, C A B …: in turns, with each order of neighbours equally often.
pub fn interleaved(
    rounds: usize,
    contenders: usize,
    mut slice: impl FnMut(usize) -> Result<Sample, String>,
) -> Result<Vec<Timed>, String> {
    let mut timed: Vec<Timed> = (0..contenders).map(|_| Timed::default()).collect();
    for round in 0..rounds {
        for turn in 0..contenders {
            let index = (round + turn) % contenders;
            let (sample, figures) = (slice(index)?, &mut timed[index]);
            figures.cpu_nanos.push(sample.cpu_nanos);
            figures.per_second.push(sample.per_second);
            figures.p50_us.push(sample.p50_us);
            figures.p99_us.push(sample.p99_us);
            figures.counted.push(sample.counted);
            figures.failed += sample.failed;
        }
        let Some(first) = timed.first().map(|figures| figures.cpu_nanos[round]) else { break };
        timed.iter_mut().for_each(|figures| figures.ratios.push(figures.cpu_nanos[round] / first));
    }
    Ok(timed)
}
