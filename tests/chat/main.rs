//! The chat room from outside.
//!
//! | | |
//! | --- | --- |
//! | `room` | members on lines and in frames: what they hear of each other, names, limits, history |
//! | `slow` | members that do not read, or go without a word |
//! | `websocket` | members that speak WebSocket, beside the others; their ends and codes; hostile clients |
//! | `pages` | the page for browsers, and the requests and origins that are refused |

#[path = "../support/mod.rs"]
mod support;

mod pages;
mod room;
mod slow;
mod websocket;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use socket2::{Domain, Socket, Type};
use support::GUARD;
use support::client::{Client, Response};
use support::command::Glowplug;

const CHAT: &str = "chat serve --port 0 --log-level off";

/// A client that reads nothing, and whose kernel buffers little.
fn narrow(chat: &Glowplug) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&chat.tcp().into()).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    socket.set_write_timeout(Some(GUARD)).unwrap();
    Client::from(socket)
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// A member who speaks in lines. The number of members is not checked.
fn join(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    assert_eq!(client.ask(&format!("NAME: {name}")), "CLIENT: 127.0.0.1");
    client
}

/// A member who speaks in frames.
fn join_in_frames(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    client.send_frame(format!("NAME: {name}"));
    assert_eq!(client.frame(), "CLIENT: 127.0.0.1");
    client
}

/// The `Host` field for requests to this server.
fn host(chat: &Glowplug) -> String {
    format!("Host: {}\r\n", chat.tcp())
}

/// How a member speaks.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Lines,
    Frames,
}

impl Way {
    fn next(self, client: &mut Client) -> String {
        match self {
            Way::Lines => client.line(),
            Way::Frames => client.frame(),
        }
    }
}

/// Length of a message of a flood, without its number.
const LONG: usize = 10_000;

/// Lets Ann, who speaks in lines, say long messages with numbers until she reads that Deaf has hung up.
fn flood_until_the_end_of_deaf(ann: &mut Client) {
    let (mut writer, text, has_ended) = (ann.writer(), "x".repeat(LONG), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !has_ended.load(SeqCst) {
                writeln!(writer, "{number} {text}").expect("the server reads");
                number += 1;
            }
        });
        // Ends the thread after a panic, too.
        let _end = AtDrop(&has_ended);
        assert_eq!(ann.line(), "(Now hung up: Client from deaf@127.0.0.1)");
    });
}

/// Sets the flag when it is dropped.
struct AtDrop<'a>(&'a AtomicBool);

impl Drop for AtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Reads the whole messages of the flood, without a gap. Returns the first other text.
fn line_after_the_flood(mut next: impl FnMut() -> String) -> String {
    for number in 0.. {
        let heard = next();
        match heard.strip_prefix(&format!("#ann@127.0.0.1>>{number} ")) {
            Some(text) => assert_eq!(text.len(), LONG),
            None => return heard,
        }
    }
    unreachable!("a flood has an end")
}

/// The answer to a request, and the end of the connection.
fn response_of(client: &mut Client, request: &str) -> Response {
    let is_head = request.starts_with("HEAD ");
    let response = if is_head { client.response_head() } else { client.response() };
    assert_eq!(client.rest(), b"", "{request}");
    assert_eq!(response.header("connection").map(|options| options.contains("close")), Some(true), "{request}");
    assert!(response.header("date").is_some(), "{request}");
    response
}
