//! A service on one loop: the handler, and the refusals of the service.

use crate::host::Host;
use crate::time::{LogLimit, Time};

/// A handler with its refused connections.
pub(crate) struct Served {
    pub(crate) host: Box<dyn Host>,
    /// Refused connections that are still sent their refusal.
    pub(crate) refused: usize,
    refusal_log: LogLimit,
    /// Refusals since the last log line about refusals.
    refusals: usize,
}

impl Served {
    pub(crate) fn new(host: Box<dyn Host>) -> Self {
        Served { host, refused: 0, refusal_log: LogLimit::default(), refusals: 0 }
    }

    /// Counts a connection of this loop that is refused at a limit. Returns the number of refusals since the last line of the log, when the
    /// next line is due.
    pub(crate) fn count_refusal(&mut self, now: Time) -> Option<usize> {
        self.refusals += 1;
        self.refusal_log.passes(now).then(|| std::mem::take(&mut self.refusals))
    }
}
