//! What the command inherits from whoever starts it: signals that are blocked or ignored, descriptors, limits, and what
//! stands in the environment. None of it does harm.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reactor::{Address, Backend};
use rustix::process::{Pid, Signal, kill_process};
use support::client::Client;
use support::command::{Glowplug, Scratch, command, eventually, shell};
use support::on_every_backend;

const MODELS: [&str; 3] = ["--model loops --loops 2", "--model threads", "--model processes"];

/// A line of `/proc/PID/status` for each thread of a process: a set of signals, the lowest bit for the first.
fn sets(pid: u32, line: &str) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").map_while(Result::ok);
    let of = |status: String| {
        let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':')).expect("it is told");
        u64::from_str_radix(found.trim(), 16).expect("a set")
    };
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).map(of).collect()
}

fn children(glowplug: &Glowplug) -> Vec<u32> {
    let pid = glowplug.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    children.split_whitespace().map(|child| child.parse().expect("a number")).collect()
}

/// Started by env(1), which blocks or ignores signals before it becomes the command.
fn started_with(backend: Backend, signals: &str, words: &str) -> Glowplug {
    let mut glowplug = Glowplug::spawn(shell(backend, &format!("exec env {signals} \"$0\" \"$@\""), words));
    glowplug.listens();
    glowplug
}

fn is_in(set: u64, signal: Signal) -> bool {
    set & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn completions_that_no_file_takes_are_an_error() {
    let scratch = Scratch::new();
    let script = format!("ulimit -f 1; exec \"$0\" \"$@\" > {}", scratch.join("x").display());
    let ended = Glowplug::spawn(shell(Backend::Auto, &script, "completions bash")).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("error: standard output: File too large"), "{}", ended.stderr);
}

