//! Compares the output with a plain queue of bytes, for any writes and any sends. The model knows no more of the output
//! than the driver does. For property tests and for the fuzz target `output`.

use super::*;
use crate::operations::Operations;

/// | | |
/// | --- | --- |
/// | `m` | at most so many bytes may be owed once more than half of them are; first of all |
/// | `p` `w` `s` | puts so many bytes; writes them; puts them shared |
/// | `g` | sends: the kernel takes so many of what is offered in one piece or in a few |
/// | `c` | forgets what is owed |
#[cfg(test)]
const LETTERS: &[u8] = b"ppwsssgggggc";

/// Largest number of bytes put at once: some writes are large enough for sharing, and many together exceed the limit
/// for reclaiming memory.
const AT_ONCE: u64 = 10 * SHARE_MIN as u64;

/// Runs the operations of the text, and panics if the output is wrong.
pub fn check(text: &[u8]) {
    let mut operations = Operations::of(text);
    let mut output = Output::default();
    let max = operations.next_of(b"m").map_or(usize::MAX, |(_, max)| max as usize);
    output.set_max(max);
    let (mut model, mut overflowed, mut put) = (VecDeque::new(), false, 0u64);
    for (letter, number) in operations {
        match letter {
            b'p' | b'w' | b's' => {
                // Each byte shows its place, as far as a byte can.
                let bytes: Vec<u8> = (put..put + number.clamp(1, AT_ONCE)).map(|at| (at ^ (at >> 8)) as u8).collect();
                put += bytes.len() as u64;
                output.begin_write_above(max / 2);
                match letter {
                    b'p' => output.put(&bytes),
                    b'w' => io::Write::write_all(&mut output, &bytes).expect("it never fails"),
                    _ => output.put_shared(Bytes::from(bytes.clone())),
                }
                // After a gap no write is accepted.
                overflowed |= model.len() > max / 2 && model.len() + bytes.len() > max;
                if !overflowed {
                    model.extend(bytes);
                }
            }
            b'g' => send(&mut output, &mut model, number as usize),
            b'c' => {
                output.clear();
                model.clear();
                overflowed = false;
            }
            _ => {}
        }
        assert_eq!((output.queued(), output.is_empty()), (model.len(), model.is_empty()));
        assert_eq!(output.overflowed(), overflowed, "{} owed of {max}", model.len());
    }
    while !model.is_empty() {
        send(&mut output, &mut model, usize::MAX);
    }
    assert_eq!(output.queued(), 0);
}

/// One send, of which the kernel takes at most `room` bytes.
fn send(output: &mut Output, model: &mut VecDeque<u8>, room: usize) {
    if let Some(bytes) = output.plain() {
        assert!(model.iter().eq(bytes), "what is plain is all that is owed");
        if bytes.len() <= room {
            output.plain_left();
            return model.clear();
        }
    }
    let offered = output.offered();
    assert_eq!(offered.is_empty(), model.is_empty(), "something is offered while something is owed");
    assert!(model.iter().zip(&offered).all(|(one, other)| one == other), "what is offered is what is owed");
    let taken = room.min(offered.len());
    output.advance(taken);
    model.drain(..taken);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::{operations, seeds};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whatever_is_put_leaves_in_order(text in operations(LETTERS, 5, 60, &[SHARE_MIN as u64, SHARE_MIN as u64 - 1, 10_000, 40_000]), max in prop::option::of(0..5u32)) {
            let max = max.map(|max| format!("m{} ", max * 5000)).unwrap_or_default();
            check(format!("{max}{text}").as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("output").iter().for_each(|seed| check(seed));
    }
}
