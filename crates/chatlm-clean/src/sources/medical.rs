//! Toyhom's Chinese medical dialogue: csv files in GB18030 with `department`, `title`, `ask`,
//! `answer`. The prompt is title and ask, or ask alone where both say the same.
//!
//! By default the file is read in its real encoding and as real csv; an answer with unquoted commas,
//! which csv takes for further columns, is put together again; lengths are those of the cleaned
//! text. What the reference program does instead is told in [`crate::compat`].

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{Shortest, field, open_csv, questions, reference, tidied};
use crate::compat::{Layout, REST};
use crate::options::CleanOptions;
use crate::rules::similarity::{Same, join};
use crate::rules::{columns, length};
use crate::sample::Sample;
use crate::source::{Kind, Recipe};

const COLUMNS: usize = 4;
const SHORTEST: Shortest = Shortest {
    prompt: 3,
    response: 15,
};

const LAYOUT: Layout = Layout {
    names: ["department", "title", "ask", "answer"],
    unicode_lines: false,
    encoding: "gb2312",
};

pub(super) static KIND: Kind = Kind {
    open: |options| open_csv(options, &LAYOUT),
    ..questions("medical-dialogue", recipe)
};

fn recipe(options: &CleanOptions) -> Recipe {
    let mut rules = vec![columns::few_columns(COLUMNS)];
    if options.compat {
        rules.push(length::short_field(
            "short-answer",
            "answer",
            SHORTEST.response,
        ));
        rules.extend(reference(SHORTEST));
        return Recipe::one(|row| Ok(reference_sample(row)), rules);
    }
    rules.extend(tidied(options.purpose, SHORTEST));
    Recipe::one(sample, rules)
}

/// For rows of [`crate::compat::CsvRows`].
fn reference_sample(row: &Row) -> Sample {
    let answer = format!("{}{}", field(row, "answer"), field(row, REST));
    Sample::new(
        join(field(row, "title"), field(row, "ask"), Same::Second),
        [answer],
    )
}

fn sample(row: &Row) -> Result<Sample> {
    if row.fields.len() < COLUMNS && row.fields.contains_key("department") {
        // A short row of the right file: few-columns drops it.
        return Ok(Sample::new("", [String::new()]));
    }
    let (title, ask) = (row.text("title")?, row.text("ask")?);
    let mut answer = row.text("answer")?.to_owned();
    // Fields beyond the header's are called column5 and so on.
    for (_, value) in row
        .fields
        .iter()
        .filter(|(name, _)| name.starts_with("column"))
    {
        answer.push('，');
        answer.push_str(value.as_str().unwrap_or_default());
    }
    Ok(Sample::new(join(title, ask, Same::Second), [answer]))
}
