//! Completions out of readiness: when a descriptor is ready, make the call, and report what became of it. All that
//! EAGAIN, ECONNRESET and EMFILE mean is decided here, once.
//!
//! The poller is level-triggered. It is told of a change only before a wait, and only if there is one: a request that
//! is answered at once changes nothing, so the steady state never touches the poller, and a connection that came and
//! went within one turn was never known to it.

mod listeners;
mod terminals;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Completion, Driver, Socket};
use crate::address::Address;
use crate::buffer::{FilePart, Output};
use crate::error::Errno;
use crate::link::{Link, Links, Sent};
use crate::stats::Counters;
use crate::sys::errno;
use crate::sys::{Event, Fd, Interest, Moved, Sys};
use crate::time::Time;
use crate::token::ConnectionId;
use listeners::{Listener, STARVED_REST, listener_token};
use terminals::Terminals;

/// How often connections that are watched for nothing are asked for errors, where the poller does not report them
/// unasked.
const BLIND_PROBE: Duration = Duration::from_millis(900);
/// Pieces gathered in one send: beyond some dozens, the kernel copies no faster.
const PIECES_PER_SEND: usize = 64;
/// Bytes of a file that one connection gets sent in one turn: some hundred microseconds, for which the others wait.
const FILE_BYTES_PER_TURN: usize = 1024 * 1024;

pub(crate) struct Readiness<S: Sys> {
    sys: S,
    /// What the ids of its loop have in common.
    home: ConnectionId,
    slots: Vec<Option<Slot>>,
    listeners: Vec<Listener>,
    /// This batch, and how far it is done.
    events: Vec<Event>,
    batch_full: bool,
    /// Counts batches.
    batch: u32,
    cursor: usize,
    stage: Stage,
    /// Whose interest may have changed.
    changed: Vec<ConnectionId>,
    /// Whom to look at without an event. Only those that were there when the batch began are looked at in it.
    probes: VecDeque<ConnectionId>,
    probes_left: usize,
    listener_probes: Vec<usize>,
    /// What went wrong outside `next`, to be reported by it.
    failures: Vec<(ConnectionId, Errno)>,
    /// Closed when the batch is over, so that no number is used twice in it.
    graveyard: Vec<Fd>,
    /// Some have been closed since the last batch was over.
    freed: bool,
    /// Descriptors that no poller takes (regular files): always ready.
    always_ready: Vec<ConnectionId>,
    terminals: Terminals,
    /// Connections registered for nothing, and when they were last asked for errors.
    blind: usize,
    blind_probed: Time,
    /// Listeners that rest, and when that was last said.
    starving: usize,
    starved_logged: Option<Time>,
    open: usize,
    counters: Arc<Counters>,
}

/// The driver's third of a connection: its descriptor and what the poller knows of it.
struct Slot {
    id: ConnectionId,
    fd: Fd,
    registered: Option<Interest>,
    /// The last batch in which it was read.
    read_in: u32,
    socket: bool,
    always_ready: bool,
    /// A terminal that belongs to another job now.
    background: bool,
    /// Both halves are over, and the link does not read. Not registered, or the poller would report it for ever.
    hung_up: bool,
    /// In the list of changed ones.
    listed: bool,
    connecting: bool,
}

/// How far the event at the cursor is done.
#[derive(Clone, Copy)]
enum Stage {
    Fresh,
    /// Reading is done; writing is left.
    Reading,
    /// So many more newcomers in this turn.
    Accepting(u32),
    Done,
}

/// A completion before its loan: the scratch buffer is lent only once it is known that there is one.
enum Report {
    Received(ConnectionId, usize),
    Said(Completion<'static>),
}

impl<S: Sys> Readiness<S> {
    pub(crate) fn new(sys: S, event_loop: u32, counters: Arc<Counters>) -> Self {
        Readiness {
            sys,
            home: ConnectionId::new(event_loop, 0, 0),
            slots: Vec::new(),
            listeners: Vec::new(),
            events: Vec::new(),
            batch_full: false,
            batch: 0,
            cursor: 0,
            stage: Stage::Fresh,
            changed: Vec::new(),
            probes: VecDeque::new(),
            probes_left: 0,
            listener_probes: Vec::new(),
            failures: Vec::new(),
            graveyard: Vec::new(),
            freed: false,
            always_ready: Vec::new(),
            terminals: Terminals::default(),
            blind: 0,
            blind_probed: Time::default(),
            starving: 0,
            starved_logged: None,
            open: 0,
            counters,
        }
    }

