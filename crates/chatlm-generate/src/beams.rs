//! Search with beams, plain and drawn, as `transformers` 5 does it.
//!
//! Source: `_beam_search` in `transformers/generation/utils.py`. There, places without a beam or an
//! ended answer hold a score of −10⁹ and take part; here they are not there, so that the first step
//! computes one row.

use chatlm_job::{Random, Result};

use crate::draw::{draw_several, largest, log_softmax};
use crate::writer::{Answer, End, Needs, Next, Observer, Read, Task, Writer};
use crate::{EarlyStopping, Settings};

/// An answer on its way, or one that has ended.
#[derive(Debug, Clone)]
struct Beam {
    /// Start token included.
    history: Vec<u32>,
    /// Of one on its way: the sum of its tokens' logarithms of probabilities. Of one that has ended:
    /// divided by its length to the power of the length penalty.
    score: f32,
}

/// A beam and one more token.
struct Candidate {
    parent: usize,
    token: u32,
    score: f32,
}

pub(crate) struct Beams {
    task: Task,
    random: Random,
    /// Best first, at most as many as asked for.
    live: Vec<Beam>,
    /// Best first, at most as many as beams.
    ended: Vec<(Beam, End)>,
    candidates: Vec<Candidate>,
    /// How many tokens of the best answer the observer has heard of.
    told: usize,
}

impl Beams {
    pub(crate) fn new(task: Task) -> Self {
        Self {
            random: Random::new(task.key),
            live: vec![Beam {
                history: vec![task.start],
                score: 0.0,
            }],
            ended: Vec::new(),
            candidates: Vec::new(),
            told: 0,
            task,
        }
    }

    fn settings(&self) -> &Settings {
        &self.task.settings
    }

    /// Takes an ended answer among the best, behind those that are as good.
    fn keep(&mut self, history: Vec<u32>, score: f32, end: End) {
        let length = (history.len() - 1) as f64;
        let score = score / length.powf(self.settings().length_penalty) as f32;
        let at = self.ended.partition_point(|(beam, _)| beam.score >= score);
        self.ended.insert(at, (Beam { history, score }, end));
        self.ended.truncate(self.task.settings.beams);
    }

    /// Whether no beam may become an answer any more.
    fn is_decided(&self) -> bool {
        let settings = self.settings();
        let Some(best) = self.live.first() else {
            return true;
        };
        let worst = match self.ended.last() {
            Some((worst, _)) if self.ended.len() == settings.beams => worst.score,
            _ => return false,
        };
        let to_the_end =
            settings.early_stopping == EarlyStopping::Never && settings.length_penalty > 0.0;
        let length = if to_the_end {
            settings.max_new_tokens
        } else {
            best.history.len() - 1
        };
        let possible = best.score / (length as f64).powf(settings.length_penalty) as f32;
        settings.early_stopping == EarlyStopping::Yes || possible <= worst
    }

    /// Tells what all answers that may still be the best begin with.
    fn tell(&mut self, observer: &mut dyn Observer) {
        let mut all = self.ended.first().map(|(beam, _)| beam).into_iter();
        let mut all = all
            .by_ref()
            .chain(&self.live)
            .map(|beam| &beam.history[1..]);
        let Some(first) = all.next() else { return };
        let shared = all.fold(first.len(), |shared, other| {
            let alike = first.iter().zip(other).take(shared);
            alike.take_while(|(a, b)| a == b).count()
        });
        if shared > self.told {
            self.task.wrote(observer, 0, &first[self.told..shared]);
            self.told = shared;
        }
    }
}

impl Writer for Beams {
    fn needs(&self) -> Needs {
        Needs::Logits
    }

    fn read(&mut self, read: Read<'_>) -> Result<()> {
        let Read::Logits { logits, .. } = read else {
            return Err(chatlm_job::Error::internal("beams need scores"));
        };
        let width = self.task.vocabulary;
        for (beam, row) in self.live.iter().zip(logits.chunks_mut(width)) {
            self.task.check_finite(row, beam.history.len() - 1)?;
            log_softmax(row);
            self.task.filter(row, &beam.history);
            for score in row {
                *score += beam.score;
            }
        }
        // Enough to go on with, were all beams to end at once.
        let count = (1 + self.task.ends.len()).max(2) * self.task.settings.beams;
        let chosen = if self.task.settings.search.draws() {
            draw_several(logits, count, &mut self.random)
        } else {
            largest(logits, count)
        };
        self.candidates = chosen
            .into_iter()
            .map(|place| Candidate {
                parent: place / width,
                token: (place % width) as u32,
                score: logits[place],
            })
            .collect();
        Ok(())
    }

    fn go_on(&mut self, observer: &mut dyn Observer) -> Next {
        let beams = self.task.settings.beams;
        let mut next = Next::default();
        let before = std::mem::take(&mut self.live);
        let mut candidates = std::mem::take(&mut self.candidates);
        if candidates.is_empty() {
            // The filters forbid every token: each beam ends where it is.
            candidates = (0..before.len())
                .map(|parent| Candidate {
                    parent,
                    token: self.task.last_resort(),
                    score: before[parent].score,
                })
                .collect();
        }
        let mut open = Vec::new();
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let mut history = before[candidate.parent].history.clone();
            history.push(candidate.token);
            match self.task.end(&history, observer) {
                // Those behind the first ones are there only to go on with.
                Some(end) if rank < beams => self.keep(history, candidate.score, end),
                Some(_) => {}
                None => open.push((candidate.parent, history, candidate.score)),
            }
        }
        // Drawn ones come in the order of drawing.
        open.sort_by(|a, b| b.2.total_cmp(&a.2));
        for (parent, history, score) in open.into_iter().take(beams) {
            next.parents.push(parent);
            next.tokens.push(history[history.len() - 1]);
            self.live.push(Beam { history, score });
        }
        if self.is_decided() {
            self.live.clear();
            next = Next::default();
        }
        self.tell(observer);
        next
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.ended
            .drain(..)
            .take(self.task.settings.answers.max(1))
            .map(|(beam, end)| self.task.answer(&beam.history, Some(beam.score), end))
            .collect()
    }
}
