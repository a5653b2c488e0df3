//! The real system with failing calls: calls move fewer bytes than they could, or none, as often as `REACTOR_CHAOS`
//! says. The application's reaction runs over real descriptors and real bytes.
//!
//! All faults are within what a kernel may do, so the floors above must not notice them:
//!
//! | fault | what happens | what has to follow |
//! | --- | --- | --- |
//! | `short_io` | a receive, read or send moves fewer bytes than it could, at least one | the rest, later, in order |
//! | `eagain` | a send, or a receive that the poller has announced, would block | the poller says so again |
//! | `eintr` | a call or a wait is cut short, down in `call`, before it does anything | it is made again |
//! | `emfile` | an accept finds no descriptor | the listener rests, and nobody in its queue is lost |
//! | `spurious` | a wait comes back at once with nothing | another wait |
//!
//! Bytes that a fault leaves in a socket with edges are reported again (`report_again`): a kernel would have returned them.
//!
//! A receive without an announcement never fails: the driver receives what has arrived before it stops, and a real
//! kernel would return those bytes. An announced receive may return EAGAIN: Linux also reports false events.

mod odds;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::time::Duration;

use super::backend::Backend;
use super::call::interruptions;
use super::kernel::Kernel;
use super::wake::Waker;
use super::{Clock, Event, Fd, Interest, Moved, Poller, Sockets, Sys};
use crate::address::{Address, Peer};
use crate::error::{Errno, Error};
use crate::random::Random;
use crate::socket_options::Tuning;
use crate::time::Time;
use crate::token::ConnectionId;
use odds::{Odds, Orders, VARIABLE};

/// Largest number of interruptions of one call, so that `eintr:1` comes to an end.
const INTERRUPTIONS_MAX: u32 = 16;

/// A system whose calls fail at random. Each loop has its own generator, so a seed gives one sequence of faults while
/// the kernel's answers are equal.
pub(crate) struct Chaos<S> {
    sys: S,
    orders: Orders,
    random: Random,
    struck: Struck,
    /// The poller's token of each descriptor, and the interest.
    watched: HashMap<i32, (ConnectionId, Interest)>,
    /// Connections that the last wait reported, and that have not been received from since.
    told: HashSet<ConnectionId>,
}

/// The number of strikes of each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Struck {
    short_io: u64,
    eagain: u64,
    eintr: u64,
    emfile: u64,
    spurious: u64,
}

impl Chaos<Kernel> {
    /// Makes a system without faults unless `REACTOR_CHAOS` asks for some.
    pub(crate) fn new(backend: Backend) -> Result<Self, Error> {
        let orders = Orders::of_environment()?;
        Ok(Chaos::with(Kernel::new(backend)?, orders))
    }

    /// Logs the faults to expect. A randomly drawn seed is printed even without a logger: a failure cannot be repeated
    /// without the seed.
    pub(crate) fn announce(&self) {
        if !self.is_active() {
            return;
        }
        let told = format!("system calls fail on purpose: {VARIABLE}={}", self.orders);
        log::warn!("{told}");
        if self.orders.seed_was_drawn && !log::log_enabled!(log::Level::Warn) {
            // Standard error may have no reader.
            let _ = writeln!(std::io::stderr(), "{told}");
        }
    }
}

impl<S> Chaos<S> {
    fn with(sys: S, orders: Orders) -> Self {
        Chaos {
            sys,
            orders,
            random: Random::new(orders.seed),
            struck: Struck::default(),
            watched: HashMap::new(),
            told: HashSet::new(),
        }
    }

    fn is_active(&self) -> bool {
        self.orders.odds != Odds::default()
    }

    /// Makes a call, after a random number of interruptions.
    fn call<R>(&mut self, call: impl FnOnce(&mut S) -> R) -> R {
        let mut count = 0;
        while count < INTERRUPTIONS_MAX && self.random.chance(self.orders.odds.eintr) {
            count += 1;
        }
        let (outcome, met) = interruptions::of(count, || call(&mut self.sys));
        self.struck.eintr += u64::from(met);
        outcome
    }

    fn blocks(&mut self) -> bool {
        let blocks = self.random.chance(self.orders.odds.eagain);
        self.struck.eagain += u64::from(blocks);
        blocks
    }

    /// Returns how many of `length` bytes may move. Mostly few, so small messages are cut, too.
    fn most(&mut self, length: usize) -> usize {
        if length > 1 && self.random.chance(self.orders.odds.short_io) {
            let most = self.random.size(length - 1);
            self.random.size(most)
        } else {
            length
        }
    }

    /// Counts a short transfer if more bytes could have moved.
    fn moved(&mut self, moved: Moved, most: usize, length: usize) -> Moved {
        self.struck.short_io += u64::from(most < length && moved == Moved::Bytes(most));
        moved
    }
}

impl<S: Poller> Chaos<S> {
    fn receive(&mut self, fd: Fd, into: &mut [u8], call: fn(&mut S, Fd, &mut [u8]) -> Moved) -> Moved {
        let announced = self.watched.get(&fd.0).is_some_and(|(token, _)| self.told.remove(token));
        if announced && self.blocks() {
            self.report_again(fd);
            return Moved::Blocked;
        }
        let (length, most) = (into.len(), self.most(into.len()));
        let moved = self.call(|sys| call(sys, fd, &mut into[..most]));
        if most < length {
            self.report_again(fd);
        }
        self.moved(moved, most, length)
    }

