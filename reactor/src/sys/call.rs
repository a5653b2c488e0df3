//! A system call and its errno. After EINTR the call is repeated here, and nowhere else.

use std::io;

use crate::error::Errno;

pub(super) const EINTR: Errno = Errno(libc::EINTR);

/// Attempts a call that a signal may interrupt before the call has any effect.
pub(super) fn attempt<T: PartialEq + From<i8>>(call: impl FnOnce() -> T) -> Result<T, Errno> {
    attempt_checked(|| check(call()))
}

#[inline]
fn attempt_checked<T>(call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    #[cfg(feature = "chaos")]
    if interruptions::strikes() {
        return Err(EINTR);
    }
    call()
}

/// Translates the result of a call: -1 means a failure, with the reason in errno.
pub(super) fn check<T: PartialEq + From<i8>>(answer: T) -> Result<T, Errno> {
    if answer == T::from(-1) { Err(last()) } else { Ok(answer) }
}

/// Repeats the call while signals interrupt it. Not for connect(2), which continues after EINTR; not for close(2); not
/// for a wait, which must not start again with its full time.
pub(super) fn retry<T: PartialEq + From<i8>>(mut call: impl FnMut() -> T) -> Result<T, Errno> {
    retry_checked(|| check(call()))
}

/// Repeats an interrupted call, as [`retry`] does, for calls that return their errno.
#[inline]
pub(super) fn retry_checked<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match attempt_checked(&mut call) {
            Err(EINTR) => {}
            outcome => return outcome,
        }
    }
}

/// Makes a system call without the C library, whose functions for recv(2) and send(2) are points where a thread can be
/// cancelled, and whose `syscall` moves each argument twice.
///
/// # Safety
/// The safety conditions of the system call itself.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[inline(always)]
pub(super) unsafe fn direct(number: libc::c_long, arguments: [usize; 6]) -> Result<isize, Errno> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let answer: isize;
    // SAFETY: the kernel changes the two named registers, and the memory that the caller answers for.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") first, in("rsi") second, in("rdx") third, in("r10") fourth, in("r8") fifth, in("r9") sixth,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if answer < 0 { Err(Errno(-answer as i32)) } else { Ok(answer) }
}

fn last() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Simulated interruptions, for the calls of one thread.
#[cfg(feature = "chaos")]
pub(super) mod interruptions {
    use std::cell::Cell;

    thread_local! {
        /// Number of the next attempts that are interrupted.
        static LEFT: Cell<u32> = const { Cell::new(0) };
    }

    pub(in super::super) fn strikes() -> bool {
        let left = LEFT.get();
        LEFT.set(left.saturating_sub(1));
        left > 0
    }

    /// Runs `calls`, and interrupts their first `count` attempts. Returns also the number of interrupted attempts.
    pub(in super::super) fn of<R>(count: u32, calls: impl FnOnce() -> R) -> (R, u32) {
        LEFT.set(count);
        let outcome = calls();
        (outcome, count - LEFT.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails_with(errno: i32) -> i32 {
        // SAFETY: the location is this thread's own errno, always valid.
        unsafe { *crate::sys::signal::errno_location() = errno };
        -1
    }

    #[test]
    fn a_call_cut_short_is_made_again_and_any_other_failure_is_told() {
        let mut answers = vec![fails_with as fn(i32) -> i32, fails_with, |n| n].into_iter();
        assert_eq!(retry(|| answers.next().unwrap()(libc::EINTR)), Ok(libc::EINTR));
        assert_eq!(retry(|| fails_with(libc::EPERM)), Err(Errno(libc::EPERM)));
    }

    #[cfg(feature = "chaos")]
    #[test]
    fn interruptions_strike_as_many_tries_as_there_are_and_none_after() {
        let mut made = 0;
        let mut call = || {
            made += 1;
            made
        };
        assert_eq!(interruptions::of(3, || retry(&mut call)), (Ok(1), 3));
        assert_eq!(interruptions::of(3, || attempt(&mut call)), (Err(EINTR), 1));
        assert_eq!(attempt(&mut call), Ok(2), "what was left over is gone");
    }
}
