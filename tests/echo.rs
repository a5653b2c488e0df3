//! The echo service from outside.

mod support;

use std::io::{ErrorKind, Write};
use std::thread;

use support::command::{Glowplug, Scratch};
use support::on_every_backend;

const ECHO: &str = "echo --port 0 --log-level off";
const RAW: &str = "echo --raw --port 0 --log-level off";

/// Both faces answer the same.
const STYLES: [&str; 2] = ["callbacks", "sequential"];

/// Bytes without a pattern, equal in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

on_every_backend! {
    fn each_line_is_answered_with_its_ending_as_it_came(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        let mut client = echo.connect();
        client.send("hello\n");
        assert_eq!(client.bytes(16), b"You said: hello\n");
        client.send(b"a\r\n\n\r\r\nb\rc\n\0\xff\n");
        client.half_close();
        let expected = b"You said: a\r\nYou said: \nYou said: \r\r\nYou said: b\rc\nYou said: \0\xff\n";
        assert_eq!(client.rest(), expected);
        }
    }

    fn a_line_split_at_every_byte_is_one_line(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        let line = "Grüße, byte by byte\r\n";
        for cut in 1..line.len() {
            let mut client = echo.connect();
            client.send(&line.as_bytes()[..cut]);
            client.send(&line.as_bytes()[cut..]);
            assert_eq!(client.line() + "\n", format!("You said: {line}"), "split at {cut}");
        }
        let mut client = echo.connect();
        client.send_by_bytes(line);
        assert_eq!(client.line() + "\n", format!("You said: {line}"));
        }
    }

    fn a_last_line_without_an_ending_is_answered_as_it_stands(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        for (said, answer) in [("one\ntwo", "You said: one\nYou said: two"), ("x", "You said: x"), ("", "")] {
            let mut client = echo.connect();
            client.send(said);
            client.half_close();
            assert_eq!(client.rest_as_text(), answer);
        }
        }
    }

    fn a_line_of_65536_bytes_is_answered_and_one_byte_more_is_the_end(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        let longest = "x".repeat(65_536);
        let mut client = echo.connect();
        assert_eq!(client.ask(&longest), format!("You said: {longest}"));
        assert_eq!(client.ask("still there"), "You said: still there");
        client.send(format!("before\n{longest}x\nafter\n"));
        assert_eq!(client.rest_as_text(), "You said: before\nERROR: line longer than 65536 bytes\n");

        let mut unended = echo.connect();
        unended.send(format!("{longest}x"));
        assert_eq!(unended.rest_as_text(), "ERROR: line longer than 65536 bytes\n", "without waiting for its end");
        }
    }

    fn the_error_reaches_a_client_that_goes_on_sending(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        let mut client = echo.connect();
        let mut upload = client.writer();
        // The server may close before reading everything.
        let sender = thread::spawn(move || match upload.write_all(&vec![b'x'; 20 << 20]) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("{error}")
            }
            _ => {}
        });
        assert_eq!(client.line(), "ERROR: line longer than 65536 bytes");
        sender.join().unwrap();
        }
    }

    fn everything_owed_is_sent_after_the_end_of_input(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        let mut client = echo.connect();
        let lines: String = (0..200_000).map(|number| format!("line {number}\n")).collect();
        let expected = lines.replace("line ", "You said: line ");
        let mut upload = client.writer();
        let sender = thread::spawn(move || {
            upload.write_all(lines.as_bytes()).unwrap();
            upload.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(client.rest() == expected.as_bytes());
        sender.join().unwrap();
        }
    }

    fn raw_mode_sends_every_byte_back_in_order(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{RAW} --style {style}"));
        let noise = noise(8 << 20);
        let mut client = echo.connect();
        let (mut upload, bytes) = (client.writer(), noise.clone());
        let sender = thread::spawn(move || {
            upload.write_all(&bytes).unwrap();
            upload.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(client.rest() == noise);
        sender.join().unwrap();

        let mut patient = echo.connect();
        for byte in [0, b'\n', 0xff] {
            patient.send([byte]);
            assert_eq!(patient.bytes(1), [byte], "without waiting for a line");
        }
        }
    }

    fn it_is_the_same_over_a_unix_socket(backend: Backend) {
        let scratch = Scratch::new();
        let echo = Glowplug::start(backend, &format!("echo --unix {}", scratch.join("echo").display()));
        let mut client = echo.connect();
        assert_eq!(client.ask("hello"), "You said: hello");
        client.send("bye");
        client.half_close();
        assert_eq!(client.rest_as_text(), "You said: bye");
    }

    fn a_client_that_resets_or_leaves_harms_nobody_else(backend: Backend) {
        for style in STYLES {
        let echo = Glowplug::start(backend, &format!("{ECHO} --style {style}"));
        let mut witness = echo.connect();
        for number in 0..50 {
            let mut client = echo.connect();
            client.send("never read\n");
            if number % 2 == 0 {
                client.writer().set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
        assert_eq!(witness.ask("still here"), "You said: still here");
        }
    }

    fn each_answer_says_which_process_and_thread_have_served_it(backend: Backend) {
        for (model, thread) in [("loops", "main"), ("loops --loops 2", "loop"), ("threads", "echo"), ("processes", "main")] {
            let mut processes = Vec::new();
            for style in STYLES {
                let echo = Glowplug::start(backend, &format!("--model {model} {ECHO} --identify --style {style}"));
                let answer = echo.connect().ask("hello");
                let (process, rest) = answer.strip_prefix("[process ").and_then(|text| text.split_once(", ")).expect("it says so");
                let (named, said) = rest.strip_prefix("thread ").and_then(|text| text.split_once("] ")).expect("it says so");
                assert_eq!(said, "You said: hello");
                assert!(named.starts_with(thread), "{model}: {named}");
                processes.push(process.parse::<u32>().expect("a number") == echo.pid());
            }
            assert_eq!(processes, [model != "processes"; 2], "{model}");
        }
    }
}
