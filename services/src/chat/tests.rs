//! The room under simulation, where time costs nothing: thousands of guests that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use reactor::sim::{Faults, Peer, Script, Simulation};
use reactor::{Address, Deadlines, Service};

use super::*;
use crate::chance::Chance;

mod nodes;
mod websocket;

const SECOND: Duration = Duration::from_secs(1);

fn room(sim: &mut Simulation) -> Address {
    let room = Room::default();
    let service = Service::tcp("127.0.0.1:0", move || Chat::new(room.clone()));
    // The simulated network may be slower than a member is allowed to be.
    let deadlines = Deadlines { write_progress: None, ..deadlines(None) };
    let handle = sim.add_service(service.limits(limits()).deadlines(deadlines)).unwrap();
    handle.address().unwrap().clone()
}

/// The lines that a peer has read. The last line may be cut.
fn heard(peer: &Peer) -> Vec<String> {
    let bytes = peer.received();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    std::str::from_utf8(&bytes[..whole]).unwrap().lines().map(str::to_owned).collect()
}

/// Each guest hears exactly the texts of the member that stays from start to end, from its own arrival on, in order,
/// without its own texts and its own arrival. For each name, a second arrival comes only after the first has gone.
#[test]
fn five_thousand_who_come_and_go_at_random_hear_the_same() {
    let taken: usize = (1..=10).map(|seed| come_and_go(seed, 500)).sum();
    assert!(taken > 100, "{taken} found their name taken");
}

/// Lets `members` guests come and go in one minute. Returns the number that found their name taken.
#[test]
fn five_thousand_who_come_and_go_in_one_room_within_a_minute_hear_the_same() {
    let taken: usize = (1..=2).map(|seed| come_and_go(seed, 5_000)).sum();
    assert!(taken > 20, "{taken} found their name taken");
}

