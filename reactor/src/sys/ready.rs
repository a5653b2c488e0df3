//! The readiness of a descriptor, as reported by a poller.

/// The readiness of a descriptor, as a set of bits. The bits equal those of epoll, so an event is translated in one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u8);

impl Ready {
    pub(crate) const READABLE: Ready = Ready(1);
    pub(crate) const WRITABLE: Ready = Ready(1 << 2);
    /// An error waits in SO_ERROR (EPOLLERR), or the descriptor itself is bad. Reported without interest, too.
    pub(crate) const ERROR: Ready = Ready(1 << 3);
    /// Both halves are over (EPOLLHUP). Reported without interest, too.
    pub(crate) const HANGUP: Ready = Ready(1 << 4);

    /// The events of epoll as a set. Events that nobody asks for are left out.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[inline]
    pub(crate) fn of_epoll(events: u32) -> Ready {
        const ALL: Ready = Ready::READABLE.and(Ready::WRITABLE).and(Ready::ERROR).and(Ready::HANGUP);
        Ready(events as u8 & ALL.0)
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
            (libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLRDNORM, Ready::default()),
        ] {
            assert_eq!(Ready::of_epoll(event as u32), ready);
        }
        assert_eq!(Ready::of_epoll((libc::EPOLLIN | libc::EPOLLHUP) as u32), Ready::READABLE.and(Ready::HANGUP));
    }
}
