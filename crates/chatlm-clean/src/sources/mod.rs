//! One file a source: how its rows become samples, and the rules they pass, in order.

mod alpaca;
mod belle;
mod medical;
mod pairs;

use chatlm_dataset::{Row, Rows};
use chatlm_job::Result;

use crate::compat::CsvRows;
use crate::options::{CleanOptions, Source};
use crate::sample::{Rule, Sample};

type Draw = Box<dyn Fn(&Row) -> Result<Sample> + Send + Sync>;

/// How one source is cleaned for one purpose.
pub(crate) struct Recipe {
    /// A row as a sample, nothing cleaned yet; fails where a field is missing.
    pub sample: Draw,
    pub rules: Vec<Rule>,
}

/// What goes with the options, once they are checked.
pub(crate) fn recipe(options: &CleanOptions) -> Recipe {
    match (options.source, options.compat) {
        (Source::Alpaca, _) => alpaca::recipe(options.purpose),
        (Source::Belle, false) => belle::recipe(options.purpose),
        (Source::Belle, true) => belle::reference(options.purpose),
        (Source::Pairs | Source::RlhfPairs, _) => pairs::recipe(options),
        (Source::MedicalDialogue, false) => medical::recipe(),
        (Source::MedicalDialogue, true) => medical::reference(),
    }
}

/// Where the rows come from.
pub(crate) enum Reader {
    Rows(Rows),
    Reference(CsvRows),
}

impl Reader {
    pub(crate) fn open(options: &CleanOptions) -> Result<Self> {
        if options.source == Source::MedicalDialogue && options.compat {
            return CsvRows::open(&options.inputs, options.encoding.as_deref())
                .map(Self::Reference);
        }
        let rows = Rows::open(&options.inputs, &options.input())?;
        Ok(Self::Rows(
            rows.ragged(options.source == Source::MedicalDialogue),
        ))
    }

    /// Rows skipped because they could not be read.
    pub(crate) fn broken(&self) -> u64 {
        match self {
            Self::Rows(rows) => rows.broken(),
            Self::Reference(_) => 0,
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Rows(rows) => rows.next(),
            Self::Reference(rows) => rows.next(),
        }
    }
}

/// `instruction，input`, or the instruction alone where there is no input.
fn instruction(row: &Row) -> Result<String> {
    let instruction = row.text("instruction")?;
    let input = match row.fields.get("input") {
        None | Some(serde_json::Value::Null) => "",
        Some(_) => row.text("input")?,
    };
    Ok(if input.trim().is_empty() {
        instruction.to_owned()
    } else {
        format!("{}，{}", instruction.trim_end(), input.trim_start())
    })
}
