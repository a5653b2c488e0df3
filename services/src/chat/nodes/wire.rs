//! Messages between nodes: one line of fields, and a text or a list of members after the line.
//!
//! ```text
//!   h CHANGES SAID                       a sign of life
//!   b CHANGES SAID                       the node stops
//!   q CHANGES SAID                       asks the receiver for its members
//!   m CHANGES SAID NUMBER WHO ⏎ TEXT     a message of a member
//!   j CHANGES SAID NUMBER WHO            a member has come
//!   l CHANGES SAID NUMBER                a member has gone
//!   r CHANGES SAID PART LAST ⏎ …         a part of the sender's members, a line NUMBER WHO for each
//! ```
//!
//! `CHANGES` counts arrivals and departures of the sender, `SAID` its members' messages, both with the message itself. Every
//! message carries both, so a receiver notices a gap at the next message or sign of life.

use std::fmt::Write;

use super::super::name::fault;

/// Longest message text in bytes: a client's longest text, in which each byte may have become U+FFFD.
const TEXT_MAX: usize = 3 * 65_536;
/// Longest address of a member in bytes.
const ADDRESS_MAX: usize = 64;
/// Bytes of a part of a list of members, after which the next part begins; fewer where the engine has a lower limit for a message.
pub(super) const PART_BYTES: usize = 16 * 1024;
/// Longest part of a list of members in bytes.
const PART_MAX: usize = PART_BYTES + 512;

/// A message of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice<'a> {
    pub(super) changes: u64,
    pub(super) said: u64,
    pub(super) content: Content<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Beat,
    Bye,
    Ask,
    Said { number: u64, who: &'a str, text: &'a str },
    Came(Person<'a>),
    Went { number: u64 },
    Roster { part: u64, is_last: bool, members: &'a str },
}

/// A member of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Person<'a> {
    pub(super) number: u64,
    /// `<name>@<address>`.
    pub(super) who: &'a str,
}

impl<'a> Notice<'a> {
    /// Reads a message. Returns `None` for bytes that no node writes.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        let payload = std::str::from_utf8(payload).ok()?;
        let (line, rest) = match payload.split_once('\n') {
            Some((line, rest)) => (line, Some(rest)),
            None => (payload, None),
        };
        let mut fields = line.split(' ');
        let kind = fields.next()?;
        let (changes, said) = (number(&mut fields)?, number(&mut fields)?);
        let content = match (kind, rest) {
            ("h", None) => Content::Beat,
            ("b", None) => Content::Bye,
            ("q", None) => Content::Ask,
            ("m", Some(text)) if text.len() <= TEXT_MAX && said > 0 => {
                Content::Said { number: number(&mut fields)?, who: who(&mut fields)?, text }
            }
            ("j", None) if changes > 0 => Content::Came(person(&mut fields)?),
            ("l", None) if changes > 0 => Content::Went { number: number(&mut fields)? },
            ("r", Some(members)) if members.len() <= PART_MAX => {
                let (part, is_last) = (number(&mut fields)?, number(&mut fields)? == 1);
                people(members).all(|person| person.is_some()).then_some(())?;
                Content::Roster { part, is_last, members }
            }
            _ => return None,
        };
        fields.next().is_none().then_some(Notice { changes, said, content })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let Notice { changes, said, content } = self;
        let counts = format!("{changes} {said}");
        let text = match content {
            Content::Beat => format!("h {counts}"),
            Content::Bye => format!("b {counts}"),
            Content::Ask => format!("q {counts}"),
            Content::Said { number, who, text } => format!("m {counts} {number} {who}\n{text}"),
            Content::Came(Person { number, who }) => format!("j {counts} {number} {who}"),
            Content::Went { number } => format!("l {counts} {number}"),
            Content::Roster { part, is_last, members } => {
                format!("r {counts} {part} {}\n{members}", u8::from(*is_last))
            }
        };
        text.into_bytes()
    }
}

/// The members of a part, of which [`Notice::read`] has checked every line.
pub(super) fn people(members: &str) -> impl Iterator<Item = Option<Person<'_>>> {
    members.lines().map(|line| {
        let mut fields = line.split(' ');
        let person = person(&mut fields)?;
        fields.next().is_none().then_some(person)
    })
}

/// Cuts a list of members into the texts of parts, at least one. A part ends behind the member that makes it longer than `bytes`.
pub(super) fn parts<'a>(all: impl Iterator<Item = Person<'a>>, bytes: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    for Person { number, who } in all {
        if parts.last().is_some_and(|part| part.len() > bytes) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            // Writing to a String does not fail.
            let _ = writeln!(part, "{number} {who}");
        }
    }
    parts
}

