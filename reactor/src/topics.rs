//! The memberships in topics, for one loop. The loop copies publications to the members, and removes a connection from
//! all topics at its end.
//!
//! A topic is a dense list of its members, and a membership knows its place in the list. Leaving moves the last member
//! into the gap and updates that member's place, so joining and leaving take O(1), and publishing walks a slice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::token::ConnectionId;

/// A name that connections subscribe to and anyone publishes to.
///
/// Topics with equal names are one topic, wherever they were made. A clone shares the name, so keep one in the state
/// that uses it instead of making a topic for every message. A topic needs no setup and exists as long as it has
/// members; a publication to a topic without members reaches nobody.
///
/// ```
/// use reactor::Topic;
///
/// let lobby = Topic::new("lobby");
/// assert_eq!(lobby, Topic::from("lobby"));
/// assert_ne!(lobby, Topic::new("Lobby"));
/// assert_eq!(lobby.name(), "lobby");
/// assert_eq!(format!("* you are in {lobby}"), "* you are in lobby");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic with this name. Any text is a name, including the empty one.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Topic(name.into())
    }

    /// One of 64 bits, determined by the name: loops report the bits of the topics that have members.
    pub(crate) fn bit(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        1 << (hasher.finish() % 64)
    }

    /// The text that the topic was made from.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        Topic::new(name)
    }
}

impl From<String> for Topic {
    fn from(name: String) -> Self {
        Topic::new(name)
    }
}

impl fmt::Display for Topic {
    /// The name; width and alignment are those of a string.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The memberships of one loop's connections. Topics without members, and connections without topics, are not stored.
///
/// Names come from peers, so both maps use the seeded hasher of `std`: chosen names cannot make the maps slow.
#[derive(Default)]
pub(crate) struct Topics {
    members: HashMap<Topic, Vec<ConnectionId>>,
    /// The topics of each connection, with the place of the connection among the members.
    places: HashMap<ConnectionId, HashMap<Topic, usize>>,
    /// Number of memberships beyond the first of each connection.
    further: usize,
    /// The services whose handlers listen to each topic.
    listeners: HashMap<Topic, Vec<u16>>,
    /// Number of topics for each bit. A topic with members and listeners counts twice.
    of_bit: Bits,
}

struct Bits([u32; 64]);

impl Default for Bits {
    fn default() -> Self {
        Bits([0; 64])
    }
}

impl Bits {
    fn add(&mut self, topic: &Topic) {
        self.0[topic.bit().trailing_zeros() as usize] += 1;
    }

    fn remove(&mut self, topic: &Topic) {
        self.0[topic.bit().trailing_zeros() as usize] -= 1;
    }
}

impl Topics {
    /// Makes the handler of a service a listener. Returns `false` if the handler was a listener already.
    pub(crate) fn listen(&mut self, topic: &Topic, service: u16) -> bool {
        let services = self.listeners.entry(topic.clone()).or_default();
        if services.contains(&service) {
            return false;
        }
        if services.is_empty() {
            self.of_bit.add(topic);
        }
        services.push(service);
        true
    }

    /// Ends the listening of a service's handler. Returns `false` if it did not listen.
    pub(crate) fn unlisten(&mut self, topic: &Topic, service: u16) -> bool {
        let Some(services) = self.listeners.get_mut(topic) else { return false };
        let Some(at) = services.iter().position(|&listener| listener == service) else { return false };
        services.swap_remove(at);
        if services.is_empty() {
            self.of_bit.remove(topic);
            self.listeners.remove(topic);
        }
        true
    }

