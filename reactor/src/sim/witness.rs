//! A handler under observation: each callback is passed on, and compared with the network's state of the connection.
//! Every lent byte must equal the byte that the peer sent at that place, whatever the handler does with the input.

use std::any::Any;

use super::ledger::{Books, Entry};
use crate::address::Peer;
use crate::buffer::Input;
use crate::context::{Core, Owner};
use crate::host::Host;
use crate::link::{Link, NO_STATE};
use crate::reason::CloseReason;
use crate::sys::simulated::Shared;
use crate::token::ConnectionId;

pub(super) struct Witness {
    host: Box<dyn Host>,
    network: Shared,
    books: Books,
}

impl Witness {
    pub(super) fn new(host: Box<dyn Host>, network: Shared, books: Books) -> Self {
        Witness { host, network, books }
    }

    fn violation(&self, what: &str) -> ! {
        self.network.borrow().violation(what)
    }

    /// Checks the conditions for any callback about a connection.
    fn check(&self, core: &Core, id: ConnectionId, callback: &'static str, bytes: usize) {
        let Some(link) = core.links.get(id) else {
            self.violation(&format!("{callback} of connection {id}, which is gone"));
        };
        if self.books.borrow().entries.get(&id).is_some_and(|entry| entry.closed.is_some()) {
            self.violation(&format!("{callback} of connection {id} after on_close"));
        }
        if !link.is_open() {
            self.violation(&format!("{callback} of connection {id}, which is {}", link.describe()));
        }
        self.books.borrow_mut().offer_before_close = None;
        self.network.borrow_mut().note(callback, id.to_u64() as i64, bytes as i64);
    }

    /// Checks that these are the next bytes of the peer. Returns the number of bytes consumed before.
    fn check_input(&self, id: ConnectionId, input: &Input<'_>) -> usize {
        let network = self.network.borrow();
        let consumed = self.books.borrow().entries.get(&id).map_or(0, |entry| entry.consumed);
        let Some(&line) = network.ids.get(&id) else { return consumed };
        let line = &network.lines[line];
        if line.layered {
            return consumed;
        }
        let end = consumed + input.len();
        if end > line.read {
            network.violation(&format!("connection {id} is lent {} bytes more than it got", end - line.read));
        }
        if end < line.read {
            network.violation(&format!("connection {id} is not lent {} bytes that it got", line.read - end));
        }
        if line.said[consumed..end] != *input.as_slice() {
            network.violation(&format!("connection {id} is lent other bytes than its peer sent"));
        }
        consumed
    }

    /// Notes the bytes that a callback has consumed.
    fn consumed(&self, id: ConnectionId, count: usize) {
        let mut books = self.books.borrow_mut();
        let entry = books.entries.entry(id).or_default();
        entry.consumed += count;
        entry.offer_owed = false;
    }

    /// Checks that bytes before a reset were delivered, unless the link did not read, or had learned of the reset by
    /// sending: then the handler may close the connection, and the wait is bounded.
    fn check_reset(&self, id: ConnectionId, reason: CloseReason) {
        let network = self.network.borrow();
        let hindered = self.books.borrow().entries.get(&id).is_none_or(|entry| entry.hindered);
        if let Some(&line) = network.ids.get(&id)
            && reason == CloseReason::Reset
            && !hindered
            && !network.lines[line].send_failed
            && !network.lines[line].layered
        {
            let lost = network.lines[line].arrived - network.lines[line].read;
            if lost > 0 {
                network.violation(&format!("connection {id} was reset, and {lost} bytes before that are lost"));
            }
        }
    }

    /// Checks that the counters equal the moved bytes.
    fn check_stats(&self, core: &Core) {
        let network = self.network.borrow();
        let counted = (core.counters.received.get(), core.counters.sent.get());
        let moved = (network.received, network.sent);
        if counted != moved && !network.lines.iter().any(|line| line.layered) {
            network.violation(&format!("counted {counted:?} bytes received and sent, and it was {moved:?}"));
        }
    }
}

impl Host for Witness {
    fn start(&mut self, core: &mut Core) {
        self.host.start(core);
    }

    fn open(&mut self, core: &mut Core, id: ConnectionId) -> u32 {
        self.check(core, id, "on_open", 0);
        let entry = Entry { opened: true, ..Entry::default() };
        // A layer may have reported something before: its handshake comes first.
        if self.books.borrow_mut().entries.insert(id, entry).is_some_and(|before| before.opened) {
            self.violation(&format!("connection {id} is opened twice"));
        }
        let key = self.host.open(core, id);
        self.books.borrow_mut().opened += u64::from(key != NO_STATE);
        key
    }

    fn adopt(&mut self, state: Box<dyn Any>) -> u32 {
        self.books.borrow_mut().opened += 1;
        self.host.adopt(state)
    }

    fn connected(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.check(core, id, "on_connected", 0);
        self.host.connected(core, id, key);
    }

