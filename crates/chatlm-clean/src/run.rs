//! The run over all rows: draw the samples, pass the rules, count the funnel, write. Rows are worked on
//! in parallel and taken in order, so the results do not depend on the threads.

use std::path::Path;
use std::time::Instant;

use chatlm_dataset::{Cell, ColumnKind, Row, TableWriter};
use chatlm_job::{Code, Error, Job, Result, check_target};
use rayon::prelude::*;
use serde_json::Map;

use crate::chunks;
use crate::options::{CleanOptions, CleanReport, Purpose};
use crate::rejects::Rejects;
use crate::report::Report;
use crate::sample::{Sample, Step};
use crate::source::Recipe;

/// A row that passed the rules, or did not.
struct Outcome {
    row: Row,
    samples: Result<Vec<Passed>>,
}

/// A sample after its last rule.
struct Passed {
    sample: Sample,
    /// The rule that dropped it.
    dropped: Option<usize>,
    /// A bit for each rule that rewrote it.
    changed: u64,
}

impl Recipe {
    fn pass(&self, row: Row) -> Outcome {
        let mut samples = Vec::with_capacity(1);
        let drawn = (self.draw)(&row, &mut samples);
        let samples = drawn.map(|()| {
            let passed = samples.into_iter().map(|sample| self.walk(&row, sample));
            passed.collect()
        });
        Outcome { row, samples }
    }

    fn walk(&self, row: &Row, mut sample: Sample) -> Passed {
        let mut changed = 0;
        let dropped = self.rules.iter().enumerate().position(|(place, rule)| {
            let step = rule.apply(row, &mut sample);
            changed |= u64::from(step == Step::Changed) << place;
            step == Step::Dropped
        });
        Passed {
            sample,
            dropped,
            changed,
        }
    }
}

/// What one rule did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub reached: u64,
    pub dropped: u64,
    pub changed: u64,
}

/// Where the rows go, and what is counted of them.
struct Taking<'a> {
    recipe: &'a Recipe,
    keep_going: bool,
    table: TableWriter,
    rejects: Option<Rejects>,
    report: Option<Report>,
    /// Samples that came to their end at each rule, the kept ones at the last place.
    ended: Vec<u64>,
    changed: Vec<u64>,
    broken: u64,
}

impl Taking<'_> {
    fn take(&mut self, outcome: Outcome) -> Result<()> {
        let Outcome { row, samples } = outcome;
        let samples = match samples {
            Ok(samples) => samples,
            Err(error) if self.keep_going && error.code() == Code::InputRow => {
                self.broken += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(rejects) = &mut self.rejects {
            rejects.see(&row);
        }
        for passed in samples {
            for (place, changed) in self.changed.iter_mut().enumerate() {
                *changed += passed.changed >> place & 1;
            }
            self.ended[passed.dropped.unwrap_or(self.recipe.rules.len())] += 1;
            if let Some(place) = passed.dropped {
                if let Some(report) = &mut self.report {
                    report.dropped(place, &row);
                }
                if let Some(rejects) = &mut self.rejects {
                    rejects.push(&row, self.recipe.rules[place].name)?;
                }
                continue;
            }
            if let Some(report) = &mut self.report {
                report.kept(&passed.sample);
            }
            let cells: Vec<Cell<'_>> = passed.sample.texts().map(Cell::Text).collect();
            self.table.push(&cells)?;
        }
        Ok(())
    }

    fn tallies(&self) -> Vec<Tally> {
        let mut reached: u64 = self.ended.iter().sum();
        let tally = |(&dropped, &changed): (&u64, &u64)| {
            let tally = Tally {
                reached,
                dropped,
                changed,
            };
            reached -= dropped;
            tally
        };
        self.ended.iter().zip(&self.changed).map(tally).collect()
    }
}

/// Cleans raw rows into `prompt` and `response`, or `prompt`, `chosen` and `rejected` for `dpo`.
pub fn clean(options: &CleanOptions, job: &Job) -> Result<CleanReport> {
    let start = Instant::now();
    options.check()?;
    check_target(&options.output, options.force)?;
    if let Some(path) = &options.report {
        check_target(path, options.force)?;
    }
    let kind = options.source.kind();
    let recipe = (kind.recipe)(options);
    if recipe.rules.len() > 64 {
        return Err(Error::internal("more rules than bits"));
    }
    let raw = (kind.open)(options)?;
    let names = columns(options.purpose);
    let columns: Vec<_> = names.iter().map(|name| (*name, ColumnKind::Text)).collect();
    let mut taking = Taking {
        recipe: &recipe,
        keep_going: options.keep_going,
        table: TableWriter::create(&options.output, &columns, options.force)?,
        rejects: match &options.rejects {
            Some(path) => Some(rejects(path, options.force)?),
            None => None,
        },
        report: options
            .report
            .is_some()
            .then(|| Report::new(names, recipe.rules.len(), options.seed)),
        ended: vec![0; recipe.rules.len() + 1],
        changed: vec![0; recipe.rules.len()],
        broken: 0,
    };
    let raw = chunks::each(raw, |rows| {
        job.cancel.check()?;
        let seen = taking.ended.iter().sum::<u64>() + taking.broken;
        job.progress.report("clean", seen, None, "rows");
        let outcomes: Vec<Outcome> = rows.into_par_iter().map(|row| recipe.pass(row)).collect();
        outcomes
            .into_iter()
            .try_for_each(|outcome| taking.take(outcome))
    })?;
    job.cancel.check()?;
    let tallies = taking.tallies();
    if let Some(rejects) = taking.rejects {
        rejects.finish(job)?;
    }
    let kept = taking.table.finish()?;
    let broken = taking.broken + raw.broken();
    let read = taking.ended.iter().sum::<u64>() + broken;
    if let (Some(report), Some(path)) = (taking.report, &options.report) {
        let counts = crate::report::Counts {
            read,
            kept,
            broken,
            undecodable: raw.undecodable(),
            mended: raw.mended(),
        };
        report.write(path, options, &recipe.rules, &tallies, &counts)?;
    }
    job.progress.report("clean", read, Some(read), "rows");
    let counted = recipe
        .rules
        .iter()
        .zip(&tallies)
        .filter(|(rule, _)| rule.drops());
    let dropped = counted.map(|(rule, tally)| (rule.name.to_owned(), tally.dropped.into()));
    Ok(CleanReport {
        read,
        kept,
        dropped: dropped.collect::<Map<_, _>>(),
        broken,
        undecodable: raw.undecodable(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn columns(purpose: Purpose) -> &'static [&'static str] {
    match purpose {
        Purpose::Pretrain | Purpose::Sft => &["prompt", "response"],
        Purpose::Dpo => &["prompt", "chosen", "rejected"],
    }
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
