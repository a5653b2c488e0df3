//! The poller of every Unix. The whole list goes to the kernel and back with each wait: 44 µs for 1,000 idle descriptors, where
//! epoll takes 0.09. Use: systems without epoll, and comparisons.
//!
//! The sets ([`Sets`]) are as long as the highest descriptor needs. Where the system has a limit for that, a descriptor
//! beyond the limit is refused.

mod sets;

use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use super::call::{EINTR, attempt, retry};
use super::clock::WaitBudget;
use super::{Event, Fd, Interest, Poller, Ready};
use crate::error::Errno;
use crate::time::Time;
use crate::token::ConnectionId;
use sets::{LIMIT, Sets};

/// The longest wait that every system takes (three years). A longer wait ends after that time without an event.
const WAIT_MAX: Duration = Duration::from_secs(100_000_000);

pub(super) struct Select {
    /// The token of each watched descriptor, by the descriptor's number; `None` for descriptors that are not watched.
    tokens: Vec<Option<ConnectionId>>,
    wanted: Sets,
    /// A copy of `wanted` that the kernel overwrites, kept for its memory.
    ready: Sets,
    /// The descriptor at which the next scan starts.
    start: usize,
    limit: Option<RawFd>,
    limit_told: bool,
}

impl Select {
    pub(super) fn new() -> Self {
        Select::with_limit(LIMIT)
    }

    fn with_limit(limit: Option<RawFd>) -> Self {
        let (wanted, ready) = Default::default();
        Select { tokens: Vec::new(), wanted, ready, start: 0, limit, limit_told: false }
    }

    /// Turns the `found` bits that the kernel has set into events.
    ///
    /// Starts behind the first ready descriptor of the last scan, so that each always-ready descriptor is first in turn,
    /// whatever its number.
    fn scan(&mut self, found: usize, events: &mut Vec<Event>) {
        let mut first = None;
        self.ready.each(self.start, found, |number, interest| {
            first.get_or_insert(number);
            if let Some(token) = self.tokens[number] {
                let ready = Ready::default().with(Ready::READABLE, interest.read);
                events.push(Event { token, ready: ready.with(Ready::WRITABLE, interest.write) });
            }
        });
        self.start = first.map_or(self.start, |first| first + 1);
    }

    /// Finds descriptors that other code has closed under us, forgets each, and reports an error to its owner. Costs one fcntl
    /// for each watched descriptor: rare, because only a bug leads here.
    fn drop_bad(&mut self, events: &mut Vec<Event>) -> bool {
        let before = events.len();
        for number in 0..self.tokens.len() {
            let fd = Fd(number as RawFd);
            if let Some(token) = self.tokens[number].filter(|_| self.wanted.has(number) && !is_open(fd)) {
                self.forget(fd);
                events.push(Event { token, ready: Ready::ERROR });
            }
        }
        events.len() > before
    }

    fn watches(&self, number: usize) -> bool {
        self.tokens.get(number).is_some_and(Option::is_some)
    }
}

