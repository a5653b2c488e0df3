//! The sends of a turn in one system call: the choice, the seam, and the system of a loop that has a [`Ring`]. Below: `ring`, the
//! interface of Linux.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod ring;

use std::env;
use std::fmt;
use std::str::FromStr;

use super::kernel::Kernel;
use super::{Fd, Moved};
use crate::error::{Errno, Error};
#[cfg(any(target_os = "linux", target_os = "android"))]
use ring::Ring;

/// The environment variable that decides if the program does not.
const VARIABLE: &str = "REACTOR_BATCH_SENDS";

/// Number of sends from which on one call for all costs less than a call for each. Fewer sends cost up to 6 % more together.
const AUTO_MIN: usize = 256;
/// The least number of sends that can go together.
const ALWAYS_MIN: usize = 2;
/// A number of sends that no turn has.
const NEVER: usize = usize::MAX;

/// Whether the sends at the end of a turn leave in one system call: publications to the members of topics, and writes to other
/// connections than a callback's own. Linux 6.1 or newer can do so (io_uring). Elsewhere, and where a sandbox refuses the interface,
/// each send is a call of its own, and the log says why. Fixed loops only: a loop with one connection has no two sends.
///
/// With `Auto`, the environment variable `REACTOR_BATCH_SENDS` chooses, in any case of letters.
///
/// ```
/// use reactor::BatchSends;
/// assert_eq!("Off".parse::<BatchSends>()?, BatchSends::Off);
/// assert_eq!(BatchSends::default().to_string(), "auto");
/// assert!("on".parse::<BatchSends>().is_err());
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BatchSends {
    /// The value of `REACTOR_BATCH_SENDS`, or else: sends leave together where so many are due that this costs less.
    #[default]
    Auto,
    /// Two sends leave together already, at a higher cost: for tests.
    Always,
    /// Each send is a system call of its own.
    Off,
}

const NAMES: [(BatchSends, &str); 3] =
    [(BatchSends::Auto, "auto"), (BatchSends::Always, "always"), (BatchSends::Off, "off")];

impl BatchSends {
    /// The choice of the program, or of the environment.
    ///
    /// # Errors
    /// [`Error::UnknownBatchSends`] for an unusable value of the variable.
    pub(crate) fn choose(self) -> Result<BatchSends, Error> {
        match env::var(VARIABLE) {
            Ok(name) if self == BatchSends::Auto && !name.is_empty() => name.parse(),
            _ => Ok(self),
        }
    }

    /// The least number of sends that leave together where the system can do so.
    fn least(self) -> usize {
        match self {
            BatchSends::Auto => AUTO_MIN,
            BatchSends::Always => ALWAYS_MIN,
            BatchSends::Off => NEVER,
        }
    }
}

impl FromStr for BatchSends {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|(choice, _)| *choice).ok_or_else(|| Error::UnknownBatchSends { name: name.to_owned() })
    }
}

impl fmt::Display for BatchSends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES.iter().find(|(choice, _)| choice == self).map_or("", |(_, name)| name))
    }
}

/// A system whose sends can leave together.
pub(crate) trait SendsTogether {
    /// Makes sends leave together from now on, if the system can do so. The calling thread is then the only one that may make calls.
    ///
    /// # Errors
    /// The refused call, and the reason.
    fn start_batches(&mut self, choice: BatchSends) -> Result<(), (&'static str, Errno)>;
    /// The least number of sends that leave together; `usize::MAX`: none do.
    fn least_batch(&self) -> usize;
    /// Makes each send as [`Sys::send`](super::Sys::send) does, in order, and adds each outcome. When the method returns, no send is
    /// under way.
    fn send_together<'a>(&mut self, sends: impl Iterator<Item = (Fd, &'a [u8])>, outcomes: &mut Vec<Moved>);
}

/// A system in which no sends leave together, or all that the ring can take.
#[derive(Default)]
pub(super) struct Batches {
    ring: Option<Ring>,
    least: usize,
}

impl Batches {
    /// The ring's own descriptor.
    pub(super) fn held(&self) -> Option<Fd> {
        self.ring.as_ref().map(Ring::held)
    }
}

impl SendsTogether for Kernel {
    fn start_batches(&mut self, choice: BatchSends) -> Result<(), (&'static str, Errno)> {
        if choice != BatchSends::Off {
            self.batches = Batches { ring: Some(Ring::open()?), least: choice.least() };
        }
        Ok(())
    }

    fn least_batch(&self) -> usize {
        if self.batches.ring.is_some() { self.batches.least } else { NEVER }
    }

    fn send_together<'a>(&mut self, mut sends: impl Iterator<Item = (Fd, &'a [u8])>, outcomes: &mut Vec<Moved>) {
        if let Some(ring) = &mut self.batches.ring
            && let Err(errno) = ring.send_all(&mut sends, outcomes)
        {
            log::warn!("sends leave one by one from now on: io_uring_enter: {}", errno.to_io());
            self.batches = Batches::default();
        }
        // Without a ring, or after its failure: the sends that are left.
        outcomes.extend(sends.map(|(fd, bytes)| super::Sys::send(self, fd, bytes)));
    }
}

/// Other systems have no ring.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
enum Ring {}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Ring {
    fn open() -> Result<Ring, (&'static str, Errno)> {
        Err(("io_uring", Errno(libc::ENOSYS)))
    }

    fn held(&self) -> Fd {
        match *self {}
    }

    fn send_all<'a>(&mut self, _: &mut impl Iterator<Item = (Fd, &'a [u8])>, _: &mut Vec<Moved>) -> Result<(), Errno> {
        match *self {}
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests;
