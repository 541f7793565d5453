//! Zhihu-KOL: parquet with `INSTRUCTION`, `RESPONSE`, `SOURCE`, `METADATA`.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{ANSWERS, for_purpose};
use crate::options::{CleanOptions, Purpose};
use crate::rules::{characters, length, markup, punctuation, spaces};
use crate::sample::Sample;
use crate::source::{Kind, Recipe, open_rows};

const SHORTEST_PROMPT: usize = 4;
const SHORTEST_ANSWER: usize = 10;

pub(super) static KIND: Kind = Kind {
    name: "zhihu-kol",
    purposes: ANSWERS,
    compat: &[Purpose::Pretrain],
    columns: false,
    turns: false,
    recipe,
    open: open_rows,
};

fn recipe(options: &CleanOptions) -> Recipe {
    let rules = if options.compat {
        vec![
            characters::no_carriage_returns(),
            punctuation::reference(),
            length::short_prompt(SHORTEST_PROMPT),
            length::short_response(SHORTEST_ANSWER),
        ]
    } else {
        vec![
            characters::characters(),
            markup::markup(),
            spaces::spaces(),
            for_purpose(options.purpose),
            length::short_prompt(SHORTEST_PROMPT),
            length::short_response(SHORTEST_ANSWER),
        ]
    };
    Recipe::one(sample, rules)
}

fn sample(row: &Row) -> Result<Sample> {
    Ok(Sample::new(
        row.text("INSTRUCTION")?,
        [row.text("RESPONSE")?.to_owned()],
    ))
}
