//! One room on several nodes: the protocol between the nodes of a room and the engine (NATS with a JetStream bucket), as a state
//! machine without socket and clock. One [`Node`] stands for all loops of a process.
//!
//! ```text
//!   the node's own members ──ask, say, withdraw──▶ Node ──take: Event──▶ the members of this node
//!   the engine ──connected, lost, heard, answered─▶  │
//!   time ──tick─────────────────────────────────────▶└──take: Publish, Request──▶ the engine
//! ```
//!
//! **Messages** ([`wire`]). A node publishes all it says on one subject of its own, through one connection, in order. Each
//! message carries two counters of the sender, so a receiver drops doubled messages and reports a gap ([`Event::Missed`]). A
//! message that was said while the link was down is counted, and not sent.
//!
//! **Presence** ([`peers`]). A node gives a sign of life every second, and has gone after 12 s without one, or when it says so.
//! A gap in arrivals and departures makes a node ask the other one for its list of members, which goes to the asker alone.
//!
//! **Names** ([`claims`], [`lease`]). A bucket of the engine has a key for each node, its *lease*, and keys for each taken name, its
//! *claim*. A claim counts while the lease that it names exists. Every change of the bucket names the revision that it replaces, so of
//! two simultaneous changes one wins. A node renews its lease every 3 s, and stops relying on the lease 10 s after the last renewal.
//! Another node deletes a lease whose revision has not changed for 11 s; a later renewal fails, and then the node claims its
//! names anew. No step compares two clocks, and no key has to expire.
//!
//! **Around the machine.** [`participant`] is the user of [`nats::Client`](crate::nats::Client) that carries out `Publish` and `Request`
//! ([`bucket`] has JetStream's words). [`guests`] is the chat's side: a guest asks, waits unread, and joins when the name is granted.
//! [`shared`] is the part of a room that all loops share. [`probe`] looks at the start whether NATS has all that
//! a room needs. [`creation`] makes the bucket on a single server or in a cluster. docs/nodes.md has the promises and the limits.
//!
//! Subjects: `glowplug.ROOM.NODE` for all, `glowplug.ROOM.NODE.OTHER` for one node. The subject names the
//! sender, so permissions can bind a node to its name.

mod actions;
mod bucket;
mod claims;
mod complaints;
mod creation;
mod guests;
mod lease;
mod members;
mod participant;
mod peers;
mod probe;
mod shared;
mod wire;

#[cfg(any(test, feature = "fuzzing"))]
mod model;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

#[cfg(feature = "fuzzing")]
pub(crate) use model::check;

pub(super) use actions::Event;
use actions::{Action, Answer, Request};
#[cfg(all(test, feature = "sim"))]
pub(super) use guests::NEWS_MAX;
pub(super) use guests::{ALONE, Asked, Granted, TOGETHER};
use lease::{Lease, Suspect};
use members::{Claims, Purpose};
#[cfg(all(test, feature = "sim"))]
pub(super) use participant::News;
pub(super) use participant::NodeRequest;
pub use participant::{FromChat, FromNode, NodeParticipant};
use peers::Peers;
pub use probe::NodeProbe;
pub use shared::{Nodes, NotAName};
use wire::{Content, Notice, PART_BYTES, Person, parts};

/// Time between two calls of [`Node::tick`].
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// A node without a sign for this time has gone, and its members with it.
const GONE_AFTER: Duration = Duration::from_secs(12);
/// After this time without a sign of a node, its lease is watched.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);
/// Time between two renewals of the lease.
const RENEW: Duration = Duration::from_secs(3);
/// The time after a renewal was sent for which a node relies on its lease.
const LEASE: Duration = Duration::from_secs(10);
/// The time for which a lease has to stay unchanged before another node deletes the lease: longer than [`LEASE`].
const LEASE_OVER: Duration = Duration::from_secs(11);
/// The time from a node's first connection in which the other nodes are expected to be heard: each of them answers the first sign of
/// life of a new node, and gives one of its own every second. Nodes that were there before are known by that.
const BEGINNING: Duration = Duration::from_secs(3);
/// Longest wait of a guest, after the first connection, for the lists of members of the nodes that were there before.
const LISTS_MAX: Duration = Duration::from_secs(2);
/// Longest wait of a guest for the engine.
const ASK_MAX: Duration = Duration::from_secs(8);
/// Time before a failed request is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of a message with a part of a list of members, besides [`PART_BYTES`]: the first line, and the last member.
const PART_ROOM: usize = 512;
/// Requests about names that wait for an answer at most. Further ones wait for their turn.
const REQUESTS_MAX: usize = 256;

