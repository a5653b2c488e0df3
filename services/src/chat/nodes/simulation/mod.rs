//! Several nodes and an engine under one seed, in virtual time: links that are cut, nodes that die and freeze, an engine that restarts
//! and forgets, nodes that do not hear each other, delays, and messages that arrive twice.

mod checks;
mod engine;
mod faults;

pub(super) use engine::{Bucket, Reply};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use super::members::keys_of;
use super::*;
use crate::chance::Chance;

/// More where the build is optimised.
const SEEDS: u64 = if cfg!(feature = "sim") { 200 } else { 20 };
/// Time with faults, and time after the last fault until the nodes agree, in milliseconds.
const FAULTY: u64 = 60_000;
const AGREED: u64 = 15_000;
/// Longest time until a node is connected again, when nothing hinders it.
const RECONNECT: u64 = 2_000;
/// Longest way of a message from one node to another.
const WAY: u64 = 500;

enum Happens {
    /// Something of node `from`, sent over its connection `epoch`, reaches the engine.
    AtEngine {
        from: usize,
        epoch: u32,
        action: Action,
    },
    AtNode {
        to: usize,
        epoch: u32,
        item: Item,
    },
    TimeOut {
        node: usize,
        epoch: u32,
        id: u64,
    },
    Tick(usize),
    LinkLost(usize, u32),
    Connects(usize, u32),
    Member,
    Fault,
}

#[derive(Clone)]
enum Item {
    Heard(Box<str>, Vec<u8>),
    Answered(u64, Answer<'static>),
    Found(u64, u64, String),
}

#[derive(Clone, Debug, PartialEq)]
enum Member {
    Asks,
    Here,
}

struct Server {
    node: Node,
    is_dead: bool,
    frozen_until: u64,
    /// The number of the connection; and whether the engine has it, and the node believes to have it.
    epoch: u32,
    is_linked: bool,
    believes: bool,
    /// The client has lost the connection, and answers the requests before it tells the node of the loss.
    is_ending: bool,
    /// When the last thing on the connection arrives, for either direction.
    ways: [u64; 2],
    /// From when on the node may not connect.
    refused_until: u64,
    members: BTreeMap<u64, (String, Member)>,
    others: BTreeMap<(Box<str>, u64), Box<str>>,
    heard: Vec<String>,
    /// Times at which the node was in trouble: without a link, frozen, dead.
    troubles: Vec<(u64, u64)>,
}

struct World {
    chance: Chance,
    now: u64,
    happenings: BinaryHeap<Reverse<(u64, u64)>>,
    by_number: HashMap<u64, Happens>,
    scheduled: u64,
    servers: Vec<Server>,
    bucket: Bucket,
    engine_down_until: u64,
    /// The times in which a node was not heard by another one: the pair, the beginning and the end.
    deaf: Vec<((usize, usize), u64, u64)>,
    said: Vec<(u64, usize, String)>,
    granted: u64,
    closed: u64,
    members: u64,
    faults: bool,
    had_faults: bool,
    /// Members that had come at the latest check of the names.
    checked: u64,
    /// Events of the last run steps.
    log: VecDeque<String>,
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    fn new(seed: u64, nodes: usize, faults: bool) -> Self {
        let mut world = World {
            chance: Chance::new(seed),
            now: 0,
            happenings: BinaryHeap::new(),
            by_number: HashMap::new(),
            scheduled: 0,
            servers: Vec::new(),
            bucket: Bucket::default(),
            engine_down_until: 0,
            deaf: Vec::new(),
            said: Vec::new(),
            granted: 0,
            closed: 0,
            members: 0,
            faults,
            had_faults: faults,
            checked: 0,
            log: VecDeque::new(),
        };
        for _ in 0..nodes {
            world.start();
        }
        world.schedule(1_000, Happens::Member);
        world.schedule(3_000, Happens::Fault);
        world
    }

