//! The run: read and sign into the spill, compare band by band, write. Each step finds what an earlier
//! run that was broken off has done already.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use chatlm_dataset::{ColumnKind, Schema, TableWriter};
use chatlm_job::{AtomicFile, Code, Error, Job, Result, check_target};

use crate::compat::Datasketch;
use crate::judge::Search;
use crate::memory::{Memory, peak};
use crate::method::Method;
use crate::minhash::{Bands, MinHash};
use crate::options::{DedupOptions, DedupReport};
use crate::output::{Clusters, write_rows};
use crate::report::{Phases, Tally};
use crate::source::{Source, pieces_at_once};
use crate::spill::{Spill, Texts};
use crate::state::{NONE, State};
use crate::verdicts::each_fall;
use crate::work::{Work, folder_of};

/// Seconds between two savings of the state.
const SAVE: f64 = 20.0;

/// Drops each row that some earlier row, kept or not, resembles; the order of the rest is kept. A run
/// that was interrupted or killed is gone on with; one that fails leaves nothing.
pub fn dedup(options: &DedupOptions, job: &Job) -> Result<DedupReport> {
    options.check()?;
    let method = method(options)?;
    let own = Source::find(&options.inputs, options.input())?;
    let other = match options.against.as_slice() {
        [] => None,
        paths => Some(Source::find(paths, options.input())?),
    };
    check_outputs(options)?;
    let stamps: Vec<_> = other
        .iter()
        .chain([&own])
        .flat_map(|s| s.stamps.clone())
        .collect();
    let split = other.as_ref().map_or(0, |other| other.files.len());
    let settings = format!("{} {split}", options.settings());
    let folder = options
        .work
        .clone()
        .unwrap_or_else(|| folder_of(&options.output));
    let work = Work::open(folder, &settings, &stamps)?;
    let there = options
        .targets()
        .try_for_each(|target| check_target(target, options.force));
    if let (Err(error), false) = (there, work.manifest.finishing) {
        if !work.resumes {
            work.remove();
        }
        return Err(error);
    }
    let mut run = Run {
        options,
        job,
        method,
        memory: Memory::new(options.max_memory),
        own,
        other,
        work,
        start: Instant::now(),
        phases: Phases::default(),
    };
    let result = run.whole();
    match &result {
        // What was done is gone on with.
        Err(error) if error.code() == Code::Cancelled => {
            let seconds = run.seconds();
            run.work.note(|manifest| manifest.seconds = seconds)?;
        }
        _ => run.work.remove(),
    }
    result
}

fn method(options: &DedupOptions) -> Result<Method> {
    if options.compat {
        return Ok(Method::Compat(Datasketch::new()));
    }
    let bands = Bands::choose(options.threshold, options.num_perm)?;
    Ok(Method::Shingles {
        ngram: options.ngram,
        threshold: options.threshold,
        bands,
        minhash: MinHash::new(bands),
    })
}

/// Refuses targets that cannot be written before the long part begins.
fn check_outputs(options: &DedupOptions) -> Result<()> {
    for target in std::iter::once(&options.output).chain(&options.clusters) {
        drop(TableWriter::create(
            target,
            &[("row", ColumnKind::Int64)],
            true,
        )?);
    }
    if let Some(report) = &options.report {
        drop(AtomicFile::create(report, true)?);
    }
    Ok(())
}

struct Run<'a> {
    options: &'a DedupOptions,
    job: &'a Job,
    method: Method,
    memory: Memory,
    own: Source,
    other: Option<Source>,
    work: Work,
    start: Instant,
    phases: Phases,
}

