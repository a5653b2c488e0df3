//! State that the command inherits from the parent process is harmless: blocked and ignored signals, descriptors, limits, the
//! environment.

mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reactor::{Address, Backend};
use rustix::process::{Pid, Signal, kill_process};
use support::client::Client;
use support::command::{Glowplug, Scratch, bash, command, eventually, shell};
use support::{on_every_backend, unless_chaos};

const MODELS: [&str; 3] = ["--model loops --loops 2", "--model threads", "--model processes"];

/// Closes what the test itself inherited, in bash: each number below a limit of descriptors is free, so none is spare. A
/// descriptor with a number above the limit counts as open and takes no number below.
const CLOSE_ALL_OTHERS: &str =
    "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [[ $fd -lt 3 ]] || eval \"exec $fd>&-\"; done;";

/// One line of `/proc/PID/status` for each thread: a set of signals, with the first signal in the lowest bit.
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

/// Starts the command by env(1), which blocks or ignores signals first.
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

/// Starts the command with a descriptor of the test as its first inherited listener.
fn handed(backend: Backend, listener: OwnedFd, words: &str) -> Glowplug {
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0"#;
    let mut command = shell(backend, script, words);
    command.stdin(Stdio::from(listener));
    Glowplug::spawn(command)
}

#[cfg(target_os = "linux")]
#[test]
fn an_inherited_abstract_socket_is_shown_by_its_name() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    let name = format!("glowplug\n{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let listener = UnixListener::bind_addr(&address).expect("nobody has it");
    let mut glowplug = handed(Backend::Auto, listener.into(), "echo");
    let shown = format!("listening echo unix:@glowplug\\n{}", std::process::id());
    assert_eq!(glowplug.line(), Some(shown));
    UnixStream::connect_addr(&address).expect("it listens");
    glowplug.stop();
}

on_every_backend! {
    // Rule 35.
    fn an_absurd_value_in_the_environment_is_one_line_of_error_that_names_it(backend: Backend) {
        let table = [
            ("LISTEN_PID=$$ LISTEN_FDS=2147483644", "listener 3: "),
            ("LISTEN_PID=$$ LISTEN_FDS=2147483645", "LISTEN_FDS: "),
            ("LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_FDS: "),
            ("LISTEN_PID=$$ LISTEN_FDS=many", "LISTEN_FDS: "),
            ("LISTEN_PID=$$ LISTEN_FDS=\"$(printf '\\377')\"", "LISTEN_FDS: "),
            ("LISTEN_PID=me LISTEN_FDS=1", "LISTEN_PID: "),
            ("LISTEN_PID=$$ LISTEN_FDS=0 LISTEN_FDNAMES=echo", "LISTEN_FDNAMES: "),
            ("REACTOR_BACKEND=\"$(printf 'a\\nb')\"", "REACTOR_BACKEND: unknown backend"),
        ];
        for (variables, why) in table {
            let script = format!("{variables} exec \"$0\" \"$@\"");
            let ended = Glowplug::spawn(shell(backend, &script, "echo --port 0")).end();
            assert!(ended.stderr.starts_with(&format!("error: {why}")), "{variables}: {}", ended.stderr);
            assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{variables}: {}", ended.stderr);
        }
    }

    fn a_path_with_a_newline_stays_in_its_line_wherever_it_is_shown(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("a\nlistening echo unix:b\u{1b}[2J");
        let spelt = format!("unix://{}/a\\nlistening echo unix:b\\u{{1b}}[2J", scratch.path().display());
        let mut words = command(backend, "echo --unix");
        words.arg(&path);
        let mut glowplug = Glowplug::spawn(words);
        assert_eq!(glowplug.line(), Some(format!("listening echo {spelt}")));
        glowplug.signal(Signal::USR1);
        glowplug.told(&format!("echo at {spelt}"));
        let mut again = command(backend, "echo --unix");
        again.arg(&path);
        let ended = Glowplug::spawn(again).end();
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{}", ended.stderr);
        assert!(ended.stderr.starts_with(&format!("error: {spelt}: ")), "{}", ended.stderr);
        let ended = glowplug.stop();
        assert!(!ended.stderr.contains('\u{1b}') && !ended.stderr.contains("\nlistening"), "{}", ended.stderr);
    }

    // Rules 17 and 35.
    fn with_a_low_limit_of_descriptors_it_serves_or_says_at_the_start_why_not(backend: Backend) {
        unless_chaos!("accepts that fail on purpose leave nobody else to free a descriptor");
        for words in ["echo --port 0", "chat serve --port 0", "http --port 0"] {
            for model in MODELS.iter().filter(|model| !(words.starts_with("chat") && model.ends_with("processes"))) {
                let mut served = 0;
                for limit in 4..24 {
                    // The leak check at the end of a sanitized command opens files.
                    let no_leak_check = "ASAN_OPTIONS=\"$ASAN_OPTIONS:detect_leaks=0\"";
                    let script =
                        format!("{CLOSE_ALL_OTHERS} ulimit -n {limit}; {no_leak_check} exec \"$0\" \"$@\"");
                    let mut glowplug = Glowplug::spawn(bash(backend, &script, &format!("{words} {model}")));
                    let Some(line) = glowplug.line() else {
                        let ended = glowplug.end();
                        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{limit}: {}", ended.stderr);
                        assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
                        assert_eq!(served, 0, "{words} {model}: a lower limit than {limit} was enough");
                        continue;
                    };
                    served += 1;
                    let address: Address = line.rsplit(' ').next().and_then(|last| last.parse().ok()).expect("an address");
                    // The loop compares its descriptors with the limit after an accept, and after a client has left.
                    for nth in ["first", "second"] {
                        let mut client = Client::connect(&address);
                        client.send(if words.starts_with("http") { "GET / HTTP/1.0\r\n\r\n" } else { "hello\n" });
                        if !client.gets_a_line() {
                            glowplug.signal(Signal::USR1);
                            glowplug.signal(Signal::TERM);
                            let ended = glowplug.end();
                            panic!("{words} {model}: {limit}: nothing for the {nth} client: {}", ended.stderr);
                        }
                    }
                    glowplug.stop();
                }
                assert!(served > 0, "{words} {model}");
            }
        }
    }

    // Rule 35.
    fn signals_that_were_blocked_are_heard_under_each_model(backend: Backend) {
        for model in MODELS {
            let mut glowplug = started_with(backend, "--block-signal", &format!("echo --port 0 {model}"));
            let mut client = glowplug.connect();
            client.ask("hello");
            // A thread that starts another blocks all signals for a moment, and so does a process that forks.
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
            // When the handler is set, the process receives the signal.
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
        // The drain time has no limit, so a wait for the end of the input would show.
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
