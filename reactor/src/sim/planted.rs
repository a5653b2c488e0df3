//! Checks that the simulator finds bugs: bugs that event loops have had are planted at the two seams, one at a time.
//! Each stands between correct parts, and does what a driver or a loop with the bug would do.

use std::collections::HashSet;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::exercise::exercise_with;
use super::tests::fails;
use crate::address::{Address, Peer};
use crate::driver::{Acceptor, Completion, Driver, Socket};
use crate::error::Errno;
use crate::layer::Layer;
use crate::link::{Link, Links, Sent};
use crate::socket_options::Tuning;
use crate::sys::errno::concerns_one_connection;
use crate::sys::simulated::Simulated;
use crate::sys::{Clock, Event, Fd, Interest, Moved, Poller, Sockets, Sys};
use crate::time::Time;
use crate::token::ConnectionId;

/// Number of seeds in which each bug must be found.
const SEEDS: u64 = 1000;
/// Number of seeds in which findings are counted, which shows the bugs that are hard to find.
const COUNTED: u64 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A descriptor is closed before the poller forgets it.
    ClosesBeforeForgetting,
    /// The poller is never told of a closed descriptor.
    NeverForgets,
    /// A descriptor is closed a second time, when another may have its number.
    ClosesTwice,
    /// A short write is taken for a whole one.
    LosesShortWrites,
    /// The last byte of a short write is sent again.
    RepeatsShortWrites,
    /// EAGAIN is taken for the end of input.
    EndsWhenBlocked,
    /// The end of input is taken for EAGAIN.
    NeverEnds,
    /// SO_ERROR is never read.
    ForgetsErrors,
    /// EMFILE is taken for an empty queue.
    SpinsWithoutDescriptors,
    /// A timeout is cut to whole milliseconds.
    RoundsDown,
    /// Only the first of several pieces is sent, and all are counted.
    SendsOnePiece,
    /// Every send says that more follows, so the kernel keeps the last bytes back.
    HoldsBytesBack,
    /// Our half is ended together with the peer's, although bytes are queued.
    FinishesWithThePeer,
    /// A link's interest is updated only once.
    ForgetsChanges,
    /// A refused connection is not closed.
    LeaksTheRefused,
    /// The end of input is swallowed while output waits.
    SwallowsEnds,
    /// Bytes of a released connection are reported.
    ReportsTheReleased,
    /// Failures of a connection that does not read are swallowed.
    SwallowsFailures,
    /// A suspended listener is resumed only if no order suspended it.
    NeverAcceptsAgain,
    /// Nobody looks whether input has arrived before a connection is told of the stop.
    NeverProbes,
    /// All connections together may hold any amount of memory.
    ForgetsTheBudget,
    /// No bug: the driver sends half of an answer, and reports that the kernel may take more at once.
    SendsHalf,
}

use Bug::*;

/// A system or a driver that is correct except for one bug.
struct Flawed<T> {
    inner: T,
    bug: Bug,
    marked: HashSet<i32>,
    seen: HashSet<ConnectionId>,
    last: Option<ConnectionId>,
}

impl<T> Flawed<T> {
    fn new(inner: T, bug: Bug) -> Self {
        Flawed { inner, bug, marked: HashSet::new(), seen: HashSet::new(), last: None }
    }
}

impl Flawed<Simulated> {
    fn received(&self, moved: Moved) -> Moved {
        match (self.bug, moved) {
            (EndsWhenBlocked, Moved::Blocked) => Moved::Ended,
            (NeverEnds, Moved::Ended) => Moved::Blocked,
            _ => moved,
        }
    }

    fn sent(&self, moved: Moved, offered: usize) -> Moved {
        match (self.bug, moved) {
            (LosesShortWrites, Moved::Bytes(_)) => Moved::Bytes(offered),
            (RepeatsShortWrites, Moved::Bytes(count)) if count > 1 && count < offered => Moved::Bytes(count - 1),
            _ => moved,
        }
    }
}

impl Clock for Flawed<Simulated> {
    fn now(&mut self) -> Time {
        self.inner.now()
    }

    fn coarse_now(&mut self) -> Time {
        self.inner.coarse_now()
    }
}

impl Poller for Flawed<Simulated> {
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.inner.register(fd, token, interest)
    }

    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.inner.modify(fd, token, interest)
    }

    fn forget(&mut self, fd: Fd) {
        match self.bug {
            NeverForgets => {}
            ClosesBeforeForgetting => {
                self.marked.insert(fd.0);
            }
            _ => self.inner.forget(fd),
        }
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        let whole = |span: Duration| Duration::from_millis(span.as_millis() as u64);
        let timeout = if self.bug == RoundsDown { timeout.map(whole) } else { timeout };
        self.inner.wait(events, timeout, now)
    }

    fn events_per_wait(&self) -> usize {
        self.inner.events_per_wait()
    }

    fn reports_errors_unasked(&self) -> bool {
        self.inner.reports_errors_unasked()
    }

    fn held(&self) -> Vec<Fd> {
        self.inner.held()
    }
}

