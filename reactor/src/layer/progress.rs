//! How much plaintext a peer has acknowledged, of which only bytes of the wire are known.

/// Number of remembered points. Older points are thinned out, so the precision is best for the latest bytes.
const POINTS: usize = 8;

/// Bytes sealed so far, and how plaintext and wire went side by side.
///
/// A record of one byte takes some thirty bytes on the wire. A deadline that counted the wire would mistake a peer that
/// acknowledges a hundred such records for a peer that has taken kilobytes.
#[derive(Debug, Default)]
pub(super) struct Progress {
    plain: u64,
    wire: u64,
    /// Ascending pairs of plaintext and wire.
    points: [(u64, u64); POINTS],
    length: usize,
}

impl Progress {
    /// Bytes were put on the wire, sealed or the protocol's own.
    pub(super) fn put(&mut self, wire: usize) {
        self.wire += wire as u64;
    }

    /// All of `plain` has been sealed, and is on the wire.
    pub(super) fn sealed(&mut self, plain: usize) {
        self.plain += plain as u64;
        if self.length == POINTS {
            // Every second one stays.
            for at in 0..POINTS / 2 {
                self.points[at] = self.points[2 * at + 1];
            }
            self.length = POINTS / 2;
        }
        self.points[self.length] = (self.plain, self.wire);
        self.length += 1;
    }

    /// Plaintext that the peer has not acknowledged, when `wire` bytes of the wire are not acknowledged.
    pub(super) fn unacknowledged(&self, wire: usize) -> usize {
        let acknowledged = self.wire.saturating_sub(wire as u64);
        let (mut from, mut plain) = ((0, 0), 0);
        for &(point_plain, point_wire) in &self.points[..self.length] {
            if point_wire <= acknowledged {
                plain = point_plain;
            } else {
                // Between two points both are taken to go on evenly.
                let (span, of) = (point_plain - from.0, (point_wire - from.1).max(1));
                plain = from.0 + (u128::from(span) * u128::from(acknowledged - from.1) / u128::from(of)) as u64;
                break;
            }
            from = (point_plain, point_wire);
        }
        (self.plain - plain) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_records_count_the_plaintext_in_them() {
        let mut progress = Progress::default();
        assert_eq!(progress.unacknowledged(0), 0);
        for _ in 0..1000 {
            progress.put(30);
            progress.sealed(1);
        }
        assert_eq!(progress.unacknowledged(0), 0);
        assert_eq!(progress.unacknowledged(30_000), 1000);
        assert_eq!(progress.unacknowledged(15_000), 500);
        // A large answer after them, of which the peer has taken half.
        progress.put(60_000);
        progress.sealed(59_000);
        assert_eq!(progress.unacknowledged(30_000), 29_500);
        assert_eq!(progress.unacknowledged(60_000), 59_000);
        assert_eq!(progress.unacknowledged(usize::MAX), 60_000);
    }

    #[test]
    fn what_carries_no_plaintext_does_not_count() {
        let mut progress = Progress::default();
        progress.put(5000);
        progress.put(100);
        progress.sealed(70);
        progress.put(24);
        assert_eq!(progress.unacknowledged(24), 0);
        assert_eq!(progress.unacknowledged(5124), 70);
        assert!(progress.unacknowledged(60) < 70);
    }
}
