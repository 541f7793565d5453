//! Measurements.

use chatlm_run::{
    BenchGenerate as CoreGenerate, BenchLoad as CoreLoad, BenchTrainStep as CoreBench,
    bench_generate as run_generate, bench_load as run_load, bench_train_step as run_bench,
};
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::blocking;
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct BenchTrainStepOptions {
    pub d_model: u32,
    pub d_ff: u32,
    pub heads: u32,
    /// Of the encoder, and as many of the decoder.
    pub layers: u32,
    pub vocab: u32,
    pub batch: u32,
    /// Tokens a row.
    pub source: u32,
    pub target: u32,
    /// `adamw` or `adafactor`.
    pub optimizer: String,
    /// `f32` or `bf16`; on graphics cards also `f16`.
    pub precision: String,
    /// Steps that count, after one that does not.
    pub steps: u32,
    pub recompute: bool,
    /// Gated GELU and an untied head (T5 v1.1) instead of ReLU and a tied one.
    pub gated: bool,
    /// The largest gradient norm; 0: no clipping, each weight updated as its gradient is complete.
    pub clip: f64,
    pub seed: u32,
    /// All where left out.
    pub threads: Option<u32>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

/// Medians over the steps, in seconds.
#[napi(object)]
pub struct BenchTrainStepReport {
    pub seconds_per_step: f64,
    /// Up to the loss, whose own gradient it includes.
    pub forward: f64,
    pub backward: f64,
    /// Clipping included.
    pub update: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: i64,
    pub tokens_per_second: f64,
    /// The processor path in use.
    pub cpu: String,
    /// One a step.
    pub loss: Vec<f64>,
}

/// Whole training steps of a T5 on random ids: forward, backward, clip, update.
#[napi]
pub async fn bench_train_step(
    options: BenchTrainStepOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<BenchTrainStepReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        prepare_for(Work::Training);
        let report = run_bench(
            &CoreBench {
                d_model: options.d_model as usize,
                d_ff: options.d_ff as usize,
                heads: options.heads as usize,
                layers: options.layers as usize,
                vocab: options.vocab as usize,
                batch: options.batch as usize,
                source: options.source as usize,
                target: options.target as usize,
                optimizer: options.optimizer,
                precision: options.precision,
                steps: u64::from(options.steps),
                recompute: options.recompute,
                gated: options.gated,
                clip: options.clip,
                seed: u64::from(options.seed),
                threads: options.threads.map(|n| n as usize),
                device: options.device,
            },
            &job.cancel,
        )?;
        Ok(BenchTrainStepReport {
            seconds_per_step: report.seconds_per_step,
            forward: report.forward,
            backward: report.backward,
            update: report.update,
            peak_rss_bytes: report.peak_rss_bytes as i64,
            tokens_per_second: report.tokens_per_second,
            cpu: report.cpu,
            loss: report.loss,
        })
    })
    .await
}

#[napi(object)]
pub struct BenchGenerateOptions {
    pub model: String,
    /// Prompts answered together.
    pub batch: u32,
    /// Tokens a prompt, `[EOS]` included.
    pub source: u32,
    /// New tokens a row: exactly so many, whatever they are.
    pub tokens: u32,
    /// `greedy` or `beam`.
    pub search: String,
    pub beams: u32,
    /// `f32`, `f16`, `bf16` or `int8`; left out, that of the folder.
    pub dtype: Option<String>,
    /// Runs that count, after one that does not.
    pub runs: u32,
    pub seed: u32,
    /// All where left out.
    pub threads: Option<u32>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

/// Medians over the runs.
#[napi(object)]
pub struct BenchGenerateReport {
    /// New tokens of all rows a second, encoder included, loading not.
    pub tokens_per_second: f64,
    /// From the prompts to the first token of all rows.
    pub first_token_seconds: f64,
    pub load_seconds: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: i64,
    /// The processor path in use.
    pub cpu: String,
}

/// Answers of a fixed length to random prompts.
#[napi]
pub async fn bench_generate(
    options: BenchGenerateOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<BenchGenerateReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        prepare_for(Work::Answers);
        let report = run_generate(
            &CoreGenerate {
                model: options.model.into(),
                batch: options.batch as usize,
                source: options.source as usize,
                tokens: options.tokens as usize,
                search: options.search,
                beams: options.beams as usize,
                dtype: options.dtype,
                runs: options.runs as usize,
                seed: u64::from(options.seed),
                threads: options.threads.map(|n| n as usize),
                device: options.device,
            },
            &job.cancel,
        )?;
        Ok(BenchGenerateReport {
            tokens_per_second: report.tokens_per_second,
            first_token_seconds: report.first_token_seconds,
            load_seconds: report.load_seconds,
            peak_rss_bytes: report.peak_rss_bytes as i64,
            cpu: report.cpu,
        })
    })
    .await
}

#[napi(object)]
pub struct BenchLoadOptions {
    pub inputs: Vec<String>,
    pub tokenizer: String,
    /// Rows a batch.
    pub batch: u32,
    /// Instead of rows: tokens a batch, padding included.
    pub batch_tokens: Option<u32>,
    /// Tokens of each text, `[EOS]` included.
    pub max_length: u32,
    /// Batches that count, after one that does not.
    pub batches: u32,
    /// Rows of like lengths together.
    pub group_by_length: bool,
    /// Where to start in the first epoch.
    pub row: f64,
    pub seed: u32,
    /// All where left out.
    pub threads: Option<u32>,
}

#[napi(object)]
pub struct BenchLoadReport {
    pub rows_per_second: f64,
    /// Of both sides, padding not counted.
    pub tokens_per_second: f64,
    /// Of all ids of both sides.
    pub padding_share: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: i64,
    /// Finding the rows.
    pub open_seconds: f64,
    /// From there to the first batch.
    pub first_batch_seconds: f64,
    pub rows: i64,
    /// The processor path in use.
    pub cpu: String,
}

/// Rows through read, shuffle, encode and batch.
#[napi]
pub async fn bench_load(
    options: BenchLoadOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<BenchLoadReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        prepare_for(Work::Answers);
        let report = run_load(
            &CoreLoad {
                inputs: options.inputs,
                tokenizer: options.tokenizer,
                batch: options.batch as usize,
                batch_tokens: options.batch_tokens.map(|n| n as usize),
                max_length: options.max_length as usize,
                batches: u64::from(options.batches),
                group_by_length: options.group_by_length,
                row: options.row as u64,
                seed: u64::from(options.seed),
                threads: options.threads.map(|n| n as usize),
            },
            &job,
        )?;
        Ok(BenchLoadReport {
            rows_per_second: report.rows_per_second,
            tokens_per_second: report.tokens_per_second,
            padding_share: report.padding_share,
            peak_rss_bytes: report.peak_rss_bytes as i64,
            open_seconds: report.open_seconds,
            first_batch_seconds: report.first_batch_seconds,
            rows: report.rows as i64,
            cpu: report.cpu,
        })
    })
    .await
}
