//! Preference pairs from a model's own mistakes: its answer as `rejected` beside the true one.
//!
//! Answers are kept in a work folder beside the output as they come (`answers.rs`), so that the same
//! command goes on after a kill and writes the same table: an answer depends on its row alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chatlm_dataset::{Cell, ColumnKind, InputOptions, Row, Rows, TableWriter, expand};
use chatlm_job::{Error, Job, Result, WorkFolder, check_target};
use serde::Serialize;

use crate::answers::Answers;
use crate::generator::{Generator, GeneratorOptions};
use crate::given::GivenSettings;
use crate::likeness::{normalized, similarity};

#[derive(Debug, Clone)]
pub struct RejectOptions {
    pub model: PathBuf,
    pub adapter: Option<PathBuf>,
    /// As [`GeneratorOptions::dtype`].
    pub dtype: Option<String>,
    /// Rows with `prompt`, and `response` or `chosen`.
    pub inputs: Vec<String>,
    pub output: PathBuf,
    pub batch: usize,
    pub settings: GivenSettings,
    /// Pairs whose answers are at least so alike are left out.
    pub max_similarity: Option<f64>,
    pub encoding: Option<String>,
    /// Counts rows that cannot be read instead of stopping.
    pub keep_going: bool,
    /// As [`GeneratorOptions::device`].
    pub device: Option<String>,
    pub force: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RejectReport {
    pub rows: u64,
    pub kept: u64,
    /// Left out: the answers are the same after NFKC and without white space, which prefers nothing.
    pub same: u64,
    /// Left out: an answer is empty.
    pub empty: u64,
    /// Left out: the answers are too alike.
    pub similar: u64,
    /// Rows that could not be read.
    pub broken: u64,
    /// Answers that an earlier call had left.
    pub resumed: u64,
    pub seconds: f64,
}

/// Prompts sorted by length and answered together; what is in memory, whatever the table's size. Never
/// another number: kept answers are in order but for the places inside such a group.
const GROUP: usize = 512;

/// Writes `prompt`, `chosen`, `rejected` for every row whose answer is worth a pair.
pub fn reject(options: &RejectOptions, job: &Job) -> Result<RejectReport> {
    let started = Instant::now();
    check_target(&options.output, options.force)?;
    if let Some(most) = options.max_similarity
        && !(most > 0.0 && most <= 1.0)
    {
        return Err(Error::new(
            chatlm_job::Code::Usage,
            format!("--max-similarity {most} is no similarity"),
            "it is above 0 and at most 1",
        ));
    }
    // Before the model is loaded and hours of answering: every row is read once.
    let total = count(options, job)?;
    let generator = Generator::load(
        &GeneratorOptions {
            model: options.model.clone(),
            adapter: options.adapter.clone(),
            dtype: options.dtype.clone(),
            max_length: 512,
            device: options.device.clone(),
        },
        job,
    )?;
    let settings = generator.settings(&options.settings)?;
    let work = WorkFolder::open(
        &options.output,
        "work",
        &format!("reject 1 {settings:?} {:?}", options.dtype),
        &files(options)?,
    )?;
    let mut answers = Answers::open(&work.path("answers.jsonl"))?;
    let columns = ["prompt", "chosen", "rejected"].map(|name| (name, ColumnKind::Text));
    let mut table = TableWriter::create(&options.output, &columns, options.force)?;
    let mut report = RejectReport {
        resumed: answers.kept(),
        ..RejectReport::default()
    };
    let mut done = answers.kept();
    job.progress.report("reject", done, total, "answers");
    let mut rows = open(options)?;
    loop {
        let group = rows.by_ref().take(GROUP).collect::<Result<Vec<_>>>()?;
        if group.is_empty() {
            break;
        }
        let mut found = answers.of(report.rows..report.rows + group.len() as u64)?;
        let missing: Vec<(u64, &str)> = (report.rows..)
            .zip(&group)
            .filter(|(number, _)| !found.contains_key(number))
            .map(|(number, row)| Ok((number, row.text("prompt")?)))
            .collect::<Result<_>>()?;
        generator.answer_rows(
            &missing,
            &settings,
            options.batch,
            &job.cancel,
            &mut |some| {
                for (place, answer) in some {
                    let response = answer.into_iter().next().map(|answer| answer.response);
                    let (number, response) = (missing[place].0, response.unwrap_or_default());
                    answers.add(number, &response)?;
                    found.insert(number, response);
                    done += 1;
                }
                job.progress.report("reject", done, total, "answers");
                answers.flush()
            },
        )?;
        for (number, row) in (report.rows..).zip(&group) {
            let (prompt, chosen) = (row.text("prompt")?, true_answer(row)?);
            let rejected = found.get(&number).map_or("", String::as_str);
            match drop_rule(&mut report, chosen, rejected, options.max_similarity) {
                Some(dropped) => *dropped += 1,
                None => {
                    table.push(&[Cell::Text(prompt), Cell::Text(chosen), Cell::Text(rejected)])?;
                }
            }
        }
        report.rows += group.len() as u64;
    }
    report.kept = table.finish()?;
    report.broken = rows.broken();
    work.remove();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The count of the rule that a pair falls by, if it does.
fn drop_rule<'a>(
    report: &'a mut RejectReport,
    chosen: &str,
    rejected: &str,
    most: Option<f64>,
) -> Option<&'a mut u64> {
    let (chosen, rejected) = (normalized(chosen), normalized(rejected));
    if chosen.is_empty() || rejected.is_empty() {
        Some(&mut report.empty)
    } else if chosen == rejected {
        Some(&mut report.same)
    } else if most.is_some_and(|most| similarity(&chosen, &rejected) >= most) {
        Some(&mut report.similar)
    } else {
        None
    }
}

/// `response`, or `chosen` where there is none: pairs may get other rejected answers.
fn true_answer(row: &Row) -> Result<&str> {
    let again = !row.fields.contains_key("response") && row.fields.contains_key("chosen");
    row.text(if again { "chosen" } else { "response" })
}

fn open(options: &RejectOptions) -> Result<Rows> {
    let input = InputOptions {
        encoding: options.encoding.clone(),
        keep_going: options.keep_going,
    };
    Rows::open(&options.inputs, &input)
}

/// Reads all rows and looks at their texts; how many there are. Standard input is read only once.
fn count(options: &RejectOptions, job: &Job) -> Result<Option<u64>> {
    if options.inputs.iter().any(|input| input == "-") {
        return Ok(None);
    }
    let mut total = 0;
    for row in open(options)? {
        let row = row?;
        row.text("prompt").and_then(|_| true_answer(&row))?;
        total += 1;
        if total % 4096 == 0 {
            job.cancel.check()?;
            job.progress.report("read", total, None, "rows");
        }
    }
    Ok(Some(total))
}

/// All files that answers depend on.
fn files(options: &RejectOptions) -> Result<Vec<PathBuf>> {
    let mut files = expand(&options.inputs)?;
    let folders: [Option<&Path>; 2] = [Some(&options.model), options.adapter.as_deref()];
    for folder in folders.into_iter().flatten() {
        let entries = fs::read_dir(folder).map_err(|e| Error::io(&e, "read", folder))?;
        let mut inside: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.is_file())
            .collect();
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}
