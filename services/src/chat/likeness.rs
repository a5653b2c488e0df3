//! Names that people could confuse: two keys for each name, without knowledge of the room.

use unicode_security::confusable_detection::skeleton;

/// Returns two keys of a name. Two names that share either key may be confused.
///
/// The first key removes upper and lower case and then, by Unicode Technical Standard 39, the differences between
/// characters of other scripts that look alike or are invisible. The second applies the steps in the other order, since
/// a capital `I` looks like a small `l`, and a small `i` does not.
pub(super) fn likenesses(name: &str) -> [String; 2] {
    [skeleton(&lower_case(name.chars())).collect(), lower_case(skeleton(name))]
}

/// Whether the name has a visible character.
pub(super) fn is_visible(name: &str) -> bool {
    skeleton(name).next().is_some()
}

fn lower_case(characters: impl Iterator<Item = char>) -> String {
    characters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are_alike(one: &str, other: &str) -> bool {
        let (one, other) = (likenesses(one), likenesses(other));
        one.iter().any(|likeness| other.contains(likeness))
    }

    #[test]
    fn what_differs_in_case_script_width_accent_encoding_or_nothing_to_be_seen_is_alike() {
        let pairs = [
            ("Ann", "aNN"),
            ("IVI", "ivi"),
            ("paypal", "раура\u{04cf}"),
            ("PaypaI", "Paypal"),
            ("bob", "bоb"),
            ("ann", "ａｎｎ"),
            ("ann", "an\u{200b}n"),
            ("ann", "\u{feff}ann\u{200d}"),
            ("Zo\u{eb}", "Zoe\u{308}"),
            ("bob0", "bobO"),
        ];
        for (one, other) in pairs {
            assert!(are_alike(one, other), "{one:?} and {other:?}");
        }
    }

    #[test]
    fn other_names_are_not() {
        let pairs = [
            ("ann", "anna"),
            ("Zoe", "Zo\u{eb}"),
            ("m1", "m2"),
            ("10", "11"),
            ("Аня", "Оля"),
            ("李", "林"),
            ("🙂", "🙃"),
        ];
        for (one, other) in pairs {
            assert!(!are_alike(one, other), "{one:?} and {other:?}");
        }
        // No two numbers look alike.
        let numbered: std::collections::HashSet<_> = (0..10_000).map(|n| likenesses(&format!("user{n}"))).collect();
        assert_eq!(numbered.len(), 10_000);
    }

    #[test]
    fn what_cannot_be_seen_is_no_name() {
        assert!(!is_visible("\u{200b}\u{200d}\u{feff}") && is_visible("\u{200b}x") && is_visible("👩\u{200d}💻"));
    }
}
