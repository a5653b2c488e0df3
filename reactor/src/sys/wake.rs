//! Wake-ups: other threads, and signals, end a loop's wait by a descriptor that the loop watches.
//!
//! ```text
//! another thread              the loop
//! ──────────────              ────────
//! put message in mailbox      read the descriptor     (quiet again)
//! set the flag                clear the flag
//! write, if it was clear      take what the mailbox holds
//! ```
//! Any number of wake-ups before the loop's next turn cost one write. The order of steps ensures that no wake-up is
//! lost:
//! - The message is stored before the flag is checked, and the flag is cleared before the mailbox is read. So a sender
//!   that finds the flag set, and skips the write, has a message in the mailbox that the loop will still see.
//! - The descriptor is read before the flag is cleared. In the other order, a wake-up between the two steps would lose
//!   its write and leave its flag set, and no later sender would write.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Fd;
use super::call::retry;
use crate::error::Errno;
use crate::protocols::Alarm;

/// Ends the wait of one loop, from any thread. Clones wake the same loop; the descriptor lives as long as the last
/// clone.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Shared>);

struct Shared {
    /// Set by the first wake-up, cleared by the loop when it answers.
    awake: Alarm,
    /// The number of system calls for wake-ups.
    writes: AtomicU64,
    read: OwnedFd,
    /// The writing end of a pipe. `None` for an eventfd, which has both ends in one descriptor.
    write: Option<OwnedFd>,
}

impl Waker {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (read, write) = open()?;
        Ok(Waker(Arc::new(Shared { awake: Alarm::new(), writes: AtomicU64::new(0), read, write })))
    }

    /// Ends the current or the next wait. The message must be stored before the call.
    pub(crate) fn wake(&self) {
        if self.0.awake.ring() {
            self.0.writes.fetch_add(1, Ordering::Relaxed);
            ring(self.write_end());
        }
    }

    /// Clears the wake-up. The loop calls this when the descriptor is readable, before it looks for messages.
    pub(crate) fn clear(&self) {
        drain(self.read_end());
        self.0.awake.answer();
    }

    /// Whether a wake-up is unanswered: the question of a simulated poller.
    #[cfg(feature = "sim")]
    pub(super) fn is_ringing(&self) -> bool {
        self.0.awake.is_ringing()
    }

    /// The descriptor that the loop watches.
    pub(crate) fn read_end(&self) -> Fd {
        Fd(self.0.read.as_raw_fd())
    }

    /// All descriptors of the waker.
    pub(super) fn held(&self) -> impl Iterator<Item = Fd> {
        std::iter::once(&self.0.read).chain(&self.0.write).map(|descriptor| Fd(descriptor.as_raw_fd()))
    }

    /// The descriptor that a signal handler writes to, without the flag: the handler knows only this number.
    pub(super) fn write_end(&self) -> Fd {
        Fd(self.0.write.as_ref().unwrap_or(&self.0.read).as_raw_fd())
    }

    /// The number of wake-ups that cost a system call.
    pub(crate) fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::Relaxed)
    }
}

/// Makes the loop's descriptor readable. Safe in a signal handler: one write(2), no memory, no lock. There the caller
/// preserves errno.
///
/// No failure matters. EAGAIN means that the descriptor is full, and so readable. Eight bytes, because an eventfd
/// accepts no fewer.
pub(super) fn ring(write_end: Fd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the kernel reads 8 bytes at the pointer, and `one` has 8. A closed number gives EBADF.
    let _ = retry(|| unsafe { libc::write(write_end.0, one.as_ptr().cast(), one.len()) });
}

/// Empties the descriptor: one read(2) empties an eventfd; a pipe may need more after a storm of signals.
fn drain(read_end: Fd) {
    let mut space = [0u8; 512];
    let whole = if cfg!(any(target_os = "linux", target_os = "android")) { 8 } else { space.len() };
    loop {
        // SAFETY: the kernel writes at most `whole` bytes at the pointer, and `space` has more.
        match retry(|| unsafe { libc::read(read_end.0, space.as_mut_ptr().cast(), whole) }) {
            Ok(count) if count as usize == space.len() => {}
            _ => return,
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open() -> Result<(OwnedFd, Option<OwnedFd>), Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: takes no pointer.
    let number = super::call::check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call has just made this descriptor, and no other code knows its number.
    Ok((unsafe { OwnedFd::from_raw_fd(number) }, None))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open() -> Result<(OwnedFd, Option<OwnedFd>), Errno> {
    let (read, write) = std::io::pipe().map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))?;
    let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
    super::socket::make_non_blocking(Fd(read.as_raw_fd()))?;
    super::socket::make_non_blocking(Fd(write.as_raw_fd()))?;
    Ok((read, Some(write)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Duration;

    use super::super::backend::Backend;
    use super::super::poller::{Poller, open};
    use super::super::{Event, Interest};
    use super::*;
    use crate::token::ConnectionId;

    fn watched() -> (Box<dyn Poller + Send>, Waker) {
        let (mut poller, waker) = (open(Backend::Select).unwrap(), Waker::new().unwrap());
        poller
            .register(waker.read_end(), ConnectionId::NONE, Interest { read: true, write: false, edges: false })
            .unwrap();
        (poller, waker)
    }

    fn waited(poller: &mut Box<dyn Poller + Send>, timeout: Option<Duration>) -> Vec<Event> {
        let mut events = Vec::new();
        poller.wait(&mut events, timeout, crate::sys::clock::now()).unwrap();
        events
    }

    #[test]
    fn wakes_before_the_answer_cost_one_write_and_the_next_one_another() {
        let (mut poller, waker) = watched();
        for _ in 0..10 {
            waker.wake();
        }
        assert_eq!((waited(&mut poller, None).len(), waker.writes()), (1, 1));
        waker.clear();
        assert_eq!(waited(&mut poller, Some(Duration::ZERO)), []);
        waker.clone().wake();
        assert_eq!((waited(&mut poller, None).len(), waker.writes()), (1, 2));
    }

    #[test]
    fn clearing_what_nobody_rang_is_harmless() {
        let (mut poller, waker) = watched();
        waker.clear();
        waker.wake();
        assert_eq!(waited(&mut poller, None).len(), 1);
    }

    #[test]
    fn a_signal_handler_rings_past_the_flag_and_one_clear_quiets_it() {
        let (mut poller, waker) = watched();
        for _ in 0..1000 {
            ring(waker.write_end());
        }
        assert_eq!((waited(&mut poller, None).len(), waker.writes()), (1, 0));
        waker.clear();
        assert_eq!(waited(&mut poller, Some(Duration::ZERO)), []);
    }

    /// Each thread counts up and wakes the loop, which waits without a timeout until all counts have arrived. After a lost
    /// wake-up the test never ends.
    #[test]
    fn wakes_from_eight_threads_all_arrive_and_cost_fewer_writes() {
        const THREADS: usize = 8;
        const WAKES: usize = 125_000;
        let (mut poller, waker) = watched();
        let mailbox = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..WAKES {
                        mailbox.fetch_add(1, Ordering::Relaxed);
                        waker.wake();
                    }
                });
            }
            let mut seen = 0;
            while seen < THREADS * WAKES {
                assert_eq!(waited(&mut poller, None).len(), 1);
                waker.clear();
                seen += mailbox.swap(0, Ordering::Relaxed);
            }
        });
        assert!(waker.writes() < (THREADS * WAKES) as u64, "{} writes", waker.writes());
    }
}
