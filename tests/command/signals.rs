//! Reports and logs, and the signals that ask for them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use reactor::{Address, Backend};
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::command::{Glowplug, Scratch, command, eventually, shell};
use crate::support::on_every_backend;
use crate::{REQUESTS, fails_with, http_with_a_large_body};

/// An echo service whose standard error is a pipe of 4 KiB; and the reading end of the pipe.
fn echo_into_a_small_pipe(backend: Backend) -> (Glowplug, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let mut unheard = command(backend, "echo --port 0 --log-level debug");
    unheard.stderr(Stdio::from(writer));
    let mut glowplug = Glowplug::spawn(unheard);
    glowplug.listens();
    (glowplug, reader)
}

on_every_backend! {
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
            let report = glowplug.told_up_to(" more, none with more bytes queued\n");
            report.contains("  reading paused  ").then_some(report)
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
        assert!(rows[0].contains(&peer) && rows[0].contains("  reading paused  "), "{report}");
        assert!(rows.iter().all(|row| row.contains("  http  ")), "{report}");
        assert!(lines[4..205].iter().all(|row| row.len() == rows[0].len()), "not in columns: {report}");
        assert!(lines[205].starts_with("and 6 more"), "{report}");
    }

    fn a_report_says_why_new_connections_have_to_wait(backend: Backend) {
        let mut glowplug = Glowplug::spawn(shell(backend, "ulimit -n 40; exec \"$0\" \"$@\"", "echo --port 0"));
        glowplug.listens();
        let clients: Vec<Client> = (0..40).map(|_| glowplug.connect()).collect();
        glowplug.told("at the limit of ");
        glowplug.signal(Signal::USR1);
        glowplug.told(": new connections wait: at the limit\n");
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
        let (glowplug, reader) = echo_into_a_small_pipe(backend);
        drop(reader);
        glowplug.signal(Signal::USR1);
        assert_eq!(glowplug.connect().ask("hello"), "You said: hello");
        glowplug.stop();
    }

    fn a_standard_error_that_nobody_reads_stops_neither_the_service_nor_its_end(backend: Backend) {
        let (glowplug, reader) = echo_into_a_small_pipe(backend);
        for number in 0..200 {
            assert_eq!(glowplug.connect().ask(&number.to_string()), format!("You said: {number}"));
        }
        glowplug.signal(Signal::USR1);
        assert_eq!(glowplug.connect().ask("still there"), "You said: still there");
        glowplug.stop();
        drop(reader);
    }

    fn lines_that_standard_error_has_no_room_for_are_counted(backend: Backend) {
        let (glowplug, reader) = echo_into_a_small_pipe(backend);
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
}
