//! Two nodes step by step, with an engine that answers at once.

mod exact;
mod forged;

use super::members::keys_of;
use super::simulation::{Bucket, Reply};
use super::*;

/// Nodes `a` and `b`, and a bucket.
struct Pair {
    nodes: [Node; 2],
    is_linked: [bool; 2],
    bucket: Bucket,
    now: Duration,
}

impl Pair {
    fn new() -> Self {
        let nodes = ["a", "b"].map(Node::new);
        Pair { nodes, is_linked: [false; 2], bucket: Bucket::default(), now: Duration::ZERO }
    }

    fn connected() -> Self {
        let mut pair = Pair::new();
        pair.connect(0);
        pair.connect(1);
        // Both know that they are alone, and seat guests at once.
        pair.pass(BEGINNING, &[0, 1]);
        pair
    }

    fn connect(&mut self, place: usize) {
        self.is_linked[place] = true;
        self.nodes[place].connected(self.now);
        assert!(self.settle().iter().flatten().all(|event| *event == Event::Together || !is_own(event)));
    }

    fn lose(&mut self, place: usize) -> [Vec<Event>; 2] {
        self.is_linked[place] = false;
        self.nodes[place].lost();
        self.settle()
    }

    /// Lets time pass. Only nodes of `alive` tick.
    fn pass(&mut self, time: Duration, alive: &[usize]) -> [Vec<Event>; 2] {
        let (end, mut all) = (self.now + time, [Vec::new(), Vec::new()]);
        while self.now < end {
            self.now += TICK;
            for &place in alive {
                self.nodes[place].tick(self.now);
            }
            let events = self.settle();
            all.iter_mut().zip(events).for_each(|(all, events)| all.extend(events));
        }
        all
    }

    fn ask(&mut self, place: usize, number: u64, name: &str, joined: u64) -> [Vec<Event>; 2] {
        self.nodes[place].ask(number, &format!("{name}@unix"), joined, self.now);
        self.settle()
    }

    /// Asks for the name of a member of another node, and waits until the guest is refused.
    fn refuses(&mut self, place: usize, number: u64, name: &str, joined: u64) {
        let mut events = self.ask(place, number, name, joined)[place].clone();
        for _ in 0..2 {
            assert_eq!(events, [], "the other node's member may be leaving");
            events = self.pass(TICK, &[place])[place].clone();
        }
        assert_eq!(events, [Event::Refused { number }]);
    }

    fn withdraw(&mut self, place: usize, number: u64) -> [Vec<Event>; 2] {
        self.nodes[place].withdraw(number, self.now);
        self.settle()
    }

    fn say(&mut self, place: usize, number: u64, text: &str) -> [Vec<Event>; 2] {
        self.nodes[place].say(number, text);
        self.settle()
    }

    /// Carries out all actions. Returns the events of each node.
    fn settle(&mut self) -> [Vec<Event>; 2] {
        let mut events = [Vec::new(), Vec::new()];
        loop {
            let mut is_done = true;
            for (place, events) in events.iter_mut().enumerate() {
                while let Some(action) = self.nodes[place].take() {
                    is_done = false;
                    match action {
                        Action::Event(event) => events.push(event),
                        Action::Publish { to, payload } => {
                            let other = 1 - place;
                            let is_receiver = to.is_none_or(|to| *to == *self.nodes[other].id);
                            if is_receiver && self.is_linked[other] {
                                let from = self.nodes[place].id.clone();
                                self.nodes[other].heard(&from, &payload, self.now);
                            }
                        }
                        Action::Request { id, request } => match self.bucket.carry_out(&request) {
                            Reply::Plain(answer) => self.nodes[place].answered(id, answer, self.now),
                            Reply::Found(revision, value) => {
                                let answer = Answer::Found { revision, value: value.as_bytes() };
                                self.nodes[place].answered(id, answer, self.now);
                            }
                        },
                    }
                }
            }
            if is_done {
                return events;
            }
        }
    }
}

fn is_own(event: &Event) -> bool {
    !matches!(event, Event::Came { .. } | Event::Went { .. })
}

const SECOND: Duration = Duration::from_secs(1);

fn granted(number: u64) -> Event {
    Event::Granted { number, is_alone: false }
}

fn alone(number: u64) -> Event {
    Event::Granted { number, is_alone: true }
}

fn came(node: &str, number: u64, name: &str) -> Event {
    Event::Came { node: node.into(), number, who: format!("{name}@unix").into() }
}

