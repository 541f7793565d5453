//! Toyhom's Chinese medical dialogue: csv files in GB18030 with `department`, `title`, `ask`,
//! `answer`. The prompt is title and ask, or ask alone where both say the same.
//!
//! By default the file is read in its real encoding and as real csv; an answer with unquoted commas,
//! which csv takes for further columns, is put together again; lengths are those of the cleaned
//! text. What the reference program does instead is told in [`crate::compat`].

use chatlm_dataset::Row;
use chatlm_job::Result;
use serde_json::Value;

use super::Recipe;
use crate::rules::{characters, length, punctuation, similarity, spaces};
use crate::sample::{Rule, Sample};

const COLUMNS: usize = 4;
const SHORTEST_PROMPT: usize = 3;
const SHORTEST_ANSWER: usize = 15;

pub(super) fn recipe() -> Recipe {
    let rules = vec![
        few_columns(),
        characters::characters(),
        spaces::spaces(),
        punctuation::repeats(),
        length::short_prompt(SHORTEST_PROMPT),
        length::short_response(SHORTEST_ANSWER),
    ];
    Recipe {
        sample: Box::new(sample),
        rules,
    }
}

/// The reference program bug for bug, for rows of [`crate::compat::CsvRows`].
pub(super) fn reference() -> Recipe {
    let rules = vec![
        few_columns(),
        length::short_field("short-answer", "answer", SHORTEST_ANSWER),
        characters::no_carriage_returns(),
        punctuation::reference(),
        length::short_prompt(SHORTEST_PROMPT),
        length::short_response(SHORTEST_ANSWER),
    ];
    let sample = |row: &Row| {
        let answer = format!("{}{}", field(row, "answer"), field(row, "rest"));
        Ok(Sample::new(
            similarity::join(field(row, "title"), field(row, "ask")),
            [answer],
        ))
    };
    Recipe {
        sample: Box::new(sample),
        rules,
    }
}

fn few_columns() -> Rule {
    Rule::drop_row("few-columns", |row| row.fields.len() < COLUMNS)
}

fn field<'a>(row: &'a Row, name: &str) -> &'a str {
    row.fields
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn sample(row: &Row) -> Result<Sample> {
    if row.fields.len() < COLUMNS && row.fields.contains_key("department") {
        // A short row of the right file: few-columns drops it.
        return Ok(Sample::new("", [String::new()]));
    }
    let (title, ask) = (row.text("title")?, row.text("ask")?);
    row.text("answer")?;
    let answer: Vec<&str> = row
        .fields
        .iter()
        // Fields beyond the header's are called column5 and so on.
        .filter(|(name, _)| *name == "answer" || name.starts_with("column"))
        .filter_map(|(_, value)| value.as_str())
        .collect();
    Ok(Sample::new(
        similarity::join(title, ask),
        [answer.join("，")],
    ))
}
