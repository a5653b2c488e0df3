//! A driver under observation: calls and reports pass unchanged, and are compared with the driver's contract and with
//! the state of the network.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::Books;
use crate::address::Address;
use crate::budget::Budget;
use crate::driver::{Acceptor, Completion, Driver, Socket};
use crate::error::Errno;
use crate::layer::Layer;
use crate::limits::Limits;
use crate::link::{Link, Links, Sent};
use crate::random::Random;
use crate::socket_options::Tuning;
use crate::sys::simulated::{Faults, Shared, Stage};
use crate::sys::{Clock, Fd, Interest, Sockets};
use crate::time::Time;
use crate::token::ConnectionId;

pub(super) struct Checked<D> {
    driver: D,
    network: Shared,
    books: Books,
    /// Size of the receive buffer. In half of the simulations with faults the buffer is small, so that receives often fill it.
    room: usize,
    /// Connections that have received bytes in this turn.
    received: HashSet<ConnectionId>,
    released: HashSet<ConnectionId>,
    /// Connections with a probe that has no answer yet, and the number of waits since the probe.
    probed: HashMap<ConnectionId, u32>,
    /// Descriptors of connections that were released in this turn.
    freed: HashSet<i32>,
    /// The limits of each service; and limits that no connection exceeds, for a connection that has its own.
    limits: Vec<Limits>,
    own_limits: Limits,
    /// The memory budget of all connections, and its size.
    budget: Option<(Arc<Budget>, usize)>,
}

/// Size of the loop's scratch buffer: one receive may exceed a limit by as much.
const SCRATCH: usize = 64 * 1024;
/// Memory that a connection may hold without being closed, whatever the budget: 4 KiB of its own, and as much of
/// payloads.
const SMALL_HOLDER: usize = 2 * 4096;

impl<D: Driver> Checked<D> {
    pub(super) fn new(driver: D, network: Shared, books: Books) -> Self {
        let (seed, has_faults) = {
            let network = network.borrow();
            (network.seed, network.faults != Faults::none())
        };
        let mut random = Random::new(seed ^ 0x200);
        let is_small = has_faults && random.chance(0.5);
        Checked {
            driver,
            network,
            books,
            room: if is_small { 64 + random.size(4096) } else { SCRATCH },
            received: HashSet::new(),
            released: HashSet::new(),
            probed: HashMap::new(),
            freed: HashSet::new(),
            limits: Vec::new(),
            own_limits: Limits { input: usize::MAX / 2, output_low: 0, member_queue: usize::MAX, ..Limits::default() },
            budget: None,
        }
    }

    pub(super) fn with_limits(self, limits: Vec<Limits>) -> Self {
        Checked { limits, ..self }
    }

    pub(super) fn with_budget(self, budget: Arc<Budget>, memory: usize) -> Self {
        Checked { budget: Some((budget, memory)), ..self }
    }

    /// Checks a completion against the network and against the link.
    fn check_completion(&mut self, links: &Links, completion: &Completion) {
        if let Completion::Failed { id, .. } = completion
            && links.get(*id).is_some_and(|link| !link.reads())
        {
            self.books.borrow_mut().entries.entry(*id).or_default().hindered = true;
        }
        self.books.borrow_mut().offer_before_close = match completion {
            Completion::Failed { id, .. } => links.get(*id).filter(|link| link.has_offer_due()).map(|link| link.id),
            _ => None,
        };
        let about = match completion {
            Completion::Connected { id }
            | Completion::Received { id, .. }
            | Completion::Nothing { id }
            | Completion::Ended { id }
            | Completion::Sent { id, .. }
            | Completion::Failed { id, .. }
            | Completion::Layer { id, .. } => Some(*id),
            Completion::Accepted { .. } | Completion::Woken => None,
        };
        if let Completion::Received { id, .. }
        | Completion::Nothing { id }
        | Completion::Ended { id }
        | Completion::Failed { id, .. } = completion
        {
            self.probed.remove(id);
        }
        if let Some(id) = about.filter(|id| self.released.contains(id)) {
            self.network.borrow().violation(&format!("{completion:?} of connection {id}, which was released"));
        }
        let found_nothing = match completion {
            Completion::Received { id, .. } => Some((*id, false)),
            // A connection that is not read any more, after the end of its input for example, stays what it was.
            Completion::Nothing { id } if links.get(*id).is_some_and(Link::reads) => Some((*id, true)),
            Completion::Ended { id } | Completion::Failed { id, .. } => Some((*id, true)),
            _ => None,
        };
        if let Some((id, is_so)) = found_nothing {
            self.books.borrow_mut().entries.entry(id).or_default().quiet = is_so;
        }
        if let Completion::Connected { id } = completion {
            let network = self.network.borrow();
            let line = network.ids.get(id).map(|&line| &network.lines[line]);
            if line.is_none_or(|line| line.stage != Stage::Open || line.refused) {
                network.violation(&format!("connection {id} has come about, and its peer knows nothing of it"));
            }
        }
        if let Completion::Received { id, count } = completion {
            if *count == 0 {
                self.network.borrow().violation("nothing was received, and that was reported");
            }
            if !links.get(*id).is_some_and(Link::reads) {
                self.network.borrow().violation(&format!("connection {id} does not read, and got bytes"));
            }
            if !self.received.insert(*id) {
                self.network.borrow().violation(&format!("connection {id} received twice in one turn"));
            }
        }
    }