fn come_and_go(seed: u64, members: usize) -> usize {
    let (mut sim, mut chance) = (Simulation::new(seed), Chance::new(seed));
    let address = room(&mut sim);
    let watcher = sim.connect(&address, Script::new().send("watcher\n").wait(SECOND * 100));
    let mut names = Vec::new();
    let peers: Vec<Peer> = (0..members)
        .map(|number| {
            // Few names, so that some are taken, and all are reused.
            let name = format!("{}{}", ["ann", "Ann", "аnn", "ben"][chance.below(4)], chance.below(members / 4));
            names.push(name.clone());
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
        if first.starts_with("ERROR: no name within 30 seconds") {
            // The network was too slow.
            continue;
        }
        assert!(first.starts_with("CLIENT: "), "{first}");
        came += 1;
        let rest: Vec<&String> = rest.iter().filter(|line| *line != "(Goodbye)").collect();
        let own = [format!(">>I am {number}"), format!(" from {}@{})", names[number], &first["CLIENT: ".len()..])];
        let Some(first) = rest.first() else { continue };
        let follows = |from: usize| {
            let is_own =
                |line: &str| line.ends_with(&own[0]) || line.starts_with("(Connected") && line.ends_with(&own[1]);
            let others = all[from..].iter().filter(|line| !is_own(line));
            rest.iter().zip(others).filter(|(one, other)| **one == *other).count() == rest.len()
        };
        let begins = positions.get(first.as_str()).unwrap_or_else(|| panic!("{number} alone hears {first}"));
        assert!(begins.iter().any(|from| follows(*from)), "{number} hears something else from {first} on");
    }
    // A peer that closes or resets keeps nothing of the texts it has read.
    assert!(came > members / 3, "{came} came");
    taken
}

/// The counts of a chat under test.
#[derive(Clone, Default)]
struct Counts {
    /// Deliveries of the busiest turn.
    most: Arc<AtomicU64>,
    /// Number of turns with deliveries.
    turns: Arc<AtomicU64>,
    /// Number of times that a member's input was not heard in its turn.
    unheard: Arc<AtomicU64>,
}

/// A chat that counts its deliveries in each turn, and members that are not heard.
struct Counted {
    chat: Chat,
    turn: u32,
    before: u64,
    counts: Counts,
}

impl Counted {
    fn serve(sim: &mut Simulation) -> (Address, Counts) {
        let (room, counts) = (Room::default(), Counts::default());
        let counted = counts.clone();
        let make = move || Counted { chat: Chat::new(room.clone()), turn: 0, before: 0, counts: counted.clone() };
        let service = Service::<Counted, Command>::tcp("127.0.0.1:0", make);
        let handle = sim.add_service(service.limits(limits()).deadlines(deadlines(None))).unwrap();
        (handle.address().unwrap().clone(), counts)
    }

    fn count(&mut self, cx: &Context<'_>) {
        let stats = cx.stats();
        if cx.turn() != self.turn {
            self.counts.most.fetch_max(stats.deliveries - self.before, Relaxed);
            self.counts.turns.fetch_add(u64::from(stats.deliveries > self.before), Relaxed);
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
        // A member that has just arrived is heard when its arrival has been announced.
        let (is_member, before) = (guest.seat.is_some() && guest.news <= self.chat.announced, input.len());
        self.chat.on_data(guest, input, cx);
        self.counts.unheard.fetch_add(u64::from(is_member && input.len() == before), Relaxed);
    }

    fn on_end_of_input(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_end_of_input(guest, input, cx);
    }

    fn on_deadline(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_deadline(guest, cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_turn(cx);
    }

    fn on_message(&mut self, to: ConnectionId, guest: Option<&mut Guest>, command: Command, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_message(to, guest, command, cx);
    }

    fn on_missed(&mut self, guest: &mut Guest, count: u64, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_missed(guest, count, cx);
    }

    fn on_too_slow(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        self.count(cx);
        self.chat.on_too_slow(guest, cx);
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

/// The cost of a turn is bounded, so other connections are served in between: departures are announced in as many turns
/// as they take, and arriving guests wait for their turn.
#[test]
fn a_thousand_who_come_or_go_at_once_are_told_of_in_many_turns() {
    const STAY: usize = 400;
    const GO: usize = 1200;
    let mut sim = Simulation::with_faults(1, Faults::none());
    let (address, counts) = Counted::serve(&mut sim);
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
    // The last announcement exceeds the limit, because it goes to all members.
    let (most, turns) = (counts.most.load(Relaxed) as usize, counts.turns.load(Relaxed) as usize);
    let members = STAY + GO;
    let bound = budget::CHANGES_PER_TURN.max(budget::CHANGES_AT_LEAST * members) + members;
    assert!(most <= bound, "{most} deliveries in one turn");
    assert!(turns > (STAY * GO) / bound, "{turns} turns");
}

/// Guests that join and leave as fast as they can, with a line or without, in every way to leave. Meanwhile each member
/// is heard in the turn of its input, and each turn is bounded.
#[test]
fn in_a_storm_of_joins_and_leaves_members_are_heard_at_once() {
    const MEMBERS: usize = 500;
    const GUESTS: usize = 1000;
    const TALKERS: usize = 50;
    let mut sim = Simulation::with_faults(3, Faults::none());
    let (address, counts) = Counted::serve(&mut sim);
    let millis = Duration::from_millis;
    let members: Vec<Peer> = (0..MEMBERS)
        .map(|number| {
            let script = Script::new().send(format!("m{number}\n"));
            let script = match number < TALKERS {
                true => script.wait(SECOND * 2 + millis(2 * number as u64)).send(format!("hello from {number}\n")),
                false => script,
            };
            sim.connect(&address, script.wait(SECOND * 60))
        })
        .collect();
    let guests: Vec<Peer> = (0..GUESTS)
        .map(|number| {
            let script = Script::new().send(format!("g{number}{}", if number % 5 == 4 { "" } else { "\n" }));
            let script = match number % 5 {
                0 => script.send("/quit\n"),
                1 => script.send(if number % 2 == 0 { "hello\n" } else { "hello" }).shutdown(),
                2 => script.expect(b"CLIENT: ").close(),
                3 => script.wait(millis(5)).reset(),
                _ => script.shutdown(),
            };
            // In waves, so that one turn brings more guests than it can take.
            sim.connect_after(SECOND * 2 + millis(20 * (number as u64 / 200)), &address, script)
        })
        .collect();
    sim.run();
    assert_eq!(counts.unheard.load(Relaxed), 0, "a member had to wait");
    let most = counts.most.load(Relaxed) as usize;
    let bound = budget::CHANGES_PER_TURN.max(budget::CHANGES_AT_LEAST * (MEMBERS + GUESTS)) + (MEMBERS + GUESTS) * 4;
    assert!(most <= bound, "{most} deliveries in one turn");
    let all = heard(&members[0]);
    for number in 1..TALKERS {
        let said = format!(">>hello from {number}");
        assert_eq!(all.iter().filter(|line| line.ends_with(&said)).count(), 1, "{said}");
    }
    let mut here = MEMBERS;
    for number in 0..GUESTS {
        let of = |what: &str| {
            let is_it = |line: &&String| line.starts_with(what) && line.contains(&format!(" from g{number}@"));
            all.iter().filter(is_it).count()
        };
        let (came, went) = (of("(Connected"), of("(Now hung up"));
        assert!(came == went && (came == 1 || number % 5 == 3), "g{number} came {came} times and went {went} times");
        // The guest's text stands between arrival and departure.
        if number % 5 == 1 {
            let at = |text: String| all.iter().position(|line| line.contains(&text)).unwrap();
            let said = at(format!("#g{number}@"));
            assert!(
                all[said].ends_with(">>hello")
                    && at(format!(") from g{number}@")) < said
                    && said < at(format!("Client from g{number}@"))
            );
        }
    }
    for line in all.iter().skip_while(|line| !line.contains("from g")) {
        if line.starts_with("(Connected") {
            here += 1;
            assert!(line.starts_with(&format!("(Connected: New client ({here}) ")), "{line}");
        } else if line.starts_with("(Now hung up") {
            here -= 1;
        }
        if here == MEMBERS && line.contains("from m") {
            break;
        }
    }
    drop(guests);
}

fn frames(texts: &[&str]) -> Vec<u8> {
    let mut encoded = Encoded::default();
    let mut bytes = Vec::new();
    for text in texts {
        encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        bytes.extend_from_slice(encoded.of(Way::Frames));
    }
    bytes
}

/// The server keeps only the name and little more of a guest in line, however much the guest has sent.
#[test]
fn a_guest_in_line_that_has_sent_more_than_512_bytes_is_told_so_and_who_sent_less_comes() {
    const MEMBERS: usize = 400;
    let mut sim = Simulation::with_faults(5, Faults::none());
    let (address, _) = Counted::serve(&mut sim);
    for number in 0..MEMBERS {
        sim.connect(&address, Script::new().send(format!("m{number}\n")).wait(SECOND * 10));
    }
    let text = "x".repeat(600);
    let guests: Vec<(bool, Peer)> = (0..600)
        .map(|number| {
            let (is_long, name) = (number % 2 == 0, format!("g{number}"));
            let text = if is_long { &text[..] } else { "hello" };
            let bytes = match number % 4 {
                0 | 1 => format!("{name}\n{text}\n").into_bytes(),
                _ => frames(&[&format!("NAME: {name}"), text]),
            };
            (is_long, sim.connect_after(SECOND * 5, &address, Script::new().send(bytes).wait(SECOND)))
        })
        .collect();
    sim.run();
    let (mut came, mut refused) = (0, 0);
    for (is_long, peer) in &guests {
        let heard = peer.received();
        let said = |text: &str| heard.windows(text.len()).any(|bytes| bytes == text.as_bytes());
        let is_refused = said("ERROR: input before the name is accepted longer than 512 bytes");
        let shown = String::from_utf8_lossy(&heard[..heard.len().min(100)]);
        assert!(is_refused != said("CLIENT: ") && (*is_long || !is_refused), "{is_long}: {shown}");
        came += usize::from(*is_long && !is_refused);
        refused += usize::from(is_refused);
    }
    assert!(came > 0 && refused > 0, "{came} came in their first turn, and {refused} had to wait");
}
