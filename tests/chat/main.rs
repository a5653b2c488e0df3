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

/// The answer to a request, and the end of the connection.
fn response_of(client: &mut Client, request: &str) -> Response {
    let is_head = request.starts_with("HEAD ");
    let response = if is_head { client.response_head() } else { client.response() };
    assert_eq!(client.rest(), b"", "{request}");
    assert_eq!(response.header("connection").map(|options| options.contains("close")), Some(true), "{request}");
    assert!(response.header("date").is_some(), "{request}");
    response
}