fn went(node: &str, number: u64, name: &str) -> Event {
    Event::Went { node: node.into(), number, who: format!("{name}@unix").into() }
}

#[test]
fn a_member_of_one_node_is_heard_on_the_other_from_its_arrival_to_its_departure() {
    let mut pair = Pair::connected();
    assert_eq!(pair.ask(0, 1, "ann", 5), [vec![granted(1)], vec![came("a", 1, "ann")]]);
    assert_eq!(pair.say(0, 1, "hi\u{7}"), [vec![], vec![Event::Said("#ann@unix>>hi\u{fffd}".into())]]);
    pair.refuses(1, 1, "Аnn", 6);
    assert_eq!(pair.withdraw(0, 1), [vec![], vec![went("a", 1, "ann")]]);
    assert_eq!(pair.ask(1, 2, "Аnn", 7), [vec![came("b", 2, "Аnn")], vec![granted(2)]]);
}

#[test]
fn a_node_that_has_just_started_learns_who_is_there() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.pass(BEGINNING, &[0]);
    for number in 0..1_000 {
        pair.ask(0, number, &format!("member{number}"), 5);
    }
    pair.is_linked[1] = true;
    pair.nodes[1].connected(pair.now);
    let [_, events] = pair.settle();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::IsThere { .. })).count(), 1_000);
    assert_eq!(events.len(), 1_000, "nobody is told of members that were there before");
    assert_eq!((pair.nodes[1].nodes(), pair.nodes[1].remote_members()), (1, 1_000));
    pair.refuses(1, 1, "MEMBER7", 6);
    // From here on arrivals are told.
    assert_eq!(pair.ask(0, 1_000, "ann", 6)[1], [came("a", 1_000, "ann")]);
    pair.withdraw(0, 1_000);
    assert_eq!(pair.ask(0, 1_001, "ann", 6)[1], [came("a", 1_001, "ann")]);
}

#[test]
fn a_guest_of_a_node_that_has_just_started_is_seated_when_the_members_of_the_others_are_known() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.nodes[0].heard("x", b"h 5 0", pair.now);
    assert_eq!(pair.ask(0, 1, "ann", 5)[0], []);
    assert_eq!(pair.pass(TICK * 2, &[0])[0], [], "the guest waits for the list");
    pair.nodes[0].heard("x", b"r 5 0 0 1\n7 ben@unix\n", pair.now);
    let is_there = Event::IsThere { node: "x".into(), number: 7, who: "ben@unix".into() };
    assert_eq!(pair.settle()[0], [is_there, granted(1)]);
    // And no longer than for a while, if the list does not come.
    let mut pair = Pair::new();
    pair.connect(0);
    pair.nodes[0].heard("x", b"h 5 0", pair.now);
    assert_eq!(pair.ask(0, 1, "ann", 5)[0], []);
    assert_eq!(pair.pass(LISTS_MAX - TICK, &[0])[0], []);
    assert_eq!(pair.pass(TICK, &[0])[0], [granted(1)]);
}

#[test]
fn members_of_a_node_that_begins_or_comes_back_are_announced() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    assert_eq!(pair.lose(1)[1], [Event::Alone]);
    assert_eq!(pair.pass(GONE_AFTER, &[0, 1])[1], [went("a", 1, "ann")]);
    pair.is_linked[1] = true;
    pair.nodes[1].connected(pair.now);
    let [_, events] = pair.settle();
    assert!(events.contains(&came("a", 1, "ann")), "{events:?}");
    // A node that began alone was not there later than the other one.
    let mut pair = Pair::new();
    pair.connect(0);
    pair.pass(BEGINNING, &[0]);
    pair.ask(0, 1, "ann", 5);
    pair.nodes[1].start_alone();
    pair.ask(1, 1, "ben", 5);
    pair.is_linked[1] = true;
    pair.nodes[1].connected(pair.now);
    let [first, second] = pair.pass(SECOND, &[0, 1]);
    assert!(first.contains(&came("b", 1, "ben")) && second.contains(&came("a", 1, "ann")), "{first:?} {second:?}");
}

#[test]
fn a_gap_is_counted_before_the_next_message_or_by_the_next_sign_of_life_and_a_doubled_message_is_dropped() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.is_linked[1] = false;
    pair.say(0, 1, "lost");
    pair.say(0, 1, "lost, too");
    pair.is_linked[1] = true;
    let third = [Event::Missed(2), Event::Said("#ann@unix>>third".into())];
    assert_eq!(pair.say(0, 1, "third")[1], third);
    pair.is_linked[1] = false;
    pair.say(0, 1, "lost");
    pair.is_linked[1] = true;
    assert_eq!(pair.pass(SECOND, &[0, 1])[1], [Event::Missed(1)]);
    pair.nodes[0].say(1, "once");
    let Some(Action::Publish { payload, .. }) = pair.nodes[0].take() else { panic!() };
    pair.nodes[1].heard("a", &payload, pair.now);
    pair.nodes[1].heard("a", &payload, pair.now);
    assert_eq!(pair.settle()[1], [Event::Said("#ann@unix>>once".into())]);
}

