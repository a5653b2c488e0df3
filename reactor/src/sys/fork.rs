//! Copies of this process, each for one connection: how they come about, and how they end. See fork(2), waitpid(2).
//!
//! A copy has the memory of the one that made it, but one thread. Whatever lock another thread held is held there for
//! ever; so who forks must have a single thread, and [`threads`] tells.

use std::fmt;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::ptr;

use libc::c_int;

use super::call::{check, retry};
use super::children::{self, Slot};
use super::{Fd, signal};
use crate::error::Errno;

/// How many threads this process has; `None` where the system does not tell.
pub(crate) fn threads() -> Option<usize> {
    // Each is a directory there, and the two that every directory has are counted with them (proc(5)).
    let task = fs::metadata("/proc/self/task").ok()?;
    usize::try_from(task.nlink()).ok()?.checked_sub(2)
}

/// What a fork is to one of the two processes that come out of it.
pub(crate) enum Fork {
    /// The one that forked, and the other's number.
    Parent(Pid),
    Child,
}

/// Makes a copy of this process. Call it with a single thread only. In the copy, and there alone, the signals that an
/// application handles do nothing if it is `deaf`: they are for the process that made it, which passes on what they ask
/// for; the terminal sends them to both. What the copy executes gets their defaults back. A second request to stop ends
/// deaf copies with this process.
pub(crate) fn fork(deaf: bool) -> Result<Fork, Errno> {
    // Held back, so that no handler of the parent's runs in the copy.
    let before = hold_signals();
    // SAFETY: the only thread of this process makes the call, so the copy finds no lock that nobody would open; what it
    // does next is up to this crate, which ends it with `leave`.
    let outcome = check(unsafe { libc::fork() });
    let outcome = outcome.map(|pid| match pid {
        0 => {
            if deaf {
                signal::deafen();
            }
            Fork::Child
        }
        number => Fork::Parent(Pid { number, slot: deaf.then(|| children::enter(number)).flatten() }),
    });
    // SAFETY: the kernel reads one set, the one that it gave.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    outcome
}

/// Holds back every signal that can be; what was held back before.
fn hold_signals() -> libc::sigset_t {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the first call fills one set, the second reads that and writes another; neither can fail with these
    // arguments.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// Closes what the copy has of descriptors that are the parent's alone. Their owners in the copied memory must never be
/// dropped: `leave` sees to that.
///
/// Their numbers mostly follow one another, and each row costs one call: one for each number would take as long as all else
/// that a copy does, with two thousand connections.
pub(crate) fn abandon(mut held: Vec<Fd>) {
    held.sort_unstable_by_key(|fd| fd.0);
    held.dedup();
    for row in held.chunk_by(|one, next| next.0 == one.0 + 1) {
        if !close_row(row[0], row[row.len() - 1]) {
            for fd in row {
                // SAFETY: whoever owns the number in this copy is never heard of again.
                unsafe { libc::close(fd.0) };
            }
        }
    }
}

/// Whether the system can do it. Linux, from 5.9 on.
fn close_row(first: Fd, last: Fd) -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: as in `abandon`; takes no pointer.
        unsafe { libc::syscall(libc::SYS_close_range, first.0, last.0, 0) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (first, last);
        false
    }
}

/// Ends this process without dropping anything and without exit handlers: those are the parent's.
pub(crate) fn leave(status: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(c_int::from(status)) }
}

/// A copy that this process has made and has not reaped yet. Not reaped, it stays as a zombie when it ends.
#[derive(Debug)]
pub(crate) struct Pid {
    number: libc::pid_t,
    /// Among those that end with this process when it has to end at once.
    slot: Option<Slot>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody knows: somebody else has reaped it.
    Unknown,
}

impl Pid {
    /// How it ended; `None` while it has not. Never blocks.
    pub(crate) fn reap(&self) -> Option<Ended> {
        self.wait_for_it(libc::WNOHANG)
    }

    /// The same, but blocks until it has.
    pub(crate) fn wait(&self) -> Ended {
        self.wait_for_it(0).unwrap_or(Ended::Unknown)
    }

    fn wait_for_it(&self, flags: c_int) -> Option<Ended> {
        if let Some(slot) = &self.slot {
            if !self.has_ended(flags) {
                return None;
            }
            children::leave(slot, self.number);
        }
        let mut status = 0;
        // SAFETY: the kernel writes one int, and `status` is one.
        match retry(|| unsafe { libc::waitpid(self.number, &mut status, flags) }) {
            Ok(0) => None,
            Ok(_) if libc::WIFSIGNALED(status) => Some(Ended::Signal(libc::WTERMSIG(status))),
            Ok(_) => Some(Ended::Exit(libc::WEXITSTATUS(status))),
            Err(_) => Some(Ended::Unknown),
        }
    }

    /// Whether it can be reaped, without doing so.
    fn has_ended(&self, flags: c_int) -> bool {
        let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
        let (who, flags) = (self.number as libc::id_t, flags | libc::WEXITED | libc::WNOWAIT);
        // SAFETY: the kernel writes one siginfo_t, and there is room for one.
        let outcome = retry(|| unsafe { libc::waitid(libc::P_PID, who, found.as_mut_ptr(), flags) });
        // SAFETY: all zeros before the call, which is what it leaves where nobody has ended; otherwise a child's.
        outcome.is_err() || unsafe { found.assume_init().si_pid() } != 0
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        // SAFETY: takes no pointer. The number is that of a child which has not been reaped, so nobody else has it.
        unsafe { libc::kill(self.number, libc::SIGKILL) };
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number, f)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exit(status) => write!(f, "ended with status {status}"),
            Ended::Signal(signal) => write!(f, "was killed by signal {signal}{}", name_of(*signal)),
            Ended::Unknown => f.write_str("was reaped by somebody else"),
        }
    }
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGTERM => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::FORKS;
    use super::*;

    fn pid_of(deaf: bool, child: impl FnOnce()) -> Pid {
        match fork(deaf).unwrap() {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                child();
                leave(3)
            }
        }
    }

    fn sleep() {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn how_a_copy_ended_is_told_once_it_has() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        for deaf in [false, true] {
            assert_eq!(pid_of(deaf, || {}).wait(), Ended::Exit(3));
            let pid = pid_of(deaf, sleep);
            assert_eq!(pid.reap(), None);
            pid.kill();
            let ended = pid.wait();
            assert_eq!((ended, ended.to_string().as_str()), (Ended::Signal(9), "was killed by signal 9 (SIGKILL)"));
            assert_eq!(pid.reap(), Some(Ended::Unknown), "it is reaped once");
        }
    }

    #[test]
    fn those_that_are_deaf_are_killed_all_at_once_and_the_others_are_not() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let hears = pid_of(false, sleep);
        let deaf = [(); 3].map(|()| pid_of(true, sleep));
        children::kill();
        assert!(deaf.iter().all(|pid| pid.wait() == Ended::Signal(9)));
        assert_eq!(hears.reap(), None);
        hears.kill();
        hears.wait();
        // A place that was left is taken again, and the first of all are free now.
        let deaf = pid_of(true, || {});
        assert_eq!(children::enter(1).map(|slot| children::leave(&slot, 1)), Some(()));
        assert_eq!(deaf.wait(), Ended::Exit(3));
    }

    #[test]
    fn threads_are_counted() {
        let before = threads().unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let more = std::thread::spawn(move || stopped.recv());
        // Other tests come and go meanwhile, so only a lower bound is certain: this one and the one that was started.
        assert!(threads().unwrap() >= 2, "{before} before");
        drop(stop);
        assert!(more.join().unwrap().is_err());
    }
}
