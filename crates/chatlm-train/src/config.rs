//! The resolved configuration of a training run, as `ts/config` hands it over: every key is there,
//! and the defaults live in that schema alone. Keys that only some kinds of training have are empty
//! where they are missing.

use candle_core::Device;
use chatlm_job::{Code, Error, Result};
use chatlm_optim::{OptimizerConfig, ScheduleKind};
use chatlm_t5::{LoraConfig, has_kernels};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::preference::PreferenceLoss;

/// Rows to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainSet {
    pub paths: Vec<String>,
    /// 1: each row once an epoch; 0.5: a seeded half; 2: twice.
    pub weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    AdamW,
    Adafactor,
}

/// What to do with a step whose loss or gradients are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNan {
    /// Fail with `NOT_FINITE`, leaving the weights as they were before the step.
    Stop,
    /// Leave the step out and go on.
    Skip,
}

/// Every key of a training configuration; the contract has their meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainConfig {
    /// A folder, the fields of a T5 configuration, or nothing for the preset.
    pub model: Option<Value>,
    pub tokenizer: String,
    pub train: Vec<TrainSet>,
    pub valid: Option<String>,
    pub out: String,
    pub epochs: u64,
    pub batch_size: usize,
    pub gradient_accumulation: usize,
    pub learning_rate: f64,
    pub schedule: ScheduleKind,
    pub warmup_steps: u64,
    pub optimizer: OptimizerKind,
    pub weight_decay: f64,
    /// Of `adamw`.
    #[serde(default = "adam_beta1")]
    pub adam_beta1: f64,
    #[serde(default = "adam_beta2")]
    pub adam_beta2: f64,
    #[serde(default = "adam_epsilon")]
    pub adam_epsilon: f64,
    /// The learning rate is relative to each weight's root mean square.
    #[serde(default)]
    pub scale_parameter: bool,
    /// Of `adafactor`: a learning rate of its own, `min(0.01, 1/sqrt(step))`, whatever the schedule says.
    #[serde(default)]
    pub relative_step: bool,
    /// Of `relativeStep`: it begins at a millionth a step.
    #[serde(default)]
    pub warmup_init: bool,
    pub precision: String,
    pub max_length: usize,
    /// Rows of like lengths in a batch.
    #[serde(default)]
    pub group_by_length: bool,
    pub save_every: u64,
    pub keep: usize,
    /// Copy what a checkpoint holds and write it while training goes on, where there is memory for it.
    #[serde(default = "yes")]
    pub save_in_background: bool,
    /// 0: at the end of each epoch.
    pub eval_every: u64,
    pub eval_rows: u64,
    pub log_every: u64,
    pub max_steps: Option<u64>,
    pub dropout: f64,
    /// 0: no clipping.
    pub clip: f64,
    /// Keep only the blocks' inputs, and compute what is inside again in the backward pass.
    pub recompute: bool,
    /// Rows are laid end to end here whatever this says, and padding is never computed; the key is
    /// for devices whose kernels take padded rows.
    pub packing: bool,
    pub early_stop: Option<u64>,
    pub label_smoothing: f64,
    #[serde(rename = "onNaN")]
    pub on_nan: OnNan,
    pub workers: usize,
    pub seed: u64,
    pub samples: u64,
    /// Rows answered at each evaluation for `eval_bleu4`; 0: none.
    #[serde(default)]
    pub bleu_rows: u64,
    pub threads: Option<usize>,
    /// Fine-tuning: what stays as it is.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Fine-tuning and preference tuning.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Preference tuning.
    #[serde(default = "beta")]
    pub beta: f64,
    #[serde(default)]
    pub loss: PreferenceLoss,
    /// The margin that SimPO asks for.
    #[serde(default = "simpo_gamma")]
    pub simpo_gamma: f64,
    /// Of `simpo`: the weight of the chosen answers' cross-entropy.
    #[serde(default)]
    pub cpo_alpha: f64,
    /// Of `sigmoid` and `ipo`: the same.
    #[serde(default)]
    pub rpo_alpha: Option<f64>,
    /// What to do about rows of `valid` that are trained on.
    #[serde(default)]
    pub contamination: Contamination,
}

/// What to do about rows of `valid` that are in `train` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contamination {
    Stop,
    Warn,
    /// Not to look.
    #[default]
    Off,
}

fn yes() -> bool {
    true
}

fn adam_beta1() -> f64 {
    0.9
}

fn adam_beta2() -> f64 {
    0.999
}

fn adam_epsilon() -> f64 {
    1e-8
}