#[test]
fn arrivals_and_departures_that_were_missed_are_asked_for() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.is_linked[1] = false;
    pair.ask(0, 2, "ben", 6);
    pair.withdraw(0, 1);
    pair.is_linked[1] = true;
    assert_eq!(pair.pass(SECOND * 2, &[0, 1])[1], [went("a", 1, "ann"), came("a", 2, "ben")]);
    // A member that is not known yet is announced before its message.
    pair.is_linked[1] = false;
    pair.ask(0, 3, "cat", 6);
    pair.is_linked[1] = true;
    assert_eq!(pair.say(0, 3, "hi")[1], [came("a", 3, "cat"), Event::Said("#cat@unix>>hi".into())]);
}

#[test]
fn a_node_that_stops_frees_its_names_and_is_gone_at_once() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.nodes[0].stop();
    assert_eq!(pair.settle()[1], [went("a", 1, "ann")]);
    assert_eq!(pair.ask(1, 1, "ann", 6)[1], [granted(1)]);
    assert_eq!(pair.nodes[1].nodes(), 0);
    assert_eq!(pair.bucket.len(), 2, "the lease and the name of the other node");
}

#[test]
fn a_node_that_dies_is_gone_and_its_names_are_free_within_fifteen_seconds() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.pass(SECOND * 5, &[0, 1]);
    pair.is_linked[0] = false;
    assert_eq!(pair.pass(SECOND * 11, &[1])[1], []);
    assert_eq!(pair.pass(SECOND * 2, &[1])[1], [went("a", 1, "ann")]);
    pair.pass(SECOND * 2, &[1]);
    assert_eq!(pair.ask(1, 1, "ann", 6)[1], [granted(1)]);
}

#[test]
fn names_of_a_node_that_nobody_has_seen_alive_are_free_some_time_after_they_were_asked_for() {
    let mut pair = Pair::new();
    pair.connect(0);
    pair.ask(0, 1, "ann", 5);
    pair.is_linked[0] = false;
    pair.connect(1);
    assert_eq!(pair.ask(1, 1, "ann", 6)[1], [Event::Refused { number: 1 }]);
    pair.pass(SECOND * 12, &[1]);
    assert_eq!(pair.ask(1, 2, "ann", 6)[1], [granted(2)]);
}

#[test]
fn without_the_engine_a_node_decides_alone_and_knows_the_members_that_have_not_gone_yet() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    assert_eq!(pair.lose(1)[1], [Event::Alone]);
    assert_eq!(pair.ask(1, 1, "ben", 6)[1], [alone(1)]);
    pair.refuses(1, 2, "ann", 6);
    pair.pass(GONE_AFTER, &[0, 1]);
    assert_eq!(pair.ask(1, 3, "ann", 6)[1], [alone(3)]);
}

/// Two members with one name join alone. Returns the events of both nodes after the healing.
fn heal(joined: [u64; 2], first: usize) -> [Vec<Event>; 2] {
    let mut pair = Pair::connected();
    pair.lose(0);
    pair.lose(1);
    pair.ask(0, 1, "ann", joined[0]);
    pair.ask(1, 1, "ann", joined[1]);
    let mut all = [Vec::new(), Vec::new()];
    for (place, ticking) in [(first, vec![first]), (1 - first, vec![0, 1])] {
        pair.connect(place);
        let events = pair.pass(SECOND * 4, &ticking);
        all.iter_mut().zip(events).for_each(|(all, events)| all.extend(events.into_iter().filter(is_own)));
    }
    all
}

#[test]
fn of_two_members_who_joined_alone_the_earlier_one_stays_whoever_claims_first() {
    let close = || vec![Event::Close { number: 1 }];
    for first in [0, 1] {
        assert_eq!(heal([5, 6], first), [vec![], close()], "first {first}");
        assert_eq!(heal([6, 5], first), [close(), vec![]], "first {first}");
        assert_eq!(heal([5, 5], first), [vec![], close()], "the node with the smaller name");
    }
}

