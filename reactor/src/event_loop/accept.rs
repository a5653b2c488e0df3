//! Newcomers: let in, turned away at an explicit cap, or left to wait in the backlog at the one that comes from the
//! descriptor limit.

use std::io;
use std::time::Duration;

use super::report::Counted;
use super::{ACCEPTED_PER_TURN, EventLoop};
use crate::address::Peer;
use crate::cluster::Accepted;
use crate::context::Core;
use crate::driver::{Driver, Socket};
use crate::error::Errno;
use crate::link::{Link, NO_STATE, Origin};
use crate::recorder::What;
use crate::sys::Fd;
use crate::sys::listen::Listens;
use crate::token::ConnectionId;

/// How often newcomers that have to wait are worth a line in the log.
pub(super) const SAY_AGAIN: Duration = Duration::from_secs(1);

/// A listener, and what it leads to.
pub(super) struct Listener {
    pub(super) service: u16,
    /// Closed, and a Unix socket's file removed, when it is taken out.
    pub(super) listening: Option<Box<dyn Listens>>,
    pub(super) refusal: bytes::Bytes,
    pub(super) reads_first: bool,
    /// While stopping: newcomers that are still taken in, and whether the last round of accepting brought any.
    pub(super) left: usize,
    pub(super) busy: bool,
}

/// Gives an accepted connection a loop of its own.
pub(crate) trait Spawner {
    /// What those loops run in, for the operator.
    fn kind(&self) -> &'static str;
    /// Descriptors of this process that each of them takes, its connection's included.
    fn descriptors_each(&self) -> usize;
    /// `held` are all descriptors of the loop that accepts, for who has copies of them.
    fn spawn(&mut self, core: &mut Core, service: u16, newcomer: Accepted, held: &dyn Fn() -> Vec<Fd>) -> Spawned;
}

/// What became of the descriptor of a connection that was to get a loop of its own.
pub(crate) enum Spawned {
    /// It belongs to that loop.
    Moved,
    /// That loop has a copy.
    Copied(Socket),
    /// There is no loop for it: none for now, where the system says so, and otherwise none at all.
    Failed(Socket, io::Error),
}

impl<D: Driver> EventLoop<D> {
    pub(super) fn accepted(&mut self, listener: usize, socket: Socket, peer: Peer) {
        let Listener { service, .. } = self.listeners[listener];
        self.note_arrival(listener);
        if self.is_at_limit(service) {
            return self.refuse(listener, socket, peer);
        }
        self.hosts[service as usize].counts.come();
        let newcomer = Accepted { listener, socket, peer };
        match (&mut self.spawner, &mut self.core.outgoing) {
            (Some(_), _) => self.give_a_loop(newcomer),
            (None, Some(outgoing)) => match outgoing.hand_out(newcomer) {
                Some(newcomer) => {
                    self.welcome(newcomer);
                }
                None => self.driver.count_out(),
            },
            (None, None) => {
                self.loop_handle.load_more();
                self.welcome(newcomer);
            }
        }
        self.mind_the_cap();
    }

    /// To a loop that comes with this connection, and ends with it.
    fn give_a_loop(&mut self, newcomer: Accepted) {
        // The driver owns every descriptor that callbacks of this batch have opened, and the channel of the last child,
        // before the next child is forked: a child closes what the driver names.
        self.settle();
        let Some(spawner) = &mut self.spawner else { return };
        let (listener, peer) = (newcomer.listener, newcomer.peer);
        let service = self.listeners[listener].service;
        let (driver, waiting, listeners) = (&self.driver, &self.waiting, &self.listeners);
        let held = || {
            let waiting = waiting.iter().map(|newcomer| newcomer.socket.fd());
            // Not all of them are the driver's: during a stop the driver forgets a listener with the last connection in
            // its queue, and the listener is closed after that connection has been given its child.
            let listeners =
                listeners.iter().filter_map(|listener| listener.listening.as_ref()).map(|listening| listening.fd());
            driver.held().into_iter().chain(waiting).chain(listeners).collect()
        };
        match spawner.spawn(&mut self.core, service, newcomer, &held) {
            Spawned::Moved => self.driver.count_out(),
            Spawned::Copied(socket) => self.driver.close_accepted(socket),
            Spawned::Failed(socket, cause) => match cause.raw_os_error() {
                // As where accept finds none: it waits, and whoever comes after it does so in the backlog.
                Some(errno) => {
                    self.driver.suspend(listener, Errno(errno));
                    self.waiting.push(Accepted { listener, socket, peer });
                }
                None => {
                    if self.failure_said.is_none_or(|at| self.core.now.since(at) >= SAY_AGAIN) {
                        self.failure_said = Some(self.core.now);
                        let name = &self.core.terms[service as usize].name;
                        log::error!("{name}: refused {peer}: {cause}");
                    }
                    self.let_go(Accepted { listener, socket, peer });
                }
            },
        }
    }

    /// Those for whom there was no loop, once their listener rests no more.
    pub(super) fn try_again(&mut self) {
        for newcomer in std::mem::take(&mut self.waiting) {
            if self.driver.is_suspended(newcomer.listener) {
                self.waiting.push(newcomer);
            } else {
                self.give_a_loop(newcomer);
            }
        }
    }

