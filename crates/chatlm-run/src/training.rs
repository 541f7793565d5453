//! A training run over a run folder: steps, evaluations, samples, checkpoints, and going on from
//! the newest whole checkpoint as if nothing had happened.
//!
//! Everything that falls due after step `s` (evaluation, then checkpoint) is done before step
//! `s + 1`, and remembered in the checkpoint, so that a run killed anywhere repeats exactly what
//! was lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use chatlm_checkpoint::{Checkpoints, Loaded, SaveOptions, save_adapter, save_model};
use chatlm_dataset::{Batch, Cursor, Loader, SetSpec};
use chatlm_generate::Settings;
use chatlm_job::{AtomicDir, AtomicFile, Code, Error, Job, Result};
use chatlm_t5::{StoredKind, Weights, has_kernels};
use chatlm_tokenizer::Tokenizer;
use chatlm_train::{StepReport, TrainConfig, Trainer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batches::{preference_batch, sequence_batch};
use crate::device::open_device;
use crate::event::{Evaluated, Event, FinishReason, Rewards, StepEvent};
use crate::generator::{Engine, Generator};
use crate::journal::{Journal, evaluation_line, step_line};
use crate::machine::set_threads;
use crate::reference::ReferenceScores;
use crate::settings::AnswerSettings;
use crate::setup::{
    Prepared, RunKind, check_identity, identity, open_rows, prepare, read_config, train_sets,
};
use crate::validation::{Measured, measure, measure_preferences};
use crate::worker::compute;

/// How to open a run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Start over instead of going on.
    pub fresh: bool,
    /// With `fresh`: throw away what is there.
    pub force: bool,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is. A run may go on on another one.
    pub device: Option<String>,
}

/// Sums since the last `step` event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Window {
    steps: u64,
    loss: f64,
    grad_norm: f64,
    tokens: u64,
    seconds: f64,
    rewards: Option<[f64; 4]>,
    /// Steps left out since a gradient was too large for f16.
    #[serde(default, skip_serializing_if = "none")]
    overflows: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn none(count: &u64) -> bool {
    *count == 0
}

/// What a checkpoint remembers besides tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    step: u64,
    cursor: Cursor,
    epoch_ended: bool,
    evaluated: Option<u64>,
    best: Option<f64>,
    /// Evaluations since the best one.
    worse: u64,
    finished: bool,
    window: Window,
    metrics_bytes: u64,
    samples_bytes: u64,
}

impl State {
    fn new() -> Self {
        Self {
            step: 0,
            cursor: Cursor { epoch: 0, row: 0 },
            epoch_ended: false,
            evaluated: None,
            best: None,
            worse: 0,
            finished: false,
            window: Window::default(),
            metrics_bytes: 0,
            samples_bytes: 0,
        }
    }
}

/// An open run.
pub struct TrainingRun {
    kind: RunKind,
    config: TrainConfig,
    out: PathBuf,
    job: Job,
    tokenizer: Tokenizer,
    trainer: Trainer,
    rows: Loader,
    valid: Option<Loader>,
    reference: Option<ReferenceScores>,
    valid_reference: Option<ReferenceScores>,
    checkpoints: Checkpoints,
    identity: Value,
    metrics: Journal,
    samples: Journal,
    state: State,
    saved: Option<u64>,
    total: u64,
    pending: Vec<Event>,
}

