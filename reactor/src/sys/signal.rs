//! Signals as messages to a loop. The exception is a second stop signal, which does not wait for the loop.
//!
//! The handler counts in static atomics and writes to the loop's wake-up descriptor. It always writes, without regard
//! to the waker's flag: that takes a number and no shared memory. A needless write only ends a wait early, and a
//! descriptor too full for the write is readable already. The counts are stored before the write, so the turn that the
//! write causes finds them.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::thread;

use libc::c_int;

use super::wake::{Waker, ring};
use super::{Fd, children};
use crate::error::Error;

/// The signals since the last [`Signals::take`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// SIGTERM or SIGINT, the first of them: stop. Returned once; the second one ends the process in the handler.
    pub(crate) stop: Option<i32>,
    /// SIGUSR1: print counters and connections.
    pub(crate) report: bool,
    /// SIGHUP: reopen the log files.
    pub(crate) reopen: bool,
}

/// Holds the process's signals. A drop restores their former actions.
pub(crate) struct Signals {
    #[expect(dead_code, reason = "held so that the descriptor which the handler rings stays open")]
    waker: Waker,
    before: Vec<(c_int, libc::sigaction)>,
}

const HANDLED: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP];
/// Handled unless the process was started with them ignored, by a shell that runs the process in the background or by
/// nohup(1).
const STAY_IGNORED: [c_int; 2] = [libc::SIGINT, libc::SIGHUP];
/// Sent to a process whose write fails: to a broken pipe, or to a file at its `RLIMIT_FSIZE`.
const OF_FAILED_WRITES: [c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

static INSTALLED: AtomicBool = AtomicBool::new(false);
/// The descriptor that the handler writes to; -1 for none.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// Number of running handlers, in any thread. While any runs, `WAKE` may not be closed.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);
/// The first stop signal. The value stays, so the next stop signal is recognized as the second.
static STOP: AtomicI32 = AtomicI32::new(0);
static STOP_TAKEN: AtomicBool = AtomicBool::new(false);
static REPORT: AtomicBool = AtomicBool::new(false);
static REOPEN: AtomicBool = AtomicBool::new(false);

/// Handles SIGTERM and SIGUSR1, and also SIGINT and SIGHUP unless they are ignored; unblocks these four in this thread.
/// Ignores SIGPIPE and SIGXFSZ: a failed write then returns an error, from any caller (sendfile(2) has no flag for
/// that).
pub(crate) fn install(waker: Waker) -> Result<Signals, Error> {
    if INSTALLED.swap(true, SeqCst) {
        return Err(Error::SignalsTaken);
    }
    WAKE.store(waker.write_end().0, SeqCst);
    let mut signals =
        Signals { waker, before: OF_FAILED_WRITES.map(|signal| (signal, set(signal, libc::SIG_IGN))).into() };
    for signal in HANDLED {
        if !(STAY_IGNORED.contains(&signal) && is_ignored(signal)) {
            signals.handle(signal);
        }
    }
    // After the handlers are set, so that a signal that was blocked is handled.
    signals.unblock();
    Ok(signals)
}

impl Signals {
    fn handle(&mut self, signal: c_int) {
        self.before.push((signal, set(signal, on_signal as *const () as libc::sighandler_t)));
    }

    /// Handles SIGHUP even if the process was started with SIGHUP ignored.
    pub(crate) fn handle_hang_up(&mut self) {
        if is_ignored(libc::SIGHUP) {
            self.handle(libc::SIGHUP);
        }
    }

    /// Unblocks the handled signals in this thread, and in threads that it starts later.
    pub(crate) fn unblock(&self) {
        let mut handled = empty_set();
        for signal in HANDLED {
            // SAFETY: writes to the set that it is given.
            unsafe { libc::sigaddset(&mut handled, signal) };
        }
        // SAFETY: the kernel reads one set; the thread's mask is not written anywhere.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &handled, ptr::null_mut()) };
    }

    /// Takes the signals. Call after each wake-up, when the descriptor has been drained.
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
            // SAFETY: the kernel reads one sigaction, which it has filled itself.
            unsafe { libc::sigaction(signal, &before, ptr::null_mut()) };
        }
        WAKE.store(-1, SeqCst);
        // A handler in another thread may still hold the number. `self.waker` and its descriptor are dropped only after
        // this loop.
        while AT_WORK.load(SeqCst) > 0 {
            thread::yield_now();
        }
        STOP.store(0, SeqCst);
        for flag in [&STOP_TAKEN, &REPORT, &REOPEN, &INSTALLED] {
            flag.store(false, SeqCst);
        }
    }
}

