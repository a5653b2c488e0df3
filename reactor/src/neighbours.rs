//! The other loops of an application, as one of them sees them: what is published here goes to members there, once for each
//! loop, and one wake-up for however much a turn has published.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::handle::{Handle, Newcomer, Publication};
use crate::mailbox::PostError;
use crate::token::ConnectionId;
use crate::topics::Topic;

pub(crate) struct Neighbours {
    handle: Handle,
    here: usize,
    each: Vec<Neighbour>,
    /// Connections that published what had no room: nothing is read from them until all has gone on.
    held: Vec<ConnectionId>,
    last: usize,
}

#[derive(Default)]
struct Neighbour {
    /// What its mailbox has had no room for yet, in order.
    waiting: VecDeque<Publication>,
    /// Something was put there in this turn.
    to_wake: bool,
}

impl Neighbours {
    pub(crate) fn new(handle: Handle, here: usize) -> Self {
        let each = handle.desks().iter().map(|_| Neighbour::default()).collect();
        Neighbours { handle, here, each, held: Vec::new(), last: here }
    }

    /// Passes a message on to each loop that has members of the topic. `false`: one has no room, so whoever published is
    /// to be held.
    pub(crate) fn publish(&mut self, topic: &Topic, bytes: impl FnOnce() -> Bytes) -> bool {
        let bits = topic.bit();
        let mut bytes = Some(bytes);
        let mut shared: Option<Bytes> = None;
        let mut fitted = true;
        for (index, neighbour) in self.each.iter_mut().enumerate() {
            let desk = self.handle.desk(index);
            if index == self.here || !desk.has_topics(bits) {
                continue;
            }
            if let Some(make) = bytes.take() {
                shared = Some(make());
            }
            let Some(bytes) = &shared else { continue };
            let published = (topic.clone(), bytes.clone());
            if !neighbour.waiting.is_empty() {
                neighbour.waiting.push_back(published);
                fitted = false;
                continue;
            }
            match desk.pass_on(published) {
                Ok(()) => neighbour.to_wake = true,
                Err(PostError::Full(published)) => {
                    neighbour.waiting.push_back(published);
                    neighbour.to_wake = true;
                    fitted = false;
                }
                // It has ended, and all its members with it.
                Err(PostError::Closed(_)) => {}
            }
        }
        fitted
    }

    /// Nothing is to be read from this connection until all has gone on.
    pub(crate) fn hold(&mut self, id: ConnectionId) {
        self.held.push(id);
    }

    /// Something waits to be passed on.
    pub(crate) fn is_behind(&self) -> bool {
        self.each.iter().any(|neighbour| !neighbour.waiting.is_empty())
    }

    /// At the end of a turn: passes on what there is room for now, and wakes whoever got something. Those held that need
    /// not be any longer.
    pub(crate) fn flush(&mut self) -> Vec<ConnectionId> {
        for (index, neighbour) in self.each.iter_mut().enumerate() {
            let desk = self.handle.desk(index);
            while let Some(published) = neighbour.waiting.pop_front() {
                match desk.pass_on(published) {
                    Ok(()) => neighbour.to_wake = true,
                    Err(PostError::Full(published)) => {
                        neighbour.waiting.push_front(published);
                        break;
                    }
                    Err(PostError::Closed(_)) => neighbour.waiting.clear(),
                }
            }
            if std::mem::take(&mut neighbour.to_wake) {
                desk.waker.wake();
            }
        }
        if self.held.is_empty() || self.is_behind() { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    /// Gives a newcomer to the loop with the fewest connections. Back, if that is this one, or takes it no more.
    pub(crate) fn hand_out(&mut self, newcomer: Newcomer) -> Option<Newcomer> {
        let to = self.handle.least_loaded(self.last);
        self.last = to;
        if to == self.here {
            self.handle.desk(to).load_more();
            return Some(newcomer);
        }
        let desk = self.handle.desk(to);
        desk.load_more();
        match desk.hand(newcomer) {
            Ok(()) => {
                self.each[to].to_wake = true;
                None
            }
            Err(error) => {
                desk.load_less();
                self.handle.desk(self.here).load_more();
                Some(error.into_message())
            }
        }
    }

    /// What this loop has members of.
    pub(crate) fn note_topics(&self, bits: u64) {
        self.handle.desk(self.here).set_topics(bits);
    }
}
