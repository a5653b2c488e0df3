//! The chat's state of one peer: the protocol, decided by the first bytes, and after the name the seat in the room.

use reactor::Input;

use super::room::Seat;
use super::said::{End, Way};
use super::socket::{Decoders, Socket};
use crate::codec::TooLong;
use crate::codec::frames;
use crate::codec::lines::{Item, Lines};

/// Longest first line, frame or message in bytes, which is a name: the server keeps no more input of a guest without a
/// name.
pub(super) const FIRST_MAX: usize = 512;

/// Number of telnet options of one connection that are refused in one turn. Further options wait for the next turn.
const REFUSALS_PER_TURN: u32 = 64;

/// The chat's state of one connection: its protocol, and after the name its membership. Only [`Chat`](super::Chat) uses the fields.
///
/// ```
/// # use services::chat::{Command, Guest};
/// use reactor::testing::Recorded;
/// use reactor::{Handler, Input};
/// use services::chat::{Chat, Room};
///
/// let (mut chat, mut recorded) = (Chat::new(Room::default()), Recorded::<Guest, Command>::new());
/// let peer = recorded.connection();
/// let mut guest: Guest = chat.on_open(&mut recorded.context(peer));
/// chat.on_data(&mut guest, &mut Input::of(b"ann\n"), &mut recorded.context(peer));
/// assert!(recorded.written(peer).starts_with(b"CLIENT: "));
/// ```
#[derive(Debug, Default)]
pub struct Guest {
    pub(super) speech: Speech,
    /// Set from the name until the connection's end is decided.
    pub(super) seat: Option<Seat>,
    /// The round of the [`Budget`](super::budget::Budget) in which the guest was last heard.
    pub(super) heard: u64,
    /// The number of the news of its arrival; the guest is heard when the news has been announced.
    pub(super) news: u64,
    /// The guest has given a name, and waits until the room has time for another member.
    pub(super) waits: bool,
    /// The guest's input has ended, and its last line is still to be heard.
    pub(super) has_ended: bool,
    /// The guest was asked for a name.
    pub(super) prompted: bool,
    /// The turn of the last refused telnet option, and the number refused in that turn.
    refused: (u32, u32),
}

impl Guest {
    /// Counts a refused telnet option. Returns whether it was the last of this turn.
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

/// One line, frame or message, without its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text<'a> {
    pub(super) way: Way,
    pub(super) bytes: &'a [u8],
}

/// An item of a guest's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    Text(Text<'a>),
    /// A telnet option, with the bytes that refuse it.
    Refusal([u8; 3]),
    /// A WebSocket ping with this payload.
    Ping(&'a [u8]),
    /// A WebSocket pong, without meaning.
    Pong,
}

/// The protocol of one guest.
#[derive(Debug, Default)]
pub(super) enum Speech {
    /// Undecided: the received bytes, if any, may begin a line or an HTTP request.
    #[default]
    Silent,
    Lines(Lines),
    Frames,
    /// An HTTP request, whose head is not complete.
    Http,
    WebSocket(Socket),
}

impl Speech {
    /// The protocol for texts to the guest: lines, until it has chosen another.
    pub(super) fn way(&self) -> Way {
        match self {
            Speech::Silent | Speech::Lines(_) | Speech::Http => Way::Lines,
            Speech::Frames => Way::Frames,
            Speech::WebSocket(_) => Way::WebSocket,
        }
    }

    /// Heap bytes that an unfinished line or message takes. Unfinished frames stay in the input.
    pub(super) fn memory(&self) -> usize {
        match self {
            Speech::Silent | Speech::Frames | Speech::Http => 0,
            Speech::Lines(lines) => lines.memory(),
            Speech::WebSocket(socket) => socket.memory(),
        }
    }

    /// Gives back the memory of an unfinished line or message: nothing more is read.
    pub(super) fn give_back(&mut self) {
        match self {
            Speech::Silent | Speech::Frames | Speech::Http => {}
            Speech::Lines(lines) => *lines = Lines::default(),
            Speech::WebSocket(socket) => socket.give_back(),
        }
    }

