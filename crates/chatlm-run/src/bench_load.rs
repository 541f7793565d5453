//! `bench load`: rows through reading, shuffling, encoding and batching, by the loader of every run.

use std::path::Path;
use std::time::Instant;

use chatlm_dataset::{Batch, Loader, LoaderOptions, SetSpec, Shard};
use chatlm_job::{Job, Result};
use chatlm_tokenizer::Tokenizer;

use crate::machine::{peak_rss_bytes, set_threads};
use crate::setup::{BUFFER, RunKind};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchLoad {
    pub inputs: Vec<String>,
    pub tokenizer: String,
    /// Rows a batch.
    pub batch: usize,
    /// Instead of rows: tokens a batch, padding included.
    pub batch_tokens: Option<usize>,
    pub max_length: usize,
    /// Batches that count, after one that does not.
    pub batches: u64,
    pub group_by_length: bool,
    /// Where to start in the first epoch.
    pub row: u64,
    pub seed: u64,
    pub threads: Option<usize>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct BenchLoadReport {
    pub rows_per_second: f64,
    /// Tokens of both sides, padding not counted.
    pub tokens_per_second: f64,
    /// Of all ids of both sides, when each side is padded to the longest of its batch.
    pub padding_share: f64,
    pub peak_rss_bytes: u64,
    /// Finding the rows, and from there to the first batch.
    pub open_seconds: f64,
    pub first_batch_seconds: f64,
    pub rows: u64,
    pub cpu: String,
}

/// Loads batches as fast as they come.
pub fn bench_load(options: &BenchLoad, job: &Job) -> Result<BenchLoadReport> {
    if let Some(threads) = options.threads {
        set_threads(threads)?;
    }
    let tokenizer = Tokenizer::load(Path::new(&options.tokenizer))?;
    let started = Instant::now();
    let mut loader = Loader::open(
        LoaderOptions {
            sets: vec![SetSpec {
                paths: options.inputs.clone(),
                weight: 1.0,
            }],
            columns: RunKind::Pretrain.columns(),
            batch_size: options.batch,
            batch_tokens: options.batch_tokens,
            group_by_length: options.group_by_length,
            max_length: options.max_length,
            shuffle: true,
            seed: options.seed,
            buffer: BUFFER,
            shard: Shard::default(),
            threads: None,
            cache: None,
        },
        tokenizer,
        job,
    )?;
    let open_seconds = started.elapsed().as_secs_f64();
    loader.seek(chatlm_dataset::Cursor {
        epoch: 0,
        row: options.row,
    });
    let started = Instant::now();
    loader.next_batch()?;
    let first_batch_seconds = started.elapsed().as_secs_f64();
    let mut seen = Seen::default();
    let started = Instant::now();
    for batch in 0..options.batches {
        seen.add(&loader.next_batch()?);
        job.progress
            .report("load", batch + 1, Some(options.batches), "batches");
    }
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    Ok(BenchLoadReport {
        rows_per_second: seen.rows as f64 / seconds,
        tokens_per_second: seen.tokens as f64 / seconds,
        padding_share: 1.0 - seen.tokens as f64 / seen.padded.max(1) as f64,
        peak_rss_bytes: peak_rss_bytes(),
        open_seconds,
        first_batch_seconds,
        rows: seen.rows,
        cpu: chatlm_t5::cpu::cpu().name().to_owned(),
    })
}

#[derive(Default)]
struct Seen {
    rows: u64,
    tokens: u64,
    padded: u64,
}

impl Seen {
    fn add(&mut self, batch: &Batch) {
        self.rows += batch.keys.len() as u64;
        for field in &batch.fields {
            let lengths = field.iter().map(|ids| ids.len() as u64);
            self.tokens += lengths.clone().sum::<u64>();
            self.padded += lengths.max().unwrap_or(0) * field.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_counted_side_by_side() {
        let batch = Batch {
            keys: vec![1, 2],
            fields: vec![vec![vec![1; 3], vec![1; 5]], vec![vec![1; 4], vec![1; 2]]],
            indices: vec![0, 1],
            epoch: 0,
            next: chatlm_dataset::Cursor { epoch: 0, row: 2 },
        };
        let mut seen = Seen::default();
        seen.add(&batch);
        assert_eq!((seen.rows, seen.tokens, seen.padded), (2, 14, 18));
    }
}
