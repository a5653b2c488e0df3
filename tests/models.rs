//! The command under each model: two loops, or a thread or a process for each connection. A client sees equal behaviour
//! under all models, and at the end no process is left.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::client::Client;
use support::command::{Ended, Glowplug, Scratch, eventually, run, shell};
use support::{on_every_backend, unless_chaos};

/// Options for each model.
const LOOPS: &str = "--model loops --loops 2";
const THREADS: &str = "--model threads";
const PROCESSES: &str = "--model processes";
const MODELS: [&str; 3] = [LOOPS, THREADS, PROCESSES];

/// Size of a file that exceeds the buffers of any socket.
const LARGE: usize = 8 * 1024 * 1024;

/// The existing child processes of the command, zombies included.
fn children(glowplug: &Glowplug) -> Vec<Pid> {
    let pid = glowplug.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    children.split_whitespace().map(|child| child.parse().ok().and_then(Pid::from_raw).expect("a number")).collect()
}

/// The descriptors of a process: number and target.
fn descriptors(pid: Pid) -> Vec<(String, String)> {
    let pid = pid.as_raw_nonzero();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").map_while(Result::ok);
    let name = |path: &Path| path.file_name().expect("a number").to_string_lossy().into_owned();
    // A descriptor that is closed meanwhile is left out.
    let mut all: Vec<_> =
        open.filter_map(|fd| Some((name(&fd.path()), fs::read_link(fd.path()).ok()?.display().to_string()))).collect();
    all.sort();
    all
}

/// Descriptors that a child with one connection must not hold. Allowed are its connection, its channel, its poller, its
/// wake-up, the files that the parent had at the start, one descriptor of the site's directory, and one of a file
/// below. Another socket, or the reading end of the pipe for lost lines, is too many.
fn too_many(child: Pid, of_the_parent: &[(String, String)], site: &Path) -> Vec<(String, String)> {
    let is = |kind: &'static str| move |(_, to): &&(String, String)| to.starts_with(kind);
    let mut held = descriptors(child);
    let (mut sockets, mut directories, mut files) = (0, 0, 0);
    held.retain(|(fd, to)| match to {
        _ if to.starts_with("socket:") => {
            sockets += 1;
            sockets > 2 || of_the_parent.iter().any(|(_, parents)| parents == to)
        }
        // Standard input and output are the parent's.
        _ if to.starts_with("pipe:") && !matches!(&**fd, "0" | "1" | "2") && is_for_reading(child, fd) => true,
        _ if Path::new(to) == site => {
            directories += 1;
            directories > 1
        }
        _ if Path::new(to).starts_with(site) => {
            files += 1;
            files > 1
        }
        _ if to.starts_with("anon_inode:") => false,
        _ => !of_the_parent.iter().any(|(_, parents)| parents == to),
    });
    let of_child = descriptors(child);
    for kind in ["anon_inode:[eventpoll]", "anon_inode:[eventfd]"] {
        held.extend(of_child.iter().filter(is(kind)).skip(1).cloned());
    }
    held
}

/// Whether a descriptor is open only for reading. False for a descriptor that has been closed.
fn is_for_reading(pid: Pid, fd: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", pid.as_raw_nonzero())).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    flags.is_some_and(|flags| flags.ends_with('0'))
}

fn status(pid: Pid, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    value.expect("Linux tells").trim().to_owned()
}

fn is_asleep(pid: Pid) -> bool {
    status(pid, "State").starts_with('S')
}

/// Number of times that a process has slept.
fn times_slept(pid: Pid) -> u64 {
    status(pid, "voluntary_ctxt_switches").parse().expect("a number")
}

