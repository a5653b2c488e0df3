//! One batch: makes completions of the poller's events, one at a time.

use super::super::{Completion, Driver};
use super::Readiness;
use super::interest::Polled;
use crate::link::Links;
use crate::sys::{Event, Ready, Sys};
use crate::token::ConnectionId;

/// Progress with the event at the cursor.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    Fresh,
    /// Reading is done; writing comes next.
    Reading,
    /// Number of further connections that this turn may accept.
    Accepting(u32),
    Done,
}

impl<S: Sys> Readiness<S> {
    /// Returns the next completion of this batch: first of new connections, then of events, then of failed calls, then of probes.
    pub(super) fn report(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Completion> {
        while let Some(id) = self.arrivals.pop() {
            // The poller reports a connection that is registered by now: a look besides would be its second receive in this batch.
            let is_reported = self.slot(id).is_some_and(|slot| slot.polled != Polled::No && slot.layer.is_none());
            if !is_reported && let Some(report) = self.look(id, links, scratch) {
                return Some(report);
            }
        }
        while let Some(&event) = self.events.get(self.cursor) {
            let report = match event.token {
                token if token.generation() != 0 => self.connection_event(event, links, scratch),
                ConnectionId::NONE => {
                    self.stage = Stage::Done;
                    self.sys.drain_wake();
                    self.hear_of_files();
                    Some(Completion::Woken)
                }
                token => self.listener_event(token.slot() - 1),
            };
            // One event may cause several completions.
            if report.is_none() || matches!(self.stage, Stage::Done) {
                self.cursor += 1;
                self.stage = Stage::Fresh;
            }
            if report.is_some() {
                return report;
            }
        }
        while let Some((id, errno)) = self.failures.pop() {
            if links.get(id).is_some() {
                return Some(Completion::Failed { id, errno });
            }
        }
        while self.probes_left > 0 {
            self.probes_left -= 1;
            let id = self.probes.pop_front()?;
            self.slot_mut(id).into_iter().for_each(|slot| slot.probed = false);
            if let Some(report) = self.look(id, links, scratch) {
                return Some(report);
            }
        }
        self.flush_layers()
    }

    /// Reads a connection without an event. `None`: the next batch does, since this one has read it, or has no time for a handshake.
    fn look(&mut self, id: ConnectionId, links: &Links, scratch: &mut [u8]) -> Option<Completion> {
        let (batch, link) = (self.batch, links.get(id)?);
        if self.puts_off(id) || self.slot(id).is_some_and(|slot| slot.read_in == batch) {
            self.probe(id);
            return None;
        }
        // A descriptor that is no socket may block, so it is read only when the poller reports it ready.
        let socket = self.slot_mut(id).filter(|slot| slot.socket && slot.wants(link).read).map(|slot| {
            slot.read_in = batch;
            slot.fd
        });
        if socket.is_none() {
            self.rearm(id);
        }
        socket.and_then(|fd| self.receive(id, fd, true, scratch)).or(Some(Completion::Nothing { id }))
    }

    /// Reads first, then writes, so that bytes that arrived before an error are delivered before the error.
    pub(super) fn connection_event(&mut self, event: Event, links: &Links, scratch: &mut [u8]) -> Option<Completion> {
        let (id, batch) = (event.token, self.batch);
        // An event for reading alone takes one step.
        let fresh = matches!(self.stage, Stage::Fresh);
        let (readable, writable) = (event.ready.has(Ready::READABLE), event.ready.has(Ready::WRITABLE));
        let trouble = event.ready.has(Ready::ERROR.and(Ready::HANGUP));
        let only_reading = !(writable || trouble);
        self.stage = if fresh && !only_reading { Stage::Reading } else { Stage::Done };
        // A callback of another connection may have ended this link in this batch.
        let link = links.get(id).filter(|link| !link.is_over());
        let (Some(link), Some(slot)) = (link, self.slot_mut(id)) else {
            self.counters.stale_events.add(fresh.into());
            return None;
        };
        let (fd, socket, connecting) = (slot.fd, slot.socket, slot.connecting);
        let (wants, layered) = (slot.wants(link), slot.layer.is_some());
        let reading = fresh && (readable || trouble) && wants.read;
        slot.behind |= event.ready.has(Ready::BEHIND);
        if reading {
            slot.read_in = batch;
        } else if fresh && !wants.read {
            self.rearm(id);
        }
        if connecting {
            if !(writable || trouble) {
                return None;
            }
            if let Some(errno) = self.sys.take_error(fd) {
                // The link may go on to another address, with another socket, which this event does not concern.
                self.stage = Stage::Done;
                return Some(Completion::Failed { id, errno });
            }
            self.slot_mut(id).into_iter().for_each(|slot| slot.connecting = false);
            // A layer may have to speak first.
            return if layered { self.layered_writable(link) } else { Some(Completion::Connected { id }) };
        }
        if reading && !socket && self.sys.is_anothers_terminal(fd) {
            self.leave_terminal(id);
            return None;
        }
        if reading {
            if let Some(report) = self.receive(id, fd, socket, scratch) {
                return Some(report);
            }
        } else if fresh
            && event.ready.has(Ready::ERROR)
            // With queued output, the send returns the error, and received bytes are still delivered.
            && !wants.write
            && let Some(errno) = self.sys.take_error(fd)
        {
            return Some(Completion::Failed { id, errno });
        }
        if (writable || trouble) && wants.write {
            self.stage = Stage::Done;
            if layered {
                return self.layered_writable(link);
            }
            let output = link.output()?;
            return Some(Completion::Sent { id, outcome: self.transmit(fd, output, link.ends_with_output()) });
        }
        if event.ready.has(Ready::HANGUP) && !wants.read {
            self.set_polled(id, Polled::HungUp);
        }
        None
    }
}
