//! The reading side of a link: when its peer is read, how input is handled, and what stops reading.

use super::closing::reason_of;
use super::flags::*;
use super::{GREETED, Link, Origin, Phase, Stopping};
use crate::address::Peer;
use crate::budget::Holding;
use crate::buffer::Kept;
use crate::error::Errno;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::sys::errno;
use crate::time::Time;

/// An event of a connection's layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerEvent {
    /// Bytes of the wire have arrived, without plaintext.
    Something,
    /// The stream ended without the end that the layer authenticates.
    Truncated,
    /// The layer cannot process the received bytes.
    Failed,
    /// The layer holds this many bytes of memory.
    Holds(usize),
}

impl Link {
    /// Whether the peer is read. While closing, its bytes are read and discarded.
    #[inline]
    pub(crate) fn reads(&self) -> bool {
        if self.phase == Phase::Open {
            return !self.flags.has(ENDED.and(OFFER_DUE).and(SUSPENDED)) && !self.is_held_back();
        }
        let closing = matches!(self.phase, Phase::Flushing | Phase::Lingering);
        closing && !self.flags.has(ENDED.and(DISCARD_LIMIT_REACHED)) && self.origin != Origin::Watched
    }

    /// Whether the peer is read, its bytes go to the handler as they are, and nothing else is awaited of the connection: the
    /// usual case of `reads`.
    #[inline]
    pub(crate) fn is_plainly_read(&self) -> bool {
        self.phase == Phase::Open && !self.flags.has(NEEDS_STAGES)
    }

    /// Whether the poller reports input as edges. A receive that leaves room in its buffer has then emptied the socket, which is
    /// true of TCP. A Unix socket may have more behind a passed descriptor, and adopted sockets are of any kind. While output
    /// waits, the poller reports the state, so a send may end for any reason.
    pub(crate) fn has_edges(&self) -> bool {
        let is_tcp = matches!(self.peer, Peer::Tcp(_)) && !matches!(self.origin, Origin::Adopted | Origin::Channel);
        is_tcp && self.reads() && !self.writes()
    }

    /// Counts `count` received bytes. Returns whether the handler gets them; if not, `discard` counts them too.
    #[inline]
    pub(crate) fn received(&mut self, count: usize, now: Time) -> bool {
        self.received += count as u64;
        self.active = now;
        if self.stopping != Stopping::No {
            if self.awaits_acknowledgement() {
                // The next look may be earlier, now that the connection lingers as usual.
                self.flags.set(DEADLINE_CHANGED);
            }
            self.flags.set(ANSWERED);
            if matches!(self.stopping, Stopping::Probing | Stopping::Streaming) {
                self.stopping = Stopping::Asked;
            }
        }
        self.phase == Phase::Open
    }

    /// Counts `count` discarded bytes. Above `linger_bytes` reading stops, and a lingering link is over.
    pub(crate) fn discard(&mut self, count: usize, limits: &Limits) {
        self.discarded += count as u64;
        self.discarded_lately = self.discarded_lately.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
        if self.discarded > limits.linger_bytes {
            // Queued output still leaves, or the linger deadline ends the link.
            self.flags.set(DISCARD_LIMIT_REACHED);
            if self.phase == Phase::Lingering {
                self.over(self.reason());
            }
        }
    }

    /// Takes back what a callback left unread. Returns it if the connection is closing, so that nobody is going to read it.
    pub(crate) fn keep(
        &mut self,
        kept: Option<Box<Kept>>,
        consumed: bool,
        limits: &Limits,
        now: Time,
    ) -> Option<Box<Kept>> {
        if consumed {
            self.set_useful();
        }
        let Some(kept) = kept else {
            if self.holding != Holding::default() {
                self.set_unweighed();
            }
            return None;
        };
        if !self.is_open() {
            return Some(kept);
        }
        if kept.len() > limits.input && !self.is_to_be_held_back(limits) {
            self.input_overflowed(limits.input, now);
        }
        self.kept = Some(kept);
        self.set_unweighed();
        None
    }

    /// The peer has ended its half.
    pub(crate) fn end_of_input(&mut self) {
        self.flags.set(ENDED);
        if self.stopping == Stopping::Probing {
            // The end of input answers the probe: no other answer follows.
            self.stopping = Stopping::Asked;
        }
    }

    /// The driver has probed for input, and none had arrived.
    pub(crate) fn nothing_arrived(&mut self) {
        if self.stopping == Stopping::Probing {
            // A link that has been choked meanwhile was not probed.
            let is_heard = self.reads() || self.flags.has(ENDED) || self.phase == Phase::Connecting;
            self.stopping = if is_heard { Stopping::Quiet } else { Stopping::Asked };
        }
    }

