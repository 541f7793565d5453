//! A decoder without a model, and an observer that remembers.

use std::collections::BTreeMap;

use chatlm_generate::{Decoder, Observer};
use chatlm_job::mix;
use chatlm_t5::Config;

/// A decoder whose scores are a pure function of the prompt and what a row has read: quick, of any
/// size, and its rows come and go at any time.
pub struct Fake {
    config: Config,
    rows: Vec<(u64, Vec<u32>)>,
    /// How unlike the scores are.
    pub spread: f32,
}

impl Fake {
    pub fn new(vocabulary: usize) -> Self {
        Self {
            config: Config {
                vocab_size: vocabulary,
                ..Config::default()
            },
            rows: Vec::new(),
            spread: 3.0,
        }
    }

    fn random(row: &(u64, Vec<u32>)) -> chatlm_job::Random {
        let key = row.1.iter().fold(row.0, |key, &id| mix(key, u64::from(id)));
        chatlm_job::Random::new(key)
    }
}

impl Decoder for Fake {
    fn config(&self) -> &Config {
        &self.config
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn add(&mut self, prompts: &[&[u32]]) -> chatlm_job::Result<()> {
        for prompt in prompts {
            let key = prompt.iter().fold(9, |key, &id| mix(key, u64::from(id)));
            self.rows.push((key, Vec::new()));
        }
        Ok(())
    }

    fn select(&mut self, rows: &[usize]) -> chatlm_job::Result<()> {
        self.rows = rows.iter().map(|&row| self.rows[row].clone()).collect();
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> chatlm_job::Result<()> {
        assert_eq!(tokens.len(), self.rows.len());
        logits.clear();
        for (row, &token) in self.rows.iter_mut().zip(tokens) {
            row.1.push(token);
            let mut random = Self::random(row);
            logits
                .extend((0..self.config.vocab_size).map(|_| random.normal() as f32 * self.spread));
        }
        Ok(())
    }

    fn hidden(&self) -> chatlm_job::Result<Vec<f32>> {
        let state = |row| {
            let mut random = Self::random(row);
            (0..4).map(move |_| random.normal() as f32 + 0.5)
        };
        Ok(self.rows.iter().flat_map(state).collect())
    }
}

/// What an observer heard, by request and answer; ends answers at a pair of tokens where it has one.
#[derive(Default)]
pub struct Heard {
    pub written: BTreeMap<(usize, usize), Vec<u32>>,
    pub calls: usize,
    pub stop: Option<[u32; 2]>,
}

impl Observer for Heard {
    fn wrote(&mut self, place: usize, answer: usize, tokens: &[u32]) {
        assert!(!tokens.is_empty());
        self.written
            .entry((place, answer))
            .or_default()
            .extend(tokens);
        self.calls += 1;
    }

    fn ends(&mut self, _place: usize, tokens: &[u32]) -> bool {
        self.stop.is_some_and(|stop| tokens.ends_with(&stop))
    }
}