    // ---- interest --------------------------------------------------------------------------------------------------

    /// Brings the poller up to date with what a link wants. Nobody else registers or changes an interest; `unregister`
    /// ends it.
    fn settle_interest(&mut self, links: &Links, id: ConnectionId) {
        let at = id.slot_at(self.home);
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut).filter(|slot| slot.id == id) else { return };
        let Some(link) = links.get(id) else { return };
        slot.listed = false;
        let wanted = Interest { read: link.reads(), write: link.writes() };
        if slot.always_ready || slot.background || slot.registered == Some(wanted) {
            return;
        }
        if slot.hung_up {
            if wanted == Interest::default() {
                return;
            }
            slot.hung_up = false;
        }
        let outcome = if slot.registered.is_some() {
            self.counters.interest_changes.add(1);
            self.sys.modify(slot.fd, id, wanted)
        } else {
            self.sys.register(slot.fd, id, wanted)
        };
        match outcome {
            Ok(()) => {
                self.blind -= usize::from(slot.registered == Some(Interest::default()));
                slot.registered = Some(wanted);
                self.blind += usize::from(wanted == Interest::default());
            }
            Err(errno) if errno::cannot_be_polled(errno) && !slot.socket => {
                slot.always_ready = true;
                self.always_ready.push(id);
            }
            Err(errno) => self.failures.push((id, errno)),
        }
    }

    fn unregister(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slots[id.slot_at(self.home)].as_mut()
            && let Some(interest) = slot.registered.take()
        {
            self.blind -= usize::from(interest == Interest::default());
            self.sys.forget(slot.fd);
        }
    }

    // ---- moving bytes ----------------------------------------------------------------------------------------------

    /// One receive, reported; nothing when nothing has arrived.
    #[inline]
    fn receive(&mut self, id: ConnectionId, fd: Fd, socket: bool, scratch: &mut [u8]) -> Option<Report> {
        match if socket { self.sys.recv(fd, scratch) } else { self.sys.read(fd, scratch) } {
            Moved::Bytes(count) => Some(Report::Received(id, count)),
            Moved::Blocked => None,
            Moved::Ended => Some(Report::Said(Completion::Ended { id })),
            Moved::Failed(errno) => Some(Report::Said(Completion::Failed { id, errno })),
        }
    }

    /// One send. A short one is taken for a full kernel: asking again would only say EAGAIN.
    #[inline]
    fn transmit(&mut self, fd: Fd, output: &Output) -> Sent {
        if output.is_empty() {
            return Sent::Bytes(0);
        }
        let (moved, offered) = match (output.single(), output.before_file()) {
            (Some(bytes), _) => return self.transmit_bytes(fd, bytes),
            (None, Some(bytes)) => (self.sys.send_vectored(fd, &[IoSlice::new(bytes)], true), bytes.len()),
            (None, None) => {
                let mut pieces = [IoSlice::new(&[]); PIECES_PER_SEND];
                let filled = output.gather(&mut pieces);
                if let Some(part) = output.file().filter(|_| filled == 0) {
                    return self.transmit_file(fd, part);
                }
                if filled == 0 {
                    // What comes next is not bytes, but that messages were missed.
                    return Sent::Bytes(0);
                }
                let offered = pieces[..filled].iter().map(|piece| piece.len()).sum();
                (self.sys.send_vectored(fd, &pieces[..filled], output.has_file()), offered)
            }
        };
        self.transmitted(moved, offered)
    }

    #[inline]
    fn transmit_bytes(&mut self, fd: Fd, bytes: &[u8]) -> Sent {
        let moved = self.sys.send(fd, bytes);
        self.transmitted(moved, bytes.len())
    }

    /// What is more than one turn's is left for when the socket is writable, which it may be at once.
    fn transmit_file(&mut self, fd: Fd, part: &FilePart) -> Sent {
        let offered = part.length().min(FILE_BYTES_PER_TURN);
        match self.sys.send_file(fd, part.file(), part.at(), offered) {
            Moved::Ended => Sent::ShortFile,
            Moved::Bytes(count) if count == offered && offered < part.length() => Sent::Blocked(count),
            moved => self.transmitted(moved, offered),
        }
    }

    #[inline]
    fn transmitted(&mut self, moved: Moved, offered: usize) -> Sent {
        match moved {
            Moved::Bytes(count) if count == offered => Sent::Bytes(count),
            Moved::Bytes(count) => {
                self.counters.partial_sends.add(1);
                Sent::Blocked(count)
            }
            Moved::Blocked | Moved::Ended => Sent::Blocked(0),
            Moved::Failed(errno) => Sent::Failed(errno),
        }
    }

