//! Signals as something a loop is told, and the one thing that doesn't wait for the loop: being asked to stop twice.
//!
//! The handler counts in static atomics and rings the loop's wake-up descriptor. It always writes, past the waker's
//! flag: that takes a number and no shared memory, a needless write is only a wait that ends for nothing, and a
//! descriptor too full to take it is readable already. What it has counted is in place before it writes, so the turn
//! that the write brings about finds it.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::thread;

use libc::c_int;

use super::wake::{Waker, ring};
use super::{Fd, copies};
use crate::error::Error;

/// What has been signalled since the last time it was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// SIGTERM or SIGINT, whichever came first: stop. Told once; the second one ends the process from the handler.
    pub(crate) stop: Option<i32>,
    /// SIGUSR1: print counters and connections.
    pub(crate) report: bool,
    /// SIGHUP: reopen the log files.
    pub(crate) reopen: bool,
}

/// Holds the process's signals. Dropped, every one does again what it did before.
pub(crate) struct Signals {
    #[expect(dead_code, reason = "held so that the descriptor which the handler rings stays open")]
    waker: Waker,
    before: Vec<(c_int, libc::sigaction)>,
}

const HANDLED: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP];

static INSTALLED: AtomicBool = AtomicBool::new(false);
/// What the handler rings; -1 when there is nothing to.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// Handlers at work, in any thread: while there are, `WAKE` may not be closed.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);
/// The first signal that asked to stop. It stays, so that the next one is known for the second.
static STOP: AtomicI32 = AtomicI32::new(0);
static STOP_TAKEN: AtomicBool = AtomicBool::new(false);
static REPORT: AtomicBool = AtomicBool::new(false);
static REOPEN: AtomicBool = AtomicBool::new(false);

/// Takes SIGTERM, SIGINT, SIGUSR1 and SIGHUP, and ignores SIGPIPE: a write to a broken pipe fails instead, whoever
/// makes it (sendfile(2) has no flag for that).
pub(crate) fn install(waker: Waker) -> Result<Signals, Error> {
    if INSTALLED.swap(true, SeqCst) {
        return Err(Error::SignalsTaken);
    }
    WAKE.store(waker.write_end().0, SeqCst);
    let mut before = vec![(libc::SIGPIPE, set(libc::SIGPIPE, libc::SIG_IGN))];
    for signal in HANDLED {
        before.push((signal, set(signal, on_signal as *const () as libc::sighandler_t)));
    }
    Ok(Signals { waker, before })
}

impl Signals {
    /// After each wake-up, once the descriptor has been drained.
    pub(crate) fn take(&self) -> Taken {
        let stop = STOP.load(SeqCst);
        Taken {
            stop: (stop != 0 && !STOP_TAKEN.swap(true, SeqCst)).then_some(stop),
            report: REPORT.swap(false, SeqCst),
            reopen: REOPEN.swap(false, SeqCst),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, before) in self.before.drain(..).rev() {
            // SAFETY: the kernel reads one sigaction, the one that it gave us itself.
            unsafe { libc::sigaction(signal, &before, ptr::null_mut()) };
        }
        WAKE.store(-1, SeqCst);
        // A handler in another thread may still hold the number; `self.waker` is dropped, and the descriptor with it,
        // only after this.
        while AT_WORK.load(SeqCst) > 0 {
            thread::yield_now();
        }
        STOP.store(0, SeqCst);
        for flag in [&STOP_TAKEN, &REPORT, &REOPEN, &INSTALLED] {
            flag.store(false, SeqCst);
        }
    }
}

/// Runs in any thread, between any two instructions: atomics, write(2), kill(2) and _exit(2), nothing else; and errno is left as
/// it was, for the code in between.
extern "C" fn on_signal(signal: c_int) {
    // SAFETY: the location is this thread's own errno, always valid; so it is below.
    let errno = unsafe { *errno_location() };
    AT_WORK.fetch_add(1, SeqCst);
    match signal {
        libc::SIGUSR1 => REPORT.store(true, SeqCst),
        libc::SIGHUP => REOPEN.store(true, SeqCst),
        // From here and not from the loop: the loop may be what is stuck. 128 + n is what a shell says of a death by
        // signal n.
        _ if STOP.compare_exchange(0, signal, SeqCst, SeqCst).is_err() => {
            copies::kill();
            // SAFETY: ends the process without unwinding or exit handlers, which a signal handler may do.
            unsafe { libc::_exit(128 + signal) }
        }
        _ => {}
    }
    let wake = WAKE.load(SeqCst);
    if wake >= 0 {
        ring(Fd(wake));
    }
    AT_WORK.fetch_sub(1, SeqCst);
    // SAFETY: as above.
    unsafe { *errno_location() = errno };
}

/// In a copy of this process: what was handled does nothing from now on. By a handler, and not by SIG_IGN, which a
/// program that the copy executes would inherit.
pub(super) fn deafen() {
    extern "C" fn nothing(_: c_int) {}
    for signal in HANDLED {
        set(signal, nothing as *const () as libc::sighandler_t);
    }
}

