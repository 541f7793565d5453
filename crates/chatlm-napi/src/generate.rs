//! A loaded model: answers in batches and as streams.

use std::sync::Arc;
use std::sync::Mutex;

use chatlm_job::{Cancel, Error, Job};
use chatlm_run::{
    Answer as CoreAnswer, Generator as Core, GeneratorOptions as CoreOptions, GivenSettings, Piece,
    RejectOptions as CoreReject, Worker, reject as run_reject,
};
use napi::bindgen_prelude::AsyncGenerator;
use napi::tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::{blocking, to_napi};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct GeneratorOptions {
    /// A model folder with its tokenizer.
    pub model: String,
    /// A PEFT adapter folder for that model.
    pub adapter: Option<String>,
    /// `f32`, `f16`, `bf16` or `int8`; left out, what the folder holds.
    pub dtype: Option<String>,
    /// The longest prompt in tokens; longer ones are cut before `[EOS]`. Default 512.
    pub max_length: Option<u32>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

/// What is left out comes from the model's generation_config.json, then from the defaults.
#[napi(object)]
#[derive(Default)]
pub struct GenerationSettings {
    /// The reference program's ways: `chatlm-beam` (5 drawn beams, top-k 50, top-p 0.95, no 4-gram
    /// twice, length penalty -2, early stopping) or `chatlm-sample` (top-k 50, top-p 0.8, temperature
    /// 0.98, no 4-gram twice). Beats the model's file; the other settings beat it.
    pub preset: Option<String>,
    /// `greedy` (default), `beam`, `beam-sample`, `sample` or `contrastive`. Left out, `beams` above 1
    /// means beams and `penaltyAlpha` contrastive search.
    pub search: Option<String>,
    /// Default 320.
    pub max_new_tokens: Option<u32>,
    /// Tokens before which no answer ends; default 0.
    pub min_new_tokens: Option<u32>,
    /// Above 0; default 1.
    pub temperature: Option<f64>,
    /// 0 switches it off (default). In contrastive search the number of candidates, at least 2
    /// (default 4).
    pub top_k: Option<u32>,
    /// Above 0 and at most 1; default 1.
    pub top_p: Option<f64>,
    /// Above 0; 1 switches it off (default).
    pub repetition_penalty: Option<f64>,
    /// 0 switches it off (default).
    pub no_repeat_ngram: Option<u32>,
    /// 1 to 512; default 5 where the search has beams.
    pub beams: Option<u32>,
    /// Beams: above 0 favours long answers, below 0 short ones; default 1.
    pub length_penalty: Option<f64>,
    /// Beams: `true` ends with as many answers as beams, `false` (default) once the best beam could
    /// not beat them as it is, `never` once no beam could at any length.
    pub early_stopping: Option<String>,
    /// Answers a prompt: at most as many as beams, or that many drawn ones; default 1.
    pub answers: Option<u32>,
    /// Contrastive search: the weight of being unlike what is there, 0 to 1; default 0.6.
    pub penalty_alpha: Option<f64>,
    /// Texts before which an answer ends.
    pub stop: Option<Vec<String>>,
    /// Sampling with the same seed gives the same answers.
    pub seed: Option<f64>,
}

impl From<GenerationSettings> for GivenSettings {
    fn from(given: GenerationSettings) -> Self {
        let count = |value: Option<u32>| value.map(|n| n as usize);
        Self {
            preset: given.preset,
            search: given.search,
            max_new_tokens: count(given.max_new_tokens),
            min_new_tokens: count(given.min_new_tokens),
            temperature: given.temperature,
            top_k: count(given.top_k),
            top_p: given.top_p,
            repetition_penalty: given.repetition_penalty,
            no_repeat_ngram: count(given.no_repeat_ngram),
            beams: count(given.beams),
            length_penalty: given.length_penalty,
            early_stopping: given.early_stopping,
            answers: count(given.answers),
            penalty_alpha: given.penalty_alpha,
            stop: given.stop,
            seed: given.seed.map(|n| n as u64),
        }
    }
}

#[napi(object)]
pub struct Answer {
    pub prompt: String,
    /// Up to the first stop text, if there is one.
    pub response: String,
    /// Ids without `[PAD]`, with `[EOS]` where it was reached; those of a stop text are there.
    pub tokens: Vec<u32>,
    /// Where beams gave one: the sum of the tokens' logarithms of probabilities, divided by the length
    /// to the power of the length penalty.
    pub score: Option<f64>,
    /// `stop` or `length`.
    pub finish_reason: String,
}

impl From<CoreAnswer> for Answer {
    fn from(answer: CoreAnswer) -> Self {
        Self {
            prompt: answer.prompt,
            response: answer.response,
            tokens: answer.tokens,
            score: answer.score,
            finish_reason: answer.finish_reason.as_str().to_owned(),
        }
    }
}

#[napi(object)]
pub struct GeneratorInfo {
    /// The folder the model was loaded from.
    pub model: String,
    pub vocab_size: u32,
    pub parameters: i64,
}

/// A loaded model on a thread of its own; calls are answered one after the other.
#[napi]
pub struct Generator {
    worker: Arc<Mutex<Option<Worker<Core>>>>,
    model: String,
    vocab_size: u32,
    parameters: i64,
}

fn closed() -> Error {
    Error::internal("the generator is closed")
}

impl Generator {
    async fn ask<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Core) -> chatlm_job::Result<R> + Send + 'static,
    ) -> napi::Result<R> {
        let (reply, answer) = oneshot::channel();
        self.submit(task, move |result| {
            let _ = reply.send(result);
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(closed()))
            .map_err(|e| to_napi(&e))
    }

    fn submit<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Core) -> chatlm_job::Result<R> + Send + 'static,
        reply: impl FnOnce(chatlm_job::Result<R>) + Send + 'static,
    ) -> napi::Result<()> {
        let guard = self.worker.lock().map_err(|_| to_napi(&closed()))?;
        guard
            .as_ref()
            .ok_or_else(|| to_napi(&closed()))?
            .submit(task, reply);
        Ok(())
    }
}