    /// Checks that held memory is counted, each byte once, and within the budget except for small holders.
    fn check_memory(&self, links: &Links, at_once: bool) {
        let Some((budget, memory)) = &self.budget else { return };
        for link in links.iter() {
            let (counted, holds) = (link.holding().own(), link.own_memory());
            if counted != holds {
                self.violation(&format!("connection {} holds {holds} bytes, and {counted} are counted", link.id));
            }
        }
        let own: usize = links.iter().map(|link| link.holding().own()).sum();
        let shared = links.iter().flat_map(Link::payloads).collect::<HashMap<usize, usize>>();
        let held = own + shared.values().sum::<usize>();
        if !at_once && budget.held() < held {
            self.violation(&format!("{held} bytes are held, and {} are counted", budget.held()));
        }
        let small = links.iter().count() * SMALL_HOLDER;
        if !at_once && held > memory.saturating_add(small) {
            self.violation(&format!("{held} bytes are held, and {memory} may be"));
        }
        let suspended = links.iter().filter(|link| link.is_suspended()).count();
        if !at_once && suspended > 0 && budget.held() < memory / 10 * 7 {
            self.violation(&format!("{suspended} connections are not read, and {held} bytes of {memory} are held"));
        }
    }

    fn violation(&self, what: &str) -> ! {
        self.network.borrow().violation(what)
    }

    /// Gives the connection of the last accept or connect this id.
    fn name(&self, id: ConnectionId) {
        let mut network = self.network.borrow_mut();
        if let Some(line) = network.latest.take() {
            if network.lines[line].fd.is_some_and(|fd| self.freed.contains(&fd.0)) {
                network.violation(&format!("connection {id} has a descriptor that was another's in this turn"));
            }
            network.lines[line].id = id;
            network.ids.insert(id, line);
        }
    }

