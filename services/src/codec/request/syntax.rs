//! The syntax of a head (RFC 9112 sections 2 to 5), read in one pass, without a copy and without memory of its own.
//!
//! ```text
//! head    = *newline line *field newline
//! line    = token " " target " " version newline
//! field   = token ":" value newline               blanks around the value are not part of the value
//! newline = "\r\n" | "\n"
//! ```
//!
//! Nothing else is accepted: no carriage return alone, no control byte except the tab in a value, no blank before a colon,
//! no folded line (a line that begins with a blank). Other parsers read such heads differently, and the difference decides
//! where a request ends. `httparse` draws the same lines, and is the reference of the tests (`reference.rs`).
//!
//! The reader examines each byte once, from the first to the last, and stops at the first byte that fits nowhere. So the
//! beginning of a faulty head is either incomplete or has the same fault.

use super::{FIELDS_MAX, Method};

/// A request line.
#[derive(Clone, Copy)]
pub(super) struct Line<'h> {
    pub(super) method: Method,
    pub(super) target: &'h str,
    pub(super) is_1_0: bool,
}

/// The reason why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes are the beginning of a head. Bytes that follow can complete the head.
    Incomplete,
    /// A byte fits nowhere.
    Malformed,
    /// The version has the right form, and is neither HTTP/1.0 nor HTTP/1.1 nor a later HTTP/1.
    Version,
    /// There are more than [`FIELDS_MAX`] fields.
    TooManyFields,
}

/// Reads the head at the beginning of `bytes`. Calls `field` with the name and the value of each field, in order, also if
/// the head turns out to be incomplete or malformed. Returns the request line and the length of the head.
#[inline(always)]
pub(super) fn read<'h>(bytes: &'h [u8], mut field: impl FnMut(&'h [u8], &'h [u8])) -> Result<(Line<'h>, usize), Stop> {
    let mut rest = bytes;
    while begins_newline(rest) {
        rest = newline(rest)?;
    }
    let (method, rest) = method(rest)?;
    let (target, rest) = target(rest)?;
    let (is_1_0, mut rest) = version(rest)?;
    let mut count = 0;
    while !begins_newline(rest) {
        let (name, after) = token(rest, b':')?;
        let (value, after) = value(after)?;
        rest = after;
        count += 1;
        if count > FIELDS_MAX {
            return Err(Stop::TooManyFields);
        }
        field(name, value);
    }
    rest = newline(rest)?;
    Ok((Line { method, target, is_1_0 }, bytes.len() - rest.len()))
}

/// A part of the grammar, and the bytes after the part and the byte that ends the part.
type Part<'h, T> = Result<(T, &'h [u8]), Stop>;

/// The method, up to a blank.
#[inline(always)]
fn method(bytes: &[u8]) -> Part<'_, Method> {
    match bytes.strip_prefix(b"GET ") {
        // The usual method first.
        Some(rest) => Ok((Method::Get, rest)),
        None => token(bytes, b' ').map(|(name, rest)| (Method::of(name), rest)),
    }
}

/// The target: visible bytes up to a blank. The bytes must be UTF-8, since the target is a text from here on.
#[inline(always)]
fn target(bytes: &[u8]) -> Part<'_, &str> {
    match part(bytes, visible(bytes, b'!'), b' ')? {
        // The usual target: the check of a text takes 40 instructions.
        (b"/", rest) => Ok(("/", rest)),
        (target, rest) => std::str::from_utf8(target).map(|target| (target, rest)).map_err(|_| Stop::Malformed),
    }
}

/// The version and the end of the line. Whether the version is HTTP/1.0.
#[inline(always)]
fn version(bytes: &[u8]) -> Part<'_, bool> {
    if let Some(rest) = bytes.strip_prefix(b"HTTP/1.1") {
        return Ok((false, newline(rest)?));
    }
    match bytes.strip_prefix(b"HTTP/1.0") {
        Some(rest) => Ok((true, newline(rest)?)),
        None => other_version(bytes),
    }
}

/// A version that is neither HTTP/1.0 nor HTTP/1.1. The end of the line shows whether there is a version at all. A later
/// HTTP/1 is read as HTTP/1.1 (RFC 9110 section 2.5).
#[cold]
fn other_version(bytes: &[u8]) -> Part<'_, bool> {
    let end = memchr::memchr(b'\n', bytes).ok_or(Stop::Incomplete)?;
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let version = line.strip_prefix(b"HTTP/").ok_or(Stop::Malformed)?;
    let mut numbers = version.splitn(2, |&byte| byte == b'.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next());
    let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    match (major, minor) {
        (b"1", Some([b'2'..=b'9'])) => Ok((false, &bytes[end + 1..])),
        // Neither a known version, nor the syntax of a version (RFC 9112 section 2.3).
        (b"1", _) => Err(Stop::Malformed),
        _ if is_number(major) && minor.is_none_or(is_number) => Err(Stop::Version),
        _ => Err(Stop::Malformed),
    }
}

