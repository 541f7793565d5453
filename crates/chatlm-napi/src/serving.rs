//! Many requests answered together: what a server stands on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatlm_job::{Cancel, Error};
use chatlm_run::{
    Generator as Core, GeneratorOptions as CoreOptions, Limits, Outcome, Question,
    Serving as CoreServing, Told,
};
use napi::bindgen_prelude::AsyncGenerator;
use napi::tokio::sync::{Mutex as AsyncMutex, mpsc};
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::{blocking, to_napi};
use crate::generate::{Answer, GenerationSettings, GeneratorInfo, GeneratorOptions};
use crate::job::{CancelHandle, OnProgress, job};

/// How much is taken on at once.
#[napi(object)]
#[derive(Default)]
pub struct ServingLimits {
    /// Answers (or beams of one) that a step of the model computes together. Default 32.
    pub rows: Option<u32>,
    /// Requests that wait; one more is refused with `QUEUE_FULL`. Default 256.
    pub waiting: Option<u32>,
    /// Bytes of keys and values that running requests may come to need. Default 1 GiB.
    pub cache_bytes: Option<i64>,
}

#[napi(object)]
pub struct AskOptions {
    /// What to ask instead where the model has no room for the prompt: the first that fits, else the last, cut.
    pub shorter: Option<Vec<String>>,
    /// Whose request it is: clients take turns.
    pub client: Option<String>,
    /// How long all of it may take, waiting included, in milliseconds; then the answer ends where it is.
    pub timeout: Option<u32>,
}

/// News of a request: text, and at last the whole.
#[napi(object)]
pub struct AnswerPiece {
    /// Which of several answers goes on.
    pub answer: u32,
    /// Text that is certain now.
    pub text: String,
    /// Tokens of that answer so far.
    pub tokens: u32,
    /// Set in the last piece, which has no text of its own.
    pub end: Option<RequestEnd>,
}

#[napi(object)]
pub struct RequestEnd {
    /// Best first where they have scores. Given up before it began: none.
    pub answers: Vec<Answer>,
    /// The end of each answer's text that no piece has told.
    pub rest: Vec<String>,
    pub prompt_tokens: u32,
    /// The prompt was longer than the model's room: it was cut, or a shorter one taken.
    pub cut: bool,
    /// Seconds from coming to the first step.
    pub waited: f64,
    /// Seconds from coming to the first token.
    pub first_token: Option<f64>,
    pub seconds: f64,
}

impl From<Outcome> for RequestEnd {
    fn from(outcome: Outcome) -> Self {
        Self {
            answers: outcome.answers.into_iter().map(Answer::from).collect(),
            rest: outcome.rest,
            prompt_tokens: outcome.prompt_tokens as u32,
            cut: outcome.cut,
            waited: outcome.waited_seconds,
            first_token: outcome.first_token_seconds,
            seconds: outcome.seconds,
        }
    }
}

/// The numbers of a service; those of tokens, answers and steps are sums since its start.
#[napi(object)]
pub struct ServingStats {
    pub waiting: u32,
    pub running: u32,
    /// Rows of the last step.
    pub rows: u32,
    /// Bytes that running requests may come to need for keys and values.
    pub cache_bytes: i64,
    pub answered: i64,
    pub cancelled: i64,
    pub failed: i64,
    pub refused: i64,
    pub prompt_tokens: i64,
    pub tokens: i64,
    pub steps: i64,
    /// Rows of all steps together.
    pub rows_stepped: i64,
}

fn closed() -> Error {
    Error::internal("the service is closed")
}

/// A loaded model that answers many requests at once (continuous batching).
#[napi]
pub struct Serving {
    core: Arc<Mutex<Option<Arc<CoreServing>>>>,
    info: (String, u32, i64),
}

impl Serving {
    fn core(&self) -> napi::Result<Arc<CoreServing>> {
        let core = self.core.lock().ok().and_then(|core| core.clone());
        core.ok_or_else(|| to_napi(&closed()))
    }
}

