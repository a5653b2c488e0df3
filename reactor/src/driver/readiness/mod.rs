//! Completions made of readiness: when a descriptor is ready, the driver makes the call and reports its outcome. EAGAIN, ECONNRESET
//! and EMFILE are handled here, and nowhere else.
//!
//! A changed interest reaches the poller before the next wait. A request that is answered at once changes no interest, so the
//! steady state has no call of the poller. A connection that opens and ends within one turn is never registered. Input of a TCP
//! connection is reported once ([`Link::has_edges`]), so unread input is probed for (`probes`), or the interest is told anew (`rearm`).

mod batch;
mod interest;
mod layered;
mod listeners;
mod moving;
mod terminals;

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Completion, Driver, Socket};
use crate::address::Address;
use crate::error::Errno;
use crate::layer::{self, Layer, Layered};
use crate::link::{Link, Links, Sent};
use crate::socket_options::Tuning;
use crate::stats::Counters;
use crate::sys::{Clock, Event, Fd, Moved, Ready, Sockets, Sys};
use crate::time::{LogLimit, Time, shorter};
use crate::token::ConnectionId;
use batch::Stage;
use interest::{NO_INTEREST_PROBE, Polled};
use listeners::{DriverListener, SUSPENDED_REST, listener_token};
use terminals::Terminals;

/// The driver over a readiness poller. `batch` has the events of one wait, `interest` what the poller watches.
pub(crate) struct Readiness<S: Sys> {
    sys: S,
    /// The id with the loop's number and slot 0, from which a connection's slot is computed.
    home: ConnectionId,
    slots: Vec<Option<Slot>>,
    listeners: Vec<DriverListener>,
    /// The events of this batch; `cursor` and `stage` say how far they are handled.
    events: Vec<Event>,
    cursor: usize,
    stage: Stage,
    /// The number of this batch, and whether the poller may have more events than it returned.
    batch: u32,
    batch_full: bool,
    /// Connections whose interest is settled before the next wait.
    changed: Vec<ConnectionId>,
    /// Connections to read from now: the handler has just heard of them.
    arrivals: Vec<ConnectionId>,
    /// Other connections to read from without an event. A batch handles the first `probes_left` of them, and the next batch the rest.
    probes: VecDeque<ConnectionId>,
    probes_left: usize,
    listener_probes: Vec<usize>,
    /// The outcome of a receive of the short way that brought no bytes, or a full buffer. Reported by `next`.
    unreported: Option<Completion>,
    /// Failures of calls outside `next`, reported by `next`.
    failures: Vec<(ConnectionId, Errno)>,
    /// Descriptors of released connections. Closed after the batch, so that no number is used twice in one batch.
    closing: Vec<Fd>,
    /// A descriptor was closed since the last batch ended.
    freed: bool,
    /// Watched regular files, which pollers do not accept: they count as always ready.
    always_ready: Vec<ConnectionId>,
    terminals: Terminals,
    /// Number of connections registered without interest, and the time of the last probe for their errors.
    no_interest: usize,
    no_interest_probed: Time,
    /// The number of suspended listeners.
    suspended: usize,
    suspended_log: LogLimit,
    /// Descriptors of connections, those in `closing` included.
    open: usize,
    counters: Arc<Counters>,
    layers: layer::Shared,
}

/// The driver's part of a connection: its descriptor, and the poller's knowledge of it.
struct Slot {
    id: ConnectionId,
    fd: Fd,
    polled: Polled,
    /// The number of the last batch in which the connection was read. An event without input does not count: it answers no probe.
    read_in: u32,
    socket: bool,
    /// In the lists `changed` and `probes`.
    listed: bool,
    probed: bool,
    /// The poller has reported an end, an error or urgent data: after a receive with bytes, more may be in the socket.
    behind: bool,
    connecting: bool,
    layer: Option<Box<Layered>>,
}

impl<S: Sys> Readiness<S> {
    pub(crate) fn new(sys: S, event_loop: u32, counters: Arc<Counters>) -> Self {
        Readiness {
            sys,
            home: ConnectionId::new(event_loop, 0, 0),
            slots: Vec::new(),
            listeners: Vec::new(),
            events: Vec::new(),
            cursor: 0,
            stage: Stage::Fresh,
            batch: 0,
            batch_full: false,
            changed: Vec::new(),
            arrivals: Vec::new(),
            probes: VecDeque::new(),
            probes_left: 0,
            listener_probes: Vec::new(),
            unreported: None,
            failures: Vec::new(),
            closing: Vec::new(),
            freed: false,
            always_ready: Vec::new(),
            terminals: Terminals::default(),
            no_interest: 0,
            no_interest_probed: Time::default(),
            suspended: 0,
            suspended_log: LogLimit::default(),
            open: 0,
            layers: layer::Shared::new(counters.clone()),
            counters,
        }
    }

