//! Adapters into models, and models in other precisions.

use chatlm_run::{ExportOptions as CoreExport, MergeOptions as Core, export, merge_lora as run};
use napi_derive::napi;

use crate::error::blocking;
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct MergeLoraOptions {
    pub base: String,
    /// A PEFT adapter folder.
    pub adapter: String,
    pub output: String,
    pub force: bool,
    /// What the merged weights are rounded to: `f32` (where left out), `f16` or `bf16`.
    pub dtype: Option<String>,
}

#[napi(object)]
pub struct MergeLoraReport {
    /// The largest difference of a logit between base with adapter and merged model, on probe inputs.
    pub max_logit_difference: f64,
    /// Weights that an adapter was merged into.
    pub merged: i64,
}

/// Merges an adapter into its base model and writes a whole model folder.
#[napi]
pub async fn merge_lora(
    options: MergeLoraOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<MergeLoraReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = run(
            &Core {
                base: options.base.into(),
                adapter: options.adapter.into(),
                output: options.output.into(),
                force: options.force,
                dtype: options.dtype,
            },
            &job,
        )?;
        Ok(MergeLoraReport {
            max_logit_difference: report.max_logit_difference,
            merged: report.merged as i64,
        })
    })
    .await
}

#[napi(object)]
pub struct ExportModelOptions {
    pub model: String,
    pub output: String,
    /// `f32`, `f16`, `bf16`, or `int8`, which only this program reads.
    pub dtype: String,
    pub force: bool,
}

#[napi(object)]
pub struct ExportModelReport {
    pub dtype: String,
    /// Of the folder's files.
    pub bytes: i64,
    pub seconds: f64,
}

/// Writes a model folder in another precision.
#[napi]
pub async fn export_model(
    options: ExportModelOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<ExportModelReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = export(
            &CoreExport {
                model: options.model.into(),
                output: options.output.into(),
                dtype: options.dtype,
                force: options.force,
            },
            &job,
        )?;
        Ok(ExportModelReport {
            dtype: report.dtype,
            bytes: report.bytes as i64,
            seconds: report.seconds,
        })
    })
    .await
}