#[napi]
impl Serving {
    /// Loads a model; rejects with `MODEL_INVALID`, `TOKENIZER_INVALID` or `NOT_FINITE`.
    #[napi]
    pub async fn load(
        options: GeneratorOptions,
        limits: ServingLimits,
        #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")]
        on_progress: Option<OnProgress>,
        #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
    ) -> napi::Result<Self> {
        let job = job(on_progress, cancel);
        blocking(move || {
            prepare_for(Work::Answers);
            let model = options.model.clone();
            let core = Core::load(
                &CoreOptions {
                    model: options.model.into(),
                    adapter: options.adapter.map(Into::into),
                    dtype: options.dtype,
                    max_length: options.max_length.unwrap_or(512) as usize,
                    device: options.device,
                },
                &job,
            )?;
            let config = core.config();
            let info = (
                model,
                config.vocab_size as u32,
                config.parameter_count() as i64,
            );
            let known = Limits::default();
            let count = |given: Option<u32>, known: usize| given.map_or(known, |n| n as usize);
            let limits = Limits {
                rows: count(limits.rows, known.rows),
                waiting: count(limits.waiting, known.waiting),
                cache_bytes: limits.cache_bytes.map_or(known.cache_bytes, |n| n as u64),
                ..known
            };
            let serving = CoreServing::start(core, limits)?;
            Ok(Self {
                core: Arc::new(Mutex::new(Some(Arc::new(serving)))),
                info,
            })
        })
        .await
    }

    #[napi(getter)]
    pub fn info(&self) -> GeneratorInfo {
        let (model, vocab_size, parameters) = self.info.clone();
        GeneratorInfo {
            model,
            vocab_size,
            parameters,
        }
    }

    /// Asks; the pieces come as an async iterable whose last one has `end`. Leaving the loop or `close()`
    /// gives the request up within a step. Throws `QUEUE_FULL` or `USAGE` at once.
    #[napi(catch_unwind)]
    pub fn ask(
        &self,
        prompt: String,
        settings: GenerationSettings,
        options: AskOptions,
    ) -> napi::Result<AnswerStream> {
        // A request's tokens are few and bounded, so its news need no bound of their own.
        let (news, told) = mpsc::unbounded_channel();
        let question = Question {
            prompt,
            shorter: options.shorter.unwrap_or_default(),
            settings: settings.into(),
            client: options.client.unwrap_or_default(),
            timeout: options
                .timeout
                .map(|millis| Duration::from_millis(millis.into())),
        };
        let tell = Box::new(move |told: Told| news.send(told).is_ok());
        let cancel = self
            .core()?
            .ask(question, tell)
            .map_err(|error| to_napi(&error))?;
        Ok(AnswerStream {
            told: Arc::new(AsyncMutex::new(told)),
            cancel,
        })
    }

    #[napi]
    pub fn stats(&self) -> napi::Result<ServingStats> {
        let stats = self.core()?.stats();
        Ok(ServingStats {
            waiting: stats.waiting as u32,
            running: stats.running as u32,
            rows: stats.rows as u32,
            cache_bytes: stats.cache_bytes as i64,
            answered: stats.answered as i64,
            cancelled: stats.cancelled as i64,
            failed: stats.failed as i64,
            refused: stats.refused as i64,
            prompt_tokens: stats.prompt_tokens as i64,
            tokens: stats.tokens as i64,
            steps: stats.steps as i64,
            rows_stepped: stats.rows_stepped as i64,
        })
    }

    /// Gives up what is running and frees the model.
    #[napi]
    pub fn close(&self) {
        if let Ok(mut core) = self.core.lock() {
            // Dropping waits for the step that runs: not on Node's thread.
            let core = core.take();
            std::thread::spawn(move || drop(core));
        }
    }
}

/// A request on its way; an async iterable of pieces.
#[napi(async_iterator)]
pub struct AnswerStream {
    told: Arc<AsyncMutex<mpsc::UnboundedReceiver<Told>>>,
    cancel: Cancel,
}

#[napi]
impl AsyncGenerator for AnswerStream {
    type Yield = AnswerPiece;
    type Next = ();
    type Return = ();

    fn next(
        &mut self,
        _value: Option<Self::Next>,
    ) -> impl Future<Output = napi::Result<Option<Self::Yield>>> + Send + 'static {
        let told = self.told.clone();
        async move {
            match told.lock().await.recv().await {
                Some(Told::Text {
                    answer,
                    text,
                    tokens,
                }) => Ok(Some(AnswerPiece {
                    answer: answer as u32,
                    text,
                    tokens: tokens as u32,
                    end: None,
                })),
                Some(Told::Done(outcome)) => Ok(Some(AnswerPiece {
                    answer: 0,
                    text: String::new(),
                    tokens: 0,
                    end: Some(outcome.into()),
                })),
                Some(Told::Failed(error)) => Err(to_napi(&error)),
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
impl AnswerStream {
    /// Gives the request up within a step.
    #[napi]
    pub fn close(&self) {
        self.cancel.cancel();
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
