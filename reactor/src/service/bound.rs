//! A service whose addresses are bound.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::context::Terms;
use crate::layer::Layers;
use crate::sys::listen::Listens;

/// A listener of a service. `None`: another loop has it.
pub(crate) type BoundListener = (Option<Box<dyn Listens>>, Option<Layers>);

/// A service whose addresses are bound, without its types.
pub(crate) struct Bound {
    pub(crate) terms: Terms,
    /// One of the loops accepts from them; the others know of each that it is there. With each, what makes the layers of its
    /// connections.
    pub(crate) listeners: Vec<BoundListener>,
    pub(crate) refusal: Bytes,
    pub(crate) reads_first: bool,
    /// Its connections on all loops.
    pub(crate) counts: Arc<Counts>,
}

/// The connections of one service on all loops. Changed when one comes and when one ends.
#[derive(Default)]
pub(crate) struct Counts {
    accepted: AtomicUsize,
    closed: AtomicUsize,
    refused: AtomicUsize,
}

impl Counts {
    /// One is accepted.
    pub(crate) fn come(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was accepted has ended.
    pub(crate) fn go(&self) {
        self.closed.fetch_add(1, Ordering::Release);
    }

    /// Nobody is going to serve one that was accepted.
    pub(crate) fn take_back(&self) {
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        self.refuse();
    }

    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were accepted and have not ended.
    pub(crate) fn open(&self) -> usize {
        // In this order, since none ends before it has come.
        let closed = self.closed.load(Ordering::Acquire);
        self.accepted.load(Ordering::Relaxed).saturating_sub(closed)
    }
}

impl fmt::Display for Counts {
    /// For the operator. What is accepted is open or closed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = self.closed.load(Ordering::Acquire);
        let accepted = self.accepted.load(Ordering::Relaxed).max(closed);
        let (open, refused) = (accepted - closed, self.refused.load(Ordering::Relaxed));
        write!(f, "accepted {accepted}, open {open}, closed {closed}, refused {refused}")
    }
}

impl Bound {
    /// A service that the crate itself has, and that listens nowhere.
    pub(crate) fn internal(terms: Terms) -> Self {
        Bound { terms, listeners: Vec::new(), refusal: Bytes::new(), reads_first: false, counts: Arc::default() }
    }

    /// The same service for a loop that accepts nobody by itself.
    pub(crate) fn for_another_loop(&self) -> Self {
        Bound {
            terms: self.terms.clone(),
            listeners: self.listeners.iter().map(|(_, layers)| (None, layers.clone())).collect(),
            refusal: self.refusal.clone(),
            reads_first: self.reads_first,
            counts: self.counts.clone(),
        }
    }
}
