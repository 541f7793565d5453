//! A training run that is advanced a few steps at a time.

use std::sync::{Arc, Mutex};

use chatlm_job::Error;
use chatlm_run::{RunKind, RunOptions, TrainingRun as Core, Worker, verify_resume as run_verify};
use napi::tokio::sync::oneshot;
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::{blocking, json, to_napi};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct TrainingRunOptions {
    /// Starts over instead of going on from the newest checkpoint.
    pub fresh: bool,
    /// With `fresh`: throws away what is there; with `from`: the checkpoints after it.
    pub force: bool,
    /// Goes on from the checkpoint of this step instead of the newest.
    pub from: Option<u32>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is. Of several workers each has one of its
    /// own: the k-th `cuda:k`, or the k-th of `cuda:N,cuda:M`.
    pub device: Option<String>,
    /// Which of several workers this process is.
    pub worker: Option<WorkerPlace>,
}

/// A worker's rank, and the folder where the workers of a run meet.
#[napi(object)]
pub struct WorkerPlace {
    pub rank: u32,
    pub folder: String,
}

/// A training run on a thread of its own.
#[napi]
pub struct TrainingRun {
    worker: Arc<Mutex<Option<Worker<Core>>>>,
}

fn closed() -> Error {
    Error::internal("the training run is closed")
}

impl TrainingRun {
    async fn ask<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Core) -> chatlm_job::Result<R> + Send + 'static,
    ) -> napi::Result<R> {
        let (reply, answer) = oneshot::channel();
        {
            let guard = self.worker.lock().map_err(|_| to_napi(&closed()))?;
            guard
                .as_ref()
                .ok_or_else(|| to_napi(&closed()))?
                .submit(task, move |result| {
                    let _ = reply.send(result);
                });
        }
        answer
            .await
            .unwrap_or_else(|_| Err(closed()))
            .map_err(|e| to_napi(&e))
    }
}

#[napi]
impl TrainingRun {
    /// Opens a run folder: reads configuration, data and model, and goes on from the newest whole
    /// checkpoint. `kind` is `pretrain`, `sft` or `dpo`; `config` is the resolved configuration.
    #[napi(
        ts_args_type = "kind: 'pretrain' | 'sft' | 'dpo', config: object, options: TrainingRunOptions, onProgress?: ((progress: Progress) => void) | undefined | null, cancel?: CancelToken | undefined | null"
    )]
    pub async fn open(
        kind: String,
        config: serde_json::Value,
        options: TrainingRunOptions,
        on_progress: Option<OnProgress>,
        cancel: Option<CancelHandle>,
    ) -> napi::Result<Self> {
        let job = job(on_progress, cancel);
        blocking(move || {
            prepare_for(Work::Training);
            let kind = kind.parse::<RunKind>()?;
            let options = RunOptions {
                fresh: options.fresh,
                force: options.force,
                from: options.from.map(u64::from),
                device: options.device,
                worker: options.worker.map(|place| chatlm_run::WorkerPlace {
                    rank: place.rank as usize,
                    folder: place.folder.into(),
                }),
            };
            let run = Core::open(kind, config, options, job)?;
            let worker = Worker::start("chatlm-train", run)?;
            Ok(Self {
                worker: Arc::new(Mutex::new(Some(worker))),
            })
        })
        .await
    }

    /// Runs up to `steps` optimizer steps with the evaluations and checkpoints that fall due, and
    /// tells what happened. Comes back early once the cancel token is set; with 0, as soon as there is
    /// something to tell.
    #[napi(ts_return_type = "Promise<TrainEvent[]>")]
    pub async fn advance(&self, steps: u32) -> napi::Result<serde_json::Value> {
        self.ask(move |run| json(&run.advance(u64::from(steps))?))
            .await
    }

    /// Saves a checkpoint at the current step and answers its folder.
    #[napi]
    pub async fn interrupt(&self) -> napi::Result<Option<String>> {
        self.ask(|run| Ok(run.interrupt()?.map(|path| path.display().to_string())))
            .await
    }

    /// Ends the run without saving, and comes back when a checkpoint that is being written is whole and the
    /// other workers know.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let worker = self.worker.lock().ok().and_then(|mut worker| worker.take());
        blocking(move || {
            drop(worker);
            Ok(())
        })
        .await
    }
}

