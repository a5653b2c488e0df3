//! The room under simulation, where time costs nothing: thousands who come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use reactor::sim::{Faults, Peer, Script, Simulation};
use reactor::{Address, Service};

use super::*;
use crate::chance::Chance;

const SECOND: Duration = Duration::from_secs(1);

fn room(sim: &mut Simulation) -> Address {
    let room = Room::default();
    let service = Service::tcp("127.0.0.1:0", move || Chat::new(room.clone()));
    let handle = sim.add_service(service.limits(limits()).deadlines(deadlines(None))).unwrap();
    handle.address().unwrap().clone()
}

/// What a peer has read, line by line. The last one may be cut where it went.
fn heard(peer: &Peer) -> Vec<String> {
    let bytes = peer.received();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    std::str::from_utf8(&bytes[..whole]).unwrap().lines().map(str::to_owned).collect()
}

/// Each hears exactly what the one hears who was there first and stays to the end, from its own coming on, in the same
/// order, without what it said itself; and of no name a second one comes before the first has gone.
#[test]
fn five_thousand_who_come_and_go_at_random_hear_the_same() {
    let taken: usize = (1..=10).map(|seed| come_and_go(seed, 500)).sum();
    assert!(taken > 100, "{taken} found their name taken");
}

/// So many in one minute. How many found their name taken.
#[test]
fn five_thousand_who_come_and_go_in_one_room_within_a_minute_hear_the_same() {
    let taken: usize = (1..=2).map(|seed| come_and_go(seed, 5_000)).sum();
    assert!(taken > 20, "{taken} found their name taken");
}

fn come_and_go(seed: u64, members: usize) -> usize {
    let (mut sim, mut chance) = (Simulation::new(seed), Chance::new(seed));
    let address = room(&mut sim);
    let watcher = sim.connect(&address, Script::new().send("watcher\n").wait(SECOND * 100));
    let peers: Vec<Peer> = (0..members)
        .map(|number| {
            // Few names, so that some are taken, and all are used again.
            let name = format!("{}{}", ["ann", "Ann", "аnn", "ben"][chance.below(4)], chance.below(members / 4));
            let span = |chance: &mut Chance| Duration::from_millis(chance.below(5000) as u64);
            let script = Script::new().send(format!("NAME: {name}\n")).wait(span(&mut chance));
            let script = script.send(format!("I am {number}\n")).wait(span(&mut chance));
            let script = match chance.below(4) {
                0 => script.send("/quit\n"),
                1 => script.shutdown(),
                2 => script.close(),
                _ => script.reset(),
            };
            let after = SECOND + Duration::from_millis(chance.below(60_000) as u64);
            sim.connect_after(after, &address, script)
        })
        .collect();
    sim.run();

    let all = heard(&watcher);
    assert!(all[0].starts_with("CLIENT: "), "{}", all[0]);
    let mut here = std::collections::BTreeSet::new();
    let mut positions = std::collections::HashMap::<&str, Vec<usize>>::new();
    for (at, line) in all.iter().enumerate().skip(1) {
        let who = |line: &str| line.rsplit(" from ").next().unwrap().trim_end_matches(')').to_owned();
        if line.starts_with("(Connected") {
            assert!(here.insert(who(line)), "{line}");
            assert!(line.starts_with(&format!("(Connected: New client ({}) from ", here.len() + 1)), "{line}");
        } else if line.starts_with("(Now hung up") {
            assert!(here.remove(&who(line)), "{line}");
        }
        positions.entry(line).or_default().push(at);
    }
    assert!(here.is_empty(), "all have gone: {here:?}");

    let (mut came, mut taken) = (0, 0);
    for (number, peer) in peers.iter().enumerate() {
        let lines = heard(peer);
        let Some((first, rest)) = lines.split_first() else { continue };
        if first == "ERROR: the name is taken" {
            taken += 1;
            continue;
        }
        if first == "ERROR: no name within 30 seconds" {
            // The network was as slow as that.
            continue;
        }
        assert!(first.starts_with("CLIENT: "), "{first}");
        came += 1;
        let rest: Vec<&String> = rest.iter().filter(|line| *line != "(Goodbye)").collect();
        let own = format!(">>I am {number}");
        let Some(first) = rest.first() else { continue };
        let follows = |from: usize| {
            let others = all[from..].iter().filter(|line| !line.ends_with(&own));
            rest.iter().zip(others).filter(|(one, other)| **one == *other).count() == rest.len()
        };
        let begins = positions.get(first.as_str()).unwrap_or_else(|| panic!("{number} alone hears {first}"));
        assert!(begins.iter().any(|from| follows(*from)), "{number} hears something else from {first} on");
    }
    // Who closes or resets leaves nothing of what it has read.
    assert!(came > members / 3, "{came} came");
    taken
}

/// A chat of which it is counted how much it delivers in one turn.
struct Counted {
    chat: Chat,
    turn: u32,
    before: u64,
    most: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
}

impl Counted {
    fn count(&mut self, cx: &Context<'_>) {
        let stats = cx.stats();
        if cx.turn() != self.turn {
            self.most.fetch_max(stats.deliveries - self.before, Relaxed);
            self.turns.fetch_add(u64::from(stats.deliveries > self.before), Relaxed);
            (self.turn, self.before) = (cx.turn(), stats.deliveries);
        }
    }
}

impl Handler<Command> for Counted {
    type Connection = Guest;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Guest {
        self.count(cx);
        self.chat.on_open(cx)
    }

    fn on_data(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_data(guest, input, cx);
    }

    fn on_end_of_input(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_end_of_input(guest, input, cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_turn(cx);
    }

    fn on_stopping(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_stopping(guest, cx);
    }

    fn on_close(&mut self, guest: Guest, reason: CloseReason, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_close(guest, reason, cx);
    }
}

/// What a turn costs is bounded, so others are served in between: those who leave are told of in as many turns as it
/// takes, those who come wait for their turn.
#[test]
fn a_thousand_who_come_or_go_at_once_are_told_of_in_many_turns() {
    const STAY: usize = 400;
    const GO: usize = 1200;
    let (most, turns) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let mut sim = Simulation::with_faults(1, Faults::none());
    let (room, counted) = (Room::default(), (most.clone(), turns.clone()));
    let make = move || {
        let (most, turns) = counted.clone();
        Counted { chat: Chat::new(room.clone()), turn: 0, before: 0, most, turns }
    };
    let service = Service::<Counted, Command>::tcp("127.0.0.1:0", make).limits(limits()).deadlines(deadlines(None));
    let address = sim.add_service(service).unwrap().address().unwrap().clone();
    let stay: Vec<Peer> = (0..STAY)
        .map(|number| sim.connect(&address, Script::new().send(format!("stay{number}\n")).wait(SECOND * 10)))
        .collect();
    for number in 0..GO {
        sim.connect(&address, Script::new().send(format!("go{number}\n")).wait(SECOND * 5).reset());
    }
    sim.run();
    for peer in stay {
        let lines = heard(&peer);
        let gone = lines.iter().filter(|line| line.starts_with("(Now hung up: Client from go")).count();
        assert_eq!(gone, GO, "everybody who stays is told of everybody who goes");
    }
    // The last message goes over, to all who are here.
    let (most, turns) = (most.load(Relaxed), turns.load(Relaxed));
    assert!(most as usize <= budget::DELIVERIES_PER_TURN + STAY + GO, "{most} deliveries in one turn");
    let least = (STAY * GO) / budget::DELIVERIES_PER_TURN;
    assert!(turns as usize > least, "{turns} turns");
}