#[napi]
impl Generator {
    /// Loads a model; rejects with `MODEL_INVALID`, `TOKENIZER_INVALID` or `NOT_FINITE`.
    #[napi]
    pub async fn load(
        options: GeneratorOptions,
        #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")]
        on_progress: Option<OnProgress>,
        #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
    ) -> napi::Result<Self> {
        let job = job(on_progress, cancel);
        blocking(move || {
            prepare_for(Work::Answers);
            let core = Core::load(
                &CoreOptions {
                    model: options.model.clone().into(),
                    adapter: options.adapter.map(Into::into),
                    dtype: options.dtype,
                    max_length: options.max_length.unwrap_or(512) as usize,
                    device: options.device,
                },
                &job,
            )?;
            let vocab_size = core.config().vocab_size as u32;
            let parameters = core.config().parameter_count() as i64;
            let worker = Worker::start("chatlm-generate", core)?;
            Ok(Self {
                worker: Arc::new(Mutex::new(Some(worker))),
                model: options.model,
                vocab_size,
                parameters,
            })
        })
        .await
    }

    #[napi(getter)]
    pub fn info(&self) -> GeneratorInfo {
        GeneratorInfo {
            model: self.model.clone(),
            vocab_size: self.vocab_size,
            parameters: self.parameters,
        }
    }

    /// Answers all prompts in their order, `batch` of them together; several answers of one prompt follow
    /// each other, best first. `first` (default 0) is how many prompts came before these: with it, answers
    /// that are drawn are the same however the prompts are handed over.
    #[napi]
    pub async fn generate(
        &self,
        prompts: Vec<String>,
        settings: GenerationSettings,
        batch: u32,
        #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")]
        on_progress: Option<OnProgress>,
        #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
        first: Option<f64>,
    ) -> napi::Result<Vec<Answer>> {
        let job = job(on_progress, cancel);
        let given = GivenSettings::from(settings);
        self.ask(move |core| {
            let settings = core.settings(&given)?;
            core.answer_from(
                first.unwrap_or(0.0) as u64,
                &prompts,
                &settings,
                batch as usize,
                &job,
            )
        })
        .await
        .map(|answers| answers.into_iter().map(Answer::from).collect())
    }

    /// Answers one prompt as a stream of text; `close()` or leaving the loop stops it within a token.
    #[napi(catch_unwind)]
    pub fn stream(
        &self,
        prompt: String,
        settings: GenerationSettings,
    ) -> napi::Result<TokenStream> {
        let given = GivenSettings::from(settings);
        let cancel = Cancel::default();
        let (pieces, receiver) = mpsc::channel(64);
        let (failures, stop) = (pieces.clone(), cancel.clone());
        self.submit(
            move |core| {
                let settings = core.settings(&given)?;
                core.stream(&prompt, &settings, &stop, &mut |piece| {
                    pieces.blocking_send(Ok(piece)).is_ok()
                })
            },
            move |result| {
                if let Err(error) = result {
                    let _ = failures.blocking_send(Err(error));
                }
            },
        )?;
        Ok(TokenStream {
            pieces: Arc::new(AsyncMutex::new(receiver)),
            cancel,
        })
    }