/// Runs in any thread, between any two instructions: uses only atomics, write(2), kill(2) and _exit(2). Restores errno
/// for the interrupted code.
extern "C" fn on_signal(signal: c_int) {
    // SAFETY: the location is this thread's own errno, always valid; the same holds below.
    let errno = unsafe { *errno_location() };
    AT_WORK.fetch_add(1, SeqCst);
    match signal {
        libc::SIGUSR1 => REPORT.store(true, SeqCst),
        libc::SIGHUP => REOPEN.store(true, SeqCst),
        // The handler ends the process, because the loop may be stuck. 128 + n is the status that a shell reports for a
        // death by signal n.
        _ if STOP.compare_exchange(0, signal, SeqCst, SeqCst).is_err() => {
            children::kill();
            // SAFETY: ends the process without unwinding or exit handlers, which is allowed in a signal handler.
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

/// In a child: makes the handled signals do nothing. By a handler, and not by SIG_IGN, which a program that the child
/// executes would inherit.
pub(super) fn deafen() {
    extern "C" fn nothing(_: c_int) {}
    for signal in HANDLED.into_iter().filter(|&signal| !is_ignored(signal)) {
        set(signal, nothing as *const () as libc::sighandler_t);
    }
}

/// Makes a write to a broken pipe, or to a file at its size limit, fail instead of killing the process: sendfile(2) has
/// no flag for that. A handler of the process stays; only the default action, death, is changed. Rust's `main` has
/// changed SIGPIPE already.
pub(crate) fn survive_failed_writes() {
    for signal in OF_FAILED_WRITES.into_iter().filter(|&signal| disposition(signal) == libc::SIG_DFL) {
        set(signal, libc::SIG_IGN);
    }
}

/// Gives an ignored SIGCHLD its default action, which also does nothing, until the drop. While SIGCHLD is ignored, the
/// system reaps children by itself, and no code learns how a child has ended.
pub(crate) struct ChildrenAreReaped(Option<libc::sigaction>);

impl ChildrenAreReaped {
    pub(crate) fn by_this_process() -> Self {
        ChildrenAreReaped(is_ignored(libc::SIGCHLD).then(|| set(libc::SIGCHLD, libc::SIG_DFL)))
    }
}

impl Drop for ChildrenAreReaped {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: the kernel reads one sigaction, which it has filled itself.
            unsafe { libc::sigaction(libc::SIGCHLD, before, ptr::null_mut()) };
        }
    }
}

/// Resets harmful signal settings that a process inherits from its parent. Call this at the beginning of `main`, in a
/// program that owns its signals. The function:
///
/// - unblocks every signal, in this thread and in threads that it starts later. If the parent has blocked SIGTERM, only
///   SIGKILL would end the process otherwise;
/// - ignores SIGPIPE and SIGXFSZ unless they have a handler: a write to a broken pipe fails with `EPIPE`, and a write
///   to a file at its `ulimit -f` fails with `EFBIG`;
/// - gives SIGCHLD its default action if it was ignored, so that the program can wait for the end of a child.
///
/// SIGINT, SIGQUIT and SIGHUP stay ignored if they were, because shells and nohup(1) ask for that. [`Application`]
/// makes the settings that it needs by itself ([`Application::handle_signals`], [`Application::run`]). A program calls
/// this function for the time before, and for signals that it does not handle. Never blocks, never fails.
///
/// ```
/// reactor::reset_inherited_signals();
/// let mut app = reactor::Application::new()?;
/// app.handle_signals()?;
/// # Ok::<(), reactor::Error>(())
/// ```
///
/// [`Application`]: crate::Application
/// [`Application::handle_signals`]: crate::Application::handle_signals
/// [`Application::run`]: crate::Application::run
pub fn reset_inherited_signals() {
    survive_failed_writes();
    if is_ignored(libc::SIGCHLD) {
        set(libc::SIGCHLD, libc::SIG_DFL);
    }
    // SAFETY: the kernel reads the empty set, and writes the old mask nowhere.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &empty_set(), ptr::null_mut()) };
}

fn empty_set() -> libc::sigset_t {
    let mut empty = MaybeUninit::uninit();
    // SAFETY: the call fills the set that it is given, and cannot fail.
    unsafe {
        libc::sigemptyset(empty.as_mut_ptr());
        empty.assume_init()
    }
}

fn is_ignored(signal: c_int) -> bool {
    disposition(signal) == libc::SIG_IGN
}

fn disposition(signal: c_int) -> libc::sighandler_t {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the kernel writes one sigaction, and `now` has room for one. No action is set. All zeros is a valid
    // sigaction.
    unsafe {
        libc::sigaction(signal, ptr::null(), now.as_mut_ptr());
        now.assume_init().sa_sigaction
    }
}

/// Sets an action with SA_RESTART, so that blocking calls of other threads are not interrupted. Returns the former
/// action.
fn set(signal: c_int, handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zeros is a sigaction without flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the mask is part of `action`; the kernel reads one sigaction and writes one, and both exist. The call
    // cannot fail, since each of these signals may be handled. The handler is `SIG_IGN`, `SIG_DFL`, an empty one, or
    // `on_signal`, which does only what is safe in a handler.
    unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, before.as_mut_ptr());
        before.assume_init()
    }
}

