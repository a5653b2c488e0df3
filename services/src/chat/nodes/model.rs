//! A node that hears whatever the engine may deliver, in any pieces, while members come, talk and leave. For the fuzz target `nodes`, and for
//! its seeds.
//!
//! The input is a list of records with a line `--` between them. A record is what one node says: the node's name, a blank, and the
//! message. The name `!` stands for an event at the hearing node:
//!
//! ```text
//!   ! u          the link is up             ! a NAME     a guest asks for a name
//!   ! d          the link is down           ! s TEXT     the latest guest says a text
//!   ! t          a second passes            ! l          the latest guest leaves
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reactor::Input;

use super::super::name::fault;
use super::wire::Notice;
use super::{Action, Answer, Event, Node, Request, TICK};
use crate::codec::nats::{Decoder, Op};
use crate::pieces::Stream;

/// The subject of events at the hearing node.
const HERE: &str = "here";

/// Panics where a node takes what it must not, where the pieces of the engine's bytes matter, and where a message is not read as it was
/// written.
pub(crate) fn check(text: &[u8]) {
    let stream = Stream::of(text);
    let wire = on_the_wire(&stream.bytes);
    let whole = Hearing::of([&wire[..]]);
    let pieces = wire.chunks(7);
    assert!(Hearing::of(pieces) == whole, "in pieces");
}

/// The records as operations of the engine.
fn on_the_wire(text: &[u8]) -> Vec<u8> {
    let (mut wire, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let end = rest.windows(4).position(|bytes| bytes == b"\n--\n");
        let record = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + 4..]);
        let Some(blank) = record.iter().position(|byte| *byte == b' ') else { continue };
        let (from, payload) = (&record[..blank], &record[blank + 1..]);
        // The engine has a limit for the length of a subject, too.
        if from.is_empty() || from.len() > 200 || !from.iter().all(u8::is_ascii_graphic) {
            continue;
        }
        let subject = if from == b"!" { HERE.as_bytes().to_vec() } else { [b"glowplug.r.", from].concat() };
        wire.extend_from_slice(
            &[b"MSG ", &subject[..], format!(" 1 {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat(),
        );
    }
    wire
}

/// The node, and what is known of it from outside.
#[derive(Debug)]
struct Hearing {
    node: Node,
    now: Duration,
    is_up: bool,
    revision: u64,
    asked: u64,
    /// Guests without an answer, and members.
    asking: BTreeSet<u64>,
    here: BTreeSet<u64>,
    others: BTreeMap<(Box<str>, u64), Box<str>>,
    events: Vec<Event>,
}

impl PartialEq for Hearing {
    fn eq(&self, other: &Self) -> bool {
        self.events == other.events && self.others == other.others
    }
}

impl Hearing {
    fn of<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let mut hearing = Hearing {
            node: Node::new("own"),
            now: Duration::ZERO,
            is_up: false,
            revision: 0,
            asked: 0,
            asking: BTreeSet::new(),
            here: BTreeSet::new(),
            others: BTreeMap::new(),
            events: Vec::new(),
        };
        let (decoder, mut kept) = (Decoder::default(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            let unread = std::mem::take(&mut kept);
            let mut input = Input::of(&unread);
            while let Some(op) = decoder.next(&mut input).expect("the operations are well formed") {
                let Op::Message(message) = op else { unreachable!() };
                match message.subject.strip_prefix(b"glowplug.r.") {
                    Some(from) => hearing.hear(&String::from_utf8_lossy(from), message.payload),
                    None => hearing.happen(message.payload),
                }
            }
            kept = input.as_slice().to_vec();
        }
        hearing
    }

    fn hear(&mut self, from: &str, payload: &[u8]) {
        if let Some(notice) = Notice::read(payload) {
            assert_eq!(Notice::read(&notice.bytes()), Some(notice), "not read as it was written");
        }
        // A client that is not connected hears nothing.
        if !self.is_up {
            return;
        }
        let before = self.others.len() + payload.len() + 10;
        self.node.heard(from, payload, self.now);
        let actions = self.settle();
        assert!(actions <= before, "{actions} actions after {} bytes", payload.len());
        assert_eq!(self.node.remote_members(), self.others.len());
    }

