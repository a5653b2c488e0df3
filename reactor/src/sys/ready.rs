//! The events of a poller: the readiness of a descriptor.

use crate::token::ConnectionId;

/// An event of one descriptor, as the poller reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The token given at registration; the connection may have ended since.
    pub(crate) token: ConnectionId,
    pub(crate) ready: Ready,
}

/// The readiness of a descriptor, as a set of bits. The bits equal those of epoll, so an event is translated in one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u16);

impl Ready {
    pub(crate) const READABLE: Ready = Ready(1);
    /// Urgent data (EPOLLPRI): a receive stops in front of it, whatever is behind. Reported with edges.
    pub(crate) const URGENT: Ready = Ready(1 << 1);
    pub(crate) const WRITABLE: Ready = Ready(1 << 2);
    /// An error waits in SO_ERROR (EPOLLERR), or the descriptor itself is bad. Reported without interest, too.
    pub(crate) const ERROR: Ready = Ready(1 << 3);
    /// Both halves are over (EPOLLHUP). Reported without interest, too.
    pub(crate) const HANGUP: Ready = Ready(1 << 4);
    /// The peer has ended its half (EPOLLRDHUP), perhaps behind bytes. Reported with edges.
    pub(crate) const ENDING: Ready = Ready(1 << 13);
    /// Whatever is read before the end of input, an error or urgent data: a receive that brings bytes is not the last one.
    pub(crate) const BEHIND: Ready = Ready::URGENT.and(Ready::ERROR).and(Ready::HANGUP).and(Ready::ENDING);

    /// The events of epoll as a set. Events that nobody asks for are left out.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[inline]
    pub(crate) fn of_epoll(events: u32) -> Ready {
        const ALL: Ready = Ready::READABLE.and(Ready::WRITABLE).and(Ready::BEHIND);
        Ready(events as u16 & ALL.0)
    }

    /// Both sets together.
    pub(crate) const fn and(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }

    /// The set, with `other` if `is`.
    pub(crate) fn with(self, other: Ready, is: bool) -> Ready {
        if is { self.and(other) } else { self }
    }

    /// Whether any of `any` is in the set.
    #[inline]
    pub(crate) fn has(self, any: Ready) -> bool {
        self.0 & any.0 != 0
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn each_event_of_epoll_has_its_bit_and_others_are_left_out() {
        for (event, ready) in [
            (libc::EPOLLIN, Ready::READABLE),
            (libc::EPOLLOUT, Ready::WRITABLE),
            (libc::EPOLLERR, Ready::ERROR),
            (libc::EPOLLHUP, Ready::HANGUP),
            (libc::EPOLLPRI, Ready::URGENT),
            (libc::EPOLLRDHUP, Ready::ENDING),
            (libc::EPOLLRDNORM | libc::EPOLLRDBAND | libc::EPOLLWRNORM | libc::EPOLLMSG, Ready::default()),
        ] {
            assert_eq!(Ready::of_epoll(event as u32), ready);
        }
        assert_eq!(Ready::of_epoll((libc::EPOLLIN | libc::EPOLLHUP) as u32), Ready::READABLE.and(Ready::HANGUP));
    }
}