fn beta() -> f64 {
    0.1
}

fn simpo_gamma() -> f64 {
    0.5
}

impl TrainConfig {
    /// Refuses what makes no sense, is not built yet or not for this device, naming the key.
    pub fn validate(&self, device: &Device) -> Result<()> {
        let refuse = |field: &str, what: String, help: &str| {
            Err(Error::new(Code::ConfigInvalid, what, help).with("field", field))
        };
        match self.precision.as_str() {
            "f32" | "bf16" => {}
            "f16" if !has_kernels(device) => {}
            "f16" => {
                return Err(Error::new(
                    Code::PrecisionUnavailable,
                    "precision f16 needs a graphics card; the processor trains in bf16 and f32",
                    "set precision to bf16 or f32, or choose a graphics card with --device",
                )
                .with("field", "precision"));
            }
            other => {
                let what = format!("precision {other} is not known");
                return refuse("precision", what, "use f32, bf16 or f16");
            }
        }
        for (field, value) in [
            ("epochs", self.epochs),
            ("batchSize", self.batch_size as u64),
            ("gradientAccumulation", self.gradient_accumulation as u64),
            ("workers", self.workers as u64),
            ("maxSteps", self.max_steps.unwrap_or(1)),
        ] {
            if value == 0 {
                return refuse(field, format!("{field} is 0"), "it must be at least 1");
            }
        }
        if self.max_length < 2 {
            let what = format!("maxLength is {}", self.max_length);
            return refuse(
                "maxLength",
                what,
                "it must be at least 2: one token and [EOS]",
            );
        }
        for (field, value) in [("learningRate", self.learning_rate), ("beta", self.beta)] {
            if !(value > 0.0 && value.is_finite()) {
                return refuse(field, format!("{field} is {value}"), "it must be above 0");
            }
        }
        for (field, value) in [("weightDecay", self.weight_decay), ("clip", self.clip)] {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(
                    field,
                    format!("{field} is {value}"),
                    "it must be at least 0",
                );
            }
        }
        for (field, value) in [
            ("dropout", self.dropout),
            ("labelSmoothing", self.label_smoothing),
        ] {
            if !(0.0..1.0).contains(&value) {
                let what = format!("{field} is {value}");
                return refuse(field, what, "it must be at least 0 and below 1");
            }
        }
        for (field, value) in [
            ("adamBeta1", self.adam_beta1),
            ("adamBeta2", self.adam_beta2),
        ] {
            if !(0.0..1.0).contains(&value) {
                let what = format!("{field} is {value}");
                return refuse(field, what, "it must be at least 0 and below 1");
            }
        }
        let adafactor = self.optimizer == OptimizerKind::Adafactor;
        if self.relative_step && !adafactor {
            let what = "relativeStep is a rule of Adafactor".to_owned();
            return refuse(
                "relativeStep",
                what,
                "set optimizer to adafactor, or relativeStep to false",
            );
        }
        if self.warmup_init && !self.relative_step {
            let what = "warmupInit is the beginning of relativeStep".to_owned();
            return refuse(
                "warmupInit",
                what,
                "set relativeStep too, or use warmupSteps",
            );
        }
        if let Some(set) = self
            .train
            .iter()
            .find(|set| !(set.weight > 0.0 && set.weight.is_finite()))
        {
            return refuse(
                "train",
                format!("a weight is {}", set.weight),
                "it must be above 0",
            );
        }
        self.check_preferences()?;
        if let Some(lora) = &self.lora
            && !((0.0..1.0).contains(&lora.dropout) && lora.alpha > 0.0 && lora.r > 0)
        {
            let help = "r and alpha must be above 0, dropout at least 0 and below 1";
            return refuse("lora", "lora makes no sense".to_owned(), help);
        }
        Ok(())
    }

    /// Refuses a key that the preference loss does not know, so that nobody believes it counts.
    fn check_preferences(&self) -> Result<()> {
        let refuse = |field: &str, what: String, help: &str| {
            Err(Error::new(Code::ConfigInvalid, what, help).with("field", field))
        };
        let alpha = self.rpo_alpha.unwrap_or(0.0);
        for (field, value) in [
            ("simpoGamma", self.simpo_gamma),
            ("cpoAlpha", self.cpo_alpha),
            ("rpoAlpha", alpha),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                let what = format!("{field} is {value}");
                return refuse(field, what, "it must be at least 0");
            }
        }
        let (loss, name) = (self.loss, format!("{:?}", self.loss).to_lowercase());
        if self.label_smoothing > 0.0 && !loss.smooths() {
            let what = format!("labelSmoothing is no part of the loss {name}");
            return refuse("labelSmoothing", what, "it belongs to sigmoid and simpo");
        }
        if alpha > 0.0 && !loss.needs_reference() {
            let what = format!("rpoAlpha is no part of the loss {name}");
            let help = "simpo has cpoAlpha, orpo has the term in any case";
            return refuse("rpoAlpha", what, help);
        }
        if self.cpo_alpha > 0.0 && loss != PreferenceLoss::Simpo {
            let what = format!("cpoAlpha is no part of the loss {name}");
            let help = "it belongs to simpo; sigmoid and ipo have rpoAlpha";
            return refuse("cpoAlpha", what, help);
        }
        Ok(())
    }

    /// The optimizer and its constants.
    pub fn optimizer(&self) -> OptimizerConfig {
        match self.optimizer {
            OptimizerKind::AdamW => OptimizerConfig::AdamW {
                beta1: self.adam_beta1,
                beta2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
                scale_parameter: self.scale_parameter,
            },
            OptimizerKind::Adafactor => OptimizerConfig::Adafactor {
                relative_step: self.relative_step,
                scale_parameter: self.scale_parameter,
                warmup_init: self.warmup_init,
                weight_decay: self.weight_decay,
            },
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A whole configuration for a tiny run.
    pub(crate) fn tiny() -> Value {
        json!({
            "model": null, "tokenizer": "t", "train": [{"paths": ["a"], "weight": 1}],
            "valid": null, "out": "o", "epochs": 1, "batchSize": 4, "gradientAccumulation": 1,
            "learningRate": 1e-2, "schedule": "linear", "warmupSteps": 2, "optimizer": "adamw",
            "weightDecay": 0.01, "precision": "f32", "maxLength": 16, "saveEvery": 10, "keep": 3,
            "evalEvery": 0, "evalRows": 10, "logEvery": 1, "maxSteps": null, "dropout": 0.1,
            "clip": 1.0, "recompute": false, "packing": false, "earlyStop": null,
            "labelSmoothing": 0, "onNaN": "stop", "workers": 1, "seed": 7, "samples": 0,
            "threads": null
        })
    }

    #[test]
    fn the_schema_of_every_kind_is_read() {
        let plain: TrainConfig = serde_json::from_value(tiny()).unwrap();
        plain.validate(&Device::Cpu).unwrap();
        assert!(plain.freeze.is_empty() && plain.lora.is_none());
        let mut dpo = tiny();
        dpo["beta"] = json!(0.2);
        dpo["loss"] = json!("simpo");
        dpo["lora"] = json!({"r": 4, "alpha": 8, "dropout": 0.1, "targets": ["q"], "bias": "all"});
        let dpo: TrainConfig = serde_json::from_value(dpo).unwrap();
        dpo.validate(&Device::Cpu).unwrap();
        assert_eq!(dpo.loss, PreferenceLoss::Simpo);
    }

    #[test]
    fn what_is_not_built_or_makes_no_sense_is_refused_by_name() {
        for (field, value, code) in [
            ("precision", json!("f16"), Code::PrecisionUnavailable),
            ("precision", json!("int8"), Code::ConfigInvalid),
            ("workers", json!(0), Code::ConfigInvalid),
            ("batchSize", json!(0), Code::ConfigInvalid),
            ("learningRate", json!(-1.0), Code::ConfigInvalid),
            ("dropout", json!(1.0), Code::ConfigInvalid),
            ("cpoAlpha", json!(1.0), Code::ConfigInvalid),
            ("rpoAlpha", json!(-1.0), Code::ConfigInvalid),
        ] {
            let mut config = tiny();
            config[field] = value;
            let config: TrainConfig = serde_json::from_value(config).unwrap();
            if config.precision == "f16" && !has_kernels(&Device::Cpu) {
                continue;
            }
            let error = config.validate(&Device::Cpu).unwrap_err();
            assert_eq!(error.code(), code, "{field}");
            assert_eq!(error.context()["field"], field);
        }
        let mut half = tiny();
        half["precision"] = json!("f16");
        let half: TrainConfig = serde_json::from_value(half).unwrap();
        let _twins = chatlm_t5::cpu::twins_only();
        half.validate(&Device::Cpu).unwrap();
        let mut unknown = tiny();
        unknown["batchsize"] = json!(3);
        assert!(serde_json::from_value::<TrainConfig>(unknown).is_err());
    }
}
