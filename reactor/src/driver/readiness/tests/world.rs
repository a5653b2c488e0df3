//! A driver with its links over a system that follows a script, and a layer for its connections.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::super::*;
use super::scripted::Scripted;
use crate::address::Peer;
use crate::buffer::Pool;
use crate::driver::Acceptor;
use crate::limits::Limits;
use crate::link::Origin;

/// The driver, its links, and the system.
pub(super) struct World {
    pub(super) sys: Scripted,
    pub(super) driver: Readiness<Scripted>,
    pub(super) links: Links,
    pub(super) pool: Pool,
}

pub(super) const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
pub(super) const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

impl World {
    pub(super) fn new() -> Self {
        let sys = Scripted::new();
        let driver = Readiness::new(sys.clone(), 0, Arc::default());
        World { sys, driver, links: Links::new(0, 1), pool: Pool::default() }
    }

    pub(super) fn link(&mut self, origin: Origin) -> ConnectionId {
        self.link_with(origin, Peer::Unix)
    }

    fn link_with(&mut self, origin: Origin, peer: Peer) -> ConnectionId {
        let now = self.driver.now();
        self.links.insert(Link::new(origin, peer, 0, 0, now))
    }

    /// An accepted connection with this descriptor, over a Unix socket.
    pub(super) fn connection(&mut self, fd: i32) -> ConnectionId {
        self.connection_of(fd, Origin::Accepted, Peer::Unix)
    }

    pub(super) fn connection_of(&mut self, fd: i32, origin: Origin, peer: Peer) -> ConnectionId {
        let id = self.link_with(origin, peer);
        self.links.get_mut(id).expect("it is there").begin(Fd(fd), false);
        self.driver.count_in();
        self.driver.adopt(id, Socket(Fd(fd)), false);
        id
    }

    /// Watches a descriptor of a file. Returns the descriptor's number, too.
    pub(super) fn watched(&mut self) -> (ConnectionId, i32) {
        let descriptor = OwnedFd::from(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap());
        let number = descriptor.as_raw_fd();
        let id = self.link(Origin::Watched);
        self.driver.watch(id, descriptor);
        (id, number)
    }

    /// The descriptor of a connection, as the driver knows it.
    pub(super) fn descriptor(&self, id: ConnectionId) -> Fd {
        self.driver.slot(id).map_or(Fd::NONE, |slot| slot.fd)
    }

    pub(super) fn listener(&mut self, fd: i32) -> usize {
        self.driver.listen(Fd(fd), "a listener", &Tuning::default())
    }

    /// Changes a link, and tells the driver.
    pub(super) fn change(&mut self, id: ConnectionId, change: impl FnOnce(&mut Link)) {
        change(self.links.get_mut(id).expect("it is there"));
        self.driver.changed(id);
    }

    /// Queues bytes for the peer.
    pub(super) fn write(&mut self, id: ConnectionId, bytes: &[u8]) {
        let link = self.links.get_mut(id).expect("it is there");
        link.writable_output(&mut self.pool, &limits()).expect("it is open").put(bytes);
    }

    /// The kernel takes no byte of the output for now.
    pub(super) fn block(&mut self, id: ConnectionId) {
        let now = self.driver.now();
        let link = self.links.get_mut(id).expect("it is there");
        link.sent(Sent::Blocked(0), now, &limits(), &mut self.pool, || 0);
        self.driver.changed(id);
    }

    /// Events of the next wait, for connections.
    pub(super) fn happen(&self, events: &[(ConnectionId, Ready)]) {
        let events = events.iter().map(|&(token, ready)| Event { token, ready });
        self.sys.0.borrow_mut().events.extend(events);
    }

    pub(super) fn arrive(&self, fd: i32, outcomes: impl IntoIterator<Item = Moved>) {
        self.sys.0.borrow_mut().received.entry(fd).or_default().extend(outcomes);
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        let now = self.driver.now();
        self.driver.wait(&self.links, timeout, now).expect("the script has no failure of a wait");
    }

    /// Returns the driver's timeout for a wait of a minute at most.
    pub(super) fn timeout(&mut self) -> Option<Duration> {
        self.wait(MINUTE);
        *self.sys.0.borrow().timeouts.last().expect("it has waited")
    }

    /// Takes the calls since the last `calls`.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.sys.0.borrow_mut().calls)
    }

    /// Waits, and returns the reports of the batch.
    pub(super) fn batch(&mut self) -> Vec<String> {
        self.wait(MINUTE);
        self.reports()
    }

    /// Returns the remaining reports of this batch.
    pub(super) fn reports(&mut self) -> Vec<String> {
        let mut reports = Vec::new();
        while let Some(completion) = self.driver.next(&self.links, &mut [0; 1000]) {
            let slot = |id: ConnectionId| id.slot();
            reports.push(match completion {
                Completion::Received { id, count } => format!("{} received {count}", slot(id)),
                Completion::Nothing { id } => format!("{} nothing", slot(id)),
                Completion::Ended { id } => format!("{} ended", slot(id)),
                Completion::Failed { id, errno } => format!("{} failed {}", slot(id), errno.0),
                Completion::Connected { id } => format!("{} connected", slot(id)),
                Completion::Sent { id, outcome: Sent::Failed(errno) } => {
                    format!("{} sent failed {}", slot(id), errno.0)
                }
                Completion::Sent { id, outcome } => format!("{} sent {outcome:?}", slot(id)),
                Completion::Accepted { listener, socket, .. } => format!("{listener} accepted {}", socket.0.0),
                Completion::Layer { id, event } => format!("{} layer {event:?}", slot(id)),
                Completion::Woken => "woken".into(),
            });
        }
        reports
    }
}

/// No mark stops reading.
pub(super) fn limits() -> Limits {
    Limits { output_high: usize::MAX, output_max: usize::MAX, ..Limits::default() }
}

/// A layer whose handshake is one byte of each side. All other bytes are plaintext, at most four at once; the end is a byte.
#[derive(Default)]
pub(super) struct OneByte {
    ready: bool,
    plain: usize,
    owed: usize,
    agreed: bool,
}

impl Layer for OneByte {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> layer::Opened {
        self.plain += wire.len();
        if !std::mem::replace(&mut self.ready, true) {
            self.plain -= 1;
            self.owed += 1;
        }
        let count = self.plain.min(plain.len()).min(4);
        self.plain -= count;
        let follows = if self.plain > 0 { layer::Follows::Plain } else { layer::Follows::Wire };
        layer::Opened { plain: count, follows }
    }

    fn seal(&mut self, _: &[u8]) {}

    fn owes(&self) -> bool {
        self.owed > 0
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        wire.resize(wire.len() + std::mem::take(&mut self.owed), 0);
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn finish(&mut self) {
        self.owed += 1;
    }

    fn agreed(&mut self) -> Option<Box<dyn Any>> {
        (!std::mem::replace(&mut self.agreed, true)).then(|| Box::new("agreed") as Box<dyn Any>)
    }
}
