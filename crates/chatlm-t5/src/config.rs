//! The fields of Hugging Face's `T5Config` that matter, with its defaults.

use chatlm_job::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// A T5's shape. Unknown fields of a `config.json` are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: usize,
    pub d_model: usize,
    /// Width of one head.
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    /// As `num_layers` where missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decoder_layers: Option<usize>,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub dropout_rate: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_factor: f64,
    /// `relu` (v1.0) or `gated-gelu` (v1.1).
    pub feed_forward_proj: String,
    pub tie_word_embeddings: bool,
    pub pad_token_id: u32,
    pub eos_token_id: u32,
    pub decoder_start_token_id: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
            pad_token_id: 0,
            eos_token_id: 1,
            decoder_start_token_id: 0,
        }
    }
}

impl Config {
    /// The 0.2 B model of ChatLM-mini-Chinese.
    pub fn chatlm(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            d_model: 768,
            d_ff: 3072,
            num_layers: 10,
            num_decoder_layers: Some(10),
            num_heads: 12,
            ..Self::default()
        }
    }

    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// The width of all heads together.
    pub fn inner(&self) -> usize {
        self.num_heads * self.d_kv
    }

    pub fn gated(&self) -> bool {
        self.feed_forward_proj == "gated-gelu"
    }

    /// Refuses shapes that make no model.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, message: &str| {
            Err(Error::new(
                Code::ModelInvalid,
                format!("the T5 configuration's {field} {message}"),
                "compare it with Hugging Face's T5Config",
            )
            .with("field", field))
        };
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.decoder_layers()),
            ("num_heads", self.num_heads),
            (
                "relative_attention_max_distance",
                self.relative_attention_max_distance,
            ),
        ] {
            if value == 0 {
                return refuse(field, "must be at least 1");
            }
        }
        if self.relative_attention_num_buckets < 4 || self.relative_attention_num_buckets % 2 == 1 {
            return refuse(
                "relative_attention_num_buckets",
                "must be even and at least 4",
            );
        }
        if !matches!(self.feed_forward_proj.as_str(), "relu" | "gated-gelu") {
            return refuse("feed_forward_proj", "must be relu or gated-gelu");
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            return refuse("dropout_rate", "must be at least 0 and below 1");
        }
        for (field, id) in [
            ("pad_token_id", self.pad_token_id),
            ("eos_token_id", self.eos_token_id),
            ("decoder_start_token_id", self.decoder_start_token_id),
        ] {
            if id as usize >= self.vocab_size {
                return refuse(field, "is outside the vocabulary");
            }
        }
        Ok(())
    }

    /// Values in all weights, tied ones counted once.
    pub fn parameter_count(&self) -> u64 {
        crate::parameters::shapes(self)
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>() as u64)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preset_has_the_size_that_the_reference_states() {
        assert_eq!(Config::chatlm(29_298).parameter_count(), 187_692_288);
    }
}