    /// Frees the model once running answers have ended.
    #[napi]
    pub fn close(&self) {
        if let Ok(mut worker) = self.worker.lock() {
            // Dropping waits for the running answer: not on Node's thread.
            let worker = worker.take();
            std::thread::spawn(move || drop(worker));
        }
    }
}

#[napi(object)]
pub struct TextPiece {
    /// Text that is certain now; may be empty in the last piece.
    pub text: String,
    /// Tokens generated so far.
    pub tokens: u32,
    pub done: bool,
    /// `stop`, `length` or `cancelled`, in the last piece.
    pub finish_reason: Option<String>,
}

impl From<Piece> for TextPiece {
    fn from(piece: Piece) -> Self {
        Self {
            text: piece.text,
            tokens: piece.tokens as u32,
            done: piece.done,
            finish_reason: piece.finish_reason.map(|reason| reason.as_str().to_owned()),
        }
    }
}

/// An answer on its way; an async iterable of pieces.
#[napi(async_iterator)]
pub struct TokenStream {
    pieces: Arc<AsyncMutex<mpsc::Receiver<chatlm_job::Result<Piece>>>>,
    cancel: Cancel,
}

#[napi]
impl AsyncGenerator for TokenStream {
    type Yield = TextPiece;
    type Next = ();
    type Return = ();

    fn next(
        &mut self,
        _value: Option<Self::Next>,
    ) -> impl Future<Output = napi::Result<Option<Self::Yield>>> + Send + 'static {
        let pieces = self.pieces.clone();
        async move {
            match pieces.lock().await.recv().await {
                Some(Ok(piece)) => Ok(Some(piece.into())),
                Some(Err(error)) => Err(to_napi(&error)),
                None => Ok(None),
            }
        }
    }

    fn complete(
        &mut self,
        _value: Option<Self::Return>,
    ) -> impl Future<Output = napi::Result<Option<Self::Yield>>> + Send + 'static {
        self.cancel.cancel();
        async { Ok(None) }
    }
}

#[napi]
impl TokenStream {
    /// Stops the answer within a token.
    #[napi]
    pub fn close(&self) {
        self.cancel.cancel();
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[napi(object)]
pub struct RejectOptions {
    pub model: String,
    pub adapter: Option<String>,
    /// Rows with `prompt` and `response`.
    pub inputs: Vec<String>,
    /// Rows with `prompt`, `chosen`, `rejected`.
    pub output: String,
    pub batch: u32,
    /// How answers are looked for; one a row is taken.
    pub settings: Option<GenerationSettings>,
    /// `f32`, `f16`, `bf16` or `int8`; left out, what the folder holds.
    pub dtype: Option<String>,
    /// Above 0 and at most 1: pairs whose answers are at least so alike (Jaccard similarity of runs of
    /// five characters, as `dedup` measures) are left out.
    pub max_similarity: Option<f64>,
    pub encoding: Option<String>,
    /// Counts rows that cannot be read instead of stopping; default false.
    pub keep_going: Option<bool>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
    pub force: bool,
}

#[napi(object)]
pub struct RejectReport {
    pub rows: i64,
    pub kept: i64,
    /// Rows left out because the model's answer was the true one after NFKC and without white space.
    pub same: i64,
    /// Rows left out because an answer was empty.
    pub empty: i64,
    /// Rows left out because the answers were too alike.
    pub similar: i64,
    /// Rows that could not be read.
    pub broken: i64,
    /// Answers that an earlier call, which did not come to its end, had left.
    pub resumed: i64,
    pub seconds: f64,
}

/// Writes the model's own answers as `rejected` beside the true ones as `chosen`.
#[napi]
pub async fn reject(
    options: RejectOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<RejectReport> {
    let job: Job = job(on_progress, cancel);
    blocking(move || {
        let report = run_reject(
            &CoreReject {
                model: options.model.into(),
                adapter: options.adapter.map(Into::into),
                inputs: options.inputs,
                output: options.output.into(),
                batch: options.batch as usize,
                settings: options.settings.unwrap_or_default().into(),
                dtype: options.dtype,
                max_similarity: options.max_similarity,
                encoding: options.encoding,
                keep_going: options.keep_going.unwrap_or_default(),
                device: options.device,
                force: options.force,
            },
            &job,
        )?;
        Ok(RejectReport {
            rows: report.rows as i64,
            kept: report.kept as i64,
            same: report.same as i64,
            empty: report.empty as i64,
            similar: report.similar as i64,
            broken: report.broken as i64,
            resumed: report.resumed as i64,
            seconds: report.seconds,
        })
    })
    .await
}
