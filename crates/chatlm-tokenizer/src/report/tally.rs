//! What is counted of one tokenizer over a share of the rows; tallies of shares add up.

use std::collections::BTreeMap;

use chatlm_job::Result;
use serde::Serialize;

use super::RowTexts;
use super::subject::{Subject, Trip};

/// Failed round trips kept as examples.
const EXAMPLES: usize = 5;
/// Characters shown on each side of an example's first difference.
const WINDOW: usize = 24;

/// A text that does not come back.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    pub file: String,
    pub row: u64,
    /// `unknown`: it has characters that the tokenizer lacks. `spaces`: only white space differs. `other`.
    pub reason: &'static str,
    /// The text around the first difference, and what came back there.
    pub text: String,
    pub back: String,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Uses of each id.
    pub(super) uses: Vec<u64>,
    pub(super) tokens: u64,
    pub(super) unknown: u64,
    /// Characters that stood in special tokens.
    pub(super) spelled: BTreeMap<char, u64>,
    /// Texts that come back as they are, and those that do up to the tokenizer's normalization.
    pub(super) exact: u64,
    pub(super) normalized: u64,
    /// Texts that do not come back, by reason.
    pub(super) failed: BTreeMap<&'static str, u64>,
    pub(super) examples: Vec<Failure>,
    /// Rows by their tokens. There are few different lengths: `n` of them take `n²/2` tokens.
    pub(super) rows: BTreeMap<u64, u64>,
}

impl Tally {
    /// Encodes the texts of a row and decodes them again; empty ones are passed over.
    pub(super) fn add(&mut self, subject: &Subject, row: &RowTexts) -> Result<()> {
        let mut length = 0;
        for text in row.texts.iter().filter(|text| !text.is_empty()) {
            let ids = subject.tokenizer.encode(text)?;
            for c in subject.spelled(text) {
                *self.spelled.entry(c).or_default() += 1;
            }
            length += ids.len() as u64;
            self.uses.resize(subject.tokenizer.vocab_size(), 0);
            for id in &ids {
                if let Some(uses) = self.uses.get_mut(*id as usize) {
                    *uses += 1;
                }
            }
            let unknown = ids.iter().filter(|id| subject.is_unknown(**id)).count() as u64;
            self.unknown += unknown;
            match subject.round_trip(text, &ids)? {
                Trip::Exact => self.exact += 1,
                Trip::Normalized => self.normalized += 1,
                Trip::Failed { wanted, back } => {
                    let reason = reason(&wanted, &back, unknown > 0);
                    *self.failed.entry(reason).or_default() += 1;
                    if self.examples.len() < EXAMPLES {
                        let (text, back) = around(&wanted, &back);
                        self.examples.push(Failure {
                            file: row.file.to_string(),
                            row: row.row,
                            reason,
                            text,
                            back,
                        });
                    }
                }
            }
        }
        self.tokens += length;
        *self.rows.entry(length).or_default() += 1;
        Ok(())
    }

    /// Adds the tally of later rows.
    pub(super) fn join(&mut self, later: Self) {
        self.uses.resize(self.uses.len().max(later.uses.len()), 0);
        for (uses, more) in self.uses.iter_mut().zip(later.uses) {
            *uses += more;
        }
        self.tokens += later.tokens;
        self.unknown += later.unknown;
        for (c, count) in later.spelled {
            *self.spelled.entry(c).or_default() += count;
        }
        self.exact += later.exact;
        self.normalized += later.normalized;
        for (reason, texts) in later.failed {
            *self.failed.entry(reason).or_default() += texts;
        }
        let room = EXAMPLES - self.examples.len();
        self.examples.extend(later.examples.into_iter().take(room));
        for (length, rows) in later.rows {
            *self.rows.entry(length).or_default() += rows;
        }
    }
}

fn reason(wanted: &str, back: &str, unknown: bool) -> &'static str {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    if unknown {
        "unknown"
    } else if dense(wanted) == dense(back) {
        "spaces"
    } else {
        "other"
    }
}

/// Both texts around their first difference.
fn around(wanted: &str, back: &str) -> (String, String) {
    let same = wanted
        .chars()
        .zip(back.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let start = same.saturating_sub(WINDOW);
    let window = |text: &str| {
        let mut shown: String = if start > 0 { "…" } else { "" }.to_owned();
        let mut chars = text.chars().skip(start);
        shown.extend(chars.by_ref().take(2 * WINDOW));
        if chars.next().is_some() {
            shown.push('…');
        }
        shown
    };
    (window(wanted), window(back))
}
