//! Characters that no reader sees: carriage returns, controls, zero-width signs, the mark of broken
//! bytes. The zero-width joiner stays, as emoji are built with it.

use std::borrow::Cow;

use crate::sample::Rule;

pub fn characters() -> Rule {
    Rule::rewrite("characters", clean)
}

/// Line ends become `\n`; unseen characters go.
pub fn clean(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(unwanted) else {
        return Cow::Borrowed(text);
    };
    let mut cleaned = String::with_capacity(text.len());
    cleaned.push_str(&text[..first]);
    let mut chars = text[first..].chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => cleaned.push('\n'),
            c if unwanted(c) => {}
            c => cleaned.push(c),
        }
    }
    Cow::Owned(cleaned)
}

fn unwanted(c: char) -> bool {
    match c {
        '\n' | '\t' | ' '..='~' => false,
        '\u{ad}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        | '\u{2060}' | '\u{feff}' | '\u{fffd}' => true,
        c => c < '\u{a0}',
    }
}

/// The reference program takes out carriage returns alone.
pub fn no_carriage_returns() -> Rule {
    Rule::rewrite("carriage-returns", |text| {
        if text.contains('\r') {
            Cow::Owned(text.replace('\r', ""))
        } else {
            Cow::Borrowed(text)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unseen_characters_go_and_line_ends_are_one() {
        assert_eq!(
            clean("\u{feff}甲\r\n乙\r丙\u{0}\u{200b}丁\u{fffd}\t戊\u{85}\u{9f}己"),
            "甲\n乙\n丙丁\t戊\n己"
        );
        assert_eq!(clean("👩\u{200d}⚕\u{fe0f}"), "👩\u{200d}⚕\u{fe0f}");
    }

    #[test]
    fn what_is_unwanted_is_a_control_or_listed() {
        for c in '\0'..='\u{2ff}' {
            let expected = (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{ad}';
            assert_eq!(unwanted(c), expected, "{c:?}");
        }
        assert!(matches!(clean("干净 text\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_reference_loses_the_line_ends_of_old_macs() {
        let mut sample = crate::Sample::new("甲\r乙\r\n", []);
        no_carriage_returns().apply(&crate::rules::testing::row(), &mut sample);
        assert_eq!(sample.prompt, "甲乙\n");
    }
}
