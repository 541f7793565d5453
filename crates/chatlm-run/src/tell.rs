//! Between a search's tokens and a reader's text: answers end at stop texts, and streamed text goes
//! out as soon as it is certain.

use chatlm_generate::{End, Observer};
use chatlm_job::{Cancel, Result};
use chatlm_tokenizer::{DecodeStream, Tokenizer};
use serde::Serialize;

use crate::stop::{Held, Stops};

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    pub text: String,
    /// Tokens generated so far.
    pub tokens: usize,
    pub done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    Stop,
    Length,
    Cancelled,
}

impl FinishReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<End> for FinishReason {
    fn from(end: End) -> Self {
        match end {
            End::Stop => Self::Stop,
            End::Length => Self::Length,
        }
    }
}

/// Ends answers at stop texts.
pub(crate) struct Watch<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a Stops,
    /// What went wrong meanwhile.
    pub(crate) result: Result<()>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, stops: &'a Stops) -> Self {
        Self {
            tokenizer,
            stops,
            result: Ok(()),
        }
    }
}

impl Observer for Watch<'_> {
    /// Tokens that cannot be decoded end the answer: the error comes after it.
    fn ends(&mut self, _place: usize, tokens: &[u32]) -> bool {
        self.stops
            .reached(self.tokenizer, tokens)
            .unwrap_or_else(|error| {
                self.result = Err(error);
                true
            })
    }
}

/// Tokens of one answer as text, each piece as soon as it is certain.
pub(crate) struct Spoken {
    text: DecodeStream,
    held: Held,
}

impl Spoken {
    pub(crate) fn new(tokenizer: &Tokenizer, stops: &Stops) -> Self {
        Self {
            text: tokenizer.stream(),
            held: Held::new(stops.clone()),
        }
    }

    pub(crate) fn push(&mut self, tokens: &[u32]) -> Result<String> {
        let mut text = String::new();
        for &token in tokens {
            text += &self.held.push(&self.text.push(token)?.unwrap_or_default());
        }
        Ok(text)
    }

    /// What waited, where nothing more comes.
    pub(crate) fn finish(&mut self) -> Result<String> {
        let rest = self.text.finish()?.unwrap_or_default();
        Ok(self.held.push(&rest) + &self.held.finish())
    }
}

/// Hands out the text of one answer as it becomes certain.
pub(crate) struct Telling<'a> {
    watch: Watch<'a>,
    spoken: Spoken,
    count: usize,
    cancel: &'a Cancel,
    emit: &'a mut dyn FnMut(Piece) -> bool,
}

impl<'a> Telling<'a> {
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        stops: &'a Stops,
        cancel: &'a Cancel,
        emit: &'a mut dyn FnMut(Piece) -> bool,
    ) -> Self {
        Self {
            watch: Watch::new(tokenizer, stops),
            spoken: Spoken::new(tokenizer, stops),
            count: 0,
            cancel,
            emit,
        }
    }

    /// Hands out what waited and says why the answer ended.
    pub(crate) fn finish(mut self, reason: FinishReason) -> Result<()> {
        self.watch.result?;
        let text = self.spoken.finish()?;
        (self.emit)(Piece {
            text,
            tokens: self.count,
            done: true,
            finish_reason: Some(reason),
        });
        Ok(())
    }
}

impl Observer for Telling<'_> {
    fn wrote(&mut self, _place: usize, answer: usize, tokens: &[u32]) {
        if answer > 0 {
            return;
        }
        self.count += tokens.len();
        let text = self.spoken.push(tokens).unwrap_or_else(|error| {
            self.watch.result = Err(error);
            String::new()
        });
        let piece = Piece {
            text,
            tokens: self.count,
            done: false,
            finish_reason: None,
        };
        if self.watch.result.is_err() || (!piece.text.is_empty() && !(self.emit)(piece)) {
            self.cancel.cancel();
        }
    }

    fn ends(&mut self, place: usize, tokens: &[u32]) -> bool {
        self.watch.ends(place, tokens)
    }
}