impl Sys for Flawed<Simulated> {
    fn drain_wake(&mut self) {
        self.inner.drain_wake();
    }

    fn accept(&mut self, listener: Fd, tuning: &Tuning) -> Result<Option<(Fd, Peer)>, Errno> {
        match self.inner.accept(listener, tuning) {
            Err(errno) if self.bug == SpinsWithoutDescriptors && !concerns_one_connection(errno) => Ok(None),
            outcome => outcome,
        }
    }

    fn connect(&mut self, to: &Address, tuning: &Tuning) -> Result<Fd, Errno> {
        self.inner.connect(to, tuning)
    }

    fn recv(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        let moved = self.inner.recv(fd, into);
        self.received(moved)
    }

    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        self.inner.read(fd, into)
    }

    fn is_anothers_terminal(&mut self, fd: Fd) -> bool {
        self.inner.is_anothers_terminal(fd)
    }

    fn send(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Moved {
        let moved = self.inner.send(fd, bytes, more || self.bug == HoldsBytesBack);
        self.sent(moved, bytes.len())
    }

    fn send_file(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved {
        self.inner.send_file(fd, file, at, count)
    }

    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved {
        let offered = pieces.iter().map(|piece| piece.len()).sum();
        if self.bug == SendsOnePiece {
            return match self.inner.send(fd, &pieces[0], more) {
                Moved::Bytes(_) => Moved::Bytes(offered),
                moved => moved,
            };
        }
        let moved = self.inner.send_vectored(fd, pieces, more);
        self.sent(moved, offered)
    }

    fn read_file(&mut self, file: &File, at: u64, into: &mut [u8]) -> Moved {
        self.inner.read_file(file, at, into)
    }

    fn waker(&self) -> crate::sys::wake::Waker {
        self.inner.waker()
    }

    fn take_error(&mut self, fd: Fd) -> Option<Errno> {
        if self.bug == ForgetsErrors { None } else { self.inner.take_error(fd) }
    }

    fn sockets(&self) -> Sockets {
        self.inner.sockets()
    }

    fn unacknowledged(&mut self, fd: Fd) -> usize {
        self.inner.unacknowledged(fd)
    }

    fn finish(&mut self, fd: Fd) {
        self.inner.finish(fd);
    }

    fn reset_on_close(&mut self, fd: Fd) {
        self.inner.reset_on_close(fd);
    }

    fn close(&mut self, fd: Fd) {
        self.inner.close(fd);
        if self.bug == ClosesTwice && !std::thread::panicking() {
            self.inner.close(fd);
        }
        if self.marked.remove(&fd.0) && !std::thread::panicking() {
            self.inner.forget(fd);
        }
    }
}

impl<D: Driver> Acceptor for Flawed<D> {
    fn listen(&mut self, listener: Fd, name: &str, tuning: &Tuning) -> usize {
        self.inner.listen(listener, name, tuning)
    }

    fn set_accepting(&mut self, listener: usize, accepting: bool) {
        if self.bug != NeverAcceptsAgain || !accepting {
            self.inner.set_accepting(listener, accepting);
        }
    }

    fn forget_listener(&mut self, listener: usize) {
        self.inner.forget_listener(listener);
    }

    fn suspend(&mut self, listener: usize, errno: Errno) {
        self.inner.suspend(listener, errno);
    }

    fn is_suspended(&self, listener: usize) -> bool {
        self.inner.is_suspended(listener)
    }

    fn probe_listener(&mut self, listener: usize) {
        self.inner.probe_listener(listener);
    }

    fn close_accepted(&mut self, socket: Socket) {
        if self.bug != LeaksTheRefused {
            self.inner.close_accepted(socket);
        }
    }

    fn count_out(&mut self) {
        self.inner.count_out();
    }

    fn count_in(&mut self) {
        self.inner.count_in();
    }
}

impl<D: Driver> Clock for Flawed<D> {
    fn now(&mut self) -> Time {
        self.inner.now()
    }

    fn coarse_now(&mut self) -> Time {
        self.inner.coarse_now()
    }
}

impl<D: Driver> Driver for Flawed<D> {
    fn wait(&mut self, links: &Links, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        self.inner.wait(links, timeout, now)
    }

    fn full_batch(&self) -> Option<usize> {
        self.inner.full_batch()
    }

    fn next_received<'l>(&mut self, links: &'l mut Links, scratch: &mut [u8]) -> Option<(&'l mut Link, usize)> {
        let is_false = self.bug == ReportsTheReleased && self.last.is_some();
        if is_false { None } else { self.inner.next_received(links, scratch) }
    }

    fn next(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Completion> {
        if let (ReportsTheReleased, Some(id)) = (self.bug, self.last.take()) {
            return Some(Completion::Received { id, count: 1 });
        }
        let completion = self.inner.next(links, scratch)?;
        Some(match completion {
            Completion::Ended { id } if self.bug == FinishesWithThePeer => {
                self.inner.finish(id);
                Completion::Ended { id }
            }
            Completion::Ended { id }
                if self.bug == SwallowsEnds && links.get(id).is_some_and(|link| link.queued() > 0) =>
            {
                Completion::Nothing { id }
            }
            Completion::Failed { id, .. }
                if self.bug == SwallowsFailures && links.get(id).is_some_and(|link| !link.reads()) =>
            {
                Completion::Nothing { id }
            }
            sound => sound,
        })
    }

    fn adopt(&mut self, id: ConnectionId, socket: Socket, reads_first: bool) {
        self.inner.adopt(id, socket, reads_first);
    }

    fn put_layer(&mut self, id: ConnectionId, layer: Box<dyn crate::layer::Layer>) {
        self.inner.put_layer(id, layer);
    }

    fn say_goodbye(&mut self, id: ConnectionId) -> Sent {
        self.inner.say_goodbye(id)
    }

    fn agreed(&mut self, id: ConnectionId) -> Option<Box<dyn std::any::Any>> {
        self.inner.agreed(id)
    }

    fn connect(&mut self, id: ConnectionId, to: &Address, tuning: &Tuning) -> Fd {
        self.inner.connect(id, to, tuning)
    }

    fn disconnect(&mut self, id: ConnectionId) -> Option<Option<Box<dyn Layer>>> {
        self.inner.disconnect(id)
    }

    fn watch(&mut self, id: ConnectionId, descriptor: OwnedFd) {
        self.inner.watch(id, descriptor);
    }

    fn send(&mut self, link: &Link) -> Sent {
        self.inner.send(link)
    }

    fn send_bytes(&mut self, link: &Link, bytes: &[u8]) -> Sent {
        let half = if self.bug == SendsHalf { bytes.len().div_ceil(2) } else { bytes.len() };
        self.inner.send_bytes(link, &bytes[..half])
    }

    fn changed(&mut self, id: ConnectionId) {
        if self.bug != ForgetsChanges || self.seen.insert(id) {
            self.inner.changed(id);
        }
    }

    fn probe(&mut self, id: ConnectionId) {
        if self.bug != NeverProbes {
            self.inner.probe(id);
        }
    }

    fn finish(&mut self, id: ConnectionId) {
        self.inner.finish(id);
    }

    fn release(&mut self, id: ConnectionId, reset: bool) {
        self.last = Some(id);
        self.inner.release(id, reset);
    }

    fn sockets(&self) -> Sockets {
        self.inner.sockets()
    }

    fn unacknowledged(&mut self, id: ConnectionId) -> usize {
        self.inner.unacknowledged(id)
    }

    fn held(&self) -> Vec<Fd> {
        self.inner.held()
    }

    fn descriptors(&self) -> usize {
        self.inner.descriptors()
    }
}

/// The number of findings in the first [`COUNTED`] seeds, and the first finding, which may come later.
struct Found {
    first: Option<u64>,
    times: usize,
}

impl Found {
    fn by(is_found: impl Fn(u64) -> bool, seeds: u64) -> Self {
        let times: Vec<u64> = (0..COUNTED).filter(|&seed| is_found(seed)).collect();
        let first = times.first().copied().or_else(|| (COUNTED..seeds).find(|&seed| is_found(seed)));
        Found { first, times: times.len() }
    }

    fn told(self, planted: &impl std::fmt::Debug) -> bool {
        let Found { first, times } = self;
        println!("planted: {planted:?} is found in {times} of {COUNTED} seeds, first in {first:?}");
        first.is_some()
    }
}

fn is_found(bug: Bug, seed: u64) -> bool {
    fails(|| {
        exercise_with(seed, |mut sim| {
            sim.is_memory_bounded = bug != ForgetsTheBudget;
            let simulated = Flawed::new(sim.simulated(), bug);
            sim.run_on(simulated, |driver| Flawed::new(driver, bug))
        })
    })
}

/// `cargo test -p glowplug-reactor --features sim planted -- --nocapture` prints the number of findings.
#[test]
fn every_planted_bug_is_found() {
    let bugs = [
        ClosesBeforeForgetting,
        NeverForgets,
        ClosesTwice,
        LosesShortWrites,
        RepeatsShortWrites,
        EndsWhenBlocked,
        NeverEnds,
        ForgetsErrors,
        SpinsWithoutDescriptors,
        RoundsDown,
        SendsOnePiece,
        HoldsBytesBack,
        FinishesWithThePeer,
        ForgetsChanges,
        LeaksTheRefused,
        SwallowsEnds,
        ReportsTheReleased,
        SwallowsFailures,
        NeverAcceptsAgain,
        NeverProbes,
        ForgetsTheBudget,
    ];
    let missed: Vec<Bug> =
        bugs.into_iter().filter(|&bug| !Found::by(|seed| is_found(bug, seed), SEEDS).told(&bug)).collect();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

/// A driver of completions may take a part of an answer at a time.
#[test]
fn a_driver_that_sends_half_of_an_answer_is_asked_for_the_rest() {
    for seed in 0..200 {
        exercise_with(seed, |sim| {
            let simulated = sim.simulated();
            sim.run_on(simulated, |driver| Flawed::new(driver, SendsHalf))
        });
    }
}
