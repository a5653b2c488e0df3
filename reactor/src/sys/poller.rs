//! The readiness primitive under the driver: the contract of every backend, and the choice of a backend.
//!
//! A further backend is a file with a type that implements [`Poller`], a `mod` line, a variant of [`Backend`], and a row in the
//! table below. CONTRIBUTING.md names the places that list the backends.

use std::io;
use std::time::Duration;

use super::backend::Backend;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::epoll::Epoll;
use super::select::Select;
use super::{Event, Fd, Interest};
use crate::error::{Errno, Error};
use crate::time::Time;
use crate::token::ConnectionId;

/// Reports ready descriptors. The facts about a backend stand in its file, as answers to these calls.
pub(crate) trait Poller {
    /// Starts watching `fd`. Level-triggered, unless the interest has edges. EPERM: such a file is always ready, and not watched.
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno>;
    /// Changes the interest of a registered `fd`. Whatever is ready is reported, even if it was before.
    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno>;
    /// Stops watching `fd`. Before `close`, always: a duplicate in another process would keep the registration alive.
    fn forget(&mut self, fd: Fd);
    /// Appends events to `events`, waiting at most `timeout` (rounded up; `None`: for ever) for the first. `now` is the
    /// caller's last reading of the clock: a wait that a signal cuts short goes on with the time left since then.
    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno>;
    /// Limit of the events returned by a `wait`: after a full batch, further events may wait for the next call.
    fn events_per_wait(&self) -> usize;
    /// Whether a reset is reported for a descriptor registered without interest. If not, the driver has to call `take_error`.
    fn reports_errors_unasked(&self) -> bool;
    /// The poller's own descriptors.
    fn held(&self) -> Vec<Fd>;
}

/// Every backend with its name and its constructor. The first backend with a constructor on this system is the default.
pub(super) const BACKENDS: &[(Backend, &str, Option<Make>)] =
    &[(Backend::Epoll, "epoll", EPOLL), (Backend::Select, "select", Some(|| Ok(Box::new(Select::new()))))];

type Make = fn() -> Result<Box<dyn Poller + Send>, Errno>;

#[cfg(any(target_os = "linux", target_os = "android"))]
const EPOLL: Option<Make> = Some(|| Ok(Box::new(Epoll::new()?)));
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const EPOLL: Option<Make> = None;

