//! The driver over real sockets, with every backend: the reports of one batch. `calls`, `listeners` and `layers` test the driver
//! over a system that follows a script (`scripted`).

mod calls;
mod edges;
mod layers;
mod listeners;
mod scripted;
mod world;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::address::Peer;
use crate::buffer::Pool;
use crate::driver::Acceptor;
use crate::limits::Limits;
use crate::link::{Origin, Step};
use crate::sys::backend::Backend;
use crate::sys::fork::FORKS;
use crate::sys::kernel::Kernel;

/// An open link with `count` queued bytes, its driver, and the other end of its socket.
fn with_output(backend: Backend, count: usize) -> (Readiness<Kernel>, Links, ConnectionId, Pool, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut driver = Readiness::new(Kernel::new(backend).unwrap(), 0, Arc::default());
    let (mut links, mut pool) = (Links::new(0, 1), Pool::default());
    let id = links.insert(Link::new(Origin::Accepted, Peer::Unix, 0, 0, driver.now()));
    driver.count_in();
    driver.adopt(id, Socket::owned(near.into()), false);
    let link = links.get_mut(id).unwrap();
    link.writable_output(&mut pool, &limits()).unwrap().put(&vec![b'.'; count]);
    (driver, links, id, pool, far)
}

/// No mark stops reading.
fn limits() -> Limits {
    Limits { output_high: usize::MAX, output_max: usize::MAX, ..Limits::default() }
}

/// Waits for a batch, and returns the kinds of its reports.
fn batch(driver: &mut Readiness<Kernel>, links: &Links) -> Vec<&'static str> {
    let now = driver.now();
    driver.wait(links, Some(Duration::from_secs(60)), now).unwrap();
    let (mut scratch, mut reports) = (vec![0; 65_536], Vec::new());
    while let Some(completion) = driver.next(links, &mut scratch) {
        reports.push(match completion {
            Completion::Received { .. } => "received",
            Completion::Sent { .. } => "sent",
            other => panic!("{other:?}"),
        });
    }
    reports
}

#[test]
fn an_event_for_both_directions_reports_the_input_and_then_sends_the_output_in_one_batch() {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for backend in [Backend::Epoll, Backend::Select] {
        let (mut driver, mut links, id, mut pool, mut far) = with_output(backend, 8 << 20);
        // The kernel takes a part of the output, and the driver waits for room.
        let link = links.get_mut(id).unwrap();
        assert_eq!(link.step(1, &limits()), Step::Send);
        let outcome = driver.send(link);
        assert!(matches!(outcome, Sent::Blocked(1..)), "{outcome:?}");
        let now = driver.now();
        link.sent(outcome, now, &limits(), &mut pool, || 0);
        assert!(link.take_interest_change() && link.reads() && link.writes());
        driver.changed(id);
        far.set_nonblocking(true).unwrap();
        // The peer makes room and sends at the same time, in each turn.
        for _ in 0..5 {
            while far.read(&mut [0; 65_536]).is_ok() {}
            far.write_all(b"more").unwrap();
            assert_eq!(batch(&mut driver, &links), ["received", "sent"], "{backend}");
        }
    }
}
