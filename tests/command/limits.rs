//! How the command ends, and its limits.

use std::fs;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::command::{Glowplug, Scratch, command, eventually};
use crate::support::on_every_backend;
use crate::{ALL, BODY, REQUESTS, http_with_a_large_body, owed};

on_every_backend! {
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

    fn over_max_connections_a_new_connection_is_accepted_and_closed_at_once(backend: Backend) {
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
        let refuses = format!("http at {address}: refusing connections, at the limit of 2 connections\n");
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
        // The time runs from the accept, and the bytes have come by then, however slowly this thread sends them.
        glowplug.stand_still();
        let [mut echo, mut chat, mut http] = [echo, chat, http].map(|address| Client::connect(&address));
        echo.send("hello\n");
        chat.send("NAME: ann\n");
        http.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        glowplug.go_on();
        assert_eq!(echo.line(), "You said: hello");
        assert_eq!(chat.line(), "CLIENT: 127.0.0.1");
        assert_eq!(http.response().status, 200);
        assert!(echo.is_ended() && chat.is_ended());
        assert_eq!(http.rest(), b"", "simply closed");
    }
}
