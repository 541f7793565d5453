//! Probes of what a training run would take.

use chatlm_job::Error;
use chatlm_run::{ProbeOptions, RunKind, plan_probe as probe};
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::{blocking, json};
use crate::job::{CancelHandle, OnProgress, job};

/// Makes one probe of a training run: real steps for its speed, steps of the longest rows for its memory,
/// nothing written. Meant for a process of its own, whose memory is what is measured. `options` are `steps`
/// (real steps that count at least, after one that does not), `batches` (row counts, rising) and `device`.
#[napi(
    ts_args_type = "kind: 'pretrain' | 'sft' | 'dpo', config: object, options: { steps?: number; batches?: number[]; device?: string }, onProgress?: ((progress: Progress) => void) | undefined | null, cancel?: CancelToken | undefined | null",
    ts_return_type = "Promise<object>"
)]
pub async fn plan_probe(
    kind: String,
    config: serde_json::Value,
    options: serde_json::Value,
    on_progress: Option<OnProgress>,
    cancel: Option<CancelHandle>,
) -> napi::Result<serde_json::Value> {
    let job = job(on_progress, cancel);
    blocking(move || {
        prepare_for(Work::Training);
        let kind = kind.parse::<RunKind>()?;
        let options: ProbeOptions = serde_json::from_value(options).map_err(Error::internal)?;
        json(&probe(kind, config, &options, &job)?)
    })
    .await
}
