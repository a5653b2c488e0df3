//! The command from outside: where it listens, how it ends, and its output.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use reactor::{Address, Backend};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Signal;
use support::client::Client;
use support::command::{Glowplug, Scratch, command, eventually, run, shell, tcp_of};
use support::on_every_backend;

/// A body of 100 kB that is easy to count, and the requests for forty of them: more than any socket buffer holds.
const BODY: usize = 100_000;
const REQUESTS: usize = 40;

/// `serve` with every service at a free port.
const ALL: &str = "serve --echo 127.0.0.1:0 --chat 127.0.0.1:0 --http 127.0.0.1:0";

/// A client that has requested 4 MB over HTTP in one segment, and has read only the beginning, so all requests have
/// arrived.
fn owed(glowplug: &Glowplug) -> Client {
    let mut client = glowplug.connect();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(REQUESTS));
    assert_eq!(client.bytes(15), b"HTTP/1.1 200 OK");
    client
}

fn http_with_a_large_body(backend: Backend, words: &str) -> Glowplug {
    Glowplug::start(backend, &format!("http --port 0 --body {} {words}", "~".repeat(BODY)))
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// Checks that the command fails with one line of error, and no other output.
fn fails_with(backend: Backend, words: &str, parts: &[&str]) {
    let ended = run(backend, words);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{words}: {}", ended.stderr);
    assert!(
        ended.stderr.starts_with("error: ") && ended.stderr.matches('\n').count() == 1,
        "{words}: {}",
        ended.stderr
    );
    for part in parts {
        assert!(ended.stderr.contains(part), "{words}: {part:?} is not in {}", ended.stderr);
    }
}

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

    // ---- how it ends ------------------------------------------------------------------------------------------------

    fn a_signal_does_not_wait_for_a_host_name_to_be_looked_up(backend: Backend) {
        let scratch = Scratch::new();
        // The resolver reads its aliases from a FIFO without a writer, so the look-up never ends.
        let aliases = scratch.join("aliases");
        mknodat(CWD, &aliases, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
        for words in ["echo --host slow --port 0", "chat join --name ann --host slow", "serve --http slow:0 --chat off"] {
            let mut command = command(backend, words);
            command.env("HOSTALIASES", &aliases).env("RES_OPTIONS", "timeout:1 attempts:1");
            let mut glowplug = Glowplug::spawn(command);
            // The open succeeds without waiting only while the resolver waits in the FIFO. Some resolvers have no
            // aliases, or answer before reading them; then there is nothing to interrupt.
            let looks_up = || open(&aliases, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
            let Some(_writer) = eventually("the lookup, or an end without one", || match looks_up() {
                Some(writer) => Some(Some(writer)),
                None => glowplug.has_ended().then_some(None),
            }) else {
                return;
            };
            glowplug.signal(Signal::TERM);
            let ended = glowplug.end();
            assert_eq!((ended.code, ended.stderr.as_str()), (None, ""), "{words}");
        }
    }

    fn asked_to_stop_it_closes_idle_connections_at_once_and_exits_0(backend: Backend) {
        for signal in [Signal::TERM, Signal::INT] {
            let mut glowplug = Glowplug::spawn(command(backend, &format!("{ALL} --drain-timeout 0")));
            let mut idle: Vec<_> = (0..3).map(|_| Client::connect(&glowplug.listens().1)).collect();
            idle[0].ask("I am served");
            idle[1].ask("NAME: ann");
            glowplug.signal(signal);
            assert_eq!(idle.iter_mut().map(|client| client.rest().len()).sum::<usize>(), 0);
            let ended = glowplug.end();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        }
    }

    fn asked_to_stop_it_answers_what_has_arrived(backend: Backend) {
        let mut glowplug = http_with_a_large_body(backend, "--drain-timeout 0");
        let mut client = owed(&glowplug);
        glowplug.signal(Signal::TERM);
        glowplug.told("stopping: ");
        let rest = client.rest();
        assert_eq!(rest.iter().filter(|&&byte| byte == b'~').count(), REQUESTS * BODY);
        // The server waits for an answered client that stays.
        drop(client);
        assert_eq!(glowplug.end().code, Some(0));
    }

    fn a_second_signal_ends_it_at_once_with_128_and_its_number(backend: Backend) {
        let pairs =
            [(Signal::TERM, Signal::TERM, 143), (Signal::INT, Signal::INT, 130), (Signal::INT, Signal::TERM, 143)];
        for (first, second, code) in pairs {
            let mut glowplug = http_with_a_large_body(backend, "--drain-timeout 0");
            let _waits = owed(&glowplug);
            glowplug.signal(first);
            glowplug.told("stopping: ");
            glowplug.signal(second);
            assert_eq!(glowplug.end().code, Some(code));
        }
    }

    fn whoever_does_not_read_is_given_up_when_the_drain_time_is_over(backend: Backend) {
        let glowplug = http_with_a_large_body(backend, "--drain-timeout 0.2");
        let _never_reads = owed(&glowplug);
        let ended = glowplug.stop();
        assert!(ended.stderr.contains("1 aborted"), "{}", ended.stderr);
    }

    // ---- limits -----------------------------------------------------------------------------------------------------

    fn over_max_connections_a_newcomer_is_accepted_and_closed_at_once(backend: Backend) {
        let glowplug = Glowplug::start(backend, "echo --port 0 --max-connections 2");
        let mut first = glowplug.connect();
        let mut second = glowplug.connect();
        assert_eq!((first.ask("1"), second.ask("2")), ("You said: 1".to_owned(), "You said: 2".to_owned()));
        assert!(glowplug.connect().is_ended());
        assert_eq!(first.ask("3"), "You said: 3");
        drop(second);
        eventually("room for another", || (glowplug.connect().try_ask("4")? == "You said: 4").then_some(()));
    }

    fn under_defer_accept_a_silent_client_stays_in_the_kernel_and_takes_no_place(backend: Backend) {
        let words = "--port 0 --max-connections 1 --defer-accept 600";
        let glowplug = Glowplug::start(backend, &format!("echo {words}"));
        let _silent = glowplug.connect();
        let mut client = glowplug.connect();
        assert_eq!(client.ask("here"), "You said: here");
        let glowplug = Glowplug::start(backend, &format!("http {words}"));
        let _silent = glowplug.connect();
        let mut client = glowplug.connect();
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }

    fn over_max_connections_http_says_503_first(backend: Backend) {
        let glowplug = Glowplug::start(backend, "http --port 0 --max-connections 1");
        let mut first = glowplug.connect();
        first.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(first.response().status, 200);
        let mut second = glowplug.connect();
        let response = second.response();
        assert_eq!((response.status, response.header("connection")), (503, Some("close")));
        assert_eq!(second.rest(), b"");
    }

    fn refusals_stand_in_the_report_in_the_log_and_in_the_access_log_and_the_counters_balance(backend: Backend) {
        let scratch = Scratch::new();
        let (log, access) = (scratch.join("log"), scratch.join("access"));
        let words = format!(
            "http --port 0 --max-connections 2 --log-file {} --access-log {}",
            log.display(),
            access.display()
        );
        let mut glowplug = Glowplug::start(backend, &words);
        let address = glowplug.address().to_string();
        glowplug.told(&format!("try: http://{}/ in a browser\n", glowplug.tcp()));
        let mut held: Vec<Client> = (0..2).map(|_| glowplug.connect()).collect();
        for client in &mut held {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(client.response().status, 200);
        }
        for _ in 0..2 {
            assert_eq!(glowplug.connect().response().status, 503);
        }
        glowplug.told("http: refused 1 connection, the last from ");
        glowplug.signal(Signal::USR1);
        let report = glowplug.told_up_to("http: accepted 2, open 2, closed 0, refused 2\n");
        let refuses = format!("http at {address}: newcomers are refused, at the limit of 2 connections\n");
        assert!(report.contains(&refuses), "{report}");
        assert!(report.contains("counters: accepted 2, refused 2, connected 0, open 2, "), "{report}");
        let refused = eventually("both in the access log", || {
            let lines = fs::read_to_string(&access).ok()?;
            (lines.lines().count() == 4).then(|| lines.matches("] \"-\" 503 24 \"-\" \"-\"\n").count())
        });
        assert_eq!(refused, 2);
        eventually("the report in the log file", || {
            fs::read_to_string(&log).ok()?.contains(&refuses).then_some(())
        });
        drop(held);
        glowplug.stop();
    }

    fn refusals_at_the_limit_of_each_address_stand_in_the_report_in_the_log_and_in_the_access_log(backend: Backend) {
        for model in ["--loops 2", "--model threads"] {
            let scratch = Scratch::new();
            let access = scratch.join("access");
            let words = format!("http --port 0 {model} --max-connections-per-address 2 --access-log {}", access.display());
            let mut glowplug = Glowplug::start(backend, &words);
            let address = glowplug.address().to_string();
            let mut held: Vec<Client> = (0..2).map(|_| glowplug.connect()).collect();
            for client in &mut held {
                client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                assert_eq!(client.response().status, 200);
            }
            assert_eq!(glowplug.connect().response().status, 503);
            glowplug.told("[WARN] http: refused 1 connection, the last from 127.0.0.1:");
            glowplug.told(", at the limit of 2 connections for each address\n");
            glowplug.signal(Signal::USR1);
            let whom = "none from 1 address at the limit of 2 connections for each address";
            glowplug.told(&format!("http at {address}: accepting connections, but {whom}\n"));
            drop(held);
            // A new client is accepted again, and the report says so.
            eventually("room", || {
                let mut client = glowplug.connect();
                client.try_send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
                client.try_response(false).filter(|response| response.status == 200)
            });
            let accepting = format!("http at {address}: accepting connections\n");
            eventually("a report of a service that turns nobody away", || {
                glowplug.signal(Signal::USR1);
                glowplug.told_up_to("\nconnections: ").contains(&accepting).then_some(())
            });
            glowplug.stop();
            let access = fs::read_to_string(access).expect("it is there");
            let refused = access.lines().filter(|line| line.contains("\"-\" 503 24 \"-\" \"-\"")).count();
            assert!(refused >= 1, "{access}");
        }
    }

    fn standard_input_is_no_accepted_connection_and_counts_as_none(backend: Backend) {
        // The command's standard input has ended at the start.
        let mut glowplug = Glowplug::start(backend, "chat serve --port 0");
        eventually("its end", || {
            glowplug.signal(Signal::USR1);
            let report = glowplug.told_up_to("chat: accepted 0, open 0, closed 0, refused 0\n");
            report.contains("counters: accepted 0, refused 0, connected 0, open 0, others ended 1, ").then_some(())
        });
        assert!(glowplug.stop().stderr.contains("stopping: 0 connections to finish"));
    }

    fn the_limit_of_connections_is_for_all_services_together(backend: Backend) {
        let mut glowplug = Glowplug::spawn(command(backend, &format!("{ALL} --max-connections 1")));
        let [echo, chat, http] = [(); 3].map(|()| glowplug.listens().1);
        let mut first = Client::connect(&echo);
        assert_eq!(first.ask("1"), "You said: 1");
        assert!(Client::connect(&chat).is_ended());
        assert_eq!(Client::connect(&http).response().status, 503);
        assert_eq!(first.ask("2"), "You said: 2");
    }

    fn an_idle_connection_is_closed_when_its_time_is_over(backend: Backend) {
        let mut glowplug = Glowplug::spawn(command(backend, &format!("{ALL} --idle-timeout 0.2")));
        let [echo, chat, http] = [(); 3].map(|()| glowplug.listens().1);
        // One after the other, since each time limit runs from the accept.
        let mut echo = Client::connect(&echo);
        echo.ask("hello");
        let mut chat = Client::connect(&chat);
        chat.ask("NAME: ann");
        let mut http = Client::connect(&http);
        http.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(http.response().status, 200);
        assert!(echo.is_ended() && chat.is_ended());
        assert_eq!(http.rest(), b"", "simply closed");
    }

    // ---- signals and logs -------------------------------------------------------------------------------------------

    fn sigusr1_reports_counters_and_connections_on_standard_error_whatever_the_log_level(backend: Backend) {
        let mut glowplug = Glowplug::start(backend, "echo --port 0 --log-level off");
        let mut client = glowplug.connect();
        client.ask("hello");
        glowplug.signal(Signal::USR1);
        glowplug.told("counters: accepted 1");
        glowplug.told("connections: 1\n");
        let peer = client.writer().local_addr().unwrap().as_socket().unwrap();
        glowplug.told(&peer.to_string());
        assert_eq!(client.ask("still there"), "You said: still there");
        assert_eq!(glowplug.stop().stdout.lines().count(), 1);
    }

    fn a_report_has_a_row_for_the_two_hundred_that_are_owed_most_and_counts_the_rest(backend: Backend) {
        let mut glowplug = http_with_a_large_body(backend, "--log-level off");
        let address = glowplug.address().to_string();
        let idle: Vec<Client> = (0..205).map(|_| glowplug.connect()).collect();
        let mut owed = glowplug.connect();
        owed.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10 * REQUESTS));
        // This client came last, so the others are accepted, too.
        assert_eq!(owed.bytes(15), b"HTTP/1.1 200 OK");
        let peer = owed.writer().local_addr().unwrap().as_socket().unwrap().to_string();
        // Bytes are queued only when the kernel's buffers are full.
        let report = eventually("somebody that is owed something", || {
            glowplug.signal(Signal::USR1);
            let report = glowplug.told_up_to(" more, who are owed no more than these\n");
            report.contains("  choked  ").then_some(report)
        });
        // The last lines of a report that came before.
        let report = report.split_once("counters: ").map(|(_, report)| format!("counters: {report}")).expect("a report");
        drop((idle, owed));
        glowplug.stop();
        let lines: Vec<&str> = report.lines().collect();
        assert!(lines[0].starts_with("counters: accepted 206"), "{}", lines[0]);
        assert!(lines[1].starts_with(&format!("http at {address}: ")), "{}", lines[1]);
        assert!(lines[2].starts_with("memory: "), "{}", lines[2]);
        assert_eq!(lines[3], "connections: 206");
        let rows = &lines[5..205];
        assert!(rows[0].contains(&peer) && rows[0].contains("  choked  "), "{report}");
        assert!(rows.iter().all(|row| row.contains("  http  ")), "{report}");
        assert!(lines[4..205].iter().all(|row| row.len() == rows[0].len()), "not in columns: {report}");
        assert!(lines[205].starts_with("and 6 more"), "{report}");
    }

    fn a_report_says_why_newcomers_have_to_wait(backend: Backend) {
        let mut glowplug = Glowplug::spawn(shell(backend, "ulimit -n 40; exec \"$0\" \"$@\"", "echo --port 0"));
        glowplug.listens();
        let clients: Vec<Client> = (0..40).map(|_| glowplug.connect()).collect();
        glowplug.told("at the limit of ");
        glowplug.signal(Signal::USR1);
        glowplug.told(": newcomers have to wait, since it is at its limit\n");
        drop(clients);
        glowplug.stop();
    }

    fn sighup_opens_the_log_file_anew_and_loses_no_line(backend: Backend) {
        const EACH: usize = 50;
        let scratch = Scratch::new();
        let (log, old) = (scratch.join("log"), scratch.join("log.1"));
        fs::write(&log, "what was there before\n").unwrap();
        let words = format!("echo --port 0 --log-level debug --log-file {}", log.display());
        let glowplug = Glowplug::start(backend, &words);
        let visit = || (0..EACH).for_each(|number| drop(glowplug.connect().ask(&number.to_string())));
        visit();
        fs::rename(&log, &old).unwrap();
        visit();
        glowplug.signal(Signal::HUP);
        eventually("the new log file", || log.exists().then_some(()));
        visit();
        glowplug.stop();
        let (old, new) = (fs::read_to_string(old).unwrap(), fs::read_to_string(log).unwrap());
        assert!(old.starts_with("what was there before\n"), "appended to");
        let is_opening = |line: &&str| line.contains("echo: connection ") && !line.contains(" ended: ");
        let opened = |text: &str| text.lines().filter(is_opening).count();
        assert!(opened(&old) <= 2 * EACH && opened(&new) >= EACH, "{} and {}", opened(&old), opened(&new));
        assert_eq!(opened(&old) + opened(&new), 3 * EACH);
    }

    fn a_log_file_that_cannot_be_opened_anew_stays_in_use(backend: Backend) {
        let scratch = Scratch::new();
        let directory = scratch.join("logs");
        fs::create_dir(&directory).unwrap();
        let words = format!("echo --port 0 --log-file {}", directory.join("log").display());
        let mut glowplug = Glowplug::start(backend, &words);
        fs::rename(&directory, scratch.join("elsewhere")).unwrap();
        glowplug.signal(Signal::HUP);
        glowplug.told("the old one stays in use");
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        glowplug.stop();
        assert!(fs::read_to_string(scratch.join("elsewhere/log")).unwrap().contains("counters: "));
    }

    fn sighup_without_a_log_file_does_nothing(backend: Backend) {
        let glowplug = Glowplug::start(backend, "echo --port 0");
        glowplug.signal(Signal::HUP);
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        glowplug.stop();
    }

    fn log_lines_have_a_date_a_time_and_a_level(backend: Backend) {
        let ended = Glowplug::start(backend, "echo --port 0").stop();
        for line in ended.stderr.lines() {
            let (date, rest) = line.split_once('T').unwrap();
            assert!(date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'), "{line}");
            // Microseconds, always with six digits.
            assert!(rest[15..].starts_with("Z [INFO] "), "{line}");
        }
        assert_eq!(Glowplug::start(backend, "echo --port 0 --log-level warn").stop().stderr, "");
        assert_eq!(Glowplug::start(backend, "--log-level off echo --port 0").stop().stderr, "");
    }

    fn a_routine_disconnect_is_one_line_at_debug_with_its_reason_and_none_above(backend: Backend) {
        let visited = |level| {
            let mut glowplug = Glowplug::start(backend, &format!("echo --port 0 --log-level {level}"));
            let mut client = glowplug.connect();
            let peer = client.writer().local_addr().unwrap().as_socket().unwrap().to_string();
            client.ask("hello");
            client.half_close();
            assert_eq!(client.rest(), b"");
            glowplug.signal(Signal::USR1);
            glowplug.told("connections: 0\n");
            let stderr = glowplug.stop().stderr;
            let about: Vec<String> = stderr.lines().filter(|line| line.contains(&peer)).map(str::to_owned).collect();
            (peer, about)
        };
        let (peer, about) = visited("debug");
        assert_eq!(about.len(), 2, "{about:?}");
        assert!(about[0].contains("[DEBUG] echo: connection ") && about[0].ends_with(&format!(" from {peer}")));
        let ended = format!(" from {peer} ended: peer ended (received 6, sent 16, unsent 0 bytes)");
        assert!(about[1].contains("[DEBUG] echo: connection ") && about[1].ends_with(&ended), "{about:?}");
        assert_eq!(visited("info").1, [""; 0]);
    }

    fn why_it_cannot_run_is_in_the_log_file_too(backend: Backend) {
        let scratch = Scratch::new();
        let log = scratch.join("log");
        fails_with(backend, &format!("echo --host 192.0.2.1 --port 0 --log-file {}", log.display()), &["192.0.2.1"]);
        assert!(fs::read_to_string(log).unwrap().contains("[ERROR] tcp://192.0.2.1:0: "));
    }

    fn a_closed_standard_output_is_no_reason_to_stop(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("echo.sock");
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let mut unheard = command(backend, &format!("echo --unix {}", path.display()));
        unheard.stdout(Stdio::from(writer));
        let glowplug = Glowplug::spawn(unheard);
        let mut client = eventually("it to listen", || Client::try_connect(&Address::Unix(path.clone())).ok());
        assert_eq!(client.ask("hello"), "You said: hello");
        glowplug.stop();
    }

    fn a_closed_standard_error_is_no_reason_to_stop(backend: Backend) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let mut unheard = command(backend, "echo --port 0 --log-level debug");
        unheard.stderr(Stdio::from(writer));
        let mut glowplug = Glowplug::spawn(unheard);
        glowplug.listens();
        glowplug.signal(Signal::USR1);
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        glowplug.stop();
    }

    fn a_standard_error_that_nobody_reads_stops_neither_the_service_nor_its_end(backend: Backend) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        let mut unheard = command(backend, "echo --port 0 --log-level debug");
        unheard.stderr(Stdio::from(writer));
        let mut glowplug = Glowplug::spawn(unheard);
        glowplug.listens();
        for number in 0..200 {
            assert_eq!(glowplug.connect().ask(&number.to_string()), format!("You said: {number}"));
        }
        glowplug.signal(Signal::USR1);
        assert_eq!(glowplug.connect().ask("still there"), "You said: still there");
        glowplug.stop();
        drop(reader);
    }

    fn lines_that_standard_error_has_no_room_for_are_counted(backend: Backend) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        let mut unheard = command(backend, "echo --port 0 --log-level debug");
        unheard.stderr(Stdio::from(writer));
        let mut glowplug = Glowplug::spawn(unheard);
        glowplug.listens();
        // Two lines for each connection.
        for _ in 0..5000 {
            glowplug.connect();
        }
        glowplug.connect().ask("all accepted");
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).map(|_| text).unwrap()
        });
        glowplug.stop();
        let text = text.join().unwrap();
        let is_told = |line: &str| line.contains(" [WARN] standard error: ") && line.contains(" lines lost: they came faster");
        assert!(text.lines().any(is_told), "{} lines", text.lines().count());
    }

    // ---- the rest ---------------------------------------------------------------------------------------------------

    fn random_bytes_harm_one_connection_at_most(backend: Backend) {
        let mut glowplug = Glowplug::spawn(command(backend, &format!("{ALL} --log-level warn")));
        let addresses = [(); 3].map(|()| glowplug.listens().1);
        let [echo, chat, http] = &addresses;
        let (mut echo, mut chat, mut http) = (Client::connect(echo), Client::connect(chat), Client::connect(http));
        chat.ask("NAME: witness");
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for round in 0..40 {
            for address in &addresses {
                let mut bytes: Vec<u8> = (0..200 + usize::from(random()) * 8).map(|_| random()).collect();
                if round % 2 == 0 {
                    bytes[0] = 0;
                }
                let mut client = Client::connect(address);
                client.send(&bytes);
                client.half_close();
                assert!(client.is_ended());
            }
        }
        assert_eq!(echo.ask("still there"), "You said: still there");
        assert!(chat.ask("/who").ends_with("witness@127.0.0.1)"));
        http.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(http.response().status, 200);
        assert_eq!(glowplug.stop().stderr, "", "nothing to warn of");
    }
}

