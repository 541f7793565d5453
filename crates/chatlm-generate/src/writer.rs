//! One request being answered: what every search has in common.

use std::sync::Arc;

use chatlm_job::{Code, Error, Result};

use crate::filter::{changes_nothing, filter};
use crate::{Search, Settings};

/// Told what is written, and asked where an answer ends beside its end tokens. Places count the
/// requests in the order in which they came.
pub trait Observer {
    /// Tokens that are certain now: the answer goes on with them, whatever comes. In a search with
    /// beams only the best answer (0) is told of, with what all that may still win have in common.
    fn wrote(&mut self, place: usize, answer: usize, tokens: &[u32]) {
        let _ = (place, answer, tokens);
    }

    /// Whether an answer ends with the last of `tokens`, which are all of it so far: so do texts
    /// that stop an answer.
    fn ends(&mut self, place: usize, tokens: &[u32]) -> bool {
        let _ = (place, tokens);
        false
    }
}

/// Neither listens nor stops.
impl Observer for () {}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Without `[PAD]`, with the end token where it was reached.
    pub tokens: Vec<u32>,
    /// In a search with beams: the sum of the tokens' logarithms of probabilities after the filters,
    /// divided by the length to the power of the length penalty.
    pub score: Option<f32>,
    pub end: End,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By an end token, or where the observer said so.
    Stop,
    /// It is as long as it may be.
    Length,
}

/// What a step is to give. Ordered: each is served by the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    Best,
    Logits,
    Hidden,
}

/// What a step gave a request's rows.
pub(crate) enum Read<'a> {
    Best(&'a [Option<u32>]),
    Logits {
        logits: &'a mut [f32],
        /// Empty where no request needs it.
        hidden: &'a [f32],
    },
}

/// How a request's rows go on: which of them, in which order, and each one's next token. No rows:
/// all is said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) parents: Vec<usize>,
    pub(crate) tokens: Vec<u32>,
}

/// A search at work on one request. Starts with one row, which has read the start token.
pub(crate) trait Writer: Send {
    fn needs(&self) -> Needs;

    /// Takes in what the step gave. No word to the observer yet: requests do this side by side.
    fn read(&mut self, read: Read<'_>) -> Result<()>;

    /// Decides how to go on.
    fn go_on(&mut self, observer: &mut dyn Observer) -> Next;

    /// The answers, best first where they have scores, once there are no rows.
    fn answers(&mut self) -> Vec<Answer>;
}

/// What a writer knows of its request and the model.
pub(crate) struct Task {
    pub(crate) place: usize,
    pub(crate) key: u64,
    pub(crate) settings: Arc<Settings>,
    /// Tokens that end an answer.
    pub(crate) ends: Arc<[u32]>,
    pub(crate) start: u32,
    pub(crate) pad: u32,
    pub(crate) vocabulary: usize,
}

impl Task {
    /// Filters one row's scores, for the answer `history` (start token included).
    pub(crate) fn filter(&self, scores: &mut [f32], history: &[u32]) {
        filter(scores, history, &self.settings, &self.ends);
    }

    /// The token said where the filters forbid every other.
    pub(crate) fn last_resort(&self) -> u32 {
        self.ends.first().copied().unwrap_or(self.pad)
    }

    /// Whether the answer in `history` ends with its last token, and why.
    pub(crate) fn end(&self, history: &[u32], observer: &mut dyn Observer) -> Option<End> {
        let tokens = &history[1..];
        let last = tokens.last()?;
        if self.ends.contains(last) || observer.ends(self.place, tokens) {
            Some(End::Stop)
        } else if tokens.len() >= self.settings.max_new_tokens {
            Some(End::Length)
        } else {
            None
        }
    }

    /// The answer in `history`.
    pub(crate) fn answer(&self, history: &[u32], score: Option<f32>, end: End) -> Answer {
        Answer {
            tokens: self.without_padding(&history[1..]),
            score,
            end,
        }
    }

    /// Tells the observer of tokens that are certain.
    pub(crate) fn wrote(&self, observer: &mut dyn Observer, answer: usize, tokens: &[u32]) {
        let tokens = self.without_padding(tokens);
        if !tokens.is_empty() {
            observer.wrote(self.place, answer, &tokens);
        }
    }

    fn without_padding(&self, tokens: &[u32]) -> Vec<u32> {
        let real = |&id: &u32| id != self.pad;
        tokens.iter().copied().filter(real).collect()
    }

    pub(crate) fn check_finite(&self, logits: &[f32], written: usize) -> Result<()> {
        if logits.iter().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(self.not_finite(written))
        }
    }

    pub(crate) fn not_finite(&self, written: usize) -> Error {
        Error::new(
            Code::NotFinite,
            format!(
                "the model's scores are not finite at token {} of answer {}",
                written + 1,
                self.place
            ),
            "the weights are damaged or their training diverged: take an earlier checkpoint",
        )
        .with("row", self.place)
    }

    /// Whether the most likely token is all that a step need tell.
    pub(crate) fn takes_best(&self) -> bool {
        self.settings.search == Search::Greedy && changes_nothing(&self.settings)
    }
}
