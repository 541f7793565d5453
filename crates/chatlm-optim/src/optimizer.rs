//! One optimizer over named weights, with its state by name.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use chatlm_job::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::adafactor::{Adafactor, Factors};
use crate::adamw::{AdamW, Moments};
use crate::device::{Ask, Kept, Rule, update};

/// Which optimizer, and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "name",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum OptimizerConfig {
    /// PyTorch's defaults: 0.9, 0.999, 1e-8, 0.01. With `scale_parameter` the learning rate is multiplied by
    /// the root mean square of each weight (at least 1e-3), as Adafactor's is: nanoT5's `AdamWScale`.
    AdamW {
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        weight_decay: f64,
        scale_parameter: bool,
    },
    /// transformers' `Adafactor`. With `relative_step` the given learning rate is not used.
    Adafactor {
        relative_step: bool,
        scale_parameter: bool,
        warmup_init: bool,
        weight_decay: f64,
    },
}

impl OptimizerConfig {
    /// The learning rate of a step, counted from 1: the schedule's, or one's own with `relative_step`.
    /// With `scale_parameter` each weight's size still multiplies it.
    pub fn learning_rate(self, scheduled: f64, step: u64) -> f64 {
        match self.rule() {
            Rule::AdamW(_) => scheduled,
            Rule::Adafactor(rule) => rule.relative_rate(scheduled, step),
        }
    }

    fn rule(self) -> Rule {
        match self {
            Self::AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
                scale_parameter,
            } => Rule::AdamW(AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
                scale_parameter,
            }),
            Self::Adafactor {
                relative_step,
                scale_parameter,
                warmup_init,
                weight_decay,
            } => Rule::Adafactor(Adafactor {
                relative_step,
                scale_parameter,
                warmup_init,
                weight_decay,
            }),
        }
    }
}

/// The rule of an update and what it keeps of every weight.
#[derive(Debug, Clone)]
enum State {
    AdamW(AdamW, Moments),
    Adafactor(Adafactor, Vec<Factors>),
    /// On a device: everything as tensors there.
    Tensors(Rule, Vec<Kept>),
}

/// Values of a state where they lie.
#[derive(Debug, Clone)]
pub enum Part<'a> {
    Values(&'a [f32]),
    Tensor(Tensor),
}

/// Where a state is read from.
pub trait Source {
    /// Type and shape of a tensor; `None` where there is none of that name.
    fn look(&self, name: &str) -> Option<(DType, &[usize])>;
    /// A tensor that is there, on any device.
    fn read(&mut self, name: &str) -> Result<Tensor>;
}

impl Source for &BTreeMap<String, Tensor> {
    fn look(&self, name: &str) -> Option<(DType, &[usize])> {
        let tensor = self.get(name)?;
        Some((tensor.dtype(), tensor.dims()))
    }

    fn read(&mut self, name: &str) -> Result<Tensor> {
        Ok(self[name].clone())
    }
}

/// An optimizer and the state of every weight it trains. A step is [`Self::begin_step`] and then
/// [`Self::update`] for each weight; a weight that is left out is left alone, as PyTorch leaves
/// weights without a gradient.
#[derive(Debug, Clone)]
pub struct Optimizer {
    step: u64,
    /// Names, all different, and shapes.
    parameters: Vec<(String, Vec<usize>)>,
    state: State,
}

/// The name of the steps in a state.
pub const STEP: &str = "step";

impl Optimizer {
    /// `parameters`: names and shapes of the trained weights; a weight's index is its place here. Weights
    /// and gradients are slices.
    pub fn new(config: OptimizerConfig, parameters: &[(String, Vec<usize>)]) -> Self {
        let shapes = parameters.iter().map(|(_, shape)| shape);
        let state = match config.rule() {
            Rule::AdamW(rule) => State::AdamW(
                rule,
                Moments::new(shapes.map(|shape| shape.iter().product())),
            ),
            Rule::Adafactor(rule) => {
                State::Adafactor(rule, shapes.map(|shape| Factors::new(shape)).collect())
            }
        };
        Self {
            step: 0,
            parameters: parameters.to_vec(),
            state,
        }
    }

