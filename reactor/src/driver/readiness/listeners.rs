//! Accepting: a bounded number in each turn, and a rest when there is no descriptor or no memory for more.

use std::time::Duration;

use super::super::{Completion, Socket};
use super::{Readiness, Report, Stage};
use crate::error::Errno;
use crate::sys::errno::concerns_one_newcomer;
use crate::sys::{Fd, Interest, Sys};
use crate::time::Time;
use crate::token::ConnectionId;

/// Newcomers taken from one listener in one turn: a connect storm must not keep those who are connected waiting.
const ACCEPTS_PER_TURN: u32 = 64;
/// How long a listener rests when there is no descriptor or no memory, unless one is freed first.
pub(super) const STARVED_REST: Duration = Duration::from_secs(1);

/// A listener, and why it may not be accepted from now.
pub(super) struct Listener {
    pub(super) fd: Fd,
    pub(super) name: String,
    pub(super) accepting: bool,
    pub(super) gone: bool,
    pub(super) registered: bool,
    pub(super) starved_until: Option<Time>,
    /// Somebody waits for a look, event or none, as soon as it rests no more.
    pub(super) probe_due: bool,
}

impl<S: Sys> Readiness<S> {
    pub(super) fn listener_event(&mut self, index: usize) -> Option<Report> {
        if matches!(self.stage, Stage::Fresh) {
            self.stage = Stage::Accepting(ACCEPTS_PER_TURN);
        }
        self.accept(index)
    }

    fn accept(&mut self, index: usize) -> Option<Report> {
        while let Stage::Accepting(left) = self.stage {
            let listener = &self.listeners[index];
            if left == 0 || listener.gone || !listener.accepting || listener.starved_until.is_some() {
                return None;
            }
            self.stage = Stage::Accepting(left - 1);
            match self.sys.accept(listener.fd) {
                Ok(Some((fd, peer))) => {
                    self.open += 1;
                    return Some(Report::Said(Completion::Accepted { listener: index, socket: Socket(fd), peer }));
                }
                Ok(None) => return None,
                Err(errno) if concerns_one_newcomer(errno) => {
                    log::debug!("{}: a newcomer was lost before it was accepted: {errno}", listener.name);
                }
                Err(errno) => {
                    self.starve(index, errno);
                    return None;
                }
            }
        }
        None
    }

    /// Leaves off accepting for a while, and says so, once a second at most.
    pub(super) fn starve(&mut self, index: usize, errno: Errno) {
        let now = self.sys.now();
        self.starving += usize::from(self.listeners[index].starved_until.is_none());
        self.listeners[index].starved_until = Some(now + STARVED_REST);
        self.settle_listener(index);
        self.counters.accept_starved.add(1);
        if self.starved_logged.is_none_or(|at| now.since(at) >= Duration::from_secs(1)) {
            self.starved_logged = Some(now);
            log::warn!("{}: newcomers have to wait: {errno}", self.listeners[index].name);
        }
    }

    /// Takes resting listeners up again: all of them when a descriptor was freed, else those whose rest is over. Those are
    /// looked at in this very batch: an event for who waits there would come from another wait, and starving costs one a
    /// second.
    pub(super) fn feed(&mut self, freed: bool) {
        if self.starving == 0 {
            return;
        }
        let now = self.sys.now();
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.starved_until.is_some_and(|until| freed || until <= now) {
                listener.starved_until = None;
                self.starving -= 1;
                if std::mem::take(&mut listener.probe_due) || !freed {
                    self.listener_probes.push(index);
                }
                self.settle_listener(index);
            }
        }
    }

    /// Brings the poller up to date with whether this listener is to be accepted from.
    pub(super) fn settle_listener(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        let wanted = listener.accepting && !listener.gone && listener.starved_until.is_none();
        if wanted == listener.registered {
            return;
        }
        listener.registered = wanted;
        if !wanted {
            return self.sys.forget(listener.fd);
        }
        let token = listener_token(self.home.event_loop(), index);
        if let Err(errno) = self.sys.register(listener.fd, token, Interest { read: true, write: false }) {
            listener.registered = false;
            self.starve(index, errno);
        }
    }
}

/// Listeners go by generation 0, which no connection has, and by slots from 1, since 0 is the wake-up.
pub(super) fn listener_token(event_loop: u32, index: usize) -> ConnectionId {
    ConnectionId::new(event_loop, index + 1, 0)
}
