//! Chooses among a file's encoded siblings by the client's `Accept-Encoding` (RFC 9110 section 12.5.3).

/// The encoding of a representation, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Brotli,
    Gzip,
    Identity,
}

impl Encoding {
    pub(super) const ALL: [Encoding; 3] = [Encoding::Brotli, Encoding::Gzip, Encoding::Identity];

    /// The suffix of the encoded file after the name of the plain file.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Encoding::Brotli => ".br",
            Encoding::Gzip => ".gz",
            Encoding::Identity => "",
        }
    }

    /// The name in header fields.
    pub(super) fn name(self) -> &'static str {
        match self {
            Encoding::Brotli => "br",
            Encoding::Gzip => "gzip",
            Encoding::Identity => "identity",
        }
    }
}

/// The client's weight for each encoding, in thousandths; 0 means refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    weights: [u16; 3],
}

impl Accepted {
    /// Reads all values of `Accept-Encoding`. Without a value only the plain file is certain to be understood. A
    /// malformed weight counts as 0.
    pub(super) fn read<'v>(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let (mut named, mut others) = ([None; 3], None);
        for item in values.flat_map(|value| value.split(|&byte| byte == b',')) {
            let mut parts = item.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or_default();
            let weight = parts.next().map_or(1000, weight);
            if coding == b"*" {
                others = Some(weight);
            }
            for (encoding, place) in Encoding::ALL.iter().zip(&mut named) {
                // The old name of gzip (section 8.4.1.3).
                let coding = if coding.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { coding };
                if coding.eq_ignore_ascii_case(encoding.name().as_bytes()) {
                    *place = Some(weight);
                }
            }
        }
        let [brotli, gzip, identity] = named;
        let encoded = |weight: Option<u16>| weight.or(others).unwrap_or(0);
        // An unmentioned plain file is accepted too, with the lowest weight.
        Accepted { weights: [encoded(brotli), encoded(gzip), identity.or(others.filter(|&w| w == 0)).unwrap_or(1)] }
    }

    /// Chooses the available encoding with the highest weight. If none is acceptable, the plain file: better than no
    /// answer.
    pub(super) fn choose(self, is_there: impl Fn(Encoding) -> bool) -> Encoding {
        let there = Encoding::ALL.into_iter().zip(self.weights).filter(|&(encoding, w)| w > 0 && is_there(encoding));
        // With equal weights the first encoding wins.
        there.rev().max_by_key(|&(_, weight)| weight).map_or(Encoding::Identity, |(encoding, _)| encoding)
    }
}

/// Reads `q=0.5` in thousandths.
fn weight(parameter: &[u8]) -> u16 {
    let value = match parameter {
        [b'q' | b'Q', b'=', value @ ..] => value,
        _ => return 0,
    };
    let (whole, part) = match value {
        [whole] => (whole, &b""[..]),
        [whole, b'.', part @ ..] if part.len() <= 3 => (whole, part),
        _ => return 0,
    };
    let digits = part.iter().chain(b"000").take(3);
    let thousandths = digits
        .copied()
        .try_fold(0, |sum: u16, digit| digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0')));
    match (whole, thousandths) {
        (b'0', Some(part)) if part < 1000 => part,
        (b'1', Some(0)) => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_is_taken_is_chosen() {
        use Encoding::*;
        let table = [
            // Accept-Encoding; the encoding chosen from all three; the encoding chosen without Brotli.
            ("", Identity, Identity),
            ("gzip", Gzip, Gzip),
            ("br", Brotli, Identity),
            ("gzip, deflate, br", Brotli, Gzip),
            ("gzip, deflate, br, zstd", Brotli, Gzip),
            ("GZIP", Gzip, Gzip),
            ("x-gzip", Gzip, Gzip),
            ("*", Brotli, Gzip),
            ("*;q=0", Identity, Identity),
            ("gzip;q=0", Identity, Identity),
            ("br;q=0, *", Gzip, Gzip),
            ("br;q=0.5, gzip", Gzip, Gzip),
            ("br;q=0.5, gzip;q=0.4", Brotli, Gzip),
            ("gzip;q=0.001", Gzip, Gzip),
            ("gzip;q=0.000", Identity, Identity),
            ("gzip; q=1.0", Gzip, Gzip),
            ("gzip ; Q=0.8 ,br;q=0.8", Brotli, Gzip),
            ("identity", Identity, Identity),
            ("identity, gzip;q=0.5", Identity, Identity),
            ("identity;q=0.5, gzip", Gzip, Gzip),
            ("identity;q=0, br", Brotli, Identity),
            ("identity;q=0", Identity, Identity),
            ("gzip;q=2", Identity, Identity),
            ("gzip;q=1.001", Identity, Identity),
            ("gzip;q=0.1234", Identity, Identity),
            ("gzip;q=a", Identity, Identity),
            ("gzip;q=0.:", Identity, Identity),
            ("gzip;q=", Identity, Identity),
            ("gzip;level=1", Identity, Identity),
            ("deflate", Identity, Identity),
            (",,gzip,,", Gzip, Gzip),
        ];
        for (value, of_all, without_brotli) in table {
            let accepted = Accepted::read(std::iter::once(value.as_bytes()));
            assert_eq!(accepted.choose(|_| true), of_all, "{value}");
            assert_eq!(accepted.choose(|encoding| encoding != Brotli), without_brotli, "{value}");
            assert_eq!(accepted.choose(|encoding| encoding == Identity), Identity, "{value}");
        }
        assert_eq!(Accepted::read(std::iter::empty()).choose(|_| true), Identity);
        let lines = [&b"br;q=0.1"[..], b"gzip"];
        assert_eq!(Accepted::read(lines.into_iter()).choose(|_| true), Gzip, "on two lines");
    }
}