    /// The same for weights and gradients that are tensors on a device: see [`Self::update_tensor`].
    pub fn on_device(
        config: OptimizerConfig,
        parameters: &[(String, Vec<usize>)],
        device: &Device,
    ) -> Result<Self> {
        let rule = config.rule();
        let kept = parameters
            .iter()
            .map(|(_, shape)| Kept::new(rule, shape, device))
            .collect::<candle_core::Result<_>>()
            .map_err(Error::internal)?;
        Ok(Self {
            step: 0,
            parameters: parameters.to_vec(),
            state: State::Tensors(rule, kept),
        })
    }

    /// Steps begun.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Counts a step; the updates that follow belong to it.
    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    /// One weight's update from `scale · gradient` (see [`crate::clip_scale`]), by all threads.
    /// Adafactor with `relative_step` does not use the learning rate.
    ///
    /// Panics before the first [`Self::begin_step`], for an index that is not a weight's, for slices
    /// that are not of the weight's size, and for an optimizer on a device.
    pub fn update(
        &mut self,
        index: usize,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        learning_rate: f64,
    ) {
        let (name, shape) = &self.parameters[index];
        let count: usize = shape.iter().product();
        assert!(self.step > 0, "an update of {name} before the first step");
        assert!(
            weights.len() == count && gradient.len() == count,
            "{} weights and {} gradients for {name} of {count} values",
            weights.len(),
            gradient.len(),
        );
        match &mut self.state {
            State::AdamW(rule, moments) => {
                let moments = moments.of_mut(index);
                rule.update(weights, gradient, scale, moments, learning_rate, self.step);
            }
            State::Adafactor(rule, factors) => {
                let factors = &mut factors[index];
                rule.update(weights, gradient, scale, factors, learning_rate, self.step);
            }
            State::Tensors(..) => panic!("{name} is on a device, where tensors are updated"),
        }
    }

    /// The same update of a weight on a device, by candle's operators there.
    pub fn update_tensor(
        &mut self,
        index: usize,
        weights: &Var,
        gradient: &Tensor,
        scale: f32,
        learning_rate: f64,
    ) -> Result<()> {
        let (name, shape) = &self.parameters[index];
        let State::Tensors(rule, kept) = &mut self.state else {
            return Err(Error::internal(format!("{name} is not on a device")));
        };
        if self.step == 0 || weights.dims() != shape || gradient.dims() != shape {
            return Err(Error::internal(format!(
                "an update of {name} {shape:?} at step {}, {:?} by {:?}",
                self.step,
                weights.dims(),
                gradient.dims()
            )));
        }
        let ask = Ask {
            scale,
            learning_rate,
            step: self.step,
        };
        update(*rule, weights, gradient, &mut kept[index], ask).map_err(Error::internal)
    }

    /// The whole state where it lies: the steps as a tensor, which a file calls [`STEP`], and names
    /// (`NAME.exp_avg`, `NAME.exp_avg_sq`, …), shapes and values.
    #[expect(clippy::type_complexity, reason = "a list of named values")]
    pub fn parts(&self) -> Result<(Tensor, Vec<(String, Vec<usize>, Part<'_>)>)> {
        let step = Tensor::new(&[self.step as i64], &Device::Cpu).map_err(Error::internal)?;
        let mut parts = Vec::new();
        for (index, (name, shape)) in self.parameters.iter().enumerate() {
            for (part, shape, values) in self.state.parts(index, shape) {
                parts.push((format!("{name}.{part}"), shape, values));
            }
        }
        Ok((step, parts))
    }

    /// [`Self::parts`] as tensors by name.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let (step, parts) = self.parts()?;
        let mut state = BTreeMap::from([(STEP.to_owned(), step)]);
        for (name, shape, values) in parts {
            let tensor = match values {
                Part::Values(values) => Tensor::from_slice(values, shape, &Device::Cpu),
                Part::Tensor(tensor) => tensor.to_device(&Device::Cpu),
            };
            state.insert(name, tensor.map_err(Error::internal)?);
        }
        Ok(state)
    }

