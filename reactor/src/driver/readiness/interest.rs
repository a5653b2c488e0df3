//! Which connections the poller watches, and for what. One function derives that from the link, and is the only caller of
//! `register` and `modify` for connections.

use std::time::Duration;

use super::super::Driver;
use super::Readiness;
use crate::link::Links;
use crate::sys::{Interest, Sys, errno};
use crate::token::ConnectionId;

/// How often connections that are watched for nothing are asked for errors, where the poller does not report them
/// unasked.
pub(super) const NO_INTEREST_PROBE: Duration = Duration::from_millis(900);
impl<S: Sys> Readiness<S> {
    /// Brings the poller up to date with what a link wants. Nobody else registers or changes an interest; `unregister`
    /// ends it.
    pub(super) fn settle_interest(&mut self, links: &Links, id: ConnectionId) {
        let at = id.slot_at(self.home);
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut).filter(|slot| slot.id == id) else { return };
        let Some(link) = links.get(id) else { return };
        slot.listed = false;
        let wanted = Interest { read: link.reads(), write: link.writes() };
        if slot.always_ready || slot.background || slot.registered == Some(wanted) {
            return;
        }
        if slot.hung_up {
            if wanted == Interest::default() {
                return;
            }
            slot.hung_up = false;
        }
        let outcome = if slot.registered.is_some() {
            self.counters.interest_changes.add(1);
            self.sys.modify(slot.fd, id, wanted)
        } else {
            self.sys.register(slot.fd, id, wanted)
        };
        match outcome {
            Ok(()) => {
                self.no_interest -= usize::from(slot.registered == Some(Interest::default()));
                slot.registered = Some(wanted);
                self.no_interest += usize::from(wanted == Interest::default());
            }
            Err(errno) if errno::cannot_be_polled(errno) && !slot.socket => {
                slot.always_ready = true;
                self.always_ready.push(id);
            }
            Err(errno) => self.failures.push((id, errno)),
        }
    }

    pub(super) fn unregister(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slots[id.slot_at(self.home)].as_mut()
            && let Some(interest) = slot.registered.take()
        {
            self.no_interest -= usize::from(interest == Interest::default());
            self.sys.forget(slot.fd);
        }
    }

    /// Both halves are over and the link does not read: no longer registered, or the poller would report it for ever.
    pub(super) fn hang_up(&mut self, id: ConnectionId) {
        self.unregister(id);
        if let Some(slot) = self.slot_mut(id) {
            slot.hung_up = true;
        }
        // It may read again by the end of the batch, and nobody else would say so.
        self.changed(id);
    }

    /// Where the poller reports no error of a connection watched for nothing, ask for it now and then: a reset ends a
    /// pause within a second. Linear in the connections, once a second, and only while one is paused.
    pub(super) fn probe_no_interest(&mut self) {
        let now = self.sys.now();
        if now.since(self.no_interest_probed) < NO_INTEREST_PROBE {
            return;
        }
        self.no_interest_probed = now;
        for slot in self.slots.iter().flatten() {
            if slot.registered == Some(Interest::default())
                && let Some(errno) = self.sys.take_error(slot.fd)
            {
                self.failures.push((slot.id, errno));
            }
        }
    }
}
