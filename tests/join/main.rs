//! The chat's client from outside: on a terminal, as a person sees it, and in pipes.

#[path = "../support/mod.rs"]
mod support;

mod pipes;
mod terminal;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl};
use support::client::{Client, frame};
use support::command::Glowplug;

const CHAT: &str = "chat serve --port 0 --log-level off";

/// A member who speaks in lines.
fn member(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    assert_eq!(client.ask(name), "CLIENT: 127.0.0.1");
    client
}

fn join_words(chat: &Glowplug) -> String {
    format!("chat join --name ann --port {}", chat.tcp().port())
}

/// A fake server, which sends what a real server would not.
struct Fake(TcpListener);

impl Fake {
    fn new() -> Self {
        Fake(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn words(&self) -> String {
        format!("chat join --name ann --port {}", self.0.local_addr().unwrap().port())
    }

    /// Accepts the next client and greets it with this address.
    fn accept(&self, address: &str) -> TcpStream {
        let (mut stream, _) = self.0.accept().unwrap();
        let mut name = [0; 13];
        stream.read_exact(&mut name).unwrap();
        assert_eq!(name, *frame("NAME: ann"));
        stream.write_all(&frame(format!("CLIENT: {address}"))).unwrap();
        stream
    }
}

fn is_blocking(descriptor: impl AsFd) -> bool {
    !fcntl_getfl(descriptor).unwrap().contains(OFlags::NONBLOCK)
}
