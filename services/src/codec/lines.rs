//! Lines as `nc` and `telnet` send them: ended by `\n` or `\r\n`, with telnet's option bytes between them left out.
//!
//! ```text
//!  Text ──IAC──▶ Command ──WILL WONT DO DONT──▶ Option ──any──▶ Text
//!   ▲              │ └──SB──▶ Sub ──IAC──▶ SubCommand ──SE──▶ Text
//!   │              │           ▲                └──any──▶ Sub
//!   └──any other───┘ (IAC IAC: the byte 0xff itself)
//! ```

use reactor::Input;

use super::TooLong;

/// Bytes of one line, its ending and what telnet says in between not counted.
pub const LINE_MAX: usize = 64 * 1024;

/// What a line's buffer may keep for the next line: enough for what people type. Most connections never have one.
const KEPT_CAPACITY: usize = 1024;

/// RFC 854: the byte that begins a command, and the commands that have a length of their own.
const IAC: u8 = 255;
const DONT: u8 = 254;
const WILL: u8 = 251;
const SB: u8 = 250;
const SE: u8 = 240;

/// Takes lines out of the input of one connection.
///
/// Lines that are there in one piece, and without a telnet command in it, are lent from the input. All others are
/// gathered here, and the input is consumed meanwhile, so each byte is looked at once however few arrive at a time.
///
/// ```
/// use reactor::Input;
/// use services::codec::lines::Lines;
/// let mut lines = Lines::default();
/// let mut input = Input::of(b"one\r\n\xff\xfb\x01two\nth");
/// assert_eq!(lines.next(&mut input), Ok(Some(&b"one"[..])));
/// assert_eq!(lines.next(&mut input), Ok(Some(&b"two"[..])));
/// assert_eq!(lines.next(&mut input), Ok(None));
/// assert_eq!(lines.next(&mut Input::of(b"ree\n")), Ok(Some(&b"three"[..])));
/// ```
#[derive(Debug, Default)]
pub struct Lines {
    state: State,
    /// What has come of a line that did not come in one piece.
    line: Vec<u8>,
    /// `line` has been handed out.
    given: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After IAC.
    Command,
    /// After IAC and a command that is about an option, which comes next.
    Option,
    /// In a subnegotiation, which ends with IAC SE.
    Sub,
    /// After IAC in a subnegotiation.
    SubCommand,
}

impl Lines {
    /// The next line without its ending, or `None` when there is no whole one. Then all of the input has been consumed.
    ///
    /// # Errors
    /// As soon as a line is known to be over [`LINE_MAX`].
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut Input<'i>) -> Result<Option<&'s [u8]>, TooLong> {
        if std::mem::take(&mut self.given) {
            self.forget();
        }
        if self.state == State::Text && self.line.is_empty() {
            let bytes = input.as_slice();
            if let Some(at) = memchr::memchr2(b'\n', IAC, bytes)
                && bytes[at] == b'\n'
            {
                input.consume(at + 1);
                return within_limit(without_return(&bytes[..at])).map(Some);
            }
        }
        self.given = self.gather(input)?;
        if self.given { within_limit(without_return(&self.line)).map(Some) } else { Ok(None) }
    }

    /// After the end of the input: a last line that has no ending, or half of one. `None` when the last line had one.
    pub fn rest(&self) -> Option<&[u8]> {
        (!self.given && !self.line.is_empty()).then(|| without_return(&self.line))
    }

    /// Moves bytes from the input into the line, until its ending, which is consumed too. Whether that has come.
    fn gather(&mut self, input: &mut Input<'_>) -> Result<bool, TooLong> {
        while let Some(&byte) = input.as_slice().first() {
            match self.state {
                State::Text => {
                    if self.gather_text(input)? {
                        return Ok(true);
                    }
                    continue;
                }
                State::Command => match byte {
                    IAC => {
                        self.line.push(IAC);
                        within_limit(&self.line)?;
                        self.state = State::Text;
                    }
                    WILL..=DONT => self.state = State::Option,
                    SB => self.state = State::Sub,
                    _ => self.state = State::Text,
                },
                State::Option => self.state = State::Text,
                State::Sub if byte == IAC => self.state = State::SubCommand,
                State::Sub => {}
                State::SubCommand => self.state = if byte == SE { State::Text } else { State::Sub },
            }
            input.consume(1);
        }
        Ok(false)
    }

    /// The same up to the next command of telnet's.
    fn gather_text(&mut self, input: &mut Input<'_>) -> Result<bool, TooLong> {
        let bytes = input.as_slice();
        let found = memchr::memchr2(b'\n', IAC, bytes);
        let text = &bytes[..found.unwrap_or(bytes.len())];
        // Not more than this is ever kept: the longest line, and a `\r` that may belong to its ending.
        if self.line.len() + text.len() > LINE_MAX + 1 {
            return Err(TOO_LONG);
        }
        self.line.extend_from_slice(text);
        input.consume(text.len() + usize::from(found.is_some()));
        match found.map(|at| bytes[at]) {
            Some(b'\n') => return Ok(true),
            Some(_) => self.state = State::Command,
            None => {}
        }
        within_limit(without_return(&self.line)).map(|_| false)
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

fn within_limit(line: &[u8]) -> Result<&[u8], TooLong> {
    if line.len() > LINE_MAX { Err(TOO_LONG) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    /// The lines of a stream that arrives in pieces, its unended last line included, and whether one was too long.
    fn lines<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Vec<u8>>, bool) {
        let (mut lines, mut taken) = (Lines::default(), Vec::new());
        for piece in pieces {
            let mut input = Input::of(piece);
            loop {
                match lines.next(&mut input) {
                    Ok(Some(line)) => taken.push(line.to_vec()),
                    Ok(None) => break,
                    Err(_) => return (taken, true),
                }
            }
            assert!(input.is_empty(), "nothing is left to be looked at twice");
        }
        taken.extend(lines.rest().map(<[u8]>::to_vec));
        (taken, false)
    }

    fn taken(stream: &[u8]) -> Vec<Vec<u8>> {
        lines([stream]).0
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
    fn every_split_gives_the_same_lines() {
        let stream =
            b"\xff\xfa\x18\0vt\xff\xff\xff\xf0one\r\ntw\xff\xffo\r\xff\xf1\n\n\xff\xfd\x03three\xff\xfb\n!\nend";
        let whole = lines([&stream[..]]);
        assert_eq!(whole.0.len(), 5);
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
        assert_eq!(lines.next(&mut Input::of(b"\n")).unwrap().unwrap().len(), 10_000);
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
            assert!(whole.0.iter().all(|line| !line.contains(&b'\n')));
            let size = 1 + chance.below(9);
            assert_eq!(lines(stream.chunks(size)), whole, "{stream:?} in pieces of {size}");
        }
    }
}