#[cfg(feature = "chaos")]
on_every_backend! {
    fn chaos_that_cannot_be_read_is_an_error_and_what_can_is_warned_of(backend: Backend) {
        let mut nonsense = command(backend, "echo --port 0");
        nonsense.env("REACTOR_CHAOS", "short_io:2");
        let ended = Glowplug::spawn(nonsense).end();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.starts_with("error: REACTOR_CHAOS: \"short_io:2\": "), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);

        let mut short = command(backend, "echo --port 0");
        short.env("REACTOR_CHAOS", "short_io:1,seed=7");
        let mut glowplug = Glowplug::spawn(short);
        glowplug.listens();
        glowplug.told("[WARN] system calls fail on purpose: REACTOR_CHAOS=short_io:1,");
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        glowplug.stop();
    }
}

#[test]
fn help_and_version_are_printed_with_status_0() {
    for words in [
        "--help",
        "-h",
        "serve --help",
        "echo --help",
        "chat --help",
        "chat serve --help",
        "chat join --help",
        "http --help",
        "completions --help",
        "help echo",
    ] {
        let ended = run(Backend::Auto, words);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{words}");
        assert!(ended.stdout.contains("Example:\n  glowplug "), "{words}: {}", ended.stdout);
    }
    let version = run(Backend::Auto, "--version");
    assert_eq!((version.code, version.stdout), (Some(0), format!("glowplug {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn completions_are_printed_for_each_shell_and_to_nobody_without_complaint() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = run(Backend::Auto, &format!("completions {shell}"));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains("--drain-timeout") || ended.stdout.contains("drain-timeout"), "{shell}");
    }
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let mut unheard = command(Backend::Auto, "completions bash");
    unheard.stdout(Stdio::from(writer));
    let ended = Glowplug::spawn(unheard).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
