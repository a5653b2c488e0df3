//! The figures: a server for each number of idle connections, all alive, each in its turn.

use crate::rig::load::Load;
use crate::rig::rounds::{self, Sample, Timed};
use crate::rig::{Rig, Server};
use crate::{Backend, Case, Options};

/// A server with this many idle connections.
pub(crate) struct Measured {
    pub(crate) idle: usize,
    /// Compared with the server without idle connections.
    pub(crate) timed: Timed,
    /// Resident bytes of the server for each idle connection; `None` without idle connections.
    pub(crate) resident: Option<f64>,
}

pub(crate) fn interleaved(options: &Options, rig: &Rig, case: Case, backend: Backend) -> Result<Vec<Measured>, String> {
    let (mut alive, mut idle_and_resident) = (Vec::new(), Vec::new());
    for &idle in &options.idle {
        let (server, load, resident) = among_idle(rig, case, backend, idle)?;
        alive.push((server, load));
        idle_and_resident.push((idle, resident));
    }
    let timed = rounds::interleaved(options.shared.rounds, alive.len(), |index| {
        let (server, load) = &mut alive[index];
        Sample::take(server, load, options.shared.seconds, "requests")
    })?;
    // A server that had closed its idle connections would look good.
    alive.iter_mut().try_for_each(|(_, load)| load.greet())?;
    let all = timed.into_iter().zip(idle_and_resident);
    Ok(all.map(|(timed, (idle, resident))| Measured { idle, timed, resident }).collect())
}

/// A server with its load connected, and the resident memory that each idle connection has added.
fn among_idle(rig: &Rig, case: Case, backend: Backend, idle: usize) -> Result<(Server, Load, Option<f64>), String> {
    let server = rig.serve(&case.served(rig, backend, idle)?, &[])?;
    // A first load, as large as the active part, comes and goes. So memory that a server allocates once, and memory for
    // the active connections, is allocated before the first look.
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
