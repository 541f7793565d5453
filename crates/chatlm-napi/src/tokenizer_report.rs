//! What tokenizers make of text.

use std::path::Path;

use chatlm_dataset::{InputOptions, row_texts};
use chatlm_job::Result;
use chatlm_tokenizer::{Tokenizer, report};
use napi_derive::napi;

use crate::error::{blocking, json};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct TokenizerReportOptions {
    /// Files, folders or globs; `-` is standard input. Every text column is taken.
    pub inputs: Vec<String>,
    /// Tokenizer folders: the one asked about, then those it is compared with.
    pub tokenizers: Vec<String>,
    /// Such as `gb18030`; detected where left out.
    pub encoding: Option<String>,
    /// Passes over broken rows instead of stopping at the first.
    pub keep_going: bool,
}

/// Encodes and decodes every text with each tokenizer, in bounded memory. The report is what
/// `chatlm tokenizer report --json` prints.
#[napi(ts_return_type = "Promise<unknown>")]
pub async fn tokenizer_report(
    options: TokenizerReportOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<serde_json::Value> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let tokenizers = options
            .tokenizers
            .iter()
            .map(|folder| Tokenizer::load(Path::new(folder)))
            .collect::<Result<Vec<_>>>()?;
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: options.keep_going,
        };
        let rows = row_texts(&options.inputs, &input)?;
        json(&report(&options.inputs, rows, &tokenizers, &job)?)
    })
    .await
}
