//! In steady state a message of NATS allocates nothing in the codec. The whole process is counted, so there is one test in this
//! file and not several.

use std::alloc::System;

use reactor::{Input, Output};
use services::codec::nats::{Decoder, Op, Publish};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Reads the stream, and prepares each message to be sent on. Returns the bytes that the messages would take.
fn round(stream: &[u8], mut output: Option<&mut Output>) -> usize {
    let (mut input, mut bytes) = (Input::of(stream), 0);
    while let Some(op) = Decoder::default().next(&mut input).expect("the stream is right") {
        if let Op::Message(message) = op {
            let fields = [("k", message.headers.expect("they are right").get("k").unwrap_or("none"))];
            let publish = Publish::new(message.subject, message.payload).expect("it came as one");
            let publish = publish.headers(&fields).expect("it is right");
            bytes += publish.encoded();
            if let Some(output) = &mut output {
                publish.put(&mut output.writer());
            }
        }
    }
    bytes
}

#[test]
fn messages_with_and_without_headers_are_read_and_written_without_allocating() {
    let stream = [
        b"MSG room.lobby 7 _INBOX.1 5\r\nhello\r\nPING\r\n".as_slice(),
        b"HMSG room.lobby 7 18 23\r\nNATS/1.0\r\nk: v\r\n\r\nhello\r\n-ERR 'Slow Consumer'\r\nPONG\r\n",
    ]
    .concat();
    // A buffer grows to twice its length, so after these writes there is room for the counted ones.
    let mut output = Output::default();
    output.put(&[0; 1024]);
    let bytes = round(&stream, Some(&mut output));
    let region = Region::new(GLOBAL);
    assert_eq!(round(&stream, Some(&mut output)), bytes);
    for _ in 0..1000 {
        assert_eq!(round(&stream, None), bytes);
    }
    let stats = region.change();
    assert_eq!((stats.allocations, stats.reallocations), (0, 0), "{stats:?}");
    assert_eq!(output.queued(), 1024 + 2 * bytes);
}