    /// Receiving has failed for good.
    pub(crate) fn failed(&mut self, errno: Errno, now: Time) {
        let reason = match self.phase {
            Phase::Connecting => CloseReason::ConnectFailed(errno),
            // All output had left, so the connection ended as it was meant to.
            Phase::Lingering => self.reason.unwrap_or(reason_of(errno)),
            // Kept input is still delivered, unless the handler has paused.
            Phase::Open if self.flags.has(OFFER_DUE) && !self.flags.has(PAUSED) => {
                // A failed send has begun the linger deadline already.
                if !self.flags.has(BROKEN) {
                    self.progressed(now);
                }
                self.flags.set(ENDED.and(BROKEN).and(DEADLINE_CHANGED));
                return;
            }
            _ => reason_of(errno),
        };
        self.over(reason);
    }

    /// Handles an event of the connection's layer.
    pub(crate) fn layer_reported(&mut self, event: LayerEvent, now: Time) {
        match (event, self.phase) {
            (LayerEvent::Holds(bytes), _) => self.set_layer_bytes(bytes),
            (LayerEvent::Something, Phase::Connecting) => {
                self.marks.set(GREETED);
                if self.stopping == Stopping::Probing {
                    self.stopping = Stopping::Quiet;
                }
            }
            (LayerEvent::Something, _) => {
                if self.stopping == Stopping::Probing {
                    self.stopping = Stopping::Asked;
                }
            }
            (LayerEvent::Truncated, Phase::Connecting) => self.over(CloseReason::Handshake),
            (LayerEvent::Truncated, Phase::Open) => self.failed(errno::RESET, now),
            (LayerEvent::Truncated, _) => self.end_of_input(),
            (LayerEvent::Failed, Phase::Connecting) => self.linger_because(CloseReason::Handshake, now),
            (LayerEvent::Failed, _) => self.linger_because(CloseReason::Failed(errno::PROTOCOL), now),
        }
    }

    /// Whether input may still reach the handler: more may arrive, or kept input waits for its offer.
    pub(super) fn has_more_to_say(&self) -> bool {
        !self.flags.has(ENDED) || self.flags.has(OFFER_DUE)
    }

    /// Whether the connection's own state stops reading, so that kept input does not grow.
    #[inline]
    pub(crate) fn is_held_back(&self) -> bool {
        self.flags.has(HOLDS_BACK) || (self.flags.has(CHOKED) && !self.flags.has(RELAYED))
    }

    /// Whether `is_held_back` is true, or becomes true at the next step because more is queued than `output_high`.
    pub(crate) fn is_to_be_held_back(&self, limits: &Limits) -> bool {
        self.is_held_back() || (self.queued() > limits.output_high && !self.flags.has(RELAYED))
    }

    /// Delivers no more input until `resume`.
    pub(crate) fn pause(&mut self) {
        self.flags.set(PAUSED);
    }

    /// Ends a pause. Kept input is offered before the socket is read again. The offer checks for kept input, because
    /// during a callback the loop has it.
    pub(crate) fn resume(&mut self) {
        if self.flags.take(PAUSED) {
            self.flags.set(OFFER_DUE);
        }
    }

    /// Stops reading, because publications or posts of this connection wait for room at another loop.
    pub(crate) fn hold(&mut self) {
        self.flags.set(HELD);
    }

    /// Resumes reading, because all publications and posts of this connection have found room.
    pub(crate) fn release_hold(&mut self) {
        if self.flags.take(HELD) && self.kept.is_some() {
            self.flags.set(OFFER_DUE);
        }
    }

    /// Offers input that the handler leaves unread again in the next turn.
    pub(crate) fn offer_next_turn(&mut self, turn: u32) {
        if self.is_open() {
            self.flags.set(OFFER_DUE);
            self.offered_turn = turn as u16;
        }
    }

    /// From now on the peer is read for any length of the output. Input that was kept because of the output is offered.
    pub(crate) fn read_on(&mut self) {
        let begins = !self.flags.has(RELAYED);
        self.flags.set(RELAYED);
        if begins && self.flags.has(CHOKED) {
            self.flags.set(OFFER_DUE);
        }
    }

    /// Stops reading, and offers no kept input, until all queued output has left. With an empty output, kept input is
    /// offered in the next turn.
    pub(crate) fn wait_for_output(&mut self, turn: u32) {
        if self.queued() == 0 {
            self.offer_next_turn(turn);
        } else if self.is_open() {
            self.flags.set(WAITING);
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn is_paused(&self) -> bool {
        self.flags.has(PAUSED)
    }

    /// Whether kept input is to be offered before anything else happens to the connection.
    #[cfg(feature = "sim")]
    pub(crate) fn has_offer_due(&self) -> bool {
        let is_wanted = self.kept.as_ref().is_some_and(|kept| kept.len() > 0 && !kept.is_too_short());
        let has_gap = self.output.as_ref().is_some_and(|output| output.overflowed());
        self.phase == Phase::Open && self.flags.has(OFFER_DUE) && !self.flags.has(PAUSED) && is_wanted && !has_gap
    }

    /// Whether the stop of the application has begun, and `on_stopping` has not been called. While a probe is to be answered,
    /// see `awaits_probe`.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn awaits_stop(&self) -> bool {
        matches!(self.stopping, Stopping::Asked | Stopping::Streaming | Stopping::Quiet)
    }

    /// Whether the answer to a probe is awaited.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn awaits_probe(&self) -> bool {
        self.stopping == Stopping::Probing
    }
}