impl Run<'_> {
    /// Seconds of this run and of those that it goes on with.
    fn seconds(&self) -> f64 {
        self.work.manifest.seconds + self.start.elapsed().as_secs_f64()
    }

    fn whole(&mut self) -> Result<DedupReport> {
        self.open()?;
        let bands = self.method.bands().count;
        let mut spill = Spill::open(&self.work.path("spill"), bands, self.job)?;
        self.read(&mut spill)?;
        self.phases.read = self.start.elapsed().as_secs_f64();

        let rows = spill.rows();
        self.memory.check(rows, self.other.is_some())?;
        let texts = Texts::load(&spill)?;
        let own = self.work.manifest.other.unwrap_or(0);
        let state = State::new(own as u32, rows as u32, &texts.broken);
        let search = Search {
            spill: &spill,
            texts: &texts,
            state: &state,
            method: &self.method,
            room: self
                .memory
                .room(rows, self.other.is_some(), rayon::current_num_threads()),
            job: self.job,
            looked_at: AtomicU64::new(0),
        };
        self.compare(&search)?;
        self.phases.compare = self.start.elapsed().as_secs_f64() - self.phases.read;
        let before = self.start.elapsed().as_secs_f64();

        let mut tally = Tally::new();
        let clusters = self.judge(&search, &mut tally)?;
        let counts = state.counts();
        let kept = counts.rows - counts.duplicates - counts.contaminated;
        let mut report = DedupReport {
            rows: counts.rows,
            kept,
            duplicates: counts.duplicates,
            contaminated: counts.contaminated,
            clusters: counts.clusters,
            seconds: self.work.manifest.seconds,
            peak_rss_bytes: 0,
        };
        let rows = write_rows(
            &self.options.output,
            &self.own,
            self.work.manifest.columns.as_deref(),
            &state,
            self.memory.piece(pieces_at_once() * 2),
            true,
            self.job,
        )?;
        // From here on results are put in place: a run that goes on may replace them.
        self.work.note(|manifest| manifest.finishing = true)?;
        let written = rows.finish()?;
        if written != kept {
            return Err(Error::internal(format!("{written} rows written of {kept}")));
        }
        if let Some(clusters) = clusters {
            clusters.finish()?;
        }
        self.phases.write = self.start.elapsed().as_secs_f64() - before;
        report.seconds += self.start.elapsed().as_secs_f64();
        report.peak_rss_bytes = peak();
        if let Some(target) = &self.options.report {
            let value = tally.report(&search, self.options, &report, self.phases)?;
            let text = serde_json::to_string_pretty(&value).map_err(Error::internal)?;
            AtomicFile::write_all(target, true, format!("{text}\n").as_bytes())?;
        }
        Ok(report)
    }

    /// Opens the inputs; standard input can be read only once, so it becomes a file first.
    fn open(&mut self) -> Result<()> {
        let stdin: PathBuf = self.work.path("stdin");
        for source in self.other.iter_mut().chain([&mut self.own]) {
            if source.stamps.iter().any(Option::is_none) {
                let copy = || {
                    let mut file = std::fs::File::create(&stdin)?;
                    io::copy(&mut io::stdin().lock(), &mut file)
                };
                copy().map_err(|e| Error::io(&e, "write", &stdin))?;
                source.replace_stdin(&stdin);
            }
            source.open()?;
        }
        let known = |source: &Source| source.rows();
        let other = self.other.as_ref().map_or(Some(0), known);
        if let (Some(other), Some(own)) = (other, self.own.rows()) {
            check_count(other + own)?;
            self.memory.check(other + own, self.other.is_some())?;
        }
        Ok(())
    }

    fn read(&mut self, spill: &mut Spill) -> Result<()> {
        let piece = self.memory.piece(pieces_at_once() * 2);
        if let Some(other) = &self.other
            && self.work.manifest.other.is_none()
        {
            let total = other.rows();
            let from = spill.rows();
            other.sign(
                &self.method,
                from,
                piece,
                &mut Schema::default(),
                self.job,
                |signed| {
                    spill.append(&signed)?;
                    check_count(spill.rows())?;
                    self.job
                        .progress
                        .report("read the other set", spill.rows(), total, "rows");
                    Ok(())
                },
            )?;
            self.work
                .note(|manifest| manifest.other = Some(spill.rows()))?;
        }
        let other = self.work.manifest.other.unwrap_or(0);
        let total = self.own.rows();
        let from = spill.rows() - other;
        if self.work.manifest.columns.is_none() && (total != Some(from) || from == 0) {
            let mut schema = Schema::default();
            let memory = self.memory;
            let with_other = self.other.is_some();
            self.own
                .sign(&self.method, from, piece, &mut schema, self.job, |signed| {
                    spill.append(&signed)?;
                    check_count(spill.rows())?;
                    memory.check(spill.rows(), with_other)?;
                    self.job
                        .progress
                        .report("read", spill.rows() - other, total, "rows");
                    Ok(())
                })?;
            if total.is_none() {
                let columns = schema.columns();
                let named =
                    |(name, kind): (&str, ColumnKind)| (name.to_owned(), kind.as_str().to_owned());
                let columns = Some(columns.into_iter().map(named).collect());
                self.work.note(|manifest| manifest.columns = columns)?;
            }
        }
        let rows = spill.rows() - other;
        self.job.progress.report("read", rows, Some(rows), "rows");
        Ok(())
    }

    /// Compares band after band; the state is saved from time to time, and when interrupted.
    fn compare(&self, search: &Search<'_>) -> Result<()> {
        let path = self.work.path("state");
        let bands = self.method.bands().count as u64 + 1;
        let mut done = search.state.restore(&path).unwrap_or(0);
        let mut saved = Instant::now();
        while done < bands {
            self.job
                .progress
                .report("compare", done, Some(bands), "bands");
            let result = match done.checked_sub(1) {
                None => search.repetitions(),
                Some(band) => search.band(band as usize),
            };
            if let Err(error) = result {
                if error.code() == Code::Cancelled {
                    search.state.save(&path, done)?;
                }
                return Err(error);
            }
            done += 1;
            if saved.elapsed().as_secs_f64() > SAVE
                || (done == bands && search.state.rows() > 1 << 20)
            {
                search.state.save(&path, done)?;
                saved = Instant::now();
            }
        }
        self.job
            .progress
            .report("compare", bands, Some(bands), "bands");
        Ok(())
    }

    /// Goes through the rows that fell, where a table or a report asks for them.
    fn judge(&self, search: &Search<'_>, tally: &mut Tally) -> Result<Option<Clusters>> {
        let mut clusters = match &self.options.clusters {
            Some(target) => Some(Clusters::create(target, search.state.own, true)?),
            None => None,
        };
        if clusters.is_some() || self.options.report.is_some() {
            each_fall(search, |fall| {
                tally.add(fall);
                clusters
                    .as_mut()
                    .map_or(Ok(()), |clusters| clusters.push(fall))
            })?;
        }
        Ok(clusters)
    }
}

/// Rows have 32-bit numbers, of which the last means none.
fn check_count(rows: u64) -> Result<()> {
    if rows < u64::from(NONE) {
        return Ok(());
    }
    Err(Error::new(
        Code::Usage,
        "more than four thousand million rows cannot be compared at once",
        "split the inputs",
    ))
}
