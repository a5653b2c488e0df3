//! Publications and connections on their way to the other loops: each publication goes once to each loop with members,
//! and a turn costs one wake-up for each loop.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::{Accepted, Cluster, LoopHandle, PUBLISHED_BYTES, Publication, Snapshot};
use crate::mailbox::{MAILBOX_MESSAGES, PostError};
use crate::shared::Shared;
use crate::token::ConnectionId;
use crate::topics::Topic;

pub(crate) struct Outgoing {
    cluster: Arc<Cluster>,
    here: Arc<LoopHandle>,
    /// All loops, as of the last publication that found the snapshot out of date.
    snapshot: Snapshot,
    /// `got_some`: whether a loop got a publication in this turn, by the loop's place in the snapshot. `to_wake`: the places of
    /// loops that got some.
    got_some: Vec<bool>,
    to_wake: Vec<usize>,
    /// Fixed loops that got a connection in this turn.
    accepted: Vec<usize>,
    /// Publications that a full mailbox did not take, in order, by the loop's number.
    waiting: HashMap<u32, (Arc<LoopHandle>, VecDeque<Publication>)>,
    /// Connections that published without room: not read until all waiting publications have gone on.
    held: HashSet<ConnectionId>,
    /// At the beginning of this turn the capacity of a mailbox was waiting: callbacks without a connection publish
    /// nothing to other loops.
    is_full: bool,
    /// Publications left out because of `is_full` since the last [`Outgoing::take_left_out`].
    left_out: u64,
    /// The loop that got the last connection.
    last: usize,
}

impl Outgoing {
    pub(crate) fn new(cluster: Arc<Cluster>, here: Arc<LoopHandle>) -> Self {
        let last = here.number as usize;
        Outgoing {
            cluster,
            here,
            snapshot: Snapshot::empty(),
            got_some: Vec::new(),
            to_wake: Vec::new(),
            accepted: Vec::new(),
            waiting: HashMap::new(),
            held: HashSet::new(),
            is_full: false,
            left_out: 0,
            last,
        }
    }

    /// Passes a message to each loop that has members of the topic, except loop number `except`. Returns `false` if a
    /// loop has no room: then `by`, whose callback published, must be held.
    pub(crate) fn publish(
        &mut self,
        topic: &Topic,
        bytes: impl FnOnce() -> Bytes,
        by: ConnectionId,
        except: Option<u32>,
    ) -> bool {
        if !self.cluster.is_current(&self.snapshot) {
            self.refresh();
        }
        let bits = topic.bit();
        let mut bytes = Some(bytes);
        let mut shared: Option<Shared> = None;
        let mut fitted = true;
        for (place, loop_handle) in self.snapshot.cluster.iter().enumerate() {
            if loop_handle.number == self.here.number
                || Some(loop_handle.number) == except
                || !loop_handle.has_topics(bits)
            {
                continue;
            }
            if let Some(make) = bytes.take() {
                shared = Some(Shared::new(make()));
            }
            let Some(bytes) = &shared else { continue };
            if self.is_full && self.waiting.contains_key(&loop_handle.number) && !may_wait(&self.held, by) {
                self.left_out += 1;
                continue;
            }
            let publication = (topic.clone(), bytes.clone());
            if let Some((_, waiting)) = self.waiting.get_mut(&loop_handle.number) {
                waiting.push_back(publication);
                fitted = false;
                continue;
            }
            if !std::mem::replace(&mut self.got_some[place], true) {
                self.to_wake.push(place);
            }
            match loop_handle.pass_on(publication) {
                Ok(()) => {}
                Err(PostError::Full(publication)) => {
                    self.waiting.insert(loop_handle.number, (loop_handle.clone(), VecDeque::from([publication])));
                    fitted = false;
                }
                // The loop has ended, with all its members.
                Err(PostError::Closed(_)) => {}
            }
        }
        fitted
    }

    /// Renews the snapshot, because loops have come or gone.
    #[cold]
    fn refresh(&mut self) {
        self.wake();
        self.snapshot = self.cluster.snapshot();
        self.got_some.clear();
        self.got_some.resize(self.snapshot.cluster.len(), false);
    }

    /// Wakes every other loop.
    pub(crate) fn wake_others(&self) {
        self.cluster.wake_others(self.here.number);
    }

    fn wake(&mut self) {
        for place in self.to_wake.drain(..) {
            self.got_some[place] = false;
            self.snapshot.cluster[place].wake();
        }
        for fixed in self.accepted.drain(..) {
            self.cluster.fixed()[fixed].wake();
        }
    }

    /// Holds connection `id`: the loop does not read it until all waiting publications have gone on.
    pub(crate) fn hold(&mut self, id: ConnectionId) {
        self.held.insert(id);
    }

    /// Whether the capacity of a mailbox was waiting at the beginning of this turn.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether publications were left out since [`Outgoing::take_left_out`].
    pub(crate) fn has_left_out(&self) -> bool {
        self.left_out > 0
    }

    /// Takes the number of publications left out since the last call, because callbacks without a connection published
    /// more than a loop takes.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Whether any publication waits.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// At the end of a turn: passes on the publications that have room now, and wakes the loops that got some. Returns
    /// the connections that need no longer be held.
    pub(crate) fn flush(&mut self) -> Vec<ConnectionId> {
        self.wake();
        self.waiting.retain(|_, (loop_handle, waiting)| {
            let before = waiting.len();
            let is_closed = loop {
                let Some(publication) = waiting.pop_front() else { break false };
                match loop_handle.pass_on(publication) {
                    Ok(()) => {}
                    Err(PostError::Full(publication)) => {
                        waiting.push_front(publication);
                        break false;
                    }
                    Err(PostError::Closed(_)) => break true,
                }
            };
            if waiting.len() < before {
                loop_handle.wake();
            }
            !is_closed && !waiting.is_empty()
        });
        self.is_full = self.waiting.values().any(|(_, waiting)| is_much(waiting));
        match self.held.is_empty() || self.is_behind() {
            true => Vec::new(),
            false => std::mem::take(&mut self.held).into_iter().collect(),
        }
    }

    /// Hands an accepted connection to the least loaded loop. Returns the connection if this loop is the least loaded, or if
    /// the other loop has ended.
    pub(crate) fn hand_out(&mut self, accepted: Accepted) -> Option<Accepted> {
        let to = self.cluster.least_loaded(self.last);
        self.last = to;
        let loop_handle = &self.cluster.fixed()[to];
        loop_handle.load_more();
        if loop_handle.number == self.here.number {
            return Some(accepted);
        }
        match self.cluster.hand(loop_handle, accepted) {
            Ok(()) => {
                if !self.accepted.contains(&to) {
                    self.accepted.push(to);
                }
                None
            }
            Err(error) => {
                loop_handle.load_less();
                self.here.load_more();
                Some(error.into_message())
            }
        }
    }

    /// Notes the topics that have members on this loop, as bits.
    pub(crate) fn note_topics(&self, bits: u64) {
        self.here.set_topics(bits);
    }
}

/// Whether publications of this connection's callback may wait for any length of the queue: the connection is still
/// read, and will be held.
fn may_wait(held: &HashSet<ConnectionId>, by: ConnectionId) -> bool {
    by != ConnectionId::NONE && !held.contains(&by)
}

/// Whether the waiting publications would fill a mailbox.
fn is_much(waiting: &VecDeque<Publication>) -> bool {
    waiting.len() >= MAILBOX_MESSAGES || waiting.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() >= PUBLISHED_BYTES
}
