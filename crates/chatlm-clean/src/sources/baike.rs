//! `baike_qa2019`: `qid`, `category`, `title`, `desc`, `answer`, one JSON object a line. The prompt is
//! title and desc, or the title alone where both say the same.
//!
//! By default lengths are those of the cleaned text and carriage returns, which end the lines of
//! many answers, become newlines; the reference program takes them out.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{ANSWERS, for_purpose, optional};
use crate::options::{CleanOptions, Purpose};
use crate::rules::similarity::{Same, join};
use crate::rules::{characters, length, markup, punctuation, spaces};
use crate::sample::Sample;
use crate::source::{Kind, Recipe, open_rows};

const SHORTEST_PROMPT: usize = 3;
const SHORTEST_ANSWER: usize = 15;

pub(super) static KIND: Kind = Kind {
    name: "baike-qa2019",
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
            length::short_field("short-answer", "answer", SHORTEST_ANSWER),
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
        join(row.text("title")?, optional(row, "desc")?, Same::First),
        [row.text("answer")?.to_owned()],
    ))
}