    fn add_slot(&mut self, id: ConnectionId, fd: Fd, socket: bool, connecting: bool) {
        let (at, polled, [listed, probed, behind]) = (id.slot_at(self.home), Polled::No, [false; 3]);
        self.slots.resize_with(self.slots.len().max(at + 1), || None);
        let slot = Slot { id, fd, polled, read_in: 0, socket, listed, probed, behind, connecting, layer: None };
        self.slots[at] = Some(slot);
        self.changed(id);
    }

    #[inline]
    fn slot_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot_at(self.home)).and_then(Option::as_mut).filter(|slot| slot.id == id)
    }

    #[inline]
    fn slot(&self, id: ConnectionId) -> Option<&Slot> {
        self.slots.get(id.slot_at(self.home)).and_then(Option::as_ref).filter(|slot| slot.id == id)
    }

    fn close_released(&mut self) {
        let freed = std::mem::take(&mut self.freed) || !self.closing.is_empty();
        for fd in self.closing.drain(..) {
            self.sys.close(fd);
            self.open -= 1;
        }
        self.resume_suspended(freed);
    }
}

impl<S: Sys> Clock for Readiness<S> {
    fn now(&mut self) -> Time {
        self.sys.now()
    }

    fn coarse_now(&mut self) -> Time {
        self.sys.coarse_now()
    }

    fn waited_for_a_core(&mut self) -> Option<Duration> {
        self.sys.waited_for_a_core()
    }
}

impl<S: Sys> Driver for Readiness<S> {
    fn wait(&mut self, links: &Links, mut timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        self.close_released();
        while let Some(id) = self.changed.pop() {
            self.settle_interest(links, id);
        }
        let busy_files = self.always_ready.iter().any(|&id| links.get(id).is_some_and(Link::reads));
        let has_probes = !(self.probes.is_empty() && self.arrivals.is_empty() && self.listener_probes.is_empty());
        if busy_files || has_probes || !self.failures.is_empty() || self.layers.is_to_report() {
            timeout = Some(Duration::ZERO);
        }
        let asks_for_errors = self.no_interest > 0 && !self.sys.reports_errors_unasked();
        timeout = shorter(timeout, (self.suspended > 0).then_some(SUSPENDED_REST));
        timeout = shorter(timeout, self.terminals.wait_at_most());
        timeout = shorter(timeout, asks_for_errors.then_some(NO_INTEREST_PROBE));
        self.events.clear();
        self.batch = self.batch.wrapping_add(1).max(1);
        (self.cursor, self.stage) = (0, Stage::Fresh);
        self.counters.waits.add(1);
        let outcome = self.sys.wait(&mut self.events, timeout, now);
        self.batch_full = self.events.len() == self.sys.events_per_wait();
        if asks_for_errors {
            self.probe_no_interest();
        }
        self.probe_terminals();
        self.resume_suspended(false);
        if !(self.listener_probes.is_empty() && self.always_ready.is_empty()) {
            self.always_ready.retain(|&id| links.get(id).is_some());
            let readable = |token| Event { token, ready: Ready::READABLE };
            let token = |index| listener_token(self.home.event_loop(), index);
            self.events.extend(self.listener_probes.drain(..).map(token).map(readable));
            self.events.extend(self.always_ready.iter().copied().map(readable));
        }
        self.probes_left = self.probes.len();
        self.layers.new_batch();
        outcome
    }

    fn full_batch(&self) -> Option<usize> {
        self.batch_full.then(|| self.sys.events_per_wait())
    }

