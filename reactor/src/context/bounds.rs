//! Limits and deadlines of each service, and of each connection whose handler has changed them.

use std::ops::Index;

use super::ConnectionRef;
use crate::limits::{Deadlines, Limits};
use crate::link::Link;
use crate::sys::Fd;

/// Limits and deadlines of a service, or of a single connection.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) deadlines: Deadlines,
}

/// All limits and deadlines of a loop, by the number in each link. The entries of the services come first, by number; entries of
/// single connections follow. So an unchanged connection costs no memory, and the hot path knows no difference.
#[derive(Default)]
pub(crate) struct BoundsTable {
    all: Vec<Bounds>,
    /// Places of connections that have ended.
    free: Vec<u32>,
    services: u32,
}

impl BoundsTable {
    /// Adds the entry of the next service. All services come before the first connection.
    pub(crate) fn add_service(&mut self, limits: Limits, deadlines: Deadlines) {
        debug_assert_eq!(self.all.len(), self.services as usize, "a service comes before connections");
        self.all.push(Bounds { limits, deadlines });
        self.services += 1;
    }

    /// Gives a connection its own entry, a copy of entry `before`. Returns the number of the new entry; `before` if the connection
    /// has its own entry already.
    fn split(&mut self, before: u32) -> u32 {
        if before >= self.services {
            return before;
        }
        let copy = self.all[before as usize].clone();
        match self.free.pop() {
            Some(place) => {
                self.all[place as usize] = copy;
                place
            }
            None => {
                self.all.push(copy);
                (self.all.len() - 1) as u32
            }
        }
    }

    /// A connection with this entry has ended: a later connection reuses the place.
    #[inline]
    pub(crate) fn give_back(&mut self, number: u32) {
        if number >= self.services {
            self.free.push(number);
        }
    }

    /// Number of connections with their own entry.
    #[cfg(test)]
    fn split_count(&self) -> usize {
        self.all.len() - self.services as usize - self.free.len()
    }
}

impl Index<u32> for BoundsTable {
    type Output = Bounds;

    #[inline]
    fn index(&self, number: u32) -> &Bounds {
        &self.all[number as usize]
    }
}

impl ConnectionRef<'_> {
    /// The connection's limits: the service's limits until [`change_limits`](Self::change_limits).
    pub fn limits(&self) -> Option<&Limits> {
        self.core.links.get(self.id).map(|link| &self.core.bounds[link.bounds].limits)
    }

    /// The connection's deadlines: the service's deadlines until [`change_deadlines`](Self::change_deadlines).
    pub fn deadlines(&self) -> Option<&Deadlines> {
        self.core.links.get(self.id).map(|link| &self.core.bounds[link.bounds].deadlines)
    }

    /// Changes the limits of this connection alone, from now on: an authenticated client may send more, a member gets a shorter
    /// queue. `connections`, `refused_lingering` and `backlog` belong to the whole service, and have no effect here. A connection
    /// that is above `output_high` already is read again below `output_low`, by the new values of both. A new `unsent` costs a
    /// system call.
    ///
    /// The first change takes about 200 bytes for the connection, which its end gives back.
    ///
    /// ```
    /// use reactor::{Context, Handler, Input};
    ///
    /// /// Takes lines of up to 1 KiB before the password, and of up to 16 MiB after it.
    /// struct Vault;
    ///
    /// impl Handler for Vault {
    ///     type Connection = bool;
    ///     fn on_open(&mut self, cx: &mut Context<'_, bool>) -> bool {
    ///         let id = cx.id();
    ///         cx.at(id).change_limits(|limits| limits.input = 1024);
    ///         false
    ///     }
    ///     fn on_data(&mut self, is_known: &mut bool, input: &mut Input<'_>, cx: &mut Context<'_, bool>) {
    ///         while let Some(line) = input.until_eol() {
    ///             if !*is_known && line == b"secret\n" {
    ///                 *is_known = true;
    ///                 let id = cx.id();
    ///                 cx.at(id).change_limits(|limits| limits.input = 16 * 1024 * 1024);
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    pub fn change_limits(&mut self, change: impl FnOnce(&mut Limits)) {
        let Some((fd, peer)) = self.split(|link| (link.descriptor, link.peer)) else { return };
        let core = &mut *self.core;
        let Some(link) = core.links.get_mut(self.id) else { return };
        let limits = &mut core.bounds.all[link.bounds as usize].limits;
        let unsent = limits.unsent;
        change(limits);
        if limits.unsent != unsent && fd != Fd::NONE {
            core.sockets.bound_unsent(fd, peer, limits.unsent);
        }
        link.limits_changed(limits);
        core.mark_dirty(self.id);
    }

    /// Changes the deadlines of this connection alone. Each counts from the same moment as before, so a shorter one may have
    /// passed already, and ends the connection at once. The handler's own deadline is
    /// [`set_deadline`](ConnectionRef::set_deadline).
    ///
    /// The first change takes about 200 bytes for the connection, which its end gives back.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context};
    /// use std::time::Duration;
    /// fn keep_while_silent(subscriber: ConnectionId, cx: &mut Context<'_>) {
    ///     cx.at(subscriber).change_deadlines(|deadlines| deadlines.idle = None);
    /// }
    /// ```
    pub fn change_deadlines(&mut self, change: impl FnOnce(&mut Deadlines)) {
        if self.split(|_| ()).is_none() {
            return;
        }
        let core = &mut *self.core;
        let Some(link) = core.links.get_mut(self.id) else { return };
        change(&mut core.bounds.all[link.bounds as usize].deadlines);
        link.set_deadline_changed();
        core.mark_dirty(self.id);
    }

    /// Gives the connection its own entry, if the connection exists.
    fn split<R>(&mut self, of: impl FnOnce(&Link) -> R) -> Option<R> {
        let link = self.core.links.get_mut(self.id)?;
        link.bounds = self.core.bounds.split(link.bounds);
        Some(of(link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_a_place_of_its_own_once_and_its_successor_gets_it() {
        let mut bounds = BoundsTable::default();
        for input in [1, 2] {
            bounds.add_service(Limits { input, ..Limits::default() }, Deadlines::default());
        }
        let own = bounds.split(1);
        assert_eq!((own, bounds.split(own), bounds[own].limits.input, bounds.split_count()), (2, 2, 2, 1));
        bounds.all[own as usize].limits.input = 7;
        assert_eq!([0, 1, 2].map(|number| bounds[number].limits.input), [1, 2, 7]);
        bounds.give_back(0);
        bounds.give_back(own);
        assert_eq!(bounds.split_count(), 0);
        let next = bounds.split(0);
        assert_eq!((next, bounds[next].limits.input, bounds.split_count()), (own, 1, 1));
    }
}
