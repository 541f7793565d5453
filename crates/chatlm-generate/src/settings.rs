//! What decoding can be told.

use serde::{Deserialize, Serialize};

/// How an answer is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The most likely token, every time.
    #[default]
    Greedy,
    /// Drawn from the filtered distribution.
    Sample,
    /// The best of several answers kept side by side.
    Beam,
    /// Beams whose continuations are drawn.
    BeamSample,
    /// The likely token that resembles least what is written already (Su and others, "A contrastive
    /// framework for neural text generation", 2022).
    Contrastive,
}

impl Search {
    /// Whether temperature, top-k and top-p take part and seeds matter.
    pub fn draws(self) -> bool {
        matches!(self, Self::Sample | Self::BeamSample)
    }

    /// Whether several beams are kept side by side.
    pub fn has_beams(self) -> bool {
        matches!(self, Self::Beam | Self::BeamSample)
    }
}

/// When a search with beams is content with the answers that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EarlyStopping {
    /// Once the best beam, were it to end now, could not beat the worst of them.
    #[default]
    #[serde(rename = "false")]
    No,
    /// As soon as there are as many as beams.
    #[serde(rename = "true")]
    Yes,
    /// Once no beam could beat the worst of them at any length.
    #[serde(rename = "never")]
    Never,
}

/// Decoding settings, with the meaning that `transformers` gives them. Penalties, bans and forced
/// tokens take part in every search; temperature, top-k and top-p where tokens are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    pub search: Search,
    /// Tokens after which an answer ends, the end token included. Default 320.
    pub max_new_tokens: usize,
    /// Tokens before which no answer ends.
    pub min_new_tokens: usize,
    /// Logits are divided by it. Above 0; 1 changes nothing.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens stay; 0 is off. In contrastive search the number of
    /// candidates.
    pub top_k: usize,
    /// The smallest set of most likely tokens whose probabilities reach `top_p` stays; 1 is off.
    pub top_p: f64,
    /// Logits of tokens that are there already are divided (if positive) or multiplied by it; 1 is off.
    pub repetition_penalty: f64,
    /// No n-gram of this size comes twice; 0 is off.
    pub no_repeat_ngram: usize,
    /// Answers kept side by side. Default 5.
    pub beams: usize,
    /// Scores of beams are divided by length to this power: above 0 favours long answers.
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
    /// Answers a prompt: the best of the beams, or that many drawn ones.
    pub answers: usize,
    /// Contrastive search: the weight of being unlike what is there, 0 to 1.
    pub penalty_alpha: f64,
    /// Tokens that end an answer; the model's `[EOS]` where there are none.
    pub end_tokens: Vec<u32>,
    /// Runs of tokens that are never written whole.
    pub bad_words: Vec<Vec<u32>>,
    /// Tokens that are never written.
    pub suppress: Vec<u32>,
    /// Tokens that no answer begins with.
    pub suppress_first: Vec<u32>,
    /// The token that every answer begins with.
    pub forced_first: Option<u32>,
    /// The token that stands where an answer reaches its longest.
    pub forced_last: Option<u32>,
    /// Where sampling starts; a request's own stream comes from its key.
    pub seed: u64,
}

impl Settings {
    /// Rows of the decoder that a request may come to need at once.
    pub fn rows(&self) -> usize {
        match self.search {
            Search::Beam | Search::BeamSample => self.beams,
            Search::Contrastive => self.top_k,
            Search::Greedy | Search::Sample => self.answers,
        }
        .max(1)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            search: Search::Greedy,
            max_new_tokens: 320,
            min_new_tokens: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
            beams: 5,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            answers: 1,
            penalty_alpha: 0.6,
            end_tokens: Vec::new(),
            bad_words: Vec::new(),
            suppress: Vec::new(),
            suppress_first: Vec::new(),
            forced_first: None,
            forced_last: None,
            seed: 23_333,
        }
    }
}
