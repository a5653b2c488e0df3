//! One system call and what it left in errno. Here, and nowhere else, EINTR turns into another try.

use std::io;

use crate::error::Errno;

pub(super) const EINTR: Errno = Errno(libc::EINTR);

/// What `answer` means: a call that failed answers -1 and leaves the reason in errno.
pub(super) fn check<T: PartialEq + From<i8>>(answer: T) -> Result<T, Errno> {
    if answer == T::from(-1) { Err(last()) } else { Ok(answer) }
}

/// Makes the call again for as long as signals cut it short. Not for connect(2), which goes on by itself after EINTR,
/// nor for close(2), nor for a wait, which must not begin anew with its whole time.
pub(super) fn retry<T: PartialEq + From<i8>>(mut call: impl FnMut() -> T) -> Result<T, Errno> {
    loop {
        match check(call()) {
            Err(EINTR) => {}
            outcome => return outcome,
        }
    }
}

fn last() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
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
}
