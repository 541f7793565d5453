//! One file a source: how its rows become samples, and the rules they pass, in order.

mod alpaca;
mod baike;
mod belle;
mod conversation;
mod finance;
mod medical;
mod pairs;
mod sharegpt;
mod webtext;
mod zhihu;
mod zhwiki;

use chatlm_dataset::Row;
use chatlm_job::Result;
use serde_json::Value;

use crate::compat::{CsvRows, Layout};
use crate::options::{CleanOptions, Purpose};
use crate::rules::{characters, length, markup, punctuation, spaces};
use crate::sample::Rule;
use crate::source::{Kind, Raw, Recipe, open_mended, open_rows};

/// Every source; a new one is a line here and a file.
pub(crate) static KINDS: &[&Kind] = &[
    &webtext::KIND,
    &baike::KIND,
    &medical::KIND,
    &zhihu::KIND,
    &zhwiki::KIND,
    &belle::KIND,
    &finance::KIND,
    &alpaca::KIND,
    &sharegpt::KIND,
    &pairs::PAIRS,
    &pairs::RLHF_PAIRS,
];

/// Rows with a prompt and a response.
const ANSWERS: &[Purpose] = &[Purpose::Pretrain, Purpose::Sft];

/// Fine-tuning rows are at most this long on either side.
const LONGEST: usize = 320;

/// Pre-training rows have repeated signs written once; fine-tuning rows keep theirs and are not long.
fn for_purpose(purpose: Purpose) -> Rule {
    if purpose == Purpose::Sft {
        length::long(LONGEST)
    } else {
        punctuation::repeats()
    }
}

/// A source of questions and answers in rows of any format, which the reference program trains on.
const fn questions(name: &'static str, recipe: fn(&CleanOptions) -> Recipe) -> Kind {
    Kind {
        name,
        purposes: ANSWERS,
        compat: &[Purpose::Pretrain],
        columns: false,
        turns: false,
        recipe,
        open: open_rows,
    }
}

/// The fewest characters of either side.
#[derive(Clone, Copy)]
struct Shortest {
    prompt: usize,
    response: usize,
}

/// What questions and answers pass after the rules of their own.
fn tidied(purpose: Purpose, shortest: Shortest) -> [Rule; 6] {
    [
        characters::characters(),
        markup::markup(),
        spaces::spaces(),
        for_purpose(purpose),
        length::short_prompt(shortest.prompt),
        length::short_response(shortest.response),
    ]
}

/// What they pass in the reference program.
fn reference(shortest: Shortest) -> [Rule; 4] {
    [
        characters::no_carriage_returns(),
        punctuation::reference(),
        length::short_prompt(shortest.prompt),
        length::short_response(shortest.response),
    ]
}

/// Csv, read as the reference program does or mended.
fn open_csv(options: &CleanOptions, layout: &'static Layout) -> Result<Box<dyn Raw>> {
    if options.compat {
        return Ok(Box::new(CsvRows::open(options, layout)?));
    }
    open_mended(options)
}

/// The text of a field of csv, where a short row may lack it.
fn field<'a>(row: &'a Row, name: &str) -> &'a str {
    row.fields
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The text of a field that may be missing or null.
fn optional<'a>(row: &'a Row, field: &str) -> Result<&'a str> {
    match row.fields.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(_) => row.text(field),
    }
}

/// `instruction，input`, or the instruction alone where there is no input.
fn instruction(row: &Row) -> Result<String> {
    let instruction = row.text("instruction")?;
    let input = optional(row, "input")?;
    Ok(if input.trim().is_empty() {
        instruction.to_owned()
    } else {
        format!("{}，{}", instruction.trim_end(), input.trim_start())
    })
}
