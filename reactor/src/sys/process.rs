//! The process as a whole: how many descriptors it may have, how many it has, which one it is.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::time::Duration;

use super::call::{check, retry};

/// The most descriptors that macOS lets a process ask for (OPEN_MAX), though it calls the hard limit infinite.
const OPEN_MAX: libc::rlim_t = 10_240;

/// Raises the soft limit on descriptors to the hard one; returns what is in force then. Shells start programs at 1,024,
/// for the sake of those that call `select` on an `fd_set`; nothing here does.
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

/// How long the calling thread has been ready to run, in all, and another one had the core. None where the system keeps no account
/// of it. Three system calls, and no descriptor is kept.
pub(super) fn waited_for_a_core() -> Option<Duration> {
    let mut text = [0; 64];
    let length = File::open("/proc/thread-self/schedstat").ok()?.read(&mut text).ok()?;
    // Nanoseconds on a core, nanoseconds ready for one, and how often it had one.
    let waited = str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(1)?;
    Some(Duration::from_nanos(waited.parse().ok()?))
}

/// How many descriptors are open: what a test compares before and after. Not cheap: it lists or tries them all.
pub(crate) fn open_descriptors() -> usize {
    match std::fs::read_dir("/proc/self/fd") {
        // One of them is the listing itself.
        Ok(listing) => listing.count().saturating_sub(1),
        Err(_) => {
            let limit = RawFd::try_from(descriptor_limit().rlim_cur).unwrap_or(RawFd::MAX).min(65_536);
            // SAFETY: F_GETFD takes no third argument and changes nothing.
            (0..limit).filter(|&fd| retry(|| unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok()).count()
        }
    }
}

/// This process, asked anew each time: after a fork it is another.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

fn descriptor_limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, and `limit` is one. The call can't fail: the resource exists everywhere.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit
}

/// Runs `child` in a forked process, and tells how it ended. Other threads of this process may have held locks that
/// nobody opens there: the child may use memory (glibc sees to that lock), and nothing else that is shared. Hold
/// `FORKS`.
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
