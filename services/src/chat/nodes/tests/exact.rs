//! Single decisions of a node, each of which was once wrong by plan to see that a test notices.

use super::super::members::key_of;
use super::*;
use crate::chat::likeness::likenesses;

/// Carries out the requests of node 0 and loses the answers: each has failed, as far as the node knows.
fn lose_answers(pair: &mut Pair) {
    while let Some(action) = pair.nodes[0].take() {
        if let Action::Request { id, request } = action {
            pair.bucket.carry_out(&request);
            pair.nodes[0].answered(id, Answer::Failed, pair.now);
        }
    }
}

fn requests(node: &mut Node) -> Vec<(u64, Request)> {
    let actions = std::iter::from_fn(|| node.take());
    actions
        .filter_map(|action| if let Action::Request { id, request } = action { Some((id, request)) } else { None })
        .collect()
}

/// Node 1 of the pair is away while a member joins there, and then connected again.
fn join_alone_and_return(pair: &mut Pair, joined: u64) -> [Vec<Event>; 2] {
    pair.lose(1);
    pair.pass(GONE_AFTER, &[0, 1]);
    assert_eq!(pair.ask(1, 1, "ann", joined)[1], [alone(1)]);
    pair.is_linked[1] = true;
    pair.nodes[1].connected(pair.now);
    pair.pass(SECOND * 4, &[0, 1])
}

#[test]
fn the_keys_of_a_name_have_one_order_on_all_nodes() {
    let names: Vec<String> = (0..1_000).map(|number| format!("member{number}")).collect();
    let of_two: Vec<Vec<Key>> = names.iter().map(|name| keys_of(name)).filter(|keys| keys.len() == 2).collect();
    assert!(of_two.iter().all(|keys| keys[0] < keys[1]));
    let is_sorted = |name: &String| likenesses(name).map(|likeness| key_of(&likeness)).is_sorted();
    assert!(of_two.len() > 10 && !names.iter().all(is_sorted), "the names show no order");
}

#[test]
fn a_lease_counts_from_the_time_at_which_its_renewal_was_sent() {
    let mut pair = Pair::connected();
    pair.now += RENEW;
    let sent = pair.now;
    pair.nodes[0].tick(sent);
    let renewal = requests(&mut pair.nodes[0]).into_iter().find(|(_, request)| matches!(request, Request::Put { .. }));
    let (id, _) = renewal.expect("the lease is renewed");
    pair.nodes[0].answered(id, Answer::Stored(1_000), sent + LEASE / 2);
    let late = sent + LEASE;
    pair.nodes[0].ask(1, "ann@unix", 5, late - TICK);
    assert!(!requests(&mut pair.nodes[0]).is_empty());
    pair.nodes[0].ask(2, "ben@unix", 5, late);
    assert_eq!(requests(&mut pair.nodes[0]), []);
}

#[test]
fn the_lease_of_a_silent_node_is_left_alone_until_the_node_no_longer_relies_on_it() {
    let mut pair = Pair::connected();
    pair.pass(RENEW, &[0, 1]);
    let leases = pair.bucket.len();
    pair.is_linked[0] = false;
    let died = pair.now;
    while pair.bucket.len() == leases {
        assert!(pair.now < died + SECOND * 15, "the lease stays");
        pair.pass(TICK, &[1]);
    }
    // Read after a silence of `SUSPECT_AFTER`, at the earliest.
    assert!(pair.now >= died + SUSPECT_AFTER + LEASE_OVER - BEAT, "{:?}", pair.now - died);
    const { assert!(LEASE_OVER.as_secs() > LEASE.as_secs()) }
}

#[test]
fn an_arrival_behind_a_gap_waits_for_the_list_so_that_no_name_is_there_twice() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.is_linked[1] = false;
    pair.withdraw(0, 1);
    pair.is_linked[1] = true;
    assert_eq!(pair.ask(0, 2, "Ann", 6)[1], [went("a", 1, "ann"), came("a", 2, "Ann")]);
}

#[test]
fn a_claim_with_an_unknown_outcome_is_released_after_its_member_has_left() {
    let mut pair = Pair::connected();
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    lose_answers(&mut pair);
    assert_eq!(pair.bucket.len(), 3, "the engine has stored the claim");
    pair.withdraw(0, 1);
    pair.pass(SECOND, &[0, 1]);
    assert_eq!(pair.bucket.len(), 2, "the leases");
}

#[test]
fn a_claim_with_an_unknown_outcome_is_known_again_as_the_members_own() {
    let mut pair = Pair::connected();
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    lose_answers(&mut pair);
    assert_eq!(pair.pass(SECOND, &[0, 1])[0], [granted(1)]);
    assert_eq!(pair.bucket.len(), 3);
}

#[test]
fn a_member_that_has_left_without_the_engine_does_not_take_the_claim_of_its_successor_along() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.lose(0);
    pair.withdraw(0, 1);
    assert_eq!(pair.ask(0, 2, "ann", 6)[0], [alone(2)]);
    pair.connect(0);
    pair.pass(SECOND * 3, &[0, 1]);
    // The look at the claim of the member that has left was too late for it.
    pair.nodes[0].claims.orphans.extend(keys_of("ann").into_iter().map(|key| (key, 1)));
    pair.pass(SECOND, &[0, 1]);
    assert_eq!(pair.bucket.len(), 3);
    pair.refuses(1, 1, "ann", 7);
}