/// A key of a name: two names that could be confused have a key in common.
pub(super) type Key = [u8; 16];

/// The link to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Never connected so far.
    Starting,
    Up,
    Away,
}

/// This node of the room.
#[derive(Debug)]
pub(super) struct Node {
    id: Box<str>,
    phase: Phase,
    /// The link is up again, and the members have not been told yet.
    returns: bool,
    /// The bucket exists, as far as this node knows; and when its creation was requested.
    has_bucket: bool,
    /// The engine has no JetStream, or JetStream has not answered for [`ASK_MAX`]: names are checked on this node alone.
    is_without: bool,
    /// When JetStream failed to answer for the first time since the link came up or the bucket was there.
    silent_since: Option<Duration>,
    created_at: Option<Duration>,
    /// When the link was up first; `None` after the link was lost.
    began_at: Option<Duration>,
    /// The members of the nodes that were there before are known, and guests may be seated.
    knows_others: bool,
    lease: Lease,
    claims: Claims,
    peers: Peers,
    /// Nodes whose leases are watched.
    suspects: BTreeMap<Box<str>, Suspect>,
    /// Arrivals and departures of members so far, and messages of members so far.
    changes: u64,
    said: u64,
    /// Bytes of a part of the list of members: see [`parts`].
    part_bytes: usize,
    /// The purposes of requests without an answer.
    requests: HashMap<u64, Purpose>,
    last_request: u64,
    beat_at: Option<Duration>,
    ticked_at: Option<Duration>,
    actions: VecDeque<Action>,
}

impl Node {
    /// Makes a node. `id` is unique for each start of a process: the node's name and a random suffix, of letters, digits, `_` and
    /// `-`.
    pub(super) fn new(id: &str) -> Self {
        Node {
            id: id.into(),
            phase: Phase::Starting,
            returns: false,
            has_bucket: false,
            is_without: false,
            silent_since: None,
            created_at: None,
            began_at: None,
            knows_others: false,
            lease: Lease::default(),
            claims: Claims::default(),
            peers: Peers::default(),
            suspects: BTreeMap::new(),
            changes: 0,
            said: 0,
            part_bytes: PART_BYTES,
            requests: HashMap::new(),
            last_request: 0,
            beat_at: None,
            ticked_at: None,
            actions: VecDeque::new(),
        }
    }

    // ---- questions ---------------------------------------------------------------------------------------------------

    /// Number of other nodes.
    pub(super) fn nodes(&self) -> usize {
        self.peers.nodes()
    }

    /// Number of members of other nodes.
    pub(super) fn remote_members(&self) -> usize {
        self.peers.members()
    }

    /// Whether the link is up without JetStream, so that names are checked on this node alone.
    pub(super) fn is_without(&self) -> bool {
        self.phase == Phase::Up && self.is_without
    }

    /// Number of ignored messages of other nodes: malformed ones, and messages over a limit.
    pub(super) fn ignored(&self) -> u64 {
        self.peers.ignored
    }

