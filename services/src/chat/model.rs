//! Compares a guest's input, in any pieces, with a reading of the whole from its beginning, and checks the texts that
//! others would see. For property tests and for the fuzz target `chat_framing`.

use reactor::Input;

use super::guest::{FIRST_MAX, Heard as Next, Speech, Text};
use super::said::{End, Said, Way, name, said};
use super::socket::Decoders;
use crate::codec::TooLong;
use crate::codec::frames::{self, Encoded, FRAME_MAX, LENGTH_BYTES};
use crate::codec::lines::LINE_MAX;
use crate::codec::text::append_clean;
use crate::pieces::Stream;

/// Panics if the outcome depends on the pieces, if bytes have a wrong meaning, or if a forwarded text could do harm.
pub fn check(text: &[u8]) {
    let stream = Stream::of(text);
    let whole = hear([&stream.bytes[..]]);
    let expected = match &stream.bytes[..] {
        [0, ..] => in_frames(&stream.bytes),
        bytes if begins_as_http(bytes) => Heard { is_http: true, ..Heard::default() },
        bytes => in_lines(bytes),
    };
    let ends = |heard: &Heard| (heard.texts.len(), heard.texts.last().map(Vec::len), heard.end);
    assert!(whole == expected, "{:?} is not {:?}", ends(&whole), ends(&expected));
    stream.in_pieces(|pieces| assert!(hear(pieces.iter().copied()) == whole, "in pieces"));
    whole.texts.iter().for_each(|text| check_text(text));
}

/// The items heard from a guest.
#[derive(Default, PartialEq, Eq)]
struct Heard {
    texts: Vec<Vec<u8>>,
    /// Refused telnet options, each with the number of texts before it.
    refusals: Vec<(usize, [u8; 3])>,
    end: Option<End>,
    /// No text was heard, because the input is an HTTP request.
    is_http: bool,
}

fn hear<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Heard {
    let (mut speech, mut heard, mut kept) = (Speech::default(), Heard::default(), Vec::new());
    let (mut shown, mut decoders) = (false, Decoders::default());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let unread = std::mem::take(&mut kept);
        let mut input = Input::of(&unread);
        speech.listen(&input);
        if let Speech::Http = speech {
            heard.is_http = true;
            return heard;
        }
        loop {
            // The first text is shown before it is taken, if it is within its limit.
            let first =
                if shown { Ok(None) } else { speech.first(&mut input, &mut decoders).map(|first| first.map(owned)) };
            let next = match first {
                Ok(Some(Err(refusal))) => Ok(Some(Next::Refusal(refusal))),
                Ok(Some(Ok(first))) => {
                    let next = speech.next(&mut input, &mut decoders);
                    assert!(
                        matches!(next, Ok(Some(Next::Text(Text { bytes, .. }))) if bytes == first),
                        "not what was shown"
                    );
                    shown = true;
                    next
                }
                Ok(None) if !shown => break,
                Ok(None) => speech.next(&mut input, &mut decoders),
                Err(_) => {
                    shown = true;
                    continue;
                }
            };
            match next {
                Ok(Some(Next::Text(Text { bytes, .. }))) => heard.texts.push(bytes.to_vec()),
                Ok(Some(Next::Refusal(refusal))) => heard.refusals.push((heard.texts.len(), refusal)),
                Ok(Some(Next::Ping(_) | Next::Pong)) => panic!("nobody speaks WebSocket"),
                Ok(None) => break,
                Err(end) => {
                    heard.end = Some(end);
                    return heard;
                }
            }
        }
        kept = input.as_slice().to_vec();
        let most = match speech {
            // A token, and the following space.
            Speech::Silent => FIRST_MAX + 1,
            Speech::Frames => LENGTH_BYTES + FRAME_MAX - 1,
            _ => 0,
        };
        assert!(kept.len() <= most, "{} bytes are left to be looked at again", kept.len());
    }
    match speech.rest(&mut Input::of(&kept)) {
        Ok(rest) => heard.texts.extend(rest.map(|text| text.bytes.to_vec())),
        Err(end) => heard.end = Some(end),
    }
    heard
}

fn owned(next: Next<'_>) -> Result<Vec<u8>, [u8; 3]> {
    match next {
        Next::Text(Text { bytes, .. }) => Ok(bytes.to_vec()),
        Next::Refusal(refusal) => Err(refusal),
        Next::Ping(_) | Next::Pong => panic!("nobody speaks WebSocket"),
    }
}

/// Whether the stream begins with a token without small letters, of at most 512 bytes, a space, and a path or a star.
fn begins_as_http(stream: &[u8]) -> bool {
    let Some((token, [b'/' | b'*', ..])) =
        stream.iter().position(|&byte| byte == b' ').map(|at| (&stream[..at], &stream[at + 1..]))
    else {
        return false;
    };
    // RFC 9110 section 5.6.2.
    let separators = b"\"(),/:;<=>?@[\\]{}";
    let is_token = |byte: &u8| byte.is_ascii_graphic() && !separators.contains(byte) && !byte.is_ascii_lowercase();
    (1..=FIRST_MAX).contains(&token.len()) && token.iter().all(is_token)
}

