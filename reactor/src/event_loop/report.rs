//! What an operator sees of a loop: its counters, and a table of its connections.

use std::fmt::Write;

use super::EventLoop;
use crate::driver::Driver;

/// Connections that a report shows; the rest are counted.
const REPORT_ROWS: usize = 200;

impl<D: Driver> EventLoop<D> {
    pub(super) fn note_counters(&mut self) {
        let counters = self.driver.counters();
        self.core.stats.wakes = self.handle.desk(self.event_loop).waker.writes();
        let stats = &mut self.core.stats;
        stats.waits = counters.waits;
        stats.stale_events = counters.stale_events;
        stats.partial_sends = counters.partial_sends;
        stats.interest_changes = counters.interest_changes;
        stats.accept_starved = counters.accept_starved;
    }

    /// Counters, and a table of connections.
    pub(super) fn report(&mut self) -> String {
        let mut text = format!("counters: {}\n", self.core.stats);
        let links = &self.core.links;
        let _ = writeln!(text, "connections: {}", links.len());
        let _ = writeln!(text, "id service peer state owed received sent idle_seconds");
        for link in links.iter().take(REPORT_ROWS) {
            let _ = writeln!(
                text,
                "{} {} {} {} {} {} {} {}",
                link.id,
                self.core.terms[link.service as usize].name,
                link.peer,
                link.describe(),
                link.queued(),
                link.received,
                link.sent,
                self.core.now.since(link.idle_since()).as_secs()
            );
        }
        if links.len() > REPORT_ROWS {
            let _ = writeln!(text, "and {} more", links.len() - REPORT_ROWS);
        }
        text
    }
}
