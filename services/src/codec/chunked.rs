//! Finds the end of a chunked body (RFC 9112 section 7.1). The data is not kept.
//!
//! ```text
//!  Size ─▶ (Extension ⇄ Quoted ⇄ Escaped) ─▶ SizeEnd ─▶ Data ─▶ DataReturn ─▶ DataEnd ─▶ Size …
//!                            └─ size 0 ─▶ LineStart ─▶ Name ─▶ Value ─▶ ValueEnd ─▶ LineStart …
//!                                             └──────▶ LastEnd ─▶ Done
//! ```
//!
//! Two parsers that disagree about the end of a body take the following bytes for different requests. So each element
//! has one accepted spelling: every line ends with `\r\n`, a size has nothing before or after it, and all else is
//! malformed.
//!
//! [`Chunked`] has an example.

use super::request::Status;

/// Longest size line of a chunk in bytes: a size, and a longer extension than clients send.
const SIZE_LINE_MAX: u16 = 256;

/// Finds the end of a chunked body that arrives in any pieces.
///
/// ```
/// use services::codec::chunked::Chunked;
/// let mut body = Chunked::new(1024);
/// assert_eq!(body.skip(b"5\r\nhel"), Ok(6));
/// assert_eq!(body.skip(b"lo\r\n0\r\n\r\nGET"), Ok(9));
/// assert!(body.is_done());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// The size while it is read, then the remaining bytes of the chunk.
    size: u64,
    /// Bytes of the current size line.
    line: u16,
    /// Allowed bytes of data, and of framing, for the rest of the body.
    data_left: u64,
    framing_left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    /// After a size and a blank, which only an extension may follow.
    Blank,
    Extension,
    /// Inside a quoted string of an extension. Some parsers take a line ending in an open string for a part of the string, and
    /// others for the end of the line.
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    LineStart,
    Name,
    Value,
    ValueEnd,
    LastEnd,
    Done,
}

impl Chunked {
    /// Starts a body of at most `max` bytes of data, and at most `max` bytes of framing.
    pub fn new(max: u64) -> Self {
        Chunked { state: State::Size, size: 0, line: 0, data_left: max, framing_left: max }
    }