/// The address of this thread's errno.
pub(super) fn errno_location() -> *mut c_int {
    // SAFETY: only returns an address.
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

    use super::super::Interest;
    use super::super::backend::Backend;
    use super::super::fork::FORKS;
    use super::super::poller::open;
    use super::super::process::status_of;
    use super::*;
    use crate::token::ConnectionId;

    fn raise(signal: c_int) {
        // SAFETY: the handlers of this file are installed for each signal that is raised here.
        unsafe { libc::raise(signal) };
    }

    #[test]
    fn a_failed_write_no_longer_kills_and_what_was_decided_about_it_stands() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        for signal in OF_FAILED_WRITES {
            let killed = status_of(|| {
                set(signal, libc::SIG_DFL);
                raise(signal);
            });
            assert_eq!(killed & 0x7f, signal, "this is what would happen");
            let survives = status_of(|| {
                set(signal, libc::SIG_DFL);
                survive_failed_writes();
                raise(signal);
                let decided = on_signal as *const () as libc::sighandler_t;
                set(signal, decided);
                survive_failed_writes();
                if disposition(signal) != decided {
                    std::process::abort();
                }
            });
            assert_eq!(survives, 0);
        }
    }

    #[test]
    fn inherited_signals_are_harmless_and_those_that_were_ignored_for_a_reason_stay_so() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waker = Waker::new().unwrap();
        let status = status_of(|| {
            let kept = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];
            let all = kept.into_iter().chain([libc::SIGTERM, libc::SIGUSR1, libc::SIGCHLD]);
            all.for_each(|signal| _ = set(signal, libc::SIG_IGN));
            let mut mask = MaybeUninit::uninit();
            // SAFETY: the first call fills one set, the second reads it.
            unsafe {
                libc::sigfillset(mask.as_mut_ptr());
                libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), ptr::null_mut());
            }
            {
                let _reaps = ChildrenAreReaped::by_this_process();
                assert_eq!(disposition(libc::SIGCHLD), libc::SIG_DFL);
            }
            assert!(is_ignored(libc::SIGCHLD), "it is given back");
            let mut signals = install(waker.clone()).unwrap();
            let stay = kept.map(is_ignored);
            let taken = [libc::SIGTERM, libc::SIGUSR1].map(is_ignored);
            let blocked = [HANDLED.map(is_blocked), [is_blocked(libc::SIGQUIT); 4]];
            assert_eq!((stay, taken, blocked), ([true; 3], [false; 2], [[false; 4], [true; 4]]));
            deafen();
            assert_eq!((is_ignored(libc::SIGINT), is_ignored(libc::SIGTERM)), (true, false));
            signals.handle_hang_up();
            assert!(!is_ignored(libc::SIGHUP));
            drop(signals);
            assert!(is_ignored(libc::SIGHUP) && is_ignored(libc::SIGTERM), "they are given back");
            reset_inherited_signals();
            assert!(!is_blocked(libc::SIGQUIT) && is_ignored(libc::SIGXFSZ) && !is_ignored(libc::SIGCHLD));
            assert!(kept.into_iter().all(is_ignored));
        });
        assert_eq!(status, 0);
    }

    fn is_blocked(signal: c_int) -> bool {
        let mut mask = empty_set();
        // SAFETY: the kernel writes one set, and the other call reads it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut mask);
            libc::sigismember(&mask, signal) == 1
        }
    }

    /// One test, because signals belong to the process and tests share one.
    #[test]
    fn signals_are_told_once_and_wake_the_loop_and_are_given_back() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A shell ignores SIGINT for tests in the background, and nohup(1) ignores SIGHUP.
        let inherited = STAY_IGNORED.map(|signal| (signal, set(signal, libc::SIG_DFL)));
        let before: Vec<_> = HANDLED.map(disposition).into();
        let waker = Waker::new().unwrap();
        let mut poller = open(Backend::Auto).unwrap();
        poller
            .register(waker.read_end(), ConnectionId::NONE, Interest { read: true, write: false, edges: false })
            .unwrap();
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
        drop(again);
        for (signal, action) in inherited {
            // SAFETY: the kernel reads one sigaction, which an earlier call has filled.
            unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
        }
    }
}