#[test]
fn a_name_that_the_engine_has_granted_stays_with_its_holder() {
    let mut pair = Pair::connected();
    pair.lose(1);
    pair.ask(1, 1, "ann", 5);
    assert_eq!(pair.ask(0, 1, "ann", 9)[0], [granted(1)]);
    pair.is_linked[1] = true;
    pair.nodes[1].connected(pair.now);
    let [first, second] = pair.pass(SECOND * 4, &[0, 1]);
    assert!(first.iter().all(|event| !is_own(event)), "{first:?}");
    assert!(second.contains(&Event::Close { number: 1 }), "{second:?}");
}

#[test]
fn a_guest_waits_at_most_eight_seconds_for_an_engine_that_does_not_answer() {
    let mut pair = Pair::connected();
    pair.pass(SECOND, &[0]);
    let asked_at = pair.now;
    // The engine takes everything and answers nothing.
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    while pair.nodes[0].take().is_some() {}
    for _ in 0..32 {
        pair.now += TICK;
        pair.nodes[0].tick(pair.now);
        let events: Vec<Action> = std::iter::from_fn(|| pair.nodes[0].take()).collect();
        let granted = events.contains(&Action::Event(granted(1)));
        assert_eq!(granted, pair.now >= asked_at + ASK_MAX, "{:?}", pair.now);
    }
}

#[test]
fn a_node_does_not_grant_names_on_a_lease_that_others_may_have_deleted() {
    let mut pair = Pair::connected();
    // The node stands still, and does not know whether its lease has outlived that time.
    pair.now += LEASE;
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    let actions: Vec<Action> = std::iter::from_fn(|| pair.nodes[0].take()).collect();
    assert_eq!(actions, []);
    assert!(pair.pass(TICK, &[0, 1])[0].contains(&granted(1)));
}

#[test]
fn a_node_that_was_frozen_claims_its_names_anew_and_loses_those_that_others_have_now() {
    let mut pair = Pair::connected();
    for (number, name) in [(1, "ann"), (2, "ben")] {
        pair.ask(0, number, name, 5);
    }
    pair.pass(SECOND, &[0, 1]);
    // Frozen, the node reads nothing; its link stays.
    pair.is_linked[0] = false;
    pair.pass(SECOND * 16, &[1]);
    pair.ask(1, 1, "ann", 9);
    pair.is_linked[0] = true;
    let [first, second] = pair.pass(SECOND * 5, &[0, 1]);
    assert!(first.contains(&Event::Close { number: 1 }), "{first:?}");
    assert!(!first.contains(&Event::Close { number: 2 }), "{first:?}");
    assert!(second.contains(&came("a", 2, "ben")), "{second:?}");
    pair.refuses(1, 2, "ben", 9);
}

#[test]
fn a_bucket_that_is_gone_is_made_anew_with_all_names_and_nobody_hears_of_it() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.ask(1, 1, "ben", 5);
    pair.bucket = Bucket::default();
    assert_eq!(pair.pass(SECOND * 10, &[0, 1]), [vec![], vec![]]);
    assert_eq!(pair.bucket.len(), 4);
}

#[test]
fn a_guest_who_asks_for_the_name_of_a_member_that_is_leaving_waits_for_the_release() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.nodes[0].withdraw(1, pair.now);
    pair.nodes[0].ask(2, "Ann@unix", 6, pair.now);
    pair.nodes[0].ask(3, "ANN@unix", 6, pair.now);
    let [first, second] = pair.settle();
    assert_eq!(first, [Event::Refused { number: 3 }, granted(2)]);
    assert_eq!(second, [went("a", 1, "ann"), came("a", 2, "Ann")]);
}

#[test]
fn a_claim_that_was_made_while_its_member_left_is_released() {
    let mut pair = Pair::connected();
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    pair.nodes[0].withdraw(1, pair.now);
    assert_eq!(pair.settle(), [vec![], vec![]]);
    assert_eq!(pair.bucket.len(), 2, "the leases");
    // And so is one whose member left without the engine.
    pair.ask(0, 2, "ann", 5);
    pair.lose(0);
    pair.withdraw(0, 2);
    pair.connect(0);
    pair.pass(SECOND, &[0, 1]);
    assert_eq!(pair.bucket.len(), 2);
}