    /// The next action. Call after every input, until there is none.
    pub(super) fn take(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // ---- the members of this node ------------------------------------------------------------------------------------

    /// A guest asks for a name: [`Event::Granted`] or [`Event::Refused`] follows, after 8 s and a tick at the latest. `number` is the
    /// guest's own, never used before; `joined` is the time in milliseconds since 1970.
    pub(super) fn ask(&mut self, number: u64, who: &str, joined: u64, now: Duration) {
        self.claims.enter(number, who, joined, now);
        self.consider(number);
        self.advance(now);
    }

    /// A member says a text, without control characters.
    pub(super) fn say(&mut self, number: u64, text: &str) {
        self.said += 1;
        // Counted in any case, so that the others see the gap.
        if self.phase == Phase::Up
            && let Some(who) = self.claims.who(number)
        {
            let content = Content::Said { number, who, text };
            let payload = Notice { changes: self.changes, said: self.said, content }.bytes();
            self.actions.push_back(Action::Publish { to: None, payload });
        }
    }

    /// A member has gone, or a guest that has asked. The others hear of it when the engine has released the name.
    pub(super) fn withdraw(&mut self, number: u64, now: Duration) {
        self.leave(number);
        self.advance(now);
    }

    /// Stops the node: frees its names, and announces the stop. Call last.
    pub(super) fn stop(&mut self) {
        if self.phase != Phase::Up {
            return;
        }
        // A lease that is gone frees all names at once; the claims themselves would stay behind.
        let claims = self.claims.revisions().filter(|_| self.lease.is_known);
        let revisions: Vec<u64> = claims.chain(self.lease.revision()).collect();
        for revision in revisions {
            self.request(Request::Delete { revision }, Purpose::Nothing);
        }
        self.tell(None, Content::Bye);
        self.phase = Phase::Away;
    }

    // ---- the engine --------------------------------------------------------------------------------------------------

    /// Sets the engine's limit for a message in bytes. Lists of members are cut into parts that fit.
    pub(super) fn set_payload_max(&mut self, bytes: usize) {
        self.part_bytes = PART_BYTES.min(bytes.saturating_sub(PART_ROOM));
    }

    /// The link is up.
    pub(super) fn connected(&mut self, now: Duration) {
        self.returns |= self.phase == Phase::Away;
        if self.phase == Phase::Starting {
            self.began_at = Some(now);
        }
        self.phase = Phase::Up;
        self.beat(now);
        self.create(now);
    }

    /// The link has never been up, and nobody waits for it any longer.
    pub(super) fn start_alone(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Up;
            self.lost();
        }
    }

    /// The link is down. No request will be answered.
    pub(super) fn lost(&mut self) {
        if self.phase != Phase::Up {
            return;
        }
        self.phase = Phase::Away;
        (self.has_bucket, self.created_at, self.silent_since) = (false, None, None);
        (self.began_at, self.knows_others) = (None, true);
        self.requests.clear();
        self.lease.is_lost();
        self.bucket_is_lost();
        if !std::mem::take(&mut self.returns) {
            self.event(Event::Alone);
        }
        self.claims_are_lost();
    }

    /// A payload has arrived on the subject of node `from`.
    pub(super) fn heard(&mut self, from: &str, payload: &[u8], now: Duration) {
        // NATS does not send a node its own messages.
        if *from == *self.id {
            self.peers.ignored += 1;
            return;
        }
        let Some(notice) = Notice::read(payload).filter(|_| members::is_node(from)) else {
            self.peers.ignored += 1;
            return;
        };
        self.has_returned();
        let mut events = Vec::new();
        let is_beginning = self.began_at.is_some_and(|at| now < at + BEGINNING);
        let consequences = self.peers.hear(from, &notice, is_beginning, now, &mut events);
        self.actions.extend(events.into_iter().map(Action::Event));
        if self.peers.knows(from) {
            self.suspects.remove(from);
        }
        self.claims.contest(&consequences.came);
        if consequences.is_asked {
            self.send_members(from);
        }
        if consequences.asks {
            self.tell(Some(from), Content::Ask);
        }
        self.look_for_lists(now);
    }

    /// Lets guests be seated as soon as the members of the nodes that were there before are known, so that counts and lists have them.
    fn look_for_lists(&mut self, now: Duration) {
        let Some(began_at) = self.began_at.filter(|_| !self.knows_others) else { return };
        if now >= began_at + LISTS_MAX || (now >= began_at + TICK && !self.peers.are_lists_missing()) {
            self.knows_others = true;
            self.grant_ready();
        }
    }

