//! Connections with a layer between their bytes and the socket. What is particular to them is in `layer`; this file lends it
//! the socket, and turns its outcomes into reports.

use super::super::{Completion, Driver};
use super::Readiness;
use super::batch::Report;
use crate::buffer::Output;
use crate::layer::Arrived;
use crate::link::{LayerEvent, Link, Sent};
use crate::sys::{Fd, Sys};
use crate::token::ConnectionId;

impl<S: Sys> Readiness<S> {
    /// Whether a handshake has to wait for the next turn.
    pub(super) fn puts_off(&self, id: ConnectionId) -> bool {
        let layer = self.slot(id).and_then(|slot| slot.layer.as_ref());
        layer.is_some_and(|layer| !layer.is_ready()) && !self.layers.may_shake_hands()
    }

    #[cold]
    pub(super) fn receive_layered(&mut self, id: ConnectionId, fd: Fd, scratch: &mut [u8]) -> Option<Report> {
        if self.puts_off(id) {
            return None;
        }
        let slot = self.slots.get_mut(id.slot_at(self.home))?.as_mut()?;
        let arrived = slot.layer.as_mut()?.receive(&mut self.sys, fd, scratch, &mut self.layers);
        if arrived == Arrived::Ready {
            // Plaintext may have come along: it is reported next, after the handler has heard of the connection.
            slot.read_in = 0;
            self.probes.push_front(id);
            self.probes_left += 1;
        }
        self.changed(id);
        Some(Report::Said(match arrived {
            Arrived::Nothing => return None,
            Arrived::Plain(count) => return Some(Report::Received(id, count)),
            Arrived::Ready => Completion::Connected { id },
            Arrived::Ended => Completion::Ended { id },
            Arrived::Broken(errno) => Completion::Failed { id, errno },
            Arrived::Something => Completion::Layer { id, event: LayerEvent::Something },
            Arrived::Truncated => Completion::Layer { id, event: LayerEvent::Truncated },
            Arrived::Failed => Completion::Layer { id, event: LayerEvent::Failed },
        }))
    }

    #[cold]
    pub(super) fn send_layered(&mut self, id: ConnectionId, fd: Fd, bytes: Result<&[u8], &Output>) -> Sent {
        let slot = self.slots.get_mut(id.slot_at(self.home)).and_then(Option::as_mut);
        let Some(layer) = slot.and_then(|slot| slot.layer.as_mut()) else { return Sent::Bytes(0) };
        let outcome = match bytes {
            Ok(bytes) => layer.send_bytes(&mut self.sys, fd, bytes, &mut self.layers),
            Err(output) => layer.send(&mut self.sys, fd, output, &mut self.layers),
        };
        if layer.owes() {
            self.counters.partial_sends.add(1);
            self.changed(id);
        }
        outcome
    }

    /// The socket is writable: what the layer owes leaves, then more of the output.
    pub(super) fn layered_writable(&mut self, link: &Link, fd: Fd) -> Option<Report> {
        let (id, owed) = (link.id, self.flush_layered(link.id));
        let is_ready = self.slot(id)?.layer.as_ref()?.is_ready();
        let outcome = match (owed, link.output()) {
            (Sent::Bytes(_), Some(output)) if link.writes() => self.send_layered(id, fd, Err(output)),
            (Sent::Blocked(_), _) => return None,
            (Sent::Bytes(_), _) if !is_ready => return None,
            (outcome, _) => outcome,
        };
        Some(Report::Said(Completion::Sent { id, outcome }))
    }

    /// Sends what the layer owes to the wire.
    pub(super) fn flush_layered(&mut self, id: ConnectionId) -> Sent {
        let slot = self.slots.get_mut(id.slot_at(self.home)).and_then(Option::as_mut).filter(|slot| slot.id == id);
        let Some((layer, fd)) = slot.and_then(|slot| Some((slot.layer.as_mut()?, slot.fd))) else {
            return Sent::Bytes(0);
        };
        let outcome = layer.flush(&mut self.sys, fd, &mut self.layers);
        self.changed(id);
        outcome
    }

    /// At the end of a batch: whatever layers owe that no answer has taken along.
    #[cold]
    pub(super) fn flush_layers(&mut self) {
        while let Some(id) = self.layers.next_unflushed() {
            self.flush_layered(id);
        }
    }

    /// Parts of files that were not in memory have been read.
    pub(super) fn hear_of_files(&mut self) {
        for (id, ahead) in self.layers.parts_read() {
            if let Some(layer) = self.slot_mut(id).and_then(|slot| slot.layer.as_mut()) {
                layer.was_read(ahead);
                self.changed(id);
            }
        }
    }
}
