//! One optimizer over named weights, with its state by name.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use chatlm_job::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::adafactor::{Adafactor, Factors};
use crate::adamw::{AdamW, Moments};
use crate::state::update;

/// Which optimizer, and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "name",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum OptimizerConfig {
    /// PyTorch's defaults: 0.9, 0.999, 1e-8, 0.01.
    AdamW {
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        weight_decay: f64,
    },
    /// transformers' `Adafactor`. With `relative_step` the given learning rate is not used.
    Adafactor {
        relative_step: bool,
        scale_parameter: bool,
        warmup_init: bool,
        weight_decay: f64,
    },
}

#[derive(Debug, Clone)]
enum Slot {
    AdamW(Moments),
    Adafactor(Factors),
}

/// An optimizer and the state of every weight it trains.
#[derive(Debug, Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    slots: BTreeMap<String, (Vec<usize>, Slot)>,
}

const STEP: &str = "step";

impl Optimizer {
    /// `parameters` are the trained weights' names and shapes; others have no state.
    pub fn new(config: OptimizerConfig, parameters: &[(String, Vec<usize>)]) -> Self {
        let slots = parameters
            .iter()
            .map(|(name, shape)| {
                let slot = match config {
                    OptimizerConfig::AdamW { .. } => {
                        Slot::AdamW(Moments::new(shape.iter().product()))
                    }
                    OptimizerConfig::Adafactor { .. } => Slot::Adafactor(Factors::new(shape)),
                };
                (name.clone(), (shape.clone(), slot))
            })
            .collect();
        Self {
            config,
            step: 0,
            slots,
        }
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Updates the weights in place. A weight without a gradient is left alone, as in PyTorch.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        grads: &BTreeMap<String, Tensor>,
        learning_rate: f64,
    ) -> Result<()> {
        self.step += 1;
        let (config, step) = (self.config, self.step);
        for (name, var) in parameters {
            let (Some(grad), Some((_, slot))) = (grads.get(name), self.slots.get_mut(name)) else {
                continue;
            };
            update(var, grad, |weights, grad| match (config, slot) {
                (
                    OptimizerConfig::AdamW {
                        beta1,
                        beta2,
                        epsilon,
                        weight_decay,
                    },
                    Slot::AdamW(moments),
                ) => AdamW {
                    beta1,
                    beta2,
                    epsilon,
                    weight_decay,
                }
                .update(weights, grad, moments, learning_rate, step),
                (
                    OptimizerConfig::Adafactor {
                        relative_step,
                        scale_parameter,
                        warmup_init,
                        weight_decay,
                    },
                    Slot::Adafactor(factors),
                ) => Adafactor {
                    relative_step,
                    scale_parameter,
                    warmup_init,
                    weight_decay,
                }
                .update(weights, grad, factors, learning_rate, step),
                // Slots are made from the configuration.
                _ => {}
            })
            .map_err(Error::internal)?;
        }
        Ok(())
    }

    /// The whole state as tensors: `NAME.exp_avg`, `NAME.exp_avg_sq`, … and `step`.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, (shape, slot)) in &self.slots {
            for (part, values, shape) in parts(slot, shape) {
                let tensor = Tensor::from_slice(values, shape, &Device::Cpu);
                state.insert(format!("{name}.{part}"), tensor.map_err(Error::internal)?);
            }
        }
        let step = Tensor::new(&[self.step as i64], &Device::Cpu).map_err(Error::internal)?;
        state.insert(STEP.to_owned(), step);
        Ok(state)
    }

    /// Takes a state that [`Self::state`] gave, for the same weights.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let missing = |name: &str| {
            Error::new(
                Code::CheckpointInvalid,
                format!("the optimizer state of {name} is missing or has another shape"),
                "the checkpoint belongs to another configuration; use --fresh to start over",
            )
        };
        let find = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = state.get(name).filter(|tensor| tensor.dims() == shape);
            tensor
                .ok_or_else(|| missing(name))?
                .flatten_all()
                .and_then(|tensor| tensor.to_vec1())
                .map_err(Error::internal)
        };
        for (name, (shape, slot)) in &mut self.slots {
            let count: usize = shape.iter().product();
            match slot {
                Slot::AdamW(moments) => {
                    moments.first = find(&format!("{name}.exp_avg"), shape)?;
                    moments.second = find(&format!("{name}.exp_avg_sq"), shape)?;
                    debug_assert_eq!(moments.first.len(), count);
                }
                Slot::Adafactor(Factors::Matrix { row, column }) => {
                    *row = find(&format!("{name}.exp_avg_sq_row"), &[row.len()])?;
                    *column = find(&format!("{name}.exp_avg_sq_col"), &[column.len()])?;
                }
                Slot::Adafactor(Factors::Whole(second)) => {
                    *second = find(&format!("{name}.exp_avg_sq"), shape)?;
                }
            }
        }
        let step = state.get(STEP).ok_or_else(|| missing(STEP))?;
        let step: Vec<i64> = step.to_vec1().map_err(Error::internal)?;
        self.step = step.first().copied().unwrap_or_default() as u64;
        Ok(())
    }
}

fn parts<'a>(slot: &'a Slot, shape: &[usize]) -> Vec<(&'static str, &'a [f32], Vec<usize>)> {
    match slot {
        Slot::AdamW(moments) => vec![
            ("exp_avg", &moments.first, shape.to_vec()),
            ("exp_avg_sq", &moments.second, shape.to_vec()),
        ],
        Slot::Adafactor(Factors::Matrix { row, column }) => vec![
            ("exp_avg_sq_row", row, vec![row.len()]),
            ("exp_avg_sq_col", column, vec![column.len()]),
        ],
        Slot::Adafactor(Factors::Whole(second)) => vec![("exp_avg_sq", second, shape.to_vec())],
    }
}
