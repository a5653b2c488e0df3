//! Frames, the chat's protocol for programs: a 4-byte big-endian length, and as many bytes of UTF-8.
//!
//! A client's first frame begins with the byte 0x00, since its length is far below 2²⁴. By this byte the server tells
//! frames from lines.
//!
//! [`next`] has an example.

use reactor::Input;

use super::TooLong;

/// Longest text of a client's frame, in bytes.
pub const FRAME_MAX: usize = 64 * 1024;

/// Bytes of the length before the text.
pub const LENGTH_BYTES: usize = 4;

/// Takes the next complete frame and returns its text. `None` while the frame is incomplete; then nothing was consumed.
///
/// # Errors
/// As soon as the length is known to be over [`FRAME_MAX`]. The bytes after such a length have no meaning.
///
/// ```
/// use reactor::Input;
/// use services::codec::frames;
/// let mut input = Input::of(b"\0\0\0\x02hi\0\0");
/// assert_eq!(frames::next(&mut input), Ok(Some(&b"hi"[..])));
/// assert_eq!(frames::next(&mut input), Ok(None));
/// assert!(frames::next(&mut Input::of(b"\xff\xff\xff\xff")).is_err());
/// ```
pub fn next<'i>(input: &mut Input<'i>) -> Result<Option<&'i [u8]>, TooLong> {
    next_within(FRAME_MAX, input)
}

/// As [`next`], with another limit, for frames of a server.
///
/// # Errors
/// As [`next`].
pub fn next_within<'i>(limit: usize, input: &mut Input<'i>) -> Result<Option<&'i [u8]>, TooLong> {
    let Some(&head) = input.as_slice().first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(head) as usize;
    if length > limit {
        return Err(TooLong { what: "frame", limit });
    }
    Ok(input.take(LENGTH_BYTES + length).map(|frame| &frame[LENGTH_BYTES..]))
}

/// Returns the text of the next complete frame without taking the frame. `None` while the frame is incomplete.
///
/// # Errors
/// `too_long`, as soon as the length is known to be over the limit.
pub fn peek<'i>(input: &Input<'i>, too_long: TooLong) -> Result<Option<&'i [u8]>, TooLong> {
    let Some((&head, rest)) = input.as_slice().split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(head) as usize;
    if length > too_long.limit { Err(too_long) } else { Ok(rest.get(..length)) }
}

/// One text, encoded once for readers of frames and readers of lines: a line is a frame without its length, with a
/// newline. The buffer is reused for the next text.
///
/// ```
/// use services::codec::frames::Encoded;
/// let mut encoded = Encoded::default();
/// encoded.encode(|text| text.extend_from_slice(b"hi"));
/// assert_eq!(encoded.frame(), b"\0\0\0\x02hi");
/// assert_eq!(encoded.line(), b"hi\n");
/// assert_eq!(encoded.text(), b"hi");
/// ```
#[derive(Debug, Default)]
pub struct Encoded {
    /// The length, the text, a newline.
    bytes: Vec<u8>,
}

impl Encoded {
    /// Encodes the text that `append` appends. The former text is dropped.
    pub fn encode(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        append(&mut self.bytes);
        let length = (self.bytes.len() - LENGTH_BYTES) as u32;
        self.bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        self.bytes.push(b'\n');
    }

    /// The text, without the length before and the newline behind.
    pub fn text(&self) -> &[u8] {
        self.frame().get(LENGTH_BYTES..).unwrap_or_default()
    }

    /// The text as a frame: its length in four bytes, the highest first, and its bytes.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(..self.bytes.len().saturating_sub(1)).unwrap_or_default()
    }

    /// The text as a line, ended by `\n`.
    pub fn line(&self) -> &[u8] {
        self.bytes.get(LENGTH_BYTES..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_frame_is_taken_and_a_longer_one_refused_by_its_length_alone() {
        let mut longest = 65_536u32.to_be_bytes().to_vec();
        longest.resize(LENGTH_BYTES + FRAME_MAX, b'x');
        assert_eq!(next(&mut Input::of(&longest)).unwrap().unwrap().len(), FRAME_MAX);
        assert_eq!(next(&mut Input::of(&65_537u32.to_be_bytes())).unwrap_err().limit, FRAME_MAX);
    }

    #[test]
    fn a_frame_is_incomplete_until_its_last_byte_and_then_consumed_alone() {
        let stream = b"\0\0\0\x05hello\0\0\0\0\0\0\0\x01x";
        for cut in 0..9 {
            let mut input = Input::of(&stream[..cut]);
            assert_eq!((next(&mut input), input.len()), (Ok(None), cut));
        }
        let mut input = Input::of(stream);
        assert_eq!(next(&mut input), Ok(Some(&b"hello"[..])));
        assert_eq!(next(&mut input), Ok(Some(&b""[..])));
        assert_eq!(next(&mut input), Ok(Some(&b"x"[..])));
        assert_eq!(next(&mut input), Ok(None));
    }

    #[test]
    fn a_frame_that_is_peeked_at_stays_and_a_longer_one_is_refused_by_its_length_alone() {
        let first = TooLong { what: "first frame", limit: 2 };
        let input = Input::of(b"\0\0\0\x02hithere");
        assert_eq!((peek(&input, first), input.len()), (Ok(Some(&b"hi"[..])), 11));
        for incomplete in [&b""[..], b"\0\0\0", b"\0\0\0\x02h"] {
            assert_eq!(peek(&Input::of(incomplete), first), Ok(None));
        }
        assert_eq!(peek(&Input::of(b"\0\0\0\x03"), first), Err(first));
    }

    #[test]
    fn what_was_encoded_reads_back() {
        let mut encoded = Encoded::default();
        assert_eq!((encoded.frame(), encoded.line()), (&b""[..], &b""[..]));
        for text in ["a longer one first", "short", ""] {
            encoded.encode(|output| output.extend_from_slice(text.as_bytes()));
            assert_eq!(next(&mut Input::of(encoded.frame())), Ok(Some(text.as_bytes())));
            assert_eq!(encoded.line(), format!("{text}\n").as_bytes());
        }
    }
}
