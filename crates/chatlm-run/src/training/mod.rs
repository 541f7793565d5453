//! A training run over a run folder: steps, evaluations, samples, checkpoints, and going on from
//! the newest whole checkpoint as if nothing had happened.
//!
//! Everything that falls due after step `s` (evaluation, then checkpoint) is done before step
//! `s + 1`, and remembered in the checkpoint, so that a run killed anywhere repeats exactly what
//! was lost.

mod background;
mod evaluation;
mod not_finite;
mod saving;
mod state;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use chatlm_checkpoint::Checkpoints;
use chatlm_dataset::{Batch, Cursor, Loader, SetSpec};
use chatlm_job::{AtomicFile, Code, Error, Job, Result};
use chatlm_tokenizer::Tokenizer;
use chatlm_train::{StepReport, TrainConfig, Trainer};
use serde_json::Value;

use crate::batches::{preference_batch, sequence_batch};
use crate::contamination;
use crate::device::open_for_worker;
use crate::event::{Event, FinishReason, Rewards, StepEvent};
use crate::journal::Journals;
use crate::machine::rss_bytes;
use crate::reference::{ReferenceScores, Source};
use crate::setup::{Prepared, RunKind, identity, open_rows, prepare, read_config, train_sets};
use crate::worker::compute;
use crate::workers::{Crew, WorkerPlace, on_this_machine};
use background::Writing;
use not_finite::not_finite;
use saving::make_room;
use state::State;

/// How to open a run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Start over instead of going on.
    pub fresh: bool,
    /// With `fresh`: throw away what is there; with `from`: the checkpoints after it.
    pub force: bool,
    /// Go on from the checkpoint of this step instead of the newest.
    pub from: Option<u64>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is. A run may go on on another one. Of
    /// several workers each has a device of its own: the k-th `cuda:k`, or the k-th of `cuda:N,cuda:M`.
    pub device: Option<String>,
    /// Which of several workers this process is.
    pub worker: Option<WorkerPlace>,
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
    journals: Journals,
    state: State,
    /// The step of the newest checkpoint on the disk.
    saved: Option<u64>,
    /// A newer one on its way there.
    writing: Option<Writing>,
    total: u64,
    pending: Vec<Event>,
    crew: Crew,
    /// Of several workers: they have stopped and saved together.
    stopped: bool,
}

/// What a worker trains on in one optimizer step.
struct Share {
    /// Its micro-batches; none at an epoch's end, perhaps.
    batches: Vec<Batch>,
    /// The place after all workers' batches.
    next: Cursor,
    epoch_ended: bool,
}

impl TrainingRun {
    pub fn open(kind: RunKind, config: Value, options: RunOptions, job: Job) -> Result<Self> {
        let resolved = config.clone();
        let place = on_this_machine(&config, options.worker.as_ref());
        let device = open_for_worker(options.device.as_deref(), place)?;
        let config = read_config(config, &device)?;
        let crew = Crew::open(&config, options.worker.as_ref(), &job.cancel)?;
        let out = PathBuf::from(&config.out);
        if crew.leads() {
            make_room(&out, &options)?;
        }
        crew.barrier()?;
        // Told once: a run that goes on has told it.
        let mut told = Vec::new();
        if crew.leads() && !out.join("checkpoints").exists() {
            told.extend(contamination::check(kind, &config, &job)?);
        }
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
            .div_ceil((config.gradient_accumulation * crew.world()).max(1) as u64);
        let total = config.max_steps.unwrap_or(config.epochs * steps_per_epoch);
        let identity = identity(kind, &config, &prepared, rows.rows())?;
        let Prepared {
            tokenizer,
            config: model,
            parameters,
            lora,
            model_hash,
        } = prepared;
        let mut trainer = Trainer::new(&config, model, parameters, lora, total)?;
        if let Some(talk) = crew.talk() {
            trainer = trainer.join(talk)?;
        }
        if let Some(why) = trainer.without_nccl().filter(|_| crew.leads()) {
            told.push(Event::Warned {
                step: 0,
                reason: format!(
                    "gradients go through the processor's memory, not from GPU to GPU by NCCL: {why}"
                ),
            });
        }

        fs::create_dir_all(&out).map_err(|e| Error::io(&e, "create", &out))?;
        let (mut reference, mut valid_reference) = (None, None);
        if kind == RunKind::Dpo && trainer.needs_reference() {
            // The leader computes them, the others read what it has written.
            if !crew.leads() {
                crew.barrier()?;
            }
            // Before anything is restored: the weights are still those of the reference.
            let source = Source {
                config: &config,
                model: &trainer.model()?,
                model_hash: &model_hash,
                tokenizer: &tokenizer,
                out: &out,
            };
            let mut scores = |sets: Vec<SetSpec>, most: u64| -> Result<ReferenceScores> {
                let (scores, events) = ReferenceScores::open(&source, sets, most, &job)?;
                told.extend(events);
                Ok(scores)
            };
            reference = Some(scores(train_sets(&config), u64::MAX)?);
            if let Some(path) = &config.valid {
                let set = SetSpec {
                    paths: vec![path.clone()],
                    weight: 1.0,
                };
                valid_reference = Some(scores(vec![set], config.eval_rows)?);
            }
            if crew.leads() {
                crew.barrier()?;
            }
        }

        let checkpoints = Checkpoints::open(&out.join("checkpoints"))?;
        let mut run = Self {
            kind,
            journals: if crew.leads() {
                Journals::open(&out, u64::MAX, u64::MAX)?
            } else {
                Journals::of_another(&out)
            },
            crew,
            stopped: false,
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
            writing: None,
            total,
            pending: Vec::new(),
        };
        run.resume(&options)?;
        run.require_room()?;
        run.pending.extend(told);
        let text = serde_json::to_vec_pretty(&resolved).map_err(Error::internal)?;
        if run.crew.leads() {
            AtomicFile::write_all(&run.out.join("config.json"), true, &text)?;
        }
        Ok(run)
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
    /// cancelled; [`Self::interrupt`] then saves. With 0 it comes back at once where opening the run has
    /// left something to tell: a step may take minutes.
    pub fn advance(&mut self, steps: u64) -> Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.pending);
        if steps == 0 && !events.is_empty() && !self.job.cancel.is_cancelled() {
            return Ok(events);
        }
        let mut done = 0;
        while !self.stopped {
            match self.settle(&mut events) {
                Err(error) if error.code() == Code::Cancelled => {
                    self.stop(&mut events)?;
                    break;
                }
                Err(error) => return Err(self.save_before(error, &mut events)),
                Ok(()) => {}
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
            let cancelled = self.job.cancel.is_cancelled();
            if done == steps && (self.crew.is_alone() || !cancelled) {
                break;
            }
            let share = match self.next_batches() {
                Err(error) if error.code() == Code::Cancelled => None,
                Err(error) => return Err(self.save_before(error, &mut events)),
                Ok(share) => Some(share),
            };
            // Where one stops all of them do, at the same step.
            let stops = self.crew.any(cancelled || share.is_none())?;
            let Some(share) = share.filter(|_| !stops) else {
                self.stop(&mut events)?;
                break;
            };
            match self.one_step(share, &mut events) {
                Err(error) if error.code() == Code::Cancelled => break,
                Err(error) => return Err(self.save_before(error, &mut events)),
                Ok(()) => done += 1,
            }
        }
        Ok(events)
    }

