//! The memory of an output, as counted by the pool and by the application's memory budget.

use std::sync::Arc;

use super::{Output, Piece};
use crate::budget::Budget;

impl Output {
    pub(crate) fn capacity(&self) -> usize {
        self.copied.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Bytes of memory of this output alone. Reserved memory that was never written does not count: the system has not
    /// given it yet.
    pub(crate) fn own_memory(&self) -> usize {
        let backlogs = [&self.behind, &self.spare];
        self.copied.len()
            + self.pieces.capacity() * size_of::<Piece>()
            + backlogs.into_iter().flatten().map(|backlog| backlog.capacity()).sum::<usize>()
    }

    /// Bytes of memory of this output and its shared payloads.
    pub(crate) fn all_memory(&self) -> usize {
        let queued = self.of_head() - self.filed + self.behind.as_ref().map_or(0, |behind| behind.in_memory());
        self.own_memory().max(queued)
    }

    /// Counts the shared payloads added since the last call. Each payload is visited once.
    #[inline]
    pub(crate) fn count_payloads(&mut self, budget: &Arc<Budget>) {
        if self.uncounted != 0 {
            let shared = self.pieces.iter_mut().rev().filter_map(|piece| match piece {
                Piece::Shared(payload) => Some(payload),
                Piece::Copied(_) | Piece::File(_) => None,
            });
            shared.take(std::mem::take(&mut self.uncounted)).for_each(|payload| payload.count(budget));
        }
        if let Some(behind) = &mut self.behind {
            behind.count_payloads(budget);
        }
    }

    /// The end address and the length of each shared payload.
    #[cfg(feature = "sim")]
    pub(crate) fn payloads(&self) -> Vec<(usize, usize)> {
        let of_head = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Shared(payload) => Some(payload.name()),
            Piece::Copied(_) | Piece::File(_) => None,
        });
        of_head.chain(self.behind.iter().flat_map(|behind| behind.payloads())).collect()
    }

    /// Drops the waiting messages, and gives back unused memory. Returns the number of dropped messages.
    pub(crate) fn drop_messages(&mut self) -> u64 {
        let dropped = self.behind.as_mut().map_or(0, |behind| behind.drop_messages());
        self.put_empty_backlog_away();
        self.spare = None;
        if let Some(behind) = &mut self.behind {
            behind.shrink();
        }
        self.pieces.shrink_to_fit();
        self.copied.drain(..self.sent);
        self.run -= self.sent;
        self.sent = 0;
        self.copied.shrink_to_fit();
        dropped
    }
}