    /// Whether any handler listens to any topic.
    #[inline]
    pub(crate) fn has_listeners(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// The services whose handlers listen to the topic.
    pub(crate) fn listeners(&self, topic: &Topic) -> &[u16] {
        self.listeners.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Adds a membership. Returns `false` if the connection was a member already.
    pub(crate) fn subscribe(&mut self, topic: &Topic, id: ConnectionId) -> bool {
        let places = self.places.entry(id).or_default();
        let is_further = !places.is_empty();
        let Entry::Vacant(place) = places.entry(topic.clone()) else {
            return false;
        };
        self.further += usize::from(is_further);
        let members = self.members.entry(topic.clone()).or_default();
        if members.is_empty() {
            self.of_bit.add(topic);
        }
        place.insert(members.len());
        members.push(id);
        true
    }

    /// Ends a membership. Returns `false` if the connection was no member.
    pub(crate) fn unsubscribe(&mut self, topic: &Topic, id: ConnectionId) -> bool {
        let Some(places) = self.places.get_mut(&id) else {
            return false;
        };
        let Some(place) = places.remove(topic) else {
            return false;
        };
        if places.is_empty() {
            self.places.remove(&id);
        } else {
            self.further -= 1;
        }
        self.vacate(topic, place);
        true
    }

    /// Ends all memberships of a connection, at the end of the connection. No other code does so.
    pub(crate) fn leave_all(&mut self, id: ConnectionId) {
        // Without any member a loop hashes no id: 5 % of the instructions of a short connection.
        if self.places.is_empty() {
            return;
        }
        let places = self.places.remove(&id).unwrap_or_default();
        self.further -= places.len().saturating_sub(1);
        for (topic, place) in places {
            self.vacate(&topic, place);
        }
    }

    /// The members in no particular order, each once. Empty for a topic without members.
    pub(crate) fn members(&self, topic: &Topic) -> &[ConnectionId] {
        self.members.get(topic).map_or(&[], Vec::as_slice)
    }

    /// The bits of all topics that have members or listeners.
    pub(crate) fn bits(&self) -> u64 {
        self.of_bit.0.iter().enumerate().fold(0, |bits, (bit, &count)| bits | u64::from(count > 0) << bit)
    }

    pub(crate) fn is_member(&self, topic: &Topic, id: ConnectionId) -> bool {
        self.places.get(&id).is_some_and(|places| places.contains_key(topic))
    }

    /// Whether the connection is a member of any topic.
    pub(crate) fn is_subscribed_anywhere(&self, id: ConnectionId) -> bool {
        self.places.contains_key(&id)
    }

    /// The number of a topic's members.
    pub(crate) fn count(&self, topic: &Topic) -> usize {
        self.members(topic).len()
    }

    /// Whether any connection is a member of several topics, and so notices the order of publications to two of them.
    pub(crate) fn overlap(&self) -> bool {
        self.further > 0
    }

    /// The number of topics with members.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes the member at `place` out of a topic. Its own note of the place is gone already.
    fn vacate(&mut self, topic: &Topic, place: usize) {
        let members = self.members.get_mut(topic).expect("who has a place in a topic is a member of it");
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            let places = self.places.get_mut(moved).expect("a member knows its places");
            *places.get_mut(topic).expect("a member knows its place") = place;
        } else if members.is_empty() {
            self.of_bit.remove(topic);
            self.members.remove(topic);
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: usize) -> ConnectionId {
        ConnectionId::new(0, slot, 1)
    }

    fn sorted(members: &[ConnectionId]) -> Vec<ConnectionId> {
        let mut members = members.to_vec();
        members.sort_unstable();
        members
    }

    #[test]
    fn a_topic_goes_to_other_threads_and_is_the_same_there() {
        let here = Topic::from(String::from("news"));
        let there = here.clone();
        let there = std::thread::spawn(move || (there == Topic::new("news")).then_some(there)).join().unwrap();
        assert_eq!(there, Some(here));
    }

    #[test]
    fn a_topic_prints_like_its_name() {
        assert_eq!(format!("[{:>6}] [{}]", Topic::new("news"), Topic::new("")), "[  news] []");
    }

    #[test]
    fn who_subscribes_twice_is_a_member_once() {
        let (mut topics, news) = (Topics::default(), Topic::new("news"));
        assert!(topics.subscribe(&news, id(1)));
        assert!(!topics.subscribe(&Topic::new("news"), id(1)));
        assert_eq!(topics.members(&news), [id(1)]);
        assert!(topics.unsubscribe(&news, id(1)));
        assert!(!topics.unsubscribe(&news, id(1)));
        assert!(topics.is_empty());
    }

    #[test]
    fn a_topic_with_a_listener_has_its_bit_and_no_member() {
        let (mut topics, news) = (Topics::default(), Topic::new("news"));
        assert!(topics.listen(&news, 3) && !topics.listen(&news, 3) && topics.listen(&news, 4));
        topics.subscribe(&news, id(1));
        assert_eq!((topics.listeners(&news), topics.count(&news), topics.bits()), (&[3, 4][..], 1, news.bit()));
        topics.leave_all(id(1));
        assert!(topics.unlisten(&news, 3) && !topics.unlisten(&news, 3));
        assert_eq!((topics.listeners(&news), topics.bits()), (&[4][..], news.bit()));
        assert!(topics.unlisten(&news, 4));
        assert_eq!((topics.has_listeners(), topics.bits()), (false, 0));
    }

    #[test]
    fn who_is_in_no_topic_and_a_topic_without_members_cost_nothing() {
        let (mut topics, news) = (Topics::default(), Topic::new("news"));
        assert!(!topics.unsubscribe(&news, id(1)));
        topics.leave_all(id(1));
        assert_eq!((topics.members(&news), topics.count(&news)), (&[][..], 0));
        assert_eq!((topics.members.capacity(), topics.places.capacity()), (0, 0));
        topics.subscribe(&news, id(1));
        topics.leave_all(id(1));
        assert_eq!((topics.len(), topics.places.len(), topics.is_subscribed_anywhere(id(1))), (0, 0, false));
        assert_eq!(Arc::strong_count(&news.0), 1, "nothing holds the name any more");
    }

    #[test]
    fn the_end_of_a_connection_takes_it_out_of_its_topics_and_out_of_no_other() {
        let mut topics = Topics::default();
        let [news, sports, chess] = ["news", "sports", "chess"].map(Topic::from);
        for (topic, slots) in [(&news, 0..4), (&sports, 2..6), (&chess, 5..6)] {
            slots.for_each(|slot| assert!(topics.subscribe(topic, id(slot))));
        }
        topics.leave_all(id(2));
        topics.leave_all(id(5));
        topics.check();
        assert_eq!(sorted(topics.members(&news)), [id(0), id(1), id(3)]);
        assert_eq!(sorted(topics.members(&sports)), [id(3), id(4)]);
        assert_eq!(topics.len(), 2, "nobody plays chess");
        assert!(!topics.is_subscribed_anywhere(id(5)) && topics.is_subscribed_anywhere(id(4)));
    }

    #[test]
    fn the_next_tenant_of_a_slot_is_not_the_member_that_left() {
        let (mut topics, news) = (Topics::default(), Topic::new("news"));
        let (old, new) = (ConnectionId::new(0, 9, 1), ConnectionId::new(0, 9, 2));
        topics.subscribe(&news, old);
        topics.subscribe(&news, new);
        topics.leave_all(old);
        assert_eq!(topics.members(&news), [new]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many members to be interpreted")]
    fn five_thousand_members_join_and_leave_in_any_order() {
        let (mut topics, news, sports) = (Topics::default(), Topic::new("news"), Topic::new("sports"));
        for slot in 0..5_000 {
            assert!(topics.subscribe(&news, id(slot)) && topics.subscribe(&sports, id(slot)));
        }
        topics.check();
        // 1,237 has no factor in common with 5,000: every slot once, far from in order.
        for n in 0..5_000 {
            let slot = n * 1_237 % 5_000;
            assert_eq!(topics.count(&news), 5_000 - n);
            match n % 2 {
                0 => topics.leave_all(id(slot)),
                _ => assert!(topics.unsubscribe(&sports, id(slot)) && topics.unsubscribe(&news, id(slot))),
            }
            if n % 500 == 0 {
                topics.check();
            }
        }
        assert!(topics.is_empty() && topics.places.is_empty());
    }
}
