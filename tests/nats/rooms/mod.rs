//! One chat room on two servers, with a real `nats-server`, which must be installed: the command from outside.

use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::engine::Engine;
use crate::support::client::Client;
use crate::support::command::{Ended, Glowplug, Scratch, command, run};
use crate::support::on_every_backend;

/// The others are missed after 12 s: a guard for a slow machine, as every other time here.
const PATIENCE: Duration = Duration::from_secs(60);
const ALONE: &str = "(Alone: the other servers cannot be reached)";
const TAKEN: &str = "ERROR: the name is taken";

/// A server of the room.
fn server(backend: reactor::Backend, engine: &Engine, options: &str) -> Glowplug {
    let nats = engine.url("");
    Glowplug::start(backend, &format!("chat serve --port 0 --log-level off --nats {nats} {options}"))
}

/// A member of the room.
struct Member(Client);

impl Member {
    fn connect(server: &Glowplug) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.connect(&server.tcp().into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Member(Client::from(socket))
    }

    fn join(server: &Glowplug, name: &str) -> Self {
        let mut member = Member::connect(server);
        assert_eq!(member.0.ask(name), "CLIENT: 127.0.0.1");
        member
    }

    /// Joins as soon as the name is free.
    fn join_later(server: &Glowplug, name: &str) -> Self {
        loop {
            let mut member = Member::connect(server);
            match member.0.ask(name).as_str() {
                TAKEN => {}
                answer => {
                    assert_eq!(answer, "CLIENT: 127.0.0.1");
                    return member;
                }
            }
        }
    }

    fn is_refused(server: &Glowplug, name: &str) {
        assert_eq!(Member::connect(server).0.ask(name), TAKEN);
    }

    fn say(&mut self, text: &str) {
        self.0.send(format!("{text}\n"));
    }

    fn reads(&mut self, text: &str) {
        assert_eq!(self.0.line(), text);
    }

    /// Reads up to this line. Returns the lines before.
    fn reads_up_to(&mut self, text: &str) -> Vec<String> {
        self.reads_up_to_any(|line| line == text)
    }

    /// Reads up to the arrival of this member. The count depends on whether a member that is going to be closed has gone.
    fn reads_of_the_arrival_of(&mut self, name: &str) {
        let end = format!(" from {name}@127.0.0.1)");
        self.reads_up_to_any(|line| line.starts_with("(Connected: ") && line.ends_with(&end));
    }

