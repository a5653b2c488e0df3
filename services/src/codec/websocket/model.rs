//! A client's frames in any pieces, beside a reading of the whole stream from its beginning. For property tests and for
//! the fuzz target `websocket`.

use std::str::from_utf8;

use reactor::Input;

use super::{Buffers, Decoder, Event, Pongs};
use crate::pieces::Stream;

/// Bytes that a message may have here: the first length that takes eight bytes, so that each way to write a length occurs.
pub(super) const MAX: usize = 65_536;
/// Bytes of a frame's head that may be left unread.
const HEAD_LEFT: usize = 13;

/// Panics where the pieces in which frames arrive matter, where decoder and model differ, and where a decoder keeps more
/// memory than needed.
pub fn check(text: &[u8]) {
    let stream = Stream::of(text);
    let whole = hear([&stream.bytes[..]]);
    let expected = read(&stream.bytes);
    assert!(whole == expected, "{:?} is not {:?}", whole.summary(), expected.summary());
    stream.in_pieces(|pieces| assert!(hear(pieces.iter().copied()) == whole, "in pieces"));
}

/// An event that is kept, and the close code of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, Vec<u8>),
    Error(u16),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard(pub(super) Vec<Said>);

impl Heard {
    /// Without payloads, for a message that can be read.
    fn summary(&self) -> Vec<(u8, usize)> {
        let summary = |said: &Said| match said {
            Said::Text(bytes) => (1, bytes.len()),
            Said::Binary(bytes) => (2, bytes.len()),
            Said::Ping(bytes) => (9, bytes.len()),
            Said::Pong(bytes) => (10, bytes.len()),
            Said::Close(code, _) => (8, usize::from(*code)),
            Said::Error(code) => (0, usize::from(*code)),
        };
        self.0.iter().map(summary).collect()
    }
}

/// Decodes a stream that arrives in pieces. Unread bytes are kept for the next piece, as the loop does.
pub(super) fn hear<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Heard {
    let (mut decoder, mut buffers) = (Decoder::new(MAX), Buffers::default());
    let (mut said, mut kept, mut arrived) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        kept.extend_from_slice(piece);
        arrived += piece.len();
        let unread = std::mem::take(&mut kept);
        let mut input = Input::of(&unread);
        let mut pongs = Pongs::default();
        loop {
            let next = match decoder.next(&mut input, &mut buffers) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let next = keep(event);
                    if let Said::Ping(payload) = &next {
                        pongs.answer(payload, &mut reactor::Output::default().writer());
                    }
                    next
                }
                Err(error) => Said::Error(error.code.number()),
            };
            let is_end = matches!(next, Said::Close(..) | Said::Error(_));
            said.push(next);
            if is_end {
                let left = input.len();
                assert_eq!(decoder.next(&mut input, &mut buffers), Ok(None), "something follows the end");
                assert_eq!(input.len(), left);
                return Heard(said);
            }
        }
        assert!(input.len() <= HEAD_LEFT, "{} bytes are left to be looked at again", input.len());
        assert!(decoder.held() <= (2 * arrived).max(64), "{} bytes are held of {arrived}", decoder.held());
        assert!(decoder.held() == 0 || decoder.is_unfinished(), "a silent client holds a buffer");
        kept = input.as_slice().to_vec();
    }
    Heard(said)
}

fn keep(event: Event<'_>) -> Said {
    match event {
        Event::Text(text) => Said::Text(text.as_bytes().to_vec()),
        Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
        Event::Ping(bytes) => Said::Ping(bytes.to_vec()),
        Event::Pong(bytes) => Said::Pong(bytes.to_vec()),
        Event::Close(code, reason) => Said::Close(code.number(), reason.as_bytes().to_vec()),
    }
}

/// Frames, read from the beginning.
pub(super) fn read(stream: &[u8]) -> Heard {
    let (mut said, mut rest) = (Vec::new(), stream);
    let mut message: Option<(bool, Vec<u8>)> = None;
    let end = loop {
        match frame(&mut rest, message.as_ref()) {
            Err(code) => break Some(code),
            Ok(None) => break None,
            Ok(Some(frame)) if frame.opcode >= 8 => {
                if !frame.is_whole {
                    break None;
                }
                match (frame.opcode, &frame.payload[..]) {
                    (9, payload) => said.push(Said::Ping(payload.to_vec())),
                    (10, payload) => said.push(Said::Pong(payload.to_vec())),
                    (_, []) => {
                        said.push(Said::Close(1005, Vec::new()));
                        break None;
                    }
                    (_, [_]) => break Some(1002),
                    (_, [high, low, reason @ ..]) => {
                        let code = u16::from(*high) << 8 | u16::from(*low);
                        let is_valid = (1000..=1014).contains(&code) && !(1004..=1006).contains(&code)
                            || (3000..5000).contains(&code);
                        if !is_valid {
                            break Some(1002);
                        }
                        if from_utf8(reason).is_err() {
                            break Some(1007);
                        }
                        said.push(Said::Close(code, reason.to_vec()));
                        break None;
                    }
                }
            }
            Ok(Some(frame)) => {
                let (is_text, mut bytes) = message.take().unwrap_or((frame.opcode == 1, Vec::new()));
                bytes.extend_from_slice(&frame.payload);
                let is_message = frame.is_whole && frame.is_last;
                if is_text && !(if is_message { from_utf8(&bytes).is_ok() } else { may_become_utf8(&bytes) }) {
                    break Some(1007);
                }
                if is_message {
                    said.push(if is_text { Said::Text(bytes) } else { Said::Binary(bytes) });
                } else {
                    message = Some((is_text, bytes));
                }
                if !frame.is_whole {
                    break None;
                }
            }
        }
    };
    said.extend(end.map(Said::Error));
    Heard(said)
}

