//! Which writing system a character belongs to, in the groups that a report names.

use unicode_categories::UnicodeCategories;

/// What stands for a space inside tokens.
const SPACE_MARK: char = '▁';

/// A group of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Script {
    Han,
    Kana,
    Hangul,
    Latin,
    Cyrillic,
    Greek,
    /// Letters of any other writing system, and marks.
    Letter,
    Digit,
    Punctuation,
    Symbol,
    Space,
    /// Control characters, and what is not assigned.
    Other,
    /// Characters of more than one group.
    Mixed,
    /// Bytes that are no whole character.
    Bytes,
    /// A token that is no text, such as `[EOS]`.
    Special,
}

impl Script {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Han => "Han",
            Self::Kana => "kana",
            Self::Hangul => "hangul",
            Self::Latin => "Latin",
            Self::Cyrillic => "Cyrillic",
            Self::Greek => "Greek",
            Self::Letter => "other letters",
            Self::Digit => "digits",
            Self::Punctuation => "punctuation",
            Self::Symbol => "symbols",
            Self::Space => "white space",
            Self::Other => "other",
            Self::Mixed => "mixed",
            Self::Bytes => "parts of characters",
            Self::Special => "special",
        }
    }

    pub(crate) fn of(c: char) -> Self {
        match c {
            '\u{2e80}'..='\u{2fdf}'
            | '々'..='〇'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}' => Self::Han,
            '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9f}' => {
                Self::Kana
            }
            '\u{1100}'..='\u{11ff}' | '\u{3131}'..='\u{318e}' | '\u{ac00}'..='\u{d7a3}' => {
                Self::Hangul
            }
            c if c.is_whitespace() || c == SPACE_MARK => Self::Space,
            c if c.is_numeric() => Self::Digit,
            c if c.is_punctuation() => Self::Punctuation,
            c if c.is_symbol() => Self::Symbol,
            'A'..='Z'
            | 'a'..='z'
            | 'ª'..='\u{24f}'
            | '\u{1e00}'..='\u{1eff}'
            | '\u{ff21}'..='\u{ff5a}' => Self::Latin,
            '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => Self::Greek,
            '\u{400}'..='\u{52f}' => Self::Cyrillic,
            c if c.is_alphabetic() || c.is_mark() => Self::Letter,
            _ => Self::Other,
        }
    }

    /// The group of a token's text; white space before or after the rest does not count.
    pub(crate) fn of_token(text: &str) -> Self {
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return Self::Bytes;
        }
        let mut found = Self::Space;
        for c in text.chars() {
            match (found, Self::of(c)) {
                (_, Self::Space) => {}
                (Self::Space, script) => found = script,
                (known, script) if known == script => {}
                _ => return Self::Mixed,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_belong_to_the_script_of_their_characters() {
        let cases = [
            ("天气", Script::Han),
            ("▁天气", Script::Han),
            ("▁", Script::Space),
            ("\n", Script::Space),
            ("の", Script::Kana),
            ("한국", Script::Hangul),
            (" the", Script::Latin),
            ("café", Script::Latin),
            ("привет", Script::Cyrillic),
            ("λόγος", Script::Greek),
            ("שלום", Script::Letter),
            ("３", Script::Digit),
            ("，", Script::Punctuation),
            ("€", Script::Symbol),
            ("\u{1}", Script::Other),
            ("卡拉OK", Script::Mixed),
            ("\u{fffd}", Script::Bytes),
        ];
        for (text, script) in cases {
            assert_eq!(Script::of_token(text), script, "{text:?}");
        }
    }
}
