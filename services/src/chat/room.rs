//! The members of the room, on all loops. The room knows no connection. It is asked on joining, on leaving and by
//! `/who`, never for a message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reactor::{ConnectionId, Topic};

use super::history::{HISTORY_BYTES, HISTORY_MAX, History};
use super::likeness::likenesses;
use super::nodes::Nodes;
use super::said::Way;
use crate::codec::websocket::origin::Origins;

/// The list of members, shared by all handlers of one chat. A clone is a handle of one room.
///
/// A name is taken while the room has a member whose name differs only in upper and lower case, or looks alike: neither
/// `Ann` nor `аnn` with a Cyrillic letter can pass for `ann`. Unicode Technical Standard 39 defines the characters that
/// look alike.
///
/// ```
/// use services::chat::{Chat, Room};
/// let room = Room::default();
/// let on_each_loop = move || Chat::new(room.clone());
/// # let _: Chat = on_each_loop();
/// ```
#[derive(Clone, Debug)]
pub struct Room {
    members: Arc<Mutex<Members>>,
    /// The members of each protocol, in the order of [`Way::ALL`].
    ways: Arc<[Speakers; 3]>,
    /// The pages that may connect, besides the room's own.
    origins: Arc<Origins>,
    /// The latest messages, and the limits for their part that a new member gets.
    history: Arc<Mutex<History>>,
    history_max: usize,
    history_bytes: usize,
    /// The room's other nodes, if it is on several.
    nodes: Option<Nodes>,
    /// For per-connection loops: the time until which announcements are paid for, in nanoseconds of the loops' clock.
    paid_until: Arc<AtomicU64>,
}

/// The members of one protocol, on all loops.
#[derive(Debug)]
struct Speakers {
    topic: Topic,
    /// Counted from before a member hears the room until after the member has gone. At 0 no text is encoded for the
    /// protocol.
    count: AtomicUsize,
}

/// The price of one announcement to a member on a thread of its own: the CPU time for waking the thread, and for its
/// turn.
const DELIVERY_APART: Duration = Duration::from_micros(20);

/// The work of announcements that the room accepts at once, on per-connection loops.
const WORK_AT_ONCE: Duration = Duration::from_millis(10);

/// Number of rooms, which makes the topics of each room unique.
static ROOMS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Default)]
struct Members {
    /// The members, by number, in the order of arrival.
    here: BTreeMap<u64, Member>,
    /// The members' numbers, by the likenesses of their names.
    names: HashMap<Arc<str>, u64>,
    /// Number of members that ever came.
    numbered: u64,
    /// Numbers of members whose arrival has not been announced yet.
    unannounced: BTreeSet<u64>,
}

#[derive(Debug)]
struct Member {
    /// `<name>@<address>`.
    who: Box<str>,
    /// The member's connection, on any loop.
    connection: ConnectionId,
    /// The likenesses of the member's name.
    likenesses: [Arc<str>; 2],
    /// The member has gone, and the departure has not been announced yet.
    leaving: bool,
}

/// The outcome of an attempt to take a seat.
#[derive(Debug)]
pub(super) enum Joining {
    Seated(Seat),
    /// A member that has gone holds the name until the announcement: try again then.
    Soon,
    /// A member has the name, or a name that looks alike.
    Taken,
}

/// A place in the room, with a name. [`Room::leave`] gives the place up.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    way: Way,
    /// `#<name>@<address>>>`, the beginning of each of its messages.
    prefix: Box<str>,
}

impl Seat {
    /// The member's number, in the order of arrival.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The beginning of each of its messages.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `<name>@<address>`.
    pub(super) fn who(&self) -> &str {
        &self.prefix[1..self.prefix.len() - 2]
    }
}

impl Default for Room {
    /// Makes an empty room.
    fn default() -> Self {
        let number = ROOMS.fetch_add(1, Ordering::Relaxed);
        let speakers = |way: Way| Speakers {
            topic: Topic::new(format!("chat room {number}, {way:?}")),
            count: AtomicUsize::new(0),
        };
        Room {
            members: Arc::default(),
            ways: Arc::new(Way::ALL.map(speakers)),
            origins: Arc::default(),
            history: Arc::default(),
            history_max: 0,
            history_bytes: HISTORY_BYTES,
            nodes: None,
            paid_until: Arc::default(),
        }
    }
}

impl Room {
    /// Sends new members the last `messages` of the room after their welcome: at most [`HISTORY_MAX`], and at most
    /// [`HISTORY_BYTES`] or half of `member_queue`, the limit of a member's queue. Each message then takes a lock.
    #[must_use]
    pub fn with_history(self, messages: usize, member_queue: usize) -> Self {
        let history_bytes = HISTORY_BYTES.min(member_queue / 2);
        Room { history_max: messages.min(HISTORY_MAX), history_bytes, ..self }
    }

