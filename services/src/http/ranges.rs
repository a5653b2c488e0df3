//! Ranges of a representation that a request asks for (RFC 9110 section 14): from a field's value and a size to ranges
//! within that size. The answer never costs more than twice as much as the whole.

use std::ops::Range;

/// Largest number of ranges in one request. Video players ask for one range, PDF readers for a dozen. A request for more ranges
/// gets the whole file.
pub(super) const RANGES_MAX: usize = 64;

/// Two ranges are sent as one when at most this many bytes lie between them. The head of a part is shorter, so all
/// parts with their heads stay below twice the size of the whole (section 15.3.7.2).
pub(super) const GAP_MAX: u64 = 256;

/// The meaning of a `Range` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The field is ignored: another unit, bad syntax, or too many ranges.
    Whole,
    One(Range<u64>),
    /// At least two ranges, in the order of the request, apart from each other.
    Several(Vec<Range<u64>>),
    /// All ranges lie outside the content.
    Unsatisfiable,
}

/// Reads `value` for a representation of `size` bytes.
pub(super) fn read(value: &[u8], size: u64) -> Wanted {
    let Some(at) = memchr::memchr(b'=', value) else { return Wanted::Whole };
    if !value[..at].eq_ignore_ascii_case(b"bytes") {
        return Wanted::Whole;
    }
    let (mut ranges, mut named) = (Vec::new(), 0);
    for spec in value[at + 1..].split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        // A list may have empty places (section 5.6.1).
        if spec.is_empty() {
            continue;
        }
        named += 1;
        let Some(range) = one(spec, size).filter(|_| named <= RANGES_MAX) else { return Wanted::Whole };
        if !range.is_empty() {
            join(range, &mut ranges);
        }
    }
    match (named, ranges.len()) {
        (0, _) => Wanted::Whole,
        (_, 0) => Wanted::Unsatisfiable,
        (_, 1) => Wanted::One(ranges.remove(0)),
        _ => Wanted::Several(ranges),
    }
}

