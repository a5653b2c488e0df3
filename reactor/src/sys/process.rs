//! The process as a whole: the limit on descriptors, the number of open ones, and the process id.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::time::Duration;

use super::call::{check, retry};

/// The largest number of descriptors on macOS (OPEN_MAX), although macOS reports an infinite hard limit.
const OPEN_MAX: libc::rlim_t = 10_240;

/// Raises the soft limit on descriptors to the hard limit. Returns the limit in force. Shells start programs with
/// 1,024, for programs that call `select` on an `fd_set`; the reactor does not.
pub(crate) fn raise_descriptor_limit() -> usize {
    let mut limit = descriptor_limit();
    let most = if cfg!(target_vendor = "apple") { limit.rlim_max.min(OPEN_MAX) } else { limit.rlim_max };
    if limit.rlim_cur < most {
        let wanted = libc::rlimit { rlim_cur: most, rlim_max: limit.rlim_max };
        // SAFETY: the kernel reads one rlimit, and `wanted` is one.
        if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) }).is_ok() {
            limit = wanted;
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// The total time for which the calling thread was ready to run while the core was busy. `None` if the system does not
/// record that time. Takes three system calls, and keeps no descriptor open.
pub(super) fn waited_for_a_core() -> Option<Duration> {
    let mut text = [0; 64];
    let length = File::open("/proc/thread-self/schedstat").ok()?.read(&mut text).ok()?;
    // Nanoseconds on a core, nanoseconds ready for a core, and number of times on a core.
    let waited = str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(1)?;
    Some(Duration::from_nanos(waited.parse().ok()?))
}

/// The number of open descriptors, for comparisons in tests. Expensive: lists or tries all numbers.
pub(crate) fn open_descriptors() -> usize {
    match std::fs::read_dir("/proc/self/fd") {
        // The listing itself takes one descriptor.
        Ok(listing) => listing.count().saturating_sub(1),
        Err(_) => {
            let limit = RawFd::try_from(descriptor_limit().rlim_cur).unwrap_or(RawFd::MAX).min(65_536);
            // SAFETY: F_GETFD takes no third argument and changes nothing.
            (0..limit).filter(|&fd| retry(|| unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok()).count()
        }
    }
}

/// This process. Asked anew each time, because a fork changes the answer.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

fn descriptor_limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, and `limit` is one. The call cannot fail: the resource exists everywhere.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit
}

/// Runs `child` in a forked process. Returns how the process ended. Other threads of this process may hold locks that
/// stay locked in the child: the child may allocate memory (glibc handles that lock), and may use nothing else that is
/// shared. Hold `FORKS`.
#[cfg(test)]
pub(crate) fn status_of(child: impl FnOnce()) -> libc::c_int {
    // SAFETY: what each `child` of these tests does is what the comment above allows, and `_exit` ends it.
    match unsafe { libc::fork() } {
        0 => {
            child();
            // SAFETY: ends the process without touching anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: the kernel writes one int, and `status` is one.
            assert_eq!(super::call::retry(|| unsafe { libc::waitpid(pid, &mut status, 0) }), Ok(pid));
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one_and_a_second_time_changes_nothing() {
        let raised = raise_descriptor_limit();
        let limit = descriptor_limit();
        assert_eq!(Ok(raised), usize::try_from(limit.rlim_cur));
        assert!(limit.rlim_cur == limit.rlim_max || cfg!(target_vendor = "apple"));
        assert_eq!(raise_descriptor_limit(), raised);
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Other tests open and close theirs meanwhile, so only a lower bound is certain.
        let held: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(open_descriptors() >= held.len() + 3);
    }
}
