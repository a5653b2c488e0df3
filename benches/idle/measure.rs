//! The figures: a server for each number of idle connections, all alive, each in its turn, compared within a round,
//! because the machine drifts.

use crate::rig::server::Load;
use crate::rig::{Rig, Server};
use crate::{Backend, Case, Options};

/// A server with this many idle connections.
pub(crate) struct Measured {
    pub(crate) idle: usize,
    /// Of the server, per request, of each round.
    pub(crate) cpu_nanos: Vec<f64>,
    /// To the server that has none idle, in the same round.
    pub(crate) ratios: Vec<f64>,
    pub(crate) per_second: Vec<f64>,
    /// Resident bytes of the server for each idle connection; none where there is none.
    pub(crate) resident: Option<f64>,
}

pub(crate) fn interleaved(options: &Options, rig: &Rig, case: Case, backend: Backend) -> Result<Vec<Measured>, String> {
    let mut alive = Vec::new();
    let mut measured = Vec::new();
    for &idle in &options.idle {
        let (server, load, resident) = crowded(rig, case, backend, idle)?;
        alive.push((server, load));
        let (cpu_nanos, ratios, per_second) = (Vec::new(), Vec::new(), Vec::new());
        measured.push(Measured { idle, cpu_nanos, ratios, per_second, resident });
    }
    for round in 0..options.rounds {
        for turn in 0..alive.len() {
            let index = (round + turn) % alive.len();
            let ((server, load), figures) = (&mut alive[index], &mut measured[index]);
            // Read between slices, when all is answered and the server sleeps.
            let before = server.cpu_nanos()?;
            let slice = load.slice("seconds", options.seconds)?;
            let spent = server.cpu_nanos()? - before;
            figures.cpu_nanos.push(spent as f64 / slice.requests);
            figures.per_second.push(slice.requests / slice.seconds);
        }
        let none = measured[0].cpu_nanos[round];
        for figures in &mut measured {
            figures.ratios.push(figures.cpu_nanos[round] / none);
        }
    }
    // A server that had let its idle ones go would look good.
    alive.iter_mut().try_for_each(|(_, load)| load.greet())?;
    Ok(measured)
}

/// A server with its load connected, and what each idle connection has added to its resident memory.
fn crowded(rig: &Rig, case: Case, backend: Backend, idle: usize) -> Result<(Server, Load, Option<f64>), String> {
    let server = rig.serve(&case.served(rig, backend, idle)?, &[])?;
    // A first load, as large as the part that will ask, comes and goes: what a server loads and allocates once, and
    // what the active ones need, is there before the first look.
    let mut first = rig.load(&server, &case.asked(0))?;
    first.slice("seconds", WARM_UP_SECONDS)?;
    drop(first);
    let before = server.resident()?;
    let load = rig.load(&server, &case.asked(idle))?;
    let added = server.resident()?.saturating_sub(before);
    let resident = (idle > 0).then(|| added as f64 / idle as f64);
    Ok((server, load, resident))
}

const WARM_UP_SECONDS: f64 = 0.1;
