//! A number of event loops, each on a thread.

use std::sync::Arc;
use std::thread;

use super::Build;
use crate::driver::Readiness;
use crate::error::Error;
use crate::event_loop::{EventLoop, Orders, Periodic, Settings};
use crate::handle::{Handle, Inbox};
use crate::service::Bound;
use crate::sys::System;

/// What one loop is made of, on its way to its thread.
struct Ready {
    system: System,
    inbox: Inbox,
    services: Vec<(Bound, Build)>,
}

impl Ready {
    fn event_loop(self, number: usize, handle: Handle, settings: Settings) -> EventLoop<Readiness<System>> {
        let driver = Readiness::new(self.system, number as u8, handle.desk(number).counters.clone());
        let mut event_loop = EventLoop::new(driver, number, handle, self.inbox, settings);
        for (service, (bound, build)) in self.services.into_iter().enumerate() {
            event_loop.add_service(bound, build(service as u16));
        }
        event_loop
    }
}

/// Halts the application when the thread of a loop ends by a panic: the others would wait for it for ever.
struct HaltOnPanic(Handle);

impl Drop for HaltOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.halt();
            self.0.close_doors();
        }
    }
}

/// Runs them all, the first on this thread, until all have ended. The first error of any.
pub(crate) fn run(
    systems: Vec<(System, Inbox)>,
    services: Vec<(Bound, Vec<Build>)>,
    periodic: Vec<Periodic>,
    handle: Handle,
    settings: Settings,
    orders: Orders,
) -> Result<(), Error> {
    let mut all: Vec<Ready> =
        systems.into_iter().map(|(system, inbox)| Ready { system, inbox, services: Vec::new() }).collect();
    for (bound, builds) in services {
        let others: Vec<Bound> = (1..all.len()).map(|_| bound.for_another_loop()).collect();
        for ((ready, bound), build) in all.iter_mut().zip(std::iter::once(bound).chain(others)).zip(builds) {
            ready.services.push((bound, build));
        }
    }
    // Held until all have ended: a second signal ends the process even when the first loop has ended already.
    let _signals = orders.signals.as_ref().map(Arc::clone);
    let mut all = all.into_iter();
    let first = all.next().expect("there is at least one loop");
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, ready) in (1..).zip(all) {
            let (handle_there, settings) = (handle.clone(), settings.clone());
            let run = move || {
                let _halt = HaltOnPanic(handle_there.clone());
                let outcome = ready.event_loop(number, handle_there.clone(), settings).run();
                if outcome.is_err() {
                    handle_there.halt();
                }
                outcome
            };
            match thread::Builder::new().name(format!("loop {number}")).spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(cause) => {
                    handle.halt();
                    handle.close_doors();
                    return Err(Error::System { what: "starting a loop's thread", cause });
                }
            }
        }
        let _halt = HaltOnPanic(handle.clone());
        let mut event_loop = first.event_loop(0, handle.clone(), settings);
        event_loop.take_orders(orders);
        for one in periodic {
            event_loop.add_periodic(one);
        }
        let mut outcome = event_loop.run();
        if outcome.is_err() {
            handle.halt();
            handle.close_doors();
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
