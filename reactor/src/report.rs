//! Texts for an operator: the report with its table of connections, and log lines about ended connections and slow
//! callbacks. The loop calls them.

use std::cmp::Reverse;
use std::fmt::{self, Write};
use std::time::Duration;

use crate::address::Peer;
use crate::cluster::LoopKind;
use crate::context::Core;
use crate::link::Link;
use crate::reason::CloseReason;
use crate::stats::Stats;
use crate::time::Time;
use crate::token::ConnectionId;

/// Number of connections in a report's table; the others are counted.
const REPORT_ROWS: usize = 200;
/// Number of columns, of which the first `WORDS` contain words.
const COLUMNS: usize = 8;
const WORDS: usize = 4;

/// The connections that a listener admits.
pub(crate) enum Admits {
    /// None: descriptors, threads or processes are at their limit.
    NobodyAtCap,
    /// None: the system had no descriptor or no memory for the last connection.
    NobodySuspended,
    /// None: the service is at its limit of connections.
    NobodyAtLimit(Counted),
    /// All, except those that the handler refuses, in the handler's words.
    AllBut(Option<String>),
}

impl fmt::Display for Admits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Admits::NobodyAtCap => f.write_str("new connections wait: at the limit"),
            Admits::NobodySuspended => f.write_str("new connections wait: no descriptors or no memory"),
            Admits::NobodyAtLimit(limit) => write!(f, "refusing connections, at the limit of {limit}"),
            Admits::AllBut(None) => f.write_str("accepting connections"),
            Admits::AllBut(Some(whom)) => {
                write!(f, "accepting connections, but {}", whom.replace(char::is_control, " "))
            }
        }
    }
}

/// How long the thread of a loop has waited for a core, read now and then: a slow callback may have waited.
#[derive(Default)]
pub(crate) struct WaitedForCore {
    at: Time,
    waited: Option<Duration>,
}

impl WaitedForCore {
    /// Greatest age of a reading: each takes three system calls.
    const READ_AGAIN: Duration = Duration::from_secs(1);

    #[inline]
    pub(crate) fn is_old(&self, now: Time) -> bool {
        now.since(self.at) >= Self::READ_AGAIN
    }

    /// Takes a reading. Returns the wait since the former reading, which is at most a second or one turn old.
    pub(crate) fn read(&mut self, now: Time, waited: Option<Duration>) -> Duration {
        let before = std::mem::replace(self, WaitedForCore { at: now, waited }).waited;
        before.zip(waited).map_or(Duration::ZERO, |(before, waited)| waited.saturating_sub(before))
    }
}

impl Core {
    /// Logs the end of a connection, with its last events if the end may need an investigation.
    pub(crate) fn log_end(&mut self, id: ConnectionId) {
        let Some(link) = self.links.get(id) else { return };
        let (name, peer, reason) = (&self.terms[link.service as usize].name, &link.peer, link.reason());
        log::debug!(
            "{name}: connection {id} from {peer} ended: {reason} (received {}, sent {}, unsent {} bytes)",
            link.received,
            link.sent,
            link.queued()
        );
        if let Some(host) = self.dialed(id) {
            log::debug!("{name}: connection {id} to {host} was not established: {reason}");
        }
        if reason.is_fault()
            && let Some(history) = self.recorder.history_to_log(id, self.now)
        {
            log::warn!("{name}: connection {id} from {peer} ended: {reason}; before that: {history}");
        }
    }

    /// Logs a connection that is refused at the limit of connections. `refused`: the number of refusals since the last line for
    /// the operator, when the next line is due.
    pub(crate) fn log_refusal(&self, service: u16, refused: Option<usize>, peer: &Peer, limit: usize) {
        let name = &self.terms[service as usize].name;
        log::debug!("{name}: refused {peer}, at the limit of connections");
        if let Some(refused) = refused {
            let (refused, limit) = (Counted(refused, "connection"), Counted(limit, "connection"));
            log::warn!("{name}: refused {refused}, the last from {peer}, at the limit of {limit}");
        }
    }

