//! Operations as text, for models: a letter and a number each, `i1048576 c2 n`. So a finding of a fuzzer or a property
//! test can be read, cut down by hand and kept as a seed; and fuzzers can change decimal numbers.

/// The operations of one text. A missing number is 0; any other character is a blank.
#[derive(Clone, Copy)]
pub(crate) struct Operations<'t>(&'t [u8]);

impl<'t> Operations<'t> {
    pub(crate) fn of(text: &'t [u8]) -> Self {
        Operations(text)
    }

    /// Takes the next operation if its letter is in `letters`.
    pub(crate) fn next_of(&mut self, letters: &[u8]) -> Option<(u8, u64)> {
        let mut after = *self;
        let operation = after.next().filter(|(letter, _)| letters.contains(letter))?;
        *self = after;
        Some(operation)
    }
}

impl Iterator for Operations<'_> {
    type Item = (u8, u64);

    fn next(&mut self) -> Option<(u8, u64)> {
        let start = self.0.iter().position(u8::is_ascii_alphabetic)?;
        let (letter, rest) = (self.0[start], &self.0[start + 1..]);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.0 = &rest[digits..];
        let add = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        Some((letter, rest[..digits].iter().fold(0, add)))
    }
}

/// Common code for the tests of the models.
#[cfg(test)]
pub(crate) mod testing {
    use proptest::prelude::*;

    /// Texts of at most `most` operations with these letters. One number in three is small, one is among the `marks`,
    /// and the others have all magnitudes up to 10 to the power of `digits` with equal probability.
    pub(crate) fn operations(
        letters: &'static [u8],
        digits: u32,
        most: usize,
        marks: &'static [u64],
    ) -> impl Strategy<Value = String> {
        let number = prop_oneof![
            0..10u64,
            prop::sample::select(marks),
            (0..=digits).prop_flat_map(|digits| 0..10u64.saturating_pow(digits).max(1)),
        ];
        let operation = (prop::sample::select(letters), number);
        let text = |(letter, number): (u8, u64)| format!("{}{number} ", char::from(letter));
        prop::collection::vec(operation.prop_map(text), 0..most).prop_map(|texts| texts.concat())
    }

    /// The seeds in `fuzz/seeds`: inputs that a fuzzer has found worth keeping.
    pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
        let directory = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
        let seeds: Vec<_> = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(!seeds.is_empty(), "no seeds in {directory}");
        seeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_letters_each_with_its_number() {
        let all: Vec<_> = Operations::of(b"12 a7b c-30\nD99999999999999999999999").collect();
        assert_eq!(all, [(b'a', 7), (b'b', 0), (b'c', 0), (b'D', u64::MAX)]);
        let mut operations = Operations::of(b"a1 b2");
        assert_eq!(operations.next_of(b"b"), None);
        assert_eq!((operations.next_of(b"ab"), operations.next_of(b"b")), (Some((b'a', 1)), Some((b'b', 2))));
    }
}