impl TrainingRun {
    pub fn open(kind: RunKind, config: Value, options: RunOptions, job: Job) -> Result<Self> {
        let resolved = config.clone();
        let device = open_device(options.device.as_deref())?;
        let config = read_config(config, &device)?;
        if let Some(threads) = config.threads {
            set_threads(threads)?;
        }
        let out = PathBuf::from(&config.out);
        make_room(&out, &options)?;
        let prepared = prepare(kind, &config, &device)?;
        let rows = open_rows(
            kind,
            &config,
            train_sets(&config),
            true,
            &prepared.tokenizer,
            &job,
        )?;
        let valid = match &config.valid {
            Some(path) => {
                let set = SetSpec {
                    paths: vec![path.clone()],
                    weight: 1.0,
                };
                Some(open_rows(
                    kind,
                    &config,
                    vec![set],
                    false,
                    &prepared.tokenizer,
                    &job,
                )?)
            }
            None => None,
        };
        let steps_per_epoch = rows
            .batches_per_epoch()
            .div_ceil(config.gradient_accumulation.max(1) as u64);
        let total = config.max_steps.unwrap_or(config.epochs * steps_per_epoch);
        let identity = identity(kind, &config, &prepared, rows.rows())?;
        let Prepared {
            tokenizer,
            config: model,
            parameters,
            lora,
            model_hash,
        } = prepared;
        let trainer = Trainer::new(&config, model, parameters, lora, total)?;

        fs::create_dir_all(&out).map_err(|e| Error::io(&e, "create", &out))?;
        let (mut reference, mut valid_reference) = (None, None);
        if kind == RunKind::Dpo && trainer.needs_reference() {
            // Before anything is restored: the weights are still those of the reference.
            let model = trainer.model()?;
            let scores = |paths: Vec<SetSpec>| -> Result<ReferenceScores> {
                ReferenceScores::open(&out, &config, &model, &model_hash, paths, &tokenizer, &job)
            };
            reference = Some(scores(train_sets(&config))?);
            if let Some(path) = &config.valid {
                let set = SetSpec {
                    paths: vec![path.clone()],
                    weight: 1.0,
                };
                valid_reference = Some(scores(vec![set])?);
            }
        }

        let checkpoints = Checkpoints::open(&out.join("checkpoints"))?;
        let mut run = Self {
            kind,
            metrics: Journal::open(&out.join("metrics.jsonl"), u64::MAX)?,
            samples: Journal::open(&out.join("samples.jsonl"), u64::MAX)?,
            config,
            out,
            job,
            tokenizer,
            trainer,
            rows,
            valid,
            reference,
            valid_reference,
            checkpoints,
            identity,
            state: State::new(),
            saved: None,
            total,
            pending: Vec::new(),
        };
        run.resume()?;
        let text = serde_json::to_vec_pretty(&resolved).map_err(Error::internal)?;
        AtomicFile::write_all(&run.out.join("config.json"), true, &text)?;
        Ok(run)
    }

    /// Restores the newest whole checkpoint, if there is one, and tells how the run starts.
    fn resume(&mut self) -> Result<()> {
        let loaded = self.checkpoints.newest()?;
        let mut skipped = Vec::new();
        let mut resumed_from = None;
        if let Some(Loaded {
            path,
            state,
            skipped: broken,
            ..
        }) = &loaded
        {
            check_identity(&self.identity, &state["identity"], &self.out)?;
            self.state = serde_json::from_value(state["run"].clone()).map_err(|e| {
                Error::new(
                    Code::CheckpointInvalid,
                    format!("{} was written by another version: {e}", path.display()),
                    "use the version that wrote it, or --fresh --force to start over",
                )
            })?;
            skipped.clone_from(broken);
            resumed_from = Some(path.display().to_string());
        }
        if let Some(loaded) = loaded {
            self.saved = Some(self.state.step);
            self.trainer.restore(loaded)?;
            self.rows.seek(self.state.cursor);
        }
        // What a dead run wrote after its last checkpoint will be written again.
        let (metrics, samples) = (self.state.metrics_bytes, self.state.samples_bytes);
        self.metrics = Journal::open(&self.out.join("metrics.jsonl"), metrics)?;
        self.samples = Journal::open(&self.out.join("samples.jsonl"), samples)?;
        if self.state.step < self.total {
            self.state.finished = false;
        }
        let (parameters, trainable) = self.trainer.parameter_counts();
        self.pending.push(Event::Started {
            step: self.state.step,
            total_steps: self.total,
            parameters,
            trainable,
            resumed_from,
            skipped,
        });
        Ok(())
    }

    pub fn step(&self) -> u64 {
        self.state.step
    }

    pub fn total_steps(&self) -> u64 {
        self.total
    }

    pub fn is_finished(&self) -> bool {
        self.state.finished
    }

