//! Two chat servers with a whole link: messages, names, presence, the console.

use super::*;
use crate::support::on_every_backend;

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn members_of_two_servers_are_in_one_room(backend: Backend) {
        let two = Two::with(backend, "--loops 2", "--model threads");
        let (here, there) = (&two.here, &two.there);
        let (mut ann, mut ben) = two.ann_and_ben();
        for name in ["ann", "ANN", "аnn", "ｂｅｎ"] {
            Member::is_refused(here, name);
            Member::is_refused(there, name);
        }
        let messages: String = (0..1000).map(|number| format!("{number} \u{1b}[2J\n")).collect();
        ann.client.send(&messages);
        ben.reads_up_to("#ann@127.0.0.1>>0 \u{fffd}[2J");
        for number in 1..1000 {
            ben.reads(&format!("#ann@127.0.0.1>>{number} \u{fffd}[2J"));
        }
        ben.client.send(&messages);
        for number in 0..1000 {
            ann.reads(&format!("#ben@127.0.0.1>>{number} \u{fffd}[2J"));
        }
        for member in [&mut ann, &mut ben] {
            assert!(member.finds(&["ann", "ben"]).is_empty(), "nothing came twice");
        }
        let mut dora = Member::join_in(there, "dora", Way::Frames);
        ann.reads("(Connected: New client (3) from dora@127.0.0.1)");
        ann.say("hi");
        dora.reads("#ann@127.0.0.1>>hi");
        dora.say("/quit");
        ann.reads("(Now hung up: Client from dora@127.0.0.1)");
        ben.reads_up_to("(Now hung up: Client from dora@127.0.0.1)");
        // A guest that comes and goes in one breath.
        let mut cat = Member::connect(there);
        cat.client.send("cat\nhi");
        cat.client.half_close();
        for member in [&mut ann, &mut ben] {
            member.reads("(Connected: New client (3) from cat@127.0.0.1)");
            member.reads("#cat@127.0.0.1>>hi");
            member.reads("(Now hung up: Client from cat@127.0.0.1)");
        }
        ben.say("/quit");
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        let _ben = Member::join_later(here, "Ben");
        ann.reads("(Connected: New client (2) from Ben@127.0.0.1)");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_stops_says_so_and_its_names_are_free(backend: Backend) {
        let two = Two::start(backend);
        let (mut ann, _ben) = two.ann_and_ben();
        assert_eq!(two.there.stop().code, Some(0));
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        let _ben = Member::join(&two.here, "ben");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_is_killed_is_missed_and_its_names_become_free(backend: Backend) {
        let two = Two::start(backend);
        let (mut ann, _ben) = two.ann_and_ben();
        two.there.signal(Signal::KILL);
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        let _ben = Member::join_later(&two.here, "ben");
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_was_frozen_comes_back_without_the_names_that_were_taken_meanwhile(backend: Backend) {
        let two = Two::start(backend);
        let (mut ann, mut ben) = two.ann_and_ben();
        let mut cat = Member::join(&two.there, "cat");
        ann.reads_of_the_arrival_of("cat");
        two.there.signal(Signal::STOP);
        ann.reads_of_the_end_of("ben");
        let mut other = Member::join_later(&two.here, "ben");
        two.there.signal(Signal::CONT);
        ben.has_to_go();
        ann.reads_of_the_arrival_of("cat");
        // The member that lost its name may have been announced for a moment.
        ann.finds(&["ann", "ben", "cat"]);
        cat.say("back");
        other.reads_up_to("#cat@127.0.0.1>>back");
    }

    #[ignore = "needs nats-server"]
    fn the_console_lists_all_and_kicks_its_own(backend: Backend) {
        use std::io::Write;
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let there = serve(backend, &format!("--nats {}", engine.url("")));
        let words = format!("chat serve --port 0 --log-level off --nats {}", engine.url(""));
        let mut command = command(backend, &words);
        command.stdin(std::process::Stdio::piped());
        let mut here = Glowplug::spawn(command);
        here.listens();
        let (mut ann, _ben) = (Member::join(&here, "ann"), Member::join(&there, "ben"));
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
        let mut typed = here.stdin();
        typed.write_all(b"/who\n/kick BEN\n/kick ann\n").unwrap();
        here.told("(2 here: ann@127.0.0.1, ben@127.0.0.1)");
        here.told("(Not kicked: ben@127.0.0.1, who is on another server)");
        here.told("(Kicked: ann@127.0.0.1)");
        ann.reads("ERROR: kicked");
        here.signal(Signal::USR1);
        here.told("of room lobby: connected to nats://");
    }
}
