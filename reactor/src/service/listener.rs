//! The listener of a loop: a listening socket, and the progress of a stop with the accept queue. Touches no driver, so every
//! round of a stop is a unit test.

use crate::layer::Layers;
use crate::sys::listen::Listens;

/// A listening socket, and the service for its connections.
pub(crate) struct Listener {
    pub(crate) service: u16,
    state: State,
    pub(crate) reads_first: bool,
    /// The factory of the layers between connections and the wire.
    pub(crate) layers: Option<Layers>,
}

enum State {
    Open(Box<dyn Listens>),
    /// The application stops: `left` more connections are served. `busy`: the last round of accepting brought a connection.
    Draining {
        socket: Box<dyn Listens>,
        left: usize,
        busy: bool,
    },
    /// The socket is closed and a Unix socket's file removed; or another loop has the socket.
    Closed,
}

/// The next action for a listener while the application stops.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Accept what the queue has, without waiting for an event: no event reports that a queue is empty.
    Accept,
    /// Nothing until there is room, or nothing at all.
    Wait,
    /// The driver forgets the listener, and it is closed.
    Close,
}

impl Listener {
    /// `socket`: `None` if another loop accepts.
    pub(crate) fn new(
        service: u16,
        socket: Option<Box<dyn Listens>>,
        reads_first: bool,
        layers: Option<Layers>,
    ) -> Self {
        Listener { service, state: socket.map_or(State::Closed, State::Open), reads_first, layers }
    }

    /// The socket, until the listener is closed.
    pub(crate) fn socket(&self) -> Option<&dyn Listens> {
        match &self.state {
            State::Open(socket) | State::Draining { socket, .. } => Some(&**socket),
            State::Closed => None,
        }
    }

    /// The application begins to stop. Connections in the queue now are served, and later connections are not: a connect storm
    /// must not put off the end, least of all where each connection is a process.
    pub(crate) fn drain(&mut self, backlog: u32) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Open(socket) => {
                // Where the system does not tell the queue's length: the largest length, on Linux one more than the backlog.
                let left = socket.waiting().unwrap_or(backlog as usize + 1);
                State::Draining { socket, left, busy: true }
            }
            other => other,
        };
    }

    /// Counts an accepted connection. Returns whether a stop accepts no further connection.
    pub(crate) fn has_brought_the_last(&mut self) -> bool {
        let State::Draining { left, busy, .. } = &mut self.state else { return false };
        *busy = true;
        *left = left.saturating_sub(1);
        *left == 0
    }

    /// The next action of a stop. The listener closes when the queue has been drained, or when the last round of accepting has
    /// brought no connection; `at_once`, because the drain time is over, closes too. Connections that wait for room, because
    /// the loop is `at_cap` or the listener `is_suspended`, get a further round once there is room.
    pub(crate) fn next_round(&mut self, at_cap: bool, is_suspended: impl FnOnce() -> bool, at_once: bool) -> Round {
        let State::Draining { left, busy, .. } = &mut self.state else { return Round::Wait };
        if *left > 0 && !at_once && (at_cap || is_suspended()) {
            *busy = true;
            // The driver looks at a suspended listener as soon as its suspension ends.
            return if at_cap { Round::Wait } else { Round::Accept };
        }
        if at_once || *left == 0 || !std::mem::take(busy) { Round::Close } else { Round::Accept }
    }

    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::sys::Fd;

    /// A queue of this many, where the system tells.
    #[derive(Debug)]
    struct Queue(Option<usize>);

    impl Listens for Queue {
        fn fd(&self) -> Fd {
            Fd::NONE
        }

        fn address(&self) -> &Address {
            unreachable!("no report is written")
        }

        fn waiting(&self) -> Option<usize> {
            self.0
        }
    }

    fn draining(waiting: Option<usize>, backlog: u32) -> Listener {
        let mut listener = Listener::new(0, Some(Box::new(Queue(waiting))), false, None);
        assert_eq!(listener.next_round(false, || false, false), Round::Wait, "nothing stops yet");
        listener.drain(backlog);
        listener
    }

    #[test]
    fn a_stop_takes_in_the_queue_as_it_was_and_no_more() {
        let mut listener = draining(Some(2), 128);
        assert_eq!(listener.next_round(false, || false, false), Round::Accept);
        assert!(!listener.has_brought_the_last());
        assert_eq!(listener.next_round(false, || false, false), Round::Accept);
        assert!(listener.has_brought_the_last());
        assert_eq!(listener.next_round(false, || false, false), Round::Close);
        listener.close();
        assert!(listener.socket().is_none());
        assert_eq!(listener.next_round(false, || false, true), Round::Wait, "it is closed");
    }

    #[test]
    fn a_round_that_brings_nobody_is_the_last() {
        let mut listener = draining(None, 5);
        for _ in 0..5 {
            assert_eq!(listener.next_round(false, || false, false), Round::Accept);
            assert!(!listener.has_brought_the_last(), "a queue may hold one more than its backlog");
        }
        assert_eq!(listener.next_round(false, || false, false), Round::Accept);
        assert_eq!(listener.next_round(false, || false, false), Round::Close);
    }

    #[test]
    fn those_who_wait_for_room_get_a_round_once_there_is_some() {
        let mut listener = draining(Some(1), 128);
        for _ in 0..3 {
            assert_eq!(listener.next_round(true, || false, false), Round::Wait, "without room nobody is accepted");
            assert_eq!(listener.next_round(false, || true, false), Round::Accept, "when the suspension ends");
        }
        assert_eq!(listener.next_round(false, || false, false), Round::Accept);
        assert_eq!(draining(Some(1), 128).next_round(true, || true, true), Round::Close, "nobody waits any more");
    }
}