/// Number of a process's threads.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").count()
}

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
        let before = threads(glowplug.pid());
        let mut clients: Vec<Client> = (0..5).map(|_| glowplug.connect()).collect();
        clients.iter_mut().for_each(|client| drop(client.ask("hello")));
        assert_eq!(threads(glowplug.pid()), before + 5);
        drop(clients);
        eventually("the end of their threads", || (threads(glowplug.pid()) == before).then_some(()));
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

    fn a_process_that_serves_files_waits_for_the_disk_by_itself(backend: Backend) {
        let (site, _) = site();
        for model in [THREADS, PROCESSES] {
            let words = format!("http --port 0 --listing --root {} {model}", site.path().display());
            let glowplug = Glowplug::start(backend, &words);
            let before = threads(glowplug.pid());
            let mut client = glowplug.connect();
            // With loops, a helper makes every listing.
            client.send(get("/list/", ""));
            assert_eq!(client.response().status, 200);
            if model == THREADS {
                assert_eq!(threads(glowplug.pid()), before + 1);
            } else {
                let child = children(&glowplug)[0];
                assert_eq!(threads(child.as_raw_nonzero().get() as u32), 1);
            }
            stop(glowplug);
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

    fn processes_refuse_what_shares_memory_and_say_what_to_do_instead(backend: Backend) {
        let refused = [
            ("chat serve --port 0", "--model threads serve it"),
            ("serve --echo off --chat 127.0.0.1:0 --http off", "--chat off leaves it out"),
            ("http --port 0 --max-connections-per-address 3", "omit --max-connections-per-address"),
        ];
        for (words, advice) in refused {
            let ended = run(backend, &format!("{words} {PROCESSES}"));
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{words}");
            let told = &ended.stderr;
            assert!(told.starts_with("error: ") && told.matches('\n').count() == 1, "{told}");
            assert!(told.contains(": its connections share memory") && told.contains(advice), "{told}");
        }
        let words = format!("serve --echo 127.0.0.1:0 --chat off --http 127.0.0.1:0 {PROCESSES}");
        let mut glowplug = Glowplug::start(backend, &words);
        let (_, http) = glowplug.listens();
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        let mut client = Client::connect(&http);
        client.send(get("/", ""));
        assert_eq!(client.response().body, "Hello from Epoll Server!");
        stop(glowplug);
    }

    fn over_max_connections_a_newcomer_is_told_so_under_each(backend: Backend) {
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

    fn at_their_own_limit_a_newcomer_waits_for_one_to_end(backend: Backend) {
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
        let cores_of = |thread: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).expect("it runs");
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("it is told");
            list.trim().to_owned()
        };
        let names = |thread: u32| fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).expect("it runs");
        let all: Vec<u32> = fs::read_dir(format!("/proc/{pid}/task"))
            .expect("it runs")
            .map(|entry| entry.expect("it runs").file_name().to_string_lossy().parse().expect("a number"))
            .collect();
        let loops: Vec<u32> =
            all.into_iter().filter(|&thread| thread == pid || names(thread).starts_with("loop")).collect();
        assert_eq!(loops.len(), 2);
        assert!(loops.iter().all(|&thread| cores_of(thread).parse::<u32>().is_ok()), "one core each");
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

    fn a_child_holds_its_connection_its_log_and_its_channel_whenever_it_was_forked(backend: Backend) {
        let (site, scratch) = (site().0, Scratch::new());
        let words = format!(
            "serve --echo unix:{at}/echo --chat off --http 127.0.0.1:0 --root {} --model processes --log-file {at}/log \
             --access-log {at}/access",
            site.path().display(),
            at = scratch.path().display()
        );
        let mut glowplug = Glowplug::start(backend, &words);
        let http = glowplug.listens().1;
        let parent = Pid::from_raw(glowplug.pid() as i32).expect("a number");
        let of_the_parent = descriptors(parent);
        let mut clients: Vec<Client> = Vec::new();
        for address in [glowplug.address(), &http, glowplug.address(), &http] {
            clients.push(Client::connect(address));
            // A child that has served a file, too.
            clients.last_mut().expect("it has connected").send(get("/", ""));
            let count = clients.len();
            eventually("its child", || (children(&glowplug).len() == count).then_some(()));
        }
        let nobody_has_more = |when: &str| {
            eventually(&format!("children {when} that hold no more than they need"), || {
                children(&glowplug).iter().all(|&child| too_many(child, &of_the_parent, site.path()).is_empty()).then_some(())
            });
        };
        nobody_has_more("that were forked before");
        fs::rename(scratch.join("log"), scratch.join("log.1")).expect("it is there");
        fs::rename(scratch.join("access"), scratch.join("access.1")).expect("it is there");
        glowplug.signal(Signal::HUP);
        eventually("new files", || (scratch.join("log").exists() && scratch.join("access").exists()).then_some(()));
        nobody_has_more("whose logs were opened anew");
        drop(clients);
        stop(glowplug);
    }

    fn an_idle_parent_sleeps(backend: Backend) {
        unless_chaos!("a wait may end without an event");
        let glowplug = Glowplug::start(backend, "http --port 0 --model processes");
        let mut client = glowplug.connect();
        client.send(get("/", ""));
        assert_eq!(client.response().status, 200);
        let child = eventually("its child", || children(&glowplug).pop());
        let of_both = [Pid::from_raw(glowplug.pid() as i32).expect("a number"), child];
        eventually("rest", || of_both.iter().all(|&pid| is_asleep(pid)).then_some(()));
        let before = of_both.map(times_slept);
        // The fault was that the process woke up once a second to ask for lost lines.
        std::thread::sleep(Duration::from_millis(2500));
        let after = of_both.map(times_slept);
        assert!(before.iter().zip(after).all(|(before, after)| after - before <= 1), "{before:?} {after:?}");
        drop(client);
        stop(glowplug);
    }

    fn a_child_that_is_forked_during_a_stop_does_not_listen_and_a_restart_finds_the_port_free(backend: Backend) {
        let (site, large) = site();
        // More clients than one turn accepts: the last is accepted after the stop has begun.
        for queued in [65, 66] {
            let words = format!("http --port 0 --drain-timeout 0 --model processes --root {}", site.path().display());
            let glowplug = Glowplug::start(backend, &words);
            let parent = Pid::from_raw(glowplug.pid() as i32).expect("a number");
            let of_the_parent = descriptors(parent);
            glowplug.signal(Signal::STOP);
            let mut clients: Vec<Client> = (0..queued).map(|_| glowplug.connect()).collect();
            // The answer is not read, so each child stays.
            clients.iter_mut().for_each(|client| client.send(get("/large.txt", "")));
            glowplug.signal(Signal::TERM);
            glowplug.signal(Signal::CONT);
            eventually("a child for each", || (children(&glowplug).len() == queued).then_some(()));
            eventually("children that hold no more than they need", || {
                children(&glowplug).iter().all(|&child| too_many(child, &of_the_parent, site.path()).is_empty()).then_some(())
            });
            let address = glowplug.tcp();
            eventually("the end of listening", || Client::try_connect(glowplug.address()).is_err().then_some(()));
            let restarted = Glowplug::start(backend, &format!("echo --port {}", address.port()));
            assert_eq!(restarted.connect().ask("hello"), "You said: hello");
            restarted.stop();
            // Queued clients are served to the end.
            let mut last = clients.pop().expect("it has connected");
            assert_eq!(last.response_head().status, 200);
            assert!(last.rest() == large);
            drop((last, clients));
            assert_eq!(glowplug.end().code, Some(0));
        }
    }

    // Rule 24.
    fn a_child_that_does_not_end_is_killed_when_the_drain_time_is_over_and_not_a_second_later(backend: Backend) {
        let glowplug = Glowplug::start(backend, "echo --port 0 --model processes --drain-timeout 0.4");
        let mut client = glowplug.connect();
        client.ask("hello");
        kill_process(children(&glowplug)[0], Signal::STOP).expect("it is there");
        let ended = stop(glowplug);
        let (_, after) = ended.stderr.split_once("stopped after ").expect("it says so");
        let took: u64 = after.split(' ').next().expect("a number").parse().expect("a number");
        // A generous guard: the parent once waited one second longer.
        assert!((400..1300).contains(&took), "{took} ms");
        assert!(client.is_ended());
    }

    fn a_second_signal_ends_all_of_them_at_once(backend: Backend) {
        let (site, _) = site();
        for model in MODELS {
            // Without a drain time, so no server ends before its client unless forced.
            let words = format!("http --port 0 --drain-timeout 0 --root {} {model}", site.path().display());
            let glowplug = Glowplug::start(backend, &words);
            let mut client = glowplug.connect();
            client.send(get("/large.txt", ""));
            assert_eq!(client.response_head().status, 200);
            let children = children(&glowplug);
            glowplug.signal(Signal::TERM);
            // The server has received the signal when it accepts no more connections.
            eventually("the end of listening", || Client::try_connect(glowplug.address()).is_err().then_some(()));
            glowplug.signal(Signal::TERM);
            assert_eq!(glowplug.end().code, Some(128 + 15), "{model}");
            eventually("the end of the others", || children.iter().all(|&child| is_gone(child)).then_some(()));
            drop(client);
        }
    }

    fn a_process_that_is_killed_is_told_of_and_the_others_go_on(backend: Backend) {
        let mut glowplug = Glowplug::start(backend, "echo --port 0 --model processes");
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..3 {
            let mut client = glowplug.connect();
            client.ask("hello");
            clients.push(client);
        }
        let (victim, peer) = (children(&glowplug)[0], clients[0].writer().local_addr().unwrap().as_socket().unwrap());
        kill_process(victim, Signal::KILL).unwrap();
        glowplug.told(&format!("process {victim} for {peer} was killed by signal 9 (SIGKILL)", victim = victim.as_raw_nonzero()));
        assert!(clients[0].is_ended());
        for client in &mut clients[1..] {
            assert_eq!(client.ask("still there"), "You said: still there");
        }
        eventually("its burial", || (children(&glowplug).len() == 2).then_some(()));
        assert_eq!(glowplug.connect().ask("a new one"), "You said: a new one");
        eventually("the counters", || {
            glowplug.signal(Signal::USR1);
            let report = glowplug.told_up_to("refused 0\n");
            report.contains(" closed 1 (killed 1), ").then_some(())
        });
        stop(glowplug);
    }

    fn sigusr1_has_each_of_them_report(backend: Backend) {
        for model in [THREADS, PROCESSES] {
            let mut glowplug = Glowplug::start(backend, &format!("echo --port 0 --log-level off {model}"));
            let mut clients: Vec<Client> = (0..3).map(|_| glowplug.connect()).collect();
            clients.iter_mut().for_each(|client| drop(client.ask("hello")));
            glowplug.signal(Signal::USR1);
            for client in &clients {
                glowplug.told(&client.writer().local_addr().unwrap().as_socket().unwrap().to_string());
            }
            clients.iter_mut().for_each(|client| assert_eq!(client.ask("on"), "You said: on"));
            stop(glowplug);
        }
    }

    fn sighup_has_each_of_them_open_its_logs_anew(backend: Backend) {
        for model in MODELS {
            let (site, scratch) = (site().0, Scratch::new());
            let (log, access) = (scratch.join("log"), scratch.join("access"));
            let words = format!("http --port 0 --root {} --log-level debug {model}", site.path().display());
            let words = format!("{words} --log-file {} --access-log {}", log.display(), access.display());
            let glowplug = Glowplug::start(backend, &words);
            let mut clients: Vec<Client> = (0..3).map(|_| glowplug.connect()).collect();
            let visit = |client: &mut Client, path| {
                client.send(get(path, ""));
                assert_eq!(client.response().status, 404, "{model}");
            };
            clients.iter_mut().for_each(|client| visit(client, "/before"));
            let lines = |path, part| fs::read_to_string(path).unwrap().matches(part).count();
            // With loops a thread writes, which may be behind.
            eventually("what there is to say", || {
                (lines(&log, "http: connection ") == 3 && lines(&access, "/before") == 3).then_some(())
            });
            let old = [(&log, scratch.join("log.1")), (&access, scratch.join("access.1"))];
            for (now, then) in &old {
                fs::rename(now, then).unwrap();
            }
            glowplug.signal(Signal::HUP);
            // Every process has reopened its files when no process has the old files open.
            let inodes: Vec<u64> = old.iter().map(|(_, then)| fs::metadata(then).unwrap().ino()).collect();
            let who: Vec<u32> = children(&glowplug).iter().map(|child| child.as_raw_nonzero().get() as u32).collect();
            eventually("new files", || {
                let holds = |pid: &u32| {
                    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").map_while(Result::ok);
                    open.filter_map(|fd| fs::metadata(fd.path()).ok()).any(|file| inodes.contains(&file.ino()))
                };
                (!who.iter().chain([&glowplug.pid()]).any(holds)).then_some(())
            });
            clients.iter_mut().for_each(|client| visit(client, "/after"));
            drop(clients);
            stop(glowplug);
            assert_eq!((lines(&old[1].1, "/before"), lines(&access, "/after")), (3, 3), "{model}");
            assert_eq!((lines(&old[1].1, "/after"), lines(&access, "/before")), (0, 0), "{model}");
            // Ended children have logged to the new file.
            assert_eq!(lines(&log, "http: connection "), 3, "{model}");
        }
    }

    fn no_line_is_lost_doubled_or_torn_when_processes_share_an_output(backend: Backend) {
        // A pipe with room for the whole output, whether or not the test reads meanwhile, because a line without room
        // is dropped.
        const CLIENTS: usize = 30;
        const EACH: usize = 7;
        // One pipe for the whole output: the listening line, the log of each process, and the access log.
        let words = format!("http --port 0 --access-log - --log-level debug {PROCESSES}");
        let mut both = shell(backend, "exec \"$0\" \"$@\" 2>&1", &words);
        both.stderr(Stdio::null());
        let mut glowplug = Glowplug::spawn(both);
        let listening = loop {
            let line = glowplug.line().expect("it listens");
            if let Some(address) = line.strip_prefix("listening http ") {
                break address.parse().unwrap();
            }
        };
        let visit = |number: usize| {
            let mut client = Client::connect(&listening);
            for round in 0..EACH {
                client.send(get(&format!("/{number}-{round}-"), ""));
                assert_eq!(client.response().status, 200);
            }
        };
        std::thread::scope(|scope| {
            (0..CLIENTS).for_each(|number| drop(scope.spawn(move || visit(number))));
        });
        let text = glowplug.stop().stdout;
        assert_eq!(text.matches("listening http ").count(), 1);
        assert_eq!(text.matches(" lines lost").count(), 0);
        for number in 0..CLIENTS {
            for round in 0..EACH {
                let line = format!("\"GET /{number}-{round}- HTTP/1.1\" 200 24 \"-\" \"-\"\n");
                assert_eq!(text.matches(&line).count(), 1, "{line}");
            }
        }
        for line in text.lines() {
            let is_answer = line.starts_with("127.0.0.1 - - [") && line.ends_with("\" 200 24 \"-\" \"-\"");
            let is_log = line.starts_with("20") && line.contains("Z [");
            assert!(is_answer || is_log || line.starts_with("listening "), "{line:?}");
        }
    }

    fn a_thousand_short_connections_leave_nothing_behind(backend: Backend) {
        unless_chaos!("descriptors run out there on purpose, and the log says so");
        let glowplug = Glowplug::start(backend, &format!("http --port 0 {PROCESSES}"));
        // Leaves out the descriptor with which the server counts its own descriptors at the start.
        let counts = |target: &Path| !target.ends_with("fd");
        let open = || {
            let all = fs::read_dir(format!("/proc/{}/fd", glowplug.pid())).expect("it runs").map_while(Result::ok);
            all.filter_map(|one| fs::read_link(one.path()).ok()).filter(|target| counts(target)).count()
        };
        let serve = || {
            let mut client = glowplug.connect();
            client.send(get("/", "Connection: close\r\n"));
            assert_eq!(client.response().status, 200);
            assert_eq!(client.rest(), b"");
        };
        // The first connection comes when the server has opened its own descriptors.
        serve();
        eventually("the end of the first", || children(&glowplug).is_empty().then_some(()));
        let before = open();
        (0..999).for_each(|_| serve());
        eventually("the end of all", || (children(&glowplug).is_empty() && open() <= before).then_some(()));
        let ended = stop(glowplug);
        assert!(!ended.stderr.contains("[ERROR]") && !ended.stderr.contains("[WARN]"), "{}", ended.stderr);
        let counted = ["accepted 1000,", " open 0,", " panics 0,", " closed 1000 ("];
        assert!(counted.iter().all(|counted| ended.stderr.contains(counted)), "{}", ended.stderr);
    }
}

/// Whether the process has ended. The process that adopts an orphan may be slow to reap it.
fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
