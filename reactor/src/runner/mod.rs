//! Who serves an accepted connection.

pub(crate) mod loops;

use crate::error::Error;
use crate::service::Host;

/// The most loops that an application can have: the name of a connection has a byte for its loop.
const LOOPS_MAX: usize = 256;

/// Who serves a connection that was accepted: one of some event loops, each on a thread of its own.
///
/// ```
/// use reactor::Runner;
/// assert_eq!(Runner::default(), Runner::loops(1)?);
/// assert!(Runner::loops(0).is_err());
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner(Model);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    Loops(usize),
}

impl Runner {
    /// So many event loops, 1 to 256, each on a thread, the first on the one that calls
    /// [`Application::run`](crate::Application::run). They share nothing but what a handler's factory gives them: each has
    /// its own handlers, and a connection stays with its loop. The first accepts for all, and hands each newcomer to the
    /// loop that has the fewest.
    ///
    /// # Errors
    /// [`Error::Runner`] for another number.
    pub fn loops(count: usize) -> Result<Self, Error> {
        if (1..=LOOPS_MAX).contains(&count) {
            return Ok(Runner(Model::Loops(count)));
        }
        Err(Error::Runner { why: format!("{count} loops: it is 1 to {LOOPS_MAX}") })
    }

    /// Loops that run as long as the application does.
    pub(crate) fn count(self) -> usize {
        let Model::Loops(count) = self.0;
        count
    }
}

impl Default for Runner {
    /// One loop.
    fn default() -> Self {
        Runner(Model::Loops(1))
    }
}

/// Makes a service's handler, on the thread of the loop that it is for.
pub(crate) type Build = Box<dyn FnOnce(u16) -> Box<dyn Host> + Send>;