    /// Of several workers: saves together, as no other call of theirs will come; one that nobody has
    /// cancelled learns here that another was.
    fn stop(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if self.crew.is_alone() {
            return Ok(());
        }
        self.stopped = true;
        self.save_if_new(events)?;
        self.job
            .cancel
            .is_cancelled()
            .then_some(())
            .ok_or_else(Error::cancelled)
    }

    /// Whatever is due at the current step and not done yet.
    fn settle(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.look_after_writing(events)?;
        let step = self.state.step;
        let last = step >= self.total;
        let due = if self.config.eval_every > 0 {
            step.is_multiple_of(self.config.eval_every)
        } else {
            step == 0 || self.state.epoch_ended
        };
        if self.valid.is_some() && (due || last) && self.state.evaluated != Some(step) {
            self.evaluate_for_all(events)?;
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
        } else if save && step > 0 && !self.is_saved(step) {
            self.save_beside(events)?;
        }
        Ok(())
    }

    fn one_step(&mut self, share: Share, events: &mut Vec<Event>) -> Result<()> {
        let started = Instant::now();
        let Share {
            batches,
            next,
            epoch_ended,
        } = share;
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
        state.step += 1;
        state.epoch_ended = epoch_ended;
        state.cursor = next;
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
            state.window.add(&report, started.elapsed().as_secs_f64());
        }
        let due = state.step.is_multiple_of(self.config.log_every.max(1));
        if (due || state.step == self.total) && state.window.steps > 0 {
            let event = self.close_window(&report);
            self.journals.step(&event)?;
            events.push(Event::Step(event));
        }
        Ok(())
    }

    /// The micro-batches of one optimizer step; fewer at an epoch's end. Of several workers each takes
    /// every so-many-th of the one order that all of them read, so that a step ends at the same place
    /// whoever they are, and a checkpoint's place means the same to any number of them.
    fn next_batches(&mut self) -> Result<Share> {
        let (rank, world) = (self.crew.rank(), self.crew.world());
        let mut share = Share {
            batches: Vec::new(),
            next: self.state.cursor,
            epoch_ended: false,
        };
        for place in 0..self.config.gradient_accumulation.max(1) * world {
            let batch = self.rows.next_batch()?;
            share.next = batch.next;
            share.epoch_ended = batch.next.epoch > batch.epoch;
            if place % world == rank {
                share.batches.push(batch);
            }
            if share.epoch_ended {
                break;
            }
        }
        Ok(share)
    }

    /// The steps of the whole run from where it is: those done, and what is left of the epochs with
    /// this many workers and micro-batches.
    fn count_steps(&mut self) {
        if self.config.max_steps.is_some() || self.state.step == 0 {
            return;
        }
        let Cursor { epoch, row } = self.state.cursor;
        let step = (self.config.gradient_accumulation.max(1) * self.crew.world()) as u64;
        let batches = |rows: u64| rows.div_ceil(self.config.batch_size.max(1) as u64);
        let whole = batches(self.rows.rows()).div_ceil(step);
        let left = self.config.epochs.saturating_sub(epoch) * whole;
        let done = whole - batches(self.rows.rows() - row).div_ceil(step);
        self.total = self.state.step + left.saturating_sub(done);
        self.trainer.set_total(self.total);
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
            rss_bytes: rss_bytes(),
            padding_share: 0.0,
            total_steps: self.total,
            stamp: self.journals.stamp(window.tokens),
            loss_scale: report.loss_scale,
            skipped_steps: report.loss_scale.map(|_| window.overflows),
            rewards: window
                .preferences()
                .map(|measures| Rewards::new(self.config.loss, &measures)),
        }
    }

    /// Epochs done, as a fraction.
    fn epoch(&self) -> f64 {
        let Cursor { epoch, row } = self.state.cursor;
        epoch as f64 + row as f64 / self.rows.rows().max(1) as f64
    }
}

impl Drop for TrainingRun {
    fn drop(&mut self) {
        // Where the last save has failed, the others are still waiting for it.
        let finished = self.state.finished && self.saved == Some(self.state.step);
        if finished || self.stopped {
            self.crew.end();
        }
    }
}
