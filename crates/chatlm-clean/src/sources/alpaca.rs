//! Alpaca: `instruction`, `input`, `output`. For `dpo` the two answers stand in `chosen` and
//! `rejected` (or `reject`), or in `output` as a list of the better and the worse one.
//!
//! As the reference program prepares it for DPO: prompt = instruction，input; nothing longer than 520
//! characters.

use chatlm_dataset::Row;
use chatlm_job::{Code, Error, Result};
use serde_json::Value;

use super::{Recipe, instruction};
use crate::options::Purpose;
use crate::rules::{characters, length, newline, preference, spaces};
use crate::sample::{Rule, Sample};

const MOST: usize = 520;

pub(super) fn recipe(purpose: Purpose) -> Recipe {
    let mut rules = vec![characters::characters()];
    if purpose == Purpose::Dpo {
        rules.push(newline::literal_newlines());
    }
    rules.extend([
        spaces::spaces(),
        length::empty_prompt(),
        empty(purpose),
        length::long(MOST),
    ]);
    if purpose == Purpose::Dpo {
        rules.push(preference::same_answers());
        return Recipe {
            sample: Box::new(preferences),
            rules,
        };
    }
    let sample = |row: &Row| {
        Ok(Sample::new(
            instruction(row)?,
            [row.text("output")?.to_owned()],
        ))
    };
    Recipe {
        sample: Box::new(sample),
        rules,
    }
}

/// Names the empty side as the purpose calls it.
pub(super) fn empty(purpose: Purpose) -> Rule {
    length::empty_answer(if purpose == Purpose::Dpo {
        "empty-answer"
    } else {
        "empty-response"
    })
}

fn preferences(row: &Row) -> Result<Sample> {
    let prompt = instruction(row)?;
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
