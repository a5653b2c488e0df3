//! Forks of this process, each for one connection: how they start and end. See fork(2), waitpid(2).
//!
//! A child has its parent's memory, but a single thread. A lock that another thread of the parent held stays locked in
//! the child for ever. So a process that forks must have a single thread, which [`threads`] tells.

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

/// The number of threads in this process. `None` if the system does not report the number.
pub(crate) fn threads() -> Option<usize> {
    // Each thread is a directory there. The link count includes the two links that every directory has (proc(5)).
    let task = fs::metadata("/proc/self/task").ok()?;
    usize::try_from(task.nlink()).ok()?.checked_sub(2)
}

/// The outcome of a fork, seen from one of the two processes.
pub(crate) enum Fork {
    /// In the forking process: the child's number.
    Parent(Pid),
    Child,
}

/// Forks this process. Call with a single thread only. With `deaf`, the signals that an application handles do nothing
/// in the child: the terminal sends them to both processes, and the parent passes on their orders. A program that the
/// child executes gets the default actions back. A second stop signal ends deaf children together with this process.
pub(crate) fn fork(deaf: bool) -> Result<Fork, Errno> {
    // Signals are blocked, so that no handler of the parent runs in the child.
    let before = hold_signals();
    // SAFETY: the only thread of this process makes the call, so the child finds no lock held by a missing thread. This
    // crate decides what the child does next, and ends the child with `leave`.
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
    // SAFETY: the kernel reads one set, which it has filled itself.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    outcome
}

/// Blocks every signal that can be blocked. Returns the former mask.
fn hold_signals() -> libc::sigset_t {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the first call fills one set; the second reads this set and writes the other. Neither call can fail with
    // these arguments.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// Closes the child's duplicates of descriptors that belong to the parent. Their owners in the child's memory must
/// never be dropped; `leave` takes care of this.
///
/// The numbers are mostly consecutive, and each row costs one call. With two thousand connections, a call for each
/// number would take as long as all other work of a new child.
pub(crate) fn abandon(mut held: Vec<Fd>) {
    held.sort_unstable_by_key(|fd| fd.0);
    held.dedup();
    for row in held.chunk_by(|one, next| next.0 == one.0 + 1) {
        if !close_row(row[0], row[row.len() - 1]) {
            for fd in row {
                // SAFETY: the owner of this number in the child's memory is never used again.
                unsafe { libc::close(fd.0) };
            }
        }
    }
}

/// Closes a row of descriptors. Returns false if the system cannot; Linux can from 5.9 on.
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

/// Ends this process without drops and without exit handlers, which belong to the parent.
pub(crate) fn leave(status: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(c_int::from(status)) }
}

/// A child of this process that has not been reaped. An ended child stays a zombie until it is reaped.
#[derive(Debug)]
pub(crate) struct Pid {
    number: libc::pid_t,
    /// The place in the list of children that end at once with this process.
    slot: Option<Slot>,
}

/// The way in which a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By exit, with this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown, because another part of the program has reaped the process.
    Unknown,
}

impl Pid {
    /// Reaps the child. Returns `None` while the child runs. Never blocks.
    pub(crate) fn reap(&self) -> Option<Ended> {
        self.wait_for_it(libc::WNOHANG)
    }

    /// Reaps the child. Blocks until the child has ended.
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

    /// Whether the child has ended. Leaves the child to be reaped.
    fn has_ended(&self, flags: c_int) -> bool {
        let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
        let (who, flags) = (self.number as libc::id_t, flags | libc::WEXITED | libc::WNOWAIT);
        // SAFETY: the kernel writes one siginfo_t, and `found` has room for one.
        let outcome = retry(|| unsafe { libc::waitid(libc::P_PID, who, found.as_mut_ptr(), flags) });
        // SAFETY: all zeros before the call, and still zero if no child has ended; otherwise a child's number.
        outcome.is_err() || unsafe { found.assume_init().si_pid() } != 0
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        // SAFETY: takes no pointer. The child has not been reaped, so no other process has its number.
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

/// Read by tests in which a close has to be the last, written by those that fork: the child holds a copy of every
/// descriptor of this process until it execs or exits, so nothing that a neighbour closes meanwhile is closed.
#[cfg(test)]
pub(crate) static FORKS: std::sync::RwLock<()> = std::sync::RwLock::new(());

#[cfg(test)]
mod tests {
    use super::FORKS;
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
        // Other tests come and go meanwhile, so only a lower bound is certain: this thread and the started thread.
        assert!(threads().unwrap() >= 2, "{before} before");
        drop(stop);
        assert!(more.join().unwrap().is_err());
    }
}
