//! Preference pairs from a model's own mistakes: its answer as `rejected` beside the true one.

use std::path::PathBuf;
use std::time::Instant;

use chatlm_dataset::{Cell, ColumnKind, InputOptions, Rows, TableWriter};
use chatlm_job::{Job, Result, check_target};
use serde::Serialize;

use crate::generator::{Generator, GeneratorOptions};
use crate::given::GivenSettings;

#[derive(Debug, Clone)]
pub struct RejectOptions {
    pub model: PathBuf,
    pub adapter: Option<PathBuf>,
    /// Rows with `prompt` and `response`.
    pub inputs: Vec<String>,
    pub output: PathBuf,
    pub batch: usize,
    pub max_new_tokens: usize,
    pub encoding: Option<String>,
    /// As [`GeneratorOptions::device`].
    pub device: Option<String>,
    pub force: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct RejectReport {
    pub rows: u64,
    pub kept: u64,
    /// Rows left out: the model's answer was the true one, which prefers nothing.
    pub same: u64,
    pub seconds: f64,
}

/// Prompts answered between two writes; bounds memory, whatever the table's size.
const GROUP: usize = 1024;

/// Writes `prompt`, `chosen`, `rejected` for every row whose greedy answer differs from the true one.
pub fn reject(options: &RejectOptions, job: &Job) -> Result<RejectReport> {
    let started = Instant::now();
    check_target(&options.output, options.force)?;
    let generator = Generator::load(
        &GeneratorOptions {
            model: options.model.clone(),
            adapter: options.adapter.clone(),
            dtype: None,
            max_length: 512,
            device: options.device.clone(),
        },
        job,
    )?;
    let settings = generator.settings(&GivenSettings {
        search: Some("greedy".to_owned()),
        max_new_tokens: Some(options.max_new_tokens),
        ..GivenSettings::default()
    })?;
    let input = InputOptions {
        encoding: options.encoding.clone(),
        keep_going: false,
    };
    let mut rows = Rows::open(&options.inputs, &input)?;
    let columns = [
        ("prompt", ColumnKind::Text),
        ("chosen", ColumnKind::Text),
        ("rejected", ColumnKind::Text),
    ];
    let mut table = TableWriter::create(&options.output, &columns, options.force)?;
    let (mut read, mut same) = (0, 0);
    loop {
        let group = rows.by_ref().take(GROUP).collect::<Result<Vec<_>>>()?;
        if group.is_empty() {
            break;
        }
        let prompts = group
            .iter()
            .map(|row| row.text("prompt").map(str::to_owned))
            .collect::<Result<Vec<_>>>()?;
        let answers = generator.answer(&prompts, &settings, options.batch, job)?;
        for (row, answer) in group.iter().zip(&answers) {
            let chosen = row.text("response")?;
            if chosen.trim() == answer.response.trim() || answer.response.trim().is_empty() {
                same += 1;
            } else {
                table.push(&[
                    Cell::Text(&answer.prompt),
                    Cell::Text(chosen),
                    Cell::Text(&answer.response),
                ])?;
            }
        }
        read += group.len() as u64;
    }
    let kept = table.finish()?;
    Ok(RejectReport {
        rows: read,
        kept,
        same,
        seconds: started.elapsed().as_secs_f64(),
    })
}
