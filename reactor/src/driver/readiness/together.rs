//! Sends of several connections in one system call. The caller learns the outcomes afterwards.

use std::collections::VecDeque;

use super::Readiness;
use crate::link::Sent;
use crate::sys::{Moved, Sys};
use crate::token::ConnectionId;

/// A driver whose sends can leave together. Each outcome waits in the order of the sends, and must be taken before the next call.
pub(crate) trait SendsTogether {
    /// The least number of sends that leave together; `usize::MAX`: none do.
    fn least_batch(&self) -> usize;
    /// Sends to each connection bytes that stand in no output, or that stay in the output until the outcome is noted. A connection
    /// with a layer, or without a socket, is passed over, and has no outcome. Sends to one connection keep their order only if the
    /// first is whole, so no connection may come twice.
    fn send_together<'a>(&mut self, sends: impl Iterator<Item = (ConnectionId, &'a [u8])>);
    /// Takes the next outcome.
    fn next_sent_together(&mut self) -> Option<(ConnectionId, Sent)>;
    /// Takes the next outcome if it is of connection `id`.
    fn sent_together(&mut self, id: ConnectionId) -> Option<Sent>;
}

/// The sends of the last batch. The lists keep their capacity.
#[derive(Default)]
pub(super) struct Together {
    /// The connections in the order of their sends, with the number of offered bytes.
    offered: Vec<(ConnectionId, usize)>,
    moved: Vec<Moved>,
    /// Outcomes that the caller has not taken.
    outcomes: VecDeque<(ConnectionId, Sent)>,
}

impl<S: Sys> SendsTogether for Readiness<S> {
    #[inline]
    fn least_batch(&self) -> usize {
        self.sys.least_batch()
    }

    fn send_together<'a>(&mut self, sends: impl Iterator<Item = (ConnectionId, &'a [u8])>) {
        debug_assert!(self.together.outcomes.is_empty(), "bytes have left, and nobody has noted that");
        let Together { mut offered, mut moved, mut outcomes } = std::mem::take(&mut self.together);
        let (slots, home) = (&self.slots, self.home);
        let of_sockets = sends.filter_map(|(id, bytes)| {
            let slot = slots.get(id.slot_at(home))?.as_ref()?;
            let is_plain = slot.id == id && slot.socket && slot.layer.is_none();
            is_plain.then(|| {
                offered.push((id, bytes.len()));
                (slot.fd, bytes)
            })
        });
        self.sys.send_together(of_sockets, &mut moved);
        outcomes.extend(
            offered.drain(..).zip(moved.drain(..)).map(|((id, count), moved)| (id, self.transmitted(moved, count))),
        );
        self.together = Together { offered, moved, outcomes };
    }

    fn next_sent_together(&mut self) -> Option<(ConnectionId, Sent)> {
        self.together.outcomes.pop_front()
    }

    #[inline]
    fn sent_together(&mut self, id: ConnectionId) -> Option<Sent> {
        let &(of, outcome) = self.together.outcomes.front()?;
        (of == id).then(|| {
            self.together.outcomes.pop_front();
            outcome
        })
    }
}
