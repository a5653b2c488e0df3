//! A service whose addresses are bound.

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
}

impl Bound {
    /// A service of the crate itself, without listeners.
    pub(crate) fn internal(terms: Terms) -> Self {
        Bound { terms, listeners: Vec::new(), reads_first: false }
    }

    /// A copy of the service for a loop that does not accept.
    pub(crate) fn for_another_loop(&self) -> Self {
        Bound {
            terms: self.terms.clone(),
            listeners: self.listeners.iter().map(|(_, layers)| (None, layers.clone())).collect(),
            reads_first: self.reads_first,
        }
    }
}