    /// Checks the conditions that hold for every link whenever the loop waits.
    fn check_links(&self, links: &Links, at_once: bool) {
        for link in links.iter() {
            let state = link.describe();
            if link.is_over() {
                self.violation(&format!("connection {} is over, and was not closed", link.id));
            }
            if link.queued() > 0 && !link.writes() {
                self.violation(&format!("connection {} is owed {} bytes that nobody sends", link.id, link.queued()));
            }
            if !at_once && state == "open" && !link.reads() {
                self.violation(&format!("connection {} is open, and nobody reads it", link.id));
            }
            if !link.reads() {
                self.books.borrow_mut().entries.entry(link.id).or_default().hindered = true;
            }
            let limits = self.limits.get(link.bounds as usize).unwrap_or(&self.own_limits);
            let (cost, messages) = link.output().map_or((0, 0), |output| output.waiting());
            if cost > limits.member_queue && messages > 1 {
                self.violation(&format!("{messages} messages wait for connection {}, at a cost of {cost}", link.id));
            }
            if !at_once && state == "reading paused" && link.queued() <= limits.output_low {
                self.violation(&format!("connection {} does not read, for {} queued bytes", link.id, link.queued()));
            }
            let kept = link.kept.as_ref().map_or(0, |kept| kept.len());
            let is_wanted = link.kept.as_ref().is_some_and(|kept| !kept.is_too_short());
            if kept > limits.input + SCRATCH {
                self.violation(&format!("connection {} keeps {kept} bytes of input", link.id));
            }
            if !at_once && state == "waiting" && link.queued() == 0 && !link.is_blocked() {
                self.violation(&format!("connection {} waits for output that has left", link.id));
            }
            let network = self.network.borrow();
            let send_failed = network.ids.get(&link.id).is_some_and(|&line| network.lines[line].send_failed);
            drop(network);
            if state == "paused" && send_failed {
                self.violation(&format!("connection {} is paused, and nothing can be sent to its peer", link.id));
            }
            if let "paused" | "reading paused" | "waiting" = state {
                let mut books = self.books.borrow_mut();
                let entry = books.entries.entry(link.id).or_default();
                (entry.offer_owed, entry.too_short) = (true, !is_wanted);
                entry.drained_owed |= state == "reading paused";
            }
            if state == "open" && !at_once {
                let books = self.books.borrow();
                let owed = books.entries.get(&link.id).map(|entry| (entry.offer_owed, entry.drained_owed));
                let (offer_owed, drained_owed) = owed.unwrap_or_default();
                if is_wanted && offer_owed {
                    self.violation(&format!("connection {} keeps {kept} bytes, and nobody is offered them", link.id));
                }
                // If nothing can be sent to the peer any more, no output drains.
                let network = self.network.borrow();
                let broken = network.ids.get(&link.id).is_none_or(|&line| network.lines[line].send_failed);
                drop(network);
                // A connection that reads on may be open and above the mark at once.
                if drained_owed && !broken && link.queued() <= limits.output_low {
                    self.violation(&format!("connection {} has drained, and nobody was told", link.id));
                }
            }
            if let "open" | "half-closed" | "paused" | "connecting" = state
                && !at_once
                && !send_failed
                && link.is_open()
                && link.awaits_stop()
            {
                self.violation(&format!("connection {} is {state}, and nobody was told of the stop", link.id));
            }
            let network = self.network.borrow();
            let layered = network.ids.get(&link.id).is_none_or(|&line| network.lines[line].layered);
            drop(network);
            if link.awaits_probe() && !layered && self.probed.get(&link.id).is_none_or(|&waits| waits > 0) {
                self.violation(&format!("connection {} waits for an answer to a probe, and none comes", link.id));
            }
            let is_choked = state == "open" && !link.requests().reads_on && link.queued() > limits.output_low;
            if is_choked && self.books.borrow().entries.get(&link.id).is_some_and(|entry| entry.drained_owed) {
                self.violation(&format!(
                    "connection {} is read again, and {} bytes are queued",
                    link.id,
                    link.queued()
                ));
            }
            if kept > limits.input && state == "open" && !at_once {
                self.violation(&format!("connection {} keeps {kept} bytes of input, and reads on", link.id));
            }
            if !at_once && state == "half-closed" && !self.books.borrow().end_was_told(link.id) {
                self.violation(&format!("nobody was told that the peer of connection {} has ended", link.id));
            }
        }
    }
}

impl<D: Driver> Acceptor for Checked<D> {
    fn listen(&mut self, listener: Fd, name: &str, tuning: &Tuning) -> usize {
        self.driver.listen(listener, name, tuning)
    }

    fn set_accepting(&mut self, listener: usize, accepting: bool) {
        self.driver.set_accepting(listener, accepting);
    }

    fn forget_listener(&mut self, listener: usize) {
        self.driver.forget_listener(listener);
    }

    fn suspend(&mut self, listener: usize, errno: Errno) {
        self.driver.suspend(listener, errno);
    }

    fn is_suspended(&self, listener: usize) -> bool {
        self.driver.is_suspended(listener)
    }

    fn probe_listener(&mut self, listener: usize) {
        self.driver.probe_listener(listener);
    }

    fn close_accepted(&mut self, socket: Socket) {
        self.driver.close_accepted(socket);
    }

    fn count_out(&mut self) {
        self.driver.count_out();
    }

    fn count_in(&mut self) {
        self.driver.count_in();
    }
}

impl<D: Driver> Clock for Checked<D> {
    fn now(&mut self) -> Time {
        self.driver.now()
    }

