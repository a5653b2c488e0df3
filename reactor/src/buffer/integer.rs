//! Integers in decimal, written into a small array on the stack.

/// An integer of at most 64 bits, for [`Writer::put_decimal`](crate::Writer::put_decimal). The trait is sealed.
///
/// ```
/// use reactor::{Integer, Output};
/// fn shown(number: impl Integer) -> Vec<u8> {
///     let mut output = Output::default();
///     output.writer().put_decimal(number);
///     output.to_vec()
/// }
/// assert_eq!(shown(250u8), b"250");
/// assert_eq!(shown(-12i64), b"-12");
/// ```
pub trait Integer: sealed::Sealed {}

pub(super) mod sealed {
    pub trait Sealed: Copy {
        /// Passes the digits to `put`, in one piece.
        fn in_decimal(self, put: impl FnOnce(&[u8]));
    }
}

/// The digits `00` to `99`.
const PAIRS: [u8; 200] = {
    let (mut pairs, mut at) = ([0; 200], 0);
    while at < 100 {
        (pairs[2 * at], pairs[2 * at + 1]) = (b'0' + (at / 10) as u8, b'0' + (at % 10) as u8);
        at += 1;
    }
    pairs
};

/// The length of `-9223372036854775808` and of `18446744073709551615`.
const LONGEST: usize = 20;

fn digits(mut magnitude: u64, negative: bool, put: impl FnOnce(&[u8])) {
    let (mut text, mut at) = ([0; LONGEST], LONGEST);
    while magnitude >= 10 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&PAIRS[(magnitude % 100) as usize * 2..][..2]);
        magnitude /= 100;
    }
    // A last digit, unless the pairs were all digits. Zero has one digit.
    if magnitude > 0 || at == LONGEST {
        at -= 1;
        text[at] = b'0' + magnitude as u8;
    }
    if negative {
        at -= 1;
        text[at] = b'-';
    }
    put(&text[at..]);
}

macro_rules! integers {
    ($($unsigned:ty)*; $($signed:ty)*) => {
        $(
            impl Integer for $unsigned {}
            impl sealed::Sealed for $unsigned {
                #[inline]
                fn in_decimal(self, put: impl FnOnce(&[u8])) {
                    digits(self as u64, false, put);
                }
            }
        )*
        $(
            impl Integer for $signed {}
            impl sealed::Sealed for $signed {
                #[inline]
                fn in_decimal(self, put: impl FnOnce(&[u8])) {
                    digits(self.unsigned_abs() as u64, self < 0, put);
                }
            }
        )*
    };
}

integers! { u8 u16 u32 u64 usize; i8 i16 i32 i64 isize }

#[cfg(test)]
mod tests {
    use super::sealed::Sealed;
    use proptest::prelude::*;

    fn shown(number: impl Sealed) -> String {
        let mut shown = String::new();
        number.in_decimal(|digits| shown.push_str(str::from_utf8(digits).unwrap()));
        shown
    }

    #[test]
    fn integers_at_the_edges_are_shown_as_the_standard_library_shows_them() {
        let powers = (0..20).map(|power| 10u64.pow(power));
        for number in powers.flat_map(|power| [power - 1, power, power + 1]).chain([0, u64::MAX]) {
            assert_eq!(shown(number), number.to_string());
            assert_eq!(shown(number as i64), (number as i64).to_string());
        }
        assert_eq!(
            (shown(i64::MIN), shown(i8::MIN), shown(u8::MAX)),
            (i64::MIN.to_string(), "-128".into(), "255".into())
        );
    }

    proptest! {
        #[test]
        fn any_integer_is_shown_as_the_standard_library_shows_it(number: i64, short: u16) {
            prop_assert_eq!(shown(number), number.to_string());
            prop_assert_eq!(shown(number as u64), (number as u64).to_string());
            prop_assert_eq!(shown(short), short.to_string());
        }
    }
}
