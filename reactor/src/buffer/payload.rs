//! Shared bytes in the output of a connection, and their place in the memory budget.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{Budget, Ticket};
use crate::shared::Shared;

/// Bytes that other connections may hold, too. Counted when the connection first rests with the payload; most payloads leave
/// before.
#[derive(Debug)]
pub(super) struct Payload {
    /// Dropped first, because a counted payload is identified by its address.
    ticket: Option<Ticket>,
    bytes: Shared,
}

impl Payload {
    pub(super) fn new(bytes: Bytes) -> Self {
        Payload { ticket: None, bytes: Shared::new(bytes) }
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Notes that the first `count` bytes have left.
    pub(super) fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    #[cfg(feature = "sim")]
    pub(super) fn name(&self) -> (usize, usize) {
        (self.bytes.as_ptr_range().end as usize, self.bytes.len())
    }

    pub(super) fn count(&mut self, budget: &Arc<Budget>) {
        if self.ticket.is_none() {
            self.ticket = Some(budget.hold(&self.bytes));
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
