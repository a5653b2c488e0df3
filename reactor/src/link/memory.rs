//! A link and the application's memory budget: the memory that the link holds, and its end when memory is short.

use super::flags::*;
use super::{Link, Origin, Phase};
use crate::budget::{Holding, Holdings, LayerBytes, StateBytes};
use crate::buffer::Pool;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Time;

/// Bytes that may stay queued for a connection that closes for lack of memory: the rest of a message that has begun to
/// leave, and the handler's last words. A longer output is reset, because nobody knows when the peer would take it, and
/// where it could be cut.
const LAST_WORDS_MAX: usize = 128 * 1024;

impl Link {
    /// Notes that kept input has changed. The link is counted when it rests, after its answers have left.
    pub(crate) fn set_unweighed(&mut self) {
        self.flags.set(UNWEIGHED);
    }

    /// The handler tells how many heap bytes the connection's state holds. Returns whether that is a change.
    pub(crate) fn set_state_bytes(&mut self, bytes: usize) -> bool {
        let now = StateBytes::of(bytes);
        let before = self.holding.state;
        self.holding.state = now;
        if before != now {
            self.flags.set(UNWEIGHED);
        }
        before != now
    }

    /// The connection's layer holds this many bytes.
    pub(super) fn set_layer_bytes(&mut self, bytes: usize) {
        self.holding.layer = LayerBytes::of(bytes);
        self.flags.set(UNWEIGHED);
    }

    /// Counts the memory of this link in the budget. Called whenever the link rests, so memory that lasts a single turn
    /// is never counted.
    #[inline]
    pub(crate) fn weigh(&mut self, holdings: &mut Holdings) {
        self.flags.clear(UNWEIGHED);
        if self.output.is_some() || self.kept.is_some() || self.holding != Holding::default() {
            self.weigh_anew(holdings);
        }
    }

    #[inline(never)]
    fn weigh_anew(&mut self, holdings: &mut Holdings) {
        // Channels between processes of this application, and watched descriptors, have bounds of their own.
        if matches!(self.origin, Origin::Channel | Origin::Watched) {
            return;
        }
        if let Some(output) = &mut self.output {
            output.count_payloads(&holdings.budget);
        }
        let now = self.holds();
        if now != self.holding {
            holdings.change(self.holding, now);
            self.holding = now;
        } else {
            // The last holder of a shared payload gives the payload back without a change of its own bytes.
            holdings.set_changed();
        }
    }

    /// The present memory of this link.
    fn holds(&self) -> Holding {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.memory());
        let (own, all) = self.output.as_ref().map_or((0, 0), |output| (output.own_memory(), output.all_memory()));
        Holding::of(kept + own, kept + all, self.holding.state, self.holding.layer)
    }

    /// The memory of this link at its last rest.
    pub(crate) fn holding(&self) -> Holding {
        self.holding
    }

    /// Removes an ended link, whose buffers are given back, from the budget.
    pub(crate) fn weigh_nothing(&mut self, holdings: &mut Holdings) {
        let before = std::mem::take(&mut self.holding);
        if before != Holding::default() {
            holdings.change(before, Holding::default());
        }
    }

    /// Stops or resumes reading, as the memory budget decides. Returns whether the state has changed.
    pub(crate) fn set_suspended(&mut self, is: bool) -> bool {
        let was = self.flags.has(SUSPENDED);
        self.flags.put(SUSPENDED, is);
        was != is
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.flags.has(SUSPENDED)
    }

    /// Starts to close one of the largest holders for lack of memory. Waiting messages and kept input are dropped at
    /// once, and the handler may write its last words. Returns the number of dropped messages, and of dropped bytes of
    /// input. A link that is closing already, and still holds much, ends now, as does a link whose layer holds most.
    pub(crate) fn run_out_of_memory(&mut self, limits: &Limits, pool: &mut Pool) -> (u64, usize) {
        self.flags.clear(SUSPENDED);
        let unread = self.kept.take().map_or(0, |kept| kept.len());
        // Before the end of its layer's handshake, no handler knows the connection.
        let is_unknown = self.phase == Phase::Connecting && self.origin.is_counted_in();
        // Only the close frees the memory of a layer.
        let is_in_layer = self.holding.is_mostly_of_layer();
        if !self.is_open() || is_unknown || is_in_layer || self.flags.has(SLOW_REPORTED) {
            self.abort(CloseReason::Memory);
            return (0, unread);
        }
        self.flags.set(TOO_SLOW.and(OUT_OF_MEMORY));
        let output = self.output.get_or_insert_with(|| pool.take_output(limits));
        (output.drop_messages(), unread)
    }

    /// Whether the link has given memory back already, and the loop must still finish its end.
    pub(crate) fn is_giving_back(&self) -> bool {
        // The handler may have closed the link meanwhile: then it has no last words, and gives nothing back by itself.
        let has_last_words = self.is_open() && self.flags.has(OUT_OF_MEMORY) && !self.flags.has(SLOW_REPORTED);
        self.phase == Phase::Over || has_last_words
    }

    /// Bytes that come back when the loop settles and resets the link.
    pub(crate) fn to_come_back(&self) -> usize {
        let is_reset = self.phase == Phase::Over || self.queued() > LAST_WORDS_MAX;
        if self.is_giving_back() && is_reset { self.holding.own() } else { 0 }
    }

    /// Closes for lack of memory, after the handler's last words.
    pub(super) fn close_for_memory(&mut self, now: Time) {
        if self.phase == Phase::Connecting || self.queued() > LAST_WORDS_MAX {
            return self.abort(CloseReason::Memory);
        }
        self.close_because(CloseReason::Memory, now);
    }

    /// The counted shared payloads of the link: end address and length of each.
    #[cfg(feature = "sim")]
    pub(crate) fn payloads(&self) -> Vec<(usize, usize)> {
        self.output.as_ref().map_or_else(Vec::new, |output| output.payloads())
    }

    /// The link's own bytes in memory, for a comparison with the counted bytes.
    #[cfg(feature = "sim")]
    pub(crate) fn own_memory(&self) -> usize {
        if matches!(self.origin, Origin::Channel | Origin::Watched) { 0 } else { self.holds().own() }
    }
}
