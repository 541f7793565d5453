//! `baike_qa2019`: `qid`, `category`, `title`, `desc`, `answer`, one JSON object a line. The prompt is
//! title and desc, or the title alone where both say the same.
//!
//! By default lengths are those of the cleaned text and carriage returns, which end the lines of
//! many answers, become newlines; the reference program takes them out.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{Shortest, optional, questions, reference, tidied};
use crate::options::CleanOptions;
use crate::rules::length;
use crate::rules::similarity::{Same, join};
use crate::sample::Sample;
use crate::source::{Kind, Recipe};

const SHORTEST: Shortest = Shortest {
    prompt: 3,
    response: 15,
};

pub(super) static KIND: Kind = questions("baike-qa2019", recipe);

fn recipe(options: &CleanOptions) -> Recipe {
    if options.compat {
        let mut rules = vec![length::short_field(
            "short-answer",
            "answer",
            SHORTEST.response,
        )];
        rules.extend(reference(SHORTEST));
        return Recipe::one(sample, rules);
    }
    Recipe::one(sample, tidied(options.purpose, SHORTEST).into())
}

fn sample(row: &Row) -> Result<Sample> {
    Ok(Sample::new(
        join(row.text("title")?, optional(row, "desc")?, Same::First),
        [row.text("answer")?.to_owned()],
    ))
}
