//! What a search needs of a model, and the plain way to give it: the training model's own steps.

use std::sync::Arc;

use candle_core::Tensor;
use chatlm_job::{Error, Result};
use chatlm_t5::{Cache, Config, Model, Pass, Precision, Sequences, Session, Tape, best};

/// Rows that have each read a prompt and are writing an answer, one token a step.
pub trait Decoder {
    fn config(&self) -> &Config;

    /// Rows at work.
    fn rows(&self) -> usize;

    /// Encodes prompts (each at least one id, all inside the vocabulary); each becomes a row behind
    /// those that are there, and has written nothing yet.
    fn add(&mut self, prompts: &[&[u32]]) -> Result<()>;

    /// Whether prompts may be added while rows are at work.
    fn grows(&self) -> bool {
        true
    }

    /// The rows become the given ones, in this order. A row given twice goes on as two, which share
    /// what is written so far; a row left out is forgotten.
    fn select(&mut self, rows: &[usize]) -> Result<()>;

    /// Each row reads one more token, the start token first. `logits` becomes the scores over the
    /// vocabulary after it, row after row.
    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()>;

    /// As [`Decoder::step`], where only the most likely token of each row is asked for: the first of
    /// the largest scores, `None` where a score is not finite.
    fn step_best(&mut self, tokens: &[u32], best: &mut Vec<Option<u32>>) -> Result<()> {
        let mut logits = Vec::new();
        self.step(tokens, &mut logits)?;
        best.clear();
        for row in logits.chunks(self.config().vocab_size.max(1)) {
            best.push(first_largest(row));
        }
        Ok(())
    }

    /// The decoder's last hidden states after the last step, final norm included: `(rows, d_model)`.
    fn hidden(&self) -> Result<Vec<f32>>;
}

/// The place of the first of the largest scores; `None` where one is not finite.
pub(crate) fn first_largest(scores: &[f32]) -> Option<u32> {
    let mut best = 0;
    for (place, &score) in scores.iter().enumerate() {
        if !score.is_finite() {
            return None;
        }
        if score > scores[best] {
            best = place;
        }
    }
    u32::try_from(best).ok()
}

/// The training model's own steps, on any device: the reference of the faster ones. All its rows
/// start together.
pub struct Plain<'a> {
    model: &'a Model,
    pass: Pass,
    cache: Option<Cache>,
    rows: usize,
    hidden: Option<Tensor>,
}

impl<'a> Plain<'a> {
    pub fn new(model: &'a Model, adapter: bool) -> Self {
        Self {
            model,
            pass: Pass {
                adapter,
                ..Pass::inference()
            },
            cache: None,
            rows: 0,
            hidden: None,
        }
    }
}

impl Plain<'_> {
    /// One step: scores `(rows, vocabulary)` on the model's device.
    fn scores(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let Some(cache) = &mut self.cache else {
            return Err(Error::internal("a step without rows"));
        };
        let ids = Tensor::new(tokens, self.model.device()).map_err(Error::internal)?;
        let ids = ids.reshape((tokens.len(), 1)).map_err(Error::internal)?;
        let hidden = self.model.step_hidden(&ids, cache, &self.pass)?;
        let scores = self.model.logits(&hidden)?;
        self.hidden = Some(hidden);
        Ok(scores)
    }
}

impl Decoder for Plain<'_> {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn grows(&self) -> bool {
        false
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn add(&mut self, prompts: &[&[u32]]) -> Result<()> {
        if self.rows > 0 {
            return Err(Error::internal("the plain decoder's rows start together"));
        }
        let source = Sequences::new(prompts, self.model.device())?;
        let encoded = self
            .model
            .encode(&Tape::off(Precision::F32), &source, &self.pass)?;
        let rows: Arc<_> = source.rows;
        self.cache = Some(self.model.start(&encoded, &rows, &self.pass)?);
        self.rows = prompts.len();
        Ok(())
    }

    fn select(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(cache) = &mut self.cache {
            let keep: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
            let keep =
                Tensor::new(keep.as_slice(), self.model.device()).map_err(Error::internal)?;
            cache.select(&keep)?;
            if let Some(hidden) = &mut self.hidden {
                *hidden = hidden.index_select(&keep, 0).map_err(Error::internal)?;
            }
        }
        self.rows = rows.len();
        if rows.is_empty() {
            (self.cache, self.hidden) = (None, None);
        }
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        let scores = self.scores(tokens)?;
        let values = scores.flatten_all().and_then(|scores| scores.to_vec1());
        *logits = values.map_err(Error::internal)?;
        Ok(())
    }

    fn step_best(&mut self, tokens: &[u32], found: &mut Vec<Option<u32>>) -> Result<()> {
        *found = best(&self.scores(tokens)?).map_err(Error::internal)?;
        Ok(())
    }

    fn hidden(&self) -> Result<Vec<f32>> {
        match &self.hidden {
            Some(hidden) => hidden
                .flatten_all()
                .and_then(|hidden| hidden.to_vec1())
                .map_err(Error::internal),
            None => Ok(Vec::new()),
        }
    }
}

/// The fast engine of the processor.
impl Decoder for Session {
    fn config(&self) -> &Config {
        self.config()
    }

    fn rows(&self) -> usize {
        self.rows()
    }

    fn add(&mut self, prompts: &[&[u32]]) -> Result<()> {
        self.add(prompts)
    }

    fn select(&mut self, rows: &[usize]) -> Result<()> {
        self.select(rows)
    }

    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        self.step(tokens, logits)
    }

    fn step_best(&mut self, tokens: &[u32], best: &mut Vec<Option<u32>>) -> Result<()> {
        *best = self.step_best(tokens)?;
        Ok(())
    }

    fn hidden(&self) -> Result<Vec<f32>> {
        Ok(self.hidden().to_vec())
    }
}
