//! The characters that a name may have: returns what is wrong with a text, without knowledge of the room.
//!
//! A name is printed beside others on a line, `#<name>@<address>>>`, so no character of a name may hide, pile up over
//! other lines, or look like the text around the name.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory as Category, UnicodeEmoji, UnicodeGeneralCategory};
use unicode_script::{Script, UnicodeScript};

use super::likeness::is_visible;

/// Longest name in characters: room for any real name, and too short to fill a screen.
const NAME_MAX: usize = 32;

/// Largest number of marks on one letter. Vietnamese needs two, pointed Hebrew three, and piles of marks reach into
/// other lines.
const MARKS_MAX: usize = 3;

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';
/// Turns a digit into a keycap.
const KEYCAP: char = '\u{20e3}';
/// Begins the flags of regions, which are spelt in tag characters.
const BLACK_FLAG: char = '\u{1f3f4}';
const CANCEL_TAG: char = '\u{e007f}';

/// Why `name` is not allowed as a name; `None` if it is allowed.
pub(super) fn fault(name: &str) -> Option<&'static str> {
    if !(1..=NAME_MAX).contains(&name.chars().count()) {
        return Some("a name has 1 to 32 characters");
    }
    if name.starts_with(['/', '(', '#']) {
        return Some("a name does not begin with /, ( or #");
    }
    // In compatible forms, since `＠` is read as `@`, and some letters stand for several words.
    if name.nfkc().any(|character| matches!(character, '@' | '>' | ',') || character.is_whitespace()) {
        return Some("a name has no space and none of @ > ,");
    }
    Reader::read(name).err().or_else(|| (!is_visible(name)).then_some("a name has something to see"))
}

/// The end of the characters so far, which decides the next character.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// Start, punctuation, a number or a symbol: no mark and no joiner may follow.
    Other,
    /// A letter of this script, and the number of its marks.
    Letter(Script, usize),
    /// A joiner between letters of this script.
    LetterJoiner(Script),
    Emoji,
    /// An emoji joiner: another emoji follows.
    EmojiJoiner,
    /// A digit, `#` or `*`, which may become a keycap.
    Key,
    /// The flag that tags may follow.
    Flag,
    /// Tags after a flag, which need an end.
    Tags,
}

struct Reader(After);

impl Reader {
    fn read(name: &str) -> Result<(), &'static str> {
        let mut reader = Reader(After::Other);
        let mut characters = name.chars().peekable();
        while let Some(character) = characters.next() {
            reader.0 = reader.follow(character, characters.peek().copied())?;
        }
        match reader.0 {
            After::LetterJoiner(_) | After::EmojiJoiner => Err(JOINER),
            After::Tags => Err(INKLESS),
            _ => Ok(()),
        }
    }

    fn follow(&self, character: char, next: Option<char>) -> Result<After, &'static str> {
        let category = character.general_category();
        if let After::EmojiJoiner = self.0 {
            return if is_emoji(character) { Ok(After::Emoji) } else { Err(JOINER) };
        }
        match (character, self.0) {
            (ZWJ, After::Emoji | After::Flag) => return Ok(After::EmojiJoiner),
            (ZWJ | ZWNJ, After::Letter(script, _)) if uses_joiners(script) => return Ok(After::LetterJoiner(script)),
            (ZWJ | ZWNJ, _) => return Err(JOINER),
            // The presentation of the previous emoji: in colour, or as text.
            ('\u{fe0e}' | '\u{fe0f}', After::Emoji | After::Flag) => return Ok(After::Emoji),
            ('\u{fe0f}', After::Key) if next == Some(KEYCAP) => return Ok(After::Key),
            (KEYCAP, After::Key) => return Ok(After::Emoji),
            (CANCEL_TAG, After::Tags) => return Ok(After::Emoji),
            (tag, After::Flag | After::Tags) if is_tag(tag) => return Ok(After::Tags),
            (_, After::Tags) => return Err(INKLESS),
            _ => {}
        }
        if let After::LetterJoiner(script) = self.0 {
            let fits = is_letter(category) && character.script() == script;
            return if fits { Ok(After::Letter(script, 0)) } else { Err(JOINER) };
        }
        if is_inkless(character) {
            return Err(INKLESS);
        }
        match category {
            _ if character == BLACK_FLAG => Ok(After::Flag),
            _ if is_emoji(character) => Ok(After::Emoji),
            _ if is_letter(category) => Ok(After::Letter(character.script(), 0)),
            Category::NonspacingMark | Category::SpacingMark | Category::EnclosingMark => match self.0 {
                After::Letter(script, marks) if marks < MARKS_MAX => Ok(After::Letter(script, marks + 1)),
                After::Letter(..) => Err("a letter of a name has at most 3 marks"),
                _ => Err("a mark in a name stands on a letter"),
            },
            _ if matches!(character, '0'..='9' | '#' | '*') => Ok(After::Key),
            Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber => Ok(After::Other),
            Category::ConnectorPunctuation
            | Category::DashPunctuation
            | Category::OpenPunctuation
            | Category::ClosePunctuation
            | Category::InitialPunctuation
            | Category::FinalPunctuation
            | Category::OtherPunctuation => Ok(After::Other),
            Category::CurrencySymbol | Category::MathSymbol => Ok(After::Other),
            _ => Err(INKLESS),
        }
    }
}