    /// Up to `steps` optimizer steps, with what falls due on the way. Comes back early when
    /// cancelled; [`Self::interrupt`] then saves.
    pub fn advance(&mut self, steps: u64) -> Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.pending);
        let mut done = 0;
        loop {
            match self.settle(&mut events) {
                Err(error) if error.code() == Code::Cancelled => break,
                result => result?,
            }
            if self.state.finished {
                let reason = if self.state.step < self.total {
                    FinishReason::EarlyStop
                } else {
                    FinishReason::Steps
                };
                events.push(Event::Finished {
                    step: self.state.step,
                    reason,
                });
                break;
            }
            if done == steps || self.job.cancel.is_cancelled() {
                break;
            }
            match self.one_step(&mut events) {
                Err(error) if error.code() == Code::Cancelled => break,
                Err(error) => {
                    // Where the state before the failed step is whole, it is kept for the next start.
                    if error.code() == Code::NotFinite {
                        self.save_if_new(&mut events)?;
                    }
                    return Err(error);
                }
                Ok(()) => done += 1,
            }
        }
        Ok(events)
    }

    /// Saves at the current step unless that is done; answers the newest checkpoint's folder.
    pub fn interrupt(&mut self) -> Result<Option<PathBuf>> {
        self.save_if_new(&mut Vec::new())?;
        Ok(self.saved.map(|step| self.checkpoints.path(step)))
    }

    /// Saves at the current step unless that is done, or a failed step has left no whole weights.
    fn save_if_new(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if self.trainer.is_whole() && self.saved != Some(self.state.step) {
            self.save(events)?;
        }
        Ok(())
    }

    /// Whatever is due at the current step and not done yet.
    fn settle(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let step = self.state.step;
        let last = step >= self.total;
        let due = if self.config.eval_every > 0 {
            step.is_multiple_of(self.config.eval_every)
        } else {
            step == 0 || self.state.epoch_ended
        };
        if self.valid.is_some() && (due || last) && self.state.evaluated != Some(step) {
            self.evaluate(events)?;
        }
        let stop = self
            .config
            .early_stop
            .is_some_and(|patience| self.state.worse >= patience);
        let finished = last || stop;
        let save = self.config.save_every > 0 && step.is_multiple_of(self.config.save_every);
        if finished && !self.state.finished {
            self.state.finished = true;
            self.export("last")?;
            self.save(events)?;
        } else if save && step > 0 && self.saved != Some(step) {
            self.save(events)?;
        }
        Ok(())
    }

    fn one_step(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let started = Instant::now();
        let batches = self.next_batches()?;
        let report = match self.train(&batches) {
            Err(error) if error.code() == Code::NotFinite => {
                let file = self.keep_batch(&batches)?;
                return Err(error.with("batch", file.display().to_string()));
            }
            report => report?,
        };
        // A gradient beyond f16 is no fault of the rows.
        let overflowed = report.skipped && report.loss_scale.is_some() && report.loss.is_finite();
        if report.skipped && !overflowed {
            self.keep_batch(&batches)?;
        }
        let state = &mut self.state;
        let Some(last) = batches.last() else {
            return Ok(());
        };
        state.step += 1;
        state.epoch_ended = last.next.epoch > last.epoch;
        state.cursor = last.next;
        if overflowed {
            state.window.overflows += 1;
            let scale = report.loss_scale.unwrap_or_default();
            let reason = format!("a gradient was too large for f16 at a loss scale of {scale}");
            events.push(Event::Skipped {
                step: state.step,
                reason,
            });
        } else if report.skipped {
            let file = not_finite(&self.out, state.step);
            let reason = format!(
                "the loss or a gradient was not finite; its rows are in {}",
                file.display()
            );
            events.push(Event::Skipped {
                step: state.step,
                reason,
            });
        } else {
            add(&mut state.window, &report, started.elapsed().as_secs_f64());
        }
        let due = state.step.is_multiple_of(self.config.log_every.max(1));
        if (due || state.step == self.total) && state.window.steps > 0 {
            let event = self.close_window(&report);
            self.metrics.append(&step_line(&event))?;
            events.push(Event::Step(event));
        }
        Ok(())
    }

    /// Writes the rows of a step whose loss or gradients were not finite, to be looked at: a line a
    /// row, with its place among the rows, its texts and their ids.
    fn keep_batch(&self, batches: &[Batch]) -> Result<PathBuf> {
        let path = not_finite(&self.out, self.state.step + 1);
        let columns = self.kind.columns();
        let mut text = String::new();
        for batch in batches {
            for (place, row) in batch.indices.iter().enumerate() {
                let mut line = json!({ "row": row, "epoch": batch.epoch });
                for (column, ids) in columns.iter().zip(&batch.fields) {
                    let ids = &ids[place];
                    line[column.as_str()] = json!(self.tokenizer.decode(ids)?);
                    line[format!("{column}_ids")] = json!(ids);
                }
                text.push_str(&line.to_string());
                text.push('\n');
            }
        }
        AtomicFile::write_all(&path, true, text.as_bytes())?;
        Ok(path)
    }

    /// The micro-batches of one optimizer step; fewer at an epoch's end.
    fn next_batches(&mut self) -> Result<Vec<Batch>> {
        let mut batches: Vec<Batch> = Vec::new();
        while batches.len() < self.config.gradient_accumulation.max(1) {
            let batch = self.rows.next_batch()?;
            let ends = batch.next.epoch > batch.epoch;
            batches.push(batch);
            if ends {
                break;
            }
        }
        Ok(batches)
    }

    fn train(&mut self, batches: &[Batch]) -> Result<StepReport> {
        let (pad, device) = (self.tokenizer.pad_id(), self.trainer.device().clone());
        if self.kind == RunKind::Dpo {
            let reference = self.reference.as_ref();
            let micro = batches
                .iter()
                .map(|batch| preference_batch(batch, batch.keys.len(), pad, reference, &device))
                .collect::<Result<Vec<_>>>()?;
            compute(|| self.trainer.preference_step(&micro))
        } else {
            let micro = batches
                .iter()
                .map(|batch| sequence_batch(batch, batch.keys.len(), pad, &device))
                .collect::<Result<Vec<_>>>()?;
            compute(|| self.trainer.step(&micro))
        }
    }

    fn close_window(&mut self, report: &StepReport) -> StepEvent {
        let window = std::mem::take(&mut self.state.window);
        let steps = window.steps as f64;
        StepEvent {
            step: self.state.step,
            epoch: self.epoch(),
            loss: window.loss / steps,
            learning_rate: report.learning_rate,
            grad_norm: window.grad_norm / steps,
            tokens_per_second: window.tokens as f64 / window.seconds.max(1e-9),
            loss_scale: report.loss_scale,
            skipped_steps: report.loss_scale.map(|_| window.overflows),
            rewards: window.rewards.map(|sum| {
                let [chosen, rejected, margins, accuracies] = sum.map(|value| value / steps);
                Rewards {
                    chosen,
                    rejected,
                    margins,
                    accuracies,
                }
            }),
        }
    }

    /// Epochs done, as a fraction.
    fn epoch(&self) -> f64 {
        let Cursor { epoch, row } = self.state.cursor;
        epoch as f64 + row as f64 / self.rows.rows().max(1) as f64
    }

    fn evaluate(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let step = self.state.step;
        let epoch = self.epoch();
        let Some(valid) = &mut self.valid else {
            return Ok(());
        };
        let model = self.trainer.model()?;
        let measured = if self.kind == RunKind::Dpo {
            let reference = self.valid_reference.as_ref();
            measure_preferences(&model, valid, &self.config, reference, &self.job)?
        } else {
            measure(&model, valid, &self.config, &self.job)?
        };
        let engine = if has_kernels(model.device()) {
            let (config, parameters) = (self.trainer.config(), self.trainer.parameters());
            let lora = self.trainer.lora();
            let weights = Weights::of_parameters(config, parameters, lora, StoredKind::F32)?;
            Engine::Weights(Arc::new(weights))
        } else {
            Engine::Model(Box::new(model))
        };
        let generator = Generator::around(engine, self.tokenizer.clone(), self.config.max_length);
        let settings: AnswerSettings = Settings {
            max_new_tokens: self.config.max_length,
            ..Settings::default()
        }
        .into();
        let count = self.config.samples.max(self.config.bleu_rows) as usize;
        let shown = crate::validation::sample_rows(self.kind, &self.config, count)?;
        let prompts: Vec<String> = shown.iter().map(|(prompt, _)| prompt.clone()).collect();
        let answers = generator.answer(&prompts, &settings, self.config.batch_size, &self.job)?;
        let Measured { loss, rewards } = measured;
        let bleu = (self.config.bleu_rows > 0 && !answers.is_empty()).then(|| {
            let rows = answers.len().min(self.config.bleu_rows as usize);
            let sum: f64 = shown
                .iter()
                .zip(&answers)
                .take(rows)
                .map(|((_, label), answer)| chatlm_train::bleu4(label, &answer.response))
                .sum();
            sum / rows as f64
        });
        for ((prompt, label), answer) in shown
            .into_iter()
            .zip(answers)
            .take(self.config.samples as usize)
        {
            let response = answer.response;
            self.samples.append(&json!({
                "step": step, "prompt": prompt, "response": response, "label": label,
            }))?;
            events.push(Event::Sample {
                step,
                prompt,
                response,
                label,
            });
        }
        let best = self.state.best.is_none_or(|before| loss < before);
        let event = Evaluated {
            step,
            eval_loss: loss,
            eval_bleu4: bleu,
            rewards,
            best,
        };
        self.metrics.append(&evaluation_line(&event, epoch))?;
        events.push(Event::Evaluated(event));
        if best {
            self.state.best = Some(loss);
            self.state.worse = 0;
            self.export("best")?;
        } else {
            self.state.worse += 1;
        }
        self.state.evaluated = Some(step);
        Ok(())
    }

    /// Writes `best/` or `last/`: a model folder, or an adapter folder where LoRA is trained.
    fn export(&self, name: &str) -> Result<()> {
        let dir = AtomicDir::create(&self.out.join(name), true)?;
        match self.trainer.lora() {
            Some(lora) => {
                let base = match &self.config.model {
                    Some(Value::String(folder)) => folder.as_str(),
                    _ => "",
                };
                save_adapter(dir.path(), lora, self.trainer.parameters(), base)?;
            }
            None => save_model(
                dir.path(),
                self.trainer.config(),
                self.trainer.parameters(),
                SaveOptions::default(),
            )?,
        }
        self.tokenizer.copy_to(dir.path())?;
        dir.commit()
    }

    fn save(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.state.metrics_bytes = self.metrics.length();
        self.state.samples_bytes = self.samples.length();
        let run = serde_json::to_value(&self.state).map_err(Error::internal)?;
        let state = json!({ "identity": self.identity, "run": run });
        let step = self.state.step;
        let path = self
            .checkpoints
            .save(step, &self.trainer.state()?, &state)?;
        self.checkpoints.retain(self.config.keep)?;
        self.saved = Some(step);
        events.push(Event::Saved {
            step,
            path: path.display().to_string(),
        });
        Ok(())
    }
}

