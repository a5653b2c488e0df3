//! A process for each connection: descriptors and end of a child, and memory shared with the parent.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::procfs::{children, descriptors, is_asleep, is_gone, names_of_threads, threads, times_slept, too_many};
use crate::support::client::Client;
use crate::support::command::{Glowplug, Scratch, eventually, run, shell};
use crate::support::{on_every_backend, unless_chaos};
use crate::{MODELS, PROCESSES, THREADS, get, site, stop};

/// A loopback address that no other test uses.
const OWN_HOST: &str = "127.0.0.81";

on_every_backend! {
    fn a_process_that_serves_files_waits_for_the_disk_by_itself(backend: Backend) {
        let (site, _) = site();
        for model in [THREADS, PROCESSES] {
            let words = format!("http --port 0 --listing --root {} {model}", site.path().display());
            let glowplug = Glowplug::start(backend, &words);
            let mut client = glowplug.connect();
            // With loops, a helper makes every listing.
            client.send(get("/list/", ""));
            assert_eq!(client.response().status, 200);
            if model == THREADS {
                let all = names_of_threads(glowplug.pid());
                assert!(!all.iter().any(|name| name == "files"), "{all:?}");
            } else {
                let child = children(&glowplug)[0];
                assert_eq!(threads(child.as_raw_nonzero().get() as u32), 1);
            }
            stop(glowplug);
        }
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
        // The fault was that the process woke up once a second to ask for lost lines. What is still to do at first does not
        // matter.
        eventually("a time in which both sleep", || {
            let before = of_both.map(times_slept);
            std::thread::sleep(Duration::from_millis(2500));
            let after = of_both.map(times_slept);
            before.iter().zip(after).all(|(before, after)| after - before <= 1).then_some(())
        });
        drop(client);
        stop(glowplug);
    }

    fn a_child_that_is_forked_during_a_stop_does_not_listen_and_a_restart_finds_the_port_free(backend: Backend) {
        let (site, large) = site();
        // More clients than one turn accepts: the last is accepted after the stop has begun.
        for queued in [65, 66] {
            // No client of a neighbouring test has an address of this host, so none can have the port when it is free.
            let words = format!("http --host {OWN_HOST} --port 0 --drain-timeout 0 --model processes --root {}", site.path().display());
            let glowplug = Glowplug::start(backend, &words);
            let parent = Pid::from_raw(glowplug.pid() as i32).expect("a number");
            let of_the_parent = descriptors(parent);
            glowplug.stand_still();
            let mut clients: Vec<Client> = (0..queued).map(|_| glowplug.connect()).collect();
            // The answer is not read, so each child stays.
            clients.iter_mut().for_each(|client| client.send(get("/large.txt", "")));
            glowplug.signal(Signal::TERM);
            glowplug.go_on();
            eventually("a child for each", || (children(&glowplug).len() == queued).then_some(()));
            eventually("children that hold no more than they need", || {
                children(&glowplug).iter().all(|&child| too_many(child, &of_the_parent, site.path()).is_empty()).then_some(())
            });
            let address = glowplug.tcp();
            eventually("the end of listening", || Client::try_connect(glowplug.address()).is_err().then_some(()));
            let restarted = Glowplug::start(backend, &format!("echo --host {OWN_HOST} --port {}", address.port()));
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
        // The fault was that the parent always waited one second longer. A machine may be late at times.
        eventually("a stop that takes the drain time", || {
            let glowplug = Glowplug::start(backend, "echo --port 0 --model processes --drain-timeout 0.4");
            let mut client = glowplug.connect();
            client.ask("hello");
            kill_process(children(&glowplug)[0], Signal::STOP).expect("it is there");
            let ended = stop(glowplug);
            let (_, after) = ended.stderr.split_once("stopped after ").expect("it says so");
            let took: u64 = after.split(' ').next().expect("a number").parse().expect("a number");
            assert!(took >= 400, "{took} ms");
            assert!(client.is_ended());
            (took < 1300).then_some(())
        });
    }

    /// The parent once took such a child for one that had panicked, and its connection for one that had finished.
    fn a_connection_that_is_aborted_at_the_end_of_the_drain_time_is_counted_so(backend: Backend) {
        let (site, _) = site();
        let words = format!("http --port 0 --drain-timeout 0.4 --root {} {PROCESSES}", site.path().display());
        let glowplug = Glowplug::start(backend, &words);
        let mut client = glowplug.connect();
        client.send(get("/large.txt", ""));
        assert_eq!(client.response_head().status, 200);
        let ended = stop(glowplug);
        assert!(ended.stderr.contains(": 0 connections finished, 1 aborted\n"), "{}", ended.stderr);
        assert!(ended.stderr.contains("closed 1 (drain expired 1)"), "{}", ended.stderr);
        drop(client);
    }

    fn a_second_signal_ends_all_of_them_at_once(backend: Backend) {
        let (site, _) = site();
        for model in MODELS {
            // Without a drain time, so no server ends before its client unless forced.
            let words = format!("http --port 0 --drain-timeout 0 --root {} {model}", site.path().display());
            let mut glowplug = Glowplug::start(backend, &words);
            let mut client = glowplug.connect();
            client.send(get("/large.txt", ""));
            assert_eq!(client.response_head().status, 200);
            let children = children(&glowplug);
            glowplug.signal(Signal::TERM);
            // The system may merge two signals that arrive together.
            glowplug.told("signal 15: stopping\n");
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
        // On a busy machine, and under a sanitizer, a fork may take longer than a callback should.
        let is_bad = |line: &str| (line.contains("[ERROR]") || line.contains("[WARN]")) && !line.contains(" held the loop ");
        assert!(!ended.stderr.lines().any(is_bad), "{}", ended.stderr);
        let counted = ["accepted 1000,", " open 0,", " panics 0,", " closed 1000 ("];
        assert!(counted.iter().all(|counted| ended.stderr.contains(counted)), "{}", ended.stderr);
    }
}
