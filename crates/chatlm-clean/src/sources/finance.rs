//! Finance questions: csv with `title`, `prompt`, `reply` and mostly `is_best`. The prompt is title and
//! prompt, or the longer of the two where both say the same.
//!
//! By default the last column may be missing and lengths are those of the cleaned text. The
//! reference program demands four columns, and its longer one is always the second.

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{Shortest, field, open_csv, questions, reference, tidied};
use crate::compat::Layout;
use crate::options::CleanOptions;
use crate::rules::similarity::{Same, join};
use crate::rules::{columns, length};
use crate::sample::{Rule, Sample};
use crate::source::{Kind, Recipe};

const SHORTEST: Shortest = Shortest {
    prompt: 10,
    response: 15,
};

const LAYOUT: Layout = Layout {
    names: ["title", "prompt", "reply", "is_best"],
    unicode_lines: true,
    encoding: "utf-8",
};

pub(super) static KIND: Kind = Kind {
    open: |options| open_csv(options, &LAYOUT),
    ..questions("finance-qa", recipe)
};

fn recipe(options: &CleanOptions) -> Recipe {
    if options.compat {
        let mut rules = vec![
            columns::few_columns(4),
            short_question(),
            length::short_field("short-reply", "reply", SHORTEST.response),
        ];
        rules.extend(reference(SHORTEST));
        return Recipe::one(|row| Ok(reference_sample(row)), rules);
    }
    let mut rules = vec![columns::few_columns(3)];
    rules.extend(tidied(options.purpose, SHORTEST));
    Recipe::one(sample, rules)
}

/// The reference program counts title and prompt before it joins them.
fn short_question() -> Rule {
    Rule::drop_row("short-question", |row| {
        let length = |name| field(row, name).chars().count();
        length("title") + length("prompt") < SHORTEST.prompt
    })
}

fn reference_sample(row: &Row) -> Sample {
    Sample::new(
        join(field(row, "title"), field(row, "prompt"), Same::Second),
        [field(row, "reply").to_owned()],
    )
}

fn sample(row: &Row) -> Result<Sample> {
    if row.fields.len() < 3 && row.fields.contains_key("title") {
        // A short row of the right file: few-columns drops it.
        return Ok(Sample::new("", [String::new()]));
    }
    row.text("reply")?;
    // An unquoted comma in the reply made further columns of it; is_best stays the last.
    let after = row.fields.iter().skip_while(|(name, _)| *name != "reply");
    let mut reply: Vec<&str> = after.filter_map(|(_, value)| value.as_str()).collect();
    if row.fields.contains_key("is_best") {
        reply.pop();
    }
    Ok(Sample::new(
        join(row.text("title")?, row.text("prompt")?, Same::Longer),
        [reply.join("，")],
    ))
}
