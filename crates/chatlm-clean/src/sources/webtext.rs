//! webtext2019zh: `qid`, `title`, `desc`, `topic`, `star`, `content`, `answer_id`, `answerer_tags`, one
//! JSON object a line. The prompt is the title, the response the content of an answer with 5 stars.
//!
//! By default lengths are those of the cleaned text; the reference program tests them before
//! cleaning only and so keeps empty prompts and responses of one character.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{for_purpose, questions};
use crate::options::CleanOptions;
use crate::rules::{characters, length, markup, punctuation, spaces, star};
use crate::sample::Sample;
use crate::source::{Kind, Recipe};

const STARS: f64 = 5.0;
const SHORTEST: usize = 15;

pub(super) static KIND: Kind = questions("webtext2019zh", recipe);

fn recipe(options: &CleanOptions) -> Recipe {
    let rules = if options.compat {
        vec![
            star::low_star(STARS),
            length::short_field("short-content", "content", SHORTEST),
            punctuation::reference(),
        ]
    } else {
        vec![
            star::low_star(STARS),
            characters::characters(),
            markup::markup(),
            spaces::spaces(),
            for_purpose(options.purpose),
            length::empty_prompt(),
            length::short_response(SHORTEST),
        ]
    };
    Recipe::one(sample, rules)
}

fn sample(row: &Row) -> Result<Sample> {
    if star::star(row).is_none() {
        return Err(row.error("star", "the field \"star\" is missing or no number"));
    }
    Ok(Sample::new(
        row.text("title")?,
        [row.text("content")?.to_owned()],
    ))
}
