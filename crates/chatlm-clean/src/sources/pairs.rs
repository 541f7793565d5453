//! Any rows with named columns. They are the user's own, so only what no reader sees is changed:
//! unseen characters, superfluous white space; empty texts fall.

use chatlm_dataset::Row;

use super::{Recipe, alpaca};
use crate::options::{CleanOptions, Purpose};
use crate::rules::{characters, length, newline, preference, spaces};
use crate::sample::Sample;

/// The reference program's limit for preference pairs.
const MOST: usize = 520;

pub(super) fn recipe(options: &CleanOptions) -> Recipe {
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
    let mut rules = vec![characters::characters()];
    if dpo {
        rules.push(newline::literal_newlines());
    }
    rules.extend([
        spaces::spaces(),
        length::empty_prompt(),
        alpaca::empty(options.purpose),
    ]);
    if dpo {
        rules.extend([length::long(MOST), preference::same_answers()]);
    }
    let sample = move |row: &Row| {
        let texts = answers.iter().map(|name| row.text(name).map(str::to_owned));
        Ok(Sample::new(
            row.text(&prompt)?,
            texts.collect::<Result<Vec<_>, _>>()?,
        ))
    };
    Recipe {
        sample: Box::new(sample),
        rules,
    }
}
