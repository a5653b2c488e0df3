//! The record of the writes of the exercise's handlers, and the comparison with the sent bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::random::mixed;
use crate::reason::CloseReason;
use crate::sim::ledger::Books;
use crate::sim::veil::{END, MASK, unveiled};
use crate::sys::simulated::{Shared, Stage};
use crate::token::ConnectionId;

/// The orders of a handler for one connection, and its callbacks.
#[derive(Default)]
pub(super) struct Told {
    /// Accepted writes, and publications while the connection was a member.
    pub(super) written: Vec<Part>,
    /// Number of the handler's own bytes in `written`, which form a pattern.
    pub(super) own: usize,
    /// Notices written in place of missed messages, in order.
    pub(super) notices: Vec<Vec<u8>>,
    /// Some parts were published; whether the last ones were taken is unknown.
    pub(super) published: bool,
    pub(super) member: bool,
    pub(super) reason: Option<CloseReason>,
    pub(super) deadline: Option<Duration>,
}

/// Bytes that leave completely; a publication may also be left out.
pub(super) struct Part {
    pub(super) bytes: Vec<u8>,
    pub(super) message: bool,
}

#[derive(Default)]
pub(super) struct Trial {
    told: Mutex<HashMap<ConnectionId, Told>>,
}

impl Trial {
    pub(super) fn told(&self) -> MutexGuard<'_, HashMap<ConnectionId, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A byte that reveals missing, doubled and misplaced bytes.
pub(super) fn pattern(id: ConnectionId, at: usize) -> u8 {
    mixed(id.to_u64() ^ (at as u64 / 8).wrapping_mul(0x9E37_79B9)).to_le_bytes()[at % 8]
}

impl Told {
    /// Compares the sent bytes with the record: everything in order, except missed messages with their notice, and
    /// messages that waited for a member that was too slow. Returns the number of unsent bytes.
    fn left_over(&self, taken: &[u8], missed: &[(usize, u64)], too_slow: bool) -> Result<usize, String> {
        if too_slow {
            // A part that had begun has left, and then only the handler's own bytes.
            let fits = |kept: usize| {
                let parts = self.written.iter().enumerate().filter(|(at, part)| *at < kept || !part.message);
                self.in_order(parts.map(|(_, part)| part), taken, missed).is_ok()
            };
            let fits = (0..=self.written.len()).any(fits);
            return if fits { Ok(0) } else { Err("what left is not what was written before it was too slow".into()) };
        }
        self.in_order(self.written.iter(), taken, missed)
    }

    /// The comparison for these parts of the record.
    fn in_order<'p>(
        &self,
        mut parts: impl Iterator<Item = &'p Part>,
        taken: &[u8],
        missed: &[(usize, u64)],
    ) -> Result<usize, String> {
        let (mut at, mut notices) = (0, missed.iter().zip(&self.notices).peekable());
        loop {
            // A notice comes before all other parts at its place.
            while let Some((&(_, count), notice)) = notices.next_if(|((place, _), _)| *place == at) {
                for _ in 0..count {
                    match parts.next() {
                        Some(part) if part.message => {}
                        Some(_) => return Err(format!("an answer is among the {count} messages missed at {at}")),
                        None => return Err(format!("fewer than {count} messages were missed at {at}")),
                    }
                }
                let end = taken.len().min(at + notice.len());
                if !notice.starts_with(&taken[at..end]) {
                    return Err(format!("what left at {at} is not what was said of {count} missed messages"));
                }
                at = end;
                if at == taken.len() {
                    return Ok(parts.map(|part| part.bytes.len()).sum());
                }
            }
            let Some(part) = parts.next() else { break };
            let end = taken.len().min(at + part.bytes.len());
            if !part.bytes.starts_with(&taken[at..end]) {
                return Err(format!("what left between {at} and {end} is not what was written"));
            }
            let rest = part.bytes.len() - (end - at);
            at = end;
            if rest > 0 {
                return Ok(rest + parts.map(|part| part.bytes.len()).sum::<usize>());
            }
        }
        if at < taken.len() { Err("more has left than was written".into()) } else { Ok(0) }
    }
}

pub(super) struct Checks {
    pub(super) network: Shared,
    pub(super) books: Books,
    pub(super) trial: Arc<Trial>,
}

impl Checks {
    /// Checks that the sent bytes equal the record, in order, and completely if the reason of the end says so.
    pub(super) fn output(&self) {
        let network = self.network.borrow();
        let told = self.trial.told();
        let mut ids: Vec<_> = network.ids.iter().collect();
        ids.sort();
        for (&id, &index) in ids {
            let line = &network.lines[index];
            let Some(told) = told.get(&id) else { continue };
            let entry = self.books.borrow().entries.get(&id).cloned().unwrap_or_default();
            if line.layered && (entry.too_slow || !entry.missed.is_empty()) {
                // Dropped messages are counted from the last sealed byte, which the wire does not tell.
                continue;
            }
            let left_over = if line.layered {
                let text = unveiled(&line.taken);
                let compare = |text: &[u8]| told.left_over(text, &[], false);
                // The last byte may be the end of the layer.
                compare(&text).or_else(|why| match text.split_last() {
                    Some((&last, text)) if last == END ^ MASK => compare(text),
                    _ => Err(why),
                })
            } else {
                told.left_over(&line.taken, &entry.missed, entry.too_slow)
            };
            let left_over = left_over.unwrap_or_else(|why| network.violation(&format!("connection {id}: {why}")));
            let all = matches!(told.reason, Some(CloseReason::PeerEnded | CloseReason::Closed | CloseReason::Stopped));
            if all && line.stage == Stage::Open && left_over > 0 && !told.published {
                let reason = told.reason;
                network
                    .violation(&format!("connection {id}: {left_over} bytes written never left, and it is {reason:?}"));
            }
            // Both halves have ended, and the peer has read to the end.
            let read_all = line.pace == (usize::MAX, 0) && !line.left && line.end_arrived;
            if told.reason == Some(CloseReason::PeerEnded) && read_all && (line.cut || !line.heard_end) {
                network.violation(&format!("connection {id} ended in order, and its peer did not see that"));
            }
        }
    }
}
