//! What the chat remembers of one peer: how it speaks, which its first byte decides, and its seat in the room once it
//! has a name.

use reactor::Input;

use super::room::Seat;
use super::said::{End, Way};
use crate::codec::TooLong;
use crate::codec::frames;
use crate::codec::lines::{Item, Lines};

/// Bytes of the first line or frame, which is a name: whoever has none yet makes the server keep no more than this.
pub(super) const FIRST_MAX: usize = 512;

/// Telnet options that are refused in one turn, of one connection; what comes after them waits for the next turn.
const REFUSALS_PER_TURN: u32 = 64;

/// The chat's half of one connection. Nothing of it is for anyone but [`Chat`](super::Chat).
#[derive(Debug, Default)]
pub struct Guest {
    pub(super) speech: Speech,
    /// From the name until the end of the connection is decided.
    pub(super) seat: Option<Seat>,
    /// The round of the [`Budget`](super::budget::Budget) in which it was heard last.
    pub(super) heard: u64,
    /// The number of the news that it has come; it is heard once these are told.
    pub(super) news: u64,
    /// Has given a name, and waits until the room has time for one more.
    pub(super) waits: bool,
    /// Its input is at an end, and its last line is still to be heard.
    pub(super) has_ended: bool,
    /// Has been told to type a name.
    pub(super) prompted: bool,
    /// The turn in which a telnet option was refused last, and how many in it.
    refused: (u32, u32),
}

impl Guest {
    /// One more telnet option was refused. Whether that was the last in this turn.
    pub(super) fn has_refused(&mut self, turn: u32) -> bool {
        let before = if self.refused.0 == turn { self.refused.1 } else { 0 };
        self.refused = (turn, before + 1);
        self.is_done_refusing(turn)
    }

    /// Whether no more telnet options are refused in this turn.
    pub(super) fn is_done_refusing(&self, turn: u32) -> bool {
        self.refused == (turn, REFUSALS_PER_TURN)
    }
}

/// One line or frame, without what marks its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text<'a> {
    pub(super) way: Way,
    pub(super) bytes: &'a [u8],
}

/// What has come of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    Text(Text<'a>),
    /// A telnet option, and these bytes refuse it.
    Refusal([u8; 3]),
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
    pub(super) fn next<'s, 'i: 's>(&'s mut self, input: &mut Input<'i>) -> Result<Option<Heard<'s>>, TooLong> {
        self.listen(input);
        match self {
            Speech::Silent => Ok(None),
            Speech::Lines(lines) => Ok(lines.next(input)?.map(Heard::of)),
            Speech::Frames => Ok(frames::next(input)?.map(|bytes| Heard::Text(Text { way: Way::Frames, bytes }))),
        }
    }

    /// The first thing that it says, which has at most [`FIRST_MAX`] bytes. A text is shown, and stays to be taken by
    /// [`next`](Self::next).
    pub(super) fn first<'s, 'i: 's>(&'s mut self, input: &mut Input<'i>) -> Result<Option<Heard<'s>>, TooLong> {
        self.listen(input);
        let too_long = |what| TooLong { what, limit: FIRST_MAX };
        match self {
            Speech::Silent => Ok(None),
            Speech::Lines(lines) => Ok(lines.peek(input, too_long("first line"))?.map(Heard::of)),
            Speech::Frames => {
                let text = frames::peek(input, too_long("first frame"))?;
                Ok(text.map(|bytes| Heard::Text(Text { way: Way::Frames, bytes })))
            }
        }
    }

    /// The first byte decides.
    fn listen(&mut self, input: &Input<'_>) {
        if let Speech::Silent = self {
            *self = match input.as_slice().first() {
                None => return,
                Some(0) => Speech::Frames,
                Some(_) => Speech::Lines(Lines::default()),
            };
        }
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

impl<'a> Heard<'a> {
    fn of(item: Item<'a>) -> Self {
        match item {
            Item::Line(bytes) => Heard::Text(Text { way: Way::Lines, bytes }),
            Item::Refusal(bytes) => Heard::Refusal(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(stream: &[u8]) -> (Way, Vec<Vec<u8>>) {
        let (mut speech, mut input, mut heard) = (Speech::default(), Input::of(stream), Vec::new());
        while let Some(next) = speech.next(&mut input).unwrap() {
            if let Heard::Text(text) = next {
                heard.push(text.bytes.to_vec());
            }
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

    #[test]
    fn the_first_text_is_shown_until_it_is_taken_and_may_not_be_long() {
        for stream in [&b"ann\nhello\n"[..], b"\0\0\0\x03ann\0\0\0\x05hello"] {
            let (mut speech, mut input) = (Speech::default(), Input::of(stream));
            for _ in 0..2 {
                assert!(matches!(speech.first(&mut input), Ok(Some(Heard::Text(Text { bytes: b"ann", .. })))));
            }
            for expected in [&b"ann"[..], b"hello"] {
                let next = speech.next(&mut input);
                assert!(matches!(next, Ok(Some(Heard::Text(Text { bytes, .. }))) if bytes == expected), "{next:?}");
            }
        }
        let long = vec![b'x'; FIRST_MAX + 1];
        let frame = (FIRST_MAX as u32 + 1).to_be_bytes();
        for (stream, what) in [(&long[..], "first line"), (&frame, "first frame")] {
            let too_long = Speech::default().first(&mut Input::of(stream)).unwrap_err();
            assert_eq!(too_long.to_string(), format!("{what} longer than 512 bytes"));
        }
        assert_eq!(Speech::default().first(&mut Input::of(&long[1..])), Ok(None));
    }
}
