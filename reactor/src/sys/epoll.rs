//! The poller of Linux. The kernel keeps the list, so a wait costs in proportion to ready descriptors, not to watched ones.
//!
//! With edges the kernel does not look at a reported socket once more: 1.5 to 2 % of a request. Ends and urgent data are then reported.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::call::{EINTR, attempt, check};
use super::clock::WaitBudget;
use super::{Event, Fd, Interest, Poller, Ready};
use crate::error::Errno;
use crate::time::Time;
use crate::token::ConnectionId;

/// Anything from 16 to 512 measures the same, 1 costs 11 to 21 %. Events that do not fit come with the next wait, after events
/// that have not been reported yet.
const EVENTS_PER_WAIT: usize = 256;

pub(super) struct Epoll {
    epoll: OwnedFd,
    /// The buffer for the kernel's events: 3 KiB for each loop.
    ready: Box<[libc::epoll_event]>,
}

impl Epoll {
    pub(super) fn new() -> Result<Self, Errno> {
        // SAFETY: takes no pointer.
        let number = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call has just made the descriptor, and no other code knows its number.
        let epoll = unsafe { OwnedFd::from_raw_fd(number) };
        let ready = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT].into_boxed_slice();
        Ok(Epoll { epoll, ready })
    }

    fn control(&mut self, verb: i32, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        let read = if interest.read { libc::EPOLLIN } else { 0 };
        let write = if interest.write { libc::EPOLLOUT } else { 0 };
        let edges = if interest.edges { libc::EPOLLET | libc::EPOLLRDHUP | libc::EPOLLPRI } else { 0 };
        let mut event = libc::epoll_event { events: (read | write | edges) as u32, u64: token.to_u64() };
        // SAFETY: the kernel reads one epoll_event and keeps a copy; `event` outlives the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), verb, fd.0, ptr::from_mut(&mut event)) }).map(drop)
    }
}

impl Poller for Epoll {
    /// The last registration wins, as with `select`: a registered descriptor is modified.
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        match self.control(libc::EPOLL_CTL_ADD, fd, token, interest) {
            Err(Errno(libc::EEXIST)) => self.modify(fd, token, interest),
            outcome => outcome,
        }
    }

    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// A failure needs no report: the descriptor was not watched, which is the wanted state.
    fn forget(&mut self, fd: Fd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, ConnectionId::NONE, Interest::default());
    }

    /// Ends after 24 days at the latest (2^31 ms), with or without an event: the caller asks its timers and waits
    /// again.
    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        let budget = WaitBudget::new(now, timeout);
        let mut left = timeout;
        loop {
            let (room, space) = (self.ready.len() as i32, self.ready.as_mut_ptr());
            // SAFETY: the kernel writes at most `room` events at `space`, and `ready` has that many.
            match attempt(|| unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), space, room, milliseconds(left)) }) {
                Ok(found) => {
                    events.extend(self.ready[..found as usize].iter().map(told));
                    return Ok(());
                }
                Err(EINTR) => left = budget.left(),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn events_per_wait(&self) -> usize {
        EVENTS_PER_WAIT
    }

    /// EPOLLERR and EPOLLHUP are reported whatever a descriptor is registered for.
    fn reports_errors_unasked(&self) -> bool {
        true
    }

    fn held(&self) -> Vec<Fd> {
        vec![Fd(self.epoll.as_raw_fd())]
    }
}

fn told(raw: &libc::epoll_event) -> Event {
    // Copied out before use: the struct is packed on x86-64, and a reference into it would not be aligned.
    let (events, bits) = (raw.events, raw.u64);
    Event { token: ConnectionId::from_u64(bits), ready: Ready::of_epoll(events) }
}

/// Rounded up, so that a timer is not found undue, which would cost a second wait; -1 is for ever.
fn milliseconds(span: Option<Duration>) -> i32 {
    span.map_or(-1, |span| {
        let whole = span.as_secs().saturating_mul(1000);
        i32::try_from(whole.saturating_add(span.subsec_nanos().div_ceil(1_000_000).into())).unwrap_or(i32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_rounded_up_and_thirty_days_do_not_overflow() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1_000_001))), 2);
        assert_eq!(milliseconds(Some(Duration::from_secs(30 * 86_400))), i32::MAX);
        assert_eq!(milliseconds(Some(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn a_regular_file_is_refused_with_eperm() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let refused = Epoll::new().unwrap().register(
            Fd(file.as_raw_fd()),
            ConnectionId::new(0, 1, 1),
            Interest { read: true, write: false, edges: false },
        );
        assert_eq!(refused, Err(Errno(libc::EPERM)));
    }
}