    fn reads_up_to_any(&mut self, is_it: impl Fn(&str) -> bool) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.0.line() {
                line if is_it(&line) => return before,
                line => before.push(line),
            }
            assert!(before.len() < 100_000, "the line does not come");
        }
    }
}

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn members_of_two_servers_are_in_one_room(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let (here, there) = (server(backend, &engine, "--loops 2"), server(backend, &engine, "--model threads"));
        let mut ann = Member::join(&here, "ann");
        let mut ben = Member::join(&there, "ben");
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
        for name in ["ann", "ANN", "аnn", "ｂｅｎ"] {
            Member::is_refused(&here, name);
            Member::is_refused(&there, name);
        }
        let messages: String = (0..1000).map(|number| format!("{number} \u{1b}[2J\n")).collect();
        ann.0.send(&messages);
        ben.reads_up_to("#ann@127.0.0.1>>0 \u{fffd}[2J");
        for number in 1..1000 {
            ben.reads(&format!("#ann@127.0.0.1>>{number} \u{fffd}[2J"));
        }
        ben.0.send(&messages);
        for number in 0..1000 {
            ann.reads(&format!("#ben@127.0.0.1>>{number} \u{fffd}[2J"));
        }
        ann.say("/who");
        ann.reads("(2 here: ann@127.0.0.1, ben@127.0.0.1)");
        ben.say("/who");
        ben.reads("(2 here: ben@127.0.0.1, ann@127.0.0.1)");
        let mut dora = Client::connect(there.address());
        dora.send_frame("NAME: dora");
        assert_eq!(dora.frame(), "CLIENT: 127.0.0.1");
        ann.reads("(Connected: New client (3) from dora@127.0.0.1)");
        ann.say("hi");
        assert_eq!(dora.frame(), "#ann@127.0.0.1>>hi");
        dora.send_frame("/quit");
        ann.reads("(Now hung up: Client from dora@127.0.0.1)");
        ben.reads_up_to("(Now hung up: Client from dora@127.0.0.1)");
        // A guest that comes and goes in one breath.
        let mut cat = Member::connect(&there);
        cat.0.send("cat\nhi");
        cat.0.half_close();
        for member in [&mut ann, &mut ben] {
            member.reads("(Connected: New client (3) from cat@127.0.0.1)");
            member.reads("#cat@127.0.0.1>>hi");
            member.reads("(Now hung up: Client from cat@127.0.0.1)");
        }
        ben.say("/quit");
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        let _ben = Member::join_later(&here, "Ben");
        ann.reads("(Connected: New client (2) from Ben@127.0.0.1)");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_stops_says_so_and_its_names_are_free(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let (here, there) = (server(backend, &engine, ""), server(backend, &engine, ""));
        let mut ann = Member::join(&here, "ann");
        let _ben = Member::join(&there, "ben");
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
        assert_eq!(there.stop().code, Some(0));
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        let _ben = Member::join(&here, "ben");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_is_killed_is_missed_and_its_names_become_free(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let (here, there) = (server(backend, &engine, ""), server(backend, &engine, ""));
        let mut ann = Member::join(&here, "ann");
        let _ben = Member::join(&there, "ben");
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
        there.signal(Signal::KILL);
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        let _ben = Member::join_later(&here, "ben");
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_was_frozen_comes_back_without_the_names_that_were_taken_meanwhile(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let (here, there) = (server(backend, &engine, ""), server(backend, &engine, ""));
        let mut ann = Member::join(&here, "ann");
        let mut ben = Member::join(&there, "ben");
        let mut cat = Member::join(&there, "cat");
        ann.reads_of_the_arrival_of("cat");
        there.signal(Signal::STOP);
        ann.reads_up_to("(Now hung up: Client from ben@127.0.0.1)");
        let mut other = Member::join_later(&here, "ben");
        there.signal(Signal::CONT);
        ben.reads_up_to(TAKEN);
        assert!(ben.0.is_ended());
        ann.reads_of_the_arrival_of("cat");
        // Until the list is whole: the member that lost its name may have been announced for a moment.
        loop {
            ann.say("/who");
            let list = loop {
                let line = ann.0.line();
                if line.contains(" here: ") {
                    break line;
                }
            };
            if list == "(3 here: ann@127.0.0.1, ben@127.0.0.1, cat@127.0.0.1)" {
                break;
            }
        }
        cat.say("back");
        other.reads_up_to("#cat@127.0.0.1>>back");
    }

    #[ignore = "needs nats-server"]
    fn without_the_engine_each_server_goes_on_alone_and_of_two_with_one_name_one_stays(backend: Backend) {
        let scratch = Scratch::new();
        let mut engine = Engine::start(scratch.path(), &["-js"]);
        let (here, there) = (server(backend, &engine, "--node a"), server(backend, &engine, "--node b"));
        let (mut ann, mut ben) = (Member::join(&here, "ann"), Member::join(&there, "ben"));
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
        engine.kill();
        ann.reads_up_to(ALONE);
        ben.reads_up_to(ALONE);
        let mut first = Member::join(&here, "cat");
        first.reads(ALONE);
        // In the same millisecond the node with the smaller name counts as the earlier one.
        let mut second = Member::join(&there, "Cat");
        second.reads(ALONE);
        first.say("alone");
        ann.reads_up_to("#cat@127.0.0.1>>alone");
        let engine = engine.restart();
        ann.reads_up_to("(Together again)");
        ben.reads_up_to("(Together again)");
        second.reads_up_to(TAKEN);
        assert!(second.0.is_ended());
        first.say("/who");
        first.reads_up_to("(Together again)");
        ben.reads_of_the_arrival_of("cat");
        first.say("together");
        ben.reads_up_to("#cat@127.0.0.1>>together");
        drop(engine);
    }

    #[ignore = "needs nats-server"]
    fn an_engine_that_is_frozen_is_away_after_eight_seconds_and_a_guest_gets_in(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let (here, there) = (server(backend, &engine, ""), server(backend, &engine, ""));
        let (mut ann, mut ben) = (Member::join(&here, "ann"), Member::join(&there, "ben"));
        ann.reads("(Connected: New client (2) from ben@127.0.0.1)");
        engine.signal(Signal::STOP);
        let mut cat = Member::join(&here, "cat");
        ann.reads_up_to(ALONE);
        // More than the queue to the engine holds: nobody waits for good, and nobody else waits.
        let text = "x".repeat(60_000);
        for number in 0..200 {
            cat.say(&format!("{number} {text}"));
            ann.reads_up_to(&format!("#cat@127.0.0.1>>{number} {text}"));
        }
        engine.signal(Signal::CONT);
        ann.reads_up_to("(Together again)");
        ben.reads_up_to("(Together again)");
        ann.say("back");
        ben.reads_up_to("#ann@127.0.0.1>>back");
    }

    #[ignore = "needs nats-server"]
    fn while_the_engine_takes_nothing_who_talks_waits_and_nobody_else(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let queue = "--member-queue 100000000";
        let (here, there) = (server(backend, &engine, queue), server(backend, &engine, queue));
        let mut ann = Member::join(&here, "ann");
        let mut ben = Member::join(&there, "ben");
        let mut cat = Member::join(&here, "cat");
        ben.reads_of_the_arrival_of("cat");
        engine.signal(Signal::STOP);
        let mut talking = ann.0.writer();
        let talker = std::thread::spawn(move || {
            use std::io::Write;
            for number in 0..400 {
                talking.write_all(format!("{number} {}\n", "x".repeat(60_000)).as_bytes()).unwrap();
            }
        });
        cat.reads_up_to(&format!("#ann@127.0.0.1>>0 {}", "x".repeat(60_000)));
        cat.say("/who");
        let before = cat.reads_up_to("(3 here: ann@127.0.0.1, cat@127.0.0.1, ben@127.0.0.1)");
        assert!(before.len() < 399, "{} messages did not wait", before.len());
        engine.signal(Signal::CONT);
        cat.reads_up_to(&format!("#ann@127.0.0.1>>399 {}", "x".repeat(60_000)));
        talker.join().unwrap();
        ann.say("done");
        let lines = ben.reads_up_to("#ann@127.0.0.1>>done");
        // On a machine where this has taken 8 s, the engine was away meanwhile.
        if lines.iter().all(|line| line != ALONE) {
            let messages = lines.iter().filter(|line| line.starts_with("#ann@")).count();
            assert_eq!((messages, lines.iter().any(|line| line.starts_with("(Missed"))), (400, false));
        }
    }

    #[ignore = "needs nats-server"]
    fn the_console_lists_all_and_kicks_its_own(backend: Backend) {
        use std::io::Write;
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let there = server(backend, &engine, "");
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

    #[ignore = "needs nats-server"]
    fn the_permissions_of_the_readme_suffice(backend: Backend) {
        let scratch = Scratch::new();
        let readme = include_str!("../../README.md");
        let start = readme.find("jetstream: enabled").expect("the README has the permissions");
        let config = scratch.path().join("config");
        std::fs::write(&config, readme[start..].split("```").next().unwrap()).unwrap();
        let engine = Engine::start(scratch.path(), &["-c", config.to_str().unwrap()]);
        let words = format!("chat serve --port 0 --log-level warn --nats {}", engine.url("chat:secret@"));
        let (here, there) = (Glowplug::start(backend, &words), Glowplug::start(backend, &words));
        let (mut ann, mut ben) = (Member::join(&here, "ann"), Member::join(&there, "ben"));
        ann.reads_of_the_arrival_of("ben");
        ben.say("hi");
        ann.reads("#ben@127.0.0.1>>hi");
        ben.say("/quit");
        ann.reads("(Now hung up: Client from ben@127.0.0.1)");
        for server in [here, there] {
            let Ended { code, stderr, .. } = server.stop();
            assert_eq!((code, stderr.contains("ermission")), (Some(0), false), "{stderr}");
        }
    }

    #[ignore = "needs nats-server"]
    fn without_nats_or_jetstream_or_with_a_wrong_login_the_command_ends_with_an_error(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["--user", "ann", "--pass", "s3cret"]);
        let nats = |login: &str| format!("chat serve --port 0 --nats {}", engine.url(login));
        let Ended { code, stderr, .. } = run(backend, &nats("ann:wr0ng@"));
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.lines().last().unwrap().starts_with("error: NATS at nats://127.0.0.1:"), "{stderr}");
        assert!(stderr.contains("Authorization Violation") && !stderr.contains("wr0ng"), "{stderr}");
        let Ended { code, stderr, .. } = run(backend, &nats("ann:s3cret@"));
        assert_eq!(code, Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains("JetStream"), "{stderr}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
        // By a file and by the variable, and without JetStream alone.
        let file = scratch.path().join("login");
        std::fs::write(&file, "ann:s3cret\n").unwrap();
        let words = format!("{} --nats-optional --nats-credentials {}", nats(""), file.display());
        let alone = Glowplug::start(backend, &words);
        Member::join(&alone, "ann");
        let mut by_variable = command(backend, &format!("{} --nats-optional", nats("")));
        by_variable.env("NATS_CREDENTIALS", "ann:s3cret");
        let mut alone = Glowplug::spawn(by_variable);
        alone.listens();
        // The first server hears of the departure in its own time.
        Member::join_later(&alone, "ann");
    }
}

on_every_backend! {
    fn a_server_of_nats_that_is_not_there_is_an_error_or_the_room_begins_alone(backend: Backend) {
        // The port is bound and does not listen.
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = port.local_addr().unwrap().as_socket().unwrap().port();
        let words = format!("chat serve --port 0 --nats nats://ann:s3cret@127.0.0.1:{port}");
        let Ended { code, stdout, stderr } = run(backend, &words);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.lines().last().unwrap().starts_with("error: NATS at nats://127.0.0.1:"), "{stderr}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
        let alone = Glowplug::start(backend, &format!("{words} --nats-optional"));
        let mut ann = Client::connect(alone.address());
        assert_eq!(ann.ask("ann"), "CLIENT: 127.0.0.1");
        assert_eq!(alone.stop().code, Some(0));
    }

    fn no_client_is_let_in_before_nats_has_answered(backend: Backend) {
        // The server accepts connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nats = silent.local_addr().unwrap();
        // Nobody else takes the port meanwhile, and the command could.
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        held.set_reuse_address(true).unwrap();
        held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = held.local_addr().unwrap().as_socket().unwrap().port();
        for chat in [format!("chat serve --port {port}"), format!("serve --echo off --http off --chat 127.0.0.1:{port}")] {
            let mut server = Glowplug::spawn(command(backend, &format!("{chat} --nats nats://{nats}")));
            while !server.has_ended() {
                let client = std::net::TcpStream::connect(("127.0.0.1", port));
                assert!(client.is_err(), "a client is connected, and is going to be dropped");
            }
            let Ended { code, stdout, stderr } = server.end();
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
            assert!(stderr.lines().last().unwrap().starts_with("error: NATS at nats://127.0.0.1:"), "{stderr}");
        }
    }

    fn a_report_has_one_line_about_the_node_with_several_loops(backend: Backend) {
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = port.local_addr().unwrap().as_socket().unwrap().port();
        let words = format!("chat serve --port 0 --loops 3 --nats nats://127.0.0.1:{port} --nats-optional");
        let mut alone = Glowplug::start(backend, &words);
        alone.signal(Signal::USR1);
        for part in ["counters of all loops: ", "loop 1:\n", "loop 2:\n", " of room lobby: "] {
            alone.told(part);
        }
        let Ended { stderr, .. } = alone.stop();
        assert_eq!(stderr.matches(" of room lobby: ").count(), 1, "{stderr}");
    }

    fn a_wrong_url_and_a_wrong_name_are_wrong_usage_and_no_secret_is_repeated(backend: Backend) {
        for words in ["--nats http://ann:s3cret@x", "--nats nats://ann:s3cret@", "--nats nats://x --room a.b", "--room a"] {
            let Ended { code, stderr, .. } = run(backend, &format!("chat serve --port 0 {words}"));
            assert_eq!(code, Some(2), "{stderr}");
            assert!(!stderr.contains("s3cret"), "{stderr}");
        }
    }

    fn a_file_that_is_no_login_is_an_error_that_names_the_file(backend: Backend) {
        let scratch = Scratch::new();
        let file = scratch.path().join("login");
        let words = format!("chat serve --port 0 --nats nats://x --nats-credentials {}", file.display());
        for (login, part) in [(None, "login: "), (Some(4097), "login: more than 4096 bytes"), (Some(0), "are empty")] {
            if let Some(length) = login {
                std::fs::write(&file, "x".repeat(length)).unwrap();
            }
            let Ended { code, stderr, .. } = run(backend, &words);
            assert_eq!(code, Some(1), "{stderr}");
            assert!(stderr.lines().last().unwrap().starts_with("error: ") && stderr.contains(part), "{stderr}");
        }
    }
}
