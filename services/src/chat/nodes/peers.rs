//! The other nodes: their members, and the gaps in their messages.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::members::keys_of;
use super::wire::{Content, Notice, Person, people};
use super::{Event, GONE_AFTER, Key, SUSPECT_AFTER};
use crate::codec::text::append_clean;

/// Nodes that a node knows at most. Messages of further ones are ignored, and counted.
pub(super) const NODES_MAX: usize = 1_000;
/// Members of all other nodes together that a node knows at most. Further ones are ignored, and counted.
const MEMBERS_MAX: usize = 1_000_000;
/// Members of one node that a node knows at most.
const LIST_MAX: usize = 100_000;
/// The time for which the counters of a node that has gone are kept, so that delayed messages of the node stay without effect.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Signs of life in a row with lower counters than the known ones, or after the end of a node, by which the known counters or the end
/// are taken for a forgery: messages do not overtake each other so far, and no node counts backwards.
const DOUBTS: u8 = 5;
/// Messages, or arrivals and departures, that can be missed of a node that has not gone. A higher counter is no node's.
const JUMP_MAX: u64 = 100_000_000;
/// Least time between two questions to one node, and between two lists of members for one node.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// All other nodes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: HashMap<Box<str>, Peer>,
    /// Nodes that have gone.
    gone: HashMap<Box<str>, Gone>,
    /// Number of members of other nodes for each key of a name.
    names: HashMap<Key, usize>,
    /// Number of members of other nodes.
    count: usize,
    /// Number of members in lists of which parts have arrived.
    listed: usize,
    /// Messages that were ignored: not in the form of a message, or over a limit.
    pub(super) ignored: u64,
}

#[derive(Debug)]
struct Peer {
    /// When the latest message arrived.
    last_sign: Duration,
    /// The counters of the latest message whose predecessors are all applied, or reported as missed.
    changes: u64,
    said: u64,
    members: BTreeMap<u64, Box<str>>,
    /// Arrivals or departures are missing: the list of members is to be asked for.
    is_stale: bool,
    /// This node knows of no arrival of the members, because they were there before this node: nobody is told of them, until the list
    /// of members has arrived.
    was_before: bool,
    asked_at: Option<Duration>,
    answered_at: Option<Duration>,
    /// A list of members of which parts have arrived.
    list: Option<List>,
    /// Signs of life in a row with lower counters than the known ones, and messages that were dropped meanwhile.
    doubts: u8,
    dropped: u64,
}

/// A node that has gone.
#[derive(Debug)]
struct Gone {
    /// The number of messages by which delayed messages of the node are known; [`u64::MAX`] after the node's own word.
    said: u64,
    at: Duration,
    /// Signs of life since then.
    doubts: u8,
}

#[derive(Debug, Default)]
struct List {
    changes: u64,
    next_part: u64,
    members: BTreeMap<u64, Box<str>>,
}

/// The consequences of a message for the node.
#[derive(Debug, Default)]
pub(super) struct Consequences {
    /// The sender asks for the list of members.
    pub(super) is_asked: bool,
    /// The list of members of the sender is needed.
    pub(super) asks: bool,
    /// Keys of the names of members that have come.
    pub(super) came: Vec<Key>,
}

impl Peers {
    pub(super) fn has_name(&self, key: &Key) -> bool {
        self.names.contains_key(key)
    }

    /// Number of members of other nodes.
    pub(super) fn members(&self) -> usize {
        self.count
    }

    /// Number of other nodes.
    pub(super) fn nodes(&self) -> usize {
        self.peers.len()
    }

    /// Whether a node was asked for its list of members and has not sent the whole list.
    pub(super) fn are_lists_missing(&self) -> bool {
        self.peers.values().any(|peer| peer.is_stale)
    }

    /// Number of members in lists of which parts have arrived.
    #[cfg(test)]
    pub(super) fn listed(&mut self) -> &mut usize {
        &mut self.listed
    }

    pub(super) fn knows(&self, node: &str) -> bool {
        self.peers.contains_key(node)
    }

