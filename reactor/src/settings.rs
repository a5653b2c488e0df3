//! The settings that an application gives to its loops. Above: the loop, the runners and the application.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::budget::Budget;
use crate::context::{Context, NoHandler};
use crate::sys::signal::Signals;
use crate::time::Time;

/// The settings that every loop of an application has from the beginning.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Time from the beginning of a stop until connections are aborted. `None`: no limit.
    pub(crate) drain_timeout: Option<Duration>,
    /// How much earlier than the application this loop aborts its connections.
    pub(crate) drain_margin: Duration,
    /// Connections of all services at once; one more is refused.
    pub(crate) connections: Option<usize>,
    /// Descriptors of connections; one more connection waits in the backlog.
    pub(crate) descriptors: usize,
    /// Per-connection loops at once; one more connection waits in the backlog.
    pub(crate) per_connection: usize,
    /// A callback that holds the loop for longer is named in the log.
    pub(crate) slow_callback: Duration,
    pub(crate) on_report: Reports,
    /// The memory that all connections together may hold.
    pub(crate) budget: Arc<Budget>,
}

/// Signals of the process, which the first loop answers.
pub(crate) struct Orders {
    pub(crate) signals: Option<Arc<Signals>>,
    pub(crate) on_reopen: Reopen,
}

/// The action of SIGHUP, in the parent and in children.
pub(crate) type Reopen = Arc<Mutex<dyn FnMut() + Send>>;
/// The receiver of the reports of all loops.
pub(crate) type Reports = Arc<Mutex<dyn FnMut(&str) + Send>>;

/// The function of an application's periodic work.
pub(crate) type Work = Box<dyn FnMut(&mut Context<'_, NoHandler, NoHandler>) + Send>;

/// Periodic work of an application.
pub(crate) struct Periodic {
    pub(crate) period: Duration,
    pub(crate) work: Work,
    /// The next call, on the schedule of the beginning, however late the loop was.
    pub(crate) at: Time,
}

impl Periodic {
    /// Plans the next call, and leaves missed ticks out.
    pub(crate) fn advance(&mut self, now: Time) {
        let missed = now.since(self.at).as_nanos() / self.period.as_nanos().max(1);
        let ticks = u32::try_from(missed + 1).unwrap_or(u32::MAX);
        self.at = self.at + self.period.saturating_mul(ticks);
    }
}
