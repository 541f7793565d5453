//! Too short and too long texts, in characters (code points).

use chatlm_dataset::Row;
use serde_json::Value;

use crate::sample::{Rule, Sample};

fn length(text: &str) -> usize {
    text.chars().count()
}

fn blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Drops a prompt of nothing but white space.
pub fn empty_prompt() -> Rule {
    Rule::drop("empty-prompt", |sample| blank(&sample.prompt))
}

/// Drops a sample one of whose answers is nothing but white space.
pub fn empty_answer(name: &'static str) -> Rule {
    Rule::drop(name, |sample| {
        sample.answers.iter().any(|answer| blank(answer))
    })
}

/// Drops a sample one of whose texts has no characters at all; white space is enough to stay.
pub fn no_text() -> Rule {
    Rule::drop("no-text", |sample| sample.texts().any(str::is_empty))
}

pub fn short_prompt(least: usize) -> Rule {
    Rule::drop("short-prompt", move |sample| length(&sample.prompt) < least)
}

pub fn short_response(least: usize) -> Rule {
    Rule::drop("short-response", move |sample| {
        sample.answers.iter().any(|answer| length(answer) < least)
    })
}

/// Drops by a field of the raw row, before anything was cleaned.
pub fn short_field(name: &'static str, field: &'static str, least: usize) -> Rule {
    Rule::drop_row(name, move |row: &Row| {
        row.fields
            .get(field)
            .and_then(Value::as_str)
            .is_none_or(|text| length(text) < least)
    })
}

/// Drops a sample one of whose texts has more than `most` characters.
pub fn long(most: usize) -> Rule {
    Rule::drop("long", move |sample: &Sample| {
        sample.texts().any(|text| length(text) > most)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::keeps;
    use crate::sample::Step;

    #[test]
    fn lengths_count_characters_not_bytes() {
        assert!(keeps(&short_response(5), "", &["一二三四𠀀"]));
        assert!(!keeps(&short_response(5), "", &["一二三四"]));
        assert!(keeps(&long(3), "一二三", &["abc"]));
        assert!(!keeps(&long(3), "一二三", &["abc", "abcd"]));
    }

    #[test]
    fn the_raw_field_is_measured_before_anything_is_cleaned() {
        let mut row = crate::rules::testing::row();
        let step = |row: &Row| {
            short_field("short-answer", "answer", 3).apply(row, &mut Sample::new("", []))
        };
        assert_eq!(step(&row), Step::Dropped);
        row.fields.insert("answer".to_owned(), "  。".into());
        assert_eq!(step(&row), Step::Passed);
    }

    #[test]
    fn white_space_is_a_text_to_the_reference() {
        assert!(keeps(&no_text(), " ", &["\n"]));
        assert!(!keeps(&no_text(), "a", &["a", ""]));
    }

    #[test]
    fn full_width_blanks_are_empty() {
        assert!(!keeps(&empty_prompt(), "\u{3000}\n", &["a"]));
        assert!(!keeps(&empty_answer("empty-chosen"), "a", &["a", " "]));
    }
}