#[napi(object)]
pub struct VerifyResumeOptions {
    /// Steps of the undisturbed run.
    pub steps: u32,
    /// The step after which the other run is stopped and resumed.
    pub at: u32,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

/// Trains in one go and in two, in folders of their own, and compares every part of the state.
#[napi(
    ts_args_type = "kind: 'pretrain' | 'sft' | 'dpo', config: object, options: VerifyResumeOptions, onProgress?: ((progress: Progress) => void) | undefined | null, cancel?: CancelToken | undefined | null",
    ts_return_type = "Promise<{ equal: boolean; parts: Record<string, boolean> }>"
)]
pub async fn verify_resume(
    kind: String,
    config: serde_json::Value,
    options: VerifyResumeOptions,
    on_progress: Option<OnProgress>,
    cancel: Option<CancelHandle>,
) -> napi::Result<serde_json::Value> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let kind = kind.parse::<RunKind>()?;
        json(&run_verify(
            kind,
            config,
            u64::from(options.steps),
            u64::from(options.at),
            options.device.as_deref(),
            &job,
        )?)
    })
    .await
}

/// What `advance` tells. `type` says which of the fields are there.
#[napi(object)]
#[allow(dead_code, reason = "a type for index.d.ts; events cross as JSON")]
pub struct TrainEvent {
    #[napi(
        js_name = "type",
        ts_type = "'started' | 'step' | 'evaluated' | 'sample' | 'saved' | 'skipped' | 'reference' | 'contamination' | 'warned' | 'finished'"
    )]
    pub kind: String,
    pub step: i64,
    /// `started` and `step`
    pub total_steps: Option<i64>,
    pub parameters: Option<i64>,
    pub trainable: Option<i64>,
    pub resumed_from: Option<String>,
    pub skipped: Option<Vec<String>>,
    /// `step`
    pub epoch: Option<f64>,
    pub loss: Option<f64>,
    pub learning_rate: Option<f64>,
    pub grad_norm: Option<f64>,
    pub tokens_per_second: Option<f64>,
    /// Memory that the process holds now.
    pub rss_bytes: Option<i64>,
    /// Share of what is computed that is padding: rows are laid end to end, so 0.
    pub padding_share: Option<f64>,
    /// `step` and `evaluated`: tokens trained on, seconds that the run has been open (over all
    /// processes), and seconds since 1970
    pub tokens: Option<i64>,
    pub seconds: Option<f64>,
    pub time: Option<f64>,
    /// `step` in f16: what the loss is multiplied by, and steps left out since a gradient was too large
    pub loss_scale: Option<f64>,
    pub skipped_steps: Option<i64>,
    /// `step` and `evaluated` of `dpo`
    #[napi(
        ts_type = "{ chosen: number; rejected: number; margins: number; accuracies: number; logpsChosen: number; logpsRejected: number; nllLoss: number; logOddsRatio?: number; logOddsChosen?: number }"
    )]
    pub rewards: Option<serde_json::Value>,
    /// `evaluated`
    pub eval_loss: Option<f64>,
    pub eval_bleu4: Option<f64>,
    pub best: Option<bool>,
    /// `sample`
    pub prompt: Option<String>,
    pub response: Option<String>,
    pub label: Option<String>,
    /// `reference` (rows scored, those of them that were computed now) and `contamination` (evaluation
    /// rows; those in `train` to the byte, after normalization, by prompt; the first of them)
    pub rows: Option<i64>,
    pub computed: Option<i64>,
    pub exact: Option<i64>,
    pub same: Option<i64>,
    pub prompts: Option<i64>,
    pub first: Option<Vec<i64>>,
    /// `saved`, `reference`
    pub path: Option<String>,
    /// `finished` (`steps`, `earlyStop`), `skipped`, `warned`
    pub reason: Option<String>,
}
