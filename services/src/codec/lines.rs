//! Lines as `nc` and `telnet` send them: ended by `\n` or `\r\n`, with telnet's option bytes between them left out.
//!
//! ```text
//!  Text ──IAC──▶ Command ──WILL WONT DO DONT──▶ Option ──any──▶ Text (after WILL and DO: an answer)
//!   ▲              │ └──SB──▶ Sub ──IAC──▶ SubCommand ──SE──▶ Text
//!   │              │           ▲                └──any──▶ Sub
//!   └──any other───┘ (IAC IAC: the byte 0xff itself)
//! ```
//!
//! [`Lines`] has an example.

use reactor::Input;

use super::TooLong;

/// Longest line in bytes. The ending and telnet's bytes are not counted.
pub const LINE_MAX: usize = 64 * 1024;

/// Capacity that a line's buffer keeps for the next line: enough for typed lines. Most connections never use a buffer.
const KEPT_CAPACITY: usize = 1024;

/// RFC 854: the byte that begins a command, and the commands with a length of their own.
const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SB: u8 = 250;
const SE: u8 = 240;

/// An item of the input: a line, or the answer to a telnet option.
///
/// ```
/// use reactor::Input;
/// use services::codec::lines::{Item, Lines};
///
/// let mut lines = Lines::default();
/// match lines.next(&mut Input::of(b"hello\n")).expect("the line is short") {
///     Some(Item::Line(line)) => assert_eq!(line, b"hello"),
///     Some(Item::Refusal(bytes)) => println!("to be sent: {bytes:?}"),
///     None => println!("the line is incomplete"),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A line without its ending.
    Line(&'a [u8]),
    /// Three bytes to send back: they refuse a telnet option that was requested or offered.
    Refusal([u8; 3]),
}

/// Takes lines from the input of one connection.
///
/// A line in one piece without a telnet command is borrowed from the input. Other lines are gathered here, and the
/// input is consumed meanwhile, so each byte is examined once, however few bytes arrive at a time.
///
/// Each telnet `DO` must be answered with `WONT`, and each `WILL` with `DONT` (RFC 854). A client without the answer
/// would wait for ever, for example after Ctrl-C, which sends `DO TIMING-MARK` (RFC 860). `WONT` and `DONT` get no
/// answer.
///
/// ```
/// use reactor::Input;
/// use services::codec::lines::{Item, Lines};
/// let mut lines = Lines::default();
/// let mut input = Input::of(b"one\r\n\xff\xfb\x01two\nth");
/// assert_eq!(lines.next(&mut input), Ok(Some(Item::Line(b"one"))));
/// assert_eq!(lines.next(&mut input), Ok(Some(Item::Refusal([0xff, 0xfe, 0x01]))));
/// assert_eq!(lines.next(&mut input), Ok(Some(Item::Line(b"two"))));
/// assert_eq!(lines.next(&mut input), Ok(None));
/// assert_eq!(lines.next(&mut Input::of(b"ree\n")), Ok(Some(Item::Line(b"three"))));
/// ```
#[derive(Debug, Default)]
pub struct Lines {
    state: State,
    /// The received part of a line that did not come in one piece.
    line: Vec<u8>,
    /// `line` has been returned, and is cleared at the next call.
    given: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After IAC.
    Command,
    /// After IAC and this command; the option follows.
    Option(u8),
    /// In a subnegotiation, which ends with IAC SE.
    Sub,
    /// After IAC in a subnegotiation.
    SubCommand,
}

/// How the gathering ended.
enum Gathered {
    Line,
    Refusal([u8; 3]),
    Nothing,
}

impl Lines {
    /// Takes the next line or refusal. Returns `None` without a complete line; then all input has been consumed.
    ///
    /// # Errors
    /// As soon as a line is known to be longer than [`LINE_MAX`].
    #[inline]
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut Input<'i>) -> Result<Option<Item<'s>>, TooLong> {
        if std::mem::take(&mut self.given) {
            self.forget();
        }
        if self.state == State::Text && self.line.is_empty() {
            let bytes = input.as_slice();
            if let Some(at) = memchr::memchr2(b'\n', IAC, bytes)
                && bytes[at] == b'\n'
            {
                input.consume(at + 1);
                return within_limit(without_return(&bytes[..at]), TOO_LONG).map(|line| Some(Item::Line(line)));
            }
        }
        let gathered = self.gather(input, TOO_LONG, true)?;
        self.given = matches!(gathered, Gathered::Line);
        self.item(&gathered, TOO_LONG)
    }