    /// Allows pages of these origins besides pages of the room's own address: see [`Origins`].
    ///
    /// ```
    /// use services::chat::Room;
    /// use services::codec::websocket::origin::Origins;
    /// let mut origins = Origins::default();
    /// origins.allow("https://chat.example.org").unwrap();
    /// let room = Room::default().with_origins(origins);
    /// ```
    #[must_use]
    pub fn with_origins(self, origins: Origins) -> Self {
        Room { origins: Arc::new(origins), ..self }
    }

    /// Makes the room one with the rooms of other processes: see [`Nodes`].
    #[must_use]
    pub fn with_nodes(self, nodes: Nodes) -> Self {
        Room { nodes: Some(nodes), ..self }
    }

    /// The room's other nodes.
    #[inline]
    pub(super) fn nodes(&self) -> Option<&Nodes> {
        self.nodes.as_ref()
    }

    /// The pages that may connect.
    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Keeps a message for later members.
    pub(super) fn remember(&self, text: &[u8]) {
        if self.history_max > 0 {
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.push(text, self.history_max, self.history_bytes);
        }
    }

    /// Calls `each` with the kept messages, oldest first.
    pub(super) fn recall(&self, each: impl FnMut(&[u8])) {
        if self.history_max > 0 {
            self.history.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(each);
        }
    }

    /// The topic of the members that use this protocol.
    pub(super) fn topic(&self, way: Way) -> &Topic {
        &self.ways[way as usize].topic
    }

    /// Whether any member uses this protocol, on any loop.
    #[inline]
    pub(super) fn is_spoken(&self, way: Way) -> bool {
        self.ways[way as usize].count.load(Ordering::Acquire) > 0
    }

    /// The number for a guest that asks the other nodes for its name.
    pub(super) fn next_number(&self) -> u64 {
        let mut members = self.lock();
        members.numbered += 1;
        members.numbered
    }

    /// Takes a seat, if the name is free. A guest that has asked other nodes has its number already.
    pub(super) fn join(
        &self,
        name: &str,
        address: &str,
        way: Way,
        connection: ConnectionId,
        number: Option<u64>,
    ) -> Joining {
        let likenesses = likenesses(name).map(Arc::<str>::from);
        let mut members = self.lock();
        let mut holders = likenesses.iter().filter_map(|likeness| members.names.get(likeness)).peekable();
        if holders.peek().is_some() {
            let is_leaving = |holder| members.here.get(holder).is_some_and(|member| member.leaving);
            return if holders.all(is_leaving) { Joining::Soon } else { Joining::Taken };
        }
        let number = number.unwrap_or(members.numbered + 1);
        members.numbered = members.numbered.max(number);
        let prefix = format!("#{name}@{address}>>").into_boxed_str();
        let seat = Seat { number, way, prefix };
        self.ways[way as usize].count.fetch_add(1, Ordering::Release);
        members.names.extend(likenesses.iter().map(|likeness| (likeness.clone(), seat.number)));
        let member = Member { who: seat.who().into(), connection, likenesses, leaving: false };
        members.here.insert(seat.number, member);
        members.unannounced.insert(seat.number);
        Joining::Seated(seat)
    }