on_every_backend! {
    // Rule 35.
    fn signals_that_were_blocked_are_heard_under_each_model(backend: Backend) {
        for model in MODELS {
            let mut glowplug = started_with(backend, "--block-signal", &format!("echo --port 0 {model}"));
            let mut client = glowplug.connect();
            client.ask("hello");
            // A thread that starts another blocks all for a moment, and so does a process that forks.
            eventually("signals that nobody blocks", || {
                let mut all = children(&glowplug).into_iter().chain([glowplug.pid()]);
                all.all(|pid| sets(pid, "SigBlk").iter().all(|&blocked| blocked == 0)).then_some(())
            });
            glowplug.signal(Signal::USR1);
            glowplug.told("counters");
            drop(client);
            glowplug.stop();
        }
    }

    fn signals_that_were_ignored_for_a_reason_stay_so_and_sigterm_is_taken_in_any_case(backend: Backend) {
        for model in MODELS {
            let glowplug = started_with(backend, "--ignore-signal", &format!("echo --port 0 {model}"));
            let mut client = glowplug.connect();
            client.ask("hello");
            for pid in children(&glowplug).into_iter().chain([glowplug.pid()]) {
                for ignored in sets(pid, "SigIgn") {
                    for signal in [Signal::INT, Signal::QUIT, Signal::HUP, Signal::PIPE, Signal::XFSZ] {
                        assert!(is_in(ignored, signal), "{model}: {signal:?}");
                    }
                    assert!(!is_in(ignored, Signal::TERM) && !is_in(ignored, Signal::CHILD), "{model}");
                }
            }
            for signal in [Signal::INT, Signal::INT, Signal::QUIT, Signal::HUP] {
                glowplug.signal(signal);
            }
            assert_eq!(client.ask("still"), "You said: still");
            drop(client);
            glowplug.stop();
        }
    }

    fn sighup_that_was_ignored_opens_a_log_file_anew_all_the_same(backend: Backend) {
        for model in MODELS {
            let scratch = Scratch::new();
            let (now, then) = (scratch.join("log"), scratch.join("log.1"));
            let words = format!("echo --port 0 --log-file {} {model}", now.display());
            let glowplug = started_with(backend, "--ignore-signal=HUP", &words);
            eventually("its log", || now.exists().then_some(()));
            fs::rename(&now, &then).expect("it is there");
            // Once it runs, it hears the signal.
            eventually("the handler", || (!is_in(sets(glowplug.pid(), "SigIgn")[0], Signal::HUP)).then_some(()));
            glowplug.signal(Signal::HUP);
            glowplug.connect().ask("hello");
            eventually("a new log", || now.exists().then_some(()));
            glowplug.stop();
        }
    }

    fn how_a_child_has_ended_is_told_where_sigchld_was_ignored(backend: Backend) {
        let mut glowplug = started_with(backend, "--ignore-signal=CHLD", "echo --port 0 --model processes");
        let mut client = glowplug.connect();
        client.ask("hello");
        let child = children(&glowplug)[0];
        kill_process(Pid::from_raw(child as i32).expect("a number"), Signal::KILL).expect("it is there");
        glowplug.told(&format!("process {child} for"));
        glowplug.told("was killed by signal 9 (SIGKILL)");
        glowplug.stop();
    }

    // Rule 24.
    fn an_endless_standard_input_does_not_delay_a_stop(backend: Backend) {
        // The drain time is for ever, so whoever waited for the end of the input would be noticed.
        let mut yes = Command::new("yes").arg("/who").stdout(Stdio::piped()).spawn().expect("there is one");
        let endless = [Stdio::from(fs::File::open("/dev/zero").expect("a device")), yes.stdout.take().expect("piped").into()];
        for input in endless {
            let mut words = command(backend, "chat serve --port 0 --drain-timeout 0");
            words.stdin(input);
            let mut chat = Glowplug::spawn(words);
            chat.listens();
            let client = format!("chat join --name ann --port {}", chat.tcp().port());
            let ann = Glowplug::spawn(shell(backend, r#"exec "$0" "$@" < /dev/zero"#, &client));
            let mut ben = chat.connect();
            ben.ask("ben");
            eventually("ann", || ben.ask("/who").contains("ann").then_some(()));
            ann.signal(Signal::TERM);
            ann.end();
            drop(ben);
            chat.stop();
        }
        yes.wait().expect("it is ours");
    }

    // Rule 35.
    fn a_log_that_reaches_its_greatest_size_costs_its_lines_and_nothing_else(backend: Backend) {
        for model in MODELS {
            let scratch = Scratch::new();
            let (log, access) = (scratch.join("log"), scratch.join("access"));
            let words = format!("http --port 0 --log-level debug {model}");
            let words = format!("{words} --log-file {} --access-log {}", log.display(), access.display());
            let mut glowplug = Glowplug::spawn(shell(backend, r#"ulimit -f 2; exec "$0" "$@""#, &words));
            glowplug.listens();
            for _ in 0..30 {
                let mut client = glowplug.connect();
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_eq!(client.response().status, 200, "{model}");
            }
            glowplug.stop();
            for file in [&log, &access] {
                let length = fs::metadata(file).expect("it is there").len();
                assert!((1..=1024).contains(&length), "{model}: {} has {length} bytes", file.display());
            }
        }
    }

    fn closed_standard_streams_are_never_a_socket_nor_a_log(backend: Backend) {
        for model in MODELS {
            let scratch = Scratch::new();
            let (at, log) = (scratch.join("s"), scratch.join("log"));
            let words = format!("echo --unix {} --log-file {} {model}", at.display(), log.display());
            let glowplug = Glowplug::spawn(shell(backend, r#"exec "$0" "$@" <&- >&- 2>&-"#, &words));
            let mut client = eventually("it listens", || Client::try_connect(&Address::Unix(at.clone())).ok());
            assert_eq!(client.ask("hello"), "You said: hello");
            for pid in children(&glowplug).into_iter().chain([glowplug.pid()]) {
                for number in 0..3 {
                    let to = fs::read_link(format!("/proc/{pid}/fd/{number}")).expect("it is open");
                    assert_eq!(to, PathBuf::from("/dev/null"), "{model}");
                }
            }
            drop(client);
            glowplug.stop();
        }
    }
}
