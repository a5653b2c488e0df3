//! The WebSocket echo under simulation: bytes arrive in whatever pieces the seed decides, and time costs nothing.

use reactor::sim::{Faults, Script, Simulation};
use reactor::{Address, Service};

use super::*;
use crate::chance::Chance;
use crate::codec::websocket::model::masked;
use crate::echo::deadlines;

const SECOND: Duration = Duration::from_secs(1);
const MASK: [u8; 4] = [1, 2, 3, 4];

const HANDSHAKE: &str = "GET /any/path?at=all HTTP/1.1\r\nHost: here\r\nOrigin: https://elsewhere\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn echo_with(sim: &mut Simulation, limits: Limits) -> Address {
    let service = Service::tcp("127.0.0.1:0", WebSocketEcho::default);
    let service = service.limits(limits).deadlines(deadlines(None)).refusal(WEBSOCKET_REFUSAL);
    sim.add_service(service).unwrap().address().unwrap().clone()
}

fn echo(sim: &mut Simulation) -> Address {
    echo_with(sim, websocket_limits())
}

fn opened() -> Script {
    Script::new().send(HANDSHAKE).expect(ANSWER)
}

fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    websocket::append(Kind::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat(), &mut frame);
    frame
}

#[test]
fn messages_of_any_size_come_back_in_order_however_they_arrive() {
    for seed in 1..=150 {
        let (mut sim, mut chance) = (Simulation::with_faults(seed, Faults::of(seed)), Chance::new(seed));
        let address = echo(&mut sim);
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..1 + chance.below(8) {
            let length = [chance.below(200), chance.below(70_000), chance.below(200_000)][chance.below(3)];
            let (kind, first) = if chance.below(2) == 0 { (Kind::Text, 1) } else { (Kind::Binary, 2) };
            let payload = vec![b'a' + chance.below(26) as u8; length];
            let cut = chance.below(length + 1);
            sent.extend(masked(first, MASK, &payload[..cut]));
            if chance.below(2) == 0 {
                sent.extend(masked(0x89, MASK, b"between"));
                websocket::append(Kind::Pong, b"between", &mut expected);
            }
            sent.extend(masked(0x80, MASK, &payload[cut..]));
            websocket::append(kind, &payload, &mut expected);
        }
        sent.extend(masked(0x88, MASK, b"\x0f\xa0done"));
        expected.extend(close_frame(4000, ""));
        let script = opened().send(sent);
        let script = if chance.below(3) == 0 { script.reads(9_000, SECOND / 100) } else { script };
        let peer = sim.connect(&address, script);
        sim.run();
        let received = peer.received();
        let received = received.strip_prefix(ANSWER.as_bytes()).unwrap_or_default();
        // A seed may cut a connection.
        if peer.was_reset() {
            assert!(expected.starts_with(received), "seed {seed}");
        } else {
            assert!(expected == received && peer.saw_end(), "seed {seed}: {} bytes", received.len());
        }
    }
}

#[test]
fn each_way_to_break_the_protocol_closes_with_its_code() {
    let long = [&[0x82, 0xff][..], &(MESSAGE_MAX as u64 + 1).to_be_bytes()].concat();
    for (frames, code, reason) in [
        (masked(0x83, MASK, b""), 1002, "the opcode is unknown"),
        (vec![0x81, 5], 1002, "the frame is not masked"),
        (masked(0x88, MASK, b"\x03\xee"), 1002, "the close code is not valid"),
        (masked(0x81, MASK, b"\xff"), 1007, "the text is not UTF-8"),
        (long, 1009, "the message is too long"),
    ] {
        let mut sim = Simulation::new(7);
        let address = echo(&mut sim);
        let before = masked(0x81, MASK, b"before");
        let answers = [b"\x81\x06before", &close_frame(code, reason)[..]].concat();
        sim.connect(&address, opened().send([before, frames].concat()).expect(answers).expect_end());
        sim.run();
    }
}

#[test]
fn a_close_is_answered_with_the_clients_own_code_and_one_without_code_by_none() {
    let mut sim = Simulation::new(3);
    let address = echo(&mut sim);
    for code in [1000u16, 1001, 3000, 4999] {
        let frame = masked(0x88, MASK, &code.to_be_bytes());
        sim.connect(&address, opened().send(frame).expect(close_frame(code, "")).expect_end());
    }
    sim.connect(&address, opened().send(masked(0x88, MASK, b"")).expect(b"\x88\0").expect_end());
    sim.run();
}

