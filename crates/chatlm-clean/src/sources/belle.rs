//! BELLE: `instruction`, `input`, `output`, one JSON object a line.
//!
//! By default the input belongs to the prompt, every word for translation counts, a table falls
//! wherever it stands, and lengths are those of the cleaned text. The reference program ignores the
//! input, knows fewer words in pre-training data, and looks for 表格 in the prompt alone.

use chatlm_dataset::Row;

use super::{Recipe, instruction};
use crate::options::Purpose;
use crate::rules::{characters, length, punctuation, spaces, table, translation};
use crate::sample::Sample;

const SHORTEST: usize = 5;
/// Fine-tuning rows are at most this long on either side.
const LONGEST: usize = 320;

pub(super) fn recipe(purpose: Purpose) -> Recipe {
    let mut rules = vec![
        translation::translation(),
        table::table(),
        characters::characters(),
        spaces::spaces(),
        length::empty_prompt(),
    ];
    if purpose == Purpose::Sft {
        rules.extend([
            length::empty_answer("empty-response"),
            length::long(LONGEST),
        ]);
    } else {
        rules.extend([punctuation::repeats(), length::short_response(SHORTEST)]);
    }
    let sample = |row: &Row| {
        Ok(Sample::new(
            instruction(row)?,
            [row.text("output")?.to_owned()],
        ))
    };
    Recipe {
        sample: Box::new(sample),
        rules,
    }
}

/// The reference program bug for bug.
pub(super) fn reference(purpose: Purpose) -> Recipe {
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
    let sample = |row: &Row| {
        Ok(Sample::new(
            row.text("instruction")?,
            [row.text("output")?.to_owned()],
        ))
    };
    Recipe {
        sample: Box::new(sample),
        rules,
    }
}
