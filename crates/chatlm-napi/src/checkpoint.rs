//! Adapters into models.

use chatlm_run::{MergeOptions as Core, merge_lora as run};
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
