//! Any rows with named columns. They are the user's own, so only what no reader sees is changed:
//! unseen characters, superfluous white space; empty texts fall.
//!
//! As preference pairs (huozi_rlhf, rlhf-reward-single-round-trans_chinese) a backslash and an n are
//! a newline and nothing is longer than 520 characters, as the reference program prepares them; it
//! measures and compares the texts as they stand in the file, and cleans nothing else.

use chatlm_dataset::Row;

use super::alpaca::{self, MOST};
use crate::options::{CleanOptions, Purpose};
use crate::rules::{characters, length, newline, preference, spaces};
use crate::sample::{Rule, Sample};
use crate::source::{Kind, Recipe, open_rows};

pub(super) static PAIRS: Kind = Kind {
    name: "pairs",
    purposes: &Purpose::ALL,
    compat: &[Purpose::Dpo],
    columns: true,
    turns: false,
    recipe,
    open: open_rows,
};

pub(super) static RLHF_PAIRS: Kind = Kind {
    name: "rlhf-pairs",
    purposes: &[Purpose::Dpo],
    compat: &[Purpose::Dpo],
    columns: true,
    turns: false,
    recipe,
    open: open_rows,
};

fn recipe(options: &CleanOptions) -> Recipe {
    let column =
        |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.into());
    let prompt = column(&options.prompt_column, "prompt");
    let dpo = options.purpose == Purpose::Dpo;
    let answers = if dpo {
        vec![
            column(&options.chosen_column, "chosen"),
            column(&options.rejected_column, "rejected"),
        ]
    } else {
        vec![column(&options.response_column, "response")]
    };
    let rules = match (dpo, options.compat) {
        (true, false) => preference_rules(),
        (true, true) => preference_reference(),
        (false, _) => vec![
            characters::characters(),
            spaces::spaces(),
            length::empty_prompt(),
            alpaca::empty(options.purpose),
        ],
    };
    let sample = move |row: &Row| {
        let texts = answers.iter().map(|name| row.text(name).map(str::to_owned));
        Ok(Sample::new(
            row.text(&prompt)?,
            texts.collect::<Result<Vec<_>, _>>()?,
        ))
    };
    Recipe::one(sample, rules)
}

/// What preference pairs pass, wherever they come from.
pub(super) fn preference_rules() -> Vec<Rule> {
    vec![
        characters::characters(),
        newline::literal_newlines(),
        spaces::spaces(),
        length::empty_prompt(),
        alpaca::empty(Purpose::Dpo),
        length::long(MOST),
        preference::same_answers(),
    ]
}

/// The reference program's way with them.
pub(super) fn preference_reference() -> Vec<Rule> {
    vec![
        length::long(MOST),
        length::no_text(),
        preference::same_answers(),
        newline::literal_newlines(),
    ]
}
