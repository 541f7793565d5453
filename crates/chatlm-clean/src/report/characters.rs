//! Which characters texts are made of.

use serde_json::{Value, json};

/// How many of the most frequent characters are told.
const FREQUENT: usize = 50;

type Class = (&'static str, fn(char) -> bool);

/// A character belongs to the first that holds it.
const CLASSES: [Class; 6] = [
    ("han", is_han),
    ("latin", is_latin),
    ("digit", char::is_numeric),
    ("punctuation", is_punctuation),
    ("space", char::is_whitespace),
    ("other", |_| true),
];

pub(super) struct Characters {
    /// A place for each code point: nine megabytes, however much text comes.
    counts: Vec<u64>,
}

impl Characters {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; char::MAX as usize + 1],
        }
    }

    /// Counts a text's characters; how many there were.
    pub(super) fn add(&mut self, text: &str) -> usize {
        let mut length = 0;
        for c in text.chars() {
            self.counts[c as usize] += 1;
            length += 1;
        }
        length
    }

    pub(super) fn to_json(&self) -> Value {
        let mut seen: Vec<(char, u64)> = (0..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .filter_map(|(code, count)| Some((char::from_u32(code)?, *count)))
            .collect();
        let total: u64 = seen.iter().map(|(_, count)| count).sum();
        let mut classes = [0; CLASSES.len()];
        for (c, count) in &seen {
            let class = CLASSES.iter().position(|(_, holds)| holds(*c));
            classes[class.unwrap_or(CLASSES.len() - 1)] += count;
        }
        let class = |((name, _), count): (&Class, u64)| {
            let share = count as f64 / total.max(1) as f64;
            json!({ "class": name, "count": count, "share": share })
        };
        // Equally frequent ones stand in the order of their code points.
        seen.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let frequent = seen.iter().take(FREQUENT);
        json!({
            "total": total,
            "classes": CLASSES.iter().zip(classes).map(class).collect::<Vec<_>>(),
            "frequent": frequent
                .map(|(c, count)| json!({ "character": c.to_string(), "count": count }))
                .collect::<Vec<_>>(),
        })
    }
}

fn is_han(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}' | '々' | '〇')
}

fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic()
        || ('\u{c0}'..='\u{24f}').contains(&c) && c.is_alphabetic()
        || matches!(c, 'Ａ'..='Ｚ' | 'ａ'..='ｚ')
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c,
            '\u{a1}'..='\u{bf}' | '×' | '÷' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}'
            | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3020}' | '\u{fe30}'..='\u{fe4f}'
            | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}' | '\u{ff3b}'..='\u{ff40}'
            | '\u{ff5b}'..='\u{ff65}' | '￥')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_told_apart_and_counted() {
        let mut characters = Characters::new();
        assert_eq!(characters.add("中文，中 a5é\n。🙂𠀀Ｂ"), 13);
        let value = characters.to_json();
        let classes = value["classes"].as_array().map_or(&[][..], Vec::as_slice);
        let told: Vec<String> = classes
            .iter()
            .map(|class| format!("{} {}", class["class"], class["count"]))
            .collect();
        assert_eq!(
            told.join(", ").replace('"', ""),
            "han 4, latin 3, digit 1, punctuation 2, space 2, other 1"
        );
        assert_eq!(
            value["frequent"][0],
            json!({ "character": "中", "count": 2 })
        );
        assert_eq!(Characters::new().to_json()["classes"][0]["share"], 0.0);
    }
}
