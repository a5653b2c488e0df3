//! The meaning of errno values on which the driver decides.

use crate::error::Errno;

/// Whether accepting failed for this connection, not for the listener. accept(2) returns errors that are pending on the
/// new socket, and advises to treat them like EAGAIN; a packet filter causes EPERM.
pub(crate) fn concerns_one_connection(errno: Errno) -> bool {
    #[cfg(target_os = "linux")]
    if errno.0 == libc::ENONET {
        return true;
    }
    matches!(
        errno.0,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
    )
}

/// Whether the poller refuses this kind of file, because it is always ready: epoll_ctl(2) returns EPERM for regular
/// files.
pub(crate) fn cannot_be_polled(errno: Errno) -> bool {
    errno.0 == libc::EPERM
}

/// A read has failed without a reported reason.
pub(crate) const IO: i32 = libc::EIO;

/// The peer has reset the connection.
pub(crate) const RESET: Errno = Errno(libc::ECONNRESET);

/// The peer has broken the protocol.
pub(crate) const PROTOCOL: Errno = Errno(libc::EPROTO);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_concerns_the_listener_and_an_abort_one_connection() {
        assert!(concerns_one_connection(Errno(libc::ECONNABORTED)));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(!concerns_one_connection(Errno(errno)));
        }
    }
}