/// Opens the poller of the chosen backend.
pub(super) fn open(backend: Backend) -> Result<Box<dyn Poller + Send>, Error> {
    let (chosen, _) = backend.choose()?;
    let unavailable = |cause| Error::BackendUnavailable { backend: chosen.name(), cause };
    let make = BACKENDS.iter().find(|(backend, ..)| *backend == chosen).and_then(|(.., make)| *make);
    let make =
        make.ok_or_else(|| unavailable(io::Error::new(io::ErrorKind::Unsupported, "this system does not have it")))?;
    make().map_err(|errno| unavailable(errno.to_io()))
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use std::thread;
    use std::time::Instant;

    use super::super::fork::FORKS;
    use super::super::{Ready, process, socket};
    use super::*;

    const READ: Interest = Interest { read: true, write: false, edges: false };
    const WRITE: Interest = Interest { read: false, write: true, edges: false };
    const NOTHING: Interest = Interest { read: false, write: false, edges: false };
    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn each(test: impl Fn(Box<dyn Poller + Send>)) {
        let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (backend, _, make) in BACKENDS {
            if make.is_some() {
                test(open(*backend).unwrap());
            }
        }
    }

    fn token(slot: usize) -> ConnectionId {
        ConnectionId::new(0, slot, 1)
    }

    fn fd(descriptor: &impl AsRawFd) -> Fd {
        Fd(descriptor.as_raw_fd())
    }

    fn waited(poller: &mut Box<dyn Poller + Send>, timeout: Option<Duration>) -> Vec<Event> {
        let mut events = Vec::new();
        poller.wait(&mut events, timeout, crate::sys::clock::now()).unwrap();
        events
    }

    /// The tokens of the descriptors that are ready now, in order.
    fn ready(poller: &mut Box<dyn Poller + Send>) -> Vec<ConnectionId> {
        waited(poller, NOW).iter().map(|event| event.token).collect()
    }

    #[test]
    fn what_is_left_unread_is_told_again() {
        each(|mut poller| {
            let (read, mut write) = pipe().unwrap();
            poller.register(fd(&read), token(1), READ).unwrap();
            assert_eq!(ready(&mut poller), []);
            write.write_all(b"x").unwrap();
            for _ in 0..3 {
                let events = waited(&mut poller, None);
                assert_eq!(events, [Event { token: token(1), ready: Ready::READABLE }]);
            }
        });
    }

    #[test]
    fn only_what_was_asked_for_is_told_and_the_asking_may_change() {
        each(|mut poller| {
            let (near, mut far) = UnixStream::pair().unwrap();
            far.write_all(b"x").unwrap();
            poller.register(fd(&near), token(1), NOTHING).unwrap();
            assert_eq!(ready(&mut poller), []);
            poller.modify(fd(&near), token(2), WRITE).unwrap();
            let events = waited(&mut poller, None);
            assert_eq!((events[0].token, events[0].ready), (token(2), Ready::WRITABLE));
            poller.modify(fd(&near), token(3), Interest { read: true, write: true, edges: false }).unwrap();
            let events = waited(&mut poller, None);
            assert_eq!(events, [Event { token: token(3), ready: Ready::READABLE.and(Ready::WRITABLE) }]);
        });
    }

    #[test]
    fn a_forgotten_descriptor_is_quiet_though_a_duplicate_lives_on() {
        each(|mut poller| {
            let (near, mut far) = UnixStream::pair().unwrap();
            poller.register(fd(&near), token(1), READ).unwrap();
            let _duplicate = near.try_clone().unwrap();
            poller.forget(fd(&near));
            drop(near);
            far.write_all(b"x").unwrap();
            assert_eq!(ready(&mut poller), []);
        });
    }

    #[test]
    fn the_last_registration_wins_and_what_is_unknown_may_be_forgotten() {
        each(|mut poller| {
            let (near, mut far) = UnixStream::pair().unwrap();
            far.write_all(b"x").unwrap();
            poller.forget(fd(&near));
            poller.forget(Fd(-1));
            poller.forget(Fd(100_000));
            assert_eq!(poller.modify(fd(&near), token(1), READ), Err(Errno(libc::ENOENT)));
            poller.register(fd(&near), token(1), WRITE).unwrap();
            poller.register(fd(&near), token(2), READ).unwrap();
            assert_eq!(ready(&mut poller), [token(2)]);
            assert_eq!(poller.register(Fd(-1), token(3), READ), Err(Errno(libc::EBADF)));
        });
    }

    #[test]
    fn an_end_shows_to_whoever_reads() {
        each(|mut poller| {
            let (near, far) = UnixStream::pair().unwrap();
            poller.register(fd(&near), token(1), READ).unwrap();
            drop(far);
            let events = waited(&mut poller, None);
            assert!(events[0].ready.has(Ready::READABLE) && !events[0].ready.has(Ready::ERROR));
            assert_eq!(events[0].ready.has(Ready::HANGUP), poller.reports_errors_unasked());
        });
    }

    #[test]
    fn an_end_shows_unasked_exactly_where_the_poller_says_so() {
        each(|mut poller| {
            let (near, far) = UnixStream::pair().unwrap();
            poller.register(fd(&near), token(1), NOTHING).unwrap();
            drop(far);
            assert_eq!(!ready(&mut poller).is_empty(), poller.reports_errors_unasked());
        });
    }

    #[test]
    fn more_ready_descriptors_than_one_wait_brings_are_all_told_by_the_next() {
        each(|mut poller| {
            let pairs: Vec<_> = (0..400).map(|_| UnixStream::pair().unwrap()).collect();
            for (slot, (near, _)) in pairs.iter().enumerate() {
                poller.register(fd(near), token(slot), WRITE).unwrap();
            }
            let mut events: Vec<_> = ready(&mut poller);
            events.extend(ready(&mut poller));
            events.sort();
            events.dedup();
            assert_eq!(events.len(), pairs.len());
        });
    }

    static STRUCK: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn strike(_: libc::c_int) {
        STRUCK.fetch_add(1, SeqCst);
    }

    #[test]
    fn a_storm_of_signals_does_not_shorten_a_wait() {
        // SAFETY: all zeros is a sigaction without flags, and the handler only adds to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = strike as *const () as libc::sighandler_t;
            libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut());
        }
        each(|mut poller| {
            let done = AtomicBool::new(false);
            // A number, because some systems have a pointer here, which another thread may not take.
            // SAFETY: takes nothing.
            let this = unsafe { libc::pthread_self() } as usize;
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        // SAFETY: the target thread lives: its scope waits for the striking thread.
                        unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR2) };
                        thread::sleep(Duration::from_millis(1));
                    }
                });
                let struck = STRUCK.load(SeqCst);
                // Again in the unlikely case that the other thread has not come to run.
                while STRUCK.load(SeqCst) == struck {
                    let (span, begin) = (Duration::from_millis(30), Instant::now());
                    assert_eq!(waited(&mut poller, Some(span)), []);
                    assert!(begin.elapsed() >= span);
                }
                done.store(true, SeqCst);
            });
        });
    }

    /// A duplicate of `descriptor` with a number of at least `lowest`: above the numbers of all other tests.
    fn duplicate(descriptor: &impl AsRawFd, lowest: i32) -> OwnedFd {
        assert!(process::raise_descriptor_limit() > lowest as usize, "these tests need a higher limit on descriptors");
        // SAFETY: takes no pointer.
        let number = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
        assert!(number >= lowest);
        // SAFETY: the call has just made this descriptor, and nobody else knows its number.
        unsafe { OwnedFd::from_raw_fd(number) }
    }

    #[test]
    fn descriptors_past_1024_are_watched_like_any_other() {
        each(|mut poller| {
            let (near, mut far) = UnixStream::pair().unwrap();
            let high = duplicate(&near, 1500);
            poller.register(fd(&high), token(1), READ).unwrap();
            assert_eq!(ready(&mut poller), []);
            far.write_all(b"x").unwrap();
            assert_eq!(ready(&mut poller), [token(1)]);
        });
    }

    #[test]
    fn a_regular_file_is_always_ready_for_select() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let mut poller = open(Backend::Select).unwrap();
        poller.register(fd(&file), token(1), READ).unwrap();
        assert_eq!(ready(&mut poller), [token(1)]);
    }

    #[test]
    fn select_starts_with_another_each_time() {
        let mut poller = open(Backend::Select).unwrap();
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let mut near: Vec<_> = pairs.iter().map(|(near, _)| near).collect();
        near.sort_by_key(|near| near.as_raw_fd());
        for (slot, near) in near.iter().enumerate() {
            poller.register(fd(*near), token(slot), WRITE).unwrap();
        }
        let turns: Vec<_> = (0..4).map(|_| ready(&mut poller)).collect();
        let [a, b, c] = [token(0), token(1), token(2)];
        assert_eq!(turns, [[a, b, c], [b, c, a], [c, a, b], [a, b, c]]);
    }

    #[test]
    fn select_names_a_descriptor_that_was_closed_under_it_and_goes_on() {
        let mut poller = open(Backend::Select).unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let doomed = duplicate(&near, 3000).into_raw_fd();
        poller.register(Fd(doomed), token(1), READ).unwrap();
        poller.register(fd(&near), token(2), READ).unwrap();
        socket::close(Fd(doomed));
        far.write_all(b"x").unwrap();
        let events = waited(&mut poller, None);
        assert_eq!(events, [Event { token: token(1), ready: Ready::ERROR }]);
        assert_eq!(ready(&mut poller), [token(2)]);
        assert_eq!(poller.modify(Fd(doomed), token(1), READ), Err(Errno(libc::ENOENT)));
    }
}
