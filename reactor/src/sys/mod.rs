//! The system, as thin as it goes: the only `unsafe`, the only `libc`. EINTR is met here, once, and never seen above.
//!
//! [`Sys`] is the contract that the driver is written against. [`Kernel`](kernel::Kernel) is the real one; a simulated
//! one (`simulated`, feature `sim`) can take its place, or one whose calls fail now and then be put before it (`chaos`,
//! feature `chaos`). The driver's own retry and flag code runs over each.
//!
//! ```text
//! kernel ─┬─ poller ─┬─ epoll ──┬─ clock     what a loop calls while it runs
//!         │          └─ select ─┘
//!         ├─ socket ─── call                 addresses, options, EINTR
//!         ├─ errno                           what the numbers mean to a driver
//!         └─ wake                            from other threads
//! listen   signal   process   fork   affinity   memory   backend  what an application calls before and around its loops
//! ```

pub(crate) mod affinity;
pub(crate) mod backend;
mod call;
#[cfg(feature = "chaos")]
mod chaos;
mod children;
mod clock;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod epoll;
pub(crate) mod errno;
pub(crate) mod fork;
pub(crate) mod kernel;
pub(crate) mod listen;
pub(crate) mod memory;
mod poller;
pub(crate) mod process;
mod select;
pub(crate) mod signal;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
mod socket;
pub(crate) mod wake;

use std::fs::File;
use std::io::IoSlice;

use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::token::ConnectionId;
pub(crate) use clock::Clock;
pub(crate) use poller::Poller;

/// A descriptor's number. Whoever holds the slot that carries it closes it, with [`Sys::close`]; copying the number
/// copies no ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fd(pub(crate) i32);

impl Fd {
    /// The number of no descriptor.
    pub(crate) const NONE: Fd = Fd(-1);
}

/// Asks for the address that a socket is bound to: see [`Sys::local_addresses`].
pub(crate) type LocalAddresses = Box<dyn Fn(Fd) -> Option<Address>>;

/// What one attempt to move bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// This many, at least one.
    Bytes(usize),
    /// None now; the poller will say when.
    Blocked,
    /// The peer has ended its half (receiving only).
    Ended,
    /// The connection is broken.
    Failed(Errno),
}

/// What an application runs on: the kernel itself, or, with the feature `chaos`, the kernel on a bad day.
#[cfg(not(feature = "chaos"))]
pub(crate) type System = kernel::Kernel;
#[cfg(feature = "chaos")]
pub(crate) type System = chaos::Chaos<kernel::Kernel>;

/// What a descriptor is registered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// What the poller says of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The token given at registration; nothing says that it is still alive.
    pub(crate) token: ConnectionId,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Both halves are over (EPOLLHUP). Reported even when nobody asked.
    pub(crate) hangup: bool,
    /// An error waits in SO_ERROR (EPOLLERR), or the descriptor itself is bad. Reported even when nobody asked.
    pub(crate) error: bool,
}

/// The calls that a driver makes, besides those of [`Clock`] and [`Poller`]. Each restarts after EINTR by itself, none blocks but `wait` (and `read`, see there),
/// and every descriptor that comes out of it is non-blocking and close-on-exec.
pub(crate) trait Sys: Clock + Poller {
    /// Takes back what wake-ups have written, so that the descriptor is quiet again.
    fn drain_wake(&mut self);

    /// The next connection in the queue of `listener`; `None` when there is none now. The kernel keeps at most `unsent`
    /// bytes for a peer that does not take them: a TCP socket has that from its listener, a Unix socket is told here.
    fn accept(&mut self, listener: Fd, unsent: usize) -> Result<Option<(Fd, Peer)>, Errno>;
    /// Starts a connection, with the same bound. The outcome comes when the descriptor is writable: `take_error` tells it.
    fn connect(&mut self, to: &Address, unsent: usize) -> Result<Fd, Errno>;
    /// One recv(2).
    fn recv(&mut self, fd: Fd, into: &mut [u8]) -> Moved;
    /// One read(2), for what is no socket. May block where the descriptor is a blocking one that another process reads
    /// too.
    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Moved;
    /// Whether `fd` is a terminal that belongs to another job now, so that reading it would stop this process (SIGTTIN)
    /// or take what was typed for somebody else.
    fn is_anothers_terminal(&mut self, fd: Fd) -> bool;
    /// One send(2), without SIGPIPE.
    fn send(&mut self, fd: Fd, bytes: &[u8]) -> Moved;
    /// One sendmsg(2), without SIGPIPE. `more` follows at once, so the kernel may wait for it to fill a packet (MSG_MORE).
    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved;
    /// One sendfile(2) of at most `count` bytes, from `at` on; what has no sendfile is read and sent. Ended: the file ends
    /// before `at`. Blocks while the disk is read. SIGPIPE is up to the process: there is no flag against it.
    fn send_file(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved;
    /// Reads a file from `at` on without waiting for a disk (RWF_NOWAIT). Blocked: nothing of it is in memory, or the system
    /// cannot tell. Ended: the file ends before `at`.
    fn read_file(&mut self, file: &File, at: u64, into: &mut [u8]) -> Moved;
    /// Ends the wait of this loop, from any thread.
    fn waker(&self) -> wake::Waker;
    /// SO_ERROR: the pending error of a socket, which asking clears.
    fn take_error(&mut self, fd: Fd) -> Option<Errno>;
    /// A function that asks for the address of this end of a socket (getsockname(2)); `None`: the descriptor has none.
    fn local_addresses(&self) -> LocalAddresses;
    /// Bytes that were sent and that the peer's system has not acknowledged (SIOCOUTQ); 0 where the system can't tell.
    fn unacknowledged(&mut self, fd: Fd) -> usize;
    /// Ends our half: FIN after what was sent.
    fn finish(&mut self, fd: Fd);
    /// Makes the next `close` a reset (RST), discarding what was sent and not delivered.
    fn reset_on_close(&mut self, fd: Fd);
    /// close(2), once, whatever it says (Linux frees the number even on EINTR).
    fn close(&mut self, fd: Fd);
}