    /// Handles a message of node `from`.
    /// `is_beginning`: this node has just begun, so a node with members that is heard for the first time was there before.
    pub(super) fn hear(
        &mut self,
        from: &str,
        notice: &Notice<'_>,
        is_beginning: bool,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Consequences {
        let mut consequences = Consequences::default();
        let is_message = matches!(notice.content, Content::Said { .. });
        let is_change = matches!(notice.content, Content::Came(_) | Content::Went { .. });
        let (before, changes_before) = (notice.said - u64::from(is_message), notice.changes - u64::from(is_change));
        if !self.peers.contains_key(from) {
            let gone = self.gone.get_mut(from);
            let remembered = gone.map_or(0, |gone| gone.remembered(notice.content == Content::Beat));
            // A message that was delayed, or delivered twice, and tells nothing new of a node that has gone.
            if notice.said < remembered || (notice.said == remembered && is_message) || notice.content == Content::Bye {
                return consequences;
            }
            if self.peers.len() >= NODES_MAX {
                self.ignored += 1;
                return consequences;
            }
            // A node counts from its first message on: nothing before it was missed.
            let was_before = is_beginning && changes_before > 0 && !self.gone.contains_key(from);
            self.peers.insert(from.into(), Peer { was_before, ..Peer::new(changes_before, before, now) });
            self.gone.remove(from);
        }
        let Some(peer) = self.peers.get_mut(from) else { return consequences };
        if before.saturating_sub(peer.said) > JUMP_MAX || changes_before.saturating_sub(peer.changes) > JUMP_MAX {
            self.ignored += 1;
            return consequences;
        }
        peer.last_sign = peer.last_sign.max(now);
        if before > peer.said {
            events.push(Event::Missed(before - peer.said));
            peer.said = before;
        }
        peer.is_stale |= changes_before > peer.changes;
        match notice.content {
            Content::Beat => {
                if let Some(dropped) = peer.doubt(notice) {
                    events.push(Event::Missed(dropped));
                }
            }
            Content::Ask => {
                let is_early = peer.answered_at.is_some_and(|at| now < at + ASK_AGAIN);
                consequences.is_asked = !is_early;
                if !is_early {
                    peer.answered_at = Some(now);
                }
            }
            Content::Bye => {
                self.remove(from, now, u64::MAX, events);
                return consequences;
            }
            Content::Said { number, who, text } => {
                // Delivered twice, or behind a later message.
                if notice.said <= peer.said {
                    peer.dropped += 1;
                    return consequences;
                }
                peer.said = notice.said;
                if peer.members.get(&number).is_none_or(|known| **known != *who) {
                    let was_before = peer.was_before;
                    self.add(from, Person { number, who }, was_before, events, &mut consequences);
                }
                events.push(Event::Said(text_of(who, text)));
            }
            Content::Came(person) => {
                if peer.take_change(notice.changes) {
                    self.add(from, person, false, events, &mut consequences);
                }
            }
            Content::Went { number } => {
                if peer.take_change(notice.changes) {
                    self.take(from, number, events);
                }
            }
            Content::Roster { part, is_last, members } => {
                let room = MEMBERS_MAX - self.listed.min(MEMBERS_MAX);
                let before = peer.listed();
                let list = peer.take_part(notice.changes, part, is_last, members, room);
                self.listed = self.listed + peer.listed() - before;
                if let Some(list) = list {
                    self.replace(from, list, events, &mut consequences);
                }
            }
        }
        if let Some(peer) = self.peers.get_mut(from)
            && peer.is_stale
            && peer.asked_at.is_none_or(|at| now >= at + ASK_AGAIN)
        {
            peer.asked_at = Some(now);
            consequences.asks = true;
        }
        consequences
    }

    /// Removes the nodes that have been silent for too long, and returns those that are silent for some time.
    pub(super) fn look(&mut self, now: Duration, events: &mut Vec<Event>) -> Vec<Box<str>> {
        let silent = |limit| {
            let peers = self.peers.iter().filter(move |(_, peer)| now >= peer.last_sign + limit);
            peers.map(|(node, _)| node.clone()).collect::<Vec<_>>()
        };
        let (mut gone, mut suspects) = (silent(GONE_AFTER), silent(SUSPECT_AFTER));
        gone.sort_unstable();
        suspects.sort_unstable();
        for node in gone {
            let said = self.peers.get(&node).map_or(0, |peer| peer.said);
            self.remove(&node, now, said, events);
        }
        self.gone.retain(|_, gone| now < gone.at + REMEMBERED);
        suspects
    }

    /// Whether node `node` has been silent so long that its lease is watched.
    pub(super) fn is_silent(&self, node: &str, now: Duration) -> bool {
        self.peers.get(node).is_none_or(|peer| now >= peer.last_sign + SUSPECT_AFTER)
    }

    /// This node itself has stood still for the time `stall`, in which it heard nobody.
    pub(super) fn excuse(&mut self, stall: Duration) {
        for peer in self.peers.values_mut() {
            peer.last_sign += stall;
        }
    }

    fn remove(&mut self, node: &str, now: Duration, said: u64, events: &mut Vec<Event>) {
        let numbers: Vec<u64> = self.peers.get(node).map_or(Vec::new(), |peer| peer.members.keys().copied().collect());
        for number in numbers {
            self.take(node, number, events);
        }
        self.listed -= self.peers.remove(node).map_or(0, |peer| peer.listed());
        if self.gone.len() < NODES_MAX {
            self.gone.insert(node.into(), Gone { said, at: now, doubts: 0 });
        }
    }

    /// Adds a member, in place of another one with this number.
    fn add(
        &mut self,
        node: &str,
        person: Person<'_>,
        was_before: bool,
        events: &mut Vec<Event>,
        consequences: &mut Consequences,
    ) {
        let known = self.peers.get(node).and_then(|peer| peer.members.get(&person.number));
        if known.is_some_and(|known| **known == *person.who) {
            return;
        }
        if known.is_some() {
            self.take(node, person.number, events);
        }
        let Some(peer) = self.peers.get_mut(node) else { return };
        if self.count >= MEMBERS_MAX {
            self.ignored += 1;
            return;
        }
        peer.members.insert(person.number, person.who.into());
        self.count += 1;
        for key in keys_of(person.who) {
            *self.names.entry(key).or_default() += 1;
            consequences.came.push(key);
        }
        let (node, number, who) = (node.into(), person.number, person.who.into());
        events.push(match was_before {
            true => Event::IsThere { node, number, who },
            false => Event::Came { node, number, who },
        });
    }

    fn take(&mut self, node: &str, number: u64, events: &mut Vec<Event>) {
        let Some(who) = self.peers.get_mut(node).and_then(|peer| peer.members.remove(&number)) else { return };
        self.count -= 1;
        for key in keys_of(&who) {
            if let Some(count) = self.names.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.names.remove(&key);
                }
            }
        }
        events.push(Event::Went { node: node.into(), number, who });
    }

    /// Takes the members of the list in place of the known ones.
    fn replace(&mut self, node: &str, list: List, events: &mut Vec<Event>, consequences: &mut Consequences) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let was_before = std::mem::take(&mut peer.was_before);
        let known = peer.members.iter();
        let gone = known.filter(|(number, who)| list.members.get(number) != Some(*who)).map(|(number, _)| *number);
        let gone: Vec<u64> = gone.collect();
        for number in gone {
            self.take(node, number, events);
        }
        for (&number, who) in &list.members {
            self.add(node, Person { number, who }, was_before, events, consequences);
        }
    }
}

