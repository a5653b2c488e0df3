//! A link between a chat server and its `nats-server` that is cut without a word.

use super::*;
use crate::cable::Cable;
use crate::support::on_every_backend;

/// Two chat servers. `here` reaches `nats-server` through a cable.
struct Cabled {
    here: Glowplug,
    there: Glowplug,
    cable: Cable,
    _engine: Engine,
    _scratch: Scratch,
}

impl Cabled {
    fn start(backend: Backend) -> Self {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let cable = Cable::to(engine.port);
        let here = serve(backend, &format!("--nats {}", cable.url()));
        let there = serve(backend, &format!("--nats {}", engine.url("")));
        Cabled { here, there, cable, _engine: engine, _scratch: scratch }
    }

    fn ann_and_ben(&self) -> (Member, Member) {
        ann_and_ben(&self.here, &self.there)
    }
}

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn a_server_that_is_cut_off_knows_before_its_names_are_given_away(backend: Backend) {
        let two = Cabled::start(backend);
        let (mut ann, mut ben) = two.ann_and_ben();
        let mut cat = Member::join(&two.here, "cat");
        ben.reads_of_the_arrival_of("cat");
        two.cable.cut();
        ben.reads_of_the_end_of("ann");
        // Ann has the notice already: it was sent before the answer to `/who`.
        let before = ann.is_answered();
        assert!(before.contains(&ALONE.to_owned()), "{before:?}");
        let mut eve = Member::join(&two.here, "eve");
        eve.reads(ALONE);
        // The lease ends, and its names are free. Eve's name was never known to the other server.
        let mut other_eve = Member::join(&two.there, "Eve");
        let mut other_ann = Member::join_later(&two.there, "ann");
        ann.say("alone");
        cat.reads_up_to("#ann@127.0.0.1>>alone");
        two.cable.join_for_new_connections();
        for member in [&mut ann, &mut eve] {
            member.reads_up_to(TOGETHER);
            member.has_to_go();
        }
        let all = ["ann", "ben", "cat", "Eve"];
        for member in [&mut cat, &mut ben, &mut other_ann, &mut other_eve] {
            let lines = member.finds(&all);
            assert!(!lines.contains(&TAKEN.to_owned()), "the holder of the lease stays");
        }
        other_ann.say("hi");
        cat.reads_up_to("#ann@127.0.0.1>>hi");
        cat.say("hi");
        let lines = other_ann.reads_up_to("#cat@127.0.0.1>>hi");
        assert!(!lines.contains(&"#ann@127.0.0.1>>alone".to_owned()), "what was said alone is not carried over");
    }

    #[ignore = "needs nats-server"]
    fn what_was_said_during_a_cut_is_told_as_missed(backend: Backend) {
        let two = Cabled::start(backend);
        let (mut ann, mut ben) = two.ann_and_ben();
        ann.say("0");
        ben.reads("#ann@127.0.0.1>>0");
        ben.say("0");
        ann.reads("#ben@127.0.0.1>>0");
        two.cable.cut();
        for number in 1..20 {
            ann.say(&number.to_string());
            ben.say(&number.to_string());
        }
        let mut of_ben = ann.reads_up_to(ALONE);
        for number in 20..30 {
            ann.say(&number.to_string());
        }
        of_ben.extend(ann.is_answered());
        two.cable.join_for_new_connections();
        of_ben.extend(ann.reads_up_to(TOGETHER));
        all_is_heard_or_missed(&mut ann, &mut ben, [29, 19], of_ben);
    }

    #[ignore = "needs nats-server"]
    fn what_comes_late_over_a_link_that_was_given_up_is_not_doubled(backend: Backend) {
        let two = Cabled::start(backend);
        let (mut ann, mut ben) = two.ann_and_ben();
        two.cable.cut();
        for number in 0..20 {
            ann.say(&number.to_string());
        }
        let mut of_ben = ann.reads_up_to(ALONE);
        for number in 0..20 {
            ben.say(&number.to_string());
        }
        two.cable.join();
        of_ben.extend(ann.reads_up_to(TOGETHER));
        all_is_heard_or_missed(&mut ann, &mut ben, [20, 20], of_ben);
    }

    #[ignore = "needs nats-server"]
    fn a_link_that_stands_still_for_a_moment_loses_nothing(backend: Backend) {
        let two = Cabled::start(backend);
        let (mut ann, mut ben) = two.ann_and_ben();
        two.cable.cut();
        for number in 0..20 {
            ann.say(&number.to_string());
            ben.say(&number.to_string());
        }
        two.cable.join();
        ann.say("done");
        ben.say("done");
        let of_ann = ben.reads_up_to("#ann@127.0.0.1>>done");
        let of_ben = ann.reads_up_to("#ben@127.0.0.1>>done");
        for (lines, name) in [(of_ann, "ann"), (of_ben, "ben")] {
            are_heard_or_missed(&lines, name, 20);
            // On a machine on which this has taken 8 s, the link was given up.
            if !lines.contains(&ALONE.to_owned()) {
                assert_eq!((numbers(&lines, name).len(), missed(&lines)), (20, 0));
            }
        }
    }
}
