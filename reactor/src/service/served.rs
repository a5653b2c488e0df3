//! A service on one loop: the handler, and the counts of the service.

use std::sync::Arc;

use super::Counts;
use crate::host::Host;
use crate::time::{LogLimit, Time};

/// A handler with its number of connections.
pub(crate) struct Served {
    pub(crate) host: Box<dyn Host>,
    /// The service's connections on all loops.
    pub(crate) counts: Arc<Counts>,
    /// Refused connections that are still sent their refusal.
    pub(crate) refused: usize,
    refusal_log: LogLimit,
    /// Refusals since the last log line about refusals.
    refusals: usize,
}

impl Served {
    pub(crate) fn new(host: Box<dyn Host>, counts: Arc<Counts>) -> Self {
        Served { host, counts, refused: 0, refusal_log: LogLimit::default(), refusals: 0 }
    }

    /// Counts a connection that is refused at a limit. Returns the number of refusals since the last line of the log, when the
    /// next line is due.
    pub(crate) fn count_refusal(&mut self, now: Time) -> Option<usize> {
        self.counts.refuse();
        self.refusals += 1;
        self.refusal_log.passes(now).then(|| std::mem::take(&mut self.refusals))
    }
}
