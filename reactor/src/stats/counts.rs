//! The connections of one service, on all loops.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts of a service's connections, on all loops. Changed when a connection comes and when a connection ends.
#[derive(Default)]
pub(crate) struct Counts {
    accepted: AtomicUsize,
    closed: AtomicUsize,
    refused: AtomicUsize,
}

impl Counts {
    /// Counts an accepted connection.
    pub(crate) fn come(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of an accepted connection.
    pub(crate) fn go(&self) {
        self.closed.fetch_add(1, Ordering::Release);
    }

    /// Counts an accepted connection as refused, because no loop serves the connection.
    pub(crate) fn take_back(&self) {
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        self.refuse();
    }

    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of accepted connections that have not ended.
    pub(crate) fn open(&self) -> usize {
        // In this order, since no connection ends before its beginning was counted.
        let closed = self.closed.load(Ordering::Acquire);
        self.accepted.load(Ordering::Relaxed).saturating_sub(closed)
    }
}

impl fmt::Display for Counts {
    /// For the operator. Every accepted connection is open or closed, so the numbers add up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = self.closed.load(Ordering::Acquire);
        let accepted = self.accepted.load(Ordering::Relaxed).max(closed);
        let (open, refused) = (accepted - closed, self.refused.load(Ordering::Relaxed));
        write!(f, "accepted {accepted}, open {open}, closed {closed}, refused {refused}")
    }
}
