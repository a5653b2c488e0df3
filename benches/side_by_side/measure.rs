//! The times: taken in slices, each contender in its turn, and compared within a round, because the machine drifts.

use crate::rig::{Rig, Server};
use crate::{Case, Options};

/// One contender in one case.
pub(crate) struct Timed {
    /// Of the server, per request, of each round.
    pub(crate) cpu_nanos: Vec<f64>,
    /// To the first contender, in the same round.
    pub(crate) ratios: Vec<f64>,
    pub(crate) per_second: Vec<f64>,
    pub(crate) p50_us: Vec<f64>,
    pub(crate) p99_us: Vec<f64>,
    pub(crate) answer_bytes: usize,
}

/// A B C, B C A, C A B …: in turns, and each follows each other equally often.
pub(crate) fn interleaved(options: &Options, rig: &Rig, case: Case, servers: &[Server]) -> Result<Vec<Timed>, String> {
    let mut loads =
        servers.iter().map(|server| rig.load(server, &case.asked(options.size))).collect::<Result<Vec<_>, _>>()?;
    let mut timed: Vec<Timed> = loads
        .iter()
        .map(|load| Timed {
            cpu_nanos: Vec::new(),
            ratios: Vec::new(),
            per_second: Vec::new(),
            p50_us: Vec::new(),
            p99_us: Vec::new(),
            answer_bytes: load.answer_bytes,
        })
        .collect();
    for round in 0..options.rounds {
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            let (load, figures) = (&mut loads[index], &mut timed[index]);
            // Read between slices, when all is answered and the server sleeps.
            let before = servers[index].cpu_nanos()?;
            let slice = load.slice("seconds", options.seconds)?;
            let spent = servers[index].cpu_nanos()? - before;
            figures.cpu_nanos.push(spent as f64 / slice.requests);
            figures.per_second.push(slice.requests / slice.seconds);
            figures.p50_us.push(slice.p50_us);
            figures.p99_us.push(slice.p99_us);
        }
        let base = timed[0].cpu_nanos[round];
        for figures in &mut timed {
            figures.ratios.push(figures.cpu_nanos[round] / base);
        }
    }
    Ok(timed)
}
