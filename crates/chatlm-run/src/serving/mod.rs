//! Many requests answered together over one model, on a thread of its own: they join and leave
//! between two steps of the decoder (continuous batching, Yu and others 2022), within a bounded
//! memory for keys and values, in a fair order, and each may be given up at any step.
//!
//! This module owns the way in and the numbers; `schedule.rs` the loop, `queue.rs` who comes next,
//! `running.rs` what one request has said so far.

mod queue;
mod running;
mod schedule;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use chatlm_generate::{Request, Settings};
use chatlm_job::{Cancel, Code, Error, Result, mix};
use serde::{Deserialize, Serialize};

use crate::generator::{Answer, Generator};
use crate::given::GivenSettings;
use crate::settings::AnswerSettings;
use crate::stop::Stops;
use crate::tell::FinishReason;

/// How much is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Rows (answers, or beams of one) that one step computes.
    pub rows: usize,
    /// Requests that wait; one more is refused with `QUEUE_FULL`.
    pub waiting: usize,
    /// Bytes of keys and values that running requests may come to need.
    pub cache_bytes: u64,
    /// Prompt tokens that are read between two steps while others are writing.
    pub prompt_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows: 32,
            waiting: 256,
            cache_bytes: 1 << 30,
            prompt_tokens: 512,
        }
    }
}

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Question {
    pub prompt: String,
    /// What to ask instead where the model has no room for `prompt`: the first that fits, else the last, cut.
    pub shorter: Vec<String>,
    pub settings: GivenSettings,
    /// Whose it is: clients take turns, however much each of them asks.
    pub client: String,
    /// How long all of it may take, waiting included; then the answer ends where it is.
    pub timeout: Option<Duration>,
}

/// What is told of a request, in order; after `Done` or `Failed` nothing more.
#[derive(Debug, Clone)]
pub enum Told {
    /// Text of an answer that is certain now.
    Text {
        answer: usize,
        text: String,
        /// Tokens of that answer so far.
        tokens: usize,
    },
    Done(Outcome),
    Failed(Error),
}

/// A request's end.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Best first where they have scores. Given up before it began: none.
    pub answers: Vec<Answer>,
    /// What is left of each answer's streamed text.
    pub rest: Vec<String>,
    pub prompt_tokens: usize,
    /// The prompt was longer than the model's room: it was cut, or a shorter one taken.
    pub cut: bool,
    /// From coming to its first step.
    pub waited_seconds: f64,
    /// From coming to the first token.
    pub first_token_seconds: Option<f64>,
    pub seconds: f64,
}

/// The numbers of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServingStats {
    pub waiting: usize,
    pub running: usize,
    /// Rows of the last step.
    pub rows: usize,
    /// Bytes that running requests may come to need for keys and values.
    pub cache_bytes: u64,
    pub answered: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub refused: u64,
    pub prompt_tokens: u64,
    pub tokens: u64,
    pub steps: u64,
    /// Rows of all steps together.
    pub rows_stepped: u64,
}

/// Where a request's news go; answers whether someone still listens.
pub type Tell = Box<dyn FnMut(Told) -> bool + Send>;

/// A request that waits.
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) prompt: String,
    pub(crate) cut: bool,
    pub(crate) settings: Arc<Settings>,
    pub(crate) stops: Stops,
    pub(crate) client: String,
    pub(crate) came: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Cancel,
    /// Bytes of keys and values it may come to need, and rows.
    pub(crate) bytes: u64,
    pub(crate) rows: usize,
    pub(crate) tell: Tell,
}