    /// The outcome of the request `id`.
    pub(super) fn answered(&mut self, id: u64, answer: Answer<'_>, now: Duration) {
        let Some(purpose) = self.requests.remove(&id) else { return };
        if answer == Answer::NoBucket {
            self.has_bucket = false;
            self.bucket_is_lost();
        }
        match purpose {
            Purpose::Nothing => {}
            Purpose::Create => self.created(answer, now),
            Purpose::Renew { .. } | Purpose::ReadLease => self.lease_answered(&purpose, answer, now),
            Purpose::Watch { node } => self.watched(&node, answer, now),
            Purpose::Fence { node } => self.fenced(&node, answer, now),
            purpose => self.claim_answered(purpose, answer, now),
        }
        self.renew(now);
        self.advance(now);
    }

    // ---- time --------------------------------------------------------------------------------------------------------

    /// Time has passed. Call every [`TICK`].
    pub(super) fn tick(&mut self, now: Duration) {
        let since = now.saturating_sub(self.ticked_at.unwrap_or(now));
        self.ticked_at = Some(now);
        if since > TICK * 4 {
            // This process has stood still, and what the others have said meanwhile is still unread.
            self.peers.excuse(since);
        }
        let mut events = Vec::new();
        let silent = self.peers.look(now, &mut events);
        self.actions.extend(events.into_iter().map(Action::Event));
        if self.phase == Phase::Up {
            if self.beat_at.is_none_or(|at| now >= at + BEAT) {
                self.beat(now);
            }
            if !self.has_bucket && self.created_at.is_none_or(|at| now >= at + RETRY) {
                self.create(now);
            }
            self.renew(now);
            self.watch(silent, now);
            self.verify(now);
        }
        self.look_for_lists(now);
        self.consider_postponed();
        self.grant_overdue(now);
        self.advance(now);
    }

    // ---- outputs -----------------------------------------------------------------------------------------------------

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn request(&mut self, request: Request, purpose: Purpose) {
        self.last_request += 1;
        let id = self.last_request;
        self.requests.insert(id, purpose);
        self.actions.push_back(Action::Request { id, request });
    }

    /// Publishes a message, if the link is up.
    fn tell(&mut self, to: Option<&str>, content: Content<'_>) {
        if self.phase == Phase::Up {
            let payload = Notice { changes: self.changes, said: self.said, content }.bytes();
            self.actions.push_back(Action::Publish { to: to.map(Box::from), payload });
        }
    }

    fn beat(&mut self, now: Duration) {
        self.beat_at = Some(now);
        self.tell(None, Content::Beat);
    }

    /// The request for the bucket has an outcome. The engine has handled the subscriptions before the request, so from here on the
    /// node hears the others.
    fn created(&mut self, answer: Answer<'_>, now: Duration) {
        self.has_returned();
        self.has_bucket = answer == Answer::Done;
        match answer {
            Answer::Done => {
                (self.is_without, self.silent_since) = (false, None);
                self.claims.retry();
            }
            // A cluster that has lost a server chooses new leaders, which takes some seconds: guests wait.
            Answer::Failed => self.is_without |= now >= *self.silent_since.get_or_insert(now) + ASK_MAX,
            _ => self.is_without = true,
        }
        if self.is_without && self.knows_others {
            self.grant_all(false);
        }
    }

    /// The engine has carried out a request or delivered a message since the link came up again.
    fn has_returned(&mut self) {
        if std::mem::take(&mut self.returns) {
            self.event(Event::Together);
        }
    }

    fn create(&mut self, now: Duration) {
        self.created_at = Some(now);
        self.request(Request::Create, Purpose::Create);
    }

    /// Sends all announced members to node `to`.
    fn send_members(&mut self, to: &str) {
        let people = self.claims.announced().map(|(number, who)| Person { number, who });
        let parts = parts(people, self.part_bytes);
        let last = parts.len() - 1;
        for (part, members) in parts.iter().enumerate() {
            self.tell(Some(to), Content::Roster { part: part as u64, is_last: part == last, members });
        }
    }
}
