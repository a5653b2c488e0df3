//! The requests of a handler as the flags of a link show them, for a context made by hand.

use std::time::Duration;

use super::flags::*;
use super::{Link, Phase};
use crate::time::Time;

/// The requests of a handler for one connection, as far as the link remembers the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) closing: bool,
    pub(crate) resets: bool,
    pub(crate) finishing: bool,
    pub(crate) paused: bool,
    pub(crate) waits_for_output: bool,
    pub(crate) offers_again: bool,
    pub(crate) reads_on: bool,
    /// Counts from the end of the callback.
    pub(crate) deadline: Option<Duration>,
}

impl Link {
    pub(crate) fn requests(&self) -> Requests {
        let over = self.phase == Phase::Over;
        Requests {
            closing: over || !self.is_open(),
            resets: self.resets(),
            finishing: self.flags.has(FINISHING),
            paused: self.flags.has(PAUSED),
            waits_for_output: self.flags.has(WAITING),
            offers_again: self.flags.has(OFFER_DUE),
            reads_on: self.flags.has(RELAYED),
            deadline: (self.deadline != Time::NEVER).then(|| self.deadline.since(Time::default())),
        }
    }
}
