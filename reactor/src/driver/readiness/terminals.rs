//! Terminals that belong to another job. Such a terminal is neither read nor polled: reading it would stop this process
//! (SIGTTIN) or take what was typed for the other job, and each key would wake the loop.

use std::time::Duration;

use super::super::Driver;
use super::Readiness;
use super::interest::Polled;
use crate::sys::Sys;
use crate::time::Time;
use crate::token::ConnectionId;

/// How often these terminals are looked at again. No event says that a terminal has come back to this job.
const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// Terminals that belong to another job, and the time of the last look.
#[derive(Default)]
pub(super) struct Terminals {
    background: Vec<ConnectionId>,
    probed: Time,
}

impl Terminals {
    /// The longest wait after which these terminals have to be looked at again.
    pub(super) fn wait_at_most(&self) -> Option<Duration> {
        (!self.background.is_empty()).then_some(PROBE_PERIOD)
    }
}

impl<S: Sys> Readiness<S> {
    /// Stops reading and polling a terminal that has passed to another job. Asked before each read, since a terminal changes
    /// hands at any time (`fg`, `bg`).
    #[cold]
    pub(super) fn leave_terminal(&mut self, id: ConnectionId) {
        self.set_polled(id, Polled::Background);
        self.terminals.background.push(id);
        self.terminals.probed = self.sys.now();
    }

    /// Takes up the terminals that have come back to this job.
    pub(super) fn probe_terminals(&mut self) {
        if self.terminals.background.is_empty() {
            return;
        }
        let now = self.sys.now();
        if now.since(self.terminals.probed) < PROBE_PERIOD {
            return;
        }
        self.terminals.probed = now;
        let mut background = std::mem::take(&mut self.terminals.background);
        background.retain(|&id| {
            let Some(fd) = self.slot(id).map(|slot| slot.fd) else { return false };
            if self.sys.is_anothers_terminal(fd) {
                return true;
            }
            self.set_polled(id, Polled::No);
            self.changed(id);
            false
        });
        self.terminals.background = background;
    }
}
