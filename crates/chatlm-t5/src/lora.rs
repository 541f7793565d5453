//! Low-rank adapters (Hu et al. 2021, "LoRA"): `y = x·Wᵀ + scaling · dropout(x)·Aᵀ·Bᵀ`, with PEFT's
//! initialization, names and variants: rank-stabilized scaling (Kalajdzievski 2023) and DoRA (Liu et
//! al. 2024), which gives every row of `W + scaling · B·A` a trained length. Which layers have one:
//! `lora_targets`.

use candle_core::{Tensor, Var};
use chatlm_job::{Code, Error, Random, Result};
use chatlm_kernels::adapted_lengths;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::lora_targets::{Names, lookup};
use crate::parameters::{Parameters, name_key};
use crate::tensor_error;

/// The end of the name of DoRA's magnitudes, as PEFT writes it.
pub const MAGNITUDE: &str = "lora_magnitude_vector";

/// Whether a name is one of an adapter's weights.
pub fn is_adapter(name: &str) -> bool {
    name.contains(".lora_A.") || name.contains(".lora_B.") || name.ends_with(MAGNITUDE)
}

/// Which of the model's own weights train beside the adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    #[default]
    None,
    /// As PEFT up to 0.17: every weight with `bias` in its name, for a T5 the relative attention biases.
    All,
    /// The biases of the adapted layers: a T5's have none.
    LoraOnly,
}

/// How an adapter begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum LoraInit {
    /// PEFT's `true`: A uniform (Kaiming with a = √5), B zero.
    #[default]
    Kaiming,
    /// A normal with deviation 1/r, B zero.
    Gaussian,
    /// PEFT's `false`: both uniform, so that the model is another from the first step; for tests.
    Random,
}

impl TryFrom<Value> for LoraInit {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        match value {
            Value::Bool(true) => Ok(Self::Kaiming),
            Value::Bool(false) => Ok(Self::Random),
            Value::String(name) if name == "gaussian" => Ok(Self::Gaussian),
            other => Err(format!(
                "initLoraWeights is {other}; true, false and \"gaussian\" are known"
            )),
        }
    }
}

impl From<LoraInit> for Value {
    fn from(init: LoraInit) -> Self {
        match init {
            LoraInit::Kaiming => Self::Bool(true),
            LoraInit::Gaussian => Self::String("gaussian".to_owned()),
            LoraInit::Random => Self::Bool(false),
        }
    }
}

/// Keys are PEFT's in camelCase. Those that came later are left out where they say nothing, so that
/// the identity of an older run stays what it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank, at least 1.
    pub r: usize,
    pub alpha: f64,
    /// On the adapter's input while training.
    pub dropout: f64,
    pub targets: Names,
    pub bias: LoraBias,
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub exclude_modules: Names,
    /// Numbers of the blocks that have adapters; all where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// What stands before a block's number in a name: `block`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers_pattern: Option<Names>,
    /// Patterns of names to ranks other than `r`; the first that matches counts.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub rank_pattern: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub alpha_pattern: Map<String, Value>,
    /// Scaling alpha / √r instead of alpha / r.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_dora: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub init_lora_weights: LoraInit,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_default(init: &LoraInit) -> bool {
    *init == LoraInit::default()
}

fn refuse(field: &str, message: impl Into<String>) -> Error {
    let help =
        "r and ranks must be whole and above 0, alphas numbers, dropout at least 0 and below 1";
    Error::new(Code::ConfigInvalid, message, help).with("field", field)
}

