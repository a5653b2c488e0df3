//! Newcomers: let in, turned away at an explicit cap, or left to wait in the backlog at the one that comes from the
//! descriptor limit.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{EventLoop, NEWCOMERS_PER_TURN, Served};
use crate::address::Peer;
use crate::driver::{Driver, Socket};
use crate::handle::Newcomer;
use crate::link::{Link, NO_STATE, Origin};
use crate::recorder::What;
use crate::sys::listen::Listens;

/// How often newcomers that have to wait are worth a line in the log.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// A listener, and what it leads to.
pub(super) struct Door {
    pub(super) service: u16,
    /// Closed, and a Unix socket's file removed, when it is taken out.
    pub(super) listening: Option<Box<dyn Listens>>,
    pub(super) refusal: bytes::Bytes,
    pub(super) reads_first: bool,
    /// While stopping: rounds of accepting left, and whether the last one brought anybody.
    pub(super) rounds: u32,
    pub(super) busy: bool,
}

impl<D: Driver> EventLoop<D> {
    pub(super) fn accepted(&mut self, door: usize, socket: Socket, peer: Peer) {
        let Door { service, .. } = self.doors[door];
        self.doors[door].busy = true;
        let limits = &self.core.terms[service as usize].limits;
        let open = |served: &Served| served.open.load(Ordering::Relaxed);
        let here = open(&self.hosts[service as usize]);
        let over = |limit: Option<usize>, open| limit.is_some_and(|limit| open >= limit);
        let open_in_all = || self.hosts.iter().map(open).sum();
        if over(limits.connections, here)
            || (self.config.connections.is_some() && over(self.config.connections, open_in_all()))
        {
            return self.refuse(door, socket, peer);
        }
        self.hosts[service as usize].open.fetch_add(1, Ordering::Relaxed);
        let newcomer = Newcomer { door, socket, peer };
        match &mut self.core.neighbours {
            None => {
                self.handle.desk(self.event_loop).load_more();
                self.welcome(newcomer);
            }
            Some(neighbours) => match neighbours.hand_out(newcomer) {
                Some(newcomer) => self.welcome(newcomer),
                None => self.driver.part_with(),
            },
        }
        self.mind_the_cap();
    }

    /// Connections that another loop has accepted for this one.
    pub(super) fn take_on_newcomers(&mut self) {
        let mut newcomers = Vec::new();
        self.mail |= self.inbox.newcomers.take(&mut newcomers, NEWCOMERS_PER_TURN);
        for newcomer in newcomers {
            self.driver.take_over();
            let desk = self.handle.desk(self.event_loop);
            self.handle.note_descriptors(self.event_loop, self.driver.descriptors());
            desk.has_counted();
            self.welcome(newcomer);
        }
    }

    /// One that is let in, and that this loop is going to serve.
    fn welcome(&mut self, newcomer: Newcomer) {
        let Newcomer { door, socket, peer } = newcomer;
        let Door { service, reads_first, .. } = self.doors[door];
        if self.core.links.is_full() {
            self.hosts[service as usize].open.fetch_sub(1, Ordering::Relaxed);
            self.handle.desk(self.event_loop).load_less();
            return self.driver.discard(socket);
        }
        let id = self.core.links.insert(Link::new(Origin::Accepted, peer, service, NO_STATE, self.core.now));
        self.core.counters.accepted.add(1);
        self.core.recorder.note(id, What::Accepted, self.core.now);
        self.driver.adopt(id, socket, reads_first);
        let state = self.hosts[service as usize].host.open(&mut self.core, id);
        log::debug!("{}: connection {id} from {peer}", self.core.terms[service as usize].name);
        if let Some(link) = self.core.links.get_mut(id) {
            link.state = state;
            if self.stopping.is_some() {
                link.stop();
            }
        }
        self.called(id);
        self.attend(id);
    }

    /// One too many: told so if there is something to tell, and let go.
    fn refuse(&mut self, door: usize, socket: Socket, peer: Peer) {
        let Door { service, ref refusal, .. } = self.doors[door];
        let terms = &self.core.terms[service as usize];
        log::debug!("{}: refused {peer}, at the limit of connections", terms.name);
        self.core.counters.refused.add(1);
        let served = &mut self.hosts[service as usize];
        if refusal.is_empty() || self.core.links.is_full() {
            return self.driver.discard(socket);
        }
        let lingers = served.refused < terms.limits.refused_lingering;
        served.refused += 1;
        let mut link = Link::new(Origin::Refused, peer, service, NO_STATE, self.core.now);
        link.refuse(refusal, lingers, self.core.now, &mut self.core.pool);
        let id = self.core.links.insert(link);
        self.driver.adopt(id, socket, false);
        self.attend(id);
        self.mind_the_cap();
    }

    /// At the cap that comes from the descriptor limit nobody is accepted: newcomers wait in the backlog.
    pub(super) fn mind_the_cap(&mut self) {
        self.handle.note_descriptors(self.event_loop, self.driver.descriptors());
        if self.event_loop != 0 {
            return;
        }
        let full = self.handle.descriptors() >= self.config.descriptors;
        if full != self.full {
            self.full = full;
            self.handle.set_full(full);
            let said_lately = self.full_said.is_some_and(|at| self.core.now.since(at) < SAY_AGAIN);
            if full && !said_lately {
                self.full_said = Some(self.core.now);
                log::warn!("at the limit of {} descriptors: newcomers have to wait", self.config.descriptors);
            }
            for door in 0..self.doors.len() {
                self.driver.set_accepting(door, !full);
            }
        }
    }
}
