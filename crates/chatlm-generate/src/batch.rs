//! Requests answered together: one step of the decoder moves all of them by a token. They come and
//! go at any time, each with its own search and settings, and none changes another's answer.

use std::sync::Arc;

use chatlm_job::{Code, Error, Result};
use rayon::prelude::*;

use crate::beams::Beams;
use crate::contrastive::Contrastive;
use crate::decoder::Decoder;
use crate::lines::Lines;
use crate::writer::{Answer, Needs, Observer, Read, Task, Writer};
use crate::{Search, Settings};

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The encoder's ids, `[EOS]` included.
    pub ids: Vec<u32>,
    /// The sampling stream: the same key gives the same answer beside any neighbours.
    pub key: u64,
}

struct Slot {
    place: usize,
    rows: usize,
    writer: Box<dyn Writer>,
    /// Why it cannot go on.
    failed: Option<Error>,
}

/// What a request came to, by its place.
pub type Done = (usize, Result<Vec<Answer>>);

/// The requests at work on one decoder, which must be used by nothing else meanwhile.
#[derive(Default)]
pub struct Batch {
    /// In the order of the decoder's rows.
    slots: Vec<Slot>,
    /// What each row reads next.
    tokens: Vec<u32>,
    /// How many requests have come.
    count: usize,
    logits: Vec<f32>,
    best: Vec<Option<u32>>,
}

impl Batch {
    /// Whether nothing is at work.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Rows that the decoder computes at the next step.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Takes requests in; the place of the first, which the others follow. All or none: a request with
    /// ids outside the vocabulary, or with none, is refused with its number among these.
    pub fn add(
        &mut self,
        decoder: &mut dyn Decoder,
        requests: &[Request],
        settings: &Settings,
    ) -> Result<usize> {
        let first = self.count;
        let settings = Arc::new(settings.clone());
        let each: Vec<_> = requests
            .iter()
            .map(|request| (request, settings.clone()))
            .collect();
        self.add_each(decoder, &each)?;
        Ok(first)
    }

    /// [`Batch::add`] for requests with settings of their own.
    pub fn add_each(
        &mut self,
        decoder: &mut dyn Decoder,
        requests: &[(&Request, Arc<Settings>)],
    ) -> Result<usize> {
        let first = self.count;
        if requests.is_empty() {
            return Ok(first);
        }
        let config = decoder.config().clone();
        check(
            requests.iter().map(|(request, _)| *request),
            config.vocab_size,
        )?;
        let prompts: Vec<&[u32]> = requests.iter().map(|(r, _)| r.ids.as_slice()).collect();
        decoder.add(&prompts)?;
        for (request, settings) in requests {
            let ends: Arc<[u32]> = match settings.end_tokens.as_slice() {
                [] => Arc::new([config.eos_token_id]),
                given => given.into(),
            };
            let task = Task {
                place: self.count,
                key: request.key,
                settings: settings.clone(),
                ends,
                start: config.decoder_start_token_id,
                pad: config.pad_token_id,
                vocabulary: config.vocab_size,
            };
            self.slots.push(Slot {
                place: self.count,
                rows: 1,
                writer: writer(task),
                failed: None,
            });
            self.tokens.push(config.decoder_start_token_id);
            self.count += 1;
        }
        Ok(first)
    }

    /// One step of all requests; the answers of those that are done, which leave. A request whose scores
    /// are not finite leaves with the error, and the others go on.
    pub fn step(
        &mut self,
        decoder: &mut dyn Decoder,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Done>> {
        let Some(needs) = self.slots.iter().map(|slot| slot.writer.needs()).max() else {
            return Ok(Vec::new());
        };
        self.read(decoder, needs)?;
        let (mut parents, mut tokens) = (Vec::new(), Vec::new());
        let mut done = Vec::new();
        let mut row = 0;
        self.slots.retain_mut(|slot| {
            if let Some(error) = slot.failed.take() {
                row += slot.rows;
                done.push((slot.place, Err(error)));
                return false;
            }
            let next = slot.writer.go_on(observer);
            parents.extend(next.parents.iter().map(|parent| row + parent));
            row += slot.rows;
            slot.rows = next.tokens.len();
            tokens.extend(next.tokens);
            if slot.rows == 0 {
                done.push((slot.place, Ok(slot.writer.answers())));
            }
            slot.rows > 0
        });
        self.tokens = tokens;
        select(decoder, &parents)?;
        Ok(done)
    }

    /// Forgets requests that are still at work.
    pub fn remove(&mut self, decoder: &mut dyn Decoder, places: &[usize]) -> Result<()> {
        let mut parents = Vec::new();
        let mut row = 0;
        self.slots.retain(|slot| {
            let stays = !places.contains(&slot.place);
            if stays {
                parents.extend(row..row + slot.rows);
            }
            row += slot.rows;
            stays
        });
        self.tokens = parents.iter().map(|&row| self.tokens[row]).collect();
        select(decoder, &parents)
    }

    /// Every row reads its token, and every request what came of it.
    fn read(&mut self, decoder: &mut dyn Decoder, needs: Needs) -> Result<()> {
        if needs == Needs::Best {
            decoder.step_best(&self.tokens, &mut self.best)?;
            let mut best = self.best.as_slice();
            for slot in &mut self.slots {
                let (own, rest) = best.split_at(slot.rows);
                best = rest;
                slot.failed = slot.writer.read(Read::Best(own)).err();
            }
            return Ok(());
        }
        decoder.step(&self.tokens, &mut self.logits)?;
        let hidden = match needs {
            Needs::Hidden => decoder.hidden()?,
            _ => Vec::new(),
        };
        let width = decoder.config().vocab_size;
        let hidden_width = hidden.len() / self.tokens.len().max(1);
        let (mut logits, mut hidden) = (self.logits.as_mut_slice(), hidden.as_slice());
        let mut parts = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            let (own, rest) = logits.split_at_mut(slot.rows * width);
            let (states, others) = hidden.split_at(slot.rows * hidden_width);
            (logits, hidden) = (rest, others);
            parts.push((slot, own, states));
        }
        parts.into_par_iter().for_each(|(slot, logits, hidden)| {
            slot.failed = slot.writer.read(Read::Logits { logits, hidden }).err();
        });
        Ok(())
    }
}

fn writer(task: Task) -> Box<dyn Writer> {
    match task.settings.search {
        Search::Greedy | Search::Sample => Box::new(Lines::new(task)),
        Search::Beam | Search::BeamSample => Box::new(Beams::new(task)),
        Search::Contrastive => Box::new(Contrastive::new(task)),
    }
}

/// Leaves the decoder alone where its rows stay as they are.
fn select(decoder: &mut dyn Decoder, rows: &[usize]) -> Result<()> {
    let same = rows.len() == decoder.rows() && rows.iter().enumerate().all(|(at, &row)| at == row);
    if same { Ok(()) } else { decoder.select(rows) }
}

fn check<'a>(requests: impl Iterator<Item = &'a Request>, vocabulary: usize) -> Result<()> {
    for (place, request) in requests.enumerate() {
        let wrong = match request.ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => format!("token {id} of prompt {place} is outside the model's vocabulary"),
            None if request.ids.is_empty() => {
                format!("prompt {place} has no token, not even [EOS]")
            }
            None => continue,
        };
        return Err(Error::new(
            Code::InputRow,
            wrong,
            "use the tokenizer that lies in the model's folder",
        )
        .with("row", place));
    }
    Ok(())
}
