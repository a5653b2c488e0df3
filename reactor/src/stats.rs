//! What has been counted. Plain numbers of one loop, written by it alone.

use std::fmt;

use crate::reason::CloseReason;

/// Counters of one event loop since it began.
///
/// ```
/// let stats = reactor::Stats::default();
/// assert_eq!(stats.accepted, 0);
/// assert!(stats.to_string().contains("accepted 0"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted, those refused not counted.
    pub accepted: u64,
    /// Connections turned away at a cap.
    pub refused: u64,
    /// Outbound connections that came about.
    pub connected: u64,
    /// Connections that ended, by the kind of their reason.
    pub(crate) closed: [u64; CloseReason::KINDS],
    /// Bytes received.
    pub received: u64,
    /// Bytes that the kernel took for sending.
    pub sent: u64,
    /// Bytes received that no handler got: thrown away while closing, or unread when the connection failed.
    pub unread: u64,
    /// Bytes owed that were never sent.
    pub unsent: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Times the loop waited for events.
    pub waits: u64,
    /// Times another thread had to wake it.
    pub wakes: u64,
    /// Events for connections that had ended, dropped.
    pub stale_events: u64,
    /// Sends of which the kernel took only a part.
    pub partial_sends: u64,
    /// Times the poller was told of a change of interest in a connection that it knew.
    pub interest_changes: u64,
    /// Times accepting rested for want of descriptors or memory.
    pub accept_starved: u64,
    /// Messages handed to handlers.
    pub messages: u64,
    /// Messages put into the output of a topic's members.
    pub deliveries: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// Callbacks that held the loop for too long.
    pub slow_callbacks: u64,
}

impl Stats {
    /// Connections that ended for such a reason, whatever its details.
    ///
    /// ```
    /// use reactor::{CloseReason, Stats};
    /// assert_eq!(Stats::default().closed(CloseReason::PeerEnded), 0);
    /// ```
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason.kind()]
    }

    /// All connections that ended.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }
}

impl fmt::Display for Stats {
    /// One line, `name value` each, for the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted {}, refused {}, connected {}, ", self.accepted, self.refused, self.connected)?;
        write!(f, "closed {}", self.closed_total())?;
        let mut separator = " (";
        for (name, count) in CloseReason::KIND_NAMES.iter().zip(self.closed).filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{name} {count}")?;
            separator = ", ";
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        write!(f, ", received {} bytes, sent {} bytes, ", self.received, self.sent)?;
        write!(f, "unread {} bytes, unsent {} bytes, ", self.unread, self.unsent)?;
        write!(f, "turns {}, waits {}, wakes {}, ", self.turns, self.waits, self.wakes)?;
        write!(f, "stale events {}, partial sends {}, ", self.stale_events, self.partial_sends)?;
        write!(f, "interest changes {}, accept starved {}, ", self.interest_changes, self.accept_starved)?;
        write!(f, "messages {}, deliveries {}, ", self.messages, self.deliveries)?;
        write!(f, "panics {}, slow callbacks {}", self.panics, self.slow_callbacks)
    }
}
