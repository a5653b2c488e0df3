//! A thread for each connection, with a small loop of its own.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::{BuildForGuest, Common};
use crate::context::Core;
use crate::desks::{Desk, Desks, Newcomer};
use crate::driver::{Driver, Readiness};
use crate::error::Error;
use crate::event_loop::{EventLoop, Spawned, Spawner};
use crate::service::Bound;
use crate::sys::{Fd, System};

/// What a loop takes beside its connection: its poller and its wake-up.
const OWN_DESCRIPTORS: usize = 2;
pub(super) const DESCRIPTORS_EACH: usize = OWN_DESCRIPTORS + 1;

pub(super) struct Threads {
    common: Common,
    services: Vec<(Bound, BuildForGuest)>,
}

impl Threads {
    pub(super) fn new(common: Common, services: Vec<(Bound, BuildForGuest)>) -> Self {
        Threads { common, services }
    }
}

impl Spawner for Threads {
    fn kind(&self) -> &'static str {
        "threads"
    }

    fn descriptors_each(&self) -> usize {
        DESCRIPTORS_EACH
    }

    fn spawn(&mut self, core: &mut Core, service: u16, newcomer: Newcomer, _: &dyn Fn() -> Vec<Fd>) -> Spawned {
        let system = match System::new(self.common.backend) {
            Ok(system) => system,
            Err(Error::System { cause, .. }) => return Spawned::Failed(newcomer.socket, cause),
            Err(other) => return Spawned::Failed(newcomer.socket, io::Error::other(other)),
        };
        let common = self.common.clone();
        let (desk, generation) = common.desks.enter(system.waker(), OWN_DESCRIPTORS);
        common.desks.count_handed();
        let (bound, build) = &self.services[service as usize];
        let (bound, build) = (bound.for_guest(), build.clone());
        // If there is no thread, what it was to get is dropped with it.
        let socket = newcomer.socket.number();
        let leaving = Leaving { desks: common.desks.clone(), desk };
        let name = core.terms[service as usize].name.replace('\0', " ");
        let run = move || serve(common, &leaving.desk, generation, system, (bound, build), newcomer);
        match thread::Builder::new().name(name).spawn(run) {
            Ok(_) => Spawned::Moved,
            Err(cause) => {
                self.common.desks.has_counted();
                Spawned::Failed(socket, cause)
            }
        }
    }
}

/// However its thread ends, the loop has gone.
struct Leaving {
    desks: Arc<Desks>,
    desk: Arc<Desk>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.desks.leave(&self.desk);
    }
}

fn serve(
    common: Common,
    desk: &Arc<Desk>,
    generation: u32,
    system: System,
    (bound, build): (Bound, BuildForGuest),
    newcomer: Newcomer,
) {
    let mut driver = Readiness::new(system, desk.number, desk.counters.clone());
    let name = bound.terms.name.clone();
    let Ok(host) = catch_unwind(AssertUnwindSafe(|| build(desk))) else {
        log::error!("{name}: making the handler for {} panicked", newcomer.peer);
        desk.counters.panics.add(1);
        bound.counts.take_back();
        driver.take_over();
        common.desks.has_counted();
        return driver.discard(newcomer.socket);
    };
    let mut event_loop = EventLoop::guest(driver, common.desks, desk.clone(), generation, common.settings);
    event_loop.add_service(bound, host);
    if let Err(error) = event_loop.run_for(Newcomer { door: 0, ..newcomer }) {
        log::error!("{name}: {error}");
    }
}
