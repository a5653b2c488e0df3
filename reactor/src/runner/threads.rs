//! A thread for each connection, with a per-connection loop.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::{BuildForGuest, Common, own_listener};
use crate::cluster::{Accepted, Cluster, LoopHandle};
use crate::context::Core;
use crate::driver::{Acceptor, Readiness};
use crate::error::Error;
use crate::event_loop::{EventLoop, Spawned, Spawner};
use crate::service::Bound;
use crate::sys::{Fd, Sys, System};

/// Descriptors of a loop beside the connection: the poller and the wake-up.
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

    fn spawn(&mut self, core: &mut Core, service: u16, accepted: Accepted, _: &dyn Fn() -> Vec<Fd>) -> Spawned {
        let system = match System::new(self.common.backend) {
            Ok(system) => system,
            Err(Error::System { cause, .. }) => return Spawned::Failed(accepted.socket, cause),
            Err(other) => return Spawned::Failed(accepted.socket, io::Error::other(other)),
        };
        let listener = own_listener(&self.services, service, accepted.listener);
        let accepted = Accepted { listener, ..accepted };
        let common = self.common.clone();
        let loop_handle = common.cluster.enter(system.waker(), OWN_DESCRIPTORS);
        common.cluster.count_handed();
        let (bound, build) = &self.services[service as usize];
        let (bound, build) = (bound.for_another_loop(), build.clone());
        // If no thread can be started, the parts meant for the thread are dropped with the closure.
        let socket = accepted.socket.number();
        let leaving = Leaving { cluster: common.cluster.clone(), loop_handle };
        let name = core.terms[service as usize].name.replace('\0', " ");
        let run = move || serve(common, &leaving.loop_handle, system, (bound, build), accepted);
        match thread::Builder::new().name(name).spawn(run) {
            Ok(_) => Spawned::Moved,
            Err(cause) => {
                self.common.cluster.has_counted();
                Spawned::Failed(socket, cause)
            }
        }
    }
}

/// Marks the loop as gone when its thread ends, in any way.
struct Leaving {
    cluster: Arc<Cluster>,
    loop_handle: Arc<LoopHandle>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.cluster.leave(&self.loop_handle);
    }
}

fn serve(
    common: Common,
    loop_handle: &Arc<LoopHandle>,
    system: System,
    (bound, build): (Bound, BuildForGuest),
    accepted: Accepted,
) {
    let mut driver = Readiness::new(system, loop_handle.number, loop_handle.counters.clone());
    let name = bound.terms.name.clone();
    let host = match catch_unwind(AssertUnwindSafe(|| build(loop_handle))) {
        Ok(Ok(host)) => host,
        outcome => {
            match outcome {
                Ok(Err(error)) => log::error!("{error}: no handler for {}", accepted.peer),
                _ => {
                    log::error!("{name}: making the handler for {} panicked", accepted.peer);
                    loop_handle.counters.panics.add(1);
                }
            }
            bound.terms.counts.take_back();
            driver.count_in();
            common.cluster.has_counted();
            return driver.close_accepted(accepted.socket);
        }
    };
    let inbox = common.cluster.inbox(loop_handle);
    let mut event_loop = EventLoop::new(driver, common.cluster, loop_handle.clone(), inbox, common.settings);
    event_loop.add_service(bound, host);
    if let Err(error) = event_loop.run(Some(accepted)) {
        log::error!("{name}: {error}");
    }
}
