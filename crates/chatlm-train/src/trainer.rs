//! The optimizer step: gradients of micro-batches gathered as if they were one batch, clipped,
//! applied in place; and all that a checkpoint needs to go on to the bit.
//!
//! Loss and gradients are divided by the target tokens (or pairs) of the whole step, so how a step
//! is cut into micro-batches does not matter. Dropout is keyed by row, so nothing random is kept.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Tensor, Var};
use chatlm_checkpoint::Loaded;
use chatlm_job::{Code, Error, Result};
use chatlm_optim::{Optimizer, Schedule, clip};
use chatlm_t5::{Config, DropoutKeys, LoraConfig, Model, Parameters, Pass};

use crate::batch::{PreferenceBatch, SequenceBatch};
use crate::config::{OnNan, TrainConfig};
use crate::freeze::trainable;
use crate::loss::{sequence_loss, target_log_probabilities};
use crate::preference::{PreferenceMeasures, Sums, pairs};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Mean cross-entropy a target token in nats, or mean preference loss a pair.
    pub loss: f64,
    pub learning_rate: f64,
    /// Global L2 norm before clipping.
    pub grad_norm: f64,
    /// Source and target tokens, without padding.
    pub tokens: usize,
    pub seconds: f64,
    /// The loss or a gradient was not finite, and the configuration says to go on without the step.
    pub skipped: bool,
    /// Only of preference steps.
    pub rewards: Option<PreferenceMeasures>,
}

/// Gradients of the trained weights, by name.
type Gradients = BTreeMap<String, Tensor>;

/// A model in training.
pub struct Trainer {
    settings: TrainConfig,
    config: Config,
    parameters: Parameters,
    lora: Option<LoraConfig>,
    trained: Vec<(String, Var)>,
    /// Shares the parameters' storage: an update shows at once.
    tracked: Model,
    optimizer: Optimizer,
    schedule: Schedule,
    step: u64,
}

