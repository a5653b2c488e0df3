//! Cleans a line of text for other people's screens: characters that could forge a line or control a terminal are
//! replaced.
//!
//! [`append_clean`] has an example.

/// Replaces each character that is not let through: U+FFFD.
const REPLACEMENT: &str = "\u{fffd}";

/// Bytes that are examined together: a typed line has one or two pieces.
const PIECE: usize = 64;

/// Whether `character` acts instead of showing a sign: control characters (Cc), the separators of lines and paragraphs,
/// and characters that override, embed or isolate a direction of writing.
///
/// ```
/// use services::codec::text::is_control;
/// assert!(is_control('\x1b') && is_control('\u{2028}') && is_control('\u{202e}') && is_control('\t'));
/// assert!(!is_control('ä') && !is_control('🙂'));
/// ```
pub fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends `text` to `output`, with U+FFFD in place of each control character except tab.
///
/// ```
/// let mut output = b"> ".to_vec();
/// services::codec::text::append_clean("a\tb\x1b[2Jc\n", &mut output);
/// assert_eq!(output, "> a\tb\u{fffd}[2Jc\u{fffd}".as_bytes());
/// ```
pub fn append_clean(text: &str, output: &mut Vec<u8>) {
    // Nearly all text is plain, and costs one copy.
    if is_plain(text) {
        return output.extend_from_slice(text.as_bytes());
    }
    let mut rest = text;
    while let Some(at) = rest.find(|character| character != '\t' && is_control(character)) {
        output.extend_from_slice(&rest.as_bytes()[..at]);
        output.extend_from_slice(REPLACEMENT.as_bytes());
        let width = rest[at..].chars().next().map_or(0, char::len_utf8);
        rest = &rest[at + width..];
    }
    output.extend_from_slice(rest.as_bytes());
}

/// Whether `text` consists of plain ASCII. A piece is examined as a whole, without an exit after each byte, so the
/// compiler uses wide registers.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    text.as_bytes().chunks(PIECE).all(|piece| piece.iter().fold(true, |so_far, &byte| so_far & is_plain(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "every character is too many to be interpreted")]
    fn each_control_character_but_the_tab_is_replaced_and_all_else_is_kept() {
        let bidirectional = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        let bad: Vec<char> =
            ('\0'..='\x1f').chain('\x7f'..='\u{9f}').chain(['\u{2028}', '\u{2029}']).chain(bidirectional).collect();
        for character in char::MIN..=char::MAX {
            let mut output = Vec::new();
            append_clean(&format!("a{character}b"), &mut output);
            let expected = if character != '\t' && bad.contains(&character) { '\u{fffd}' } else { character };
            assert_eq!(output, format!("a{expected}b").as_bytes(), "{:x}", character as u32);
            assert!(!bad.contains(&character) || is_control(character));
        }
    }

    #[test]
    fn one_is_found_wherever_it_stands() {
        for length in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE - 1] {
            for at in 0..length {
                let mut text = "x".repeat(length);
                text.replace_range(at..=at, "\x1b");
                let mut output = Vec::new();
                append_clean(&text, &mut output);
                assert_eq!(output, text.replace('\x1b', REPLACEMENT).as_bytes(), "{at} of {length}");
            }
        }
    }
}