    fn start(&mut self) {
        let place = self.servers.len();
        let node = Node::new(&format!("n{place}"));
        self.servers.push(Server {
            node,
            is_dead: false,
            frozen_until: 0,
            epoch: 0,
            is_linked: false,
            believes: false,
            is_ending: false,
            ways: [0; 2],
            refused_until: 0,
            members: BTreeMap::new(),
            others: BTreeMap::new(),
            heard: Vec::new(),
            troubles: vec![(0, u64::MAX)],
        });
        let (first, tick) = (self.below(100), self.below(250));
        self.schedule(first, Happens::Connects(place, 0));
        self.schedule(tick, Happens::Tick(place));
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.chance.below(limit as usize) as u64
    }

    fn schedule(&mut self, after: u64, happens: Happens) {
        self.scheduled += 1;
        self.happenings.push(Reverse((self.now + after, self.scheduled)));
        self.by_number.insert(self.scheduled, happens);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(&Reverse((time, number))) = self.happenings.peek()
            && time <= end
        {
            self.happenings.pop();
            self.now = time;
            let happens = self.by_number.remove(&number).unwrap();
            self.happen(happens);
            self.hold_true();
        }
        self.now = end;
    }

    fn note(&mut self, text: String) {
        self.log.push_back(format!("{:>7} {text}", self.now));
        if self.log.len() > 400 {
            self.log.pop_front();
        }
    }

    // ---- the network -------------------------------------------------------------------------------------------------

    /// The time at which something that is sent now arrives on a way that keeps its order.
    fn arrival(&mut self, node: usize, direction: usize) -> u64 {
        let delay = if self.chance.below(20) == 0 { self.below(WAY / 4) } else { self.below(5) };
        let server = &mut self.servers[node];
        let time = (self.now + delay).max(server.ways[direction]).max(self.now);
        server.ways[direction] = time;
        time - self.now
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::AtEngine { from, epoch, action } => {
                let left = self.engine_down_until.saturating_sub(self.now);
                if left > 0 {
                    // An engine that was killed has lost its input; a frozen one reads the input later, also that of
                    // connections that have ended.
                    if self.chance.below(2) == 0 {
                        self.schedule(left, Happens::AtEngine { from, epoch, action });
                    }
                    return;
                }
                self.at_engine(from, epoch, action);
            }
            Happens::AtNode { to, epoch, item } => {
                let server = &self.servers[to];
                if server.is_dead || server.epoch != epoch || !server.believes {
                    return;
                }
                if server.frozen_until > self.now {
                    let left = server.frozen_until - self.now;
                    return self.schedule(left, Happens::AtNode { to, epoch, item });
                }
                let now = at(self.now);
                let node = &mut self.servers[to].node;
                match item {
                    Item::Heard(from, payload) => node.heard(&from, &payload, now),
                    Item::Answered(id, answer) => node.answered(id, answer, now),
                    Item::Found(id, revision, value) => {
                        node.answered(id, Answer::Found { revision, value: value.as_bytes() }, now)
                    }
                }
                self.act(to);
            }
            Happens::TimeOut { node, epoch, id } => {
                let server = &mut self.servers[node];
                if server.is_dead || server.epoch != epoch || !server.believes {
                    return;
                }
                if server.frozen_until > self.now {
                    let left = server.frozen_until - self.now;
                    return self.schedule(left, Happens::TimeOut { node, epoch, id });
                }
                server.node.answered(id, Answer::Failed, at(self.now));
                self.act(node);
            }
            Happens::Tick(place) => {
                let server = &mut self.servers[place];
                if server.is_dead {
                    return;
                }
                let left = server.frozen_until.saturating_sub(self.now);
                if left == 0 {
                    server.node.tick(at(self.now));
                    self.act(place);
                }
                self.schedule(left.max(250), Happens::Tick(place));
            }
            Happens::LinkLost(place, epoch) => {
                let server = &mut self.servers[place];
                if server.epoch != epoch || server.is_dead || !server.believes {
                    return;
                }
                if server.frozen_until > self.now {
                    let left = server.frozen_until - self.now;
                    return self.schedule(left, Happens::LinkLost(place, epoch));
                }
                (server.believes, server.is_ending) = (false, true);
                let mut requests: Vec<u64> = server.node.requests.keys().copied().collect();
                requests.sort_unstable();
                for id in requests {
                    self.servers[place].node.answered(id, Answer::Failed, at(self.now));
                    self.act(place);
                }
                let server = &mut self.servers[place];
                server.is_ending = false;
                server.node.lost();
                self.note(format!("n{place} has lost its link"));
                self.act(place);
                self.schedule(50, Happens::Connects(place, epoch));
            }
            Happens::Connects(place, epoch) => {
                let again = 100 + self.below(RECONNECT - 200);
                let (now, down) = (self.now, self.engine_down_until);
                let server = &mut self.servers[place];
                if server.is_dead || server.epoch != epoch {
                    return;
                }
                if server.frozen_until > now || server.refused_until > now || down > now {
                    return self.schedule(again, Happens::Connects(place, epoch));
                }
                server.epoch += 1;
                (server.is_linked, server.believes) = (true, true);
                server.ways = [now; 2];
                if let Some(trouble) = server.troubles.last_mut().filter(|trouble| trouble.1 == u64::MAX) {
                    trouble.1 = now;
                }
                server.node.connected(at(now));
                self.note(format!("n{place} is connected"));
                self.act(place);
            }
            Happens::Member => self.member(),
            Happens::Fault => self.fault(),
        }
    }

