//! Outputs of the command that are no plain files: a FIFO, a directory, a full disk, a pipe without a reader, and no
//! thread for writing. The command reports the problem, and serves.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use reactor::{Address, Backend};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;
use support::client::Client;
use support::command::{Glowplug, Scratch, command, copy_of_the_command, eventually, run, shell};
use support::on_every_backend;

const MODELS: [&str; 3] = ["--model loops --loops 2", "--model threads", "--model processes"];

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
}

fn visit(glowplug: &Glowplug, path: &str) {
    let mut client = glowplug.connect();
    client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert_eq!(client.response().status, 200);
    client.rest();
}

/// The total number of lost lines in the reports.
fn lost(stderr: &str) -> u64 {
    let number = |line: &str| line.split_once(" lost: ")?.0.rsplit(' ').nth(1)?.parse::<u64>().ok();
    stderr.lines().filter_map(number).sum()
}

on_every_backend! {
    // Rule 36.
    fn an_output_that_cannot_be_opened_is_one_line_of_error_and_nobody_waits_for_it(backend: Backend) {
        let scratch = Scratch::new();
        make_fifo(&scratch.join("fifo"));
        fs::create_dir(scratch.join("directory")).expect("a directory");
        let _socket = UnixListener::bind(scratch.join("socket")).expect("a socket");
        let table = [
            ("fifo", "it is a FIFO that nobody reads"),
            ("directory", "Is a directory"),
            ("socket", "it is a socket"),
            ("missing/log", "No such file or directory"),
        ];
        for model in MODELS {
            for (file, why) in table {
                for (option, name) in [("--log-file", "log file"), ("--access-log", "access log")] {
                    let path = scratch.join(file);
                    let ended = run(backend, &format!("http --port 0 {model} {option} {}", path.display()));
                    let expected = format!("error: {name} {}: {why}", path.display());
                    assert!(ended.stderr.starts_with(&expected), "{model}: {}", ended.stderr);
                    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{model}: {}", ended.stderr);
                }
            }
        }
    }

    // Rule 36.
    fn a_fifo_in_place_of_a_log_is_not_waited_for_when_logs_are_opened_anew(backend: Backend) {
        for model in MODELS {
            let scratch = Scratch::new();
            let (log, access) = (scratch.join("log"), scratch.join("access"));
            let words = format!("http --port 0 {model} --log-file {} --access-log {}", log.display(), access.display());
            let mut glowplug = Glowplug::start(backend, &words);
            visit(&glowplug, "before");
            for path in [&log, &access] {
                fs::rename(path, path.with_extension("old")).expect("it is there");
                make_fifo(path);
            }
            glowplug.signal(Signal::HUP);
            for name in ["log file", "access log"] {
                glowplug.told(&format!("[ERROR] {name} {}", scratch.path().display()));
            }
            glowplug.told("it is a FIFO that nobody reads; the old one stays in use");
            visit(&glowplug, "after");
            glowplug.stop();
            let kept = fs::read_to_string(access.with_extension("old")).expect("text");
            assert!(kept.contains("GET /before ") && kept.contains("GET /after "), "{model}: {kept}");
            let kept = fs::read_to_string(log.with_extension("old")).expect("text");
            assert!(kept.contains("counters: accepted "), "{model}: {kept}");
        }
    }

    fn a_fifo_whose_reader_comes_back_misses_what_was_said_meanwhile(backend: Backend) {
        for model in MODELS {
            let scratch = Scratch::new();
            let fifo = scratch.join("fifo");
            make_fifo(&fifo);
            let reader = || {
                let flags = OFlags::NONBLOCK.bits() as i32;
                File::options().read(true).custom_flags(flags).open(&fifo).expect("it is ours")
            };
            let heard = |mut reader: &File, what: &str| {
                let mut text = String::new();
                eventually(what, || {
                    // The read fails while the FIFO is empty.
                    let _ = reader.read_to_string(&mut text);
                    text.contains(what).then_some(())
                });
                text
            };
            let first = reader();
            let glowplug = Glowplug::start(backend, &format!("http --port 0 {model} --access-log {}", fifo.display()));
            visit(&glowplug, "one");
            heard(&first, "/one");
            drop(first);
            visit(&glowplug, "two");
            visit(&glowplug, "three");
            let second = reader();
            visit(&glowplug, "four");
            let text = heard(&second, "/four");
            let ended = glowplug.stop();
            // A writing thread may have written after the reader came back.
            let missed = 2 - text.matches("GET /t").count() as u64;
            assert_eq!(lost(&ended.stderr), missed, "{model}: {}", ended.stderr);
            assert!(missed == 0 || ended.stderr.contains(" lost: Broken pipe"), "{model}: {}", ended.stderr);
        }
    }

    fn every_line_that_a_full_disk_does_not_take_is_counted_with_the_cause_once_a_second_at_most(backend: Backend) {
        const VISITS: u64 = 40;
        for model in MODELS {
            let begin = Instant::now();
            let glowplug = Glowplug::start(backend, &format!("http --port 0 {model} --access-log /dev/full"));
            (0..VISITS).for_each(|number| visit(&glowplug, &number.to_string()));
            let ended = glowplug.stop();
            assert_eq!(lost(&ended.stderr), VISITS, "{model}: {}", ended.stderr);
            let told: Vec<_> = ended.stderr.lines().filter(|line| line.contains(" lost: ")).collect();
            for line in &told {
                assert!(line.contains("Z [WARN] access log /dev/full: ") && line.ends_with("(os error 28)"), "{line}");
            }
            // The first report, one in each second, and the last, which does not wait for its second.
            assert!(told.len() as u64 <= begin.elapsed().as_secs() + 2, "{model}: {told:?}");
        }
    }

    fn a_log_file_that_takes_no_line_is_told_of_on_standard_error(backend: Backend) {
        for model in MODELS {
            let ended = Glowplug::start(backend, &format!("echo --port 0 {model} --log-file /dev/full")).stop();
            let told = ended.stderr.lines().filter(|line| line.contains(" lost: "));
            assert!(told.clone().count() > 0, "{model}: {}", ended.stderr);
            told.for_each(|line| assert!(line.contains(" [WARN] log file /dev/full: "), "{line}"));
        }
    }

    // Rule 36.
    fn a_standard_output_that_nobody_reads_holds_up_neither_the_service_nor_its_end(backend: Backend) {
        for model in MODELS {
            let scratch = Scratch::new();
            let path = scratch.join("echo.sock");
            let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
            rustix::io::ioctl_fionbio(&writer, true).expect("it is ours");
            while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
            rustix::io::ioctl_fionbio(&writer, false).expect("it is ours");
            let mut unread = command(backend, &format!("echo --unix {} {model}", path.display()));
            unread.stdout(Stdio::from(writer));
            let mut glowplug = Glowplug::spawn(unread);
            glowplug.told("[WARN] standard output takes no `listening` lines: ");
            let mut client = eventually("it listens", || Client::try_connect(&Address::Unix(path.clone())).ok());
            assert_eq!(client.ask("hello"), "You said: hello");
            drop(client);
            glowplug.stop();
            drop(reader);
        }
    }
}

