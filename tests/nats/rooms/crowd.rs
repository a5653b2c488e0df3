//! Ways to speak, histories, loops and threads, and members that do not read.

use std::collections::BTreeSet;

use super::*;
use crate::support::{on_every_backend, unless_chaos};

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn members_who_speak_in_every_way_on_several_loops_and_threads_hear_each_other(backend: Backend) {
        let two = Two::with(backend, "--loops 3 --history 5", "--model threads --history 5");
        let ways = [Way::Lines, Way::Frames, Way::WebSocket];
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        // Six members on each server, on all its loops.
        let mut members: Vec<Member> = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let server = if place % 2 == 0 { &two.here } else { &two.there };
            members.push(Member::join_in(server, name, ways[place % 3]));
        }
        for member in &mut members {
            member.finds(&names);
        }
        for member in &mut members {
            for number in 0..10 {
                member.say(&format!("{number} ü"));
            }
        }
        for (place, member) in members.iter_mut().enumerate() {
            let mut waits_for: BTreeSet<&str> = names.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, name)| *name).collect();
            let mut lines = Vec::new();
            while !waits_for.is_empty() {
                let line = member.line();
                waits_for.retain(|name| line != format!("#{name}@127.0.0.1>>9 ü"));
                lines.push(line);
            }
            for (other, name) in names.iter().enumerate() {
                let expected: Vec<usize> = if other == place { Vec::new() } else { (0..10).collect() };
                assert_eq!(numbers(&lines, name), expected, "{name} for {}", names[place]);
            }
            assert_eq!(missed(&lines), 0);
        }
        // The history is the node's, and has the messages of all.
        members[0].say("last of here");
        for member in members.iter_mut().skip(1) {
            member.reads_up_to("#a@127.0.0.1>>last of here");
        }
        members[1].say("last of there");
        for member in members.iter_mut().filter(|member| member.way == Way::Lines).take(1) {
            member.reads_up_to("#b@127.0.0.1>>last of there");
        }
        for (server, way) in [(&two.here, Way::WebSocket), (&two.there, Way::Lines)] {
            let mut latest = Member::join_in(server, "new", way);
            let lines = latest.reads_up_to("#b@127.0.0.1>>last of there");
            assert_eq!((lines.len(), lines.last().map(String::as_str)), (4, Some("#a@127.0.0.1>>last of here")), "{lines:?}");
            latest.say("/quit");
            latest.reads("(Goodbye)");
            members[0].reads_of_the_end_of("new");
            members[1].reads_of_the_end_of("new");
        }
    }

    #[ignore = "needs nats-server"]
    fn a_flood_from_another_server_drops_messages_for_members_that_do_not_read_and_for_nobody_else(backend: Backend) {
        unless_chaos!("needs readers whose kernel takes what it has room for; others are slow");
        let kinds = [("drop-oldest", Way::Lines), ("drop-newest", Way::Frames), ("drop-oldest", Way::WebSocket)];
        let mut flooded = Flooded::start(backend, &kinds);
        flooded.flood();
        for (mut deaf, (policy, _)) in flooded.deaf.into_iter().zip(kinds) {
            let (mut next, mut notices) = (0, 0);
            while next < SAID {
                let line = deaf.line();
                let count = missed(std::slice::from_ref(&line));
                if count > 0 {
                    next += count;
                    notices += 1;
                } else if line.starts_with('#') {
                    assert_eq!(line, message(next), "{policy}");
                    next += 1;
                }
            }
            assert!(notices > 0, "{policy}: nothing was missed");
        }
    }

    #[ignore = "needs nats-server"]
    fn a_flood_from_another_server_ends_a_member_that_does_not_read_and_nobody_else(backend: Backend) {
        unless_chaos!("needs readers whose kernel takes what it has room for; others are slow, and let go");
        let mut flooded = Flooded::start(backend, &[("disconnect", Way::Lines)]);
        flooded.flood();
        flooded.ann.reads_of_the_end_of("deaf0");
        let mut deaf = flooded.deaf.remove(0);
        let heard = numbers(&deaf.reads_up_to("ERROR: too slow"), "ann");
        assert_eq!(heard, (0..heard.len()).collect::<Vec<_>>(), "whole messages, without a gap");
        assert!(deaf.client.is_ended());
        flooded.ann.finds(&["ann", "reader0"]);
    }
}

/// Messages of a flood: more than queues and kernels hold.
const SAID: usize = 10_000;

fn message(number: usize) -> String {
    format!("#ann@127.0.0.1>>{number} {}", "x".repeat(500))
}

/// Ann on her server, and on each other server a reader and a member that does not read.
struct Flooded {
    ann: Member,
    readers: Vec<Member>,
    deaf: Vec<Member>,
    _servers: Vec<Glowplug>,
    _engine: Engine,
    _scratch: Scratch,
}

impl Flooded {
    /// Starts a server for each policy. The way is that of the server's member that does not read.
    fn start(backend: Backend, kinds: &[(&str, Way)]) -> Self {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let nats = format!("--nats {} --member-queue 100000", engine.url(""));
        let here = serve(backend, &nats);
        let (mut ann, mut names) = (Member::join(&here, "ann"), vec!["ann".to_owned()]);
        let (mut readers, mut deaf, mut servers) = (Vec::new(), Vec::new(), vec![here]);
        for (place, (policy, way)) in kinds.iter().enumerate() {
            let server = serve(backend, &format!("{nats} --slow {policy}"));
            let both = [format!("reader{place}"), format!("deaf{place}")];
            readers.push(Member::join(&server, &both[0]));
            deaf.push(Member::deaf(&server, &both[1], *way));
            names.extend(both);
            servers.push(server);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for member in readers.iter_mut().chain([&mut ann]) {
            member.finds(&names);
        }
        Flooded { ann, readers, deaf, _servers: servers, _engine: engine, _scratch: scratch }
    }

    /// Lets Ann say all messages, and the readers read them. The steps fit into any kernel's buffers, so no reader is ever behind.
    fn flood(&mut self) {
        const STEP: usize = 100;
        let text = "x".repeat(500);
        for step in 0..SAID / STEP {
            let numbers = step * STEP..(step + 1) * STEP;
            self.ann.client.send(numbers.clone().map(|number| format!("{number} {text}\n")).collect::<String>());
            for reader in &mut self.readers {
                for number in numbers.clone() {
                    // The end of the member that does not read is announced in between.
                    let line = match reader.line() {
                        line if has_hung_up(std::slice::from_ref(&line), "deaf0") => reader.line(),
                        line => line,
                    };
                    assert_eq!(line, message(number), "who reads misses nothing");
                }
            }
        }
    }
}
