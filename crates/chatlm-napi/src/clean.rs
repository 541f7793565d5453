//! Raw corpora to prompt and response rows.

use chatlm_clean::{CleanOptions as Core, Purpose, Source, Turns, clean as run};
use napi_derive::napi;

use crate::error::{blocking, json};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct CleanOptions {
    /// Such as `belle`; docs/cleaning.md lists them. `rlhf-pairs` is for `dpo` alone.
    pub source: String,
    /// `pretrain`, `sft` or `dpo`.
    pub purpose: String,
    /// Files, folders or globs; `-` is standard input.
    pub inputs: Vec<String>,
    /// `.parquet` or `.jsonl`.
    pub output: String,
    /// Where dropped rows go, with the rule that dropped each.
    pub rejects: Option<String>,
    /// Where the report goes, as JSON: docs/reports.md has its shape.
    pub report: Option<String>,
    /// Repeats the reference program bug for bug.
    pub compat: bool,
    /// What becomes of a conversation: `first` (its first exchange) or `each` (a row an exchange).
    pub turns: String,
    pub prompt_column: Option<String>,
    pub response_column: Option<String>,
    pub chosen_column: Option<String>,
    pub rejected_column: Option<String>,
    /// Question templates of `zhwiki`, one a line with `{title}`.
    pub templates: Option<String>,
    /// Such as `gb18030`; detected where left out.
    pub encoding: Option<String>,
    /// Draws the report's samples of dropped rows and the questions of `zhwiki`.
    pub seed: f64,
    /// Counts broken rows instead of stopping at the first.
    pub keep_going: bool,
    /// Replaces an existing output.
    pub force: bool,
}

#[napi(object)]
pub struct CleanReport {
    pub read: i64,
    pub kept: i64,
    /// Rows dropped by each rule, in the order of the rules.
    #[napi(ts_type = "Record<string, number>")]
    pub dropped: serde_json::Value,
    /// Rows that could not be read (`keepGoing`).
    pub broken: i64,
    /// Byte sequences that were no text in the file's encoding.
    pub undecodable: i64,
    pub seconds: f64,
}

/// Cleans raw rows into `prompt` and `response` (`prompt`, `chosen`, `rejected` for `dpo`).
#[napi]
pub async fn clean(
    options: CleanOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<CleanReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = run(
            &Core {
                source: options.source.parse::<Source>()?,
                purpose: options.purpose.parse::<Purpose>()?,
                inputs: options.inputs,
                output: options.output.into(),
                rejects: options.rejects.map(Into::into),
                report: options.report.map(Into::into),
                compat: options.compat,
                turns: options.turns.parse::<Turns>()?,
                prompt_column: options.prompt_column,
                response_column: options.response_column,
                chosen_column: options.chosen_column,
                rejected_column: options.rejected_column,
                templates: options.templates.map(Into::into),
                encoding: options.encoding,
                seed: options.seed as u64,
                keep_going: options.keep_going,
                force: options.force,
            },
            &job,
        )?;
        Ok(CleanReport {
            read: report.read as i64,
            kept: report.kept as i64,
            dropped: json(&report.dropped)?,
            broken: report.broken as i64,
            undecodable: report.undecodable as i64,
            seconds: report.seconds,
        })
    })
    .await
}