    /// A fault may have left bytes in a socket with edges. The poller reports them only if it learns the interest anew.
    fn report_again(&mut self, fd: Fd) {
        if let Some(&(token, interest)) = self.watched.get(&fd.0).filter(|(_, interest)| interest.edges) {
            let _ = self.sys.modify(fd, token, interest);
        }
    }
}

impl<S: Sys> Clock for Chaos<S> {
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

impl<S: Sys> Poller for Chaos<S> {
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.watched.insert(fd.0, (token, interest));
        self.sys.register(fd, token, interest)
    }

    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.watched.insert(fd.0, (token, interest));
        self.sys.modify(fd, token, interest)
    }

    fn forget(&mut self, fd: Fd) {
        self.watched.remove(&fd.0);
        self.sys.forget(fd);
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        self.told.clear();
        if self.random.chance(self.orders.odds.spurious) {
            self.struck.spurious += 1;
            return Ok(());
        }
        let before = events.len();
        let outcome = self.call(|sys| sys.wait(events, timeout, now));
        self.told.extend(events[before..].iter().map(|event| event.token));
        outcome
    }

    fn events_per_wait(&self) -> usize {
        self.sys.events_per_wait()
    }

    fn reports_errors_unasked(&self) -> bool {
        self.sys.reports_errors_unasked()
    }

    fn held(&self) -> Vec<Fd> {
        self.sys.held()
    }
}

impl<S: Sys> Sys for Chaos<S> {
    fn drain_wake(&mut self) {
        self.call(S::drain_wake);
    }

    fn accept(&mut self, listener: Fd, tuning: &Tuning) -> Result<Option<(Fd, Peer)>, Errno> {
        if self.random.chance(self.orders.odds.emfile) {
            self.struck.emfile += 1;
            return Err(Errno(libc::EMFILE));
        }
        self.call(|sys| sys.accept(listener, tuning))
    }

    /// Without EINTR: connect(2) continues by itself after an interruption, so no repetition is tested.
    fn connect(&mut self, to: &Address, tuning: &Tuning) -> Result<Fd, Errno> {
        self.sys.connect(to, tuning)
    }

    fn recv(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        self.receive(fd, into, S::recv)
    }

    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        self.receive(fd, into, S::read)
    }

    fn is_anothers_terminal(&mut self, fd: Fd) -> bool {
        self.sys.is_anothers_terminal(fd)
    }

    fn send(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Moved {
        if self.blocks() {
            return Moved::Blocked;
        }
        let most = self.most(bytes.len());
        // The first part of a short send leaves at once, as the kernel's own.
        let moved = self.call(|sys| sys.send(fd, &bytes[..most], more && most == bytes.len()));
        self.moved(moved, most, bytes.len())
    }

    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved {
        if self.blocks() {
            return Moved::Blocked;
        }
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let most = self.most(length);
        let moved = if most == length {
            self.call(|sys| sys.send_vectored(fd, pieces, more))
        } else {
            let mut left = most;
            let first: Vec<_> = pieces
                .iter()
                .map(|piece| {
                    let part = left.min(piece.len());
                    left -= part;
                    IoSlice::new(&piece[..part])
                })
                .collect();
            self.call(|sys| sys.send_vectored(fd, &first, false))
        };
        self.moved(moved, most, length)
    }

    fn send_file(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved {
        if self.blocks() {
            return Moved::Blocked;
        }
        let most = self.most(count);
        let moved = self.call(|sys| sys.send_file(fd, file, at, most));
        self.moved(moved, most, count)
    }

    fn read_file(&mut self, file: &File, at: u64, into: &mut [u8]) -> Moved {
        if self.blocks() {
            return Moved::Blocked;
        }
        let most = self.most(into.len());
        self.call(|sys| sys.read_file(file, at, &mut into[..most]))
    }

    fn waker(&self) -> Waker {
        self.sys.waker()
    }

    fn take_error(&mut self, fd: Fd) -> Option<Errno> {
        self.sys.take_error(fd)
    }

    fn sockets(&self) -> Sockets {
        self.sys.sockets()
    }

    fn unacknowledged(&mut self, fd: Fd) -> usize {
        self.sys.unacknowledged(fd)
    }

    fn finish(&mut self, fd: Fd) {
        self.sys.finish(fd);
    }

    fn reset_on_close(&mut self, fd: Fd) {
        self.sys.reset_on_close(fd);
    }

    fn close(&mut self, fd: Fd) {
        self.sys.close(fd);
    }
}

/// Logs the strikes at the loop's end, so that a reader of the log sees whether anything was tested.
impl<S> Drop for Chaos<S> {
    fn drop(&mut self) {
        if self.is_active() {
            log::info!("calls that failed on purpose: {} ({VARIABLE}={})", self.struck, self.orders);
        }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Struck { short_io, eagain, eintr, emfile, spurious } = self;
        write!(f, "short_io {short_io}, eagain {eagain}, eintr {eintr}, emfile {emfile}, spurious {spurious}")
    }
}

#[cfg(test)]
mod tests;
