//! Where the command listens, what it inherits, and why it does not start.

use std::fs;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use reactor::Address;
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::command::{Glowplug, Scratch, command, eventually, run, shell, tcp_of};
use crate::support::on_every_backend;
use crate::{ALL, fails_with, has_ipv6};

on_every_backend! {
    // ---- where it listens -------------------------------------------------------------------------------------------

    fn each_service_prints_one_line_where_it_listens_and_accepts_there(backend: Backend) {
        let mut glowplug = Glowplug::spawn(command(backend, ALL));
        for expected in ["echo", "chat", "http"] {
            let (service, address) = glowplug.listens();
            assert_eq!(service, expected);
            assert_ne!(address.port(), Some(0));
            TcpStream::connect(tcp_of(&address)).unwrap();
        }
        let ended = glowplug.stop();
        assert_eq!(ended.stdout.lines().count(), 3, "{}", ended.stdout);
    }

    fn without_a_subcommand_it_serves_all_three(backend: Backend) {
        let others = "--chat 127.0.0.1:0 --http 127.0.0.1:0";
        for words in [format!("--echo 127.0.0.1:0 {others}"), format!("--echo 127.0.0.1:0 serve {others}")] {
            let mut glowplug = Glowplug::spawn(command(backend, &words));
            assert_eq!(["echo", "chat", "http"].map(|_| glowplug.listens().0), ["echo", "chat", "http"]);
        }
    }

    fn a_service_that_is_off_is_not_served(backend: Backend) {
        let mut glowplug = Glowplug::spawn(command(backend, "serve --echo off --chat off --http 127.0.0.1:0"));
        assert_eq!(glowplug.listens().0, "http");
        assert_eq!(glowplug.stop().stdout.lines().count(), 1);
    }

    fn a_host_name_binds_each_of_its_addresses_with_one_line_each(backend: Backend) {
        let mut expected: Vec<_> = ("localhost", 0).to_socket_addrs().unwrap().map(|address| address.ip()).collect();
        expected.sort();
        expected.dedup();
        let mut glowplug = Glowplug::spawn(command(backend, "echo --host localhost --port 0"));
        let mut found: Vec<_> = expected
            .iter()
            .map(|_| {
                let (_, address) = glowplug.listens();
                assert_eq!(Client::connect(&address).ask("hello"), "You said: hello");
                tcp_of(&address).ip()
            })
            .collect();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(glowplug.stop().stdout.lines().count(), expected.len());
    }

    fn an_ipv6_address_is_taken_with_brackets_and_without(backend: Backend) {
        if !has_ipv6() {
            return;
        }
        for words in
            ["echo --port 0 --host ::1", "echo --port 0 --host [::1]", "serve --echo [::1]:0 --chat off --http off"]
        {
            let glowplug = Glowplug::start(backend, words);
            assert!(glowplug.address().to_string().starts_with("tcp://[::1]:"), "{}", glowplug.address());
            assert_eq!(glowplug.connect().ask("six"), "You said: six");
        }
    }

    fn the_unspecified_ipv6_address_takes_ipv4_too(backend: Backend) {
        if !has_ipv6() {
            return;
        }
        let glowplug = Glowplug::start(backend, "echo --port 0 --host ::");
        let port = glowplug.tcp().port();
        for host in ["127.0.0.1", "[::1]"] {
            let address = format!("{host}:{port}").parse().unwrap();
            assert_eq!(Client::connect(&address).ask("hello"), "You said: hello");
        }
    }

    fn a_unix_socket_is_named_by_its_whole_path_and_gone_at_exit(backend: Backend) {
        let scratch = Scratch::new();
        let mut relative = command(backend, "echo --unix here.sock");
        relative.current_dir(scratch.path());
        let mut glowplug = Glowplug::spawn(relative);
        let path = fs::canonicalize(scratch.path()).unwrap().join("here.sock");
        assert_eq!(glowplug.listens(), ("echo".to_owned(), Address::Unix(path.clone())));
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        glowplug.stop();
        assert!(!path.exists());
    }

    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_an_error(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("echo.sock");
        drop(UnixListener::bind(&path).unwrap());
        let words = format!("echo --unix {}", path.display());
        let glowplug = Glowplug::start(backend, &words);
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        fails_with(backend, &words, &[&format!("unix://{}", path.display()), "in use"]);
        assert_eq!(glowplug.connect().ask("still there"), "You said: still there");
        // A crash leaves the socket file behind.
        glowplug.signal(Signal::KILL);
        glowplug.end();
        assert!(path.exists());
        Glowplug::start(backend, &words).stop();
        assert!(!path.exists());
    }

    fn a_unix_path_that_is_no_socket_is_an_error_and_stays_as_it_is(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("precious");
        fs::write(&path, "data").unwrap();
        fails_with(
            backend,
            &format!("chat serve --unix {}", path.display()),
            &[&path.display().to_string(), "not a socket"],
        );
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    // ---- what was inherited -----------------------------------------------------------------------------------------

    fn an_inherited_listener_is_used_in_place_of_an_address(backend: Backend) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        for (words, service) in [("echo --port 1", "echo"), ("http --host no.such.host.invalid", "http")] {
            let mut inherits = shell(backend, r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 </dev/null"#, words);
            inherits.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
            let mut glowplug = Glowplug::spawn(inherits);
            assert_eq!(glowplug.listens(), (service.to_owned(), address.clone()));
            TcpStream::connect(tcp_of(&address)).unwrap();
            glowplug.stop();
        }
    }

    fn inherited_listeners_are_told_apart_by_name_or_taken_in_order(backend: Backend) {
        for (names, order) in [("", ["echo", "chat", "http"]), ("http:echo:chat", ["http", "echo", "chat"])] {
            let listeners = order.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
            let addresses = listeners.each_ref().map(|listener| Address::Tcp(listener.local_addr().unwrap()));
            // Plain `glowplug`. A child gets at most three descriptors, so its output goes to a file.
            let scratch = Scratch::new();
            let script = format!(
                "cd {}; LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES={names} \
                 exec \"$0\" 3<&0 4<&1 5<&2 </dev/null >out 2>err",
                scratch.path().display()
            );
            let mut inherits = shell(backend, &script, "");
            let [first, second, third] = listeners.map(OwnedFd::from).map(Stdio::from);
            inherits.stdin(first).stdout(second).stderr(third);
            let glowplug = Glowplug::spawn(inherits);
            let lines = eventually("three lines", || {
                fs::read_to_string(scratch.join("out")).ok().filter(|text| text.lines().count() == 3)
            });
            for (service, address) in order.iter().zip(&addresses) {
                assert!(lines.contains(&format!("listening {service} {address}\n")), "{service} at {address}: {lines}");
            }
            glowplug.stop();
        }
    }

    fn an_inherited_listener_that_nothing_is_left_for_is_an_error_that_names_it(backend: Backend) {
        let cases = [("LISTEN_FDS=1 LISTEN_FDNAMES=chat", "\"chat\""), ("LISTEN_FDS=2 LISTEN_FDNAMES=echo:http", "\"http\"")];
        for (variables, named) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let script = format!("LISTEN_PID=$$ {variables} exec \"$0\" \"$@\" 3<&0 4<&0 </dev/null");
            let mut inherits = shell(backend, &script, "echo");
            inherits.stdin(Stdio::from(OwnedFd::from(listener)));
            let ended = Glowplug::spawn(inherits).end();
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(
                ended.stderr.starts_with("error: inherited listener") && ended.stderr.contains(named),
                "{}",
                ended.stderr
            );
        }
    }

    fn what_is_inherited_and_does_not_listen_is_an_error_and_what_is_for_another_process_is_ignored(backend: Backend) {
        let ended =
            Glowplug::spawn(shell(backend, r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3</dev/null"#, "echo")).end();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.starts_with("error: listener 3: "), "{}", ended.stderr);
        let mut other =
            Glowplug::spawn(shell(backend, r#"LISTEN_PID=1 LISTEN_FDS=1 exec "$0" "$@" 3</dev/null"#, "echo --port 0"));
        other.listens();
    }

    // ---- when it cannot run -----------------------------------------------------------------------------------------

    fn a_port_that_is_taken_is_one_line_of_error(backend: Backend) {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = format!("tcp://127.0.0.1:{port}");
        for service in ["echo", "chat serve", "http"] {
            fails_with(backend, &format!("{service} --port {port}"), &[&address, "in use"]);
        }
    }

    fn a_service_that_cannot_listen_takes_the_others_with_it(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("echo.sock");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let words = format!("serve --echo unix:{} --chat {address} --http off", path.display());
        fails_with(backend, &words, &[&address.to_string()]);
        assert!(!path.exists());
    }

    fn whatever_is_in_the_way_is_named(backend: Backend) {
        let missing = "/no/such/directory/file";
        fails_with(backend, "echo --host no.such.host.invalid --port 0", &["no.such.host.invalid"]);
        fails_with(backend, "echo --host 192.0.2.1 --port 0", &["tcp://192.0.2.1:0"]);
        fails_with(backend, &format!("echo --unix {missing}"), &[missing, "No such file"]);
        fails_with(backend, &format!("echo --port 0 --log-file {missing}"), &[missing, "No such file"]);
        fails_with(backend, "echo --port 0 --log-file /", &["/: Is a directory"]);
        fails_with(backend, &format!("echo --unix /{}", "x".repeat(200)), &["107", "xxx"]);
    }

    fn wrong_usage_is_told_with_status_2(backend: Backend) {
        let taken = [
            "echo --unix /x --port 1",
            "echo --unix /x --host ::1",
            "chat join --name x --unix /x --port 1",
            "echo --model threads --loops 2",
            "--loops 1 http --model processes",
            "echo --model threads --pin",
            "echo --at-most 3",
            "chat serve --loops 2 --at-most 3",
            "serve --echo off --chat off --http off",
        ];
        let absent = ["echo --threads", "chat join", "serve --port 0"];
        let values = [
            "echo --model forks",
            "echo --loops 0",
            "echo --loops 257",
            "echo --model threads --at-most 0",
            "echo --backend kqueue",
            "echo --port 65536",
            "chat join --name x --port 0",
            "echo --port http",
            "echo --host= --port 0",
            "echo --max-connections 0",
            "echo --max-connections -1",
            "echo --idle-timeout -1",
            "echo --drain-timeout soon",
            "echo --defer-accept soon",
            "echo --log-level loud",
            "chat serve --history 10001",
            "chat serve --member-queue 0",
            "serve --slow soon",
            "serve --echo 8800",
            "serve --echo ::1:8800",
            "serve --http unix:",
            "completions tcsh",
            "chat join --name ann --loops 2",
            "--memory 64M chat join --name ann",
            "completions bash --backend select",
            "--idle-timeout 3 completions bash",
        ];
        let others =
            ["nonsense", "chat", "completions", "echo extra", "--nonsense", "--echo off http", "echo --raw --raw"];
        for words in taken.iter().chain(&absent).chain(&values).chain(&others) {
            let ended = run(backend, words);
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{words}");
            assert!(!ended.stderr.is_empty() && !ended.stderr.contains("panicked"), "{words}: {}", ended.stderr);
        }
    }

    // ---- the backend ------------------------------------------------------------------------------------------------

    fn the_first_line_of_the_log_names_the_backend_and_why(backend: Backend) {
        let by_environment = Glowplug::start(backend, "echo --port 0").stop();
        let first = by_environment.stderr.lines().next().unwrap();
        assert!(first.contains(&format!("backend {backend}: REACTOR_BACKEND={backend}")), "{first}");

        // A flag wins over the environment, and is read in its place.
        let mut flagged = command(backend, &format!("echo --port 0 --backend {backend}"));
        flagged.env("REACTOR_BACKEND", "nonsense");
        let mut glowplug = Glowplug::spawn(flagged);
        glowplug.listens();
        let by_flag = glowplug.stop();
        assert!(by_flag.stderr.lines().next().unwrap().contains(&format!("backend {backend}: ")), "{}", by_flag.stderr);

        let mut chosen = command(backend, "echo --port 0 --backend auto");
        chosen.env_remove("REACTOR_BACKEND");
        let mut glowplug = Glowplug::spawn(chosen);
        glowplug.listens();
        glowplug.stop();
    }

    fn an_unknown_backend_in_the_environment_is_an_error(backend: Backend) {
        let mut nonsense = command(backend, "echo --port 0");
        nonsense.env("REACTOR_BACKEND", "nonsense");
        let ended = Glowplug::spawn(nonsense).end();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.starts_with("error: REACTOR_BACKEND: unknown backend \"nonsense\""), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);
    }

    fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one(backend: Backend) {
        let mut glowplug = Glowplug::spawn(shell(backend, r#"ulimit -S -n 64; exec "$0" "$@""#, "echo --port 0"));
        glowplug.listens();
        let limits = fs::read_to_string(format!("/proc/{}/limits", glowplug.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[3], words[4], "{line}");
    }
}