    // ---- one batch -------------------------------------------------------------------------------------------------

    /// The next thing of this batch: what the events come to, then failures from elsewhere, then probes.
    fn report(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Report> {
        while let Some(&event) = self.events.get(self.cursor) {
            let report = match event.token {
                token if token.generation() != 0 => self.connection_event(event, links, scratch),
                ConnectionId::NONE => self.woken(),
                token => self.listener_event(token.slot() - 1),
            };
            // One event may come to several things.
            if report.is_none() || matches!(self.stage, Stage::Done) {
                self.cursor += 1;
                self.stage = Stage::Fresh;
            }
            if report.is_some() {
                return report;
            }
        }
        while let Some((id, errno)) = self.failures.pop() {
            if links.get(id).is_some() {
                return Some(Report::Said(Completion::Failed { id, errno }));
            }
        }
        while self.probes_left > 0 {
            self.probes_left -= 1;
            let id = self.probes.pop_front()?;
            if let Some(link) = links.get(id) {
                // Another look in this batch has told already.
                if self.slot(id).is_some_and(|slot| slot.read_in == self.batch) {
                    continue;
                }
                // What is no socket may block: it is read when it is ready, and only then.
                let socket = self.slot(id).filter(|slot| slot.socket && link.reads()).map(|slot| slot.fd);
                let report = socket.and_then(|fd| self.receive(id, fd, true, scratch));
                let batch = self.batch;
                if let (Some(Report::Received(..)), Some(slot)) = (&report, self.slot_mut(id)) {
                    slot.read_in = batch;
                }
                return Some(report.unwrap_or(Report::Said(Completion::Nothing { id })));
            }
        }
        None
    }

    /// The socket to receive from, where the next event is that there is something to read and nothing else is the
    /// matter: nearly every event. It is done with then.
    #[inline]
    fn only_to_read(&mut self, links: &Links) -> Option<(ConnectionId, Fd)> {
        let event = *self.events.get(self.cursor)?;
        let (id, batch) = (event.token, self.batch);
        let usual = event.readable & !(event.writable | event.hangup | event.error) & (id.generation() != 0);
        if !usual || !links.get(id)?.reads() {
            return None;
        }
        let slot = self.slot_mut(id).filter(|slot| slot.socket & !slot.connecting)?;
        slot.read_in = batch;
        let fd = slot.fd;
        self.cursor += 1;
        Some((id, fd))
    }

    fn woken(&mut self) -> Option<Report> {
        self.stage = Stage::Done;
        self.sys.drain_wake();
        Some(Report::Said(Completion::Woken))
    }

    /// Reading first, then writing, so that what arrived before an error is delivered before it.
    fn connection_event(&mut self, event: Event, links: &Links, scratch: &mut [u8]) -> Option<Report> {
        let (id, batch) = (event.token, self.batch);
        // For something to read and nothing else, one look is enough.
        let fresh = matches!(self.stage, Stage::Fresh);
        let only_reading = !(event.writable || event.hangup || event.error);
        self.stage = if fresh && !only_reading { Stage::Reading } else { Stage::Done };
        // One that another's callback has ended in this batch is as good as gone.
        let link = links.get(id).filter(|link| !link.is_over());
        let (Some(link), Some(slot)) = (link, self.slot_mut(id)) else {
            self.counters.stale_events.add(fresh.into());
            return None;
        };
        let (fd, socket, trouble) = (slot.fd, slot.socket, event.error || event.hangup);
        let reading = fresh && (event.readable || trouble) && link.reads();
        if reading {
            slot.read_in = batch;
        }
        if slot.connecting {
            if !(event.writable || trouble) {
                return None;
            }
            slot.connecting = false;
            return Some(Report::Said(match self.sys.take_error(fd) {
                None => Completion::Connected { id },
                Some(errno) => Completion::Failed { id, errno },
            }));
        }
        if reading && !socket && self.sys.is_anothers_terminal(fd) {
            self.leave_terminal(id);
            return None;
        }
        if reading {
            if let Some(report) = self.receive(id, fd, socket, scratch) {
                return Some(report);
            }
            self.not_read(id);
        } else if fresh
            && event.error
            // Where output waits, sending it tells the error, and what has arrived is still delivered.
            && !link.writes()
            && let Some(errno) = self.sys.take_error(fd)
        {
            return Some(Report::Said(Completion::Failed { id, errno }));
        }
        if (event.writable || trouble) && link.writes() {
            self.stage = Stage::Done;
            let output = link.output()?;
            return Some(Report::Said(Completion::Sent { id, outcome: self.transmit(fd, output) }));
        }
        if event.hangup && !link.reads() {
            self.hang_up(id);
        }
        None
    }

    /// It was not ready after all, or not to be read: whoever asked for a look still waits for the answer.
    #[cold]
    fn not_read(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.read_in = 0;
        }
    }