/// A model that answers many at once. Dropped, it gives up what is running and waits for its thread.
pub struct Serving {
    generator: Arc<Generator>,
    limits: Limits,
    stats: Arc<Mutex<ServingStats>>,
    inbox: Option<Sender<Waiting>>,
    over: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub fn start(generator: Generator, limits: Limits) -> Result<Self> {
        let generator = Arc::new(generator);
        let (inbox, waiting) = channel();
        let stats = Arc::new(Mutex::new(ServingStats::default()));
        let over = Cancel::default();
        let (core, numbers, end) = (generator.clone(), stats.clone(), over.clone());
        let thread = Builder::new()
            .name("chatlm-serving".to_owned())
            .spawn(move || schedule::run(&core, limits, &waiting, &numbers, &end))
            .map_err(|e| Error::io(&e, "start a thread for", "answers"))?;
        Ok(Self {
            generator,
            limits,
            stats,
            inbox: Some(inbox),
            over,
            thread: Some(thread),
        })
    }

    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    pub fn stats(&self) -> ServingStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request in; `tell` gets its news, on the thread of the service. Cancelled, or once
    /// `tell` answers false, it leaves within a step.
    pub fn ask(&self, question: Question, tell: Tell) -> Result<Cancel> {
        let settings = self.generator.settings(&question.settings)?;
        let AnswerSettings { decoding, stop } = settings;
        let Question {
            prompt, shorter, ..
        } = question;
        let (prompt, ids, cut) = self.fitting(prompt, shorter)?;
        let rows = decoding.rows();
        let bytes = self.need(ids.len(), rows * decoding.max_new_tokens);
        if rows > self.limits.rows || bytes > self.limits.cache_bytes {
            return Err(Error::new(
                Code::Usage,
                format!(
                    "the request wants {rows} rows and {bytes} bytes for keys and values; there are {} and {}",
                    self.limits.rows, self.limits.cache_bytes
                ),
                "ask for fewer answers, beams or tokens, or serve with larger limits",
            ));
        }
        {
            let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
            if stats.waiting >= self.limits.waiting {
                stats.refused += 1;
                return Err(Error::new(
                    Code::QueueFull,
                    format!("{} requests are waiting already", stats.waiting),
                    "ask again a little later",
                ));
            }
            stats.waiting += 1;
        }
        let (came, cancel) = (Instant::now(), Cancel::default());
        let waiting = Waiting {
            request: Request {
                ids,
                key: mix(decoding.seed, 0),
            },
            prompt,
            cut,
            stops: Stops::new(&stop),
            settings: Arc::new(decoding),
            client: question.client,
            came,
            deadline: question.timeout.map(|timeout| came + timeout),
            cancel: cancel.clone(),
            bytes,
            rows,
            tell,
        };
        let sent = self.inbox.as_ref().map(|inbox| inbox.send(waiting).is_ok());
        if sent == Some(true) {
            Ok(cancel)
        } else {
            Err(Error::internal("the thread of the answers is gone"))
        }
    }

    /// The first of the prompts that the model has room for, else the last; its ids; whether anything was
    /// left out.
    fn fitting(&self, prompt: String, shorter: Vec<String>) -> Result<(String, Vec<u32>, bool)> {
        let (mut ids, mut too_long) = self.generator.encode_cut(&prompt)?;
        let (mut taken, cut) = (prompt, too_long);
        for next in shorter {
            if !too_long {
                break;
            }
            (ids, too_long) = self.generator.encode_cut(&next)?;
            taken = next;
        }
        Ok((taken, ids, cut))
    }

    /// Bytes of keys and values for a prompt and for tokens that are written.
    fn need(&self, prompt: usize, written: usize) -> u64 {
        let config = self.generator.config();
        let value = self.generator.cache_value_bytes();
        let layer = 2 * config.inner() as u64 * value;
        layer * config.decoder_layers() as u64 * (prompt + written) as u64
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.over.cancel();
        drop(self.inbox.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer of a request that was given up: what it had said.
pub(crate) fn given_up(prompt: &str, response: String, tokens: Vec<u32>) -> Answer {
    Answer {
        prompt: prompt.to_owned(),
        response,
        tokens,
        score: None,
        finish_reason: FinishReason::Cancelled,
    }
}
