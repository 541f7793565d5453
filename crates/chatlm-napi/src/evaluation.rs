//! BLEU-4 and perplexity.

use chatlm_run::{
    BleuOptions as CoreBleu, PerplexityOptions as CorePerplexity, evaluate_bleu as run_bleu,
    evaluate_perplexity as run_perplexity,
};
use napi_derive::napi;

use crate::error::blocking;
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct BleuOptions {
    /// A model folder; or give `predictions`.
    pub model: Option<String>,
    pub adapter: Option<String>,
    /// Rows with `prediction` and `label`, instead of a model.
    pub predictions: Option<String>,
    /// Rows with `prompt` and `response`.
    pub inputs: Vec<String>,
    pub batch: u32,
    pub max_new_tokens: u32,
    /// Only the first so many rows.
    pub limit: Option<u32>,
    pub encoding: Option<String>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

#[napi(object)]
pub struct BleuReport {
    /// Mean over the rows, between 0 and 1.
    pub bleu4: f64,
    pub rows: i64,
}

/// BLEU-4 by characters of greedy answers, or of given predictions.
#[napi]
pub async fn evaluate_bleu(
    options: BleuOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<BleuReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = run_bleu(
            &CoreBleu {
                model: options.model.map(Into::into),
                adapter: options.adapter.map(Into::into),
                predictions: options.predictions,
                inputs: options.inputs,
                batch: options.batch as usize,
                max_new_tokens: options.max_new_tokens as usize,
                limit: options.limit.map(u64::from),
                encoding: options.encoding,
                device: options.device,
            },
            &job,
        )?;
        Ok(BleuReport {
            bleu4: report.bleu4,
            rows: report.rows as i64,
        })
    })
    .await
}

#[napi(object)]
pub struct PerplexityOptions {
    pub model: String,
    pub adapter: Option<String>,
    pub inputs: Vec<String>,
    pub batch: u32,
    /// The longest prompt and response in tokens, `[EOS]` included.
    pub max_length: u32,
    /// `f32`, `f16`, `bf16` or `int8`: measures the engine that answers, in this precision.
    pub dtype: Option<String>,
    /// Another precision, whose likeliest tokens are compared.
    pub compare: Option<String>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

#[napi(object)]
pub struct PerplexityReport {
    pub perplexity: f64,
    /// Mean cross-entropy a target token, in nats.
    pub loss: f64,
    pub tokens: i64,
    /// The share of target tokens where both precisions' likeliest tokens are the same.
    pub agreement: Option<f64>,
}

/// Perplexity of the responses given their prompts.
#[napi]
pub async fn evaluate_perplexity(
    options: PerplexityOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<PerplexityReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = run_perplexity(
            &CorePerplexity {
                model: options.model.into(),
                adapter: options.adapter.map(Into::into),
                inputs: options.inputs,
                batch: options.batch as usize,
                max_length: options.max_length as usize,
                dtype: options.dtype,
                compare: options.compare,
                device: options.device,
            },
            &job,
        )?;
        Ok(PerplexityReport {
            perplexity: report.perplexity,
            loss: report.loss,
            tokens: report.tokens as i64,
            agreement: report.agreement,
        })
    })
    .await
}
