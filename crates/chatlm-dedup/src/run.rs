//! The run over the inputs: read and sign, find, read again and write what stays.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chatlm_dataset::{
    Cell, Cells, ColumnKind, InputOptions, Row, Rows, Schema, TableWriter, expand,
};
use chatlm_job::{Error, Job, Result, check_target};

use crate::corpus::Corpus;
use crate::find::{Verdict, find};
use crate::minhash::{Bands, MinHash};
use crate::options::{DedupOptions, DedupReport};

/// Rows signed together, and rows between two looks at the cancel flag.
const PIECE: usize = 4096;

/// Drops each row that some earlier row, kept or not, resembles; the order of the rest is kept.
pub fn dedup(options: &DedupOptions, job: &Job) -> Result<DedupReport> {
    let start = Instant::now();
    options.check()?;
    let bands = Bands::choose(options.threshold, options.num_perm)?;
    check_outputs(options)?;
    let mut corpus = Corpus::new(options.ngram, bands.count, MinHash::new(bands));
    if let Some(against) = &options.against {
        Source::open(std::slice::from_ref(against), options.input())?.read(
            job,
            "read the other set",
            |rows| add(&mut corpus, rows),
        )?;
        corpus.own_rows_follow();
    }
    let mut schema = Schema::default();
    let mut source = Source::open(&options.inputs, options.input())?;
    let mut numbers = Vec::new();
    source.read(job, "read", |rows| {
        for row in rows {
            schema.add_row(&row.fields);
            numbers.push(row.row);
        }
        add(&mut corpus, rows)
    })?;
    let verdicts = find(&corpus, options.threshold, job)?;
    drop(corpus);
    if let Some(clusters) = &options.clusters {
        write_clusters(clusters, &verdicts, &numbers, options.force)?;
    }
    let kept = write_rows(
        &options.output,
        source,
        &schema,
        &verdicts,
        options.force,
        job,
    )?;

    let duplicates = verdicts.iter().filter(|v| v.similar.is_some()).count() as u64;
    let rows = verdicts.len() as u64;
    Ok(DedupReport {
        rows,
        kept,
        duplicates,
        contaminated: rows - kept - duplicates,
        clusters: count_clusters(&verdicts),
        seconds: start.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// Refuses targets that are there or cannot be written before the long part begins.
fn check_outputs(options: &DedupOptions) -> Result<()> {
    for target in std::iter::once(&options.output).chain(&options.clusters) {
        check_target(target, options.force)?;
        drop(TableWriter::create(
            target,
            &[("row", ColumnKind::Int64)],
            options.force,
        )?);
    }
    Ok(())
}

fn add(corpus: &mut Corpus, rows: &[Row]) -> Result<()> {
    let pairs: Result<Vec<(&str, &str)>> = rows
        .iter()
        .map(|row| Ok((row.text("prompt")?, row.text("response")?)))
        .collect();
    corpus.add(&pairs?)
}

/// Inputs that are read twice.
struct Source {
    paths: Vec<String>,
    options: InputOptions,
    /// Standard input can be read only once, so its rows are kept.
    held: Option<Vec<Row>>,
}

impl Source {
    fn open(paths: &[String], options: InputOptions) -> Result<Self> {
        let files: Vec<PathBuf> = expand(paths)?;
        let held = files
            .iter()
            .any(|file| file == Path::new("-"))
            .then(Vec::new);
        // What a folder or a glob means is settled now, so that both passes see the same.
        let paths = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        Ok(Self {
            paths,
            options,
            held,
        })
    }

    /// Hands on all rows, piece by piece. A row without prompt or response is broken like one that
    /// cannot be read: it ends the run, or is left out (`keep_going`).
    fn read(
        &mut self,
        job: &Job,
        stage: &str,
        mut take: impl FnMut(&[Row]) -> Result<()>,
    ) -> Result<()> {
        let mut rows = self.whole_rows(Rows::open(&self.paths, &self.options)?);
        let mut seen = 0;
        loop {
            let piece: Vec<Row> = rows.by_ref().take(PIECE).collect::<Result<_>>()?;
            if piece.is_empty() {
                break;
            }
            job.cancel.check()?;
            seen += piece.len() as u64;
            take(&piece)?;
            job.progress.report(stage, seen, None, "rows");
            if let Some(held) = &mut self.held {
                held.extend(piece);
            }
        }
        drop(rows);
        job.progress.report(stage, seen, Some(seen), "rows");
        Ok(())
    }

    fn whole_rows(&self, rows: Rows) -> Box<dyn Iterator<Item = Result<Row>>> {
        let keep_going = self.options.keep_going;
        Box::new(rows.filter(move |row| match row {
            Ok(row) if keep_going => row.text("prompt").is_ok() && row.text("response").is_ok(),
            _ => true,
        }))
    }

    fn again(mut self) -> Result<Box<dyn Iterator<Item = Result<Row>>>> {
        Ok(match self.held.take() {
            Some(rows) => Box::new(rows.into_iter().map(Ok)),
            None => self.whole_rows(Rows::open(&self.paths, &self.options)?),
        })
    }
}

fn write_rows(
    target: &Path,
    source: Source,
    schema: &Schema,
    verdicts: &[Verdict],
    force: bool,
    job: &Job,
) -> Result<u64> {
    let columns = schema.columns();
    let mut table = TableWriter::create(target, &columns, force)?;
    let total = verdicts.len() as u64;
    let mut verdicts = verdicts.iter().zip(1u64..);
    let mut rows = source.again()?;
    for row in rows.by_ref() {
        let mut row = row?;
        let Some((verdict, done)) = verdicts.next() else {
            return Err(changed(target));
        };
        if done.is_multiple_of(PIECE as u64) || done == total {
            job.cancel.check()?;
            job.progress.report("write", done, Some(total), "rows");
        }
        if verdict.keeps() {
            table.push(&Cells::new(&mut row.fields, &columns).cells())?;
        }
    }
    if verdicts.next().is_some() {
        return Err(changed(target));
    }
    table.finish()
}

fn changed(target: &Path) -> Error {
    let error = io::Error::other("the inputs changed while they were read");
    Error::io(&error, "write", target)
}

fn write_clusters(target: &Path, verdicts: &[Verdict], numbers: &[u64], force: bool) -> Result<()> {
    let columns = [
        ("row", ColumnKind::Int64),
        ("similar_row", ColumnKind::Int64),
        ("cluster", ColumnKind::Int64),
        ("similarity", ColumnKind::Float64),
    ];
    let mut table = TableWriter::create(target, &columns, force)?;
    let number = |place: u64| Cell::Int64(numbers[place as usize] as i64);
    for (verdict, place) in verdicts
        .iter()
        .zip(0u64..)
        .filter(|(verdict, _)| !verdict.keeps())
    {
        let (similar, similarity) = match (verdict.similar, verdict.contaminated) {
            (Some((other, similarity)), _) => (number(other), similarity),
            // Its likeness is a row of the other set.
            (None, similarity) => (Cell::Int64(-1), similarity.unwrap_or(1.0)),
        };
        let cluster = number(verdict.cluster);
        table.push(&[number(place), similar, cluster, Cell::Float64(similarity)])?;
    }
    table.finish().map(|_| ())
}

/// Groups of two rows or more: each has one row that is its smallest and not alone.
fn count_clusters(verdicts: &[Verdict]) -> u64 {
    let mut shared: Vec<u64> = verdicts
        .iter()
        .filter(|v| v.similar.is_some())
        .map(|v| v.cluster)
        .collect();
    shared.sort_unstable();
    shared.dedup();
    shared.len() as u64
}

/// `VmHWM` of `/proc/self/status`: the most memory the process has held; 0 where there is none.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .map_or(0, |kilobytes: u64| kilobytes * 1024)
}
