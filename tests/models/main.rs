//! The command under each model: two loops, or a thread or a process for each connection. A client sees equal behaviour
//! under all models (this file), and at the end no process is left. `processes` has what is true of processes alone.

#[path = "../support/mod.rs"]
mod support;

mod processes;
mod procfs;

use std::fs;
use std::path::Path;

use procfs::{children, threads};
use rustix::process::{Signal, test_kill_process};
use support::client::Client;
use support::command::{Ended, Glowplug, Scratch, eventually};
use support::on_every_backend;

/// Options for each model.
const LOOPS: &str = "--model loops --loops 2";
const THREADS: &str = "--model threads";
const PROCESSES: &str = "--model processes";
const MODELS: [&str; 3] = [LOOPS, THREADS, PROCESSES];

/// Size of a file that exceeds the buffers of any socket.
const LARGE: usize = 8 * 1024 * 1024;

/// Stops the command in good order, and checks that no child is left.
fn stop(glowplug: Glowplug) -> Ended {
    let children = children(&glowplug);
    let ended = glowplug.stop();
    assert!(children.iter().all(|&child| test_kill_process(child).is_err()), "somebody is left");
    ended
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n")
}

/// A directory with a small file and a large one.
fn site() -> (Scratch, Vec<u8>) {
    let site = Scratch::new();
    let large: Vec<u8> = (0..LARGE).map(|at| b'a' + (at % 23) as u8).collect();
    fs::write(site.join("small.txt"), "abcdefghijklmnopqrstuvwxyz").expect("a file");
    fs::write(site.join("large.txt"), &large).expect("a file");
    fs::create_dir(site.join("list")).expect("a directory");
    (site, large)
}

/// A member of the chat.
fn join(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    assert_eq!(client.ask(name), "CLIENT: 127.0.0.1");
    client
}