/// The command as a user that may have a single process or thread. Root has no such limit, so the command runs as
/// nobody then.
fn without_threads(scratch: &Scratch, words: &str) -> Glowplug {
    let own = scratch.join("glowplug");
    if !own.exists() {
        copy_of_the_command(&own);
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    let other = match rustix::process::geteuid().is_root() {
        true => "setpriv --reuid=65534 --regid=65534 --clear-groups",
        false => "",
    };
    // The leak check at the end of a sanitized command would need a thread.
    let no_leak_check = "ASAN_OPTIONS=\"$ASAN_OPTIONS:detect_leaks=0\"";
    let script = format!("{no_leak_check} exec {other} prlimit --nproc=1 {} \"$@\"", own.display());
    Glowplug::spawn(shell(Backend::Auto, &script, words))
}

#[test]
fn without_a_thread_for_the_log_an_error_is_told_all_the_same() {
    let scratch = Scratch::new();
    for model in MODELS {
        let ended = without_threads(&scratch, &format!("http --port 0 --root /nope {model}")).end();
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{model}: {}", ended.stderr);
        // With several loops, a missing thread may be reported first.
        assert!(ended.stderr.starts_with("error: root /nope: No such file"), "{model}: {}", ended.stderr);
    }
}

#[test]
fn without_a_thread_for_the_log_every_line_is_written_and_standard_error_says_how() {
    let scratch = Scratch::new();
    let (log, access) = (scratch.join("log"), scratch.join("access"));
    let words = format!("http --port 0 --log-file {} --access-log {}", log.display(), access.display());
    let mut glowplug = without_threads(&scratch, &words);
    glowplug.listens();
    (0..3).for_each(|number| visit(&glowplug, &number.to_string()));
    glowplug.signal(Signal::USR1);
    glowplug.told("counters: ");
    let ended = glowplug.stop();
    for name in ["standard error", "log file", "access log"] {
        assert!(ended.stderr.contains(&format!("[WARN] {name}")), "{}", ended.stderr);
    }
    assert!(ended.stderr.contains("no thread to write it"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(access).expect("text").lines().count(), 3);
    assert!(fs::read_to_string(log).expect("text").contains("[INFO] counters: "));
}

#[test]
fn without_processes_or_threads_a_stop_takes_no_longer_than_the_drain_time() {
    let scratch = Scratch::new();
    for model in ["--model threads", "--model processes"] {
        // The fault was one more second at every stop. A machine may be late at times.
        eventually("a stop that takes no longer", || {
            let mut glowplug = without_threads(&scratch, &format!("echo --port 0 --drain-timeout 0.3 {model}"));
            glowplug.listens();
            let mut waiting: Vec<Client> = (0..3).map(|_| glowplug.connect()).collect();
            waiting.iter_mut().for_each(|client| client.send("hello\n"));
            glowplug.told("new connections wait");
            let ended = glowplug.stop();
            let (_, after) = ended.stderr.split_once("stopped after ").expect("it says so");
            let took: u64 = after.split(' ').next().expect("a number").parse().expect("a number");
            (took < 1300).then_some(())
        });
    }
}