    /// Pays for `deliveries` of announcements on loops that serve one connection each, and returns how long the payer waits
    /// before it announces. No loop has a budget for the whole room then, so all loops together have the CPU time of one
    /// core. Payers have their turns in the order in which they paid. Leaving is paid for, too, and does not wait.
    pub(super) fn pay(&self, deliveries: usize, now: Duration) -> Duration {
        let now = now.as_nanos() as u64;
        let price = DELIVERY_APART.as_nanos() as u64 * deliveries as u64;
        let pay = |until: u64| Some(until.max(now).saturating_add(price));
        let until = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).unwrap_or(0);
        let wait = Duration::from_nanos(until.saturating_sub(now));
        if wait > WORK_AT_ONCE { wait } else { Duration::ZERO }
    }

    /// Marks the arrival of member `number` as announced. Returns the number of members at the arrival: the
    /// member, all earlier members, and later members that are announced already. (Loops announce independently of each other.)
    pub(super) fn announce_join(&self, number: u64) -> usize {
        let mut members = self.lock();
        members.unannounced.remove(&number);
        members.here.len() - members.unannounced.range(number..).count() + self.count_elsewhere()
    }

    /// Adds a member of another node. Returns the number of members on all nodes.
    pub(super) fn came_elsewhere(&self, node: &str, number: u64, who: &str) -> usize {
        if let Some(nodes) = &self.nodes {
            nodes.came(node, number, who);
        }
        let members = self.lock();
        members.here.len() - members.unannounced.len() + self.count_elsewhere()
    }

    /// Removes a member of another node.
    pub(super) fn went_elsewhere(&self, node: &str, number: u64) {
        if let Some(nodes) = &self.nodes {
            nodes.went(node, number);
        }
    }

    fn count_elsewhere(&self) -> usize {
        self.nodes.as_ref().map_or(0, Nodes::count)
    }

    /// The number of members on all nodes.
    pub(super) fn count_everywhere(&self) -> usize {
        self.count() + self.count_elsewhere()
    }

    /// Marks a member as gone before the announcement: the name stays taken until then.
    pub(super) fn will_leave(&self, seat: &Seat) {
        if let Some(member) = self.lock().here.get_mut(&seat.number) {
            member.leaving = true;
        }
    }

    /// Removes the member and frees the name, when the departure is announced. A second call has no effect.
    pub(super) fn leave(&self, seat: &Seat) {
        let mut members = self.lock();
        if let Some(member) = members.here.remove(&seat.number) {
            members.unannounced.remove(&seat.number);
            self.ways[seat.way as usize].count.fetch_sub(1, Ordering::Release);
            for likeness in &member.likenesses {
                members.names.remove(likeness);
            }
        }
    }

    /// The number of members of this node.
    pub(super) fn count(&self) -> usize {
        self.lock().here.len()
    }

    /// The number of messages that a new member gets.
    pub(super) fn recalled(&self) -> usize {
        if self.history_max == 0 {
            return 0;
        }
        self.history.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Finds the member with this name, or with a name that looks alike. Returns `<name>@<address>` and the connection.
    pub(super) fn find(&self, name: &str) -> Option<(String, ConnectionId)> {
        let members = self.lock();
        let member = members.here.get(members.names.get(&*likenesses(name)[0])?)?;
        (!member.leaving).then_some(())?;
        Some((member.who.to_string(), member.connection))
    }

    /// Finds a member of another node by its name. Returns `<name>@<address>`.
    pub(super) fn find_elsewhere(&self, name: &str) -> Option<String> {
        let (name, mut found) = (name.to_lowercase(), None);
        self.nodes.as_ref()?.each(|who| {
            if who.split('@').next().is_some_and(|other| other.to_lowercase() == name) {
                found = Some(who.to_owned());
            }
        });
        found
    }

    /// The list of members, as the answer to `/who`.
    pub(super) fn who(&self) -> String {
        let (mut list, mut count) = (String::new(), 0);
        let mut add = |who: &str| {
            list.push_str(if count == 0 { ": " } else { ", " });
            list.push_str(who);
            count += 1;
        };
        self.lock().here.values().for_each(|member| add(&member.who));
        if let Some(nodes) = &self.nodes {
            nodes.each(&mut add);
        }
        format!("({count} here{list})")
    }

    /// A panic with the lock held has at worst left a name taken.
    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ConnectionId = ConnectionId::NONE;

    fn seated(joining: Joining) -> Option<Seat> {
        match joining {
            Joining::Seated(seat) => Some(seat),
            Joining::Soon | Joining::Taken => None,
        }
    }

    #[test]
    fn a_panic_while_a_lock_of_the_room_is_held_leaves_a_room() {
        let room = Room::default().with_history(10, 1 << 20);
        let other = room.clone();
        let holder = std::thread::spawn(move || {
            let (_members, _history) = (other.members.lock().unwrap(), other.history.lock().unwrap());
            panic!("as the test has it");
        });
        assert!(holder.join().is_err() && room.members.is_poisoned() && room.history.is_poisoned());
        let seat = seated(room.join("ann", "10.0.0.1", Way::Lines, HERE, None)).expect("the name is free");
        room.remember(b"said");
        assert_eq!((room.count(), room.recalled()), (1, 1));
        room.leave(&seat);
        assert_eq!(room.who(), "(0 here)");
    }

    #[test]
    fn rooms_share_neither_names_nor_topics() {
        let (one, other) = (Room::default(), Room::default());
        assert!(
            seated(one.join("ann", "unix", Way::Lines, HERE, None)).is_some()
                && seated(other.join("ann", "unix", Way::Lines, HERE, None)).is_some()
        );
        for way in Way::ALL {
            assert_eq!(one.clone().topic(way), one.topic(way));
            assert!(Way::ALL.iter().all(|&another| one.topic(way) != other.topic(another)));
            assert!(Way::ALL.iter().all(|&another| another == way || one.topic(way) != one.topic(another)));
        }
    }

    #[test]
    fn a_way_is_spoken_from_the_first_of_its_members_to_the_last() {
        let room = Room::default();
        let spoken = || Way::ALL.map(|way| room.is_spoken(way));
        assert_eq!(spoken(), [false; 3]);
        let [ann, ben] =
            ["ann", "ben"].map(|name| seated(room.join(name, "unix", Way::WebSocket, HERE, None)).unwrap());
        let cat = seated(room.clone().join("cat", "unix", Way::Lines, HERE, None)).unwrap();
        assert_eq!(spoken(), [true, false, true]);
        room.leave(&ann);
        room.leave(&ann);
        assert_eq!(spoken(), [true, false, true], "leaving twice is leaving once");
        room.leave(&ben);
        room.leave(&cat);
        assert_eq!(spoken(), [false; 3]);
    }

    #[test]
    fn on_loops_of_their_own_guests_come_in_order_and_all_together_cost_one_core() {
        let room = Room::default();
        let second = Duration::from_secs(1);
        let waits: Vec<Duration> = (0..300).map(|_| room.pay(500, second)).collect();
        assert_eq!(waits[..2], [Duration::ZERO; 2], "some at once");
        assert!(waits[2..].windows(2).all(|pair| pair[1] - pair[0] == DELIVERY_APART * 500), "{waits:?}");
        assert_eq!(waits[299], DELIVERY_APART * 500 * 299);
        // Unused time is not saved up, and a room that has paid for all is free.
        assert_eq!([0; 3].map(|_| room.pay(500, second * 5).is_zero()), [true, true, false]);
        assert_eq!(Room::default().pay(1_000_000, second), Duration::ZERO, "the first one never waits");
    }

    #[test]
    fn a_room_without_members_says_so() {
        let room = Room::default();
        assert_eq!(room.who(), "(0 here)");
        let _seat = seated(room.join("ann", "unix", Way::Lines, HERE, None)).unwrap();
        assert_eq!(room.who(), "(1 here: ann@unix)");
    }

    #[test]
    fn a_count_is_right_whichever_loop_announces_first() {
        let room = Room::default();
        let [ann, ben, cat] = ["ann", "ben", "cat"]
            .map(|name| seated(room.join(name, "unix", Way::Lines, HERE, None)).expect("the name is free"));
        assert_eq!(room.announce_join(ben.number()), 2, "ann is a member already");
        assert_eq!(room.announce_join(ann.number()), 2, "and cat is not announced yet");
        assert_eq!(room.announce_join(cat.number()), 3);
    }

    #[test]
    fn a_name_is_taken_whatever_its_case_until_its_member_leaves() {
        let room = Room::default();
        let ann = seated(room.join("Ann", "10.0.0.1", Way::Lines, HERE, None)).unwrap();
        assert_eq!((ann.prefix(), ann.who(), room.announce_join(ann.number())), ("#Ann@10.0.0.1>>", "Ann@10.0.0.1", 1));
        assert!(seated(room.join("aNN", "10.0.0.2", Way::Lines, HERE, None)).is_none());
        assert!(
            seated(room.clone().join("Ann", "10.0.0.2", Way::Lines, HERE, None)).is_none(),
            "a clone is the same room"
        );
        let ben = seated(room.join("ÄBen", "unix", Way::Lines, HERE, None)).unwrap();
        assert_eq!((room.announce_join(ben.number()), room.count()), (2, 2));
        assert!(seated(room.join("äben", "unix", Way::Lines, HERE, None)).is_none());
        assert_eq!(room.who(), "(2 here: Ann@10.0.0.1, ÄBen@unix)");
        assert_eq!(room.find("äBEN"), Some(("ÄBen@unix".to_owned(), HERE)));
        room.will_leave(&ann);
        assert!(
            matches!(room.join("ann", "10.0.0.3", Way::Lines, HERE, None), Joining::Soon),
            "the others think that she is here"
        );
        assert!(matches!(room.join("äben", "10.0.0.3", Way::Lines, HERE, None), Joining::Taken));
        assert_eq!((room.find("ann"), room.count()), (None, 2));
        room.leave(&ann);
        let new = seated(room.join("ann", "10.0.0.3", Way::Lines, HERE, None)).unwrap();
        assert_eq!(room.announce_join(new.number()), 2);
        room.leave(&ann);
        assert_eq!(room.who(), "(2 here: ÄBen@unix, ann@10.0.0.3)", "in the order in which they came");
    }
}
