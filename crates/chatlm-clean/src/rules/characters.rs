//! Characters that no reader sees: carriage returns, controls, zero-width signs, the mark of broken
//! bytes. The zero-width joiner stays, as emoji are built with it.

use crate::sample::Rule;

pub fn characters() -> Rule {
    Rule::rewrite("characters", clean)
}

/// Line ends become `\n`; unseen characters go.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => cleaned.push('\n'),
            '\n' | '\t' => cleaned.push(c),
            '\u{ad}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}' | '\u{2060}'
            | '\u{feff}' | '\u{fffd}' => {}
            c if c.is_control() => {}
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// The reference program takes out carriage returns alone.
pub fn no_carriage_returns() -> Rule {
    Rule::rewrite("carriage-returns", |text| text.replace('\r', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unseen_characters_go_and_line_ends_are_one() {
        assert_eq!(
            clean("\u{feff}甲\r\n乙\r丙\u{0}\u{200b}丁\u{fffd}\t戊"),
            "甲\n乙\n丙丁\t戊"
        );
        assert_eq!(clean("👩\u{200d}⚕\u{fe0f}"), "👩\u{200d}⚕\u{fe0f}");
    }
}
