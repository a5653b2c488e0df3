//! Members that speak WebSocket under simulation, where half a minute of silence costs nothing.

use super::*;
use crate::codec::websocket::model::masked;
use crate::codec::websocket::{CloseCode, append};

const MASK: [u8; 4] = [1, 2, 3, 4];

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client's frame with a text.
fn said(text: &str) -> Vec<u8> {
    masked(0x81, MASK, text.as_bytes())
}

/// A server's frame with a text.
fn framed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(kind, payload, &mut bytes);
    bytes
}

fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    framed(Kind::Close, &[&code.number().to_be_bytes(), reason.as_bytes()].concat())
}

fn joined(name: &str) -> Script {
    Script::new().send([HANDSHAKE.as_bytes(), &said(&format!("NAME: {name}"))].concat()).expect(ACCEPTED)
}

/// The frames of the server after the handshake: the first byte of each, and the payload.
fn frames_of(peer: &Peer) -> Vec<(u8, Vec<u8>)> {
    let received = peer.received();
    let mut rest = received.strip_prefix(ACCEPTED.as_bytes()).unwrap_or_default();
    let mut frames = Vec::new();
    while let [first, short, after @ ..] = rest {
        let (length, after) = match short {
            126 => (u16::from_be_bytes([after[0], after[1]]).into(), &after[2..]),
            short => (usize::from(*short), after),
        };
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        frames.push((*first, payload.to_vec()));
        rest = after;
    }
    frames
}

fn texts_of(peer: &Peer) -> Vec<String> {
    let texts = frames_of(peer).into_iter().filter(|(first, _)| *first == 0x81);
    texts.map(|(_, payload)| String::from_utf8(payload).unwrap()).collect()
}

fn ends_with(peer: &Peer, end: &[u8]) -> bool {
    peer.received().ends_with(end) && peer.saw_end()
}

#[test]
fn a_request_has_thirty_seconds_and_so_has_a_name_after_the_handshake() {
    let mut sim = Simulation::with_faults(1, Faults::none());
    let address = room(&mut sim);
    let half = sim.connect(&address, Script::new().send("GET /ws HTTP/1.1\r\n").wait(SECOND * 100));
    let dribble = (0..40).fold(Script::new(), |script, _| script.send("GET / HTTP/1.1\r\nA: b").wait(SECOND));
    let dribble = sim.connect(&address, dribble);
    let nameless =
        sim.connect(&address, Script::new().wait(SECOND * 29).send(HANDSHAKE).wait(SECOND * 29).send(said("")));
    let late = sim
        .connect(&address, Script::new().wait(SECOND * 29).send(HANDSHAKE).wait(SECOND * 29).send(said("NAME: late")));
    let silent = sim.connect(&address, Script::new().wait(SECOND * 100));
    sim.run();
    for peer in [half, dribble] {
        assert!(peer.received().starts_with(b"HTTP/1.1 408 ") && peer.saw_end());
    }
    let told = "ERROR: no name within 30 seconds: to join, send NAME: and a name as the first line";
    let end = [framed(Kind::Text, told.as_bytes()), close_frame(CloseCode::POLICY, "")].concat();
    assert!(ends_with(&nameless, &end), "{}", nameless.received().escape_ascii());
    assert!(texts_of(&late)[0].starts_with("CLIENT: "));
    assert_eq!(silent.received(), format!("{told}\n").as_bytes(), "in lines, as no byte has come");
}

#[test]
fn after_thirty_seconds_of_silence_a_member_is_pinged_and_after_as_many_again_it_is_gone() {
    let mut sim = Simulation::with_faults(1, Faults::none());
    let address = room(&mut sim);
    let watcher = sim.connect(&address, Script::new().send("watcher\n").wait(SECOND * 250));
    let silent = sim.connect(&address, joined("silent").wait(SECOND * 300));
    let pong = || masked(0x8a, MASK, b"");
    let answers = joined("answers").wait(SECOND * 35).send(pong()).wait(SECOND * 35).send(pong()).wait(SECOND * 29);
    let answers = sim.connect(&address, answers.send(said("still here")).wait(SECOND * 100));
    // A member that speaks often is not pinged.
    let talks = (0..9).fold(joined("talks"), |script, _| script.wait(SECOND * 20).send(said("/help")));
    let talks = sim.connect(&address, talks.send(masked(0x88, MASK, b"\x03\xe8")).wait(SECOND * 100));
    sim.run();
    let pings = |peer: &Peer| frames_of(peer).into_iter().filter(|(first, _)| *first == 0x89).count();
    assert_eq!((pings(&silent), pings(&talks)), (1, 0));
    assert!(ends_with(&silent, &close_frame(CloseCode::POLICY, "no answer to a ping")));
    // Two pings that the client answered in time, and one after its last message.
    assert_eq!(pings(&answers), 3);
    assert!(ends_with(&answers, &close_frame(CloseCode::POLICY, "no answer to a ping")));
    assert!(ends_with(&talks, &close_frame(CloseCode::NORMAL, "")));
    let heard = heard(&watcher);
    let gone: Vec<_> = heard.iter().filter_map(|line| line.strip_prefix("(Now hung up: Client from ")).collect();
    let order: Vec<_> = gone.iter().map(|who| who.split('@').next().unwrap()).collect();
    assert_eq!(order, ["silent", "answers", "talks"]);
    assert!(heard.iter().any(|line| line.ends_with(">>still here")));
}

