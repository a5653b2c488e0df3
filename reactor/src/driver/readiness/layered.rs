//! Connections with a layer. This file lends the layer its socket, and turns the layer's outcomes into reports.

use super::super::{Completion, Driver};
use super::Readiness;
use crate::buffer::Output;
use crate::layer::{self, Arrived, Layered};
use crate::link::{LayerEvent, Link, Sent};
use crate::sys::{Fd, Sys};
use crate::token::ConnectionId;

impl<S: Sys> Readiness<S> {
    /// Lends a connection's layer its socket, and updates interest and memory afterwards. `None`: there is no layer.
    pub(super) fn with_layer<R>(
        &mut self,
        id: ConnectionId,
        call: impl FnOnce(&mut Layered, &mut S, Fd, &mut layer::Shared) -> R,
    ) -> Option<R> {
        let slot = self.slots.get_mut(id.slot_at(self.home)).and_then(Option::as_mut).filter(|slot| slot.id == id)?;
        let layer = slot.layer.as_mut()?;
        let outcome = call(layer, &mut self.sys, slot.fd, &mut self.layers);
        layer.note_memory(&mut self.layers);
        self.changed(id);
        Some(outcome)
    }

    /// Whether a handshake has to wait for the next turn.
    pub(super) fn puts_off(&self, id: ConnectionId) -> bool {
        let layer = self.slot(id).and_then(|slot| slot.layer.as_ref());
        layer.is_some_and(|layer| !layer.is_ready()) && !self.layers.may_shake_hands()
    }

    #[cold]
    pub(super) fn receive_layered(&mut self, id: ConnectionId, scratch: &mut [u8]) -> Option<Completion> {
        if self.puts_off(id) {
            return None;
        }
        let arrived = self.with_layer(id, |layer, sys, fd, shared| layer.receive(sys, fd, scratch, shared))?;
        if arrived == Arrived::Ready {
            // Plaintext may have come along: it is reported next, after the handler has heard of the connection.
            self.slot_mut(id).into_iter().for_each(|slot| slot.read_in = 0);
            self.arrivals.push(id);
        }
        Some(match arrived {
            Arrived::Nothing => return None,
            Arrived::Plain(count) => return Some(Completion::Received { id, count }),
            Arrived::Ready => Completion::Connected { id },
            Arrived::Ended => Completion::Ended { id },
            Arrived::Broken(errno) => Completion::Failed { id, errno },
            Arrived::Event(event) => Completion::Layer { id, event },
        })
    }

    #[cold]
    pub(super) fn send_layered(&mut self, id: ConnectionId, bytes: Result<&[u8], &Output>) -> Sent {
        let outcome = self.with_layer(id, |layer, sys, fd, shared| match bytes {
            Ok(bytes) => layer.send_bytes(sys, fd, bytes, shared),
            Err(output) => layer.send(sys, fd, output, shared),
        });
        outcome.unwrap_or(Sent::Bytes(0))
    }

    pub(super) fn layered_writable(&mut self, link: &Link) -> Option<Completion> {
        let outcome = self.with_layer(link.id, |layer, sys, fd, shared| layer.writable(sys, fd, link, shared))??;
        Some(Completion::Sent { id: link.id, outcome })
    }

    /// At the end of a batch: whatever layers owe that no answer has taken along leaves, and changes of memory are reported.
    #[cold]
    pub(super) fn flush_layers(&mut self) -> Option<Completion> {
        while let Some(id) = self.layers.next_unflushed() {
            let outcome = self.with_layer(id, |layer, sys, fd, shared| layer.flush(sys, fd, shared));
            if let Some(outcome @ Sent::Failed(_)) = outcome {
                return Some(Completion::Sent { id, outcome });
            }
        }
        while let Some(id) = self.layers.next_unweighed() {
            if let Some(bytes) = self.with_layer(id, |layer, _, _, _| layer.take_memory()) {
                return Some(Completion::Layer { id, event: LayerEvent::Holds(bytes) });
            }
        }
        None
    }

    /// Parts of files that were not in memory have been read.
    pub(super) fn hear_of_files(&mut self) {
        for (id, ahead) in self.layers.parts_read() {
            self.with_layer(id, |layer, _, _, _| layer.was_read(ahead));
        }
    }
}