    /// Takes the guest's next item, if it is complete.
    pub(super) fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut Input<'i>,
        decoders: &mut Decoders,
    ) -> Result<Option<Heard<'s>>, End> {
        match self {
            Speech::Silent | Speech::Http => Ok(None),
            Speech::Lines(lines) => Ok(lines.next(input).map_err(End::TooLong)?.map(Heard::of)),
            Speech::Frames => {
                let text = frames::next(input).map_err(End::TooLong)?;
                Ok(text.map(|bytes| Heard::Text(Text { way: Way::Frames, bytes })))
            }
            Speech::WebSocket(socket) => socket.next(input, decoders),
        }
    }

    /// Returns the guest's first item, which has at most [`FIRST_MAX`] bytes. A text stays in the input, to be taken by
    /// [`next`](Self::next).
    pub(super) fn first<'s, 'i: 's>(
        &'s mut self,
        input: &mut Input<'i>,
        decoders: &mut Decoders,
    ) -> Result<Option<Heard<'s>>, End> {
        let too_long = |what| TooLong { what, limit: FIRST_MAX };
        match self {
            Speech::Silent | Speech::Http => Ok(None),
            Speech::Lines(lines) => Ok(lines.peek(input, too_long("first line")).map_err(End::TooLong)?.map(Heard::of)),
            Speech::Frames => {
                let text = frames::peek(input, too_long("first frame")).map_err(End::TooLong)?;
                Ok(text.map(|bytes| Heard::Text(Text { way: Way::Frames, bytes })))
            }
            Speech::WebSocket(socket) => socket.first(input, decoders),
        }
    }

    /// Lets the first bytes choose the protocol.
    pub(super) fn listen(&mut self, input: &Input<'_>) {
        if let Speech::Silent = self {
            *self = match Opening::of(input.as_slice()) {
                Opening::Undecided => return,
                Opening::Lines => Speech::Lines(Lines::default()),
                Opening::Frames => Speech::Frames,
                Opening::Http => Speech::Http,
            };
        }
    }

    /// Takes the rest of the input at its end. A line without an ending counts as a line; an incomplete frame or
    /// WebSocket message is dropped.
    pub(super) fn rest(&mut self, input: &mut Input<'_>) -> Result<Option<Text<'_>>, End> {
        if let Speech::Silent = self
            && !input.is_empty()
        {
            // The bytes are a line without an ending.
            let mut lines = Lines::default();
            lines.next(input).map_err(End::TooLong)?;
            *self = Speech::Lines(lines);
        }
        match self {
            Speech::Silent | Speech::Http | Speech::WebSocket(_) => Ok(None),
            Speech::Lines(lines) => Ok(lines.rest().map(|bytes| Text { way: Way::Lines, bytes })),
            Speech::Frames if input.is_empty() => Ok(None),
            Speech::Frames => Err(End::HalfFrame),
        }
    }
}

/// The protocol that a connection's first bytes choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// No bytes, or a token that may become the method of an HTTP request or a name.
    Undecided,
    Lines,
    Frames,
    Http,
}