    /// Both halves are over and the link does not read: no longer registered, or the poller would report it for ever.
    fn hang_up(&mut self, id: ConnectionId) {
        self.unregister(id);
        if let Some(slot) = self.slot_mut(id) {
            slot.hung_up = true;
        }
        // It may read again by the end of the batch, and nobody else would say so.
        self.changed(id);
    }

    /// Where the poller reports no error of a connection watched for nothing, ask for it now and then: a reset ends a
    /// pause within a second. Linear in the connections, once a second, and only while one is paused.
    fn probe_blind(&mut self) {
        let now = self.sys.now();
        if now.since(self.blind_probed) < BLIND_PROBE {
            return;
        }
        self.blind_probed = now;
        for slot in self.slots.iter().flatten() {
            if slot.registered == Some(Interest::default())
                && let Some(errno) = self.sys.take_error(slot.fd)
            {
                self.failures.push((slot.id, errno));
            }
        }
    }

    fn place(&mut self, id: ConnectionId, fd: Fd, socket: bool, connecting: bool) {
        let slot = Slot {
            id,
            fd,
            registered: None,
            read_in: 0,
            socket,
            always_ready: false,
            background: false,
            hung_up: false,
            listed: false,
            connecting,
        };
        if self.slots.len() <= id.slot_at(self.home) {
            self.slots.resize_with(id.slot_at(self.home) + 1, || None);
        }
        self.slots[id.slot_at(self.home)] = Some(slot);
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

    fn close_the_dead(&mut self) {
        let freed = std::mem::take(&mut self.freed) || !self.graveyard.is_empty();
        for fd in self.graveyard.drain(..) {
            self.sys.close(fd);
            self.open -= 1;
        }
        self.feed(freed);
    }
}

impl<S: Sys> Driver for Readiness<S> {
    fn now(&mut self) -> Time {
        self.sys.now()
    }

    fn coarse_now(&mut self) -> Time {
        self.sys.coarse_now()
    }

    fn wait(&mut self, links: &Links, mut timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        self.close_the_dead();
        while let Some(id) = self.changed.pop() {
            self.settle_interest(links, id);
        }
        let at_most = |timeout: Option<Duration>, most| Some(timeout.map_or(most, |timeout| timeout.min(most)));
        let busy_files = self.always_ready.iter().any(|&id| links.get(id).is_some_and(Link::reads));
        if busy_files || !self.probes.is_empty() || !self.listener_probes.is_empty() || !self.failures.is_empty() {
            timeout = Some(Duration::ZERO);
        }
        if self.starving > 0 {
            timeout = at_most(timeout, STARVED_REST);
        }
        if let Some(most) = self.terminals.wait_at_most() {
            timeout = at_most(timeout, most);
        }
        let blind = self.blind > 0 && !self.sys.reports_errors_unasked();
        if blind {
            timeout = at_most(timeout, BLIND_PROBE);
        }
        self.events.clear();
        self.batch = self.batch.wrapping_add(1).max(1);
        (self.cursor, self.stage) = (0, Stage::Fresh);
        self.counters.waits.add(1);
        let outcome = self.sys.wait(&mut self.events, timeout, now);
        self.batch_full = self.events.len() == self.sys.events_per_wait();
        if blind {
            self.probe_blind();
        }
        self.probe_terminals();
        self.feed(false);
        for index in self.listener_probes.drain(..) {
            self.events.push(readable(listener_token(self.home.event_loop(), index)));
        }
        self.always_ready.retain(|&id| links.get(id).is_some());
        for &id in &self.always_ready {
            self.events.push(readable(id));
        }
        self.probes_left = self.probes.len();
        outcome
    }

    fn is_batch_full(&self) -> bool {
        self.batch_full
    }

    fn events_per_batch(&self) -> usize {
        self.sys.events_per_wait()
    }

