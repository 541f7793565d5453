//! The optimizer step: gradients of micro-batches gathered as if they were one batch, clipped,
//! applied in place; and all that a checkpoint needs to go on to the bit.
//!
//! Loss and gradients are divided by the target tokens (or pairs) of the whole step, so how a step
//! is cut into micro-batches does not matter. Dropout is keyed by row, so nothing random is kept.
//!
//! Where this program's kernels run, gradients and moments lie in plain memory; on other devices they
//! are tensors there, as are the weights. A checkpoint of one is a checkpoint of the other.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Device, Var};
use chatlm_checkpoint::{Loaded, Piece};
use chatlm_job::{Code, Error, Result};
use chatlm_optim::{Optimizer, Part, STEP, Schedule, Source, clip_scale, squared_norm};
use chatlm_t5::{Config, Gradients, LoraConfig, Model, Parameters, Sink, has_kernels, write};

use crate::batch::{PreferenceBatch, SequenceBatch};
use crate::config::{OnNan, TrainConfig};
use crate::freeze::trainable;
use crate::parallel::{Chosen, Communicator, Talk, Team, carrier};
use crate::passes::{Found, Passes, Totals};
use crate::preference::PreferenceMeasures;
use crate::scaler::LossScale;
use crate::update::{apply, norm};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// An optimizer of weights that lie in plain memory or on a device.
fn optimizer(
    settings: &TrainConfig,
    shapes: &[(String, Vec<usize>)],
    device: &Device,
    plain: bool,
) -> Result<Optimizer> {
    if plain {
        return Ok(Optimizer::new(settings.optimizer(), shapes));
    }
    Optimizer::on_device(settings.optimizer(), shapes, device)
}

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
    /// Seconds of the last part: clipping and the update.
    pub update_seconds: f64,
    /// Seconds of the forward passes.
    pub forward_seconds: f64,
    /// The loss or a gradient was not finite, and the configuration says to go on without the step; or a
    /// scaled gradient was too large for f16.
    pub skipped: bool,
    /// What the loss was multiplied by, where gradients are in f16. Where that was too much the step is
    /// left out, and the next one's is half of it.
    pub loss_scale: Option<f64>,
    /// Only of preference steps.
    pub rewards: Option<PreferenceMeasures>,
}

