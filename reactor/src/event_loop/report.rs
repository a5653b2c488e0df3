//! What an operator sees of a loop: its counters, and a table of its connections.

use std::fmt::Write;

use super::EventLoop;
use crate::driver::Driver;
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::ConnectionId;

/// Connections that a report shows; the rest are counted.
const REPORT_ROWS: usize = 200;
/// Histories told in one second: each is a line, and peers can cause them. The ends themselves are all counted.
const HISTORIES_PER_SECOND: usize = 10;

impl<D: Driver> EventLoop<D> {
    /// At the end of a turn: how long it kept others waiting. The one clock besides that after each wait: 33 ns a turn.
    pub(super) fn count_turn(&mut self, heard: Time) {
        let counters = &self.core.counters;
        counters.lag.count(self.driver.now().since(heard));
        counters.turns.add(1);
        let channel = self.channel.is_some_and(|channel| self.core.links.get(channel).is_some());
        counters.open.set(self.core.links.len() as u64 - u64::from(channel));
        counters.wakes.set(self.waker.as_ref().map_or(0, Waker::writes));
    }

    /// A connection is ending in a way that somebody may have to look into: what happened to it before.
    #[cold]
    pub(super) fn tell_history(&mut self, id: ConnectionId) {
        let now = self.core.now;
        let Some(link) = self.core.links.get(id) else { return };
        let second = now.since(Time::default()).as_secs();
        if self.told.0 != second {
            self.told = (second, 0);
        }
        self.told.1 += 1;
        if self.told.1 <= HISTORIES_PER_SECOND {
            let (name, history) = (&self.core.terms[link.service as usize].name, self.core.recorder.history(id, now));
            log::warn!("{name}: connection {id} from {} ended: {}; before that: {history}", link.peer, link.reason());
        }
    }

    /// Counters, and a table of connections.
    pub(super) fn report(&mut self) -> String {
        let mut text = String::new();
        if self.core.neighbours.is_some() {
            if self.desk.number == self.desks.first() {
                let _ = writeln!(text, "counters of all loops: {}", self.desks.stats());
            }
            let _ = writeln!(text, "loop {}:", self.desk.number);
        }
        let _ = writeln!(text, "counters: {}", self.core.counters.read());
        let links = &self.core.links;
        let _ = writeln!(text, "connections: {}", links.len());
        if links.len() > 0 {
            row(&mut text, ["id", "service", "peer", "state", "owed", "received", "sent", "idle s"]);
        }
        for link in links.iter().take(REPORT_ROWS) {
            let (id, peer, service) = (link.id.to_string(), link.peer.to_string(), link.service as usize);
            let [owed, received, sent] =
                [link.queued() as u64, link.received, link.sent].map(|count| count.to_string());
            let idle = self.core.now.since(link.idle_since()).as_secs().to_string();
            let name = &self.core.terms[service].name;
            row(&mut text, [&id, name, &peer, link.describe(), &owed, &received, &sent, &idle]);
        }
        if links.len() > REPORT_ROWS {
            let _ = writeln!(text, "and {} more", links.len() - REPORT_ROWS);
        }
        text
    }
}

fn row(text: &mut String, [id, service, peer, state, owed, received, sent, idle]: [&str; 8]) {
    // Writing to a string does not fail.
    let _ = write!(text, "{id:<12} {service:<10} {peer:<22} {state:<11} ");
    let _ = writeln!(text, "{owed:>10} {received:>12} {sent:>12} {idle:>7}");
}