    #[inline]
    fn next<'s>(&mut self, links: &Links, scratch: &'s mut [u8]) -> Option<Completion<'s>> {
        if let Some((id, fd)) = self.only_to_read(links) {
            match self.sys.recv(fd, scratch) {
                Moved::Bytes(count) => return Some(Completion::Received { id, bytes: &scratch[..count] }),
                Moved::Blocked => self.not_read(id),
                Moved::Ended => return Some(Completion::Ended { id }),
                Moved::Failed(errno) => return Some(Completion::Failed { id, errno }),
            }
        }
        Some(match self.report(links, scratch)? {
            Report::Received(id, count) => Completion::Received { id, bytes: &scratch[..count] },
            Report::Said(completion) => completion,
        })
    }

    fn listen(&mut self, fd: Fd, name: &str, unsent: usize) -> usize {
        self.add_listener(fd, name, unsent)
    }

    fn set_accepting(&mut self, index: usize, accepting: bool) {
        self.hold_listener(index, !accepting);
    }

    fn forget_listener(&mut self, index: usize) {
        self.drop_listener(index);
    }

    fn rest(&mut self, index: usize, errno: Errno) {
        self.starve(index, errno);
    }

    fn is_starving(&self, index: usize) -> bool {
        self.is_starved(index)
    }

    fn probe_listener(&mut self, index: usize) {
        self.look_at_listener(index);
    }

    fn adopt(&mut self, id: ConnectionId, socket: Socket, reads_first: bool) {
        self.place(id, socket.0, true, false);
        if reads_first {
            self.probes.push_front(id);
            self.probes_left += 1;
        }
    }

    fn discard(&mut self, socket: Socket) {
        // At once: no event of this batch is about it. A batch of newcomers that are let go, or go to processes of their
        // own, would otherwise hold a descriptor each to its end.
        self.sys.close(socket.0);
        self.open -= 1;
        self.freed = true;
    }

    fn part_with(&mut self) {
        self.open -= 1;
    }

    fn take_over(&mut self) {
        self.open += 1;
    }

    fn connect(&mut self, id: ConnectionId, to: &Address, unsent: usize) {
        match self.sys.connect(to, unsent) {
            Ok(fd) => {
                self.open += 1;
                self.place(id, fd, true, true);
            }
            Err(errno) => self.failures.push((id, errno)),
        }
    }

    fn watch(&mut self, id: ConnectionId, descriptor: OwnedFd) {
        self.open += 1;
        self.place(id, Fd(descriptor.into_raw_fd()), false, false);
    }

    fn send(&mut self, link: &Link) -> Sent {
        match (self.slot(link.id), link.output()) {
            (Some(slot), Some(output)) => self.transmit(slot.fd, output),
            _ => Sent::Bytes(0),
        }
    }

    #[inline]
    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) -> Sent {
        match self.slot(id) {
            Some(slot) => self.transmit_bytes(slot.fd, bytes),
            None => Sent::Bytes(bytes.len()),
        }
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
        self.probes.push_back(id);
    }

    fn finish(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot(id).filter(|slot| slot.socket) {
            let fd = slot.fd;
            self.sys.finish(fd);
        }
    }

    fn release(&mut self, id: ConnectionId, reset: bool) {
        if self.slot(id).is_none() {
            return;
        }
        // The poller forgets it before it is closed: a duplicate in another process would keep the registration alive.
        self.unregister(id);
        if let Some(slot) = self.slots[id.slot_at(self.home)].take() {
            if reset && slot.socket {
                self.sys.reset_on_close(slot.fd);
            }
            self.graveyard.push(slot.fd);
        }
    }

    fn unacknowledged(&mut self, id: ConnectionId) -> usize {
        let fd = self.slot(id).filter(|slot| slot.socket).map(|slot| slot.fd);
        fd.map_or(0, |fd| self.sys.unacknowledged(fd))
    }

    fn held(&self) -> Vec<Fd> {
        let slots = self.slots.iter().flatten().map(|slot| slot.fd);
        slots.chain(self.listener_descriptors()).chain(self.graveyard.iter().copied()).chain(self.sys.held()).collect()
    }

    fn descriptors(&self) -> usize {
        self.open - self.graveyard.len()
    }
}

/// What is left when the loop ends, or could not go on.
impl<S: Sys> Drop for Readiness<S> {
    fn drop(&mut self) {
        let left = self.slots.drain(..).flatten().map(|slot| slot.fd);
        for fd in self.graveyard.drain(..).chain(left) {
            self.sys.close(fd);
        }
    }
}

fn readable(token: ConnectionId) -> Event {
    Event { token, readable: true, writable: false, hangup: false, error: false }
}