impl Poller for Select {
    /// EINVAL beyond the limit, as select(2) itself would say. (EMFILE would read as "wait until a descriptor is freed", which
    /// is no cure here.) The last registration wins: a number that was closed unseen may come back.
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        let number = usize::try_from(fd.0).map_err(|_| Errno(libc::EBADF))?;
        if let Some(limit) = self.limit.filter(|&limit| fd.0 >= limit) {
            // Once: the caller reports each refused connection.
            if !std::mem::replace(&mut self.limit_told, true) {
                log::warn!("descriptor {} refused: on this system select takes descriptors below {limit}", fd.0);
            }
            return Err(Errno(libc::EINVAL));
        }
        if self.tokens.len() <= number {
            self.tokens.resize(number + 1, None);
            self.wanted.make_room(number);
        }
        self.tokens[number] = Some(token);
        self.wanted.set(number, interest);
        Ok(())
    }

    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        let known = usize::try_from(fd.0).ok().filter(|&number| self.watches(number));
        let number = known.ok_or(Errno(libc::ENOENT))?;
        self.tokens[number] = Some(token);
        self.wanted.set(number, interest);
        Ok(())
    }

    fn forget(&mut self, fd: Fd) {
        if let Some(number) = usize::try_from(fd.0).ok().filter(|&number| self.watches(number)) {
            self.tokens[number] = None;
            self.wanted.set(number, Interest::default());
        }
    }

    /// `hangup` is always false, and `error` means a bad descriptor. Any other end or error of a descriptor is reported as
    /// readable or writable, and the next call on the descriptor returns the cause.
    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        let budget = WaitBudget::new(now, timeout);
        let mut left = timeout;
        loop {
            let length = self.ready.copy(&self.wanted);
            let (read, write) = self.ready.as_mut_ptrs();
            // Made anew for each try, since Linux overwrites the struct with the time left.
            let mut span = left.map(microseconds);
            let span = span.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
            // SAFETY: the kernel reads and writes `length` bits, in whole words, at `read` and `write`, and `copy` has made
            // both sets that long. No third set, for urgent data: no driver code sends any.
            match attempt(|| unsafe { libc::select(length as i32, read, write, ptr::null_mut(), span) }) {
                Ok(found) => {
                    self.scan(found as usize, events);
                    return Ok(());
                }
                Err(Errno(libc::EBADF)) if self.drop_bad(events) => return Ok(()),
                // EBADF without a culprit: the number has a new file since, or is forgotten. Look again.
                Err(EINTR | Errno(libc::EBADF)) => left = budget.left(),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// A wait returns all ready descriptors.
    fn events_per_wait(&self) -> usize {
        usize::MAX
    }

    /// select(2) looks only at the descriptors in its sets.
    fn reports_errors_unasked(&self) -> bool {
        false
    }

    /// The sets are memory of this process: no descriptor.
    fn held(&self) -> Vec<Fd> {
        Vec::new()
    }
}

fn is_open(fd: Fd) -> bool {
    // SAFETY: F_GETFD takes no third argument and changes nothing.
    retry(|| unsafe { libc::fcntl(fd.0, libc::F_GETFD) }).is_ok()
}

/// Rounded up, so that a timer is not found undue.
fn microseconds(span: Duration) -> libc::timeval {
    let micros = span.min(WAIT_MAX).as_nanos().div_ceil(1_000);
    libc::timeval { tv_sec: (micros / 1_000_000) as _, tv_usec: (micros % 1_000_000) as _ }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Interest = Interest { read: true, write: false, edges: false };

    fn token(slot: usize) -> ConnectionId {
        ConnectionId::new(0, slot, 1)
    }

    #[test]
    fn a_descriptor_beyond_the_limit_is_refused_and_changes_nothing() {
        let mut select = Select::with_limit(Some(64));
        assert_eq!(select.register(Fd(64), token(1), READ), Err(Errno(libc::EINVAL)));
        assert!(select.tokens.is_empty() && select.limit_told);
        assert_eq!(select.register(Fd(63), token(1), READ), Ok(()));
    }

    #[test]
    fn the_sets_are_as_long_as_the_highest_descriptor_that_is_waited_for() {
        let mut select = Select::new();
        for number in [3, 64, 1500] {
            select.register(Fd(number), token(number as usize), READ).unwrap();
        }
        assert_eq!(select.ready.copy(&select.wanted), 1501);
        select.modify(Fd(1500), token(1), Interest::default()).unwrap();
        assert_eq!(select.ready.copy(&select.wanted), 65);
        select.forget(Fd(64));
        assert_eq!(select.ready.copy(&select.wanted), 4);
        select.forget(Fd(3));
        assert_eq!(select.ready.copy(&select.wanted), 0);
    }

    #[test]
    fn microseconds_are_rounded_up_and_a_century_is_cut() {
        let span = microseconds(Duration::from_nanos(1_000_000_001));
        assert_eq!((span.tv_sec, span.tv_usec), (1, 1));
        let span = microseconds(Duration::from_nanos(999_999_999));
        assert_eq!((span.tv_sec, span.tv_usec), (1, 0));
        assert_eq!(microseconds(Duration::MAX).tv_sec, 100_000_000);
    }
}
