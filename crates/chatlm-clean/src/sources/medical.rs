//! Toyhom's Chinese medical dialogue: csv files in GB18030 with `department`, `title`, `ask`,
//! `answer`. The prompt is title and ask, or ask alone where both say the same.
//!
//! By default the file is read in its real encoding and as real csv; an answer with unquoted commas,
//! which csv takes for further columns, is put together again; lengths are those of the cleaned
//! text. What the reference program does instead is told in [`crate::compat`].

use chatlm_dataset::Row;
use chatlm_job::Result;

use super::{ANSWERS, field, for_purpose};
use crate::compat::{CsvRows, Layout, REST};
use crate::options::{CleanOptions, Purpose};
use crate::rules::similarity::{Same, join};
use crate::rules::{characters, columns, length, punctuation, spaces};
use crate::sample::Sample;
use crate::source::{Kind, Raw, Recipe, open_mended};

const COLUMNS: usize = 4;
const SHORTEST_PROMPT: usize = 3;
const SHORTEST_ANSWER: usize = 15;

const LAYOUT: Layout = Layout {
    names: ["department", "title", "ask", "answer"],
    unicode_lines: false,
    encoding: "gb2312",
};

pub(super) static KIND: Kind = Kind {
    name: "medical-dialogue",
    purposes: ANSWERS,
    compat: &[Purpose::Pretrain],
    columns: false,
    turns: false,
    recipe,
    open,
};

fn open(options: &CleanOptions) -> Result<Box<dyn Raw>> {
    if options.compat {
        return Ok(Box::new(CsvRows::open(options, &LAYOUT)?));
    }
    open_mended(options)
}

fn recipe(options: &CleanOptions) -> Recipe {
    if options.compat {
        return Recipe::one(
            |row| Ok(reference(row)),
            vec![
                columns::few_columns(COLUMNS),
                length::short_field("short-answer", "answer", SHORTEST_ANSWER),
                characters::no_carriage_returns(),
                punctuation::reference(),
                length::short_prompt(SHORTEST_PROMPT),
                length::short_response(SHORTEST_ANSWER),
            ],
        );
    }
    Recipe::one(
        sample,
        vec![
            columns::few_columns(COLUMNS),
            characters::characters(),
            spaces::spaces(),
            for_purpose(options.purpose),
            length::short_prompt(SHORTEST_PROMPT),
            length::short_response(SHORTEST_ANSWER),
        ],
    )
}

/// For rows of [`CsvRows`].
fn reference(row: &Row) -> Sample {
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