#[test]
fn a_name_that_was_granted_on_a_lost_lease_counts_as_one_that_was_not() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 9);
    pair.bucket = Bucket::default();
    pair.pass(SECOND * 10, &[0, 1]);
    let [first, second] = join_alone_and_return(&mut pair, 5);
    assert!(first.contains(&Event::Close { number: 1 }), "{first:?}");
    assert!(!second.contains(&Event::Close { number: 1 }), "{second:?}");
}

#[test]
fn claims_of_an_earlier_term_of_a_lease_do_not_count() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.ask(0, 2, "ben", 5);
    pair.lose(0);
    pair.withdraw(0, 1);
    pair.pass(SECOND * 16, &[0, 1]);
    pair.connect(0);
    pair.pass(SECOND * 5, &[0, 1]);
    assert_eq!(pair.ask(1, 1, "ann", 6)[1], [granted(1)]);
    pair.refuses(1, 2, "ben", 6);
}

#[test]
fn messages_that_were_said_while_the_link_was_down_are_missed_by_the_others() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.lose(0);
    pair.say(0, 1, "alone");
    pair.say(0, 1, "alone, too");
    pair.is_linked[0] = true;
    pair.nodes[0].connected(pair.now);
    assert_eq!(pair.settle()[1], [Event::Missed(2)]);
}

#[test]
fn requests_without_an_answer_end_with_the_link() {
    let mut pair = Pair::connected();
    for number in 0..300 {
        pair.nodes[0].ask(number, &format!("member{number}@unix"), 5, pair.now);
    }
    assert_eq!(requests(&mut pair.nodes[0]).len(), REQUESTS_MAX);
    pair.lose(0);
    pair.connect(0);
    pair.pass(SECOND * 2, &[0, 1]);
    let keys: usize = (0..300).map(|number| keys_of(&format!("member{number}")).len()).sum();
    assert_eq!(pair.bucket.len(), 2 + keys);
}

#[test]
fn a_list_of_members_counts_when_all_its_parts_have_come_in_order() {
    let mut pair = Pair::connected();
    let mut hear = |text: &str| {
        pair.nodes[0].heard("x", text.as_bytes(), pair.now);
        while pair.nodes[0].take().is_some() {}
        pair.nodes[0].remote_members()
    };
    assert_eq!(hear("h 5 0"), 0);
    for part in
        ["r 5 0 1 1\n1 ann@unix\n", "r 5 0 0 0\n1 ann@unix\n", "r 5 0 2 1\n3 cat@unix\n", "r 6 0 1 1\n3 cat@unix\n"]
    {
        assert_eq!(hear(part), 0, "{part}");
    }
    assert_eq!(hear("r 5 0 1 1\n2 ben@unix\n"), 2);
    // A list that was written before the latest known change is too old.
    assert_eq!(hear("h 7 0"), 2);
    assert_eq!(hear("r 4 0 0 1\n"), 2);
    assert_eq!(hear("r 7 0 0 1\n1 ann@unix\n"), 1);
    // Without a gap no list is needed.
    assert_eq!(hear("r 7 0 0 1\n"), 1);
}

#[test]
fn a_member_that_leaves_while_its_lost_claim_is_looked_at_releases_nothing() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    let node = &mut pair.nodes[0];
    // Another node has the name, too, as far as this node hears: it claims anew.
    node.heard("x", b"h 0 0", pair.now);
    node.heard("x", b"j 1 0 7 ann@unix", pair.now);
    pair.now += SECOND;
    node.tick(pair.now);
    let claim = requests(node)
        .into_iter()
        .find(|(_, request)| matches!(request, Request::Put { key, .. } if key.starts_with("name.")));
    node.answered(claim.expect("it claims").0, Answer::Conflict, pair.now);
    let read = requests(node);
    assert!(matches!(&read[..], [(_, Request::Get { .. })]), "{read:?}");
    node.withdraw(1, pair.now);
    node.answered(read[0].0, Answer::Found { revision: 90, value: b"x 0 7 5 1" }, pair.now);
    let holder = requests(node);
    assert!(matches!(&holder[..], [(_, Request::Get { .. })]), "{holder:?}");
    node.answered(holder[0].0, Answer::Found { revision: 91, value: b"0" }, pair.now);
    let after = requests(node);
    assert!(after.iter().all(|(_, request)| !matches!(request, Request::Delete { .. })), "{after:?}");
}

#[test]
fn a_guest_is_not_refused_because_of_a_member_that_is_leaving_another_node() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    // The guest is faster than the departure.
    assert_eq!(pair.ask(1, 1, "Ann", 6)[1], []);
    assert_eq!(pair.withdraw(0, 1)[1], [went("a", 1, "ann")]);
    assert_eq!(pair.pass(TICK, &[0, 1])[1], [granted(1)]);
    // A guest who does not wait leaves nothing behind.
    assert_eq!(pair.ask(0, 2, "ANN", 7)[0], []);
    pair.withdraw(0, 2);
    assert_eq!(pair.pass(SECOND, &[0, 1]), [vec![], vec![]]);
}

