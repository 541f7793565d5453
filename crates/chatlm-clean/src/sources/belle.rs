//! BELLE: `instruction`, `input`, `output`, one JSON object a line; in the conversation sets the
//! instruction holds turns marked `Human:` and `Assistant:`, or a list `conversations` does.
//!
//! By default the input belongs to the prompt, every word for translation counts, a table falls
//! wherever it stands, lengths are those of the cleaned text, and a conversation gives its first
//! exchange (or each). The reference program ignores the input, knows fewer words in pre-training
//! data, looks for 表格 in the prompt alone, and takes a conversation for one prompt.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::conversation::{answered, draw, list, listed, written};
use super::{ANSWERS, LONGEST, for_purpose, instruction, questions};
use crate::options::{CleanOptions, Purpose, Turns};
use crate::rules::{characters, exchange, length, punctuation, spaces, table, translation};
use crate::sample::Sample;
use crate::source::{Kind, Recipe};

const SHORTEST: usize = 5;

pub(super) static KIND: Kind = Kind {
    compat: ANSWERS,
    turns: true,
    ..questions("belle", recipe)
};

fn recipe(options: &CleanOptions) -> Recipe {
    if options.compat {
        return reference(options.purpose);
    }
    let rules = vec![
        exchange::no_exchange(),
        translation::translation(),
        table::table(),
        characters::characters(),
        spaces::spaces(),
        for_purpose(options.purpose),
        length::empty_prompt(),
        if options.purpose == Purpose::Sft {
            length::empty_answer("empty-response")
        } else {
            length::short_response(SHORTEST)
        },
    ];
    let turns = options.turns;
    Recipe {
        draw: Box::new(move |row: &Row, samples: &mut Vec<Sample>| sample(row, turns, samples)),
        rules,
    }
}

fn sample(row: &Row, which: Turns, samples: &mut Vec<Sample>) -> Result<()> {
    if let Some(field) = listed(row) {
        draw(list(row, field)?, which, samples);
        return Ok(());
    }
    let (prompt, answer) = (instruction(row)?, row.text("output")?);
    match written(&prompt) {
        Some(turns) => draw(answered(turns, answer), which, samples),
        None => samples.push(Sample::new(prompt, [answer.to_owned()])),
    }
    Ok(())
}

/// The reference program bug for bug.
fn reference(purpose: Purpose) -> Recipe {
    let rules = if purpose == Purpose::Sft {
        vec![
            translation::translation(),
            table::reference(),
            length::long(LONGEST),
        ]
    } else {
        vec![
            translation::reference_pretrain(),
            table::reference(),
            length::short_field("short-output", "output", SHORTEST),
            punctuation::reference(),
            length::short_response(SHORTEST),
        ]
    };
    Recipe::one(
        |row| {
            Ok(Sample::new(
                row.text("instruction")?,
                [row.text("output")?.to_owned()],
            ))
        },
        rules,
    )
}