/// The value of a field and the end of its line, without the blanks around the value.
#[inline(always)]
fn value(bytes: &[u8]) -> Part<'_, &[u8]> {
    let mut length = visible(bytes, b' ');
    while let Some(b'\t') = bytes.get(length) {
        length += 1;
        length += visible(&bytes[length..], b' ');
    }
    let (value, rest) = bytes.split_at(length);
    // A value contains only blanks and tabs among the bytes that `trim_ascii` removes.
    Ok((value.trim_ascii(), newline(rest)?))
}

/// A method or the name of a field, up to the byte `end`.
#[inline(always)]
fn token(bytes: &[u8], end: u8) -> Part<'_, &[u8]> {
    part(bytes, leading(bytes, &IN_TOKEN), end)
}

/// The first `length` bytes, at least one, up to the byte `end`.
#[inline(always)]
fn part(bytes: &[u8], length: usize, end: u8) -> Part<'_, &[u8]> {
    let (part, rest) = bytes.split_at(length);
    match rest {
        [byte, rest @ ..] if *byte == end && length > 0 => Ok((part, rest)),
        [] => Err(Stop::Incomplete),
        _ => Err(Stop::Malformed),
    }
}

#[inline(always)]
fn begins_newline(bytes: &[u8]) -> bool {
    matches!(bytes, [b'\r' | b'\n', ..])
}

/// The bytes after the end of a line.
#[inline(always)]
fn newline(bytes: &[u8]) -> Result<&[u8], Stop> {
    match bytes.strip_prefix(b"\r\n") {
        Some(rest) => Ok(rest),
        None => other_newline(bytes),
    }
}

#[cold]
fn other_newline(bytes: &[u8]) -> Result<&[u8], Stop> {
    match bytes {
        [b'\n', rest @ ..] => Ok(rest),
        [] | [b'\r'] => Err(Stop::Incomplete),
        _ => Err(Stop::Malformed),
    }
}

/// A head as plain parts, for the comparison with another reader: method, target, whether the version is HTTP/1.0, the fields
/// and the length.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) type Parts<'h> = (&'h [u8], &'h [u8], bool, Vec<(&'h [u8], &'h [u8])>, usize);

/// Reads a head into its parts; `None` for the beginning of a head, an error for a refusal.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parts(bytes: &[u8]) -> Result<Option<Parts<'_>>, &'static str> {
    let mut fields = Vec::new();
    match read(bytes, |name, value| fields.push((name, value))) {
        Ok((line, length)) => {
            let start = bytes.iter().position(|&byte| !begins_newline(&[byte])).unwrap_or_default();
            let (method, _) = token(&bytes[start..], b' ').map_err(|_| "differs")?;
            Ok(Some((method, line.target.as_bytes(), line.is_1_0, fields, length)))
        }
        Err(Stop::Incomplete) => Ok(None),
        Err(_) => Err("refused"),
    }
}

/// Bytes of a token (RFC 9110 section 5.6.2).
const IN_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&'
            | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// The number of leading bytes that the table contains. Eight at a time, so the loop's own instructions count little.
#[inline(always)]
pub(super) fn leading(bytes: &[u8], table: &[bool; 256]) -> usize {
    let first_other = |bytes: &[u8]| bytes.iter().position(|&byte| !table[byte as usize]);
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        if let Some(at) = first_other(word) {
            return bytes.len() - rest.len() + at;
        }
        rest = after;
    }
    bytes.len() - rest.len() + first_other(rest).unwrap_or(rest.len())
}

/// The number of leading bytes that are at least `lowest` and not DEL, found eight at a time.
///
/// In a word of eight bytes, `word - lowest` borrows into the highest bit of each byte that is too low, and `!word` leaves
/// out the bytes that had the bit before. A byte equals DEL if the byte with the bits of DEL inverted is lower than 1. A
/// borrow can also mark a byte above a marked one, so only the lowest mark counts: the first byte, since the word is
/// little-endian.
#[inline(always)]
fn visible(bytes: &[u8], lowest: u8) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const DEL: u8 = 0x7f;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let inverted = word ^ (ONES * DEL as u64);
        let marks = (word.wrapping_sub(ONES * lowest as u64) & !word | inverted.wrapping_sub(ONES) & !inverted) & HIGH;
        if marks != 0 {
            return bytes.len() - rest.len() + marks.trailing_zeros() as usize / 8;
        }
        rest = after;
    }
    let hit = rest.iter().position(|&byte| byte < lowest || byte == DEL);
    bytes.len() - rest.len() + hit.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_is_not_visible_is_found_wherever_it_stands() {
        for stop in 0..=255u8 {
            for at in 0..20 {
                let mut bytes = [0xffu8; 24];
                (bytes[at], bytes[at + 1]) = (stop, b'!');
                let is_visible = stop > b' ' && stop != 0x7f;
                assert_eq!(visible(&bytes, b'!'), if is_visible { 24 } else { at }, "{stop:#x} at {at}");
                assert_eq!(
                    visible(&bytes, b' '),
                    if is_visible || stop == b' ' { 24 } else { at },
                    "{stop:#x} at {at}"
                );
                assert_eq!(visible(&bytes[..at], b'!'), at);
            }
        }
    }
}