fn number<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<u64> {
    let digits = fields.next()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    // Larger counters could overflow when a node advances them.
    digits.parse().ok().filter(|&number| number < u64::MAX / 2)
}

fn person<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<Person<'a>> {
    Some(Person { number: number(fields)?, who: who(fields)? })
}

/// Checks a member's name by the rules for clients, so that no node can drive a terminal or forge a line.
fn who<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let who = fields.next()?;
    let (name, address) = who.split_once('@')?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:%_-[]".contains(&byte);
    let is_address = (1..=ADDRESS_MAX).contains(&address.len()) && address.bytes().all(is_plain);
    (is_address && fault(name).is_none()).then_some(who)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    const ANN: Person<'_> = Person { number: 7, who: "ann@10.0.0.1" };

    fn notice(content: Content<'_>) -> Notice<'_> {
        Notice { changes: 3, said: 14, content }
    }

    #[test]
    fn each_message_is_read_as_it_was_written() {
        let members = parts([ANN, Person { number: 8, who: "李@unix" }].into_iter(), PART_BYTES);
        for content in [
            Content::Beat,
            Content::Bye,
            Content::Ask,
            Content::Said { number: 7, who: "ann@::1", text: "two\nlines and a \u{7}" },
            Content::Said { number: 7, who: "ann@fe80::1%eth0", text: "" },
            Content::Came(ANN),
            Content::Went { number: 7 },
            Content::Roster { part: 2, is_last: true, members: &members[0] },
            Content::Roster { part: 0, is_last: false, members: "" },
        ] {
            let bytes = notice(content).bytes();
            assert_eq!(Notice::read(&bytes), Some(notice(content)), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn bytes_that_no_node_writes_are_refused() {
        let long = format!("m 1 1 7 ann@unix\n{}", "x".repeat(TEXT_MAX + 1));
        let name = format!("j 1 1 7 {}@unix", "n".repeat(33));
        let address = format!("j 1 1 7 ann@{}", "1".repeat(65));
        let list = format!("r 1 1 0 1\n{}", "7 ann@unix\n".repeat(PART_MAX / 10));
        let table = [
            "",
            "h",
            "h 1",
            "h 1 2 3",
            "h 1 2\n",
            "h -1 2",
            "h +1 2",
            "h  1 2",
            "h 1 99999999999999999999",
            "x 1 2",
            "h 1 9999999999999999999",
            "m 1 1 7 ann@unix",
            "m 1 0 7 ann@unix\nx",
            "m 1 1 7 an\u{202e}n@unix\nx",
            "m 1 1 7 ann\nx",
            "m 1 1 7 ann@10.0.0.1>>\nx",
            "m 1 1 7 (Connected@unix\nx",
            "m 1 1 7 a b@unix\nx",
            "j 0 1 7 ann@unix",
            "j 1 1 7 ann@unix\n",
            "j 1 1 ann@unix",
            "l 0 1 7",
            "l 1 1",
            "r 1 1 0 1",
            "r 1 1 0 1\n7 ann@unix x\n",
            "r 1 1 0 1\n7 @unix\n",
            "q 1 1 x",
            &long,
            &name,
            &address,
            &list,
        ];
        for text in table {
            assert_eq!(Notice::read(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Notice::read(b"m 1 1 7 ann@unix\n\xff"), None);
    }

    #[test]
    fn random_bytes_never_become_a_text_that_could_forge_a_line() {
        let mut chance = Chance::new(7);
        for _ in 0..20_000 {
            let bytes = chance.bytes(40, b"mjlr 1 2 7 ann@unix\n");
            if let Some(Notice { content: Content::Said { who, .. }, .. }) = Notice::read(&bytes) {
                assert!(!who.contains(['>', '\n', ' ']), "{who:?}");
            }
        }
    }

    #[test]
    fn a_long_list_of_members_is_cut_into_parts_between_members() {
        let names: Vec<String> = (0..5_000).map(|number| format!("member{number}@10.0.0.1")).collect();
        let all = || names.iter().zip(1..).map(|(who, number)| Person { number, who });
        let parts = parts(all(), PART_BYTES);
        assert!(parts.len() > 5 && parts.iter().all(|part| part.len() < PART_BYTES + 200), "{}", parts.len());
        assert!(parts.iter().flat_map(|part| people(part)).map(Option::unwrap).eq(all()));
        assert_eq!(super::parts(std::iter::empty(), 1), [""]);
    }
}
