//! Weights by their Hugging Face names.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use chatlm_job::{Code, Error, Random, Result, mix, sha256_bytes};
use rayon::prelude::*;

use crate::config::Config;
use crate::tensor_error;

/// Every weight a configuration has, with its shape, in the order of the names.
pub(crate) fn shapes(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (model, inner, ff) = (config.d_model, config.inner(), config.d_ff);
    let mut all = vec![("shared.weight".to_owned(), vec![config.vocab_size, model])];
    if !config.tie_word_embeddings {
        all.push(("lm_head.weight".to_owned(), vec![config.vocab_size, model]));
    }
    for (stack, layers) in [
        ("encoder", config.num_layers),
        ("decoder", config.decoder_layers()),
    ] {
        all.push((format!("{stack}.final_layer_norm.weight"), vec![model]));
        for block in 0..layers {
            let mut sublayers = vec!["SelfAttention"];
            if stack == "decoder" {
                sublayers.push("EncDecAttention");
            }
            sublayers.push("DenseReluDense");
            for (layer, name) in sublayers.into_iter().enumerate() {
                let at = format!("{stack}.block.{block}.layer.{layer}");
                all.push((format!("{at}.layer_norm.weight"), vec![model]));
                if name == "DenseReluDense" {
                    let inputs: &[&str] = if config.gated() {
                        &["wi_0", "wi_1"]
                    } else {
                        &["wi"]
                    };
                    for wi in inputs {
                        all.push((format!("{at}.{name}.{wi}.weight"), vec![ff, model]));
                    }
                    all.push((format!("{at}.{name}.wo.weight"), vec![model, ff]));
                } else {
                    for part in ["q", "k", "v"] {
                        all.push((format!("{at}.{name}.{part}.weight"), vec![inner, model]));
                    }
                    all.push((format!("{at}.{name}.o.weight"), vec![model, inner]));
                    if name == "SelfAttention" && block == 0 {
                        all.push((
                            format!("{at}.{name}.relative_attention_bias.weight"),
                            vec![config.relative_attention_num_buckets, config.num_heads],
                        ));
                    }
                }
            }
        }
    }
    all.sort();
    all
}

/// Names that a file may hold beside the weights: copies of tied ones.
pub fn is_copy(config: &Config, name: &str) -> bool {
    matches!(
        name,
        "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight"
    ) || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// Weights in f32 that an optimizer may change in place.
#[derive(Debug, Clone)]
pub struct Parameters {
    map: BTreeMap<String, Var>,
}

impl Parameters {
    /// Random weights as transformers initializes a T5, each from a stream of its own that is keyed
    /// by seed and name.
    pub fn random(config: &Config, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        // Every weight has a stream of its own, so they are made in parallel.
        let map = shapes(config)
            .into_par_iter()
            .map(|(name, shape)| {
                let count: usize = shape.iter().product();
                let values: Vec<f32> = if name.ends_with("layer_norm.weight") {
                    vec![config.initializer_factor as f32; count]
                } else {
                    let deviation = deviation(config, &name);
                    let mut random = Random::new(name_key(seed, &name));
                    (0..count)
                        .map(|_| (random.normal() * deviation) as f32)
                        .collect()
                };
                Ok((
                    name,
                    Var::from_vec(values, shape, device).map_err(tensor_error)?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self { map })
    }

    /// Weights as a file holds them; converts to f32.
    pub fn from_tensors(
        config: &Config,
        mut tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let refuse = |name: &str, message: String| {
            Error::new(
                Code::ModelInvalid,
                format!("weight {name} {message}"),
                "the folder must hold a T5ForConditionalGeneration whose config.json fits its weights",
            )
            .with("field", name)
        };
        let mut map = BTreeMap::new();
        // Some files name the embedding by one of its copies only.
        if !tensors.contains_key("shared.weight")
            && let Some(copy) = tensors.remove("encoder.embed_tokens.weight")
        {
            tensors.insert("shared.weight".to_owned(), copy);
        }
        for (name, shape) in shapes(config) {
            let tensor = tensors
                .remove(&name)
                .ok_or_else(|| refuse(&name, "is missing".to_owned()))?;
            if tensor.dims() != shape {
                let message = format!("has shape {:?}, not {shape:?}", tensor.dims());
                return Err(refuse(&name, message));
            }
            let tensor = tensor
                .to_dtype(DType::F32)
                .and_then(|tensor| tensor.to_device(device))
                .and_then(|tensor| tensor.contiguous())
                .map_err(tensor_error)?;
            map.insert(name, Var::from_tensor(&tensor).map_err(tensor_error)?);
        }
        if let Some(name) = tensors.keys().find(|name| !is_copy(config, name)) {
            return Err(refuse(name, "is not part of this model".to_owned()));
        }
        Ok(Self { map })
    }

    /// All weights, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.map.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        let first = self.map.values().next();
        first.map_or(Device::Cpu, |var| var.device().clone())
    }

    pub fn get(&self, name: &str) -> Option<&Var> {
        self.map.get(name)
    }

    pub fn insert(&mut self, name: impl Into<String>, var: Var) {
        self.map.insert(name.into(), var);
    }

    pub fn remove(&mut self, name: &str) -> Option<Var> {
        self.map.remove(name)
    }
}

/// The key of a weight's random stream.
pub(crate) fn name_key(seed: u64, name: &str) -> u64 {
    let digest = sha256_bytes(name.as_bytes());
    mix(
        seed,
        u64::from_str_radix(&digest[..16], 16).unwrap_or_default(),
    )
}

/// Standard deviations of transformers' `T5PreTrainedModel._init_weights`.
fn deviation(config: &Config, name: &str) -> f64 {
    let (model, kv, ff) = (
        config.d_model as f64,
        config.d_kv as f64,
        config.d_ff as f64,
    );
    let inner = config.inner() as f64;
    let scale = match name.rsplit('.').nth(1).unwrap_or_default() {
        "q" => (model * kv).powf(-0.5),
        "k" | "v" | "wi" | "wi_0" | "wi_1" | "relative_attention_bias" => model.powf(-0.5),
        "o" => inner.powf(-0.5),
        "wo" => ff.powf(-0.5),
        // shared, lm_head
        _ => 1.0,
    };
    scale * config.initializer_factor
}
