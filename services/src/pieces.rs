//! Streams as text, with the ways to cut them, for the models that check codecs.
//!
//! A first line that begins with `#` holds instructions and is not part of the stream. `c5 c1`: the stream arrives in
//! pieces of 5 bytes and 1 byte in turn. `a9 x65530`: 65530 bytes `x` are inserted after the ninth byte. So a finding
//! of a fuzzer or a property test can be read, cut down by hand and kept as a seed, and can reach the limits.

/// Largest number of filler bytes: a little more than the longest limit.
const FILLER_MAX: usize = 66_000;
/// Up to this length a stream is cut in two at every place.
const SHORT: usize = 48;
/// The end of a longer stream, where a limit is met, arrives byte by byte. The rest comes in larger pieces, because a test copies
/// the unread bytes after each piece.
const LONG: usize = 300;

/// A stream, and the sizes of its pieces.
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    sizes: Vec<usize>,
}

impl Stream {
    pub(crate) fn of(text: &[u8]) -> Self {
        let heading = if text.starts_with(b"#") { text.iter().position(|&byte| byte == b'\n') } else { None };
        let (heading, bytes) = heading.map_or((&b""[..], text), |end| (&text[..end], &text[end + 1..]));
        let mut stream = Stream { bytes: bytes.to_vec(), sizes: Vec::new() };
        let mut at = 0;
        for (letter, number) in operations(heading) {
            match letter {
                b'a' => at = number.min(stream.bytes.len()),
                b'x' if stream.bytes.len() < FILLER_MAX => {
                    let filler = std::iter::repeat_n(b'x', number.min(FILLER_MAX));
                    drop(stream.bytes.splice(at..at, filler));
                }
                b'c' => stream.sizes.push(number.max(1)),
                _ => {}
            }
        }
        stream
    }

    /// Calls `check` with the pieces of this stream, for each of several ways to cut it.
    pub(crate) fn in_pieces(&self, mut check: impl FnMut(&[&[u8]])) {
        let bytes = &self.bytes[..];
        let mut cut = |sizes: &mut dyn Iterator<Item = usize>| {
            let (mut pieces, mut rest) = (Vec::new(), bytes);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(sizes.next().unwrap_or(rest.len()).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            check(&pieces);
        };
        // Byte by byte; a long stream only near its end.
        let ahead = bytes.len().saturating_sub(LONG);
        cut(&mut std::iter::once(ahead).filter(|&ahead| ahead > 0).chain(std::iter::repeat(1)));
        if !self.sizes.is_empty() {
            let least = bytes.len() / LONG;
            cut(&mut self.sizes.iter().map(|&size| size.max(least)).cycle());
        }
        if bytes.len() <= SHORT {
            (1..bytes.len()).for_each(|first| cut(&mut std::iter::once(first)));
        } else {
            // Random pieces, equal for equal streams: seeded by FNV-1a, and continued by xorshift.
            let mut state = bytes
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            for most in [4.max(bytes.len() / LONG), 40.max(bytes.len() / 40), bytes.len()] {
                cut(&mut std::iter::from_fn(|| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    Some(1 + state as usize % most)
                }));
            }
        }
    }
}

/// The letters of a text, each with the following number.
fn operations(text: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    text.iter().enumerate().filter(|(_, byte)| byte.is_ascii_alphabetic()).map(|(at, &letter)| {
        let digits = text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit());
        let add = |number: usize, digit: &u8| number.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
        (letter, digits.fold(0, add))
    })
}

/// The seeds in `fuzz/seeds`: inputs that a fuzzer has found worth keeping.
#[cfg(test)]
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let seeds: Vec<_> = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty(), "no seeds in {directory}");
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_says_how_a_stream_is_cut_and_where_it_is_filled_up() {
        let stream = Stream::of(b"# c2 c1 a3 x4\nabcdef");
        assert_eq!(stream.bytes, b"abcxxxxdef");
        let mut ways = Vec::new();
        stream.in_pieces(|pieces| {
            assert_eq!(pieces.concat(), stream.bytes);
            ways.push(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>());
        });
        assert_eq!(ways[..2], [vec![1; 10], vec![2, 1, 2, 1, 2, 1, 1]]);
        assert_eq!(ways[2..], (1..10).map(|first| vec![first, 10 - first]).collect::<Vec<_>>());
        assert_eq!(Stream::of(b"#no end").bytes, b"#no end");
    }

    #[test]
    fn a_long_stream_is_cut_by_chance() {
        let stream = Stream::of(b"#x500\n");
        stream.in_pieces(|pieces| assert_eq!(pieces.concat(), stream.bytes));
    }
}