#[test]
fn claims_that_the_engine_refuses_are_repeated_once_a_second() {
    let mut pair = Pair::connected();
    for number in 0..10 {
        pair.nodes[0].ask(number, &format!("{number}"), 5, pair.now);
    }
    let mut puts = 0;
    for _ in 0..16 {
        pair.now += TICK;
        pair.nodes[0].tick(pair.now);
        for (id, request) in requests(&mut pair.nodes[0]) {
            puts += usize::from(matches!(&request, Request::Put { key, .. } if key.starts_with("name.")));
            pair.nodes[0].answered(id, Answer::Failed, pair.now);
        }
    }
    assert!((10 * 3..=10 * 5).contains(&puts), "{puts} in four seconds");
}

#[test]
fn a_revision_is_not_deleted_while_the_bucket_may_be_another_one() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.ask(0, 2, "ben", 5);
    pair.lose(0);
    // The engine has lost everything, and counts revisions anew.
    pair.bucket = Bucket::default();
    pair.nodes[0].connected(pair.now);
    pair.nodes[0].withdraw(1, pair.now);
    let create = requests(&mut pair.nodes[0]);
    assert!(matches!(&create[..], [(_, Request::Create)]), "{create:?}");
    pair.nodes[0].answered(create[0].0, Answer::Done, pair.now);
    let before = requests(&mut pair.nodes[0]);
    assert!(before.iter().all(|(_, request)| !matches!(request, Request::Delete { .. })), "{before:?}");
    for (id, request) in before {
        let answer = if matches!(request, Request::Put { .. }) { Answer::Conflict } else { Answer::Missing };
        pair.nodes[0].answered(id, answer, pair.now);
    }
    // The lease is read next: it is not there, and a new term begins.
    for (id, _) in requests(&mut pair.nodes[0]) {
        pair.nodes[0].answered(id, Answer::Missing, pair.now);
    }
    pair.nodes[0].withdraw(2, pair.now);
    let after = requests(&mut pair.nodes[0]);
    assert!(after.iter().all(|(_, request)| !matches!(request, Request::Delete { .. })), "{after:?}");
    pair.nodes[0].stop();
    let stop = requests(&mut pair.nodes[0]);
    assert!(
        stop.iter().all(|(_, request)| !matches!(request, Request::Delete { revision } if *revision < 5)),
        "{stop:?}"
    );
}

#[test]
fn a_list_of_members_is_cut_into_parts_that_the_engine_takes() {
    let mut pair = Pair::connected();
    for number in 0..100 {
        pair.ask(0, number, &format!("member{number}"), 5);
    }
    pair.nodes[0].set_payload_max(1024);
    pair.nodes[0].heard("x", b"q 0 0", pair.now);
    let parts: Vec<Action> = std::iter::from_fn(|| pair.nodes[0].take()).collect();
    let sizes: Vec<usize> = parts
        .iter()
        .filter_map(|action| match action {
            Action::Publish { to: Some(_), payload } if payload.starts_with(b"r ") => Some(payload.len()),
            _ => None,
        })
        .collect();
    assert!(sizes.len() > 2 && sizes.iter().all(|size| *size <= 1024), "{sizes:?}");
}

#[test]
fn members_read_that_they_are_together_again_before_the_news_of_the_others() {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    pair.is_linked[1] = false;
    pair.lose(1);
    pair.say(0, 1, "not heard");
    pair.is_linked[1] = true;
    pair.nodes[1].connected(pair.now);
    // The other node is faster than the answer of the bucket.
    pair.nodes[1].heard("a", b"h 1 1", pair.now);
    assert_eq!(pair.settle()[1], [Event::Together, Event::Missed(1)]);
}

#[test]
fn the_claim_of_a_member_that_has_gone_is_looked_at_once_a_second_while_requests_fail_at_once() {
    let mut pair = Pair::connected();
    pair.nodes[0].ask(1, "ann@unix", 5, pair.now);
    lose_answers(&mut pair);
    pair.withdraw(0, 1);
    // As the client answers whose connection has just ended.
    let fail_at_once = |node: &mut Node, now: Duration| {
        let mut gets = 0;
        while let Some(action) = node.take() {
            if let Action::Request { id, request } = action {
                gets += usize::from(matches!(request, Request::Get { .. }));
                node.answered(id, Answer::Failed, now);
            }
            assert!(gets < 100, "the node asks without end");
        }
        gets
    };
    pair.nodes[0].claims.orphans.extend(keys_of("ben").into_iter().map(|key| (key, 2)));
    let mut gets = 0;
    for _ in 0..16 {
        pair.now += TICK;
        pair.nodes[0].tick(pair.now);
        gets += fail_at_once(&mut pair.nodes[0], pair.now);
    }
    assert!((3..=10).contains(&gets), "{gets} in four seconds");
    let _ = pair.pass(SECOND * 2, &[0, 1]);
    assert_eq!(pair.bucket.len(), 2, "the leases");
}