    fn at_engine(&mut self, from: usize, epoch: u32, action: Action) {
        match action {
            Action::Publish { to, payload } => {
                let id = self.servers[from].node.id.clone();
                for other in 0..self.servers.len() {
                    let server = &self.servers[other];
                    let is_receiver = to.as_ref().is_none_or(|to| *to == server.node.id);
                    let is_deaf = self
                        .deaf
                        .iter()
                        .any(|(pair, begin, end)| *pair == (from, other) && (*begin..*end).contains(&self.now));
                    if other == from || !is_receiver || !server.is_linked || is_deaf {
                        continue;
                    }
                    let epoch = server.epoch;
                    let copies = if self.faults && self.chance.below(30) == 0 { 2 } else { 1 };
                    for _ in 0..copies {
                        let after = self.arrival(other, 1);
                        let item = Item::Heard(id.clone(), payload.clone());
                        self.schedule(after, Happens::AtNode { to: other, epoch, item });
                    }
                }
            }
            Action::Request { id, request } => {
                let reply = self.bucket.carry_out(&request);
                if !self.servers[from].is_linked || self.servers[from].epoch != epoch {
                    return;
                }
                let item = match reply {
                    Reply::Plain(answer) => Item::Answered(id, answer),
                    Reply::Found(revision, value) => Item::Found(id, revision, value),
                };
                let after = self.arrival(from, 1);
                self.schedule(after, Happens::AtNode { to: from, epoch, item });
            }
            Action::Event(_) => unreachable!(),
        }
    }

    /// Carries out the actions of a node.
    fn act(&mut self, place: usize) {
        let mut failed = 0;
        while let Some(action) = self.servers[place].node.take() {
            match action {
                Action::Event(event) => self.event(place, event),
                // Nothing can be sent: a request fails at once.
                Action::Request { id, .. } if self.servers[place].is_ending => {
                    self.servers[place].node.answered(id, Answer::Failed, at(self.now));
                    failed += 1;
                    assert!(failed < 1_000, "n{place} asks without end");
                }
                Action::Publish { .. } if self.servers[place].is_ending => {}
                action => {
                    let server = &self.servers[place];
                    assert!(server.believes, "n{place} sends without a link: {action:?}");
                    let (epoch, is_linked) = (server.epoch, server.is_linked);
                    if let Action::Request { id, .. } = action {
                        self.schedule(2_000, Happens::TimeOut { node: place, epoch, id });
                    }
                    if is_linked {
                        let after = self.arrival(place, 0);
                        self.schedule(after, Happens::AtEngine { from: place, epoch, action });
                    }
                }
            }
        }
    }