on_every_backend! {
    fn echo_is_the_same_under_each(backend: Backend) {
        for model in MODELS {
            let glowplug = Glowplug::start(backend, &format!("echo --port 0 {model}"));
            let mut clients: Vec<Client> = (0..10).map(|_| glowplug.connect()).collect();
            for round in 0..20 {
                for (number, client) in clients.iter_mut().enumerate() {
                    let line = format!("{round} of {number}");
                    assert_eq!(client.ask(&line), format!("You said: {line}"), "{model}");
                }
            }
            for client in &mut clients {
                client.send("without an ending");
                client.half_close();
                assert_eq!(client.rest_as_text(), "You said: without an ending", "{model}");
            }
            stop(glowplug);
        }
    }

    fn each_connection_has_a_thread_or_a_process_of_its_own_as_long_as_it_lasts(backend: Backend) {
        let glowplug = Glowplug::start(backend, "echo --port 0 --model threads");
        let mut clients: Vec<Client> = (0..5).map(|_| glowplug.connect()).collect();
        clients.iter_mut().for_each(|client| drop(client.ask("hello")));
        // By now the threads that write logs have started, too.
        let all = threads(glowplug.pid());
        assert!(all > 5, "{all} threads");
        drop(clients);
        eventually("the end of their threads", || (threads(glowplug.pid()) == all - 5).then_some(()));
        stop(glowplug);

        let glowplug = Glowplug::start(backend, "echo --port 0 --model processes");
        let mut clients: Vec<Client> = (0..5).map(|_| glowplug.connect()).collect();
        clients.iter_mut().for_each(|client| drop(client.ask("hello")));
        assert_eq!((children(&glowplug).len(), threads(glowplug.pid())), (5, 1));
        drop(clients);
        eventually("the end of their processes", || children(&glowplug).is_empty().then_some(()));
        stop(glowplug);
    }

    fn http_keeps_connections_answers_requests_that_come_together_and_logs_each_answer(backend: Backend) {
        const CLIENTS: usize = 6;
        const EACH: usize = 12;
        let (site, large) = site();
        for model in MODELS {
            let log = site.join(&format!("access{}.log", model.replace(' ', "")));
            let words = format!("http --port 0 --root {} --listing --access-log {}", site.path().display(), log.display());
            let glowplug = Glowplug::start(backend, &format!("{words} {model}"));
            for _ in 0..CLIENTS {
                let mut client = glowplug.connect();
                client.send(get("/small.txt", ""));
                let response = client.response();
                assert_eq!((response.status, response.body.len()), (200, 26), "{model}");
                let tag = response.header("etag").expect("it has one").to_owned();
                client.send(get("/small.txt", &format!("If-None-Match: {tag}\r\n")));
                assert_eq!(client.response_head().status, 304, "{model}");
                client.send("HEAD /large.txt HTTP/1.1\r\nHost: a\r\n\r\n");
                let length = LARGE.to_string();
                assert_eq!(client.response_head().header("content-length"), Some(length.as_str()), "{model}");
                client.send(get("/none", ""));
                assert_eq!(client.response().status, 404, "{model}");
                client.send(get("/list/", ""));
                assert_eq!(client.response().status, 200, "{model}");
                client.send(get("/large.txt", "Range: bytes=1000000-1000009\r\n"));
                let response = client.response();
                assert_eq!((response.status, response.body.as_bytes()), (206, &large[1_000_000..][..10]), "{model}");
                client.send(get("/large.txt", ""));
                assert!(client.response().body.as_bytes() == large, "{model}");
                // These requests arrive together.
                client.send(get("/small.txt", "").repeat(EACH - 8) + &get("/small.txt", "Connection: close\r\n"));
                (0..EACH - 7).for_each(|_| assert_eq!(client.response().status, 200, "{model}"));
                assert_eq!(client.rest(), b"");
            }
            stop(glowplug);
            let lines = fs::read_to_string(&log).unwrap();
            assert_eq!(lines.lines().count(), CLIENTS * EACH, "{model}: {lines}");
            assert!(lines.lines().all(|line| line.starts_with("127.0.0.1 - - [") && line.ends_with("\"-\" \"-\"")));
            assert_eq!(lines.matches(" 206 10 ").count(), CLIENTS, "{model}");
        }
    }

    fn members_of_the_chat_are_in_one_room_over_loops_and_threads(backend: Backend) {
        for model in [LOOPS, THREADS] {
            let chat = Glowplug::start(backend, &format!("chat serve --port 0 {model}"));
            let mut members = vec![join(&chat, "member1")];
            for count in 2..=4 {
                members.push(join(&chat, &format!("member{count}")));
                for member in &mut members[..count - 1] {
                    let notice = format!("(Connected: New client ({count}) from member{count}@127.0.0.1)");
                    assert_eq!(member.line(), notice, "{model}");
                }
            }
            // A name is taken on every loop.
            for _ in 0..3 {
                assert!(chat.connect().ask("MEMBER2").starts_with("ERROR: "), "{model}");
            }
            let all: Vec<_> = (1..=4).map(|number| format!("member{number}@127.0.0.1")).collect();
            assert_eq!(members[3].ask("/who"), format!("(4 here: {})", all.join(", ")), "{model}");
            members[0].send((0..100).map(|number| format!("{number}\n")).collect::<String>());
            for member in &mut members[1..] {
                (0..100).for_each(|number| assert_eq!(member.line(), format!("#member1@127.0.0.1>>{number}"), "{model}"));
            }
            assert_eq!(members.remove(1).ask("/quit"), "(Goodbye)");
            for member in &mut members {
                assert_eq!(member.line(), "(Now hung up: Client from member2@127.0.0.1)", "{model}");
            }
            join(&chat, "member2");
            stop(chat);
        }
    }

    // Rule 37: with a thread for each client, clients come as fast as the room can announce them, and every client is
    // announced.
    fn many_guests_at_once_on_threads_all_come_and_go_and_are_told_of(backend: Backend) {
        const GUESTS: usize = 120;
        let chat = Glowplug::start(backend, &format!("chat serve --port 0 {THREADS}"));
        let mut members: Vec<Client> = (0..40).map(|number| join(&chat, &format!("member{number}"))).collect();
        let guests: Vec<Client> = (0..GUESTS)
            .map(|number| {
                let mut guest = chat.connect();
                // A whole line, a line completed by the end of input, and a line with more to follow.
                match number % 3 {
                    0 => guest.send(format!("guest{number}\n")),
                    1 => guest.send(format!("guest{number}")),
                    _ => guest.send(format!("guest{number}\nhello from {number}\n")),
                }
                guest.half_close();
                guest
            })
            .collect();
        for mut guest in guests {
            assert!(guest.rest().starts_with(b"CLIENT: 127.0.0.1\n"));
        }
        let heard = &mut members[0];
        let (mut came, mut went, mut said) = (0, 0, 0);
        while came < GUESTS || went < GUESTS || said < GUESTS / 3 {
            let line = heard.line();
            came += usize::from(line.starts_with("(Connected") && line.contains(" from guest"));
            went += usize::from(line.starts_with("(Now hung up: Client from guest"));
            said += usize::from(line.contains(">>hello from "));
        }
        assert_eq!((came, went, said), (GUESTS, GUESTS, GUESTS / 3));
        stop(chat);
    }

    fn over_max_connections_a_new_connection_is_told_so_under_each(backend: Backend) {
        for model in MODELS {
            let glowplug = Glowplug::start(backend, &format!("http --port 0 --max-connections 1 {model}"));
            let mut first = glowplug.connect();
            first.send(get("/", ""));
            assert_eq!(first.response().status, 200);
            assert_eq!(glowplug.connect().response().status, 503, "{model}");
            drop(first);
            eventually("room for another", || {
                let mut next = glowplug.connect();
                next.try_send(get("/", "Connection: close\r\n")).ok()?;
                (next.try_response(false)?.status == 200).then_some(())
            });
            stop(glowplug);
        }
    }

    fn at_their_own_limit_a_new_connection_waits_for_one_to_end(backend: Backend) {
        for model in [THREADS, PROCESSES] {
            let glowplug = Glowplug::start(backend, &format!("echo --port 0 --at-most 1 {model}"));
            let mut first = glowplug.connect();
            assert_eq!(first.ask("one"), "You said: one");
            let mut next = glowplug.connect();
            next.send("two\n");
            // Asked again, so that a client accepted before would have its answer by now.
            assert_eq!(first.ask("one"), "You said: one");
            assert_eq!(children(&glowplug).len() + threads(glowplug.pid()), 2 + usize::from(model == THREADS), "{model}");
            drop(first);
            assert_eq!(next.line(), "You said: two");
            drop(next);
            stop(glowplug);
        }
    }

    fn pinned_loops_keep_to_one_core_each(backend: Backend) {
        let glowplug = Glowplug::start(backend, "echo --port 0 --loops 2 --pin");
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        let pid = glowplug.pid();
        let told = |task: &Path, file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
        let is_loop = |task: &Path| task.ends_with(pid.to_string()) || told(task, "comm").starts_with("loop");
        let has_one_core = |task: &Path| {
            let status = told(task, "status");
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            list.is_some_and(|list| list.trim().parse::<u32>().is_ok())
        };
        // A loop that has just started takes its name and its core by itself. A thread that ends meanwhile has neither.
        eventually("two loops with one core each", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").map_while(Result::ok);
            let loops: Vec<_> = tasks.map(|task| task.path()).filter(|task| is_loop(task)).collect();
            (loops.len() == 2 && loops.iter().all(|task| has_one_core(task))).then_some(())
        });
        stop(glowplug);
    }

    fn an_idle_connection_is_closed_under_each(backend: Backend) {
        for model in MODELS {
            let glowplug = Glowplug::start(backend, &format!("echo --port 0 --idle-timeout 0.1 {model}"));
            assert!(glowplug.connect().is_ended());
            stop(glowplug);
        }
    }

    fn asked_to_stop_each_finishes_what_it_has_begun(backend: Backend) {
        let (site, large) = site();
        for model in MODELS {
            let glowplug = Glowplug::start(backend, &format!("http --port 0 --root {} {model}", site.path().display()));
            let mut clients: Vec<Client> = (0..3).map(|_| glowplug.connect()).collect();
            let mut idle = glowplug.connect();
            idle.send(get("/small.txt", ""));
            assert_eq!(idle.response().status, 200);
            for client in &mut clients {
                client.send(get("/large.txt", ""));
                assert_eq!(client.response_head().status, 200);
            }
            let children = children(&glowplug);
            glowplug.signal(Signal::TERM);
            assert_eq!(idle.rest(), b"", "{model}");
            for client in &mut clients {
                assert!(client.rest() == large, "{model}");
            }
            assert_eq!(glowplug.end().code, Some(0), "{model}");
            assert!(children.iter().all(|&child| test_kill_process(child).is_err()), "somebody is left");
        }
    }
}
