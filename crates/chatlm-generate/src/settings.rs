//! What decoding can be told.

use serde::{Deserialize, Serialize};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Search {
    /// The most likely one.
    #[default]
    Greedy,
    /// Drawn from the filtered distribution.
    Sample,
}

/// Decoding settings; temperature, top-k and top-p take part only where tokens are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    pub search: Search,
    /// Tokens after which an answer ends, `[EOS]` included. Default 320.
    pub max_new_tokens: usize,
    /// Logits are divided by it. Above 0; 1 changes nothing.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens stay; 0 is off.
    pub top_k: usize,
    /// The smallest set of most likely tokens whose probabilities reach `top_p` stays; 1 is off.
    pub top_p: f64,
    /// Logits of tokens that are there already are divided (if positive) or multiplied by it; 1 is off.
    pub repetition_penalty: f64,
    /// No n-gram of this size comes twice; 0 is off.
    pub no_repeat_ngram: usize,
    /// Where sampling starts; a request's own stream comes from its key.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            search: Search::Greedy,
            max_new_tokens: 320,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
            seed: 23_333,
        }
    }
}