    fn data(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>) {
        if key != NO_STATE {
            self.check(core, id, "on_data", input.len());
        }
        if core.links.get(id).is_some_and(|link| link.is_paused()) {
            self.violation(&format!("on_data of connection {id}, which is paused"));
        }
        self.check_input(id, input);
        self.books.borrow_mut().entries.entry(id).or_default().streams = false;
        let before = input.len();
        self.host.data(core, id, key, input);
        self.consumed(id, before - input.len());
    }

    fn end_of_input(&mut self, core: &mut Core, id: ConnectionId, key: u32, input: &mut Input<'_>) {
        if key != NO_STATE {
            self.check(core, id, "on_end_of_input", input.len());
        }
        if core.links.get(id).is_some_and(|link| link.is_paused()) {
            self.violation(&format!("on_end_of_input of connection {id}, which is paused"));
        }
        let consumed = self.check_input(id, input);
        let before = input.len();
        let is_offer_owed = |entry: &Entry| entry.offer_owed && !entry.too_short;
        if before > 0 && self.books.borrow().entries.get(&id).is_some_and(is_offer_owed) {
            self.violation(&format!("the end of connection {id} comes before an offer of {before} kept bytes"));
        }
        let network = self.network.borrow();
        if let Some(&line) = network.ids.get(&id) {
            let line = &network.lines[line];
            if !line.dead && !line.layered && consumed + before < line.said.len() {
                network.violation(&format!("the end of connection {id} comes before the bytes"));
            }
        }
        drop(network);
        let told = std::mem::replace(&mut self.books.borrow_mut().entries.entry(id).or_default().end_told, true);
        if told {
            self.violation(&format!("on_end_of_input of connection {id} a second time"));
        }
        self.host.end_of_input(core, id, key, input);
        self.consumed(id, before - input.len());
    }

    fn drained(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.check(core, id, "on_drained", 0);
        let mut books = self.books.borrow_mut();
        let entry = books.entries.entry(id).or_default();
        (entry.drained_owed, entry.streams) = (false, true);
        drop(books);
        self.host.drained(core, id, key);
    }

    fn missed(&mut self, core: &mut Core, id: ConnectionId, key: u32, count: u64) {
        let network = self.network.borrow();
        let left = network.ids.get(&id).map_or(0, |&line| network.lines[line].taken.len());
        drop(network);
        self.network.borrow_mut().note("on_missed", id.to_u64() as i64, count as i64);
        let mut books = self.books.borrow_mut();
        let entry = books.entries.entry(id).or_default();
        if entry.closed.is_some() || count == 0 {
            drop(books);
            self.violation(&format!("on_missed of connection {id}, which is closed or missed none"));
        }
        entry.missed.push((left, count));
        drop(books);
        self.host.missed(core, id, key, count);
    }

    fn too_slow(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.check(core, id, "on_too_slow", 0);
        self.host.too_slow(core, id, key);
    }

    fn turn(&mut self, core: &mut Core) {
        self.host.turn(core);
    }

    fn refused(&mut self, core: &mut Core, peer: Peer) {
        self.host.refused(core, peer);
    }

    fn turns_away(&mut self, core: &mut Core) -> Option<String> {
        self.host.turns_away(core)
    }

    fn deadline(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.check(core, id, "on_deadline", 0);
        self.host.deadline(core, id, key);
    }

    fn timer(&mut self, core: &mut Core, owner: Owner, timer: u64) {
        match owner {
            Owner::Handler(_) => self.network.borrow_mut().note("on_timer", timer as i64, 0),
            Owner::Connection(id) => self.check(core, id, "on_connection_timer", 0),
            Owner::Work(_) => {}
        }
        self.host.timer(core, owner, timer);
    }

    fn stopping(&mut self, core: &mut Core, id: ConnectionId, key: u32) {
        self.check(core, id, "on_stopping", 0);
        let is_read = self.books.borrow().entries.get(&id).is_none_or(|entry| entry.quiet || entry.streams);
        // A paused handler knows when it goes on, and a connection that is being established has no input.
        let asks_at_once = |link: &Link| link.is_paused() || link.describe() == "connecting";
        if !is_read && !core.links.get(id).is_some_and(asks_at_once) {
            self.violation(&format!("on_stopping of connection {id} comes before the input that had arrived"));
        }
        self.host.stopping(core, id, key);
    }

    fn close(&mut self, core: &mut Core, id: ConnectionId, key: u32, reason: CloseReason) {
        let code = reason.kind() as i64;
        self.network.borrow_mut().note("on_close", id.to_u64() as i64, code);
        self.check_stats(core);
        self.check_reset(id, reason);
        let mut books = self.books.borrow_mut();
        books.entries.entry(id).or_default().too_slow = core.links.get(id).is_some_and(Link::is_too_slow);
        books.closed += 1;
        if books.entries.entry(id).or_default().closed.replace(reason).is_some() {
            drop(books);
            self.violation(&format!("on_close of connection {id} a second time"));
        }
        drop(books);
        self.host.close(core, id, key, reason);
    }

    fn collect(&mut self) -> bool {
        self.host.collect()
    }

    fn message(&mut self, core: &mut Core) -> bool {
        self.host.message(core)
    }
}
