//! Accepted connections: served, refused at an explicit cap, or left to wait in the backlog at the cap that comes from the
//! descriptor limit.

use super::EventLoop;
use super::exchange::Spawner;
use crate::address::Peer;
use crate::cluster::Accepted;
use crate::context::Refusal;
use crate::driver::{Driver, Socket};
use crate::link::{Link, NO_STATE, Origin};
use crate::recorder::What;
use crate::service::listener::Listener;
use crate::time::LogLimit;
use crate::token::ConnectionId;

/// Admission of accepted connections, besides the limits of the services.
#[derive(Default)]
pub(super) struct Admission {
    /// Gives an accepted connection a loop of its own, under threads and processes.
    pub(super) spawner: Option<Box<dyn Spawner>>,
    /// At the cap that comes from the descriptor limit, or from the number of threads or processes: nobody is accepted.
    pub(super) at_cap: bool,
    pub(super) at_cap_log: LogLimit,
    /// Accepted connections for which the system has no thread or process now: at most one of each listener.
    pub(super) waiting: Vec<Accepted>,
    pub(super) failure_log: LogLimit,
}

impl<D: Driver> EventLoop<D> {
    pub(super) fn accepted(&mut self, listener: usize, socket: Socket, peer: Peer) {
        let Listener { service, .. } = self.listeners[listener];
        if self.listeners[listener].has_brought_the_last() {
            self.driver.forget_listener(listener);
        }
        let accepted = Accepted { listener, socket, peer };
        if let Some(limit) = self.core.limit_reached(service) {
            return self.refuse(accepted, limit);
        }
        self.core.terms[service as usize].counts.come();
        match (&mut self.admission.spawner, &mut self.core.outgoing) {
            (Some(_), _) => self.give_a_loop(accepted),
            (None, Some(outgoing)) => match outgoing.hand_out(accepted) {
                Some(accepted) => {
                    self.welcome(accepted);
                }
                None => self.driver.count_out(),
            },
            (None, None) => {
                self.exchange.loop_handle.load_more();
                self.welcome(accepted);
            }
        }
        self.mind_the_cap();
    }

    /// Begins to serve an accepted connection on this loop.
    pub(super) fn welcome(&mut self, accepted: Accepted) -> Option<ConnectionId> {
        let Accepted { listener, socket, peer } = accepted;
        let Listener { service, reads_first, .. } = self.listeners[listener];
        if self.core.links.is_full() {
            self.core.terms[service as usize].counts.take_back();
            self.core.counters.refused.add(1);
            self.exchange.loop_handle.load_less();
            self.driver.close_accepted(socket);
            return None;
        }
        let mut link = Link::new(Origin::Accepted, peer, service, NO_STATE, self.core.now);
        link.begin(socket.fd(), false);
        let id = self.core.links.insert(link);
        self.core.counters.count_accepted();
        self.core.recorder.note(id, What::Accepted, self.core.now);
        self.driver.adopt(id, socket, reads_first);
        log::debug!("{}: connection {id} from {peer}", self.core.terms[service as usize].name);
        let layer = self.listeners[listener].layers.as_ref().map(|layers| layers());
        if let Some(link) = self.core.links.get_mut(id).filter(|_| self.stopping.is_some()) {
            link.stop();
        }
        match layer {
            Some(layer) => {
                self.driver.put_layer(id, layer);
                self.update(id, Link::begin_handshake);
            }
            None => self.open(id, service),
        }
        Some(id)
    }

    /// The handler hears of a connection.
    pub(super) fn open(&mut self, id: ConnectionId, service: u16) {
        let state = self.hosts[service as usize].host.open(&mut self.core, id);
        if let Some(link) = self.core.links.get_mut(id) {
            link.state = state;
        }
        self.after_callback(id);
        self.advance_link(id);
    }

    /// Refuses a connection over a limit: sends the refusal, if any, and closes.
    fn refuse(&mut self, accepted: Accepted, limit: usize) {
        let Accepted { listener, socket, peer } = accepted;
        let Listener { service, .. } = self.listeners[listener];
        let served = &mut self.hosts[service as usize];
        self.core.counters.refused.add(1);
        self.core.terms[service as usize].counts.refuse();
        self.core.log_refusal(service, served.count_refusal(self.core.now), &peer, limit);
        served.host.refused(&mut self.core, peer);
        self.after_callback(ConnectionId::NONE);
        let (terms, served) = (&self.core.terms[service as usize], &mut self.hosts[service as usize]);
        let layered = self.listeners[listener].layers.is_some();
        if terms.refusal.is_silent() || layered || self.core.links.is_full() {
            return self.driver.close_accepted(socket);
        }
        let lingers = served.refused < terms.limits.refused_lingering;
        served.refused += 1;
        let now = self.core.now;
        let mut link = Link::new(Origin::Refused, peer, service, NO_STATE, now);
        link.begin(socket.fd(), false);
        match &terms.refusal {
            Refusal::Always(bytes) => link.refuse(bytes, lingers, now, &mut self.core.pool),
            // Beyond the number that may linger, only bytes that have arrived already are read, in this turn.
            Refusal::ByFirstBytes { patience, .. } => {
                link.await_first_bytes(if lingers { now + *patience } else { now }, lingers);
            }
        }
        if self.stopping.is_some() {
            link.stop();
        }
        let (reads_first, id) = (link.is_open(), self.core.links.insert(link));
        self.driver.adopt(id, socket, reads_first);
        self.advance_link(id);
        self.mind_the_cap();
    }
}