const JOINER: &str = "joiners in a name stand between letters of scripts that use them, and in emoji";
const INKLESS: &str = "a name has letters, numbers, punctuation, visible symbols and emoji";

fn is_letter(category: Category) -> bool {
    matches!(
        category,
        Category::UppercaseLetter
            | Category::LowercaseLetter
            | Category::TitlecaseLetter
            | Category::ModifierLetter
            | Category::OtherLetter
    )
}

/// Digits, `#` and `*` become emoji only with a following character.
fn is_emoji(character: char) -> bool {
    !character.is_ascii() && character.is_emoji_char()
}

fn is_tag(character: char) -> bool {
    matches!(character, '\u{e0020}'..='\u{e007e}')
}

/// Letters and marks without ink: fillers, blanks and selectors of forms. (Symbols are allowed by name.)
fn is_inkless(character: char) -> bool {
    matches!(
        character,
        '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{1107f}'
            | '\u{13441}'
            | '\u{13442}'
            | '\u{16fe4}'
            | '\u{1bc9d}'
            | '\u{e0100}'..='\u{e01ef}'
    )
}

/// Scripts in whose words a joiner makes a visible difference (Unicode Standard Annex 31, section 2.3).
fn uses_joiners(script: Script) -> bool {
    matches!(
        script,
        Script::Adlam
            | Script::Arabic
            | Script::Balinese
            | Script::Bengali
            | Script::Chakma
            | Script::Devanagari
            | Script::Gujarati
            | Script::Gurmukhi
            | Script::Hanifi_Rohingya
            | Script::Javanese
            | Script::Kannada
            | Script::Khmer
            | Script::Malayalam
            | Script::Mandaic
            | Script::Meetei_Mayek
            | Script::Mongolian
            | Script::Myanmar
            | Script::Newa
            | Script::Nko
            | Script::Oriya
            | Script::Sinhala
            | Script::Sundanese
            | Script::Syriac
            | Script::Tamil
            | Script::Telugu
            | Script::Tibetan
            | Script::Tirhuta
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_living_languages_are_names() {
        let names = [
            ("English", "Ann-Marie_O'Neil"),
            ("German", "Jürgen"),
            ("Polish", "Wałęsa"),
            ("Turkish", "İbrahim"),
            ("Vietnamese", "Nguyễn"),
            ("Vietnamese, decomposed", "Nguye\u{302}\u{303}n"),
            ("Yoruba", "Ọlá\u{323}"),
            ("Greek", "Ἀλέξανδρος"),
            ("Russian", "Алёна"),
            ("Ukrainian", "Мар’яна"),
            ("Armenian", "Արամ"),
            ("Georgian", "ნინო"),
            ("Hebrew", "רחל"),
            ("Hebrew with points", "מֹשֶׁה"),
            ("Hebrew with three points on a letter", "שּׁ\u{5b8}ם"),
            ("Arabic", "محمد"),
            ("Arabic with signs", "مُحَمَّد"),
            ("Persian", "علی\u{200c}رضا"),
            ("Urdu", "عائشہ"),
            ("Syriac", "ܡܪܝܡ"),
            ("Dhivehi", "އަހުމަދު"),
            ("N'Ko", "ߞߊ߲ߕߍ"),
            ("Amharic", "ሀይሌ"),
            ("Hindi", "श्री"),
            ("Hindi with a joiner", "क्\u{200d}षमा"),
            ("Nepali without a ligature", "प्\u{200c}रकाश"),
            ("Bengali", "রবীন্দ্রনাথ"),
            ("Punjabi", "ਸਿੰਘ"),
            ("Gujarati", "કૃષ્ણ"),
            ("Odia", "ଶ୍ରୀ"),
            ("Tamil", "ஸ்ரீநிவாசன்"),
            ("Telugu", "శ్రీనివాస్"),
            ("Kannada", "ಕೃಷ್ಣ"),
            ("Malayalam", "അനിൽ"),
            ("Malayalam with a joiner", "ന്\u{200d}മ"),
            ("Sinhala", "ශ්\u{200d}රී"),
            ("Thai", "น้ำผึ้ง"),
            ("Lao", "ຄຳພູ"),
            ("Khmer", "ភ្នំពេញ"),
            ("Myanmar", "အောင်ဆန်း"),
            ("Tibetan", "བསྒྲུབས་རྒྱལ"),
            ("Mongolian", "ᠪᠠᠲᠤ"),
            ("Korean", "김민준"),
            ("Korean in single letters", "\u{1100}\u{1175}\u{11b7}"),
            ("Chinese", "李小龙"),
            ("Japanese", "ゆうき・ジョー"),
            ("Japanese with marks of their own", "か\u{3099}ー"),
            ("Inuktitut", "ᐃᓄᒃ"),
            ("Cherokee", "ᏣᎳᎩ"),
            ("Hawaiian", "Kaʻiulani"),
        ];
        for (language, name) in names {
            assert_eq!(fault(name), None, "{language}: {name}");
        }
    }

    #[test]
    fn emoji_are_names_in_all_their_forms() {
        for name in [
            "🙂",
            "👩\u{200d}💻",
            "👨\u{200d}👩\u{200d}👧\u{200d}👦",
            "👍🏽",
            "🧑🏿\u{200d}🚀",
            "❤\u{fe0f}\u{200d}🔥",
            "❤\u{fe0f}",
            "☺\u{fe0e}",
            "🏳\u{fe0f}\u{200d}🌈",
            "🏴\u{200d}☠\u{fe0f}",
            "🇩🇪",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "1\u{fe0f}\u{20e3}",
            "*\u{20e3}",
            "ann🎉",
            "🏴",
        ] {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_punctuation_and_symbols_with_ink_are_names() {
        for name in ["007", "½", "Ⅷ", "٣", "a#(/", "$", "€uro", "x+y=z", "<3", "~", "«a»", "…", "©"] {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn what_hides_piles_up_or_passes_for_something_else_is_no_name() {
        for name in [
            "",
            "\u{2800}",
            "a\u{2800}",
            "\u{fffc}",
            "\u{fffd}",
            "\u{1d159}",
            "\u{301}",
            "1\u{301}",
            "🙂\u{301}",
            "e\u{301}\u{301}\u{301}\u{301}",
            "admin,",
            "admin，",
            "admin﹐x",
            "admin＠127.0.0.1>>hi",
            "admin﹫x",
            "a>b",
            "a＞b",
            "a b",
            "a\u{a0}b",
            "a\u{3000}b",
            "\u{fdfa}",
            "/a",
            "(a",
            "#a",
            "a\tb",
            "a\0",
            "a\u{202e}b",
            "a\u{2028}",
            "\u{200b}",
            "a\u{200b}b",
            "a\u{ad}b",
            "\u{feff}a",
            "a\u{200d}b",
            "ann\u{200c}",
            "\u{200d}ann",
            "علی\u{200c}",
            "\u{200c}علی",
            "علی\u{200c}\u{200c}رضا",
            "علی\u{200c}x",
            "🙂\u{200d}",
            "🙂\u{200d}a",
            "a\u{200d}🙂",
            "a\u{fe0f}",
            "1\u{fe0f}",
            "🏴\u{e0067}",
            "🏴\u{e0067}a",
            "a\u{e0067}\u{e007f}",
            "\u{115f}",
            "\u{3164}",
            "\u{ffa0}",
            "a\u{34f}",
            "\u{13441}",
            "\u{e000}",
            "\u{f0000}",
            "\u{378}",
            "\u{ffff}",
            "\u{fdd0}",
            "\u{1fffe}",
            "°",
            "^",
            "`",
        ] {
            assert!(fault(name).is_some(), "{name:?}");
        }
        assert_eq!((fault(&"ü".repeat(32)), fault(&"ü".repeat(33)).is_some()), (None, true));
    }

    /// Every character of a name keeps the rule.
    #[test]
    #[cfg_attr(miri, ignore = "every character is too many to be interpreted")]
    fn each_character_by_itself_is_let_in_by_its_category_alone() {
        for character in char::MIN..=char::MAX {
            if fault(&character.to_string()).is_some() {
                continue;
            }
            let category = character.general_category();
            let is_hidden = matches!(
                category,
                Category::Control
                    | Category::Format
                    | Category::PrivateUse
                    | Category::Surrogate
                    | Category::Unassigned
                    | Category::SpaceSeparator
                    | Category::LineSeparator
                    | Category::ParagraphSeparator
                    | Category::NonspacingMark
                    | Category::SpacingMark
                    | Category::EnclosingMark
            );
            assert!(!is_hidden, "{:x}", character as u32);
            let is_symbol = matches!(category, Category::OtherSymbol | Category::ModifierSymbol);
            assert!(!is_symbol || character.is_emoji_char(), "{:x}", character as u32);
        }
    }
}
