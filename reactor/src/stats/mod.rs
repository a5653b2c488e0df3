//! Counters. A loop writes only its own counters, and any thread may read all counters at any time, also while a
//! callback holds the loop.

mod counts;
mod lag;

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::reason::CloseReason;
pub(crate) use counts::Counts;
pub use lag::Lag;
pub(crate) use lag::LagCounters;

/// A counter. Exactly one thread writes the counter, so adding is a load and a store, at the cost of a plain integer, without a
/// locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The plain counters, each with its name, meaning, and label for operators.
macro_rules! counters {
    ($($(#[$what:meta])* $name:ident, $label:literal;)*) => {
        /// Counters since the application began, of a loop ([`Context::stats`](crate::Context::stats)) or of all
        /// loops ([`Handle::stats`](crate::Handle::stats)). A copy, taken number by number while the loop runs: a
        /// number may have changed before the next number is read.
        ///
        /// ```
        /// use reactor::Application;
        /// let app = Application::new()?;
        /// let stats = app.handle().stats();
        /// assert_eq!(stats.accepted, 0);
        /// assert!(stats.to_string().contains("accepted 0"));
        /// # Ok::<(), reactor::Error>(())
        /// ```
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$what])* pub $name: u64,)*
            /// How long turns kept the loop from noticing new events.
            pub lag: Lag,
            closed: [u64; CloseReason::KINDS],
        }

        /// The counters of a loop, written by the loop.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) lag: LagCounters,
            /// Connections that ended, by the kind of their reason.
            closed: [Counter; CloseReason::KINDS],
        }

        impl Counters {
            /// Reads the present numbers.
            pub(crate) fn read(&self) -> Stats {
                Stats {
                    $($name: self.$name.get(),)*
                    lag: self.lag.read(),
                    closed: self.closed.each_ref().map(Counter::get),
                }
            }
        }

        impl Counters {
            /// All numbers, always in one order.
            pub(crate) fn all(&self) -> impl Iterator<Item = &Counter> {
                let plain = [$(&self.$name,)*];
                plain.into_iter().chain(self.lag.all()).chain(&self.closed)
            }
        }

        /// Adds the numbers of another loop.
        impl AddAssign<&Stats> for Stats {
            fn add_assign(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
                self.lag += &other.lag;
                for (count, more) in self.closed.iter_mut().zip(other.closed) {
                    *count += more;
                }
            }
        }

        const LABELS: &[(fn(&Stats) -> u64, &str)] = &[$((|stats| stats.$name, $label),)*];
    };
}

counters! {
    /// Accepted connections, without refused ones.
    accepted, "accepted";
    /// Connections refused at a limit.
    refused, "refused";
    /// Outbound connections that were established.
    connected, "connected";
    /// Accepted connections that have not ended, including lingering ones. Each accepted connection is open or closed.
    open, "open";
    /// Outbound connections and watched descriptors that ended. They do not count as accepted, open or closed.
    ended, "others ended";
    /// Bytes received.
    received, "received bytes";
    /// Bytes that the kernel took for sending.
    sent, "sent bytes";
    /// Bytes received that no handler got: discarded while closing, or unread when the connection failed.
    unread, "unread bytes";
    /// Queued bytes that were never sent.
    unsent, "unsent bytes";
    /// Turns of the loop.
    turns, "turns";
    /// Times the loop waited for events.
    waits, "waits";
    /// Times that another thread woke the loop.
    wakes, "wakes";
    /// Events for connections that had ended, dropped.
    stale_events, "stale events";
    /// Sends of which the kernel took only a part.
    partial_sends, "partial sends";
    /// Times that the poller was told of a changed interest in a known connection.
    interest_changes, "interest changes";
    /// Times that accepting was suspended for lack of descriptors or memory.
    accept_starved, "accept starved";
    /// Messages delivered to handlers.
    messages, "messages";
    /// Messages put into the output of a topic's members.
    deliveries, "deliveries";
    /// Messages that were dropped because a member was slow.
    missed, "missed";
    /// Times that reading from a connection was suspended because the memory budget was nearly used up.
    suspended, "suspended";
    /// Callbacks that panicked.
    panics, "panics";
    /// Callbacks that held the loop for too long.
    slow_callbacks, "slow callbacks";
}

impl Counters {
    /// Counts an accepted connection.
    pub(crate) fn count_accepted(&self) {
        self.accepted.add(1);
        self.open.add(1);
    }

    /// Counts the end of an accepted connection. Each accepted connection is open or closed, at every reading.
    pub(crate) fn count_closed(&self, reason: CloseReason) {
        self.closed[reason.kind()].add(1);
        // `open` falls by 1.
        self.open.add(u64::MAX);
    }
}

impl Stats {
    /// Accepted connections that ended for this kind of reason, with any details.
    ///
    /// ```
    /// use reactor::{CloseReason, Stats};
    /// assert_eq!(Stats::default().closed(CloseReason::PeerEnded), 0);
    /// ```
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason.kind()]
    }

    /// Number of accepted connections that have ended, for any reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }
}

impl fmt::Display for Stats {
    /// One line of `name value` pairs, for operators.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (read, label) in LABELS {
            write!(f, "{label} {}, ", read(self))?;
        }
        write!(f, "closed {}", self.closed_total())?;
        let mut separator = " (";
        for (name, count) in CloseReason::KIND_NAMES.iter().zip(self.closed).filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{name} {count}")?;
            separator = ", ";
        }
        f.write_str(if separator == ", " { "), " } else { ", " })?;
        write!(f, "event-loop lag {}", self.lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_read_added_up_and_printed() {
        let counters = Counters::default();
        counters.count_accepted();
        counters.count_accepted();
        counters.count_closed(CloseReason::Reset);
        let one = counters.read();
        let mut both = one.clone();
        both += &one;
        assert_eq!((both.accepted, both.open, both.closed(CloseReason::Reset), both.closed_total()), (4, 2, 2, 2));
        let line = both.to_string();
        assert!(
            line.starts_with("accepted 4, refused 0, connected 0, open 2, others ended 0, received bytes 0, "),
            "{line}"
        );
        assert!(line.ends_with("slow callbacks 0, closed 2 (reset 2), event-loop lag of 0 turns"), "{line}");
        assert!(!line.contains('\n'));
    }
}