impl Trainer {
    /// Trains `parameters`; with `lora` only the adapter that is attached to them. `total` is the
    /// number of steps the schedule spans.
    pub fn new(
        settings: &TrainConfig,
        config: Config,
        parameters: Parameters,
        lora: Option<LoraConfig>,
        total: u64,
    ) -> Result<Self> {
        settings.validate()?;
        let trained = trainable(&parameters, lora.as_ref(), &settings.freeze)?;
        let names: std::collections::HashSet<&str> =
            trained.iter().map(|(name, _)| name.as_str()).collect();
        let tracked = Model::with_trainable(&config, &parameters, lora.as_ref(), &|name| {
            names.contains(name)
        })?;
        let shapes: Vec<(String, Vec<usize>)> = trained
            .iter()
            .map(|(name, var)| (name.clone(), var.dims().to_vec()))
            .collect();
        let schedule = Schedule {
            kind: settings.schedule,
            base: settings.learning_rate,
            warmup: settings.warmup_steps,
            total,
        };
        Ok(Self {
            settings: settings.clone(),
            optimizer: Optimizer::new(settings.optimizer(), &shapes),
            config,
            parameters,
            lora,
            trained,
            tracked,
            schedule,
            step: 0,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Steps done, skipped ones counted.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Values in all weights (the adapter's too), and in the trained ones.
    pub fn parameter_counts(&self) -> (u64, u64) {
        let all = self
            .parameters
            .iter()
            .map(|(_, var)| var.elem_count() as u64)
            .sum();
        let trained = self
            .trained
            .iter()
            .map(|(_, var)| var.elem_count() as u64)
            .sum();
        (all, trained)
    }

    /// Whether preference steps need reference scores.
    pub fn needs_reference(&self) -> bool {
        self.settings.loss.needs_reference()
    }

    /// A model over the weights in training. With `track` it keeps what a backward pass needs.
    pub fn model(&self, track: bool) -> Result<Model> {
        if track {
            return Ok(self.tracked.clone());
        }
        Model::new(&self.config, &self.parameters, self.lora.as_ref(), false)
    }

    /// One optimizer step over all the given micro-batches.
    pub fn step(&mut self, micro: &[SequenceBatch]) -> Result<StepReport> {
        let started = Instant::now();
        let tokens = micro
            .iter()
            .map(|batch| batch.tokens + batch.source_tokens)
            .sum();
        let (loss, gradients) = self.gradients(micro)?;
        self.update(started, loss, gradients, tokens, None)
    }

    /// Mean loss of all micro-batches, and its gradients.
    fn gradients(&self, micro: &[SequenceBatch]) -> Result<(f64, Gradients)> {
        let total = micro.iter().map(|batch| batch.tokens).sum::<usize>().max(1) as f64;
        let (mut loss, mut gradients) = (0.0, Gradients::new());
        for batch in micro {
            let keys = self.keys(&batch.keys);
            let pass = Pass {
                dropout: keys.as_ref(),
                adapter: true,
            };
            let (sum, _) =
                sequence_loss(&self.tracked, batch, &pass, self.settings.label_smoothing)?;
            loss += f64::from(sum.to_scalar::<f32>().map_err(Error::internal)?) / total;
            if !loss.is_finite() {
                break;
            }
            let share = (sum / total).map_err(Error::internal)?;
            self.backward(&share, &mut gradients)?;
        }
        Ok((loss, gradients))
    }

    /// One optimizer step over pairs of answers.
    pub fn preference_step(&mut self, micro: &[PreferenceBatch]) -> Result<StepReport> {
        let started = Instant::now();
        let tokens = micro
            .iter()
            .map(|batch| batch.chosen.source_tokens + batch.chosen.tokens + batch.rejected.tokens)
            .sum();
        let (measures, gradients) = self.preference_gradients(micro)?;
        self.update(started, measures.loss, gradients, tokens, Some(measures))
    }

    fn preference_gradients(
        &self,
        micro: &[PreferenceBatch],
    ) -> Result<(PreferenceMeasures, Gradients)> {
        let kind = self.settings.loss;
        let count = micro
            .iter()
            .map(|batch| batch.chosen.len())
            .sum::<usize>()
            .max(1) as f64;
        let chosen_tokens = micro
            .iter()
            .map(|batch| batch.chosen.tokens)
            .sum::<usize>()
            .max(1);
        let cross_entropy = if kind.adds_cross_entropy() {
            1.0 / chosen_tokens as f64
        } else {
            0.0
        };
        let (mut sums, mut gradients) = (Sums::default(), Gradients::new());
        for batch in micro {
            let keys = self.keys(&batch.chosen.keys);
            let pass = Pass {
                dropout: keys.as_ref(),
                adapter: true,
            };
            // Both answers belong to the same prompt: it is encoded once.
            let encoded = self
                .tracked
                .encode(&batch.chosen.source, &batch.chosen.mask, &pass)?;
            let scores = |side| target_log_probabilities(&self.tracked, side, &encoded, &pass);
            let (chosen, rejected) = (scores(&batch.chosen)?, scores(&batch.rejected)?);
            let values = |t: &Tensor| t.to_vec1::<f32>().map_err(Error::internal);
            let (mut by_chosen, mut by_rejected) = (Vec::new(), Vec::new());
            for pair in pairs(batch, kind, &values(&chosen)?, &values(&rejected)?)? {
                let loss = kind.pair(self.settings.beta, &pair);
                sums.add(kind, &pair, &loss);
                by_chosen.push((loss.by_chosen / count - cross_entropy) as f32);
                by_rejected.push((loss.by_rejected / count) as f32);
            }
            if !sums.means().loss.is_finite() {
                break;
            }
            // A sum whose derivatives by the scores are those of the loss.
            let weighted = |scores: &Tensor, by: Vec<f32>| -> candle_core::Result<Tensor> {
                (scores * Tensor::from_vec(by, scores.dims(), scores.device())?)?.sum_all()
            };
            let sum = weighted(&chosen, by_chosen)
                .and_then(|left| left + weighted(&rejected, by_rejected)?)
                .map_err(Error::internal)?;
            self.backward(&sum, &mut gradients)?;
        }
        Ok((sums.means(), gradients))
    }

    /// Dropout of a training pass; `None` where every rate is 0.
    fn keys(&self, rows: &[u64]) -> Option<DropoutKeys> {
        let rate = self.config.dropout_rate;
        let adapter = self.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        (rate > 0.0 || adapter > 0.0).then(|| DropoutKeys {
            rows: rows.to_vec(),
            rate,
        })
    }

    fn backward(&self, loss: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let mut store = loss.backward().map_err(Error::internal)?;
        for (name, var) in &self.trained {
            let Some(gradient) = store.remove(var.as_tensor()) else {
                continue;
            };
            let sum = match gradients.remove(name) {
                Some(before) => (before + gradient).map_err(Error::internal)?,
                None => gradient,
            };
            gradients.insert(name.clone(), sum);
        }
        Ok(())
    }

    fn update(
        &mut self,
        started: Instant,
        loss: f64,
        mut gradients: Gradients,
        tokens: usize,
        rewards: Option<PreferenceMeasures>,
    ) -> Result<StepReport> {
        let learning_rate = self.schedule.at(self.step);
        let grad_norm = if loss.is_finite() {
            clip(&mut gradients, self.settings.clip)?
        } else {
            f64::NAN
        };
        let finite = loss.is_finite() && grad_norm.is_finite();
        if !finite && self.settings.on_nan == OnNan::Stop {
            return Err(self.not_finite(loss));
        }
        if finite {
            self.optimizer
                .step(&self.trained, &gradients, learning_rate)?;
        }
        self.step += 1;
        Ok(StepReport {
            loss,
            learning_rate,
            grad_norm,
            tokens,
            seconds: started.elapsed().as_secs_f64(),
            skipped: !finite,
            rewards,
        })
    }

    fn not_finite(&self, loss: f64) -> Error {
        let step = self.step + 1;
        let what = if loss.is_finite() {
            "the gradient"
        } else {
            "the loss"
        };
        Error::new(
            Code::NotFinite,
            format!("{what} of step {step} is not finite"),
            "lower learningRate, or set onNaN to skip; the weights are as they were before the step",
        )
        .with("step", step)
    }

    /// The tensors of a checkpoint, by file: all weights, or only the adapter's where one is
    /// trained (its base is a model folder that does not change), and the optimizer's state.
    pub fn state(&self) -> Result<Vec<(&'static str, BTreeMap<String, Tensor>)>> {
        let weights = self
            .saved()
            .map(|(name, var)| (name.to_owned(), var.as_detached_tensor()))
            .collect();
        Ok(vec![
            (WEIGHTS, weights),
            (OPTIMIZER, self.optimizer.state()?),
        ])
    }

    fn saved(&self) -> impl Iterator<Item = (&str, &Var)> {
        let lora = self.lora.as_ref();
        self.parameters
            .iter()
            .filter(move |(name, _)| lora.is_none_or(|lora| lora.trains(name)))
    }

    /// Goes on from a checkpoint, to the bit.
    pub fn restore(&mut self, loaded: Loaded) -> Result<()> {
        let folder = loaded.path.display().to_string();
        let invalid = |what: String| {
            Error::new(
                Code::CheckpointInvalid,
                format!("{folder}: {what}"),
                "the checkpoint belongs to another configuration; use --fresh to start over",
            )
            .with("file", folder.clone())
        };
        let file = |name: &str| {
            loaded
                .tensors
                .get(name)
                .ok_or_else(|| invalid(format!("{name} is missing")))
        };
        let weights = file(WEIGHTS)?;
        let mut count = 0;
        // Everything is looked at before anything is changed.
        for (name, var) in self.saved() {
            let fits = |t: &Tensor| t.dims() == var.dims() && t.dtype() == DType::F32;
            if !weights.get(name).is_some_and(fits) {
                return Err(invalid(format!(
                    "weight {name} is missing or has another shape"
                )));
            }
            count += 1;
        }
        if weights.len() != count {
            return Err(invalid(format!("{} weights, not {count}", weights.len())));
        }
        self.optimizer.load_state(file(OPTIMIZER)?)?;
        for (name, var) in self.saved() {
            if let Some(tensor) = weights.get(name) {
                let tensor = tensor.to_device(var.device());
                tensor
                    .and_then(|tensor| var.set(&tensor))
                    .map_err(Error::internal)?;
            }
        }
        self.step = loaded.step;
        Ok(())
    }
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
