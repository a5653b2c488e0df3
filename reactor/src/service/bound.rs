//! A service whose addresses are bound.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::context::Terms;
use crate::layer::Layers;
use crate::sys::listen::Listens;

/// A listener of a service, and the factory of its connections' layers. `None` for the listener: another loop accepts.
pub(crate) type BoundListener = (Option<Box<dyn Listens>>, Option<Layers>);

/// A service with bound addresses, without its type parameters.
pub(crate) struct Bound {
    pub(crate) terms: Terms,
    /// The listeners of the service. One loop accepts; every other loop has an entry without the listener. Each listener comes
    /// with the factory of its connections' layers.
    pub(crate) listeners: Vec<BoundListener>,
    pub(crate) reads_first: bool,
    /// The service's connections on all loops.
    pub(crate) counts: Arc<Counts>,
}

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

impl Bound {
    /// A service of the crate itself, without listeners.
    pub(crate) fn internal(terms: Terms) -> Self {
        Bound { terms, listeners: Vec::new(), reads_first: false, counts: Arc::default() }
    }

    /// A copy of the service for a loop that does not accept.
    pub(crate) fn for_another_loop(&self) -> Self {
        Bound {
            terms: self.terms.clone(),
            listeners: self.listeners.iter().map(|(_, layers)| (None, layers.clone())).collect(),
            reads_first: self.reads_first,
            counts: self.counts.clone(),
        }
    }
}
