//! Zhihu-KOL: parquet with `INSTRUCTION`, `RESPONSE`, `SOURCE`, `METADATA`.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{Shortest, questions, reference, tidied};
use crate::options::CleanOptions;
use crate::sample::Sample;
use crate::source::{Kind, Recipe};

const SHORTEST: Shortest = Shortest {
    prompt: 4,
    response: 10,
};

pub(super) static KIND: Kind = questions("zhihu-kol", recipe);

fn recipe(options: &CleanOptions) -> Recipe {
    let rules = if options.compat {
        reference(SHORTEST).into()
    } else {
        tidied(options.purpose, SHORTEST).into()
    };
    Recipe::one(sample, rules)
}

fn sample(row: &Row) -> Result<Sample> {
    Ok(Sample::new(
        row.text("INSTRUCTION")?,
        [row.text("RESPONSE")?.to_owned()],
    ))
}
