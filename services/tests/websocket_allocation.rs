//! In steady state a WebSocket message allocates nothing, on its way in or out. The whole process is counted, so there is
//! one test in this file and not several.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use reactor::{Address, Application, Backend, Input, Service};
use services::codec::websocket::{self, Buffers, CloseCode, ControlPayload, Decoder, Event, Kind};
use services::echo::{WebSocketEcho, deadlines, websocket_limits};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MAX: usize = 65_536;

/// A client's frame, masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0xfe);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0xff);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Decodes the stream as a number of clients send it, in pieces of this size and in turn, and encodes each answer.
/// Returns the number of events.
fn round(decoders: &mut [Decoder], buffers: &mut Buffers, stream: &[u8], size: usize, answer: &mut Vec<u8>) -> usize {
    let mut events = 0;
    let mut starts = [0; 3];
    while starts[0] < stream.len() {
        for (decoder, start) in decoders.iter_mut().zip(&mut starts) {
            let mut input = Input::of(&stream[*start..stream.len().min(*start + size)]);
            loop {
                answer.clear();
                match decoder.next(&mut input, buffers).expect("the stream is right") {
                    Some(Event::Text(text)) => websocket::append(Kind::Text, text.as_bytes(), answer),
                    Some(Event::Binary(bytes)) => websocket::append(Kind::Binary, bytes, answer),
                    Some(Event::Ping(bytes)) => websocket::append(Kind::Pong, bytes, answer),
                    Some(Event::Pong(_)) => {}
                    Some(Event::Close(..)) => panic!("nobody closes"),
                    None => break,
                }
                events += 1;
            }
            let left = input.len();
            *start = stream.len().min(*start + size) - left;
        }
    }
    let close = ControlPayload::close(CloseCode::GOING_AWAY, "the server stops");
    websocket::append(Kind::Close, close.as_ref(), answer);
    events
}

const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The fewest allocations of a hundred echoes of this message, in a number of attempts.
fn echoed(backend: Backend, message: &[u8]) -> Stats {
    let (started, has_started) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut application = Application::with_backend(backend).expect("the backend is there");
        let service = Service::tcp("127.0.0.1:0", WebSocketEcho::default);
        let service = service.limits(websocket_limits()).deadlines(deadlines(None));
        let service = application.add_service(service).expect("a port is free");
        let Some(Address::Tcp(address)) = service.address() else { panic!("it listens on TCP") };
        started.send((*address, application.handle())).expect("the test waits");
        application.run().expect("it ends well");
    });
    let (address, handle) = has_started.recv().expect("it starts");
    let mut client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(120))).expect("not zero");
    client.set_nodelay(true).expect("it is TCP");
    client.write_all(HANDSHAKE).expect("it is open");
    let mut answer = vec![0; message.len() + 200];
    let mut filled = 0;
    while !answer[..filled].ends_with(b"\r\n\r\n") {
        filled += client.read(&mut answer[filled..]).expect("an answer comes");
    }
    let frame = masked(0x82, message);
    let length = frame.len() - 4;
    let mut attempt = || {
        let region = Region::new(GLOBAL);
        for _ in 0..100 {
            client.write_all(&frame).expect("it is open");
            client.read_exact(&mut answer[..length]).expect("an answer comes");
        }
        region.change()
    };
    let attempts: Vec<Stats> = (0..20).map(|_| attempt()).collect();
    assert!(answer[..length].ends_with(message));
    drop(client);
    handle.halt();
    thread.join().expect("the loop does not panic");
    attempts.into_iter().min_by_key(|stats| stats.allocations + stats.reallocations).expect("some")
}

#[test]
fn messages_are_decoded_and_answered_without_allocating() {
    let stream = [
        masked(0x81, "short, and in UTF-8: €".as_bytes()),
        masked(0x89, b"ping"),
        masked(0x82, &[7; 300]),
        masked(0x01, &[b'x'; 1000]),
        masked(0x8a, b""),
        masked(0x00, "é".as_bytes()),
        masked(0x80, &[b'y'; 30_000]),
        masked(0x82, &[9; MAX]),
        masked(0x81, b""),
    ]
    .concat();
    let mut decoders = [Decoder::new(MAX), Decoder::new(MAX), Decoder::new(MAX)];
    let (mut buffers, mut answer) = (Buffers::default(), Vec::new());
    for size in [stream.len(), 40_000, 1000, 37] {
        let mut round = || round(&mut decoders, &mut buffers, &stream, size, &mut answer);
        round();
        let mut attempt = || {
            let region = Region::new(GLOBAL);
            let events: usize = (0..50).map(|_| round()).sum();
            assert_eq!(events, 50 * 3 * 7, "in pieces of {size}");
            region.change()
        };
        // The test harness has a thread, too, which allocates when a test takes long.
        let fewest = (0..5).map(|_| attempt()).min_by_key(|stats| stats.allocations + stats.reallocations);
        let stats = fewest.expect("there are attempts");
        assert_eq!((stats.allocations, stats.reallocations), (0, 0), "in pieces of {size}: {stats:?}");
    }
    if std::env::var_os("REACTOR_CHAOS").is_some() {
        return eprintln!("left out under chaos: half an answer is kept until the rest can leave, and that allocates");
    }
    for backend in [Backend::Epoll, Backend::Select] {
        for message in [&b"short"[..], &[7; 3000]] {
            let stats = echoed(backend, message);
            assert_eq!((stats.allocations, stats.reallocations), (0, 0), "{} bytes: {stats:?}", message.len());
        }
    }
}