    /// Logs and counts a callback of connection `id` that held the loop for `held`. Of this time, the thread waited for
    /// a core for at most `waited`.
    #[cold]
    pub(crate) fn log_slow_callback(&mut self, id: ConnectionId, held: Duration, waited: Duration) {
        self.counters.slow_callbacks.add(1);
        let waited = match waited.as_millis() {
            0 => String::new(),
            waited => format!(", of which it waited for a core for at most {waited} ms"),
        };
        let held = held.as_millis();
        match self.links.get(id) {
            Some(link) => {
                let (name, peer) = (&self.terms[link.service as usize].name, &link.peer);
                log::warn!("{name}: a callback of connection {id} from {peer} held the loop for {held} ms{waited}");
            }
            None => log::warn!("a callback outside any connection held the loop for {held} ms{waited}"),
        }
    }

    /// Logs that a fixed loop begins to stop; a per-connection loop stops whenever a connection ends. `which`: see
    /// [`Core::log_stopped`].
    pub(crate) fn log_stopping(&self, which: &str, open: usize) {
        if self.kind == LoopKind::Fixed {
            log::info!("{which}stopping: {} to finish", Counted(open, "connection"));
        }
    }

    /// Logs how a loop has stopped. `which` begins the lines where there are several loops. `stopped`: the time that the stop
    /// took, and the number of connections that were closed before.
    pub(crate) fn log_stopped(&self, which: &str, stats: &Stats, stopped: Option<(Duration, u64)>) {
        let level = if self.kind == LoopKind::Fixed { log::Level::Info } else { log::Level::Debug };
        if let Some((span, closed_before)) = stopped {
            let aborted = stats.closed(CloseReason::DrainExpired);
            let finished = Counted((stats.closed_total() - closed_before - aborted) as usize, "connection");
            log::log!(level, "{which}stopped after {} ms: {finished} finished, {aborted} aborted", span.as_millis());
        }
        log::log!(level, "{which}counters: {stats}");
    }

    /// Counters, listeners, memory, and a table of connections. `number` is the loop's, and the first loop passes the
    /// counters of `all` loops.
    pub(crate) fn report(&self, number: u32, all: Option<Stats>, listeners: &[String]) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        if self.outgoing.is_some() {
            if let Some(all) = all {
                let _ = writeln!(text, "counters of all loops: {all}");
            }
            let _ = writeln!(text, "loop {number}:");
        }
        let _ = writeln!(text, "counters: {}", self.counters.read());
        for listener in listeners {
            let _ = writeln!(text, "{listener}");
        }
        let suspended = self.links.iter().filter(|link| link.is_suspended()).count();
        let (held, limit) = (self.holdings.budget.held(), self.holdings.budget.limit());
        let limit = if limit == usize::MAX { "no limit".to_owned() } else { format!("limit {limit}") };
        let _ = writeln!(text, "memory: connections hold {held} bytes ({limit}), reading suspended for {suspended}");
        self.table(&mut text);
        // The counts are those of all loops.
        for terms in self.terms.iter().filter(|terms| number == 0 && !terms.is_internal()) {
            let _ = writeln!(text, "{}: {}", terms.name, terms.counts);
        }
        text
    }

    /// One row for each connection. If there are too many, the connections with the most queued bytes, which an
    /// operator looks for.
    fn table(&self, text: &mut String) {
        let mut links: Vec<&Link> = self.links.iter().collect();
        let left_out = links.len().saturating_sub(REPORT_ROWS);
        let _ = writeln!(text, "connections: {}", links.len());
        if links.is_empty() {
            return;
        }
        if left_out > 0 {
            links.sort_by_key(|link| Reverse(link.queued()));
            links.truncate(REPORT_ROWS);
        }
        let head = ["id", "service", "peer", "state", "queued", "received", "sent", "idle s"].map(str::to_owned);
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
            let _ = writeln!(text, "and {left_out} more, none with more bytes queued");
        }
    }

    fn row(&self, link: &Link) -> [String; COLUMNS] {
        let name = &self.terms[link.service as usize].name;
        let idle = self.now.since(link.idle_since()).as_secs();
        let [queued, received, sent, idle] =
            [link.queued() as u64, link.received, link.sent, idle].map(|count| count.to_string());
        [
            link.id.to_string(),
            name.to_string(),
            link.peer.to_string(),
            link.describe().into(),
            queued,
            received,
            sent,
            idle,
        ]
    }
}

/// A number with its noun: `1 connection`, `2 connections`.
pub(crate) struct Counted(pub(crate) usize, pub(crate) &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}