    fn coarse_now(&mut self) -> Time {
        self.driver.coarse_now()
    }
}

impl<D: Driver> Driver for Checked<D> {
    fn wait(&mut self, links: &Links, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        self.books.borrow_mut().offer_before_close = None;
        self.check_links(links, timeout == Some(Duration::ZERO));
        self.check_memory(links, timeout == Some(Duration::ZERO));
        let wants =
            |link: &Link| (link.id, Interest { read: link.reads(), write: link.writes(), edges: link.has_edges() });
        self.probed.values_mut().for_each(|waits| *waits += 1);
        self.network.borrow_mut().wanted = links.iter().map(wants).collect();
        self.received.clear();
        self.freed.clear();
        self.driver.wait(links, timeout, now)
    }

    fn full_batch(&self) -> Option<usize> {
        self.driver.full_batch()
    }

    fn next_received<'l>(&mut self, links: &'l mut Links, scratch: &mut [u8]) -> Option<(&'l mut Link, usize)> {
        let room = self.room.min(scratch.len());
        let (link, count) = self.driver.next_received(links, &mut scratch[..room])?;
        let id = link.id;
        self.check_completion(links, &Completion::Received { id, count });
        links.get_mut(id).map(|link| (link, count))
    }

    fn next(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Completion> {
        let room = self.room.min(scratch.len());
        let completion = self.driver.next(links, &mut scratch[..room])?;
        self.check_completion(links, &completion);
        Some(completion)
    }

    fn adopt(&mut self, id: ConnectionId, socket: Socket, reads_first: bool) {
        self.name(id);
        self.driver.adopt(id, socket, reads_first);
    }

    fn put_layer(&mut self, id: ConnectionId, layer: Box<dyn crate::layer::Layer>) {
        let mut network = self.network.borrow_mut();
        if let Some(&line) = network.ids.get(&id) {
            network.lines[line].layered = true;
        }
        drop(network);
        self.driver.put_layer(id, layer);
    }

    fn say_goodbye(&mut self, id: ConnectionId) -> Sent {
        self.driver.say_goodbye(id)
    }

    fn agreed(&mut self, id: ConnectionId) -> Option<Box<dyn std::any::Any>> {
        self.driver.agreed(id)
    }

    fn connect(&mut self, id: ConnectionId, to: &Address, tuning: &Tuning) -> Fd {
        let fd = self.driver.connect(id, to, tuning);
        self.name(id);
        fd
    }

    fn disconnect(&mut self, id: ConnectionId) -> Option<Option<Box<dyn Layer>>> {
        self.driver.disconnect(id)
    }

    fn watch(&mut self, id: ConnectionId, descriptor: OwnedFd) {
        self.driver.watch(id, descriptor);
    }

    fn send(&mut self, link: &Link) -> Sent {
        self.driver.send(link)
    }

    fn send_bytes(&mut self, link: &Link, bytes: &[u8]) -> Sent {
        self.driver.send_bytes(link, bytes)
    }

    fn changed(&mut self, id: ConnectionId) {
        self.driver.changed(id);
    }

    fn probe(&mut self, id: ConnectionId) {
        self.probed.insert(id, 0);
        self.driver.probe(id);
    }

    fn finish(&mut self, id: ConnectionId) {
        self.driver.finish(id);
    }

    fn release(&mut self, id: ConnectionId, reset: bool) {
        if self.books.borrow_mut().offer_before_close.take() == Some(id) {
            self.violation(&format!("connection {id} is closed before kept bytes were offered"));
        }
        self.probed.remove(&id);
        if !self.released.insert(id) {
            self.violation(&format!("connection {id} is released twice"));
        }
        let network = self.network.borrow();
        let fd = network.ids.get(&id).and_then(|&line| network.lines[line].fd);
        drop(network);
        self.freed.extend(fd.map(|fd| fd.0));
        self.driver.release(id, reset);
    }

    fn sockets(&self) -> Sockets {
        self.driver.sockets()
    }

    fn unacknowledged(&mut self, id: ConnectionId) -> usize {
        self.driver.unacknowledged(id)
    }

    fn held(&self) -> Vec<Fd> {
        self.driver.held()
    }

    fn descriptors(&self) -> usize {
        self.driver.descriptors()
    }
}
