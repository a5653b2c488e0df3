//! The real system. Each method makes one call and interprets its errno.

use std::fs::File;
use std::io::IoSlice;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::AsRawFd;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use libc::c_int;

use super::backend::Backend;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
use super::call::check;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use super::call::direct;
use super::call::{retry, retry_checked};
use super::sockets::RealSockets;
use super::wake::Waker;
use super::{Clock, Event, Fd, Interest, Moved, Poller, Sockets, Sys, clock, poller, socket};
use crate::address::{Address, Peer};
use crate::error::{Errno, Error};
use crate::socket_options::Tuning;
use crate::time::Time;
use crate::token::ConnectionId;

/// The token of the wake-up, which differs from every connection's token.
pub(crate) const WAKE: ConnectionId = ConnectionId::NONE;

/// Largest number of pieces in one sendmsg(2) (IOV_MAX); the rest follows in the next call.
pub(crate) const PIECES_MAX: usize = 1024;

/// A write to a broken connection gives EPIPE, never the signal. On Apple an option of the socket does so.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: c_int = 0;

/// Flag for bytes that belong into one packet with the bytes, or the FIN, that follow at once. A send that the kernel takes only in
/// part counts as without the flag.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: c_int = libc::MSG_MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: c_int = 0;

/// Bytes of a file that are read at once if the kernel cannot send the file itself.
const FILE_PIECE: usize = 64 * 1024;

/// One loop's system: its poller, and the descriptor that wakes the loop.
pub(crate) struct Kernel {
    poller: Box<dyn Poller + Send>,
    waker: Waker,
}

impl Kernel {
    pub(crate) fn new(backend: Backend) -> Result<Self, Error> {
        let mut poller = poller::open(backend)?;
        let failed = |what| move |errno: Errno| Error::System { what, cause: errno.to_io() };
        let waker = Waker::new().map_err(failed("opening the wake-up descriptor"))?;
        let interest = Interest { read: true, write: false, edges: false };
        poller.register(waker.read_end(), WAKE, interest).map_err(failed("watching the wake-up descriptor"))?;
        Ok(Kernel { poller, waker })
    }
}

