//! The heap memory of a silent WebSocket client of the chat. The whole process is counted, so there is one test in this file
//! and not several.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;

use reactor::{Address, Application, Backend, Service};
use services::chat::{Chat, Room, deadlines, limits};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn held() -> usize {
    let stats = GLOBAL.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Reads until `end` has come, which nothing follows. Many bytes at once: a guest has half a minute for its name.
fn read_up_to(stream: &mut TcpStream, end: &[u8]) {
    let (mut some, mut read) = ([0; 512], Vec::new());
    while !read.ends_with(end) {
        let count = stream.read(&mut some).expect("it comes");
        assert!(count > 0, "it ends");
        read.extend_from_slice(&some[..count]);
    }
}

fn shake(stream: &mut TcpStream) {
    stream.write_all(HANDSHAKE).expect("it is taken");
    read_up_to(stream, b"\r\n\r\n");
}

/// Waits until the server has served all connections up to now: it answers a name that is none.
fn settled(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"#\n").expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and closes");
    assert!(answer.starts_with("ERROR: bad name"), "{answer}");
}

const CLIENTS: usize = 256;

#[test]
fn a_silent_client_after_the_handshake_holds_at_most_400_bytes_and_no_more_than_before_it() {
    if std::env::var_os("REACTOR_CHAOS").is_some() {
        return eprintln!("left out under chaos: half an answer is kept until the rest can leave, and is counted");
    }

    let (started, has_started) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // The tables of select(2) are larger.
        let mut application = Application::with_backend(Backend::Epoll).expect("the backend is there");
        let room = Room::default();
        let service = Service::tcp("127.0.0.1:0", move || Chat::new(room.clone()));
        let service = service.limits(limits()).deadlines(deadlines(None));
        let service = application.add_service(service).expect("a port is free");
        let Some(Address::Tcp(address)) = service.address() else { panic!("it listens on TCP") };
        started.send((*address, application.handle())).expect("the test waits");
        application.run().expect("it stops in order");
    });
    let (address, handle) = has_started.recv().expect("it starts");
    let mut clients: Vec<TcpStream> = Vec::with_capacity(2 * CLIENTS);
    // With the one that waits for the others, so that the tables are full.
    clients.extend((1..CLIENTS).map(|_| TcpStream::connect(address).expect("it listens")));
    settled(address);
    // The tables double with the second half, and are full again: that half pays for exactly its own entries.
    let before = held();
    clients.extend((0..CLIENTS).map(|_| TcpStream::connect(address).expect("it listens")));
    settled(address);
    let silent = held();
    for stream in &mut clients {
        shake(stream);
    }
    settled(address);
    let shaken = held();
    let each = (silent - before) / CLIENTS;
    let more = shaken.saturating_sub(silent) / clients.len();
    assert!(each + more <= 400, "{each} bytes each, {more} more after the handshake");
    handle.halt();
    drop(clients);
    thread.join().expect("it stops");
}
