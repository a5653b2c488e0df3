//! What the chat remembers of one peer: how it speaks, which its first byte decides, and its seat in the room once it
//! has a name.

use reactor::Input;

use super::room::Seat;
use super::said::{End, Way};
use crate::codec::TooLong;
use crate::codec::frames;
use crate::codec::lines::Lines;

/// The chat's half of one connection. Nothing of it is for anyone but [`Chat`](super::Chat).
#[derive(Debug, Default)]
pub struct Guest {
    pub(super) speech: Speech,
    /// From the name until the end of the connection is decided.
    pub(super) seat: Option<Seat>,
    /// The round of the [`Budget`](super::budget::Budget) in which it was heard last.
    pub(super) heard: u64,
}

/// One line or frame, without what marks its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text<'a> {
    pub(super) way: Way,
    pub(super) bytes: &'a [u8],
}

/// How one guest speaks.
#[derive(Debug, Default)]
pub(super) enum Speech {
    /// Nothing has come yet.
    #[default]
    Silent,
    Lines(Lines),
    Frames,
}

impl Speech {
    /// How to speak to it: in lines, until it has sent a frame.
    pub(super) fn way(&self) -> Way {
        match self {
            Speech::Silent | Speech::Lines(_) => Way::Lines,
            Speech::Frames => Way::Frames,
        }
    }

    /// The next thing that it says, if that is here as a whole.
    pub(super) fn next<'s, 'i: 's>(&'s mut self, input: &mut Input<'i>) -> Result<Option<Text<'s>>, TooLong> {
        if let Speech::Silent = self {
            *self = match input.as_slice().first() {
                None => return Ok(None),
                Some(0) => Speech::Frames,
                Some(_) => Speech::Lines(Lines::default()),
            };
        }
        let way = self.way();
        let bytes = match self {
            Speech::Silent => None,
            Speech::Lines(lines) => lines.next(input)?,
            Speech::Frames => frames::next(input)?,
        };
        Ok(bytes.map(|bytes| Text { way, bytes }))
    }

    /// What is left at the end of the input. A line without an ending was meant as one; a frame that is not whole was
    /// not.
    pub(super) fn rest(&self, input: &Input<'_>) -> Result<Option<Text<'_>>, End> {
        match self {
            Speech::Silent => Ok(None),
            Speech::Lines(lines) => Ok(lines.rest().map(|bytes| Text { way: Way::Lines, bytes })),
            Speech::Frames if input.is_empty() => Ok(None),
            Speech::Frames => Err(End::HalfFrame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(stream: &[u8]) -> (Way, Vec<Vec<u8>>) {
        let (mut speech, mut input, mut heard) = (Speech::default(), Input::of(stream), Vec::new());
        while let Some(text) = speech.next(&mut input).unwrap() {
            heard.push(text.bytes.to_vec());
        }
        (speech.way(), heard)
    }

    #[test]
    fn the_first_byte_decides_how_a_guest_speaks_and_it_is_spoken_to_in_lines_until_then() {
        assert_eq!(hear(b""), (Way::Lines, vec![]));
        assert_eq!(hear(b"NAME: x\nhi\n"), (Way::Lines, vec![b"NAME: x".to_vec(), b"hi".to_vec()]));
        assert_eq!(hear(b"\xff\xfb\x01x\n"), (Way::Lines, vec![b"x".to_vec()]));
        assert_eq!(hear(b"\0\0\0\x02hi\0\0"), (Way::Frames, vec![b"hi".to_vec()]));
    }

    #[test]
    fn the_end_of_the_input_completes_a_line_and_breaks_a_frame() {
        let (mut speech, mut input) = (Speech::default(), Input::of(b"one\ntwo"));
        while speech.next(&mut input).unwrap().is_some() {}
        assert_eq!(speech.rest(&input).unwrap().unwrap().bytes, b"two");

        let (mut speech, mut input) = (Speech::default(), Input::of(b"\0\0\0\x02h"));
        assert_eq!(speech.next(&mut input), Ok(None));
        assert!(matches!(speech.rest(&input), Err(End::HalfFrame)));
    }
}
