//! The reference program's way with text as WikiExtractor writes it, bug for bug
//! (`process_zh_wiki_data_to_datset` and `convert_wiki_to_simple_zh`).
//!
//! A line ending in `：` after an empty one is a title; lines up to an empty one, or up to 512
//! characters, are its response; the rest of the article is passed over. Templates are drawn from
//! numpy's generator in the order of titles.

use chatlm_dataset::Row;
use chatlm_job::Result;
use serde_json::{Map, Value};

use super::extracted::Lines;
use super::numpy::RandomState;
use super::questions::Questions;
use super::simplify;
use crate::rules::punctuation::keep_first;
use crate::source::Raw;

const SEED: u32 = 23333;
const LONGEST: usize = 512;

/// A line as the reference cleans it, with its newline.
pub(crate) fn line(line: &str) -> String {
    let mut text = simplify(line).into_owned();
    for (from, to) in [
        (["「", "」", "｢", "｣", "『", "』"].as_slice(), "\""),
        (&["，）", "；）"], "）"),
        (&["（，", "(，"], "（"),
    ] {
        for from in from {
            if text.contains(from) {
                text = text.replace(from, to);
            }
        }
    }
    let text: String = text.chars().map(chinese_sign).collect();
    keep_first(&text).into_owned()
}

fn chinese_sign(c: char) -> char {
    match c {
        ',' => '，',
        '(' => '（',
        ')' => '）',
        '.' => '。',
        '!' => '！',
        ';' => '；',
        ':' => '：',
        c => c,
    }
}

/// Prompts and responses of the lines of all inputs.
pub(crate) struct Compat {
    lines: Lines,
    questions: Questions,
    random: RandomState,
    prompt: Option<String>,
    response: String,
    before: String,
    row: u64,
    ended: bool,
}

impl Compat {
    pub(crate) fn new(lines: Lines, questions: Questions) -> Self {
        Self {
            lines,
            questions,
            random: RandomState::new(SEED),
            prompt: None,
            response: String::new(),
            before: String::new(),
            row: 0,
            ended: false,
        }
    }

    fn title(&mut self, title: &str) {
        let choice = self.random.choice(self.questions.len() as u32);
        self.prompt = Some(self.questions.nth(choice as usize, title));
    }

    fn emit(&mut self) -> Option<Row> {
        let prompt = self.prompt.take()?;
        let response: String = std::mem::take(&mut self.response)
            .chars()
            .take(LONGEST)
            .collect();
        let fields = [("prompt", prompt), ("response", response)];
        let fields: Map<String, Value> = fields
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Value::String(text)))
            .collect();
        let row = Row {
            file: self.lines.file().clone(),
            row: self.row,
            fields,
        };
        self.row += 1;
        Some(row)
    }

    /// Takes in a line; a row where it was the last of its own.
    fn take(&mut self, raw: String) -> Option<Row> {
        let blank = |text: &str| text.is_empty() || text == "\n";
        if self.prompt.is_none() && !blank(&self.before) {
            self.before = raw;
            return None;
        }
        let line = line(&raw);
        if let Some(title) = line.strip_suffix('：') {
            if blank(&self.before) {
                self.title(title);
                self.before = line;
                return None;
            }
            self.before = line;
            return None;
        }
        let full = self.response.chars().count() + line.chars().count() > LONGEST;
        if self.prompt.is_some() {
            self.response.push_str(&line);
        }
        let last = full || line == "\n";
        self.before = line;
        if last { self.emit() } else { None }
    }
}

impl Iterator for Compat {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.lines.next() {
                Some(Ok(line)) => {
                    if let Some(row) = self.take(line) {
                        return Some(Ok(row));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.ended = true;
                    return self.emit().map(Ok);
                }
            }
        }
        None
    }
}

impl Raw for Compat {
    fn broken(&self) -> u64 {
        0
    }

    fn undecodable(&self) -> u64 {
        self.lines.undecodable()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::path::Path;

    /// What the reference program trains its tokenizer on: every line that is not empty, cleaned.
    #[test]
    fn lines_are_the_references() {
        let shared = std::env::var_os("CHATLM_SHARED").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
            Into::into,
        );
        for case in ["zhwiki", "zhwiki-page"] {
            let folder = shared.join("golden/clean").join(case);
            if !folder.is_dir() {
                #[expect(clippy::print_stderr, reason = "says that the test was skipped")]
                {
                    eprintln!("skipped: {} is not there", folder.display());
                }
                return;
            }
            let packed = folder.join("expected_simple.txt.gz");
            let expected = std::process::Command::new("gzip")
                .arg("-dc")
                .arg(packed)
                .output();
            let expected = String::from_utf8(expected.unwrap().stdout).unwrap();
            let got: String = Lines::open(vec![folder.join("input.txt")])
                .map(Result::unwrap)
                .filter(|raw| raw != "\n")
                .map(|raw| line(&raw) + "\n")
                .collect();
            assert!(!got.is_empty() && got == expected, "{case}");
        }
    }

    #[test]
    fn signs_are_changed_as_the_reference_changes_them() {
        assert_eq!(line("「魚」（，高25.6米)\n"), "\"鱼\"高25。6米）");
    }
}