impl Opening {
    /// HTTP begins with a token without small letters, a space, and `/` or `*`: a name has no space. A token longer
    /// than a first line belongs to a line.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let is_token =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let token = bytes.iter().take(FIRST_MAX + 1).position(|&byte| !is_token(byte)).unwrap_or(bytes.len());
        match (bytes.first(), &bytes[token..]) {
            (Some(0), _) => Opening::Frames,
            (_, [] | [b' ']) if token <= FIRST_MAX => Opening::Undecided,
            (_, [b' ', b'/' | b'*', ..]) if token > 0 => Opening::Http,
            _ => Opening::Lines,
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
        speech.listen(&input);
        while let Some(next) = speech.next(&mut input, &mut Decoders::default()).unwrap() {
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
        speech.listen(&input);
        while speech.next(&mut input, &mut Decoders::default()).unwrap().is_some() {}
        assert_eq!(speech.rest(&mut input).unwrap().unwrap().bytes, b"two");

        for undecided in [&b"GET"[..], b"ANN", b"GET "] {
            let (mut speech, mut input) = (Speech::default(), Input::of(undecided));
            speech.listen(&input);
            assert!(matches!(speech, Speech::Silent));
            assert_eq!(speech.rest(&mut input).unwrap().unwrap().bytes, undecided);
        }

        let (mut speech, mut input) = (Speech::default(), Input::of(b"\0\0\0\x02h"));
        speech.listen(&input);
        assert_eq!(speech.next(&mut input, &mut Decoders::default()), Ok(None));
        assert!(matches!(speech.rest(&mut input), Err(End::HalfFrame)));
    }

    #[test]
    fn the_first_text_is_shown_until_it_is_taken_and_may_not_be_long() {
        for stream in [&b"ann\nhello\n"[..], b"\0\0\0\x03ann\0\0\0\x05hello"] {
            let (mut speech, mut input) = (Speech::default(), Input::of(stream));
            let mut decoders = Decoders::default();
            speech.listen(&input);
            for _ in 0..2 {
                assert!(matches!(
                    speech.first(&mut input, &mut decoders),
                    Ok(Some(Heard::Text(Text { bytes: b"ann", .. })))
                ));
            }
            for expected in [&b"ann"[..], b"hello"] {
                let next = speech.next(&mut input, &mut decoders);
                assert!(matches!(next, Ok(Some(Heard::Text(Text { bytes, .. }))) if bytes == expected), "{next:?}");
            }
        }
        let long = vec![b'x'; FIRST_MAX + 1];
        let frame = (FIRST_MAX as u32 + 1).to_be_bytes();
        for (stream, what) in [(&long[..], "first line"), (&frame, "first frame")] {
            assert_eq!(first(stream).unwrap_err().to_string(), format!("ERROR: {what} longer than 512 bytes"));
        }
        assert_eq!(first(&long[1..]), Ok(()));
    }

    fn first(stream: &[u8]) -> Result<(), End> {
        let (mut speech, mut input) = (Speech::default(), Input::of(stream));
        speech.listen(&input);
        let shown = speech.first(&mut input, &mut Decoders::default())?;
        assert_eq!(shown, None);
        Ok(())
    }

    #[test]
    fn http_begins_with_a_token_without_small_letters_a_space_and_a_path_or_a_star() {
        let long = |length| [&vec![b'A'; length][..], b" /"].concat();
        for (stream, opening) in [
            (&b""[..], Opening::Undecided),
            (b"G", Opening::Undecided),
            (b"GET", Opening::Undecided),
            (b"GET ", Opening::Undecided),
            (b"GET /", Opening::Http),
            (b"OPTIONS *", Opening::Http),
            (b"M-SEARCH * HTTP/1.1", Opening::Http),
            (b"GET\n", Opening::Lines),
            (b"GET  /", Opening::Lines),
            (b"GET x", Opening::Lines),
            (b"GET http://here/", Opening::Lines),
            (b"get /", Opening::Lines),
            (b"Get /", Opening::Lines),
            (b" /", Opening::Lines),
            (b"NAME: /", Opening::Lines),
            (b"\r\nGET / HTTP/1.1", Opening::Lines),
            (b"\xff\xfb\x01GET /", Opening::Lines),
            (b"\0GET /", Opening::Frames),
            (&long(FIRST_MAX), Opening::Http),
            (&long(FIRST_MAX)[..FIRST_MAX + 1], Opening::Undecided),
            (&long(FIRST_MAX + 1), Opening::Lines),
            (&long(FIRST_MAX + 1)[..FIRST_MAX + 1], Opening::Lines),
        ] {
            assert_eq!(Opening::of(stream), opening, "{}", stream.escape_ascii());
        }
    }
}
