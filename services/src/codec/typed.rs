//! Lines of standard input, from a keyboard, a pipe or a file: any bytes, ended by `\n` or `\r\n`. A line over the
//! limit is reported and skipped, because standard input has no connection to close.
//!
//! [`Typed`] has an example.

use reactor::{Framed, Input};

use super::TooLong;

/// Longest line in bytes, its ending not counted: equal to the limit of a chat message.
pub const TYPED_MAX: usize = 64 * 1024;

const TOO_LONG: TooLong = TooLong { what: "line", limit: TYPED_MAX };

/// Takes the lines that a person types on a keyboard, or that come from a pipe, out of the input.
///
/// ```
/// use reactor::Input;
/// use services::codec::typed::Typed;
/// let (mut typed, mut input) = (Typed::default(), Input::of(b"/who\r\nand"));
/// assert_eq!(typed.next(&mut input), Some(Ok(&b"/who"[..])));
/// assert_eq!(typed.next(&mut input), None);
/// assert_eq!(typed.rest(&mut input), Some(&b"and"[..]));
/// ```
#[derive(Debug, Default)]
pub struct Typed {
    /// The rest of a line over the limit is being skipped, up to and including its ending.
    skipping: bool,
}

impl Typed {
    /// Takes the next line without its ending, or the error of a line over the limit. `None` without a complete line.
    pub fn next<'i>(&mut self, input: &mut Input<'i>) -> Option<Result<&'i [u8], TooLong>> {
        while self.skipping {
            match input.until(b'\n', usize::MAX) {
                Framed::Item(_) => self.skipping = false,
                Framed::Incomplete | Framed::TooLong => {
                    input.take_all();
                    return None;
                }
            }
        }
        match input.until_eol_within(TYPED_MAX) {
            Framed::Item(line) => Some(Ok(without_ending(line))),
            Framed::Incomplete => None,
            Framed::TooLong => {
                self.skipping = true;
                Some(Err(TOO_LONG))
            }
        }
    }

    /// Takes the last line at the end of the input, if the line has no ending.
    pub fn rest<'i>(&self, input: &mut Input<'i>) -> Option<&'i [u8]> {
        let rest = input.take_all();
        (!self.skipping && !rest.is_empty()).then(|| rest.strip_suffix(b"\r").unwrap_or(rest))
    }
}

fn without_ending(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a stream that arrives in pieces, with unread bytes kept in between; `None` for a line over the
    /// limit.
    fn typed(stream: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
        let (mut typed, mut kept, mut lines) = (Typed::default(), Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            kept.extend_from_slice(piece);
            let mut input = Input::of(&kept);
            while let Some(line) = typed.next(&mut input) {
                lines.push(line.ok().map(<[u8]>::to_vec));
            }
            kept = input.as_slice().to_vec();
            assert!(kept.len() <= TYPED_MAX + 1, "{} bytes are kept", kept.len());
        }
        lines.extend(typed.rest(&mut Input::of(&kept)).map(|line| Some(line.to_vec())));
        lines
    }

    #[test]
    fn every_split_gives_the_same_lines_and_a_last_one_needs_no_ending() {
        let stream = b"one\r\n\ntwo\r\r\n\xff\xfe\xc3\nend";
        let whole: Vec<Option<Vec<u8>>> =
            [&b"one"[..], b"", b"two\r", b"\xff\xfe\xc3", b"end"].map(|line| Some(line.to_vec())).into();
        for size in 1..=stream.len() {
            assert_eq!(typed(stream, size), whole, "in pieces of {size}");
        }
        assert_eq!(typed(b"a\n", 1), [Some(b"a".to_vec())]);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once_and_those_around_it_are_taken() {
        let longest = vec![b'x'; TYPED_MAX];
        let stream = [b"a\n", &longest[..], b"\r\n", &longest[..], b"yyy", &longest[..], b"\nb\n"].concat();
        for size in [1000, 65_536, 65_540, stream.len()] {
            let lines = [Some(b"a".to_vec()), Some(longest.clone()), None, Some(b"b".to_vec())];
            assert_eq!(typed(&stream, size), lines, "in pieces of {size}");
        }
        assert_eq!(typed(&[&longest[..], b"xx"].concat(), 4096), [None], "no rest of it either");
    }
}