    /// Returns the next line without taking the line: its `\n` stays in the input, so the line is found again. All
    /// bytes before are consumed, and so are refusals.
    ///
    /// # Errors
    /// `too_long`, as soon as the line is known to be longer than the limit, which is at most [`LINE_MAX`].
    pub fn peek(&mut self, input: &mut Input<'_>, too_long: TooLong) -> Result<Option<Item<'_>>, TooLong> {
        if std::mem::take(&mut self.given) {
            self.forget();
        }
        let gathered = self.gather(input, too_long, false)?;
        self.item(&gathered, too_long)
    }

    /// Heap bytes of the buffer for an unfinished line, for [`set_state_bytes`](reactor::Context::set_state_bytes).
    pub fn memory(&self) -> usize {
        self.line.capacity()
    }

    /// After the end of the input: the last line, if it has no ending.
    pub fn rest(&self) -> Option<&[u8]> {
        (!self.given && !self.line.is_empty()).then(|| without_return(&self.line))
    }

    fn item(&self, gathered: &Gathered, too_long: TooLong) -> Result<Option<Item<'_>>, TooLong> {
        match *gathered {
            Gathered::Line => within_limit(without_return(&self.line), too_long).map(|line| Some(Item::Line(line))),
            Gathered::Refusal(refusal) => Ok(Some(Item::Refusal(refusal))),
            Gathered::Nothing => Ok(None),
        }
    }

    /// Moves bytes from the input into the line, up to the line's ending or a telnet option to refuse. The ending is
    /// consumed if `taken`.
    fn gather(&mut self, input: &mut Input<'_>, too_long: TooLong, taken: bool) -> Result<Gathered, TooLong> {
        while let Some(&byte) = input.as_slice().first() {
            match self.state {
                State::Text => {
                    if self.gather_text(input, too_long, taken)? {
                        return Ok(Gathered::Line);
                    }
                    continue;
                }
                State::Command => match byte {
                    IAC => {
                        self.line.push(IAC);
                        within_limit(&self.line, too_long)?;
                        self.state = State::Text;
                    }
                    WILL..=DONT => self.state = State::Option(byte),
                    SB => self.state = State::Sub,
                    _ => self.state = State::Text,
                },
                State::Option(command) => {
                    self.state = State::Text;
                    if let WILL | DO = command {
                        input.consume(1);
                        let no = if command == WILL { DONT } else { WONT };
                        return Ok(Gathered::Refusal([IAC, no, byte]));
                    }
                }
                State::Sub if byte == IAC => self.state = State::SubCommand,
                State::Sub => {}
                State::SubCommand => self.state = if byte == SE { State::Text } else { State::Sub },
            }
            input.consume(1);
        }
        Ok(Gathered::Nothing)
    }

    /// Moves text up to the next telnet command. Returns whether the line is complete.
    fn gather_text(&mut self, input: &mut Input<'_>, too_long: TooLong, taken: bool) -> Result<bool, TooLong> {
        let bytes = input.as_slice();
        let found = memchr::memchr2(b'\n', IAC, bytes);
        let text = &bytes[..found.unwrap_or(bytes.len())];
        // Never keeps more than the longest line, and a `\r` that may belong to its ending.
        if self.line.len() + text.len() > too_long.limit + 1 {
            return Err(too_long);
        }
        self.line.extend_from_slice(text);
        let is_line = found.is_some_and(|at| bytes[at] == b'\n');
        input.consume(text.len() + usize::from(found.is_some() && (taken || !is_line)));
        if is_line {
            return Ok(true);
        }
        if found.is_some() {
            self.state = State::Command;
        }
        within_limit(without_return(&self.line), too_long).map(|_| false)
    }

    fn forget(&mut self) {
        if self.line.capacity() > KEPT_CAPACITY {
            self.line = Vec::new();
        }
        self.line.clear();
    }
}