    /// Whether the last chunk and the trailer have been skipped, so that the next bytes belong to the next request.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns how many of `bytes` belong to the body: all, unless the body ends.
    ///
    /// # Errors
    /// 400 for a malformed body, 413 for a body over the limits.
    pub fn skip(&mut self, bytes: &[u8]) -> Result<usize, Status> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let step = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += step;
                self.size -= step as u64;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            self.framing_left = self.framing_left.checked_sub(1).ok_or(Status::ContentTooLarge)?;
            self.state = self.after(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// The state after one byte of framing.
    fn after(&mut self, byte: u8) -> Result<State, Status> {
        let next = match (self.state, byte) {
            (State::Size | State::Blank | State::Extension | State::Quoted | State::Escaped, _) => {
                return self.after_in_size_line(byte);
            }
            (State::SizeEnd, b'\n') => return self.after_size(),
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::Size,
            (State::LineStart, b'\r') => State::LastEnd,
            (State::LineStart | State::Name, _) if is_token(byte) => State::Name,
            (State::Name, b':') => State::Value,
            (State::Value, b'\r') => State::ValueEnd,
            (State::Value, _) if is_text(byte) => State::Value,
            (State::ValueEnd, b'\n') => State::LineStart,
            (State::LastEnd, b'\n') => State::Done,
            _ => return Err(Status::BadRequest),
        };
        Ok(next)
    }

    fn after_in_size_line(&mut self, byte: u8) -> Result<State, Status> {
        self.line += 1;
        let in_size = self.state == State::Size;
        let next = match byte {
            _ if self.line > SIZE_LINE_MAX => return Err(Status::BadRequest),
            _ if in_size && byte.is_ascii_hexdigit() => {
                // The sum passes the limit long before it could overflow.
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                self.size = self.size.saturating_mul(16).saturating_add(digit);
                State::Size
            }
            _ if in_size && self.line == 1 => return Err(Status::BadRequest),
            _ if self.state == State::Escaped && is_text(byte) => State::Quoted,
            b'\\' if self.state == State::Quoted => State::Escaped,
            b'"' if self.state == State::Quoted => State::Extension,
            b'"' if self.state == State::Extension => State::Quoted,
            _ if self.state == State::Quoted && is_text(byte) => State::Quoted,
            b'\r' if matches!(self.state, State::Size | State::Extension) => State::SizeEnd,
            b';' => State::Extension,
            b' ' | b'\t' if self.state != State::Extension => State::Blank,
            _ if self.state == State::Extension && is_text(byte) => State::Extension,
            _ => return Err(Status::BadRequest),
        };
        Ok(next)
    }

    fn after_size(&mut self) -> Result<State, Status> {
        self.line = 0;
        self.data_left = self.data_left.checked_sub(self.size).ok_or(Status::ContentTooLarge)?;
        Ok(if self.size == 0 { State::LineStart } else { State::Data })
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes allowed in a field's value and in an extension: no control character except tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    const MAX: u64 = 64;

    /// How many bytes of a stream in pieces belong to the body; `None` while the body has no end.
    fn length<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Result<Option<usize>, Status> {
        let (mut body, mut total) = (Chunked::new(MAX), 0);
        for piece in pieces {
            total += body.skip(piece)?;
            if body.is_done() {
                return Ok(Some(total));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_body_ends_after_its_trailers() {
        for whole in [
            &b"0\r\n\r\n"[..],
            b"000\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"a\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n",
            b"A;name=value;x=\"y z\"\r\n0123456789\r\n0;end\r\n\r\n",
            b"1;x=\"a;b\";y=\"c\\\"d\\\\\"\r\nx\r\n0;z=\"\"\r\n\r\n",
            b"1 \t;x\r\nx\r\n0\r\n\r\n",
            b"1\r\nx\r\n0\r\nTrailer: value\r\nEmpty:\r\n\r\n",
        ] {
            let stream = [whole, b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(length([&stream[..]]), Ok(Some(whole.len())), "{}", whole.escape_ascii());
            for cut in 0..whole.len() {
                assert_eq!(length([&stream[..cut]]), Ok(None));
                assert_eq!(length([&stream[..cut], &stream[cut..]]), Ok(Some(whole.len())));
            }
            assert_eq!(length(stream.chunks(1)), Ok(Some(whole.len())));
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_malformed() {
        for stream in [
            &b"\r\n"[..],
            b"\n",
            b" 1\r\nx\r\n0\r\n\r\n",
            b"1\nx\r\n0\r\n\r\n",
            b"1\r\nx\n0\r\n\r\n",
            b"1\r\nx\r\n0\n\r\n",
            b"1\r\nx\r\n0\r\n\n",
            b"1\rx",
            b"1 \r\nx\r\n0\r\n\r\n",
            b"1 2\r\n",
            b"0x1\r\n",
            b"+1\r\n",
            b"-1\r\n",
            b"1;a\nb\r\n",
            b"1;a\rb\r\n",
            b"1;a=\"\r\nx\r\n0\r\n\r\n",
            b"1;a=\"b\\\"\r\nx\r\n0\r\n\r\n",
            b"1;a=\"\\\r\nx\r\n0\r\n\r\n",
            b"0;a=\"\"\"\r\n\r\n",
            b";a\r\n",
            b"1\r\nxy\r\n",
            b"1\r\nx\ry",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nname : value\r\n\r\n",
            b"0\r\nname\r\n\r\n",
            b"0\r\n: value\r\n\r\n",
            b"0\r\nname: value\n\r\n",
            b"0\r\nname: val\0ue\r\n\r\n",
            b"0\r\nname: value\r\rx",
            b"0\r\n\rx",
        ] {
            assert_eq!(length([stream]), Err(Status::BadRequest), "{}", stream.escape_ascii());
            assert_eq!(length(stream.chunks(1)), Err(Status::BadRequest), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn data_and_what_is_around_it_are_bounded() {
        assert_eq!(length([&b"41\r\n"[..]]), Err(Status::ContentTooLarge), "by the size alone");
        assert_eq!(length([&b"ffffffffffffffffffffffff\r\n"[..]]), Err(Status::ContentTooLarge));
        assert_eq!(length([&b"40\r\n"[..]]), Ok(None));
        assert_eq!(length([&b"1\r\nx\r\n".repeat(20)[..]]), Err(Status::ContentTooLarge), "mostly framing");
        let zeros = [b'0'; SIZE_LINE_MAX as usize + 1];
        assert_eq!(Chunked::new(1 << 20).skip(&zeros), Err(Status::BadRequest));
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
    fn random_bytes_give_the_same_outcome_in_random_pieces() {
        let mut chance = Chance::new(11);
        for _ in 0..20_000 {
            let stream = chance.bytes(40, b"0123\r\n\r\n\r\n;: x\"\\");
            let size = 1 + chance.below(5);
            assert_eq!(length(stream.chunks(size)), length([&stream[..]]), "{}", stream.escape_ascii());
        }
    }
}
