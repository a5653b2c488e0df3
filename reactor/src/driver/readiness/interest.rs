//! The interest with which the poller watches each connection. One function derives the interest from the link, and is the only
//! caller of `register` and `modify` for connections.

use std::time::Duration;

use super::super::Driver;
use super::{Readiness, Slot};
use crate::link::{Link, Links};
use crate::sys::{Interest, Sys, errno};
use crate::token::ConnectionId;

/// Time between two probes for errors of connections without interest, where the poller does not report errors.
pub(super) const NO_INTEREST_PROBE: Duration = Duration::from_millis(900);

/// Registered without interest: only errors are reported, and not by every poller.
const FOR_NOTHING: Polled = Polled::For(Interest { read: false, write: false, edges: false });

/// The poller's knowledge of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    /// Not registered yet.
    No,
    /// Registered for this interest.
    For(Interest),
    /// Never registered: no poller takes this kind of file (a regular one), which is always ready.
    AlwaysReady,
    /// Not registered while the terminal belongs to another job.
    Background,
    /// Not registered, because both halves have ended and the link does not read: the poller would report the end in every wait.
    HungUp,
}

impl Slot {
    /// The interest that a link has now.
    #[inline]
    pub(super) fn wants(&self, link: &Link) -> Interest {
        match &self.layer {
            Some(layer) if !self.connecting => layer.interest(link),
            _ => Interest { read: link.reads(), write: link.writes(), edges: link.has_edges() },
        }
    }
}

impl<S: Sys> Readiness<S> {
    /// Brings the poller up to date with a link's interest. No other function registers or changes an interest; `set_polled`
    /// ends a registration.
    pub(super) fn settle_interest(&mut self, links: &Links, id: ConnectionId) {
        let at = id.slot_at(self.home);
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut).filter(|slot| slot.id == id) else { return };
        let Some(link) = links.get(id) else { return };
        slot.listed = false;
        let wanted = slot.wants(link);
        let has_more = wanted.read && slot.layer.as_ref().is_some_and(|layer| layer.has_more());
        if has_more && !std::mem::replace(&mut slot.probed, true) {
            self.probes.push_back(id);
        }
        let outcome = match slot.polled {
            Polled::AlwaysReady | Polled::Background => return,
            Polled::HungUp if wanted == Interest::default() => return,
            Polled::For(interest) if interest == wanted => return,
            Polled::For(_) => {
                self.counters.interest_changes.add(1);
                self.sys.modify(slot.fd, id, wanted)
            }
            Polled::No | Polled::HungUp => self.sys.register(slot.fd, id, wanted),
        };
        match outcome {
            Ok(()) => self.set_polled(id, Polled::For(wanted)),
            Err(errno) if errno::cannot_be_polled(errno) && !slot.socket => {
                self.set_polled(id, Polled::AlwaysReady);
                self.always_ready.push(id);
            }
            Err(errno) => self.failures.push((id, errno)),
        }
    }

    /// No edge reports input again that was left unread. So the poller learns even an equal interest anew, and then looks for input.
    pub(super) fn rearm(&mut self, id: ConnectionId) {
        if let Some(Slot { polled: Polled::For(interest), .. }) = self.slot_mut(id) {
            interest.edges = false;
        }
        self.changed(id);
    }

    /// Sets how the connection is polled, and deregisters a connection that is not polled any more.
    pub(super) fn set_polled(&mut self, id: ConnectionId, polled: Polled) {
        let Some(slot) = self.slot_mut(id) else { return };
        let (before, fd) = (std::mem::replace(&mut slot.polled, polled), slot.fd);
        if matches!(before, Polled::For(_)) && !matches!(polled, Polled::For(_)) {
            self.sys.forget(fd);
        }
        self.no_interest += usize::from(polled == FOR_NOTHING);
        self.no_interest -= usize::from(before == FOR_NOTHING);
    }

    /// Asks for errors of connections without interest, which this poller does not report: a reset must end a pause within a
    /// second. Linear in the number of connections, once a second, and only while a connection is paused.
    pub(super) fn probe_no_interest(&mut self) {
        let now = self.sys.now();
        if now.since(self.no_interest_probed) < NO_INTEREST_PROBE {
            return;
        }
        self.no_interest_probed = now;
        for slot in self.slots.iter().flatten() {
            if slot.polled == FOR_NOTHING
                && let Some(errno) = self.sys.take_error(slot.fd)
            {
                self.failures.push((slot.id, errno));
            }
        }
    }
}
