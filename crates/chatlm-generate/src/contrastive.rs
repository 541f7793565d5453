//! Contrastive search: of the likely tokens the one whose hidden state resembles least those of the
//! answer so far.
//!
//! Source: `_contrastive_search` and `_ranking_fast` in `transformers` 4.46 (later versions keep it in a
//! repository of its own).

use chatlm_job::Result;

use crate::draw::{largest, probabilities};
use crate::writer::{Answer, End, Needs, Next, Observer, Read, Task, Writer};

pub(crate) struct Contrastive {
    task: Task,
    /// Start token included.
    history: Vec<u32>,
    /// The hidden states of `history`, each of length 1, one behind the other.
    context: Vec<f32>,
    /// Tokens that the rows have read, and their probabilities; none before the first.
    candidates: Vec<(u32, f32)>,
    /// The row that was chosen.
    chosen: usize,
    end: Option<End>,
}

impl Contrastive {
    pub(crate) fn new(task: Task) -> Self {
        Self {
            history: vec![task.start],
            context: Vec::new(),
            candidates: Vec::new(),
            chosen: 0,
            end: None,
            task,
        }
    }

    /// The row of the best candidate: likely, and unlike everything before it.
    fn choose(&self, states: &[Vec<f32>]) -> usize {
        let alpha = self.task.settings.penalty_alpha as f32;
        let mut best = (0, f32::NEG_INFINITY);
        for (row, (state, (_, probability))) in states.iter().zip(&self.candidates).enumerate() {
            let resemblance = self
                .context
                .chunks(state.len().max(1))
                .map(|other| dot(state, other))
                .fold(f32::NEG_INFINITY, f32::max);
            let score = (1.0 - alpha) * probability - alpha * resemblance;
            if score > best.1 {
                best = (row, score);
            }
        }
        best.0
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn of_length_one(state: &[f32]) -> Vec<f32> {
    let length = dot(state, state).sqrt();
    state.iter().map(|value| value / length).collect()
}

impl Writer for Contrastive {
    fn needs(&self) -> Needs {
        Needs::Hidden
    }

    fn read(&mut self, read: Read<'_>) -> Result<()> {
        let Read::Logits { logits, hidden } = read else {
            return Err(chatlm_job::Error::internal(
                "contrastive search needs scores",
            ));
        };
        let width = self.task.vocabulary;
        let rows = logits.len() / width;
        self.task.check_finite(logits, self.history.len() - 1)?;
        let states: Vec<Vec<f32>> = hidden
            .chunks(hidden.len() / rows.max(1))
            .map(of_length_one)
            .collect();
        self.chosen = self.choose(&states);
        if let Some((token, _)) = self.candidates.get(self.chosen) {
            self.history.push(*token);
        }
        self.context.extend_from_slice(&states[self.chosen]);

        let scores = &mut logits[self.chosen * width..][..width];
        self.task.filter(scores, &self.history);
        let shares = probabilities(scores);
        self.candidates = largest(scores, self.task.settings.top_k)
            .into_iter()
            .map(|place| (place as u32, shares[place] as f32))
            .collect();
        if self.candidates.is_empty() {
            self.candidates.push((self.task.last_resort(), 1.0));
        }
        Ok(())
    }

    fn go_on(&mut self, observer: &mut dyn Observer) -> Next {
        if self.history.len() > 1 {
            let last = self.history[self.history.len() - 1];
            self.task.wrote(observer, 0, &[last]);
            self.end = self.task.end(&self.history, observer);
            if self.end.is_some() {
                return Next::default();
            }
        }
        Next {
            parents: vec![self.chosen; self.candidates.len()],
            tokens: self.candidates.iter().map(|(token, _)| *token).collect(),
        }
    }

    fn answers(&mut self) -> Vec<Answer> {
        let end = self.end.unwrap_or(End::Length);
        vec![self.task.answer(&self.history, None, end)]
    }
}
