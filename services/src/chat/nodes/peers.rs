//! The other nodes: their members, and the gaps in their messages.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::members::keys_of;
use super::wire::{Content, Person, Told, people};
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
/// Least time between two questions to one node, and between two lists of members for one node.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// All other nodes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: HashMap<Box<str>, Peer>,
    /// The counters of nodes that have gone, and the time of their end.
    gone: HashMap<Box<str>, (u64, Duration)>,
    /// Number of members of other nodes for each key of a name.
    names: HashMap<Key, usize>,
    /// Number of members of other nodes.
    count: usize,
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

    pub(super) fn knows(&self, node: &str) -> bool {
        self.peers.contains_key(node)
    }

    /// Handles a message of node `from`.
    /// `is_beginning`: this node has just begun, so a node with members that is heard for the first time was there before.
    pub(super) fn hear(
        &mut self,
        from: &str,
        told: &Told<'_>,
        is_beginning: bool,
        now: Duration,
        events: &mut Vec<Event>,
    ) -> Consequences {
        let mut consequences = Consequences::default();
        let is_message = matches!(told.content, Content::Said { .. });
        let is_change = matches!(told.content, Content::Came(_) | Content::Went { .. });
        let (before, changes_before) = (told.said - u64::from(is_message), told.changes - u64::from(is_change));
        if !self.peers.contains_key(from) {
            let remembered = self.gone.get(from).map_or(0, |gone| gone.0);
            // A message that was delayed, or delivered twice, and tells nothing new of a node that has gone.
            if told.said < remembered || (told.said == remembered && is_message) || told.content == Content::Bye {
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
        peer.last_sign = peer.last_sign.max(now);
        if before > peer.said {
            events.push(Event::Missed(before - peer.said));
            peer.said = before;
        }
        peer.is_stale |= changes_before > peer.changes;
        match told.content {
            Content::Beat => {}
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
                if told.said <= peer.said {
                    return consequences;
                }
                peer.said = told.said;
                if peer.members.get(&number).is_none_or(|known| **known != *who) {
                    let was_before = peer.was_before;
                    self.add(from, Person { number, who }, was_before, events, &mut consequences);
                }
                events.push(Event::Said(text_of(who, text)));
            }
            Content::Came(person) => {
                if peer.take_change(told.changes) {
                    self.add(from, person, false, events, &mut consequences);
                }
            }
            Content::Went { number } => {
                if peer.take_change(told.changes) {
                    self.take(from, number, events);
                }
            }
            Content::Roster { part, is_last, members } => {
                if let Some(list) = peer.take_part(told.changes, part, is_last, members) {
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
        self.gone.retain(|_, (_, at)| now < *at + REMEMBERED);
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
        self.peers.remove(node);
        if self.gone.len() < NODES_MAX {
            self.gone.insert(node.into(), (said, now));
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
        }
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
    fn take_part(&mut self, changes: u64, part: u64, is_last: bool, members: &str) -> Option<List> {
        if !self.is_stale || changes < self.changes {
            return None;
        }
        if part == 0 {
            self.list = Some(List { changes, ..List::default() });
        }
        let list = self.list.as_mut().filter(|list| list.changes == changes && list.next_part == part)?;
        list.next_part += 1;
        list.members.extend(people(members).flatten().map(|person| (person.number, person.who.into())));
        if list.members.len() > LIST_MAX {
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

/// A message as the members read it, without control characters.
fn text_of(who: &str, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(who.len() + text.len() + 3);
    bytes.push(b'#');
    bytes.extend_from_slice(who.as_bytes());
    bytes.extend_from_slice(b">>");
    append_clean(text, &mut bytes);
    bytes
}