#[test]
fn a_head_that_is_not_complete_within_30_seconds_is_answered_408_and_an_open_connection_may_be_silent() {
    let mut sim = Simulation::with_faults(5, Faults::none());
    let address = echo(&mut sim);
    let timeout = Refusal::RequestTimeout.answer();
    let silent = sim.connect(&address, Script::new().expect(timeout).expect_end());
    let dribble =
        HANDSHAKE.as_bytes()[..50].iter().fold(Script::new(), |script, byte| script.send([*byte]).wait(SECOND));
    let dribbling = sim.connect(&address, dribble.expect(timeout).expect_end());
    let patient = opened().wait(SECOND * 1000).send(masked(0x81, MASK, b"still here"));
    let patient = sim.connect(&address, patient.expect(b"\x81\x0astill here"));
    sim.halt_after(SECOND * 2000);
    sim.run();
    assert!(silent.saw_end() && dribbling.saw_end());
    assert!(patient.received().ends_with(&close_frame(1001, "the server stops")) && patient.saw_end());
}

#[test]
fn a_request_that_is_no_handshake_is_answered_and_closed() {
    for (request, refusal) in [
        ("GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), Refusal::UpgradeRequired),
        (HANDSHAKE.replace("Version: 13", "Version: 12"), Refusal::UpgradeRequired),
        (HANDSHAKE.replace("GET", "POST"), Refusal::MethodNotAllowed),
        (HANDSHAKE.replace("Host: here\r\n", ""), Refusal::BadRequest),
        ("hello\n".to_owned(), Refusal::BadRequest),
        (HANDSHAKE.replace("/any", &"/any".repeat(2048)), Refusal::HeadTooLong),
    ] {
        let mut sim = Simulation::new(11);
        let address = echo(&mut sim);
        sim.connect(&address, Script::new().send(&request).expect(refusal.answer()).expect_end());
        sim.run();
    }
    // Half of a request, and then the end of it.
    let mut sim = Simulation::new(12);
    let address = echo(&mut sim);
    let half = Script::new().send(&HANDSHAKE[..40]).shutdown().expect(Refusal::BadRequest.answer()).expect_end();
    sim.connect(&address, half);
    sim.run();
}

#[test]
fn a_client_over_the_limit_of_connections_is_answered_503() {
    let mut sim = Simulation::with_faults(13, Faults::none());
    let address = echo_with(&mut sim, Limits { connections: Some(1), ..websocket_limits() });
    sim.connect(&address, opened().wait(SECOND * 10).send(masked(0x88, MASK, b"")));
    let refused = Script::new().expect(Refusal::ServiceUnavailable.answer()).expect_end();
    let refused = sim.connect_after(SECOND, &address, refused);
    sim.run();
    assert!(refused.saw_end());
}

#[test]
fn a_thousand_clients_with_unfinished_handshakes_and_fragments_are_let_go() {
    let mut sim = Simulation::with_faults(17, Faults::none());
    let address = echo(&mut sim);
    for number in 0..500 {
        sim.connect(&address, Script::new().send(&HANDSHAKE[..number % HANDSHAKE.len()]));
        sim.connect(&address, opened().send(masked(0x01, MASK, &vec![b'x'; number])));
    }
    sim.halt_after(SECOND * 60);
    sim.run();
}

#[test]
fn a_flood_of_pings_is_answered_by_few_pongs() {
    let mut sim = Simulation::with_faults(19, Faults::none());
    let address = echo(&mut sim);
    let flood = masked(0x89, MASK, b"?").repeat(50_000);
    let end = [masked(0x89, MASK, b"last"), masked(0x88, MASK, b"")].concat();
    let peer = sim.connect(&address, opened().send([flood, end].concat()));
    sim.run();
    let received = peer.received();
    let pongs = &received[ANSWER.len()..];
    assert!(pongs.ends_with(b"\x8a\x04last\x88\0") && peer.saw_end());
    // 350 KB of pings take some callbacks, each of which answers 33 of them at most.
    assert!(pongs.len() < 50_000 * 3 / 4, "{} bytes", pongs.len());
}

#[test]
fn the_output_has_room_for_the_longest_message_behind_all_that_may_wait_before_it() {
    let limits = websocket_limits();
    let pongs = (Pongs::EACH as usize + 1) * (2 + websocket::CONTROL_MAX);
    assert!(limits.output_high + pongs + MESSAGE_MAX + 14 + 127 <= limits.output_max);
    assert!(limits.input >= handshake::HEAD_MAX);
}
