//! Adapters into models, and models in other precisions.

use chatlm_run::{
    Combination, ExportOptions as CoreExport, MergeOptions as CoreMerge, MergeReport,
    UnmergeOptions, export, merge_lora as run, unmerge_lora as unmerge,
};
use napi_derive::napi;

use crate::error::blocking;
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct MergeLoraOptions {
    pub base: String,
    /// PEFT adapter folders, in the order in which they are merged.
    pub adapters: Vec<String>,
    /// One for each adapter; 1 where left out.
    pub weights: Option<Vec<f64>>,
    /// PEFT's `combination_type`: `cat` (where left out) is the weighted sum, `linear` multiplies
    /// the weighted sums of both factors.
    pub combination: Option<String>,
    pub output: String,
    pub force: bool,
    /// What the merged weights are rounded to: `f32` (where left out), `f16` or `bf16`.
    pub dtype: Option<String>,
}

#[napi(object)]
pub struct UnmergeLoraOptions {
    /// The merged model.
    pub model: String,
    /// The adapter that was merged into it.
    pub adapter: String,
    pub output: String,
    pub force: bool,
    /// What the weights are rounded to: `f32` (where left out), `f16` or `bf16`.
    pub dtype: Option<String>,
}

#[napi(object)]
pub struct MergeLoraReport {
    /// The largest difference of a logit between base with adapter and merged model, on probe inputs.
    pub max_logit_difference: f64,
    /// Weights that an adapter was merged into, or taken off.
    pub merged: i64,
}

impl From<MergeReport> for MergeLoraReport {
    fn from(report: MergeReport) -> Self {
        Self {
            max_logit_difference: report.max_logit_difference,
            merged: report.merged as i64,
        }
    }
}

/// Merges adapters into their base model and writes a whole model folder.
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
        let core = CoreMerge {
            base: options.base.into(),
            adapters: options.adapters.into_iter().map(Into::into).collect(),
            weights: options.weights,
            combination: Combination::named(options.combination.as_deref())?,
            output: options.output.into(),
            force: options.force,
            dtype: options.dtype,
        };
        run(&core, &job).map(Into::into)
    })
    .await
}

/// Takes a merged adapter off its model and writes the base, up to rounding. DoRA adapters cannot be.
#[napi]
pub async fn unmerge_lora(
    options: UnmergeLoraOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<MergeLoraReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let core = UnmergeOptions {
            model: options.model.into(),
            adapter: options.adapter.into(),
            output: options.output.into(),
            force: options.force,
            dtype: options.dtype,
        };
        unmerge(&core, &job).map(Into::into)
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