#[test]
fn bytes_that_no_node_sends_are_counted_and_have_no_effect() {
    let mut pair = Pair::connected();
    for bytes in [&b""[..], b"\xff\0", b"m 1 1 7 ann@unix", b"{\"json\": true}"] {
        pair.nodes[0].heard("x", bytes, pair.now);
    }
    assert_eq!(pair.settle(), [vec![], vec![]]);
    for node in ["", "a b", "*", &"x".repeat(100)] {
        pair.nodes[0].heard(node, b"h 0 0", pair.now);
    }
    assert_eq!((pair.nodes[0].ignored(), pair.nodes[0].nodes()), (8, 1));
    // Messages in the name of the node itself are ignored.
    pair.nodes[0].heard("a", b"m 0 1 7 ann@unix\nforged", pair.now);
    assert_eq!(pair.settle(), [vec![], vec![]]);
}

#[test]
fn the_garbage_of_others_in_the_bucket_is_taken_for_no_claim() {
    for value in ["", "garbage", "a 1 2", "a b c d e", "a.b 0 1 2 1"] {
        let mut pair = Pair::connected();
        for key in keys_of("ann") {
            let put = Request::Put { key: super::members::name_key(&key), value: value.to_owned(), expected: 0 };
            pair.bucket.carry_out(&put);
        }
        assert_eq!(pair.ask(0, 1, "ann", 5)[0], [granted(1)], "{value:?}");
    }
}

#[test]
fn a_node_that_has_stood_still_does_not_take_the_others_for_dead() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.pass(SECOND, &[0, 1]);
    pair.now += SECOND * 60;
    // The node's timer goes off before the node reads.
    pair.nodes[1].tick(pair.now);
    let events: Vec<Action> = std::iter::from_fn(|| pair.nodes[1].take()).collect();
    assert!(!events.contains(&Action::Event(went("a", 1, "ann"))), "{events:?}");
}

#[test]
fn an_engine_that_has_lost_its_latest_changes_gets_the_claims_again() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.pass(RENEW * 2, &[0, 1]);
    pair.ask(0, 2, "ben", 5);
    let keys = pair.bucket.len();
    // The renewals after the first claim are lost, and the second claim.
    pair.bucket.forget_latest(2 + 4);
    assert!(pair.bucket.len() < keys);
    pair.pass(RENEW * 3, &[0, 1]);
    assert_eq!(pair.bucket.len(), keys);
}

#[test]
fn a_message_that_is_delivered_again_after_its_node_has_stopped_is_dropped() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.nodes[0].say(1, "once");
    let Some(Action::Publish { payload, .. }) = pair.nodes[0].take() else { panic!() };
    pair.nodes[1].heard("a", &payload, pair.now);
    pair.nodes[0].stop();
    assert_eq!(pair.settle()[1], [Event::Said("#ann@unix>>once".into()), went("a", 1, "ann")]);
    pair.nodes[1].heard("a", &payload, pair.now);
    assert_eq!((pair.settle()[1].len(), pair.nodes[1].nodes()), (0, 0));
}

#[test]
fn an_answer_that_comes_when_the_lease_may_be_over_grants_nothing() {
    let mut pair = Pair::connected();
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    let Some(Action::Request { id, .. }) = pair.nodes[0].take() else { panic!() };
    pair.now += LEASE;
    pair.nodes[0].answered(id, Answer::Stored(9), pair.now);
    let actions: Vec<Action> = std::iter::from_fn(|| pair.nodes[0].take()).collect();
    assert!(!actions.contains(&Action::Event(granted(1))), "{actions:?}");
}

#[test]
fn guests_wait_for_a_bucket_that_does_not_answer_for_a_moment_and_not_for_one_that_is_not_there() {
    let granted_by = |answers: &[(Answer<'_>, u32)]| {
        let (mut node, mut granted) = (Node::new("a"), Vec::new());
        node.connected(Duration::ZERO);
        node.ask(1, "ann@unix", 1, Duration::ZERO);
        for &(answer, second) in answers {
            let now = SECOND * second;
            node.tick(now);
            while let Some(action) = node.take() {
                match action {
                    Action::Request { id, request: Request::Create } => node.answered(id, answer, now),
                    Action::Event(event) => granted.push((event, second)),
                    _ => {}
                }
            }
        }
        granted
    };
    let failed = |second| (Answer::Failed, second);
    assert_eq!(granted_by(&[failed(0), failed(2), failed(4)]), [], "a cluster chooses a leader");
    assert_eq!(granted_by(&[failed(0), failed(4), failed(8)]), [(granted(1), 8)], "nobody waits longer than 8 s");
    let without = (Answer::NoBucket, 0);
    assert_eq!(granted_by(&[without, (Answer::NoBucket, 1)]), [(granted(1), 1)], "without JetStream nobody waits");
}
