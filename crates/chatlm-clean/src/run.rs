//! The run over all rows: draw the sample, pass the rules, count the funnel, write.

use std::path::Path;
use std::time::Instant;

use chatlm_dataset::{Cell, ColumnKind, TableWriter};
use chatlm_job::{Code, Job, Result, check_target};
use serde_json::Map;

use crate::options::{CleanOptions, CleanReport, Purpose};
use crate::rejects::Rejects;
use crate::sample::Rule;
use crate::sources::{Reader, recipe};

/// Rows between two looks at the cancel flag.
const PIECE: u64 = 1024;

/// Cleans raw rows into `prompt` and `response`, or `prompt`, `chosen` and `rejected` for `dpo`.
pub fn clean(options: &CleanOptions, job: &Job) -> Result<CleanReport> {
    let start = Instant::now();
    options.check()?;
    check_target(&options.output, options.force)?;
    let recipe = recipe(options);
    let mut reader = Reader::open(options)?;
    let columns = columns(options.purpose);
    let mut table = TableWriter::create(&options.output, &columns, options.force)?;
    let mut rejects = match &options.rejects {
        Some(path) => Some(rejects(path, options.force)?),
        None => None,
    };
    let mut dropped = vec![0u64; recipe.rules.len()];
    let (mut seen, mut broken) = (0u64, 0u64);
    for row in reader.by_ref() {
        let row = row?;
        seen += 1;
        if seen.is_multiple_of(PIECE) {
            job.cancel.check()?;
            job.progress.report("clean", seen, None, "rows");
        }
        let mut sample = match (recipe.sample)(&row) {
            Ok(sample) => sample,
            Err(error) if options.keep_going && error.code() == Code::InputRow => {
                broken += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(rejects) = &mut rejects {
            rejects.see(&row);
        }
        match recipe
            .rules
            .iter()
            .position(|rule| !rule.keeps(&row, &mut sample))
        {
            None => table.push(&sample.texts().map(Cell::Text).collect::<Vec<_>>())?,
            Some(place) => {
                dropped[place] += 1;
                if let Some(rejects) = &mut rejects {
                    rejects.push(row, recipe.rules[place].name)?;
                }
            }
        }
    }
    job.cancel.check()?;
    if let Some(rejects) = rejects {
        rejects.finish(job)?;
    }
    let kept = table.finish()?;
    let read = seen + reader.broken();
    job.progress.report("clean", read, Some(read), "rows");
    Ok(CleanReport {
        read,
        kept,
        dropped: funnel(&recipe.rules, &dropped),
        broken: broken + reader.broken(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn columns(purpose: Purpose) -> Vec<(&'static str, ColumnKind)> {
    let names: &[&str] = match purpose {
        Purpose::Pretrain | Purpose::Sft => &["prompt", "response"],
        Purpose::Dpo => &["prompt", "chosen", "rejected"],
    };
    names.iter().map(|name| (*name, ColumnKind::Text)).collect()
}

/// Refuses a name that cannot be written before anything is read.
fn rejects(path: &Path, force: bool) -> Result<Rejects> {
    drop(TableWriter::create(
        path,
        &[("rule", ColumnKind::Text)],
        force,
    )?);
    Rejects::create(path, force)
}

fn funnel(rules: &[Rule], dropped: &[u64]) -> Map<String, serde_json::Value> {
    let counted = rules.iter().zip(dropped).filter(|(rule, _)| rule.drops);
    counted
        .map(|(rule, count)| (rule.name.to_owned(), (*count).into()))
        .collect()
}
