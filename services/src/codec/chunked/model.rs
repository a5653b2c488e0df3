//! Compares the codec with the grammar of RFC 9112 section 7.1, read from the beginning. For property tests and for the
//! fuzz target `chunked`.

use super::*;
use crate::pieces::Stream;

/// Largest body in the model, in bytes of data.
const MAX: u64 = 2000;

/// Panics if the outcome depends on the pieces, or if the body's end differs from the grammar.
pub fn check(text: &[u8]) {
    let stream = Stream::of(text);
    let whole = skip([&stream.bytes[..]]);
    stream.in_pieces(|pieces| assert_eq!(skip(pieces.iter().copied()), whole, "in pieces"));
    let by_grammar = body(&stream.bytes);
    match (whole, by_grammar) {
        (Ok(Some(length)), Some(body)) => assert_eq!((length, body.data <= MAX), (body.length, true)),
        (Ok(Some(_)), None) => panic!("what is no body is taken for one"),
        (Err(Status::ContentTooLarge), Some(body)) => {
            assert!(body.data > MAX || body.length as u64 - body.data > MAX);
        }
        (Err(_), Some(body)) => assert!(body.longest_line > usize::from(SIZE_LINE_MAX), "a body is refused"),
        (Ok(None), Some(_)) => panic!("the end of a body is not found"),
        (_, None) => {}
    }
}

/// How many bytes of a stream in pieces belong to the body; `None` while the body has no end.
pub(super) fn skip<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Result<Option<usize>, Status> {
    let (mut body, mut total) = (Chunked::new(MAX), 0);
    for piece in pieces {
        let skipped = body.skip(piece)?;
        assert!(skipped == piece.len() || skipped < piece.len() && body.is_done());
        total += skipped;
        if body.is_done() {
            return Ok(Some(total));
        }
    }
    Ok(None)
}

struct Body {
    length: usize,
    data: u64,
    longest_line: usize,
}

/// The body at the beginning of `bytes`, if it is complete.
fn body(bytes: &[u8]) -> Option<Body> {
    let (mut rest, mut data, mut longest_line) = (bytes, 0, 0);
    loop {
        let line = line(&mut rest)?;
        longest_line = longest_line.max(line.len() + 1);
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = line[digits..].trim_ascii_start();
        if digits == 0 || !(extension.starts_with(b";") || line.len() == digits) || is_open(extension) {
            return None;
        }
        let significant = line[..digits].iter().position(|&byte| byte != b'0').unwrap_or(digits);
        let size = if significant == digits { "0" } else { std::str::from_utf8(&line[significant..digits]).ok()? };
        // A longer chunk than any stream has no end in the stream.
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            break;
        }
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
        data += size as u64;
    }
    while let Some(colon) = line(&mut rest).map(|line| (!line.is_empty()).then_some(line))? {
        let name = colon.split(|&byte| byte == b':').next().unwrap_or_default();
        if name.is_empty() || name.len() == colon.len() || !name.iter().all(|&byte| is_token(byte)) {
            return None;
        }
    }
    Some(Body { length: bytes.len() - rest.len(), data, longest_line })
}

/// Whether a quoted string of the extension has no end in the line: an odd number of quotes, without those that follow a backslash
/// inside a string.
fn is_open(extension: &[u8]) -> bool {
    let (mut open, mut bytes) = (false, extension.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => open = !open,
            b'\\' if open => drop(bytes.next()),
            _ => {}
        }
    }
    open
}

/// The next line without its ending, if it has no control character except tab.
fn line<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    line.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::seeds;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_body_ends_where_the_grammar_says(
            chunks in prop::collection::vec((".{0,40}", "([ \t]?;[a-z=\"\\\\ ]{0,5})?", "0{0,2}"), 0..5),
            trailers in prop::collection::vec("[A-Za-z-]{1,5}: ?[a-z\t ]{0,5}", 0..3),
            slip in prop::option::of((any::<prop::sample::Index>(), "[\r\n\t :;0-9a-fx]{0,2}")),
            rest in "[A-Z ]{0,5}",
        ) {
            let mut stream = String::new();
            for (data, extension, zeros) in chunks.iter().filter(|(data, ..)| !data.is_empty()) {
                stream += &format!("{zeros}{:x}{extension}\r\n{data}\r\n", data.len());
            }
            stream += "0\r\n";
            trailers.iter().for_each(|field| stream += &format!("{field}\r\n"));
            let mut stream = format!("{stream}\r\n{rest}").into_bytes();
            if let Some((at, what)) = slip {
                let at = at.index(stream.len());
                stream.splice(at..=at, what.bytes());
            }
            check(&stream);
        }

        #[test]
        fn and_of_any_bytes(stream in "[0-3\r\n;: x\"\\\\]{0,40}") {
            check(stream.as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("chunked").iter().for_each(|seed| check(seed));
    }
}
