//! The command from outside.
//!
//! | | |
//! | --- | --- |
//! | `listening` | addresses, inherited listeners, why the command does not start, the backend |
//! | `limits` | how the command ends; limits of connections and of time |
//! | `signals` | the report, the log and its file, standard output and standard error |
//! | this file | rubbish, `--help`, completions |

#[path = "../support/mod.rs"]
mod support;

mod limits;
mod listening;
mod signals;

use std::net::TcpListener;
use std::process::Stdio;

use reactor::Backend;
use support::client::Client;
use support::command::{Glowplug, command, run};
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