/// A model in training.
pub struct Trainer {
    settings: TrainConfig,
    config: Config,
    parameters: Parameters,
    lora: Option<LoraConfig>,
    trained: Vec<(String, Var)>,
    /// Shares the parameters' storage: an update shows at once.
    tracked: Model,
    /// Kept from step to step, so that their memory is.
    gradients: Option<Gradients<'static>>,
    optimizer: Optimizer,
    /// Of f16 alone.
    scaler: Option<LossScale>,
    schedule: Schedule,
    /// Of several workers.
    team: Option<Team>,
    device: Device,
    /// Whether gradients and moments are plain memory, for kernels of the processor.
    plain: bool,
    step: u64,
    /// Whether the weights are those after `step` steps; an update that failed on its way leaves them
    /// between two.
    whole: bool,
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
        let device = parameters.device();
        let plain = has_kernels(&device);
        settings.validate(&device)?;
        let trained = trainable(&parameters, lora.as_ref(), &settings.freeze)?;
        let places: std::collections::HashMap<&str, usize> = trained
            .iter()
            .enumerate()
            .map(|(index, (name, _))| (name.as_str(), index))
            .collect();
        let tracked = Model::with_trainable(&config, &parameters, lora.as_ref(), &|name| {
            places.get(name).copied()
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
            optimizer: optimizer(settings, &shapes, &device, plain)?,
            settings: settings.clone(),
            scaler: (settings.precision == "f16").then(LossScale::default),
            team: None,
            device,
            plain,
            config,
            parameters,
            lora,
            trained,
            tracked,
            gradients: None,
            schedule,
            step: 0,
            whole: true,
        })
    }

    /// Trains as one of several workers from here on: each has rows of its own and the same weights,
    /// and keeps the optimizer's state of a share of them.
    pub fn join(self, talk: Talk) -> Result<Self> {
        self.join_by(talk, carrier)
    }

    /// The same, and how tensors of a device travel.
    pub(crate) fn join_by(
        mut self,
        talk: Talk,
        choose: impl FnOnce(&mut Communicator, &Device) -> Result<Chosen>,
    ) -> Result<Self> {
        let team = Team::new(talk, &self.trained, &self.device, self.plain, choose)?;
        let shapes: Vec<(String, Vec<usize>)> = team
            .own()
            .iter()
            .map(|&index| &self.trained[index])
            .map(|(name, var)| (name.clone(), var.dims().to_vec()))
            .collect();
        self.optimizer = optimizer(&self.settings, &shapes, &self.device, self.plain)?;
        self.team = Some(team);
        Ok(self)
    }

    /// Of several workers on GPUs: why their gradients go through the processor's memory and not by NCCL.
    pub fn without_nccl(&self) -> Option<&str> {
        self.team.as_ref().and_then(Team::note)
    }

    /// The number of steps that the schedule spans, where a run finds another one than it began with.
    pub fn set_total(&mut self, total: u64) {
        self.schedule.total = total;
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the weights are, and batches must be.
    pub fn device(&self) -> &Device {
        &self.device
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

    /// Whether the weights are as they were after the last whole step; what a checkpoint needs.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// A model over the weights in training, without gradients.
    pub fn model(&self) -> Result<Model> {
        Model::new(&self.config, &self.parameters, self.lora.as_ref())
    }

    fn passes(&self) -> Passes<'_> {
        Passes {
            model: &self.tracked,
            settings: &self.settings,
            config: &self.config,
            lora: self.lora.as_ref(),
            scale: self.scale(),
        }
    }

    /// What the loss is multiplied by.
    fn scale(&self) -> f64 {
        self.scaler.map_or(1.0, |scaler| scaler.scale())
    }

    fn sizes(&self) -> Vec<usize> {
        self.trained
            .iter()
            .map(|(_, var)| var.elem_count())
            .collect()
    }

    /// Gradients to write, their buffers those of the step before.
    fn take_gradients(&mut self) -> Gradients<'static> {
        let mut gradients = match self.gradients.take() {
            Some(gradients) => gradients,
            None if self.plain => Gradients::new(self.sizes()),
            None => Gradients::on_device(self.sizes()),
        };
        gradients.clear();
        gradients
    }

    /// One optimizer step over all the given micro-batches.
    pub fn step(&mut self, micro: &[SequenceBatch]) -> Result<StepReport> {
        let started = Instant::now();
        let tokens = micro
            .iter()
            .map(|batch| batch.tokens + batch.source_tokens)
            .sum();
        let (totals, tokens) = self.of_all(Totals::of(micro), tokens)?;
        if self.fuses(micro.len()) {
            return self.fused_step(started, &micro[0], tokens);
        }
        let mut gradients = self.take_gradients();
        let mut found = self.gather(&mut gradients, |passes, gradients, watch| {
            passes.gradients(micro, totals, gradients, watch)
        })?;
        self.sum(std::slice::from_mut(&mut found.measured))?;
        let report = StepReport {
            loss: found.measured,
            tokens,
            forward_seconds: found.forward_seconds,
            ..self.report()
        };
        self.update(started, report, gradients)
    }

    /// One optimizer step over pairs of answers.
    pub fn preference_step(&mut self, micro: &[PreferenceBatch]) -> Result<StepReport> {
        let started = Instant::now();
        let tokens = micro
            .iter()
            .map(|batch| batch.chosen.source_tokens + batch.chosen.tokens + batch.rejected.tokens)
            .sum();
        let (totals, tokens) = self.of_all(Totals::of_pairs(micro), tokens)?;
        let mut gradients = self.take_gradients();
        let mut found = self.gather(&mut gradients, |passes, gradients, watch| {
            passes.preference_gradients(micro, totals, gradients, watch)
        })?;
        found.measured.share(|numbers| self.sum(numbers))?;
        let measured = found.measured.means();
        let report = StepReport {
            loss: measured.loss,
            tokens,
            forward_seconds: found.forward_seconds,
            rewards: Some(measured),
            ..self.report()
        };
        self.update(started, report, gradients)
    }

    /// What all workers have together.
    fn of_all(&self, totals: Totals, tokens: usize) -> Result<(Totals, usize)> {
        let mut numbers = [totals.tokens, totals.pairs, tokens as f64];
        self.sum(&mut numbers)?;
        let [target, pairs, tokens] = numbers;
        let totals = Totals {
            tokens: target,
            pairs,
        };
        Ok((totals, tokens as usize))
    }

    /// Adds the other workers' numbers.
    fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        self.team.as_ref().map_or(Ok(()), |team| team.sum(numbers))
    }

    /// Runs the passes of a step; of several workers, while their gradients are summed.
    fn gather<M>(
        &mut self,
        gradients: &mut Gradients<'static>,
        work: impl FnOnce(
            &Passes<'_>,
            &mut Gradients<'static>,
            Option<Sink<'static>>,
        ) -> Result<Found<M>>,
    ) -> Result<Found<M>> {
        let Some(mut team) = self.team.take() else {
            return work(&self.passes(), gradients, None);
        };
        let passes = self.passes();
        let found = team.gather(gradients, |gradients, watch| {
            work(&passes, gradients, watch)
        });
        self.team = Some(team);
        found
    }

    /// Whether the gradients of all trained weights are held at once in a step of so many micro-batches.
    pub fn holds_gradients(&self, micro: usize) -> bool {
        !self.fuses(micro)
    }

    /// Whether a step updates each weight as soon as its gradient is complete, so that no two layers'
    /// gradients are held at once: where nothing (clipping, more micro-batches, the choice to skip a
    /// step) has to see all gradients first.
    fn fuses(&self, micro: usize) -> bool {
        let alone = self.settings.clip == 0.0 && micro == 1;
        self.plain && alone && self.team.is_none() && self.settings.on_nan == OnNan::Stop
    }

    fn fused_step(
        &mut self,
        started: Instant,
        batch: &SequenceBatch,
        tokens: usize,
    ) -> Result<StepReport> {
        let (report, sizes) = (self.report(), self.sizes());
        // The sink changes weights through their tensors; the passes read everything but the optimizer.
        let passes = Passes {
            model: &self.tracked,
            settings: &self.settings,
            config: &self.config,
            lora: self.lora.as_ref(),
            scale: 1.0,
        };
        let (mut square, mut seconds, mut updated) = (0.0, 0.0, false);
        let mut failed = Ok(());
        let found = {
            let (square, seconds) = (&mut square, &mut seconds);
            let (optimizer, failed, updated) = (&mut self.optimizer, &mut failed, &mut updated);
            let trained = &self.trained;
            let sink = move |index: usize, gradient: &[f32]| {
                let started = Instant::now();
                *square += squared_norm(gradient);
                if square.is_finite() && failed.is_ok() {
                    // Not before: a step that changes nothing must not count in what is saved.
                    if !*updated {
                        optimizer.begin_step();
                        *updated = true;
                    }
                    *failed = write(&trained[index].1, |weights| {
                        optimizer.update(index, weights, gradient, 1.0, report.learning_rate);
                    });
                }
                *seconds += started.elapsed().as_secs_f64();
            };
            let micro = std::slice::from_ref(batch);
            let mut gradients = Gradients::with_sink(sizes, Box::new(sink));
            let found = passes.gradients(micro, Totals::of(micro), &mut gradients, None);
            if found.as_ref().is_ok_and(|found| found.measured.is_finite()) {
                gradients.finish();
            }
            found
        };
        // Until the step is over its updates may have reached some weights and not others.
        self.whole = !updated;
        failed.map_err(Error::internal)?;
        let found = found?;
        if !(found.measured.is_finite() && square.is_finite()) {
            return Err(self.not_finite(found.measured));
        }
        self.whole = true;
        self.step += 1;
        Ok(StepReport {
            loss: found.measured,
            grad_norm: square.sqrt(),
            tokens,
            seconds: started.elapsed().as_secs_f64(),
            forward_seconds: found.forward_seconds,
            update_seconds: seconds,
            ..report
        })
    }

    /// A report of nothing yet.
    fn report(&self) -> StepReport {
        StepReport {
            loss: f64::NAN,
            learning_rate: self
                .settings
                .optimizer()
                .learning_rate(self.schedule.at(self.step), self.step + 1),
            grad_norm: f64::NAN,
            tokens: 0,
            seconds: 0.0,
            forward_seconds: 0.0,
            update_seconds: 0.0,
            skipped: false,
            loss_scale: self.scaler.map(|scaler| scaler.scale()),
            rewards: None,
        }
    }

    fn update(
        &mut self,
        started: Instant,
        mut report: StepReport,
        mut gradients: Gradients<'static>,
    ) -> Result<StepReport> {
        let since = Instant::now();
        let mut there = Vec::new();
        if report.loss.is_finite() {
            let norm = match &self.team {
                Some(team) => {
                    let (squares, found) = team.squares(&gradients)?;
                    there = found;
                    squares.sqrt()
                }
                None => norm(&gradients)?,
            };
            report.grad_norm = norm / self.scale();
        }
        report.skipped = !(report.loss.is_finite() && report.grad_norm.is_finite());
        if report.skipped {
            self.gradients = Some(gradients);
            let scaled = report.loss.is_finite();
            match self.scaler.as_mut().filter(|s| scaled && s.may_fall()) {
                Some(scaler) => scaler.overflowed(),
                None if self.settings.on_nan == OnNan::Stop => {
                    return Err(self.not_finite(report.loss));
                }
                None => {}
            }
        } else {
            let clipped = clip_scale(report.grad_norm, self.settings.clip);
            let scale = match &self.scaler {
                Some(scaler) => (f64::from(clipped) / scaler.scale()) as f32,
                None => clipped,
            };
            self.whole = false;
            self.optimizer.begin_step();
            let (optimizer, rate) = (&mut self.optimizer, report.learning_rate);
            match &mut self.team {
                Some(team) => team.apply(optimizer, &self.trained, &there, (scale, rate))?,
                None => apply(optimizer, &self.trained, &gradients, scale, rate)?,
            }
            if let Some(scaler) = &mut self.scaler {
                scaler.succeeded();
            }
            gradients.clear();
            self.gradients = Some(gradients);
            // Devices work behind this thread's back: a step is over when they are done.
            self.device.synchronize().map_err(Error::internal)?;
            self.whole = true;
        }
        self.step += 1;
        report.update_seconds = since.elapsed().as_secs_f64();
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
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
            if self.whole {
                "look at the rows in the run folder's not-finite file, lower learningRate, or set onNaN \
                 to skip; the weights are as they were before the step"
            } else {
                "look at the rows in the run folder's not-finite file, lower learningRate, or set clip; \
                 the run goes on from its last checkpoint"
            },
        )
        .with("step", step)
    }

    /// The tensors of a checkpoint, by file: all weights, or only the adapter's where one is
    /// trained (its base is a model folder that does not change), and the optimizer's state.
    /// Nothing is copied for it, but for the shares of other workers: all of them call this together,
    /// and rank 0 has the whole.
    pub fn state(&self) -> Result<Vec<(&'static str, BTreeMap<String, Piece<'_>>)>> {
        let weights = self
            .saved()
            .map(|(name, var)| (name.to_owned(), Piece::Tensor(var.as_detached_tensor())))
            .collect();
        let (step, parts) = self.optimizer.parts()?;
        let mut optimizer: BTreeMap<String, Piece<'_>> = parts
            .into_iter()
            .map(|(name, shape, values)| {
                let piece = match values {
                    Part::Values(values) => Piece::Values { shape, values },
                    Part::Tensor(tensor) => Piece::Tensor(tensor),
                };
                (name, piece)
            })
            .collect();
        optimizer.insert(STEP.to_owned(), Piece::Tensor(step));
        if let Some(scaler) = &self.scaler {
            optimizer.append(&mut scaler.state()?);
        }
        if let Some(team) = &self.team {
            team.complete(&mut optimizer)?;
        }
        Ok(vec![(WEIGHTS, weights), (OPTIMIZER, optimizer)])
    }

    fn saved(&self) -> impl Iterator<Item = (&str, &Var)> {
        let lora = self.lora.as_ref();
        self.parameters
            .iter()
            .filter(move |(name, _)| lora.is_none_or(|lora| lora.trains(name)))
    }

    /// Goes on from a checkpoint, to the bit. It is read a tensor at a time.
    pub fn restore(&mut self, loaded: &Loaded) -> Result<()> {
        let folder = loaded.path.display().to_string();
        let invalid = |what: String| {
            Error::new(
                Code::CheckpointInvalid,
                format!("{folder}: {what}"),
                "the checkpoint belongs to another configuration; use --fresh to start over",
            )
            .with("file", folder.clone())
        };
        let mut weights = loaded.tensors(WEIGHTS)?;
        let mut count = 0;
        // Everything is looked at before anything is changed.
        for (name, var) in self.saved() {
            if weights.look(name) != Some((DType::F32, var.dims())) {
                return Err(invalid(format!(
                    "weight {name} is missing or has another shape"
                )));
            }
            count += 1;
        }
        let there = weights.names().len();
        if there != count {
            return Err(invalid(format!("{there} weights, not {count}")));
        }
        let mut optimizer = loaded.tensors(OPTIMIZER)?;
        self.optimizer.load_state(&mut optimizer)?;
        if let Some(scaler) = &mut self.scaler {
            *scaler = LossScale::read(&mut optimizer)?.unwrap_or_default();
        }
        for (name, var) in self.saved() {
            let tensor = weights.read_to(name, var.device())?;
            var.set(&tensor).map_err(Error::internal)?;
        }
        self.step = loaded.step;
        Ok(())
    }

    /// About the bytes of a checkpoint that this process has to give to it.
    pub fn checkpoint_bytes(&self) -> Result<u64> {
        let weights: usize = self.saved().map(|(_, var)| var.elem_count() * 4).sum();
        let (_, parts) = self.optimizer.parts()?;
        let values = |shape: &[usize]| shape.iter().product::<usize>() * 4;
        let optimizer: usize = parts.iter().map(|(_, shape, _)| values(shape)).sum();
        let workers = self.team.as_ref().map_or(1, |team| team.talk().world());
        Ok((weights + optimizer * workers) as u64)
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod device_tests;
#[cfg(test)]
#[path = "preference_tests.rs"]
mod preference_tests;
#[cfg(test)]
#[path = "trainer_tests.rs"]
pub(crate) mod tests;