/// Where the rows of a step that was not finite are kept.
fn not_finite(out: &Path, step: u64) -> PathBuf {
    out.join(format!("not-finite-{step}.jsonl"))
}

fn add(window: &mut Window, report: &StepReport, seconds: f64) {
    window.steps += 1;
    window.loss += report.loss;
    window.grad_norm += report.grad_norm;
    window.tokens += report.tokens as u64;
    window.seconds += seconds;
    if let Some(r) = &report.rewards {
        let sum = window.rewards.get_or_insert([0.0; 4]);
        for (sum, value) in sum
            .iter_mut()
            .zip([r.chosen, r.rejected, r.margins, r.accuracies])
        {
            *sum += value;
        }
    }
}

/// With `fresh`, clears the run folder of an earlier run; refuses to lose one without `force`.
fn make_room(out: &Path, options: &RunOptions) -> Result<()> {
    const OWN: [&str; 6] = [
        "checkpoints",
        "best",
        "last",
        "metrics.jsonl",
        "samples.jsonl",
        "config.json",
    ];
    if !options.fresh {
        return Ok(());
    }
    let mut there: Vec<PathBuf> = OWN
        .iter()
        .map(|name| out.join(name))
        .filter(|path| path.exists())
        .collect();
    let kept = fs::read_dir(out).into_iter().flatten().flatten();
    there.extend(kept.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("not-finite-")
    }));
    if let (Some(first), false) = (there.first(), options.force) {
        return Err(Error::new(
            Code::TargetExists,
            format!(
                "--fresh would throw away the run in {} ({})",
                out.display(),
                first.display()
            ),
            "leave --fresh out to go on with it, or add --force to throw it away",
        )
        .with("file", out.display().to_string()));
    }
    for path in there {
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|e| Error::io(&e, "remove", &path))?;
    }
    Ok(())
}