/// Frames, read from the beginning.
fn in_frames(mut stream: &[u8]) -> Heard {
    let mut heard = Heard::default();
    while let [a, b, c, d, rest @ ..] = stream {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if length > FRAME_MAX {
            heard.end = Some(End::TooLong(TooLong { what: "frame", limit: FRAME_MAX }));
            return heard;
        }
        let Some(text) = rest.get(..length) else { break };
        heard.texts.push(text.to_vec());
        stream = &rest[length..];
    }
    heard.end = (!stream.is_empty()).then_some(End::HalfFrame);
    heard
}

/// Reads lines from the beginning, with telnet's commands (RFC 854) removed.
fn in_lines(stream: &[u8]) -> Heard {
    let (mut heard, mut line, mut at) = (Heard::default(), Vec::new(), 0);
    let without_return = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    while let Some(&byte) = stream.get(at) {
        let (command, option) = (stream.get(at + 1).copied(), stream.get(at + 2).copied());
        at += match (byte, command) {
            (255, None) => 1,
            (255, Some(255)) => {
                line.push(255);
                2
            }
            (255, Some(command @ 251..=254)) => {
                let no = match command {
                    251 => Some(254),
                    253 => Some(252),
                    _ => None,
                };
                let refusal = no.zip(option).map(|(no, option)| (heard.texts.len(), [255, no, option]));
                heard.refusals.extend(refusal);
                3
            }
            (255, Some(250)) => {
                let mut length = 2;
                while at + length < stream.len() && !stream[at + length..].starts_with(&[255, 240]) {
                    length += if stream[at + length] == 255 { 2 } else { 1 };
                }
                length + 2
            }
            (255, Some(_)) => 2,
            (b'\n', _) => {
                heard.texts.push(without_return(&std::mem::take(&mut line)));
                1
            }
            _ => {
                line.push(byte);
                1
            }
        };
        if line.strip_suffix(b"\r").unwrap_or(&line).len() > LINE_MAX {
            heard.end = Some(End::TooLong(TooLong { what: "line", limit: LINE_MAX }));
            return heard;
        }
    }
    if !line.is_empty() {
        heard.texts.push(without_return(&line));
    }
    heard
}

/// Checks the room's handling of one text.
fn check_text(text: &[u8]) {
    let mut encoded = Encoded::default();
    encoded.encode(|bytes| bytes.extend_from_slice(text));
    assert_eq!(frames::next(&mut Input::of(encoded.frame())), Ok(Some(text)), "a frame reads back");
    assert_eq!(encoded.line(), [text, b"\n"].concat());
    let Ok(text) = std::str::from_utf8(text) else { return };
    for way in Way::ALL {
        if let Ok(name) = name(text, way) {
            assert!((1..=32).contains(&name.chars().count()) && text.ends_with(name));
            let is_bad = |c: char| matches!(c, '@' | '>' | ',' | ' ' | '\t' | '\u{2800}') || does_something(c);
            assert!(!name.chars().any(is_bad) && !name.starts_with(['/', '(', '#']), "{name:?} is taken for a name");
        }
    }
    let mut line = Vec::new();
    match said(text) {
        Said::Message(message) => append_clean(message, &mut line),
        Said::Nothing => assert_eq!(text, ""),
        Said::Who | Said::Quit | Said::Help | Said::Unknown => assert!(text.starts_with('/')),
    }
    let line = String::from_utf8(line).expect("what was text is text");
    assert!(!line.chars().any(|c| c != '\t' && does_something(c)), "{line:?} reaches a terminal");
    let message = if text.starts_with("//") { &text[1..] } else { text };
    let is_same = |(one, other): (char, char)| one == other || other == '\u{fffd}' && does_something(one);
    assert!(line.is_empty() || line.chars().count() == message.chars().count());
    assert!(message.chars().zip(line.chars()).all(is_same), "{message:?} became {line:?}");
}

/// Whether a character is a control character, another end of line, or changes the direction of writing.
fn does_something(c: char) -> bool {
    matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::seeds;
    use proptest::prelude::*;

    fn heading() -> impl Strategy<Value = String> {
        let size = prop_oneof![0..100usize, LINE_MAX - 40..LINE_MAX + 5];
        prop::option::weighted(0.1, (0..40usize, size)).prop_map(|filler| match filler {
            Some((at, count)) => format!("#a{at} x{count} c4096 c1\n"),
            None => String::from("#c3 c1 c7\n"),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn lines_say_the_same_in_all_pieces_and_nothing_of_telnets(
            heading in heading(),
            words in prop::collection::vec(prop_oneof![
                any::<u8>().prop_map(|byte| vec![byte]),
                "[a-z/]{1,4}".prop_map(String::into_bytes),
                prop::sample::select(vec![
                    &b"\n"[..], b"\r\n", b"\r", b"GET /", b"ANN", b" ", b"*", b"\xff\xff", b"\xff\xfb\n", b"\xff\xf1", b"\xff\xfa", b"\xff\xf0",
                ]).prop_map(<[u8]>::to_vec),
            ], 0..40),
        ) {
            check(&[heading.into_bytes(), words.concat()].concat());
        }

        #[test]
        fn frames_say_the_same_in_all_pieces(
            texts in prop::collection::vec("(NAME: ?|/|//)?\\PC{0,9}[\0-\u{a0}\u{2028}\u{202e}]{0,2}", 1..5),
            half in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let frame = |text: &String| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
            check(&[texts.iter().flat_map(frame).collect(), half].concat());
        }

        #[test]
        fn no_text_drives_a_terminal(text in any::<String>()) {
            check_text(text.as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("chat_framing").iter().for_each(|seed| check(seed));
    }
}
