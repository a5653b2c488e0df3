//! `nats-server` is killed, frozen, or takes nothing.

use std::io::Write;

use super::*;
use crate::support::on_every_backend;

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn without_the_engine_each_server_goes_on_alone_and_of_two_with_one_name_one_stays(backend: Backend) {
        let mut two = Two::with(backend, "--node a", "--node b");
        let (mut ann, mut ben) = two.ann_and_ben();
        two.engine.kill();
        ann.reads_up_to(ALONE);
        ben.reads_up_to(ALONE);
        let mut first = Member::join(&two.here, "cat");
        first.reads(ALONE);
        // This server alone checks the name.
        Member::is_refused(&two.here, "CAT");
        // In the same millisecond the node with the smaller name counts as the earlier one.
        let mut second = Member::join(&two.there, "Cat");
        second.reads(ALONE);
        first.say("alone");
        ann.reads_up_to("#cat@127.0.0.1>>alone");
        two.engine.restart();
        ann.reads_up_to(TOGETHER);
        let lines = ben.reads_up_to(TOGETHER);
        assert!(!lines.contains(&"#cat@127.0.0.1>>alone".to_owned()), "messages are not carried over: {lines:?}");
        second.has_to_go();
        first.reads_up_to(TOGETHER);
        ben.reads_of_the_arrival_of("cat");
        first.say("together");
        ben.reads_up_to("#cat@127.0.0.1>>together");
        for member in [&mut ann, &mut ben, &mut first] {
            member.finds(&["ann", "ben", "cat"]);
        }
    }

    #[ignore = "needs nats-server"]
    fn an_engine_that_is_frozen_is_away_after_eight_seconds_and_a_guest_gets_in(backend: Backend) {
        let two = Two::start(backend);
        let (mut ann, mut ben) = two.ann_and_ben();
        two.engine.signal(Signal::STOP);
        let mut cat = Member::join(&two.here, "cat");
        cat.reads_up_to(ALONE);
        ann.reads_up_to(ALONE);
        // More than the queue to the engine holds: nobody waits for good, and nobody else waits.
        let text = "x".repeat(60_000);
        for number in 0..200 {
            cat.say(&format!("{number} {text}"));
            ann.reads_up_to(&format!("#cat@127.0.0.1>>{number} {text}"));
        }
        two.engine.signal(Signal::CONT);
        ann.reads_up_to(TOGETHER);
        let told = cat.reads_up_to(TOGETHER);
        assert!(!told.contains(&ALONE.to_owned()), "cat is told once that the room is alone: {told:?}");
        ben.reads_up_to(TOGETHER);
        ann.say("back");
        ben.reads_up_to("#ann@127.0.0.1>>back");
    }

    #[ignore = "needs nats-server"]
    fn while_the_engine_takes_nothing_who_talks_waits_and_nobody_else(backend: Backend) {
        let queue = "--member-queue 100000000";
        let two = Two::with(backend, queue, queue);
        let (mut ann, mut ben) = two.ann_and_ben();
        let mut cat = Member::join(&two.here, "cat");
        ben.reads_of_the_arrival_of("cat");
        two.engine.signal(Signal::STOP);
        let mut talking = ann.client.writer();
        let talker = std::thread::spawn(move || {
            for number in 0..400 {
                talking.write_all(format!("{number} {}\n", "x".repeat(60_000)).as_bytes()).unwrap();
            }
        });
        cat.reads_up_to(&format!("#ann@127.0.0.1>>0 {}", "x".repeat(60_000)));
        cat.say("/who");
        let before = cat.reads_up_to("(3 here: ann@127.0.0.1, cat@127.0.0.1, ben@127.0.0.1)");
        assert!(before.len() < 399, "{} messages did not wait", before.len());
        two.engine.signal(Signal::CONT);
        cat.reads_up_to(&format!("#ann@127.0.0.1>>399 {}", "x".repeat(60_000)));
        talker.join().unwrap();
        ann.say("done");
        let lines = ben.reads_up_to("#ann@127.0.0.1>>done");
        // On a machine where this has taken 8 s, the engine was away meanwhile.
        if lines.iter().all(|line| line != ALONE) {
            assert_eq!((numbers(&lines, "ann").len(), missed(&lines)), (400, 0));
        }
    }
}