impl Peer {
    fn new(changes: u64, said: u64, now: Duration) -> Self {
        Peer {
            last_sign: now,
            changes,
            said,
            members: BTreeMap::new(),
            is_stale: true,
            was_before: false,
            asked_at: None,
            answered_at: None,
            list: None,
            doubts: 0,
            dropped: 0,
        }
    }

    /// Compares the counters of a sign of life with the known ones. A forged message with high counters must not silence a node for
    /// good, so after [`DOUBTS`] lower signs in a row the node's own counters are taken. Returns the number of messages that were
    /// dropped meanwhile.
    fn doubt(&mut self, notice: &Notice<'_>) -> Option<u64> {
        if notice.said >= self.said && notice.changes >= self.changes {
            (self.doubts, self.dropped) = (0, 0);
            return None;
        }
        self.doubts += 1;
        if self.doubts < DOUBTS {
            return None;
        }
        (self.said, self.changes, self.is_stale) = (notice.said, notice.changes, true);
        self.doubts = 0;
        Some(std::mem::take(&mut self.dropped)).filter(|dropped| *dropped > 0)
    }

    /// Number of members in the list of which parts have arrived.
    fn listed(&self) -> usize {
        self.list.as_ref().map_or(0, |list| list.members.len())
    }

    /// Whether the change with this number is the next one. A later one has to wait for the list of members.
    fn take_change(&mut self, number: u64) -> bool {
        let is_next = number == self.changes + 1;
        if is_next {
            self.changes = number;
        }
        is_next
    }

    /// Takes a part of the list of members. Returns the list when it is complete.
    /// `room`: number of members that lists in parts may still have, of all nodes together.
    fn take_part(&mut self, changes: u64, part: u64, is_last: bool, members: &str, room: usize) -> Option<List> {
        if !self.is_stale || changes < self.changes {
            return None;
        }
        if part == 0 {
            self.list = Some(List { changes, ..List::default() });
        }
        let list = self.list.as_mut().filter(|list| list.changes == changes && list.next_part == part)?;
        list.next_part += 1;
        let before = list.members.len();
        list.members.extend(people(members).flatten().map(|person| (person.number, person.who.into())));
        if list.members.len() > LIST_MAX.min(before + room) {
            self.list = None;
            return None;
        }
        if !is_last {
            return None;
        }
        (self.changes, self.is_stale, self.asked_at) = (changes, false, None);
        self.list.take()
    }
}

impl Gone {
    /// The number of messages by which delayed messages are known. `is_sign`: a sign of life has arrived. Only a forged end is followed
    /// by many of them.
    fn remembered(&mut self, is_sign: bool) -> u64 {
        self.doubts = (self.doubts + u8::from(is_sign)).min(DOUBTS);
        if self.doubts == DOUBTS { 0 } else { self.said }
    }
}

/// A message as the members read it, without control characters.
fn text_of(who: &str, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(who.len() + text.len() + 3);
    bytes.push(b'#');
    bytes.extend_from_slice(who.as_bytes());
    bytes.extend_from_slice(b">>");
    append_clean(text, &mut bytes);
    bytes
}
