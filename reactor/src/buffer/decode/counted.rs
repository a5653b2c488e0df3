//! Items of several parts, with the number of parts before them.

use super::{Decimal, Decoder, FrameError, Input, LengthPrefix};

/// A decoder of items that consist of a count and as many parts, such as a command of RESP.
///
/// A handler is not called again before the least length of the missing parts has arrived ([`Input::need`]). So an item of many
/// parts, which is read from its first part at each call, is read a few times, not once for each piece of the network.
///
/// ```
/// use reactor::{Counted, Decimal, Input, LengthPrefix};
///
/// /// The commands of Redis: up to 2^20 strings of up to 512 MiB.
/// const COMMANDS: Counted = Counted::of(
///     Decimal::within(1 << 20).after(b"*"),
///     LengthPrefix::decimal(512 << 20).after(b"$").trailer(2),
/// );
///
/// let mut input = Input::of(b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n*1\r\n$4\r\nPI");
/// assert_eq!(COMMANDS.decode(&mut input), Ok(Some(vec![&b"ECHO"[..], b"hello"])));
/// assert_eq!(COMMANDS.decode(&mut input), Ok(None));
/// assert_eq!(input.len(), 10);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    count: Decimal,
    part: LengthPrefix,
}

impl Counted {
    /// Items of as many parts as the line `count` says.
    pub const fn of(count: Decimal, part: LengthPrefix) -> Self {
        Counted { count, part }
    }

    /// Takes the next item: the bodies of its parts.
    ///
    /// # Errors
    /// The errors of [`Decimal::decode`] and of [`LengthPrefix::decode`].
    #[inline]
    pub fn decode<'a>(&self, input: &mut Input<'a>) -> Result<Option<Vec<&'a [u8]>>, FrameError> {
        let least = self.part.least();
        input.whole(|input| {
            let Some(count) = self.count.decode(input)? else { return Ok(None) };
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            // The bytes of the peer bound the memory. A bad part among them is an error before the other parts have arrived.
            let mut parts = Vec::with_capacity(count.min(input.len() / least.max(1)));
            while parts.len() < count {
                input.need((count - parts.len()).saturating_mul(least));
                let Some(part) = self.part.decode(input)? else { return Ok(None) };
                parts.push(part.body);
            }
            Ok(Some(parts))
        })
    }
}

impl Decoder for Counted {
    type Item<'a> = Vec<&'a [u8]>;
    type Error = FrameError;

    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<Vec<&'a [u8]>>, FrameError> {
        Counted::decode(self, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Kept;

    const COMMANDS: Counted =
        Counted::of(Decimal::within(1 << 20).after(b"*"), LengthPrefix::decimal(1000).after(b"$").trailer(2));

    /// Each command of the stream, as a handler gets it in pieces of `length` bytes, and the number of calls.
    fn in_pieces(stream: &[u8], length: usize) -> (Vec<Vec<Vec<u8>>>, usize) {
        let (mut kept, mut commands, mut calls) = (Kept::default(), Vec::new(), 0);
        for piece in stream.chunks(length) {
            kept.append(piece);
            if kept.is_too_short() {
                continue;
            }
            calls += 1;
            let mut input = kept.lend();
            let mut decoder = COMMANDS;
            while let Some(parts) = Decoder::decode(&mut decoder, &mut input).expect("the stream is well-formed") {
                commands.push(parts.into_iter().map(<[u8]>::to_vec).collect());
            }
            let left = input.left();
            kept.settle(left);
        }
        (commands, calls)
    }

    #[test]
    fn an_item_is_the_same_in_pieces_of_any_length() {
        let stream = b"*0\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\n$5\r\n*2\r\n$1\r\n\r\n*1\n$4\nPING\r\n";
        let all: [&[&[u8]]; 3] = [&[], &[b"SET", b"", b"$5\r\n*2\r\n$1\r\n"], &[b"PING"]];
        let all: Vec<Vec<Vec<u8>>> = all.iter().map(|parts| parts.iter().map(|part| part.to_vec()).collect()).collect();
        for length in 1..=stream.len() {
            assert_eq!(in_pieces(stream, length).0, all, "pieces of {length}");
        }
    }

    #[test]
    fn a_command_of_400_000_items_is_read_a_few_times_from_its_beginning() {
        let mut stream = b"*400000\r\n".to_vec();
        (0..400_000).for_each(|_| stream.extend_from_slice(b"$3\r\nabc\r\n"));
        let (commands, calls) = in_pieces(&stream, 65_536);
        assert_eq!((commands.len(), commands[0].len()), (1, 400_000));
        assert!(commands[0].iter().all(|part| part == b"abc"));
        // Each call waits for five ninths of the missing bytes. Without the request the number of calls is 55.
        assert!(calls <= 20, "{calls} calls");
    }

    #[test]
    fn a_count_without_parts_takes_no_memory_and_a_bad_part_is_an_error() {
        let mut input = Input::of(b"*1048576\r\n$1\r\na\r\n");
        assert_eq!(COMMANDS.decode(&mut input), Ok(None));
        assert_eq!(input.len(), 17);
        for bad in [
            &b"*1048577\r\n"[..],
            b"$1\r\na\r\n",
            b"*1\r\n:3\r\n",
            b"*9\r\n$1\r\na\r\n:",
            b"*1\r\n$1001\r\n",
            b"*x\r\n",
        ] {
            COMMANDS.decode(&mut Input::of(bad)).expect_err("it is no command");
        }
    }
}