/// Bytes arrive in the pieces that a seed decides, and members of all ways hear the same.
#[test]
fn members_of_all_ways_hear_the_same_however_the_bytes_arrive() {
    for seed in 1..=60 {
        let (mut sim, mut chance) = (Simulation::with_faults(seed, Faults::of(seed)), Chance::new(seed));
        let address = room(&mut sim);
        let stay = SECOND * 400;
        let watcher = sim.connect(&address, Script::new().send("watcher\n").wait(stay));
        let browser =
            sim.connect(&address, joined("browser").wait(SECOND * 25).send(masked(0x8a, MASK, b"")).wait(SECOND * 28));
        let texts: Vec<String> = (0..10).map(|number| format!("{number} {}", "x".repeat(chance.below(3000)))).collect();
        let mut talk = Vec::new();
        for text in &texts {
            let cut = chance.below(text.len() + 1);
            talk.extend(masked(0x01, MASK, &text.as_bytes()[..cut]));
            talk.extend(masked(0x89, MASK, b"?"));
            talk.extend(masked(0x80, MASK, &text.as_bytes()[cut..]));
        }
        talk.extend(said("/quit"));
        let talker = sim.connect_after(SECOND * 5, &address, joined("talker").send(talk));
        sim.run();
        let is_talk = |text: &String| text.starts_with("#talker@");
        let expected: Vec<String> = texts;
        let heard_by = |all: Vec<String>| -> Vec<String> {
            let said = all.into_iter().filter(is_talk);
            said.map(|text| text.split_once(">>").unwrap().1.to_owned()).collect()
        };
        for (who, peer, heard) in
            [("watcher", &watcher, heard_by(heard(&watcher))), ("browser", &browser, heard_by(texts_of(&browser)))]
        {
            // A seed may cut a connection, of the talker too.
            let is_whole = heard == expected;
            let is_cut = peer.was_reset() || talker.was_reset() || !talker.saw_end();
            assert!(
                is_whole || is_cut && expected.starts_with(&heard) || heard.is_empty(),
                "seed {seed}, {who}: {}",
                heard.len()
            );
        }
        if !talker.was_reset() && talker.saw_end() {
            let pongs = frames_of(&talker).into_iter().filter(|(first, _)| *first == 0x8a).count();
            assert!((1..=10).contains(&pongs), "seed {seed}: {pongs}");
            assert!(ends_with(
                &talker,
                &[framed(Kind::Text, b"(Goodbye)"), close_frame(CloseCode::NORMAL, "")].concat()
            ));
        }
    }
}

/// More than one turn takes: each comes when it is called, and what it sent with its name is heard.
#[test]
fn guests_in_line_come_with_what_they_have_sent_and_who_has_sent_much_is_told_so() {
    const MEMBERS: usize = 400;
    let mut sim = Simulation::with_faults(5, Faults::none());
    let (address, _) = Counted::serve(&mut sim);
    let members: Vec<Peer> = (0..MEMBERS)
        .map(|number| sim.connect(&address, Script::new().send(format!("m{number}\n")).wait(SECOND * 20)))
        .collect();
    let long = "x".repeat(600);
    let guests: Vec<(bool, Peer)> = (0..600)
        .map(|number| {
            let is_long = number % 3 == 0;
            let text = if is_long { &long[..] } else { "hello" };
            let stream = [HANDSHAKE.as_bytes(), &said(&format!("NAME: g{number}")), &said(text)].concat();
            (is_long, sim.connect_after(SECOND * 5, &address, Script::new().send(stream).wait(SECOND * 10)))
        })
        .collect();
    sim.run();
    let all = heard(&members[0]);
    let (mut came, mut refused) = (0, 0);
    for (number, (is_long, peer)) in guests.iter().enumerate() {
        let texts = texts_of(peer);
        let is_refused = texts[0] == "ERROR: input before the name is accepted longer than 512 bytes";
        assert!(is_refused || texts[0].starts_with("CLIENT: "), "{}", texts[0]);
        assert!(*is_long || !is_refused, "{number}");
        let said = all.iter().filter(|line| line.starts_with(&format!("#g{number}@"))).count();
        assert_eq!(said, usize::from(!is_refused), "{number}");
        came += usize::from(!is_refused);
        refused += usize::from(is_refused);
        if is_refused {
            assert!(ends_with(peer, &close_frame(CloseCode::POLICY, "")));
        }
    }
    assert!(came >= 400 && refused > 0, "{came} came, {refused} were refused");
}