    /// Takes a state that [`Self::state`] gave, for the same weights, on any device, a tensor at a time.
    /// Nothing is changed where it does not fit.
    pub fn load_state(&mut self, state: &mut impl Source) -> Result<()> {
        let missing = |name: &str| {
            Error::new(
                Code::CheckpointInvalid,
                format!("the optimizer state of {name} is missing or has another shape"),
                "the checkpoint belongs to another configuration; use --fresh to start over",
            )
        };
        state.look(STEP).ok_or_else(|| missing(STEP))?;
        let step = state.read(STEP)?;
        let step = step
            .to_vec1::<i64>()
            .ok()
            .and_then(|step| u64::try_from(*step.first()?).ok())
            .ok_or_else(|| missing(STEP))?;
        // Everything is looked at before anything is changed.
        let mut keys = Vec::new();
        for (index, (name, shape)) in self.parameters.iter().enumerate() {
            for (part, shape, _) in self.state.parts(index, shape) {
                let key = format!("{name}.{part}");
                state
                    .look(&key)
                    .filter(|found| *found == (DType::F32, shape.as_slice()))
                    .ok_or_else(|| missing(&key))?;
                keys.push(key);
            }
        }
        let mut keys = keys.iter();
        if let State::Tensors(_, kept) = &mut self.state {
            for (held, key) in kept.iter_mut().flat_map(Kept::parts_mut).zip(keys) {
                // A copy, as what is held must be nobody else's.
                *held = state
                    .read(key)?
                    .to_device(held.device())
                    .and_then(|tensor| tensor.force_contiguous())
                    .map_err(Error::internal)?;
            }
            self.step = step;
            return Ok(());
        }
        for index in 0..self.parameters.len() {
            for (values, key) in self.state.parts_mut(index).into_iter().zip(&mut keys) {
                let tensor = state
                    .read(key)?
                    .flatten_all()
                    .and_then(|tensor| tensor.to_vec1())
                    .map_err(Error::internal)?;
                values.copy_from_slice(&tensor);
            }
        }
        self.step = step;
        Ok(())
    }
}

impl State {
    /// What is kept of a weight: name, shape, values.
    fn parts(&self, index: usize, shape: &[usize]) -> Vec<(&'static str, Vec<usize>, Part<'_>)> {
        match self {
            Self::AdamW(_, moments) => {
                let (first, second) = moments.of(index);
                vec![
                    ("exp_avg", shape.to_vec(), Part::Values(first)),
                    ("exp_avg_sq", shape.to_vec(), Part::Values(second)),
                ]
            }
            Self::Adafactor(_, factors) => match &factors[index] {
                Factors::Matrix { row, column } => vec![
                    ("exp_avg_sq_row", vec![row.len()], Part::Values(row)),
                    ("exp_avg_sq_col", vec![column.len()], Part::Values(column)),
                ],
                Factors::Whole(second) => {
                    vec![("exp_avg_sq", shape.to_vec(), Part::Values(second))]
                }
            },
            Self::Tensors(_, kept) => {
                let parts = kept[index].parts().into_iter();
                parts
                    .map(|(name, held)| (name, held.dims().to_vec(), Part::Tensor(held.clone())))
                    .collect()
            }
        }
    }

    /// The slices of [`Self::parts`], in the same order.
    fn parts_mut(&mut self, index: usize) -> Vec<&mut [f32]> {
        match self {
            Self::AdamW(_, moments) => {
                let (first, second) = moments.of_mut(index);
                vec![first, second]
            }
            Self::Adafactor(_, factors) => match &mut factors[index] {
                Factors::Matrix { row, column } => vec![row, column],
                Factors::Whole(second) => vec![second],
            },
            Self::Tensors(..) => Vec::new(),
        }
    }
}
