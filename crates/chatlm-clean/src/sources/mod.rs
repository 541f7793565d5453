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

use chatlm_dataset::Row;
use chatlm_job::Result;
use serde_json::Value;

use crate::options::Purpose;
use crate::rules::{length, punctuation};
use crate::sample::Rule;
use crate::source::Kind;

/// Every source; a new one is a line here and a file.
pub(crate) static KINDS: &[&Kind] = &[
    &webtext::KIND,
    &baike::KIND,
    &medical::KIND,
    &zhihu::KIND,
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