/// Sees to it that a write to a broken pipe fails and does not kill: sendfile(2) has no flag for that. What
/// the process has decided about SIGPIPE stands; only the default, death, is changed. Rust's own `main` has done so already.
pub(crate) fn survive_broken_pipes() {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the kernel writes one sigaction, and there is one; nothing is set.
    let handler = unsafe {
        libc::sigaction(libc::SIGPIPE, ptr::null(), now.as_mut_ptr());
        now.assume_init().sa_sigaction
    };
    if handler == libc::SIG_DFL {
        set(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// SA_RESTART, so that blocking calls of other threads don't notice; returns what was set before.
fn set(signal: c_int, handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zeros is a sigaction without flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the mask is part of `action`; the kernel reads one sigaction and writes one, and there is one of each. It
    // can't fail, since each of these signals may be handled. The handler is `SIG_IGN`, `SIG_DFL`, one that does nothing, or
    // `on_signal`, which keeps to what is safe in a handler.
    unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, before.as_mut_ptr());
        before.assume_init()
    }
}

/// Where this thread's errno is.
pub(super) fn errno_location() -> *mut c_int {
    // SAFETY: only tells an address.
    unsafe {
        #[cfg(any(target_os = "linux", target_os = "dragonfly", target_os = "hurd"))]
        return libc::__errno_location();
        #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
        return libc::__error();
        #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
        return libc::__errno();
        #[cfg(any(target_os = "illumos", target_os = "solaris"))]
        return libc::___errno();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;
    use std::time::Duration;

    use super::super::backend::Backend;
    use super::super::poller::Poller;
    use super::super::process::status_of;
    use super::super::{FORKS, Interest};
    use super::*;
    use crate::token::ConnectionId;

    fn raise(signal: c_int) {
        // SAFETY: the handlers of this file are installed for each signal that is raised here.
        unsafe { libc::raise(signal) };
    }

    fn disposition(signal: c_int) -> libc::sighandler_t {
        let mut now = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the kernel writes one sigaction, and there is room for one.
        unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) };
        // SAFETY: written just now, and all zeros before.
        unsafe { now.assume_init() }.sa_sigaction
    }

    #[test]
    fn a_broken_pipe_no_longer_kills_and_what_was_decided_about_it_stands() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let killed = status_of(|| {
            set(libc::SIGPIPE, libc::SIG_DFL);
            raise(libc::SIGPIPE);
        });
        assert_eq!(killed, libc::SIGPIPE, "this is what would happen");
        let survives = status_of(|| {
            set(libc::SIGPIPE, libc::SIG_DFL);
            survive_broken_pipes();
            raise(libc::SIGPIPE);
            let decided = on_signal as *const () as libc::sighandler_t;
            set(libc::SIGPIPE, decided);
            survive_broken_pipes();
            if disposition(libc::SIGPIPE) != decided {
                std::process::abort();
            }
        });
        assert_eq!(survives, 0);
    }

    /// One test, because signals belong to the process and tests share one.
    #[test]
    fn signals_are_told_once_and_wake_the_loop_and_are_given_back() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before: Vec<_> = HANDLED.map(disposition).into();
        let waker = Waker::new().unwrap();
        let mut poller = Poller::new(Backend::Auto).unwrap();
        poller.register(waker.read_end(), ConnectionId::NONE, Interest { read: true, write: false }).unwrap();
        let signals = install(waker.clone()).unwrap();
        assert!(matches!(install(waker.clone()), Err(Error::SignalsTaken)), "one at a time");
        assert_eq!(disposition(libc::SIGPIPE), libc::SIG_IGN);
        assert_eq!(signals.take(), Taken::default());

        // Each wakes the loop and is told once, however often it came.
        let nothing = Taken::default();
        for (raised, told) in [
            (vec![libc::SIGUSR1; 1000], Taken { report: true, ..nothing }),
            (vec![libc::SIGHUP], Taken { reopen: true, ..nothing }),
            (
                vec![libc::SIGHUP, libc::SIGTERM, libc::SIGUSR1],
                Taken { stop: Some(libc::SIGTERM), report: true, reopen: true },
            ),
        ] {
            raised.into_iter().for_each(raise);
            let mut events = Vec::new();
            poller.wait(&mut events, None, crate::sys::clock::now()).unwrap();
            assert_eq!(events.len(), 1);
            waker.clear();
            assert_eq!((signals.take(), signals.take()), (told, nothing));
            poller.wait(&mut events, Some(Duration::ZERO), crate::sys::clock::now()).unwrap();
            assert_eq!(events.len(), 1, "quiet again");
        }

        // SIGTERM has come: the next request to stop, of either kind, ends the process from the handler.
        let status = status_of(|| raise(libc::SIGINT));
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), 128 + libc::SIGINT);
        // The others don't, nor do they change errno.
        let status = status_of(|| {
            // SAFETY: the location is this thread's own errno, always valid.
            let errno = || unsafe { *errno_location() };
            // SAFETY: as above.
            unsafe { *errno_location() = 77 };
            // Nothing to ring: write(2) fails, and would leave EBADF.
            WAKE.store(RawFd::MAX, SeqCst);
            raise(libc::SIGUSR1);
            if errno() != 77 {
                // SAFETY: ends the process.
                unsafe { libc::_exit(1) }
            }
        });
        assert_eq!(status, 0);

        drop(signals);
        assert_eq!(HANDLED.map(disposition).to_vec(), before);
        let again = install(waker).unwrap();
        assert_eq!(again.take(), nothing, "nothing is left over");
    }
}