impl LoraConfig {
    pub(crate) fn check(&self) -> Result<()> {
        if self.r == 0 {
            return Err(refuse("lora.r", "lora.r must be at least 1"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let what = "lora.dropout must be at least 0 and below 1";
            return Err(refuse("lora.dropout", what));
        }
        Ok(())
    }

    /// The rank of a module's adapter.
    pub fn rank(&self, module: &str) -> Result<usize> {
        let field = "lora.rankPattern";
        match lookup(&self.rank_pattern, module, field)? {
            None => Ok(self.r),
            Some(value) => match value.as_u64() {
                Some(rank) if rank > 0 => Ok(rank as usize),
                _ => Err(refuse(field, format!("{field}: a rank is {value}"))),
            },
        }
    }

    /// What a module's `B·A` is multiplied by.
    pub fn scaling(&self, module: &str) -> Result<f64> {
        let field = "lora.alphaPattern";
        let alpha = match lookup(&self.alpha_pattern, module, field)? {
            None => self.alpha,
            Some(value) => value
                .as_f64()
                .ok_or_else(|| refuse(field, format!("{field}: an alpha is {value}")))?,
        };
        let r = self.rank(module)? as f64;
        Ok(alpha / if self.use_rslora { r.sqrt() } else { r })
    }

    /// Multiplies every scaling.
    pub fn scale(&mut self, factor: f64) {
        self.alpha *= factor;
        for alpha in self.alpha_pattern.values_mut() {
            *alpha = alpha
                .as_f64()
                .map_or(Value::Null, |alpha| Value::from(alpha * factor));
        }
    }

    /// Adds the adapter's weights: `lora_A (r, in)`, `lora_B (out, r)`, and for DoRA the lengths of
    /// the weight's rows, so that the model is unchanged at first. Answers their names.
    pub fn attach(
        &self,
        config: &Config,
        parameters: &mut Parameters,
        seed: u64,
    ) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let device = parameters.device();
        for (module, input, output) in self.modules(config)? {
            let r = self.rank(&module)?;
            let a = format!("{module}.lora_A.weight");
            let b = format!("{module}.lora_B.weight");
            let uniform = |name: &str, count: usize, width: usize| -> Vec<f32> {
                let bound = 1.0 / (width as f64).sqrt();
                let mut random = Random::new(name_key(seed, name));
                (0..count)
                    .map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32)
                    .collect()
            };
            let values_a = match self.init_lora_weights {
                LoraInit::Gaussian => {
                    let mut random = Random::new(name_key(seed, &a));
                    (0..r * input)
                        .map(|_| (random.normal() / r as f64) as f32)
                        .collect()
                }
                _ => uniform(&a, r * input, input),
            };
            let values_b = match self.init_lora_weights {
                LoraInit::Random => uniform(&b, output * r, r),
                _ => vec![0.0; output * r],
            };
            let mut insert = |name: String, tensor: &Tensor| -> Result<()> {
                let var = Var::from_tensor(tensor).map_err(tensor_error)?;
                parameters.insert(name.clone(), var);
                names.push(name);
                Ok(())
            };
            let tensor_a = Tensor::from_vec(values_a, (r, input), &device).map_err(tensor_error)?;
            let tensor_b =
                Tensor::from_vec(values_b, (output, r), &device).map_err(tensor_error)?;
            insert(a, &tensor_a)?;
            insert(b, &tensor_b)?;
            if self.use_dora {
                let weight = base(parameters, &module)?;
                let lengths =
                    adapted_lengths(&weight, &tensor_a, &tensor_b, self.scaling(&module)?)
                        .map_err(tensor_error)?;
                let name = format!("{module}.{MAGNITUDE}");
                let var = Var::from_tensor(&lengths).map_err(tensor_error)?;
                parameters.insert(name.clone(), var);
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether a weight trains when only the adapter does.
    pub fn trains(&self, name: &str) -> bool {
        is_adapter(name) || (self.bias == LoraBias::All && name.contains("bias"))
    }

    /// `weight` of a module with its adapter in it; nothing where it has none.
    pub fn merged(
        &self,
        module: &str,
        weight: &Tensor,
        parameters: &Parameters,
    ) -> Result<Option<Tensor>> {
        let get = |part: &str| {
            let var = parameters.get(&format!("{module}.{part}"));
            var.map(Var::as_detached_tensor)
        };
        let (Some(a), Some(b)) = (get("lora_A.weight"), get("lora_B.weight")) else {
            return Ok(None);
        };
        let scaling = self.scaling(module)?;
        let merge = || -> candle_core::Result<Tensor> {
            let sum = (weight + (b.matmul(&a)? * scaling)?)?;
            match get(MAGNITUDE).filter(|_| self.use_dora) {
                None => Ok(sum),
                Some(magnitude) => {
                    let factors = (magnitude / adapted_lengths(weight, &a, &b, scaling)?)?;
                    sum.broadcast_mul(&factors.unsqueeze(1)?)
                }
            }
        };
        merge().map(Some).map_err(tensor_error)
    }
}

fn base(parameters: &Parameters, module: &str) -> Result<Tensor> {
    let name = format!("{module}.weight");
    parameters
        .get(&name)
        .map(Var::as_detached_tensor)
        .ok_or_else(|| Error::internal(format!("the weight {name} is missing")))
}