const TOO_LONG: TooLong = TooLong { what: "line", limit: LINE_MAX };

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn within_limit(line: &[u8], too_long: TooLong) -> Result<&[u8], TooLong> {
    if line.len() > too_long.limit { Err(too_long) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    /// The lines of a stream in pieces, with its unended last line and all refusals, and whether a line was over the
    /// limit.
    fn lines<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Vec<u8>>, bool) {
        let (mut lines, mut taken) = (Lines::default(), Vec::new());
        for piece in pieces {
            let mut input = Input::of(piece);
            loop {
                match lines.next(&mut input) {
                    Ok(Some(Item::Line(line))) => taken.push(line.to_vec()),
                    Ok(Some(Item::Refusal(refusal))) => taken.push(refusal.to_vec()),
                    Ok(None) => break,
                    Err(_) => return (taken, true),
                }
            }
            assert!(input.is_empty(), "nothing is left to be looked at twice");
        }
        taken.extend(lines.rest().map(<[u8]>::to_vec));
        (taken, false)
    }

    /// The lines alone.
    fn taken(stream: &[u8]) -> Vec<Vec<u8>> {
        lines([stream]).0.into_iter().filter(|item| item.first() != Some(&IAC)).collect()
    }

    /// The refusals alone.
    fn refused(stream: &[u8]) -> Vec<Vec<u8>> {
        lines([stream]).0.into_iter().filter(|item| item.first() == Some(&IAC)).collect()
    }

    #[test]
    fn a_line_ends_with_a_newline_or_a_return_and_a_newline_and_loses_no_more() {
        assert_eq!(taken(b"a\nb\r\n\n\r\nc\r\r\nd\re\nf"), [&b"a"[..], b"b", b"", b"", b"c\r", b"d\re", b"f"]);
    }

    #[test]
    fn what_telnet_says_is_left_out_wherever_it_stands() {
        assert_eq!(taken(b"\xff\xfb\x1f\xff\xfd\x03hello\r\n"), [b"hello"]);
        assert_eq!(taken(b"he\xff\xf1llo\xff\xf4\n"), [b"hello"], "commands without an option");
        assert_eq!(taken(b"he\xff\xfa\x18\0xterm\n\xff\xffvt\xff\xf0llo\n"), [b"hello"], "a subnegotiation");
        assert_eq!(taken(b"a\xff\xffb\n"), [b"a\xffb"], "the byte itself");
        assert_eq!(taken(b"a\r\xff\xf1\n"), [b"a"], "in the middle of an ending");
        assert_eq!(taken(b"\xff\xfb\n\n"), [b""], "an option that looks like an ending");
    }

    #[test]
    fn each_do_is_answered_with_wont_and_each_will_with_dont_and_nothing_else_is_answered() {
        // Ctrl-C: interrupt, and the client waits for an answer to the timing mark.
        assert_eq!(refused(b"\xff\xf4\xff\xfd\x06"), [b"\xff\xfc\x06"]);
        assert_eq!(refused(b"\xff\xfb\x1f"), [b"\xff\xfe\x1f"]);
        assert!(refused(b"\xff\xfc\x01\xff\xfe\x01\xff\xf1\xff\xf6").is_empty(), "WONT, DONT, NOP, AYT");
        assert!(refused(b"\xff\xfa\x18\xfd\x06\xfb\x06\xff\xff\xff\xf0").is_empty(), "in a subnegotiation");
        assert!(refused(b"\xff\xfd").is_empty(), "which option is not known yet");
        assert_eq!(refused(b"\xff\xfd\xff"), [b"\xff\xfc\xff"], "an option that looks like a command");
        let (items, _) = lines([&b"one\nt\xff\xfd\x06w\xff\xfb\x01o\n"[..]]);
        assert_eq!(items, [&b"one"[..], b"\xff\xfc\x06", b"\xff\xfe\x01", b"two"], "in their places");
    }

    #[test]
    fn a_line_that_was_peeked_at_is_found_again_and_then_taken() {
        let first = TooLong { what: "first line", limit: 5 };
        let stream = b"\xff\xfb\x01he\xff\xfc\x01llo\r\nnext\n";
        for cut in 0..stream.len() {
            let (mut lines, mut refusals, mut found) = (Lines::default(), 0, 0);
            for (number, piece) in [&stream[..cut], &stream[cut..]].into_iter().enumerate() {
                let mut input = Input::of(piece);
                while let Some(item) = lines.peek(&mut input, first).unwrap() {
                    match item {
                        Item::Refusal(_) => refusals += 1,
                        Item::Line(line) => {
                            assert_eq!(line, b"hello");
                            found += 1;
                            if found == 3 {
                                break;
                            }
                        }
                    }
                }
                if found == 3 && number == 1 {
                    assert_eq!(lines.next(&mut input), Ok(Some(Item::Line(b"hello"))), "cut at {cut}");
                    assert_eq!(lines.next(&mut input), Ok(Some(Item::Line(b"next"))));
                }
                if number == 0 && found == 3 {
                    break;
                }
                found = 0;
            }
            assert_eq!(refusals, 1, "cut at {cut}");
        }
        for (stream, is_too_long) in
            [(&b"12345"[..], false), (b"12345\r", false), (b"123456", true), (b"12345\r\r", true)]
        {
            assert_eq!(Lines::default().peek(&mut Input::of(stream), first).is_err(), is_too_long, "{stream:?}");
        }
        let mut input = Input::of(b"\nx");
        assert_eq!(Lines::default().peek(&mut input, first), Ok(Some(Item::Line(b""))));
        assert_eq!(input.len(), 2);
    }

    #[test]
    fn every_split_gives_the_same_lines() {
        let stream =
            b"\xff\xfa\x18\0vt\xff\xff\xff\xf0one\r\ntw\xff\xffo\r\xff\xf1\n\n\xff\xfd\x03three\xff\xfb\n!\nend";
        let whole = lines([&stream[..]]);
        assert_eq!(whole.0.len(), 7);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(lines(pieces), whole, "split at {first} and {second}");
            }
        }
        assert_eq!(lines(stream.chunks(1)), whole);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many single bytes to be interpreted")]
    fn the_limit_counts_neither_the_ending_nor_what_telnet_says() {
        let longest = vec![b'x'; LINE_MAX];
        for stream in [
            [&longest[..], b"\n"].concat(),
            [&longest, &b"\r\n"[..]].concat(),
            [b"\xff\xf1", &longest[..], b"\xff\xf1\r\n"].concat(),
        ] {
            for size in [1, 4096, 65_536, stream.len()] {
                assert_eq!(lines(stream.chunks(size)), (vec![longest.clone()], false));
            }
        }
        for ending in [&b"x\n"[..], b"\r\r\n", b"x", b"\xff\xff"] {
            let stream = [&longest, ending].concat();
            for size in [1, 4096, 65_536, stream.len()] {
                assert_eq!(lines(stream.chunks(size)), (vec![], true));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
    fn a_subnegotiation_without_end_keeps_nothing() {
        let mut lines = Lines::default();
        lines.next(&mut Input::of(b"\xff\xfa")).unwrap();
        for _ in 0..1000 {
            assert_eq!(lines.next(&mut Input::of(&[7; 4096])), Ok(None));
        }
        assert_eq!(lines.line.capacity(), 0);
    }

    #[test]
    fn a_long_line_leaves_no_long_buffer_behind() {
        let mut lines = Lines::default();
        lines.next(&mut Input::of(&[b'x'; 10_000])).unwrap();
        let Ok(Some(Item::Line(line))) = lines.next(&mut Input::of(b"\n")) else { panic!("no line") };
        assert_eq!(line.len(), 10_000);
        assert_eq!(lines.next(&mut Input::of(b"")), Ok(None));
        assert!(lines.line.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
    fn random_bytes_give_the_same_lines_in_random_pieces() {
        let mut chance = Chance::new(7);
        for _ in 0..2000 {
            let stream = chance.bytes(200, b"ab\r\n\n\xff\xff\xfa\xf0\xfb\xf1");
            let whole = lines([&stream[..]]);
            assert!(whole.0.iter().all(|line| line.first() == Some(&IAC) || !line.contains(&b'\n')));
            let size = 1 + chance.below(9);
            assert_eq!(lines(stream.chunks(size)), whole, "{stream:?} in pieces of {size}");
        }
    }
}
