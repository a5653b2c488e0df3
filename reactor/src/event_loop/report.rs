//! What an operator sees of a loop: its counters, whom it lets in, and a table of its connections.

use std::cmp::Reverse;
use std::fmt::{self, Write};
use std::time::Duration;

use super::EventLoop;
use crate::driver::Driver;
use crate::link::Link;
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::ConnectionId;

/// Connections that a report shows; the rest are counted.
const REPORT_ROWS: usize = 200;
/// How often it is read how long this thread has waited for a core: three system calls.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Of the table; the first so many are words.
const COLUMNS: usize = 8;
const WORDS: usize = 4;
/// Histories told in one second: each is a line, and peers can cause them. The ends themselves are all counted.
const HISTORIES_PER_SECOND: usize = 10;

impl<D: Driver> EventLoop<D> {
    /// At the end of a turn: how long it kept others waiting. The one clock besides that after each wait: 33 ns a turn.
    pub(super) fn count_turn(&mut self, heard: Time) {
        let counters = &self.core.counters;
        let now = self.driver.now();
        counters.lag.count(now.since(heard));
        counters.turns.add(1);
        counters.wakes.set(self.exchange.waker.as_ref().map_or(0, Waker::writes));
        if now.since(self.waited.0) >= READ_AGAIN {
            self.waited = (now, self.driver.waited_for_a_core());
        }
    }

    /// For a callback that has held the loop for so long: how much of it this thread may have waited for a core, at most. That is
    /// what it has waited since the last reading, which is why that is not older than a second or one turn.
    pub(super) fn waited_since_the_last_reading(&mut self, held: Duration) -> Duration {
        let before = std::mem::replace(&mut self.waited, (self.driver.now(), self.driver.waited_for_a_core())).1;
        match (before, self.waited.1) {
            (Some(before), Some(now)) => now.saturating_sub(before).min(held),
            _ => Duration::ZERO,
        }
    }

    /// A connection is ending in a way that somebody may have to look into: what happened to it before.
    #[cold]
    pub(super) fn tell_history(&mut self, id: ConnectionId) {
        let now = self.core.now;
        let Some(link) = self.core.links.get(id) else { return };
        let second = now.since(Time::default()).as_secs();
        if self.history_budget.0 != second {
            self.history_budget = (second, 0);
        }
        self.history_budget.1 += 1;
        if self.history_budget.1 <= HISTORIES_PER_SECOND {
            let (name, history) = (&self.core.terms[link.service as usize].name, self.core.recorder.history(id, now));
            log::warn!("{name}: connection {id} from {} ended: {}; before that: {history}", link.peer, link.reason());
        }
    }

    /// Counters, listeners, and a table of connections.
    pub(super) fn report(&mut self) -> String {
        let mut text = String::new();
        if self.core.outgoing.is_some() {
            if self.exchange.loop_handle.number == self.exchange.cluster.first() {
                let _ = writeln!(text, "counters of all loops: {}", self.exchange.cluster.stats());
            }
            let _ = writeln!(text, "loop {}:", self.exchange.loop_handle.number);
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "counters: {}", self.core.counters.read());
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(listening) = listener.socket() else { continue };
            let state =
                match (self.admission.at_cap, self.driver.is_suspended(index), self.is_at_limit(listener.service)) {
                    (true, ..) => "newcomers have to wait, since it is at its limit".to_owned(),
                    (_, true, _) => "newcomers have to wait, for want of descriptors or memory".to_owned(),
                    (.., true) => format!("newcomers are refused, at the limit of {}", self.limit_of(listener.service)),
                    _ => match self.hosts[listener.service as usize].host.turns_away(&mut self.core) {
                        Some(whom) => format!("accepting connections, but {}", whom.replace(char::is_control, " ")),
                        None => "accepting connections".to_owned(),
                    },
                };
            let name = &self.core.terms[listener.service as usize].name;
            let _ = writeln!(text, "{name} at {}: {state}", listening.address());
        }
        let _ = writeln!(text, "{}", self.describe_memory());
        self.table(&mut text);
        // Those of all loops, which the first one knows.
        for (terms, served) in self.core.terms.iter().zip(&self.hosts).filter(|_| self.exchange.loop_handle.number == 0)
        {
            if terms.is_internal() {
                continue;
            }
            let _ = writeln!(text, "{}: {}", terms.name, served.counts);
        }
        text
    }

    /// One row for each connection. Of more than there is room for, those that are owed most: it is them that somebody
    /// looks for.
    fn table(&self, text: &mut String) {
        let mut links: Vec<&Link> = self.core.links.iter().collect();
        let left_out = links.len().saturating_sub(REPORT_ROWS);
        let _ = writeln!(text, "connections: {}", links.len());
        if links.is_empty() {
            return;
        }
        if left_out > 0 {
            links.sort_by_key(|link| Reverse(link.queued()));
            links.truncate(REPORT_ROWS);
        }
        let head = ["id", "service", "peer", "state", "owed", "received", "sent", "idle s"].map(str::to_owned);
        let mut rows = vec![head];
        rows.extend(links.into_iter().map(|link| self.row(link)));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        for row in &rows {
            // Words to the left, numbers to the right.
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let _ = match column {
                    0 => write!(text, "{cell:<width$}"),
                    1..WORDS => write!(text, "  {cell:<width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.push('\n');
        }
        if left_out > 0 {
            let _ = writeln!(text, "and {left_out} more, who are owed no more than these");
        }
    }

    fn row(&self, link: &Link) -> [String; COLUMNS] {
        let name = &self.core.terms[link.service as usize].name;
        let idle = self.core.now.since(link.idle_since()).as_secs();
        let [owed, received, sent, idle] =
            [link.queued() as u64, link.received, link.sent, idle].map(|count| count.to_string());
        [
            link.id.to_string(),
            name.to_string(),
            link.peer.to_string(),
            link.describe().into(),
            owed,
            received,
            sent,
            idle,
        ]
    }
}

/// A number of things, in words: `1 connection`, `2 connections`.
pub(super) struct Counted(pub(super) usize, pub(super) &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}