    #[inline]
    fn next_received<'l>(&mut self, links: &'l mut Links, scratch: &mut [u8]) -> Option<(&'l mut Link, usize)> {
        let event = *self.events.get(self.cursor)?;
        // A connection with a probe is looked at once, of which the long way keeps account.
        let is_probed = self.probes_left > 0 && self.slot(event.token).is_some_and(|slot| slot.probed);
        if event.ready != Ready::READABLE || is_probed {
            return None;
        }
        // Only a connection's token is the id of a link.
        let link = links.get_mut(event.token).filter(|link| link.is_plainly_read())?;
        debug_assert_eq!(self.slot(link.id).map(|slot| slot.fd), Some(link.descriptor));
        self.cursor += 1;
        match self.sys.recv(link.descriptor, scratch) {
            Moved::Bytes(count) if count < scratch.len() => Some((link, count)),
            moved => {
                self.unreported = self.heard(link.id, moved, scratch.len());
                None
            }
        }
    }

    fn next(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Completion> {
        self.unreported.take().or_else(|| self.report(links, scratch))
    }

    fn adopt(&mut self, id: ConnectionId, socket: Socket, reads_first: bool) {
        self.add_slot(id, socket.0, true, false);
        if reads_first {
            self.arrivals.push(id);
        }
    }

    fn put_layer(&mut self, id: ConnectionId, layer: Box<dyn Layer>) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.layer = Some(Box::new(Layered::new(id, layer)));
    }

    fn agreed(&mut self, id: ConnectionId) -> Option<Box<dyn Any>> {
        self.slot_mut(id)?.layer.as_mut()?.agreed()
    }

    fn connect(&mut self, id: ConnectionId, to: &Address, tuning: &Tuning) -> Fd {
        let opened = self.sys.connect(to, tuning).map_err(|errno| self.failures.push((id, errno)));
        let Ok(fd) = opened else { return Fd::NONE };
        self.open += 1;
        self.add_slot(id, fd, true, true);
        fd
    }

    fn disconnect(&mut self, id: ConnectionId) -> Option<Option<Box<dyn Layer>>> {
        let slot = self.slot_mut(id);
        if slot.as_ref().is_some_and(|slot| !slot.connecting) {
            return None;
        }
        let layer = slot.and_then(|slot| slot.layer.take()).map(|layer| layer.into_layer());
        self.release(id, false);
        Some(layer)
    }

    fn watch(&mut self, id: ConnectionId, descriptor: OwnedFd) {
        self.open += 1;
        self.add_slot(id, Fd(descriptor.into_raw_fd()), false, false);
    }

    fn send(&mut self, link: &Link) -> Sent {
        match (self.slot(link.id), link.output()) {
            (Some(slot), Some(output)) if slot.layer.is_some() => self.send_layered(link.id, Err(output)),
            (Some(slot), Some(output)) => self.transmit(slot.fd, output, link.ends_with_output()),
            _ => Sent::Bytes(0),
        }
    }

    // Inlined by force: since layers have a branch here the compiler would make it a call of each answer.
    #[inline(always)]
    fn send_bytes(&mut self, link: &Link, bytes: &[u8]) -> Sent {
        if link.is_indirect() {
            return self.send_layered(link.id, Ok(bytes));
        }
        debug_assert_eq!(self.slot(link.id).map(|slot| slot.fd), Some(link.descriptor));
        self.transmit_bytes(link.descriptor, bytes)
    }

    #[inline]
    fn changed(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot_mut(id)
            && !slot.listed
        {
            slot.listed = true;
            self.changed.push(id);
        }
    }

    fn probe(&mut self, id: ConnectionId) {
        if self.slot_mut(id).is_none_or(|slot| !std::mem::replace(&mut slot.probed, true)) {
            self.probes.push_back(id);
        }
    }

    fn say_goodbye(&mut self, id: ConnectionId) -> Sent {
        let outcome = self.with_layer(id, |layer, sys, fd, shared| layer.say_goodbye(sys, fd, shared));
        outcome.unwrap_or(Sent::Bytes(0))
    }

    fn finish(&mut self, id: ConnectionId) {
        let Some(&Slot { fd, .. }) = self.slot(id).filter(|slot| slot.socket) else { return };
        if self.with_layer(id, |layer, sys, fd, shared| layer.finish(sys, fd, shared)).is_none() {
            self.sys.finish(fd);
        }
    }

    fn release(&mut self, id: ConnectionId, reset: bool) {
        // Deregistered before the close: a duplicate of the descriptor in another process would keep the registration alive.
        self.set_polled(id, Polled::No);
        let slot = self.slots.get_mut(id.slot_at(self.home)).and_then(|slot| slot.take_if(|slot| slot.id == id));
        let Some(slot) = slot else { return };
        if reset && slot.socket {
            self.sys.reset_on_close(slot.fd);
        } else if let Some(mut layer) = slot.layer.filter(|_| !slot.connecting) {
            layer.say_goodbye(&mut self.sys, slot.fd, &mut self.layers);
        }
        self.closing.push(slot.fd);
    }

    fn sockets(&self) -> Sockets {
        self.sys.sockets()
    }

    fn unacknowledged(&mut self, id: ConnectionId) -> usize {
        let fd = self.slot(id).filter(|slot| slot.socket).map(|slot| slot.fd);
        let in_kernel = fd.map_or(0, |fd| self.sys.unacknowledged(fd));
        let layer = self.slot(id).and_then(|slot| slot.layer.as_ref());
        layer.map_or(in_kernel, |layer| layer.unacknowledged(in_kernel))
    }

    fn held(&self) -> Vec<Fd> {
        let slots = self.slots.iter().flatten().map(|slot| slot.fd);
        slots.chain(self.listener_descriptors()).chain(self.closing.iter().copied()).chain(self.sys.held()).collect()
    }

    fn descriptors(&self) -> usize {
        self.open - self.closing.len()
    }
}

/// Closes the descriptors that are left when the loop ends, or fails.
impl<S: Sys> Drop for Readiness<S> {
    fn drop(&mut self) {
        let left = self.slots.drain(..).flatten().map(|slot| slot.fd);
        for fd in self.closing.drain(..).chain(left) {
            self.sys.close(fd);
        }
    }
}

#[cfg(test)]
mod tests;
