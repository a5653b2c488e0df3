//! The system, as thin as possible: the only `unsafe`, the only `libc`. EINTR is handled here, once, and never seen above.
//!
//! [`Sys`] is the contract that the driver is written against. [`Kernel`](kernel::Kernel) implements `Sys` by system calls. A
//! simulated system (`simulated`, feature `sim`) can take its place, or a system whose calls sometimes fail (`chaos`, feature
//! `chaos`) can wrap `Kernel`. The driver's own retry and flag code runs over each.
//!
//! ```text
//! kernel ─┬─ poller ─┬─ epoll ──┬─ clock     what a loop calls while it runs
//!         │          └─ select ─┘
//!         ├─ socket ─── call                 addresses, options, EINTR; `sockets`: for callbacks
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
mod ready;
mod select;
pub(crate) mod signal;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
mod socket;
pub(crate) mod sockets;
pub(crate) mod wake;

use std::fs::File;
use std::io::IoSlice;

use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::socket_options::Tuning;
pub(crate) use clock::Clock;
pub(crate) use poller::Poller;
pub(crate) use ready::{Event, Ready};
pub(crate) use sockets::Sockets;

/// A descriptor's number. The owner of the slot that holds the number closes the descriptor with [`Sys::close`]; copying the
/// number copies no ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fd(pub(crate) i32);

impl Fd {
    /// The number of no descriptor.
    pub(crate) const NONE: Fd = Fd(-1);
}

/// The outcome of one attempt to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Bytes were moved; the number is at least 1.
    Bytes(usize),
    /// No bytes now; the poller reports when the descriptor is ready.
    Blocked,
    /// The peer has ended its half (receiving only).
    Ended,
    /// The connection is broken.
    Failed(Errno),
}

/// The system under an application: the kernel itself, or, with the feature `chaos`, a kernel whose calls sometimes fail.
#[cfg(not(feature = "chaos"))]
pub(crate) type System = kernel::Kernel;
#[cfg(feature = "chaos")]
pub(crate) type System = chaos::Chaos<kernel::Kernel>;

/// The events that a descriptor is registered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Input is reported when it arrives, and not again while it is unread, where the poller can (edge-triggered).
    pub(crate) edges: bool,
}

/// The calls that a driver makes, besides [`Clock`] and [`Poller`]. Each call restarts after EINTR, none blocks but `wait` (and
/// `read`, see there), and every returned descriptor is non-blocking and close-on-exec.
pub(crate) trait Sys: Clock + Poller {
    /// Reads the bytes that wake-ups have written, so that the descriptor is quiet again.
    fn drain_wake(&mut self);

    /// The next connection in the queue of `listener`; `None` when the queue is empty. A TCP
    /// socket inherits its options from the listener, a Unix socket gets them here.
    fn accept(&mut self, listener: Fd, tuning: &Tuning) -> Result<Option<(Fd, Peer)>, Errno>;
    /// Starts a connection, tuned so. When the descriptor is writable, `take_error` returns the outcome.
    fn connect(&mut self, to: &Address, tuning: &Tuning) -> Result<Fd, Errno>;
    /// One recv(2).
    fn recv(&mut self, fd: Fd, into: &mut [u8]) -> Moved;
    /// One read(2), for a descriptor that is no socket. May block where the descriptor is a blocking one and another process
    /// reads from it, too.
    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Moved;
    /// Whether `fd` is a terminal that belongs to another job now: a read would stop this process (SIGTTIN), or take input
    /// typed for the other job.
    fn is_anothers_terminal(&mut self, fd: Fd) -> bool;
    /// One send(2), without SIGPIPE. `more`: further bytes or FIN follow at once, so the kernel may wait to fill a packet (MSG_MORE).
    fn send(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Moved;
    /// One sendmsg(2), or send(2) for one piece; otherwise as `send`.
    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved;
    /// One sendfile(2) of at most `count` bytes from `at` on, or read and send without sendfile. Ended: the file ends before
    /// `at`. Blocks while the disk is read. SIGPIPE is up to the process: sendfile has no flag against SIGPIPE.
    fn send_file(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved;
    /// Reads a file from `at` on without waiting for a disk (RWF_NOWAIT). Blocked: no byte is in memory, or the system cannot
    /// tell. Ended: the file ends before `at`.
    fn read_file(&mut self, file: &File, at: u64, into: &mut [u8]) -> Moved;
    /// A waker that ends this loop's wait, from any thread.
    fn waker(&self) -> wake::Waker;
    /// SO_ERROR: the pending error of a socket, which asking clears.
    fn take_error(&mut self, fd: Fd) -> Option<Errno>;
    /// The calls for callbacks.
    fn sockets(&self) -> Sockets;
    /// Number of sent bytes that the peer's system has not acknowledged (SIOCOUTQ); 0 where the system can't tell.
    fn unacknowledged(&mut self, fd: Fd) -> usize;
    /// Ends our half: FIN after all sent bytes.
    fn finish(&mut self, fd: Fd);
    /// Makes the next `close` a reset (RST), which discards sent bytes that were not delivered.
    fn reset_on_close(&mut self, fd: Fd);
    /// close(2), once, whatever the result (Linux frees the number even on EINTR).
    fn close(&mut self, fd: Fd);
}
