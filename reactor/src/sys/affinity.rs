//! The cores that a thread may run on: sched_setaffinity(2), which applies to the calling thread and to threads that it
//! starts later. Linux only.

use std::fmt;

use crate::error::Error;

/// Bits in a word of a mask.
const WORD_BITS: usize = usize::BITS as usize;

/// A set of cores, at least one, with a bit for each core.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Cores(Box<[usize]>);

impl Cores {
    /// Returns the cores that this thread may run on.
    pub(crate) fn of_this_thread() -> Result<Self, Error> {
        mask().map(Cores)
    }

    /// Returns a single core: the core at place `number`, counted in turn from the first core again.
    pub(crate) fn one(&self, number: usize) -> Self {
        let core = self.numbers().cycle().nth(number % self.numbers().count().max(1)).unwrap_or(0);
        let mut words = vec![0; self.0.len()].into_boxed_slice();
        words[core / WORD_BITS] = 1 << (core % WORD_BITS);
        Cores(words)
    }

    /// Restricts this thread, and threads that it starts later, to these cores.
    pub(crate) fn keep_to(&self) -> Result<(), Error> {
        set_mask(&self.0)
    }

    fn numbers(&self) -> impl Iterator<Item = usize> + Clone {
        (0..self.0.len() * WORD_BITS).filter(|core| self.0[core / WORD_BITS] >> (core % WORD_BITS) & 1 == 1)
    }
}

/// Shows a list: `0,1,5`.
impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.numbers().enumerate().try_for_each(|(place, core)| {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{core}")
        })
    }
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cores({self})")
    }
}

/// Restores the cores of a thread.
pub(crate) struct Restore(Cores);

impl Restore {
    /// Makes a value whose drop restores `before`. Drop the value on the thread that made it.
    pub(crate) fn new(before: Cores) -> Self {
        Restore(before)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = self.0.keep_to() {
            log::warn!("the cores of a thread were not restored: {error}");
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux::{mask, set_mask};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use crate::error::{Errno, Error};
    use crate::sys::call::check;

    /// Largest mask, in words: the kernel supports at most 8,192 cores. The kernel writes no mask shorter than its own,
    /// so a mask that is too short is doubled up to this size.
    const WORDS_MAX: usize = 1024;

    pub(super) fn mask() -> Result<Box<[usize]>, Error> {
        let mut words = vec![0_usize; 16];
        loop {
            // SAFETY: the kernel writes at most the given number of bytes, and `words` has as many. 0 is this thread.
            let outcome = check(unsafe { libc::sched_getaffinity(0, size_of_val(&*words), words.as_mut_ptr().cast()) });
            match outcome {
                Ok(_) => return Ok(words.into_boxed_slice()),
                Err(Errno(libc::EINVAL)) if words.len() < WORDS_MAX => words.resize(words.len() * 2, 0),
                Err(errno) => return Err(failed("asking which cores a thread may use", errno)),
            }
        }
    }

    pub(super) fn set_mask(words: &[usize]) -> Result<(), Error> {
        // SAFETY: the kernel reads at most the given number of bytes, and `words` has as many. 0 is this thread.
        check(unsafe { libc::sched_setaffinity(0, size_of_val(words), words.as_ptr().cast()) })
            .map(drop)
            .map_err(|errno| failed("pinning a thread", errno))
    }

    fn failed(what: &'static str, errno: Errno) -> Error {
        Error::System { what, cause: errno.into() }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
use elsewhere::{mask, set_mask};

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod elsewhere {
    use crate::error::Error;

    pub(super) fn mask() -> Result<Box<[usize]>, Error> {
        Err(Error::Runner { why: "pinning needs Linux".to_owned() })
    }

    pub(super) fn set_mask(_: &[usize]) -> Result<(), Error> {
        mask().map(drop)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn each_number_gets_one_core_in_turn_and_the_first_again_after_the_last() {
        let cores = Cores([0b1010_usize, 0, 1 << (WORD_BITS - 1)].into());
        let last = 3 * WORD_BITS - 1;
        assert_eq!(cores.to_string(), format!("1,3,{last}"));
        let each: Vec<String> = (0..7).map(|number| cores.one(number).to_string()).collect();
        let last = last.to_string();
        assert_eq!(each, ["1", "3", &last, "1", "3", &last, "1"]);
        assert_eq!(cores.one(usize::MAX).to_string().split(',').count(), 1);
    }

    #[test]
    fn a_thread_keeps_to_a_core_and_has_all_of_them_back() {
        let before = Cores::of_this_thread().unwrap();
        let restore = Restore::new(before.clone());
        let one = before.one(1);
        one.keep_to().unwrap();
        assert_eq!(Cores::of_this_thread().unwrap(), one);
        let there = std::thread::spawn(|| Cores::of_this_thread().unwrap()).join().unwrap();
        assert_eq!(there, one, "those that it starts are there too");
        drop(restore);
        assert_eq!(Cores::of_this_thread().unwrap(), before);
    }

    #[test]
    fn no_core_at_all_is_refused() {
        let none = Cores([0_usize; 16].into());
        assert!(matches!(none.keep_to(), Err(Error::System { what: "pinning a thread", .. })));
    }
}
