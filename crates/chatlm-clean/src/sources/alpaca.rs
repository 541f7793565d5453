//! Alpaca: `instruction`, `input`, `output`. For `dpo` the two answers stand in `chosen` and
//! `rejected` (or `reject`), or in `output` as a list of the better and the worse one.
//!
//! As the reference program prepares it for DPO: prompt = instruction，input; nothing longer than 520
//! characters. It cleans nothing.

use chatlm_dataset::Row;
use chatlm_job::{Code, Error, Result};
use serde_json::Value;

use super::{instruction, optional, pairs};
use crate::options::{CleanOptions, Purpose};
use crate::rules::{characters, length, spaces};
use crate::sample::{Rule, Sample};
use crate::source::{Kind, Recipe, open_rows};

/// The reference program's limit for preference pairs.
pub(super) const MOST: usize = 520;

pub(super) static KIND: Kind = Kind {
    name: "alpaca",
    purposes: &Purpose::ALL,
    compat: &[Purpose::Sft, Purpose::Dpo],
    columns: false,
    turns: false,
    recipe,
    open: open_rows,
};

fn recipe(options: &CleanOptions) -> Recipe {
    let dpo = options.purpose == Purpose::Dpo;
    let rules = match (dpo, options.compat) {
        (true, false) => pairs::preference_rules(),
        (true, true) => pairs::preference_reference(),
        (false, true) => vec![length::long(MOST), length::no_text()],
        (false, false) => vec![
            characters::characters(),
            spaces::spaces(),
            length::empty_prompt(),
            empty(options.purpose),
            length::long(MOST),
        ],
    };
    let compat = options.compat;
    if dpo {
        return Recipe::one(move |row| preferences(row, prompt(row, compat)?), rules);
    }
    Recipe::one(
        move |row| {
            Ok(Sample::new(
                prompt(row, compat)?,
                [row.text("output")?.to_owned()],
            ))
        },
        rules,
    )
}

/// The reference program joins the two as they are.
fn prompt(row: &Row, compat: bool) -> Result<String> {
    if !compat {
        return instruction(row);
    }
    let (instruction, input) = (row.text("instruction")?, optional(row, "input")?);
    Ok(if input.trim().is_empty() {
        instruction.to_owned()
    } else {
        format!("{instruction}，{input}")
    })
}

/// Names the empty side as the purpose calls it.
pub(super) fn empty(purpose: Purpose) -> Rule {
    length::empty_answer(if purpose == Purpose::Dpo {
        "empty-answer"
    } else {
        "empty-response"
    })
}

fn preferences(row: &Row, prompt: String) -> Result<Sample> {
    if let Some(Value::Array(answers)) = row.fields.get("output") {
        if let [Value::String(chosen), Value::String(rejected)] = answers.as_slice() {
            return Ok(Sample::new(prompt, [chosen.clone(), rejected.clone()]));
        }
        return Err(row.error(
            "output",
            "the list \"output\" is not two texts, the better one first",
        ));
    }
    let first =
        |names: &[&'static str]| names.iter().copied().find(|&n| row.fields.contains_key(n));
    let chosen = row.text(first(&["chosen", "output"]).unwrap_or("chosen"))?;
    let Some(rejected) = first(&["rejected", "reject"]) else {
        return Err(Error::new(
            Code::InputRow,
            format!(
                "{}, row {}: there is no field \"rejected\", so it is no preference pair",
                row.file, row.row
            ),
            "clean it for sft, then let chatlm reject make the rejected answers",
        )
        .with("file", &*row.file)
        .with("row", row.row)
        .with("field", "rejected"));
    };
    Ok(Sample::new(
        prompt,
        [chosen.to_owned(), row.text(rejected)?.to_owned()],
    ))
}
