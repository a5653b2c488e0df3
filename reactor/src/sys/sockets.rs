//! Sockets of connections, as callbacks reach them: questions, and changes that concern no poller.

use std::ffi::CString;
use std::net::SocketAddrV6;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Fd, socket};
use crate::address::{Address, Peer};
use crate::socket_options::Tuning;

/// The calls, for the loop's state that callbacks reach. Each makes at most a few system calls, and none blocks.
pub(crate) type Sockets = Box<dyn SocketCalls>;

pub(crate) trait SocketCalls {
    /// The address that a socket is bound to (getsockname(2)). `None`: the descriptor has no address.
    fn local_address(&self, fd: Fd) -> Option<Address>;
    /// Lends the descriptor of an existing connection. `None`: the system has no such descriptor.
    fn lend(&self, fd: Fd) -> Option<BorrowedFd<'_>>;
    /// Changes [`Limits::unsent`](crate::Limits::unsent) of one socket.
    fn bound_unsent(&self, fd: Fd, peer: Peer, bytes: usize);
    /// Makes an open stream ready for a loop: non-blocking, close-on-exec, with these options. Returns the peer. An error says
    /// what the descriptor is instead.
    fn prepare(&self, descriptor: &OwnedFd, tuning: &Tuning) -> Result<Peer, String>;
}

/// The real calls.
pub(super) struct RealSockets;

impl SocketCalls for RealSockets {
    fn local_address(&self, fd: Fd) -> Option<Address> {
        socket::local_address(fd)
    }

    fn lend(&self, fd: Fd) -> Option<BorrowedFd<'_>> {
        // SAFETY: the driver owns the descriptor, and closes it only after the connection's last callback, while no context
        // exists. The loan ends with the context.
        (fd != Fd::NONE).then(|| unsafe { BorrowedFd::borrow_raw(fd.0) })
    }

    fn bound_unsent(&self, fd: Fd, peer: Peer, bytes: usize) {
        match peer {
            Peer::Tcp(_) => socket::bound_unsent(fd, bytes),
            _ => socket::bound_unread(fd, bytes),
        }
    }

    fn prepare(&self, descriptor: &OwnedFd, tuning: &Tuning) -> Result<Peer, String> {
        socket::prepare_stream(socket::fd(descriptor), tuning)
    }
}

/// The address of a text like `[fe80::1%eth0]:80`: numeric, with the name of a network interface (if_nametoindex(3), which does
/// not block).
pub(crate) fn address_with_zone(text: &str) -> Option<Address> {
    let (host, port) = text.strip_prefix("tcp://").unwrap_or(text).strip_prefix('[')?.split_once("]:")?;
    let (ip, zone) = host.split_once('%')?;
    let zone = CString::new(zone).ok()?;
    // SAFETY: the C library reads a string that ends with NUL, and `zone` is one.
    let number = unsafe { libc::if_nametoindex(zone.as_ptr()) };
    let address = SocketAddrV6::new(ip.parse().ok()?, port.parse().ok()?, 0, number);
    (number != 0).then_some(Address::Tcp(address.into()))
}

/// No sockets: for a context made by hand.
pub(crate) struct NoSockets;

impl SocketCalls for NoSockets {
    fn local_address(&self, _: Fd) -> Option<Address> {
        None
    }

    fn lend(&self, _: Fd) -> Option<BorrowedFd<'_>> {
        None
    }

    fn bound_unsent(&self, _: Fd, _: Peer, _: usize) {}

    fn prepare(&self, descriptor: &OwnedFd, tuning: &Tuning) -> Result<Peer, String> {
        RealSockets.prepare(descriptor, tuning)
    }
}
