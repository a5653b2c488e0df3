//! The chat's client from outside: on a terminal, as a person sees it, and in pipes.

#[path = "../support/mod.rs"]
mod support;

mod pipes;
mod terminal;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use reactor::Backend;
use rustix::fs::{OFlags, fcntl_getfl};
use socket2::{Domain, Socket, Type};
use support::client::{Client, frame};
use support::command::Glowplug;

const CHAT: &str = "chat serve --port 0 --log-level off";

/// A member who speaks in lines.
fn member(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    assert_eq!(client.ask(name), "CLIENT: 127.0.0.1");
    client
}

/// A loopback address for a server that starts again at its port. No client of a neighbouring test has an address of this host, so
/// none can have the port meanwhile.
const OWN_HOST: &str = "127.0.0.82";

/// A server at a port that another server will use.
fn at_own_host(backend: Backend) -> (Glowplug, String) {
    let chat = Glowplug::start(backend, &format!("{CHAT} --host {OWN_HOST}"));
    let words = format!("{} --host {OWN_HOST} --reconnect", join_words(&chat));
    (chat, words)
}

/// Starts a server at a port of [`at_own_host`].
fn again_at(backend: Backend, port: u16) -> Glowplug {
    Glowplug::start(backend, &format!("chat serve --host {OWN_HOST} --port {port} --log-level off"))
}

/// A port that refuses connections, as long as the returned socket lives: it is bound, and does not listen.
fn refusing() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
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