/// Reads one range. Empty if the range lies outside the content; `None` if the syntax is wrong.
fn one(spec: &[u8], size: u64) -> Option<Range<u64>> {
    let dash = memchr::memchr(b'-', spec)?;
    match (&spec[..dash], &spec[dash + 1..]) {
        // A suffix of empty content is all of the content (section 14.1.2), which no range can express.
        (b"", suffix) => number(suffix).filter(|&length| size > 0 || length == 0).map(|l| size - l.min(size)..size),
        (first, b"") => Some(number(first)?.min(size)..size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

/// Reads digits and nothing else. A number larger than any file becomes the largest number.
fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| {
        let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        digits.iter().fold(0, add)
    })
}

/// Adds a range to `ranges`, which are apart from each other. The sum takes the place of the first range that is near.
fn join(mut range: Range<u64>, ranges: &mut Vec<Range<u64>>) {
    let near = |a: &Range<u64>, b: &Range<u64>| {
        a.start <= b.end.saturating_add(GAP_MAX) && b.start <= a.end.saturating_add(GAP_MAX)
    };
    let mut place = ranges.len();
    // The grown range may be near to further ranges.
    while let Some(at) = ranges.iter().position(|other| near(other, &range)) {
        let other = ranges.remove(at);
        range = range.start.min(other.start)..range.end.max(other.end);
        place = place.min(at);
    }
    ranges.insert(place.min(ranges.len()), range);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn a_value_is_read_or_overlooked() {
        use Wanted::*;
        let table: &[(&str, u64, Wanted)] = &[
            ("bytes=0-499", 10_000, One(0..500)),
            ("bytes=500-999", 10_000, One(500..1000)),
            ("bytes=-500", 10_000, One(9500..10_000)),
            ("bytes=9500-", 10_000, One(9500..10_000)),
            ("bytes=0-0", 10_000, One(0..1)),
            ("bytes=0-", 1, One(0..1)),
            ("Bytes=0-0", 10, One(0..1)),
            ("bytes=5-99", 10, One(5..10)),
            ("bytes=-99", 10, One(0..10)),
            ("bytes= 0-0 , ", 10, One(0..1)),
            ("bytes=,,1-1,", 10, One(1..2)),
            ("bytes=0-0,-1", 10_000, Several(vec![0..1, 9999..10_000])),
            ("bytes=-1,0-0", 10_000, Several(vec![9999..10_000, 0..1])),
            ("bytes=500-600,601-999", 10_000, One(500..1000)),
            ("bytes=500-700,601-999", 10_000, One(500..1000)),
            ("bytes=0-9,266-300", 10_000, One(0..301)),
            ("bytes=0-9,267-300", 10_000, Several(vec![0..10, 267..301])),
            ("bytes=0-9,5000-5009,20-29", 10_000, Several(vec![0..30, 5000..5010])),
            ("bytes=0-0,99999-", 10_000, One(0..1)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-20,30-40", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
            ("bytes=0-99999999999999999999999999", 10, One(0..10)),
            ("bytes=99999999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-99999999999999999999999999", 10, One(0..10)),
            ("bytes=2-1", 10, Whole),
            ("bytes=0-0,2-1", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=,", 10, Whole),
            ("bytes", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=0 - 1", 10, Whole),
            ("bytes =0-1", 10, Whole),
            ("bytes=+0-1", 10, Whole),
            ("bytes=0x0-1", 10, Whole),
            ("bytes=--1", 10, Whole),
            ("bytes=0-1-2", 10, Whole),
            ("bytes=0", 10, Whole),
            ("lines=0-1", 10, Whole),
            ("", 10, Whole),
        ];
        for (value, size, expected) in table {
            assert_eq!(&read(value.as_bytes(), *size), expected, "{value} of {size}");
        }
    }

    #[test]
    fn too_many_are_overlooked_together() {
        let many = |count: usize| {
            let specs: Vec<_> = (0..count).map(|at| format!("{0}-{0}", at * 1000)).collect();
            read(format!("bytes={}", specs.join(",")).as_bytes(), 1_000_000)
        };
        assert!(matches!(many(RANGES_MAX), Wanted::Several(ranges) if ranges.len() == RANGES_MAX));
        assert_eq!(many(RANGES_MAX + 1), Wanted::Whole);
    }

    /// Against the plain meaning: a set of bytes.
    #[test]
    #[cfg_attr(miri, ignore = "thousands of rounds")]
    fn what_comes_out_covers_exactly_what_was_asked_for_and_costs_less_than_twice_the_whole() {
        let mut chance = Chance::new(7);
        for _ in 0..20_000 {
            let size = [0, 1, 10, 600, 3000][chance.below(5)] as u64;
            let (mut specs, mut asked) = (Vec::new(), vec![false; size as usize]);
            for _ in 0..1 + chance.below(8) {
                let (a, b) = (chance.below(size as usize + 50) as u64, chance.below(700) as u64);
                let (spec, range) = match chance.below(3) {
                    0 => (format!("{a}-{}", a + b), a..a + b + 1),
                    1 => (format!("{a}-"), a..size),
                    _ => (format!("-{a}"), size.saturating_sub(a)..size),
                };
                specs.push(spec);
                for at in range.filter(|&at| at < size) {
                    asked[at as usize] = true;
                }
            }
            let value = format!("bytes={}", specs.join(","));
            let ranges = match read(value.as_bytes(), size) {
                Wanted::One(range) => vec![range],
                Wanted::Several(ranges) => {
                    assert!(ranges.len() > 1);
                    ranges
                }
                Wanted::Unsatisfiable => vec![],
                // A suffix of empty content.
                Wanted::Whole if size == 0 => continue,
                Wanted::Whole => panic!("{value}"),
            };
            let mut sent = vec![false; size as usize];
            for range in &ranges {
                assert!(range.start < range.end && range.end <= size, "{value}: {ranges:?}");
                for at in range.clone() {
                    assert!(!sent[at as usize], "{value}: {ranges:?}: twice");
                    sent[at as usize] = true;
                }
            }
            assert!(asked.iter().zip(&sent).all(|(asked, sent)| !asked || *sent), "{value}: {ranges:?}");
            let mut sorted = ranges.clone();
            sorted.sort_by_key(|range| range.start);
            assert!(sorted.windows(2).all(|pair| pair[1].start - pair[0].end > GAP_MAX), "{value}: {ranges:?}");
        }
    }
}
