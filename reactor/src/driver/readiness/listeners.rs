//! Accepting: a bounded number of connections in each turn, and a pause while there is no descriptor or memory for more.

use std::time::Duration;

use super::super::{Acceptor, Completion, Socket};
use super::Readiness;
use super::batch::Stage;
use crate::error::Errno;
use crate::socket_options::Tuning;
use crate::sys::errno::concerns_one_connection;
use crate::sys::{Fd, Interest, Sys};
use crate::time::Time;
use crate::token::ConnectionId;

/// Connections accepted from one listener in one turn: a connect storm must not delay established connections.
const ACCEPTS_PER_TURN: u32 = 64;
/// Longest suspension of a listener for lack of a descriptor or memory. A freed descriptor ends the suspension earlier.
pub(super) const SUSPENDED_REST: Duration = Duration::from_secs(1);

/// The driver's state of a listening socket.
pub(super) struct DriverListener {
    pub(super) fd: Fd,
    pub(super) name: String,
    /// The options of accepted sockets that do not inherit them.
    tuning: Tuning,
    state: State,
}

/// The poller watches a listener in the state `Accepting`, and in no other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Accepting,
    /// The loop has no room; connections wait in the backlog until `set_accepting`.
    Held,
    /// Accepting failed for lack of a descriptor or of memory. Ends when a descriptor is freed, or at `until`. Then `probe` says
    /// whether to accept without an event, and the listener is held if the loop has stopped accepting meanwhile.
    Suspended {
        until: Time,
        probe: bool,
        held: bool,
    },
    /// No longer watched, for good.
    Forgotten,
}

impl<S: Sys> Acceptor for Readiness<S> {
    fn listen(&mut self, fd: Fd, name: &str, tuning: &Tuning) -> usize {
        let index = self.listeners.len();
        self.listeners.push(DriverListener { fd, name: name.to_owned(), tuning: tuning.clone(), state: State::Held });
        self.set_state(index, State::Accepting);
        index
    }

    fn set_accepting(&mut self, index: usize, accepting: bool) {
        match &mut self.listeners[index].state {
            State::Suspended { held, .. } => *held = !accepting,
            State::Accepting | State::Held => {
                self.set_state(index, if accepting { State::Accepting } else { State::Held });
            }
            State::Forgotten => {}
        }
    }

    fn forget_listener(&mut self, index: usize) {
        self.set_state(index, State::Forgotten);
    }

    /// Suspends a listener. Requests of the loop meanwhile take effect afterwards. Logged once a second at most.
    fn suspend(&mut self, index: usize, errno: Errno) {
        let (probe, held) = match self.listeners[index].state {
            State::Accepting => (false, false),
            State::Held => (false, true),
            State::Suspended { probe, held, .. } => (probe, held),
            State::Forgotten => return,
        };
        let now = self.sys.now();
        self.set_state(index, State::Suspended { until: now + SUSPENDED_REST, probe, held });
        self.counters.accept_starved.add(1);
        if self.suspended_log.passes(now) {
            log::warn!("{}: new connections wait: {errno}", self.listeners[index].name);
        }
    }

    fn is_suspended(&self, index: usize) -> bool {
        matches!(self.listeners[index].state, State::Suspended { .. })
    }

    fn probe_listener(&mut self, index: usize) {
        match &mut self.listeners[index].state {
            State::Suspended { probe, .. } => *probe = true,
            _ => self.listener_probes.push(index),
        }
    }

    fn close_accepted(&mut self, socket: Socket) {
        // At once: the socket is not registered, so no event of this batch can name the descriptor. Refused connections, and
        // those of other processes, would otherwise each hold a descriptor until the end of the batch.
        self.sys.close(socket.0);
        self.open -= 1;
        self.freed = true;
    }

    fn count_out(&mut self) {
        self.open -= 1;
    }

    fn count_in(&mut self) {
        self.open += 1;
    }
}

impl<S: Sys> Readiness<S> {
    pub(super) fn listener_event(&mut self, index: usize) -> Option<Completion> {
        if matches!(self.stage, Stage::Fresh) {
            self.stage = Stage::Accepting(ACCEPTS_PER_TURN);
        }
        while let Stage::Accepting(left) = self.stage {
            let listener = &self.listeners[index];
            if left == 0 || listener.state != State::Accepting {
                return None;
            }
            self.stage = Stage::Accepting(left - 1);
            match self.sys.accept(listener.fd, &listener.tuning) {
                Ok(Some((fd, peer))) => {
                    self.open += 1;
                    return Some(Completion::Accepted { listener: index, socket: Socket(fd), peer });
                }
                Ok(None) => return None,
                Err(errno) if concerns_one_connection(errno) => {
                    log::debug!("{}: a connection was lost before it was accepted: {errno}", listener.name);
                }
                Err(errno) => {
                    self.suspend(index, errno);
                    return None;
                }
            }
        }
        None
    }

    /// Ends suspensions: all when a descriptor was freed, otherwise those whose time is over. The latter listeners accept in
    /// this batch: an event would take another wait, and a suspended listener may cost one wait a second.
    pub(super) fn resume_suspended(&mut self, freed: bool) {
        if self.suspended == 0 {
            return;
        }
        let now = self.sys.now();
        for index in 0..self.listeners.len() {
            if let State::Suspended { until, probe, held } = self.listeners[index].state
                && (freed || until <= now)
            {
                if probe || !freed {
                    self.listener_probes.push(index);
                }
                self.set_state(index, if held { State::Held } else { State::Accepting });
            }
        }
    }

    /// The descriptors of all listeners that are not forgotten.
    pub(super) fn listener_descriptors(&self) -> impl Iterator<Item = Fd> {
        self.listeners.iter().filter(|listener| listener.state != State::Forgotten).map(|listener| listener.fd)
    }

    /// Sets the state, and brings the poller up to date. The only caller of the poller for listeners.
    fn set_state(&mut self, index: usize, state: State) {
        let listener = &mut self.listeners[index];
        let before = std::mem::replace(&mut listener.state, state);
        self.suspended += usize::from(matches!(state, State::Suspended { .. }));
        self.suspended -= usize::from(matches!(before, State::Suspended { .. }));
        if before == State::Accepting && state != State::Accepting {
            self.sys.forget(listener.fd);
        }
        if state == State::Accepting && before != State::Accepting {
            let token = listener_token(self.home.event_loop(), index);
            if let Err(errno) = self.sys.register(listener.fd, token, Interest { read: true, ..Interest::default() }) {
                // Not registered, as if held; but the loop has not asked for that.
                listener.state = State::Held;
                self.suspend(index, errno);
                self.set_accepting(index, true);
            }
        }
    }
}

/// Listeners go by generation 0, which no connection has, and by slots from 1, since 0 is the wake-up.
pub(super) fn listener_token(event_loop: u32, index: usize) -> ConnectionId {
    ConnectionId::new(event_loop, index + 1, 0)
}
