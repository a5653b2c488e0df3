//! In steady state a WebSocket message allocates nothing, on its way in or out. The whole process is counted, so there is
//! one test in this file and not several.

use std::alloc::System;

use reactor::Input;
use services::codec::websocket::{self, Buffers, CloseCode, ControlPayload, Decoder, Event, Kind};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

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
        let region = Region::new(GLOBAL);
        let events: usize = (0..50).map(|_| round()).sum();
        let stats = region.change();
        assert_eq!(events, 50 * 3 * 7, "in pieces of {size}");
        assert_eq!((stats.allocations, stats.reallocations), (0, 0), "in pieces of {size}: {stats:?}");
    }
}
