//! What can be asked of a deduplication and what it answers.

use std::path::PathBuf;

use chatlm_dataset::InputOptions;
use chatlm_job::{Code, Error, Result};
use serde::Serialize;

/// What to compare and how.
#[derive(Debug, Clone)]
pub struct DedupOptions {
    /// Files, folders or globs with fields `prompt` and `response`; others are carried along.
    pub inputs: Vec<String>,
    pub output: PathBuf,
    /// A row falls from this Jaccard similarity on; above 0, at most 1.
    pub threshold: f64,
    /// Characters of a shingle.
    pub ngram: usize,
    /// MinHash permutations, 16 to 1024; more find pairs near the threshold with fewer comparisons.
    pub num_perm: usize,
    /// Where the dropped rows go: `row`, `similar_row`, `cluster`, `similarity`.
    pub clusters: Option<PathBuf>,
    /// Where a report goes, as JSON.
    pub report: Option<PathBuf>,
    /// Other sets: rows that resemble one of their rows fall too.
    pub against: Vec<String>,
    /// The folder of what a broken off run leaves; beside the output where `None`.
    pub work: Option<PathBuf>,
    /// Repeats the reference program: characters, 256 permutations, 0.85, nothing verified. The
    /// threshold, shingle length and permutations above are not looked at.
    pub compat: bool,
    /// What the process may hold at most, in bytes.
    pub max_memory: Option<u64>,
    pub encoding: Option<String>,
    pub keep_going: bool,
    pub force: bool,
}

impl DedupOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let usage = |message: String, help: &str| Err(Error::new(Code::Usage, message, help));
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            return usage(
                format!("a threshold of {} is no similarity", self.threshold),
                "give --threshold above 0 and at most 1, such as 0.85",
            );
        }
        if !(1..=1000).contains(&self.ngram) {
            return usage(
                format!("shingles of {} characters cannot be compared", self.ngram),
                "give --ngram from 1 to 1000, such as 5",
            );
        }
        if !(16..=1024).contains(&self.num_perm) {
            return usage(
                format!("{} permutations are too few or too many", self.num_perm),
                "give --num-perm from 16 to 1024, such as 128",
            );
        }
        let targets: Vec<_> = self.targets().collect();
        for (place, target) in targets.iter().enumerate() {
            if targets[..place].contains(target) {
                return usage(
                    format!("{} cannot hold two results", target.display()),
                    "give --out, --clusters and --report names of their own",
                );
            }
        }
        Ok(())
    }

    /// The files that the run makes.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.output)
            .chain(&self.clusters)
            .chain(&self.report)
    }

    pub(crate) fn input(&self) -> InputOptions {
        InputOptions {
            encoding: self.encoding.clone(),
            keep_going: self.keep_going,
        }
    }

    /// What changes the answer, as text.
    pub(crate) fn settings(&self) -> String {
        format!(
            "{} {} {} {} {:?} {}",
            self.threshold, self.ngram, self.num_perm, self.compat, self.encoding, self.keep_going
        )
    }
}

/// What became of the rows: `rows` = `kept` + `duplicates` + `contaminated`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DedupReport {
    pub rows: u64,
    pub kept: u64,
    /// Rows that resemble an earlier row.
    pub duplicates: u64,
    /// Rows that fall only because they resemble a row of the other set.
    pub contaminated: u64,
    /// Connected groups of two rows or more.
    pub clusters: u64,
    pub seconds: f64,
    /// The most memory the whole process has held so far.
    pub peak_rss_bytes: u64,
}