struct Frame {
    opcode: u8,
    is_last: bool,
    is_whole: bool,
    payload: Vec<u8>,
}

/// The next frame with a whole head, and the part of the payload that has arrived; or the close code of the first fault.
fn frame(rest: &mut &[u8], message: Option<&(bool, Vec<u8>)>) -> Result<Option<Frame>, u16> {
    let Some(&first) = rest.first() else { return Ok(None) };
    let (is_last, opcode) = (first >= 0x80, first % 16);
    let is_known = matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10);
    let is_in_order = opcode >= 8 || (opcode == 0) == message.is_some();
    if first / 16 % 8 != 0 || !is_known || !is_in_order || (opcode >= 8 && !is_last) {
        return Err(1002);
    }
    let Some(&second) = rest.get(1) else { return Ok(None) };
    if second < 0x80 || (opcode >= 8 && second > 0x80 + 125) {
        return Err(1002);
    }
    let extended = match second - 0x80 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(length) = rest.get(2..2 + extended) else { return Ok(None) };
    let length = length.iter().fold(0u128, |length, &byte| length * 256 + u128::from(byte));
    let length = if extended == 0 { u128::from(second - 0x80) } else { length };
    if (extended == 2 && length < 126) || (extended == 8 && !(65_536..1 << 63).contains(&length)) {
        return Err(1002);
    }
    if opcode < 8 && message.map_or(0, |(_, bytes)| bytes.len()) as u128 + length > MAX as u128 {
        return Err(1009);
    }
    let Some(mask) = rest.get(2 + extended..2 + extended + 4) else { return Ok(None) };
    let after = &rest[2 + extended + 4..];
    let payload = &after[..after.len().min(length as usize)];
    *rest = &after[payload.len()..];
    let unmasked = payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
    Ok(Some(Frame { opcode, is_last, is_whole: payload.len() as u128 == length, payload: unmasked }))
}

/// Whether further bytes could make the bytes UTF-8, found out by trying.
fn may_become_utf8(bytes: &[u8]) -> bool {
    let Err(error) = from_utf8(bytes) else { return true };
    let tail = &bytes[error.valid_up_to()..];
    let mut ends = vec![tail.to_vec()];
    (0..3).any(|_| {
        let longer = |end: &Vec<u8>| [0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf].map(|byte| [&end[..], &[byte]].concat());
        ends = ends.iter().flat_map(longer).collect();
        tail.len() < 4 && ends.iter().any(|end| from_utf8(end).is_ok())
    })
}

/// A client's frame.
#[cfg(test)]
pub(crate) fn masked(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::seeds;
    use proptest::prelude::*;

    /// A frame with any first byte, mask and payload.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            8 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a]),
            1 => Just(0x88u8),
            1 => any::<u8>(),
        ];
        let payload = prop_oneof![
            4 => "[a-zé€𐍈]{0,6}".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..8),
            1 => (prop::sample::select(vec![124usize, 125, 126, 127, 300]), any::<u8>())
                .prop_map(|(length, byte)| vec![byte % 128; length]),
            1 => (any::<u16>(), "[aé]{0,3}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
            1 => (990u16..1020, "[aé]{0,3}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
        ];
        (first, any::<[u8; 4]>(), payload).prop_map(|(first, mask, payload)| masked(first, mask, &payload))
    }

    /// A message in fragments, cut anywhere, with pings between them.
    fn fragmented() -> impl Strategy<Value = Vec<u8>> {
        let cuts = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4);
        ("[a-zé€𐍈]{0,12}", any::<[u8; 4]>(), cuts).prop_map(|(text, mask, cuts)| {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|(at, ping)| (at.index(bytes.len() + 1), *ping)).collect();
            cuts.sort_unstable();
            let (mut stream, mut from) = (Vec::new(), 0);
            for (at, ping) in cuts {
                stream.extend(masked(u8::from(stream.is_empty()), mask, &bytes[from..at]));
                if ping {
                    stream.extend(masked(0x89, mask, b"?"));
                }
                from = at;
            }
            stream.extend(masked(0x80 | u8::from(stream.is_empty()), mask, &bytes[from..]));
            stream
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn frames_mean_what_a_reading_of_the_whole_says(
            parts in prop::collection::vec(prop_oneof![frames(), fragmented()], 0..6),
            slip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            // The first line of a stream may be a heading: see `pieces`.
            let mut stream = [b"#\n", &parts.concat()[..]].concat();
            if let Some((at, byte)) = slip && stream.len() > 2 {
                let at = 2 + at.index(stream.len() - 2);
                stream[at] = byte;
            }
            check(&stream);
        }

        #[test]
        fn and_of_any_bytes(
            bytes in prop::collection::vec(prop_oneof![prop::sample::select(b"\x81\x01\x80\x82\x88\x89\x00\xfe\xff".to_vec()), any::<u8>()], 0..40),
        ) {
            check(&bytes);
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("websocket").iter().for_each(|seed| check(seed));
    }
}
