//! Low-rank adapters (Hu et al. 2021, "LoRA"): `y = x·Wᵀ + (alpha / r) · dropout(x)·Aᵀ·Bᵀ`, with
//! PEFT's initialization, names and targets.

use candle_core::{Tensor, Var};
use chatlm_job::{Code, Error, Random, Result};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::parameters::{Parameters, name_key, shapes};
use crate::tensor_error;

/// Which of the model's own weights train beside the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    None,
    /// As PEFT: every weight with `bias` in its name, for a T5 the relative attention biases.
    All,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank, at least 1.
    pub r: usize,
    pub alpha: f64,
    /// On the adapter's input while training.
    pub dropout: f64,
    /// Names of linear layers, or ends of their names: `q`, `v`, `wi`, `SelfAttention.q`.
    pub targets: Vec<String>,
    pub bias: LoraBias,
}

impl LoraConfig {
    pub fn scaling(&self) -> f64 {
        self.alpha / self.r as f64
    }

    /// The linear layers that get an adapter: module name, input and output width.
    pub fn modules(&self, config: &Config) -> Result<Vec<(String, usize, usize)>> {
        let refuse = |field: &str, message: String| {
            Err(Error::new(
                Code::ConfigInvalid,
                message,
                "for a T5: q, k, v, o, wi, wo (wi_0, wi_1)",
            )
            .with("field", field))
        };
        if self.r == 0 {
            return refuse("lora.r", "lora.r must be at least 1".to_owned());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(
                "lora.dropout",
                "lora.dropout must be at least 0 and below 1".to_owned(),
            );
        }
        let linear: Vec<(String, usize, usize)> = shapes(config)
            .into_iter()
            .filter_map(|(name, shape)| {
                let module = name.strip_suffix(".weight")?;
                let kind = module.rsplit('.').next()?;
                matches!(kind, "q" | "k" | "v" | "o" | "wi" | "wi_0" | "wi_1" | "wo")
                    .then(|| (module.to_owned(), shape[1], shape[0]))
            })
            .collect();
        let hits = |target: &str, module: &str| {
            module == target || module.ends_with(&format!(".{target}"))
        };
        for target in &self.targets {
            if !linear.iter().any(|(module, ..)| hits(target, module)) {
                let message =
                    format!("lora.targets has {target}, but no linear layer is called so");
                return refuse("lora.targets", message);
            }
        }
        if self.targets.is_empty() {
            return refuse("lora.targets", "lora.targets names no layer".to_owned());
        }
        Ok(linear
            .into_iter()
            .filter(|(module, ..)| self.targets.iter().any(|target| hits(target, module)))
            .collect())
    }

    /// Adds the adapter's weights: `lora_A (r, in)` uniform as PEFT (Kaiming with a = √5),
    /// `lora_B (out, r)` zero, so that the model is unchanged at first. Answers their names.
    pub fn attach(
        &self,
        config: &Config,
        parameters: &mut Parameters,
        seed: u64,
    ) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let device = parameters.device();
        for (module, input, output) in self.modules(config)? {
            let (a, b) = (
                format!("{module}.lora_A.weight"),
                format!("{module}.lora_B.weight"),
            );
            let bound = 1.0 / (input as f64).sqrt();
            let mut random = Random::new(name_key(seed, &a));
            let values: Vec<f32> = (0..self.r * input)
                .map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32)
                .collect();
            let tensors = [
                (a, Tensor::from_vec(values, (self.r, input), &device)),
                (
                    b,
                    Tensor::zeros((output, self.r), candle_core::DType::F32, &device),
                ),
            ];
            for (name, tensor) in tensors {
                let var = Var::from_tensor(&tensor.map_err(tensor_error)?).map_err(tensor_error)?;
                parameters.insert(name.clone(), var);
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether a weight trains when only the adapter does.
    pub fn trains(&self, name: &str) -> bool {
        name.contains(".lora_A.")
            || name.contains(".lora_B.")
            || (self.bias == LoraBias::All && name.contains("bias"))
    }
}