    /// One that was let in, and that nobody is going to serve.
    pub(super) fn let_go(&mut self, newcomer: Accepted) {
        let service = self.listeners[newcomer.listener].service;
        self.hosts[service as usize].counts.take_back();
        self.core.counters.refused.add(1);
        self.driver.close_accepted(newcomer.socket);
    }

    /// Connections that another loop has accepted for this one.
    pub(super) fn take_on_accepted(&mut self) {
        let mut accepted = Vec::new();
        self.mail |= self.inbox.accepted.take(&mut accepted, ACCEPTED_PER_TURN);
        for newcomer in accepted {
            self.take_on(newcomer);
        }
    }

    pub(super) fn take_on(&mut self, newcomer: Accepted) -> Option<ConnectionId> {
        self.driver.count_in();
        self.note_descriptors();
        self.cluster.has_counted();
        self.welcome(newcomer)
    }

    /// One that is let in, and that this loop is going to serve.
    fn welcome(&mut self, newcomer: Accepted) -> Option<ConnectionId> {
        let Accepted { listener, socket, peer } = newcomer;
        let Listener { service, reads_first, .. } = self.listeners[listener];
        if self.core.links.is_full() {
            self.hosts[service as usize].counts.take_back();
            self.core.counters.refused.add(1);
            self.loop_handle.load_less();
            self.driver.close_accepted(socket);
            return None;
        }
        let id = self.core.links.insert(Link::new(Origin::Accepted, peer, service, NO_STATE, self.core.now));
        self.core.counters.count_accepted();
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
        self.after_callback(id);
        self.advance_link(id);
        Some(id)
    }

    /// The explicit limit of connections of this service, or else that of the application.
    pub(super) fn limit_of(&self, service: u16) -> Counted {
        let served = &self.hosts[service as usize];
        let own = self.core.terms[service as usize].limits.connections.filter(|&limit| served.counts.open() >= limit);
        Counted(own.or(self.config.connections).unwrap_or_default(), "connection")
    }

    /// Whether an explicit limit of connections refuses all newcomers of this service.
    pub(super) fn is_at_limit(&self, service: u16) -> bool {
        let over = |limit: Option<usize>, open: &dyn Fn() -> usize| limit.is_some_and(|limit| open() >= limit);
        let here = || self.hosts[service as usize].counts.open();
        let in_all = || self.hosts.iter().map(|served| served.counts.open()).sum();
        over(self.core.terms[service as usize].limits.connections, &here) || over(self.config.connections, &in_all)
    }

    /// One too many: told so if there is something to tell, and let go.
    fn refuse(&mut self, listener: usize, socket: Socket, peer: Peer) {
        let Listener { service, .. } = self.listeners[listener];
        let terms = &self.core.terms[service as usize];
        log::debug!("{}: refused {peer}, at the limit of connections", terms.name);
        self.core.counters.refused.add(1);
        let served = &mut self.hosts[service as usize];
        served.counts.refuse();
        served.refusals.1 += 1;
        if served.refusals.0.is_none_or(|at| self.core.now.since(at) >= SAY_AGAIN) {
            let (name, refused) = (&terms.name, Counted(served.refusals.1 as usize, "connection"));
            log::warn!("{name}: refused {refused}, the last from {peer}, at the limit of {}", self.limit_of(service));
            self.hosts[service as usize].refusals = (Some(self.core.now), 0);
        }
        self.hosts[service as usize].host.refused(&mut self.core, peer);
        self.after_callback(ConnectionId::NONE);
        let (terms, served) = (&self.core.terms[service as usize], &mut self.hosts[service as usize]);
        let refusal = &self.listeners[listener].refusal;
        if refusal.is_empty() || self.core.links.is_full() {
            return self.driver.close_accepted(socket);
        }
        let lingers = served.refused < terms.limits.refused_lingering;
        served.refused += 1;
        let mut link = Link::new(Origin::Refused, peer, service, NO_STATE, self.core.now);
        link.refuse(refusal, lingers, self.core.now, &mut self.core.pool);
        let id = self.core.links.insert(link);
        self.driver.adopt(id, socket, false);
        self.advance_link(id);
        self.mind_the_cap();
    }

    /// At the cap that comes from the descriptor limit, or from that of threads or processes, nobody is accepted: newcomers
    /// wait in the backlog.
    pub(super) fn mind_the_cap(&mut self) {
        self.note_descriptors();
        if self.listeners.is_empty() || self.loop_handle.number != 0 {
            return;
        }
        let (each, kind) = match &self.spawner {
            Some(spawner) => (spawner.descriptors_each(), spawner.kind()),
            None => (1, ""),
        };
        let no_descriptor = || self.cluster.descriptors() + each > self.config.descriptors;
        let at_cap = self
            .cluster
            .look_for_room(|| no_descriptor() || self.cluster.per_connection_count() >= self.config.per_connection);
        if at_cap != self.at_cap {
            self.at_cap = at_cap;
            let said_lately = self.at_cap_logged.is_some_and(|at| self.core.now.since(at) < SAY_AGAIN);
            if at_cap && !said_lately {
                self.at_cap_logged = Some(self.core.now);
                let (limit, what) = match no_descriptor() {
                    true => (self.config.descriptors, "descriptors"),
                    false => (self.config.per_connection, kind),
                };
                log::warn!("at the limit of {limit} {what}: newcomers have to wait");
            }
            for listener in 0..self.listeners.len() {
                self.driver.set_accepting(listener, !at_cap);
            }
        }
    }
}
