//! Permissions, errors and wrong usage at the start.

use super::*;
use crate::support::on_every_backend;

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn the_permissions_of_the_readme_suffice(backend: Backend) {
        let scratch = Scratch::new();
        let readme = include_str!("../../../README.md");
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
    fn a_permission_that_is_missing_is_named_before_anybody_is_let_in(backend: Backend) {
        let readme = include_str!("../../../README.md");
        let start = readme.find("jetstream: enabled").expect("the README has the permissions");
        let permissions = readme[start..].split("```").next().unwrap();
        let subjects: Vec<&str> = permissions.split('"').skip(1).step_by(2).collect();
        assert!(subjects.len() > 5, "{subjects:?}");
        for subject in subjects {
            let scratch = Scratch::new();
            let config = scratch.path().join("config");
            let others = permissions.replace(&format!("\"{subject}\""), "\"another.subject\"");
            std::fs::write(&config, others).unwrap();
            let engine = Engine::start(scratch.path(), &["-c", config.to_str().unwrap()]);
            let last = loop {
                let Ended { code, stdout, stderr } = run(backend, &format!("chat serve --port 0 --nats {}", engine.url("chat:secret@")));
                assert_eq!((code, stdout.as_str()), (Some(1), ""), "{subject} {stderr}");
                let last = stderr.lines().last().unwrap().to_owned();
                // On a busy machine an attempt may take too long.
                if !last.contains("not connected within") {
                    break last;
                }
            };
            assert!(last.starts_with("error: NATS at nats://") && last.contains("Permissions Violation"), "{subject} {last}");
        }
    }

    #[ignore = "needs nats-server"]
    fn the_log_of_a_start_names_nats_once_and_has_the_end_of_one_server(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let server = Glowplug::start(backend, &format!("chat serve --port 0 --nats {}", engine.url("")));
        let ann = Member::join(&server, "ann");
        drop(ann);
        let Ended { stderr, .. } = server.stop();
        for text in ["NATS: connected to nats://", "counters: ", "stopped after "] {
            assert_eq!(stderr.matches(text).count(), 1, "{text} {stderr}");
        }
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_has_to_do_without_jetstream_says_so_once(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &[]);
        let words = format!("chat serve --port 0 --log-level warn --nats-optional --nats {}", engine.url(""));
        let mut server = Glowplug::start(backend, &words);
        server.told("names are checked on this server alone");
        Member::join(&server, "ann");
        let mut ben = Member::join(&server, "ben");
        // JetStream is asked for every second.
        std::thread::sleep(Duration::from_millis(2500));
        ben.finds(&["ben"]);
        let Ended { stderr, .. } = server.stop();
        for text in ["no JetStream", "names are checked on this server alone"] {
            assert_eq!(stderr.matches(text).count(), 1, "{text} {stderr}");
        }
    }

    #[ignore = "needs nats-server"]
    fn without_nats_or_jetstream_or_with_a_wrong_login_the_command_ends_with_an_error(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["--user", "ann", "--pass", "s3cret"]);
        let nats = |login: &str| format!("chat serve --port 0 --nats {}", engine.url(login));
        let error = error_of(|| command(backend, &nats("ann:wr0ng@")));
        assert!(error.starts_with("error: NATS at nats://127.0.0.1:") && error.contains("Authorization Violation"), "{error}");
        assert!(!error.contains("wr0ng"), "{error}");
        let error = error_of(|| command(backend, &nats("ann:s3cret@")));
        assert!(error.contains("JetStream") && !error.contains("s3cret"), "{error}");
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
        // The login of the URL wins over the variable, and an empty variable is none.
        for (login, variable) in [("ann:s3cret@", "ann:wr0ng"), ("ann:s3cret@", "")] {
            let mut with_both = command(backend, &format!("{} --log-level info --nats-optional", nats(login)));
            with_both.env("NATS_CREDENTIALS", variable);
            let mut server = Glowplug::spawn(with_both);
            server.told("no JetStream");
        }
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
