//! The fixed loops, each on a thread.

use std::sync::Arc;
use std::thread;

use super::{Build, Common, Prepare, Prepared, Running};
use crate::cluster::{Cluster, Inbox};
use crate::driver::Readiness;
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::service::Bound;
use crate::settings::{Orders, Periodic};
use crate::sys::System;
use crate::sys::affinity::Restore;

/// The parts of one loop, on their way to its thread.
struct Ready {
    system: System,
    inbox: Inbox,
    services: Vec<(Bound, Build)>,
}

impl Ready {
    /// Makes the loop with its handlers.
    ///
    /// # Errors
    /// The error of a handler's factory.
    fn event_loop(self, number: usize, common: Common) -> Result<Running, Error> {
        let loop_handle = common.cluster.fixed()[number].clone();
        let driver = Readiness::new(self.system, loop_handle.number, loop_handle.counters.clone());
        let mut event_loop = EventLoop::new(driver, common.cluster, loop_handle, self.inbox, common.settings);
        for (service, (bound, build)) in self.services.into_iter().enumerate() {
            match build(service as u16) {
                Ok(host) => event_loop.add_service(bound, host),
                Err(error) => {
                    event_loop.abandon();
                    return Err(error);
                }
            }
        }
        Ok(event_loop)
    }
}

/// Halts the application when the thread of a loop panics: the other loops would wait for it for ever.
struct HaltOnPanic(Arc<Cluster>);

impl Drop for HaltOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            give_up(&self.0);
        }
    }
}

/// One loop cannot go on: the other loops end, and accept no more connections.
fn give_up(cluster: &Cluster) {
    cluster.halt();
    cluster.close_listeners();
}

/// Pins the calling thread to the core of this loop, if loops are pinned.
fn pin(number: usize, cluster: &Cluster) -> Result<(), Error> {
    let Some(cores) = cluster.cores() else { return Ok(()) };
    let one = cores.one(number);
    one.keep_to()?;
    log::info!("loop {number} keeps to core {one}");
    Ok(())
}

/// Runs all loops until all have ended, the first on this thread. `prepare` is the last step before the first loop
/// runs. Returns the first error of any loop.
pub(super) fn run(
    common: &Common,
    systems: Vec<(System, Inbox)>,
    services: Vec<Prepared>,
    periodic: Vec<Periodic>,
    orders: Orders,
    prepare: Prepare,
) -> Result<(), Error> {
    let cluster = &common.cluster;
    let mut all: Vec<Ready> =
        systems.into_iter().map(|(system, inbox)| Ready { system, inbox, services: Vec::new() }).collect();
    for Prepared { bound, builds, .. } in services {
        let others: Vec<Bound> = (1..all.len()).map(|_| bound.for_another_loop()).collect();
        for ((ready, bound), build) in all.iter_mut().zip(std::iter::once(bound).chain(others)).zip(builds) {
            ready.services.push((bound, build));
        }
    }
    // Held until all loops have ended: a second signal ends the process even if the first loop has ended already.
    let _signals = orders.signals.as_ref().map(Arc::clone);
    let _cores = cluster.cores().cloned().map(Restore::new);
    let mut all = all.into_iter();
    let first = all.next().expect("there is at least one loop");
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, ready) in (1..).zip(all) {
            let common = common.clone();
            let run = move || {
                let cluster = common.cluster.clone();
                let _halt = HaltOnPanic(cluster.clone());
                let outcome = pin(number, &cluster).and_then(|()| ready.event_loop(number, common)?.run(None));
                if outcome.is_err() {
                    cluster.halt();
                }
                outcome
            };
            match thread::Builder::new().name(format!("loop {number}")).spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(cause) => {
                    give_up(cluster);
                    return Err(Error::System { what: "starting a loop's thread", cause });
                }
            }
        }
        let _halt = HaltOnPanic(cluster.clone());
        let mut outcome = pin(0, cluster).and_then(|()| {
            let mut event_loop = first.event_loop(0, common.clone())?;
            event_loop.take_orders(orders);
            for one in periodic {
                event_loop.add_periodic(one);
            }
            prepare(&mut event_loop);
            event_loop.run(None)
        });
        if outcome.is_err() {
            give_up(cluster);
        }
        for thread in threads {
            match thread.join() {
                Ok(of_thread) => outcome = outcome.and(of_thread),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })
}