impl Kernel {
    /// Sends a part of a file by way of this process's memory. Unsent bytes are read again the next time.
    fn send_copied(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved {
        let mut piece = vec![0; count.min(FILE_PIECE)];
        match file.read_at(&mut piece, at) {
            Ok(0) => Moved::Ended,
            Ok(count) => self.send(fd, &piece[..count], false),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Moved::Blocked,
            Err(error) => Moved::Failed(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
}

impl Clock for Kernel {
    fn now(&mut self) -> Time {
        clock::now()
    }

    #[inline]
    fn coarse_now(&mut self) -> Time {
        clock::coarse_now()
    }

    fn waited_for_a_core(&mut self) -> Option<Duration> {
        super::process::waited_for_a_core()
    }
}

impl Poller for Kernel {
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.poller.register(fd, token, interest)
    }

    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.poller.modify(fd, token, interest)
    }

    fn forget(&mut self, fd: Fd) {
        self.poller.forget(fd);
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        self.poller.wait(events, timeout, now)
    }

    fn events_per_wait(&self) -> usize {
        self.poller.events_per_wait()
    }

    fn reports_errors_unasked(&self) -> bool {
        self.poller.reports_errors_unasked()
    }

    fn held(&self) -> Vec<Fd> {
        self.poller.held().into_iter().chain(self.waker.held()).collect()
    }
}

impl Sys for Kernel {
    fn drain_wake(&mut self) {
        self.waker.clear();
    }

    fn accept(&mut self, listener: Fd, tuning: &Tuning) -> Result<Option<(Fd, Peer)>, Errno> {
        match socket::accept(listener) {
            Ok((fd, Peer::Unix)) => {
                socket::tune_unix(fd, tuning);
                Ok(Some((fd, Peer::Unix)))
            }
            Ok(accepted) => Ok(Some(accepted)),
            Err(errno) if would_block(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn connect(&mut self, to: &Address, tuning: &Tuning) -> Result<Fd, Errno> {
        let raw = socket::RawAddress::of(to)?;
        let opened = socket::open(to)?;
        let fd = socket::fd(&opened);
        match to {
            Address::Tcp(_) => socket::tune_tcp(fd, tuning)?,
            Address::Unix(_) => socket::tune_unix(fd, tuning),
        }
        socket::connect(fd, &raw)?;
        Ok(Fd(opened.into_raw_fd()))
    }

    #[inline(always)]
    fn recv(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        received(retry_checked(|| recv(fd, into)), into.len())
    }

    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        // SAFETY: the kernel writes at most `len` bytes at the pointer, and both belong to `into`.
        received(retry(|| unsafe { libc::read(fd.0, into.as_mut_ptr().cast(), into.len()) }), into.len())
    }

    /// A descriptor that is no terminal, or not the terminal of this session, has no foreground job.
    fn is_anothers_terminal(&mut self, fd: Fd) -> bool {
        // SAFETY: both calls take and return numbers, and touch no memory.
        let (foreground, own) = unsafe { (libc::tcgetpgrp(fd.0), libc::getpgrp()) };
        foreground >= 0 && foreground != own
    }

    #[inline(always)]
    fn send(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Moved {
        sent(retry_checked(|| send(fd, bytes, flags(more))))
    }

    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved {
        if let [piece] = pieces {
            // send(2) copies no list of pieces into the kernel.
            return self.send(fd, piece, more);
        }
        // SAFETY: all zeros is a msghdr without address, pieces and ancillary data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len().min(PIECES_MAX) as _;
        // SAFETY: an IoSlice has the layout of an iovec (by its documentation). The kernel reads `msg_iovlen` of them,
        // at most the existing number, and the bytes that they lend; it writes nothing.
        sent(retry(|| unsafe { libc::sendmsg(fd.0, &message, flags(more)) }))
    }

    fn send_file(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let (from, mut offset) = (file.as_raw_fd(), at as libc::off64_t);
            // SAFETY: the kernel reads and writes the given offset.
            match retry(|| unsafe { libc::sendfile64(fd.0, from, &mut offset, count) }) {
                // Some file systems, and some kinds of files, do not support the call.
                Err(Errno(libc::EINVAL | libc::ENOSYS)) => {}
                Ok(0) => return Moved::Ended,
                answer => return sent(answer),
            }
        }
        self.send_copied(fd, file, at, count)
    }

    fn read_file(&mut self, file: &File, at: u64, into: &mut [u8]) -> Moved {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let from = file.as_raw_fd();
            // 32-bit systems: the call takes offsets below 2 GiB. Reads at later ones wait for a helper thread.
            let Ok(at) = libc::off_t::try_from(at) else { return Moved::Blocked };
            let piece = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
            // SAFETY: the kernel reads one iovec, and writes at most `iov_len` bytes at its pointer: both belong to
            // `into`.
            match retry(|| unsafe { libc::preadv2(from, &piece, 1, at, libc::RWF_NOWAIT) }) {
                Ok(0) => Moved::Ended,
                Ok(count) => Moved::Bytes(count as usize),
                // Some kernels lack the call, and some file systems the flag.
                Err(Errno(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => Moved::Blocked,
                Err(errno) => Moved::Failed(errno),
            }
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = (file, at, into);
            Moved::Blocked
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn take_error(&mut self, fd: Fd) -> Option<Errno> {
        match socket::get(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
            Ok(0) | Err(Errno(libc::ENOTSOCK)) => None,
            // A descriptor for which the question fails is broken.
            Ok(errno) | Err(Errno(errno)) => Some(Errno(errno)),
        }
    }

    fn sockets(&self) -> Sockets {
        Box::new(RealSockets)
    }

    fn unacknowledged(&mut self, fd: Fd) -> usize {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let mut count: c_int = 0;
            // SAFETY: for a socket this is SIOCOUTQ, for which the kernel writes one int, and `count` is one. For a
            // terminal (TIOCOUTQ) it also writes one int.
            let answer = retry(|| unsafe { libc::ioctl(fd.0, libc::TIOCOUTQ as _, &raw mut count) });
            answer.map_or(0, |_| usize::try_from(count).unwrap_or(0))
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = fd;
            0
        }
    }

    fn finish(&mut self, fd: Fd) {
        // Fails only if the peer has ended both directions already (ENOTCONN).
        // SAFETY: takes no pointer.
        unsafe { libc::shutdown(fd.0, libc::SHUT_WR) };
    }

    fn reset_on_close(&mut self, fd: Fd) {
        // Fails only for a descriptor that is no socket, and has no connection to reset.
        let _ = socket::set_to(fd, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
    }

    fn close(&mut self, fd: Fd) {
        socket::close(fd);
    }
}

// The two calls of every request. In the C library they are points where a thread can be cancelled. With a second
// thread in the process, each call pays two locked instructions and fifty others for cancellation. The reactor cancels
// no threads, so on Linux (x86-64) these functions call the kernel directly.

/// One recv(2), possibly interrupted.
#[inline(always)]
fn recv(fd: Fd, into: &mut [u8]) -> Result<isize, Errno> {
    let (space, room) = (into.as_mut_ptr(), into.len());
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the kernel writes at most `room` bytes at `space`, and both belong to `into`. No address is requested.
    return unsafe { direct(libc::SYS_recvfrom, [fd.0 as usize, space as usize, room, 0, 0, 0]) };
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    // SAFETY: the kernel writes at most `room` bytes at `space`, and both belong to `into`.
    check(unsafe { libc::recv(fd.0, space.cast(), room, 0) })
}

fn flags(more: bool) -> c_int {
    SEND_FLAGS | if more { MORE } else { 0 }
}

/// One send(2), possibly interrupted.
#[inline(always)]
fn send(fd: Fd, bytes: &[u8], flags: c_int) -> Result<isize, Errno> {
    let (start, count) = (bytes.as_ptr(), bytes.len());
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the kernel reads at most `count` bytes at `start`, and both belong to `bytes`. No address is given.
    return unsafe { direct(libc::SYS_sendto, [fd.0 as usize, start as usize, count, flags as usize, 0, 0]) };
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    // SAFETY: the kernel reads at most `count` bytes at `start`, and both belong to `bytes`.
    check(unsafe { libc::send(fd.0, start.cast(), count, flags) })
}

fn would_block(errno: Errno) -> bool {
    // Two names with one number on most systems, so no `match`.
    errno.0 == libc::EAGAIN || errno.0 == libc::EWOULDBLOCK
}

#[inline]
fn received(answer: Result<isize, Errno>, room: usize) -> Moved {
    debug_assert!(room > 0, "receiving into nothing looks like the end of input");
    match answer {
        Ok(0) if room > 0 => Moved::Ended,
        answer => sent(answer),
    }
}

/// ENOBUFS and ENOMEM fail the connection: the system has no memory for it, and no event would report when to try
/// again.
#[inline]
fn sent(answer: Result<isize, Errno>) -> Moved {
    match answer {
        // Nothing was requested, so nothing moved.
        Ok(0) => Moved::Blocked,
        Ok(count) => Moved::Bytes(count as usize),
        Err(errno) if would_block(errno) => Moved::Blocked,
        Err(errno) => Moved::Failed(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::super::Ready;
    use super::super::fork::FORKS;
    use super::*;

    const READ: Interest = Interest { read: true, write: false, edges: false };
    /// Unsent bytes that the kernel may keep for a peer that does not read.
    const UNSENT: usize = 32 * 1024;
    const WRITE: Interest = Interest { read: false, write: true, edges: false };

    fn each(test: impl Fn(Kernel)) {
        let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        on_each(test);
    }

    fn on_each(test: impl Fn(Kernel)) {
        for backend in [Backend::Epoll, Backend::Select] {
            test(Kernel::new(backend).unwrap());
        }
    }

    fn id(slot: usize) -> ConnectionId {
        ConnectionId::new(0, slot, 1)
    }

    /// Waits until `fd` is ready for `interest`, as a driver would.
    fn until(kernel: &mut Kernel, fd: Fd, interest: Interest) -> Event {
        kernel.register(fd, id(1), interest).unwrap();
        let mut events = Vec::new();
        kernel.wait(&mut events, None, clock::now()).unwrap();
        kernel.forget(fd);
        assert_eq!((events.len(), events[0].token), (1, id(1)));
        events[0]
    }

    /// A non-blocking listener from the standard library.
    fn listener() -> (TcpListener, SocketAddr) {
        listener_at("127.0.0.1:0")
    }

    fn listener_at(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// One connection, with our end accepted.
    fn tuning() -> Tuning {
        Tuning { unsent: UNSENT, ..Tuning::default() }
    }

    fn accepted(kernel: &mut Kernel) -> (Fd, TcpStream) {
        let (listener, address) = listener();
        let client = TcpStream::connect(address).unwrap();
        until(kernel, Fd(listener.as_raw_fd()), READ);
        let (fd, peer) = kernel.accept(Fd(listener.as_raw_fd()), &tuning()).unwrap().unwrap();
        assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
        (fd, client)
    }

    #[test]
    fn accept_tells_the_peer_and_when_there_is_none() {
        each(|mut kernel| {
            let (listener, _) = listener();
            assert_eq!(kernel.accept(Fd(listener.as_raw_fd()), &tuning()), Ok(None));
            let (fd, _client) = accepted(&mut kernel);
            kernel.close(fd);
            assert_eq!(kernel.accept(Fd(-1), &tuning()), Err(Errno(libc::EBADF)));
        });
    }

    #[test]
    fn received_bytes_blocked_and_ended_are_told_apart() {
        each(|mut kernel| {
            let (fd, mut client) = accepted(&mut kernel);
            let mut space = [0; 16];
            assert_eq!(kernel.recv(fd, &mut space), Moved::Blocked);
            client.write_all(b"hello").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert!(until(&mut kernel, fd, READ).ready.has(Ready::READABLE));
            assert_eq!(kernel.recv(fd, &mut space[..2]), Moved::Bytes(2));
            assert_eq!(kernel.read(fd, &mut space[2..]), Moved::Bytes(3));
            assert_eq!(&space[..5], b"hello");
            until(&mut kernel, fd, READ);
            assert_eq!(kernel.recv(fd, &mut space), Moved::Ended);
            assert_eq!(kernel.send(fd, b"still open", false), Moved::Bytes(10));
            kernel.close(fd);
        });
    }

    #[test]
    fn pieces_leave_in_order_and_more_than_the_system_takes_are_cut() {
        each(|mut kernel| {
            let (fd, mut client) = accepted(&mut kernel);
            let pieces = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
            assert_eq!(kernel.send_vectored(fd, &pieces, false), Moved::Bytes(7));
            assert_eq!(
                kernel.send_vectored(fd, &[IoSlice::new(b"x"); PIECES_MAX + 1], false),
                Moved::Bytes(PIECES_MAX)
            );
            kernel.finish(fd);
            let mut got = String::new();
            client.read_to_string(&mut got).unwrap();
            assert_eq!(got, format!("one two{}", "x".repeat(PIECES_MAX)));
            kernel.close(fd);
        });
    }

    #[test]
    fn a_peer_that_does_not_read_blocks_the_sender_and_owes_acknowledgements() {
        each(|mut kernel| {
            let (fd, client) = accepted(&mut kernel);
            assert_eq!(kernel.unacknowledged(fd), 0);
            let bytes = vec![0; 1 << 16];
            while let Moved::Bytes(_) = kernel.send(fd, &bytes, false) {}
            assert_eq!(kernel.send(fd, &bytes, false), Moved::Blocked);
            assert_eq!(kernel.send_vectored(fd, &[IoSlice::new(&bytes)], false), Moved::Blocked);
            assert!(kernel.unacknowledged(fd) > 0);
            drop(client);
            kernel.close(fd);
        });
    }

    #[test]
    fn a_reset_is_told_by_recv_and_the_writer_survives() {
        each(|mut kernel| {
            let (fd, client) = accepted(&mut kernel);
            kernel.reset_on_close(Fd(client.as_raw_fd()));
            drop(client);
            until(&mut kernel, fd, READ);
            assert_eq!(kernel.recv(fd, &mut [0; 16]), Moved::Failed(Errno(libc::ECONNRESET)));
            assert_eq!(kernel.send(fd, b"x", false), Moved::Failed(Errno(libc::EPIPE)));
            kernel.close(fd);
        });
    }

    #[test]
    fn a_pending_error_is_taken_once() {
        each(|mut kernel| {
            let (fd, client) = accepted(&mut kernel);
            assert_eq!(kernel.take_error(fd), None);
            kernel.reset_on_close(Fd(client.as_raw_fd()));
            drop(client);
            until(&mut kernel, fd, READ);
            assert_eq!(kernel.take_error(fd), Some(Errno(libc::ECONNRESET)));
            assert_eq!(kernel.take_error(fd), None);
            kernel.close(fd);
            let (read, _write) = std::io::pipe().unwrap();
            assert_eq!(kernel.take_error(Fd(read.as_raw_fd())), None, "no socket, no error");
            assert_eq!(kernel.take_error(Fd(-1)), Some(Errno(libc::EBADF)));
        });
    }

    #[test]
    fn a_broken_pipe_raises_no_sigpipe() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        on_each(|mut kernel| {
            let (near, far) = UnixStream::pair().unwrap();
            drop(far);
            let fd = Fd(near.as_raw_fd());
            // In a child, where SIGPIPE has its default action as in a program without a Rust runtime: death.
            // SAFETY: the child makes only system calls, and leaves by `_exit`.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: SIG_DFL is a valid action; `_exit` touches nothing of the parent.
                unsafe {
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                    let one = kernel.send(fd, b"x", false) == Moved::Failed(Errno(libc::EPIPE));
                    let all =
                        kernel.send_vectored(fd, &[IoSlice::new(b"x")], false) == Moved::Failed(Errno(libc::EPIPE));
                    libc::_exit(if one && all { 0 } else { 1 });
                }
            }
            let mut status = 0;
            // SAFETY: the kernel writes one int, and `status` is one.
            assert_eq!(retry(|| unsafe { libc::waitpid(pid, &mut status, 0) }), Ok(pid));
            assert_eq!(status, 0);
        });
    }

    #[test]
    fn a_connect_has_its_outcome_when_the_descriptor_is_writable() {
        each(|mut kernel| {
            // A separate loopback address, so that no other test gets the port when it is free.
            let (listener, address) = listener_at("127.0.0.78:0");
            let fd = kernel.connect(&Address::Tcp(address), &tuning()).unwrap();
            assert!(until(&mut kernel, fd, WRITE).ready.has(Ready::WRITABLE));
            assert_eq!(kernel.take_error(fd), None);
            assert_eq!(socket::get(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
            #[cfg(target_os = "linux")]
            assert_eq!(socket::get(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT), Ok(UNSENT as c_int));
            kernel.close(fd);

            drop(listener);
            let fd = kernel.connect(&Address::Tcp(address), &tuning()).unwrap();
            assert!(until(&mut kernel, fd, WRITE).ready.has(Ready::WRITABLE));
            assert_eq!(kernel.take_error(fd), Some(Errno(libc::ECONNREFUSED)));
            kernel.close(fd);
        });
    }

    #[test]
    fn a_unix_connect_succeeds_or_fails_at_once() {
        each(|mut kernel| {
            let path = std::env::temp_dir().join(format!("reactor-kernel-{}.sock", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let address = Address::Unix(path.clone());
            assert_eq!(kernel.connect(&address, &tuning()), Err(Errno(libc::ENOENT)));
            let listener = UnixListener::bind(&path).unwrap();
            let fd = kernel.connect(&address, &tuning()).unwrap();
            assert!(until(&mut kernel, fd, WRITE).ready.has(Ready::WRITABLE));
            let (accepted, peer) = kernel.accept(Fd(listener.as_raw_fd()), &tuning()).unwrap().unwrap();
            assert_eq!(peer, Peer::Unix);
            #[cfg(target_os = "linux")]
            for fd in [fd, accepted] {
                assert_eq!(socket::get(fd, libc::SOL_SOCKET, libc::SO_SNDBUF), Ok(UNSENT as c_int));
            }
            socket::listen(Fd(listener.as_raw_fd()), 0).unwrap();
            let mut queued = Vec::new();
            let full = loop {
                match kernel.connect(&address, &tuning()) {
                    Ok(fd) => queued.push(fd),
                    Err(errno) => break errno,
                }
            };
            assert_eq!(full, Errno(libc::EAGAIN));
            queued.into_iter().chain([fd, accepted]).for_each(|fd| kernel.close(fd));
            std::fs::remove_file(&path).unwrap();
        });
    }

    #[test]
    fn a_wake_from_another_thread_shows_under_its_own_token_until_it_is_drained() {
        each(|mut kernel| {
            let waker = kernel.waker();
            std::thread::scope(|scope| {
                scope.spawn(move || waker.wake());
                let mut events = Vec::new();
                kernel.wait(&mut events, None, clock::now()).unwrap();
                assert_eq!((events.len(), events[0].token), (1, WAKE));
                kernel.drain_wake();
                kernel.wait(&mut events, Some(Duration::ZERO), clock::now()).unwrap();
                assert_eq!(events.len(), 1);
            });
        });
    }
}
