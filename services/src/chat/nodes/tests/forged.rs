//! Messages that no node sends, although they have the form of a message: their publisher may use the subjects, and every effect is bounded.

use super::*;

/// Node `place` hears this message of node `from`. Returns the events.
fn hear(pair: &mut Pair, place: usize, from: &str, text: &str) -> Vec<Event> {
    pair.nodes[place].heard(from, text.as_bytes(), pair.now);
    let [first, second] = pair.settle();
    if place == 0 { first } else { second }
}

/// Ann is a member of node 0 and has said one message.
fn with_ann() -> Pair {
    let mut pair = Pair::connected();
    pair.ask(0, 1, "ann", 5);
    assert_eq!(pair.say(0, 1, "one")[1], [Event::Said("#ann@unix>>one".into())]);
    pair
}

#[test]
fn a_node_is_heard_again_after_a_message_with_a_forged_number() {
    let mut pair = with_ann();
    let forged = [Event::Missed(998), Event::Said("#ann@unix>>forged".into())];
    assert_eq!(hear(&mut pair, 1, "a", "m 1 1000 1 ann@unix\nforged"), forged);
    assert_eq!(pair.say(0, 1, "two")[1], []);
    assert_eq!(pair.pass(BEAT * 6, &[0, 1])[1], [Event::Missed(1)], "the message that was dropped");
    assert_eq!(pair.say(0, 1, "three")[1], [Event::Said("#ann@unix>>three".into())]);
}

#[test]
fn a_node_is_heard_again_after_a_forged_list_of_its_members() {
    let mut pair = with_ann();
    let all = hear(&mut pair, 1, "a", "h 900 1");
    assert_eq!(all, [], "the list is asked for");
    hear(&mut pair, 1, "a", "h 901 1");
    // The answer of the node itself is too old by these counters.
    let events = hear(&mut pair, 1, "a", "r 901 1 0 1\n7 eve@unix\n");
    assert!(events.is_empty() || events.contains(&came("a", 7, "eve")), "{events:?}");
    pair.ask(0, 2, "ben", 6);
    pair.pass(BEAT * 8, &[0, 1]);
    assert_eq!(pair.nodes[1].remote_members(), 2);
    pair.refuses(1, 9, "ben", 7);
}

#[test]
fn a_node_is_heard_again_after_a_forged_end() {
    let mut pair = with_ann();
    assert_eq!(hear(&mut pair, 1, "a", "b 1 1"), [went("a", 1, "ann")]);
    assert_eq!(pair.pass(BEAT * 6, &[0, 1])[1], [came("a", 1, "ann")]);
    assert_eq!(pair.say(0, 1, "two")[1], [Event::Said("#ann@unix>>two".into())]);
}

#[test]
fn counters_that_no_node_can_reach_are_ignored() {
    let mut pair = with_ann();
    let ignored = pair.nodes[1].ignored();
    for text in ["h 1 9000000000000000000", "h 9000000000000000000 1", "m 1 9000000000000000000 1 ann@unix\nforged"] {
        assert_eq!(hear(&mut pair, 1, "a", text), []);
    }
    assert_eq!(pair.nodes[1].ignored(), ignored + 3);
    assert_eq!(pair.say(0, 1, "two")[1], [Event::Said("#ann@unix>>two".into())]);
}

#[test]
fn messages_in_the_name_of_the_node_itself_are_ignored_and_counted() {
    let mut pair = with_ann();
    let ignored = pair.nodes[0].ignored();
    assert_eq!(hear(&mut pair, 0, "a", "b 1 1"), []);
    assert_eq!(pair.nodes[0].ignored(), ignored + 1);
    assert_eq!(pair.say(0, 1, "two")[1], [Event::Said("#ann@unix>>two".into())]);
}

#[test]
fn parts_of_lists_of_many_nodes_have_a_bound_together() {
    let mut peers = Peers::default();
    // As if other nodes had begun long lists.
    *peers.listed() = 999_990;
    let mut hear = |node: &str, text: &str| {
        let notice = Notice::read(text.as_bytes()).expect("it has the form of a message");
        peers.hear(node, &notice, false, Duration::ZERO, &mut Vec::new());
        *peers.listed() - 999_990
    };
    let members =
        |first: usize, count: usize| (first..first + count).fold(String::new(), |list, n| list + &format!("{n} a@b\n"));
    hear("x", "h 5 0");
    hear("y", "h 5 0");
    assert_eq!(hear("x", &format!("r 5 0 0 0\n{}", members(0, 6))), 6);
    assert_eq!(hear("y", &format!("r 5 0 0 0\n{}", members(0, 4))), 10);
    assert_eq!(hear("x", &format!("r 5 0 1 0\n{}", members(6, 1))), 4, "the list that does not fit is given up");
    assert_eq!(hear("y", &format!("r 5 0 1 0\n{}", members(4, 3))), 7);
    assert_eq!(hear("y", "b 5 0"), 0);
}

#[test]
fn the_leases_of_many_nodes_that_never_were_are_read_a_few_at_a_time() {
    let mut pair = Pair::connected();
    for node in 0..500 {
        hear(&mut pair, 0, &format!("n{node}"), "h 0 0");
    }
    pair.now += SUSPECT_AFTER;
    let mut most = 0;
    for _ in 0..16 {
        pair.now += TICK;
        pair.nodes[0].tick(pair.now);
        let actions: Vec<Action> = std::iter::from_fn(|| pair.nodes[0].take()).collect();
        let reads =
            actions.iter().filter(|action| matches!(action, Action::Request { request: Request::Get { .. }, .. }));
        most = most.max(reads.count());
        for action in actions {
            if let Action::Request { id, .. } = action {
                pair.nodes[0].answered(id, Answer::Missing, pair.now);
            }
        }
        while pair.nodes[0].take().is_some() {}
    }
    assert!((1..100).contains(&most), "{most}");
}