    fn happen(&mut self, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload);
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match verb {
            "u" if !self.is_up => {
                self.is_up = true;
                self.node.connected(self.now);
            }
            "d" if self.is_up => {
                self.is_up = false;
                self.node.lost();
            }
            "t" => {
                for _ in 0..4 {
                    self.now += TICK;
                    self.node.tick(self.now);
                    self.settle();
                }
            }
            "a" if fault(rest).is_none() => {
                self.asked += 1;
                self.asking.insert(self.asked);
                self.node.ask(self.asked, &format!("{rest}@unix"), 5, self.now);
            }
            "s" if self.here.contains(&self.asked) => self.node.say(self.asked, rest),
            "l" if self.here.remove(&self.asked) | self.asking.remove(&self.asked) => {
                self.node.withdraw(self.asked, self.now);
            }
            _ => {}
        }
        self.settle();
    }

    /// Carries out the node's actions, with an engine that grants all. Returns their number.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        while let Some(action) = self.node.take() {
            match action {
                Action::Event(event) => {
                    count += 1;
                    self.event(event);
                }
                Action::Publish { payload, .. } => {
                    count += 1;
                    assert!(self.is_up && Notice::read(&payload).is_some(), "{}", payload.escape_ascii());
                }
                Action::Request { id, request } => {
                    assert!(self.is_up, "{request:?}");
                    self.revision += 1;
                    let answer = match request {
                        Request::Create | Request::Delete { .. } => Answer::Done,
                        Request::Put { .. } => Answer::Stored(self.revision),
                        Request::Get { .. } => Answer::Missing,
                    };
                    self.node.answered(id, answer, self.now);
                }
            }
        }
        count
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Granted { number, .. } => {
                assert!(self.asking.remove(number) && self.here.insert(*number), "{event:?}")
            }
            Event::Refused { number } => assert!(self.asking.remove(number), "{event:?}"),
            Event::Close { number } => panic!("the engine has granted the name of {number}"),
            Event::Said(bytes) => {
                let text = std::str::from_utf8(bytes).expect("a text");
                assert!(
                    text.starts_with('#')
                        && text.contains(">>")
                        && !text.contains(|c: char| c.is_control() && c != '\t'),
                    "{text:?}"
                );
            }
            Event::Missed(count) => assert!(*count > 0),
            Event::Came { node, number, who } | Event::IsThere { node, number, who } => {
                let name = who.split_once('@').expect("a name and an address").0;
                assert!(
                    fault(name).is_none() && !who.contains([' ', '>']) && !who.contains(char::is_control),
                    "{who:?}"
                );
                assert!(self.others.insert((node.clone(), *number), who.clone()).is_none(), "{event:?}");
            }
            Event::Went { node, number, who } => {
                assert_eq!(self.others.remove(&(node.clone(), *number)).as_ref(), Some(who), "{event:?}");
            }
            Event::Alone | Event::Together => {}
        }
        self.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        crate::pieces::seeds("nodes").iter().for_each(|seed| check(seed));
    }

    #[test]
    fn a_node_bears_any_words_of_others() {
        let words: [&[u8]; 22] = [
            b"b ",
            b"c ",
            b"own ",
            b"! ",
            b"\n--\n",
            b"u",
            b"d",
            b"t",
            b"a ann",
            b"a \xd0\x90nn",
            b"s hi\x07",
            b"l",
            b"h ",
            b"j ",
            b"l ",
            b"m ",
            b"r ",
            b"0 ",
            b"1 ",
            b"2 ",
            b"3",
            b"ann@unix",
        ];
        for seed in 1..=2_000 {
            let mut chance = Chance::new(seed);
            let mut text = b"! u\n--\n! t\n--\n! a cat\n--\n! t\n--\n".to_vec();
            for _ in 0..chance.below(60) {
                text.extend_from_slice(words[chance.below(words.len())]);
            }
            check(&text);
        }
    }
}