    fn event(&mut self, place: usize, event: Event) {
        if !matches!(event, Event::Said(_)) {
            self.note(format!("n{place}: {event:?}"));
        }
        let server = &mut self.servers[place];
        match event {
            Event::Granted { number, .. } => {
                self.granted += 1;
                server.members.get_mut(&number).expect("it has asked").1 = Member::Here;
            }
            Event::Refused { number } => drop(server.members.remove(&number)),
            Event::Close { number } => {
                self.closed += 1;
                server.members.remove(&number);
                server.node.withdraw(number, at(self.now));
            }
            Event::Said(text) => server.heard.push(String::from_utf8(text).unwrap()),
            Event::Missed(count) => assert!(count > 0 && count < 10_000, "{count}"),
            Event::Came { node, number, who } | Event::IsThere { node, number, who } => {
                assert!(server.others.insert((node, number), who).is_none(), "came twice");
            }
            Event::Went { node, number, who } => assert_eq!(server.others.remove(&(node, number)), Some(who)),
            Event::Alone | Event::Together => {}
        }
    }

    // ---- members -----------------------------------------------------------------------------------------------------
}

/// Runs a world with faults, heals it, and lets it agree.
fn healed(seed: u64) -> World {
    let mut world = World::new(seed, 3, true);
    world.run_until(FAULTY + 30_000);
    world.messages_were_heard();
    world.heal();
    world.run_until(FAULTY + 30_000 + RECONNECT + AGREED + 20_000);
    world.messages_were_heard();
    world
}

fn silence(world: &mut World) {
    world.by_number.iter_mut().filter(|(_, happens)| matches!(happens, Happens::Member)).for_each(|(_, happens)| {
        *happens = Happens::TimeOut { node: 0, epoch: u32::MAX, id: 0 };
    });
    world.run_until(world.now + 3_000);
}

#[test]
fn under_any_faults_messages_come_once_and_in_order_and_after_a_healing_names_are_unique_and_the_lists_agree() {
    let (mut granted, mut closed) = (0, 0);
    for seed in 1..=SEEDS {
        let mut world = healed(seed);
        silence(&mut world);
        world.presence_is_right();
        granted += world.granted;
        closed += world.closed;
    }
    assert!(granted > SEEDS * 50 && closed > SEEDS / 4, "{granted} granted, {closed} closed");
}

#[test]
fn without_faults_names_are_unique_at_every_moment_and_nothing_is_missed() {
    for seed in 1..=SEEDS / 4 {
        let mut world = World::new(seed, 4, false);
        world.run_until(FAULTY);
        world.messages_were_heard();
        assert_eq!(world.closed, 0);
        silence(&mut world);
        world.presence_is_right();
    }
}

#[test]
fn fifteen_seconds_after_its_death_a_node_has_no_members_and_its_names_are_free() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed, 3, false);
        world.run_until(2_000 + seed * 97);
        let names: Vec<String> = world.servers[0].members.values().map(|(name, _)| name.clone()).collect();
        silence(&mut world);
        world.kill(0);
        world.run_until(world.now + AGREED);
        world.presence_is_right();
        for name in names {
            let taken = [1, 2].iter().any(|&place| {
                let members = world.servers[place].members.values();
                members.flat_map(|(other, _)| keys_of(other)).any(|key| keys_of(&name).contains(&key))
            });
            if !taken {
                let number = world.ask(1, &name);
                world.run_until(world.now + WAY * 4);
                let member = world.servers[1].members.get(&number);
                assert_eq!(member, Some(&(name, Member::Here)), "seed {seed}");
            }
        }
    }
}

#[test]
fn of_two_simultaneous_claims_exactly_one_wins() {
    for seed in 1..=SEEDS * 4 {
        let mut world = World::new(seed, 3, false);
        world.run_until(900);
        let asked: Vec<(usize, u64)> =
            ["IVI", "ivi", "іvі"].iter().enumerate().map(|(place, name)| (place, world.ask(place, name))).collect();
        world.by_number.retain(|_, happens| !matches!(happens, Happens::Member));
        world.happenings.retain(|Reverse((_, number))| world.by_number.contains_key(number));
        world.run_until(4_000);
        let here = asked.iter().filter(|(place, number)| world.servers[*place].members.contains_key(number)).count();
        assert_eq!(here, 1, "seed {seed}");
    }
}
