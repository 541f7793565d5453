//! What a run leaves in its folder: checkpoints, `best/` and `last/`; and going on from them.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DeviceLocation;
use chatlm_checkpoint::{Files, Loaded, SaveOptions, Snapshot, save_adapter, save_model, size_of};
use chatlm_job::{AtomicDir, Code, Error, Result, require_room};
use serde_json::{Value, json};

use super::background::Writing;
use super::{RunOptions, TrainingRun};
use crate::event::Event;
use crate::journal::Journals;
use crate::machine::available_bytes;
use crate::setup::check_identity;
use crate::tensorboard::is_event_file;

impl TrainingRun {
    /// Restores the newest whole checkpoint, if there is one, or the one asked for, and tells how the run
    /// starts.
    pub(super) fn resume(&mut self, options: &RunOptions) -> Result<()> {
        let loaded = match options.from {
            Some(step) => Some(self.older(step, options)?),
            None => self.checkpoints.newest()?,
        };
        let (mut skipped, mut inexact) = (Vec::new(), Vec::new());
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
            inexact = self.differences(&state["machine"]);
            resumed_from = Some(path.display().to_string());
        }
        if let Some(loaded) = &loaded {
            self.saved = Some(self.state.step);
            self.trainer.restore(loaded)?;
            self.rows.seek(self.state.cursor);
        }
        if !self.crew.same(self.state.step)? {
            return Err(Error::new(
                Code::CheckpointInvalid,
                format!(
                    "the workers see different checkpoints in {}",
                    self.out.display()
                ),
                "all workers need the same files at the same path",
            )
            .with("file", self.out.display().to_string()));
        }
        if let (Some(step), true) = (options.from, self.crew.leads()) {
            self.checkpoints.forget_after(step)?;
        }
        self.count_steps();
        // What a dead run wrote after its last checkpoint will be written again.
        let (metrics, samples) = (self.state.metrics_bytes, self.state.samples_bytes);
        if self.crew.leads() {
            self.journals = Journals::open(&self.out, metrics, samples)?;
        }
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
            inexact,
        });
        Ok(())
    }

    /// The checkpoint of `step`; those after it would be lost, which has to be said.
    fn older(&self, step: u64, options: &RunOptions) -> Result<Loaded> {
        let loaded = self.checkpoints.at(step)?;
        let later = self.checkpoints.steps()?.into_iter().find(|&s| s > step);
        match later {
            Some(later) if !options.force => Err(Error::new(
                Code::TargetExists,
                format!(
                    "going on from step {step} would throw away what came after it ({})",
                    self.checkpoints.path(later).display()
                ),
                "copy the run folder first, or add --force to throw the later checkpoints away",
            )
            .with("file", self.checkpoints.path(later).display().to_string())),
            _ => Ok(loaded),
        }
    }

    /// What the last bits of a run depend on.
    fn machine(&self) -> Value {
        let device = self.trainer.device();
        let kind = match device.location() {
            DeviceLocation::Cpu => "cpu",
            DeviceLocation::Cuda { .. } => "cuda",
            DeviceLocation::Metal { .. } => "metal",
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "architecture": std::env::consts::ARCH,
            "device": kind,
            "cpu": device.is_cpu().then(|| chatlm_t5::cpu::cpu().name()),
            "workers": self.crew.world(),
        })
    }

    /// In what this machine is another one than that which wrote a checkpoint: `cpu (avx512, now avx2)`.
    fn differences(&self, before: &Value) -> Vec<String> {
        let now = self.machine();
        let fields = before.as_object().into_iter().flatten();
        fields
            .filter(|(name, value)| now.get(name) != Some(value))
            .map(|(name, value)| {
                let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
                format!("{name} ({}, now {})", text(value), text(&now[name]))
            })
            .collect()
    }

    /// Refuses to begin hours of training whose first checkpoint has no room.
    pub(super) fn require_room(&self) -> Result<()> {
        if !self.crew.leads() || self.state.finished {
            return Ok(());
        }
        let bytes = self.trainer.checkpoint_bytes()?;
        require_room(
            &self.checkpoints.path(self.state.step),
            bytes,
            "a checkpoint",
        )
    }

    /// Saves at the current step unless that is done; answers the newest checkpoint's folder.
    pub fn interrupt(&mut self) -> Result<Option<PathBuf>> {
        if !self.crew.is_alone() && !self.stopped && !self.state.finished {
            self.job.cancel.cancel();
            self.advance(0)?;
        }
        let mut events = std::mem::take(&mut self.pending);
        let saved = self.finish_writing(&mut events);
        let saved = saved.and_then(|()| self.save_if_new(&mut events));
        self.pending = events;
        saved?;
        Ok(self.saved.map(|step| self.checkpoints.path(step)))
    }

    /// Saves at the current step unless that is done, or a failed step has left no whole weights.
    pub(super) fn save_if_new(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if self.trainer.is_whole() && !self.is_saved(self.state.step) {
            self.save(events)?;
        }
        Ok(())
    }

    /// Before a run ends by `error`: what was done is saved, where it is whole and saving is not what
    /// failed. Of several workers only those errors that all of them meet are followed by a save.
    pub(super) fn save_before(&mut self, error: Error, events: &mut Vec<Event>) -> Error {
        let met_by_all = self.crew.is_alone() || error.code() == Code::NotFinite;
        if met_by_all && !matches!(error.code(), Code::DiskFull | Code::PermissionDenied) {
            // What ended the run is told, not what hindered this.
            let _ = self.save_if_new(events);
        }
        let _ = self.finish_writing(events);
        match self.saved {
            Some(step) => error.with(
                "checkpoint",
                self.checkpoints.path(step).display().to_string(),
            ),
            None => error,
        }
    }

    /// Whether the checkpoint of `step` is on the disk or on its way there.
    pub(super) fn is_saved(&self, step: u64) -> bool {
        self.saved == Some(step) || self.writing.as_ref().is_some_and(|w| w.step() == step)
    }

    /// Writes `best/` or `last/`: a model folder, or an adapter folder where LoRA is trained.
    pub(super) fn export(&self, name: &str) -> Result<()> {
        if !self.crew.leads() {
            return Ok(());
        }
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

    /// Saves at the current step, and comes back when that is done.
    pub(super) fn save(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.finish_writing(events)?;
        let (step, state) = (self.state.step, self.remembered()?);
        // All workers give what they have to it; the leader writes.
        let tensors = self.trainer.state()?;
        if self.crew.leads() {
            self.checkpoints.save(step, &tensors, &state)?;
            self.checkpoints.retain(self.config.keep)?;
        }
        drop(tensors);
        self.told_saved(step, events);
        Ok(())
    }

    /// Copies what a checkpoint holds, and writes the copy while training goes on; where there is no
    /// memory for a copy, as [`Self::save`] does.
    pub(super) fn save_beside(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let (step, state) = (self.state.step, self.remembered()?);
        if !self.crew.leads() {
            self.trainer.state()?;
            self.told_saved(step, events);
            return Ok(());
        }
        // One at a time: the earlier one's memory is free again before this one's is asked for.
        self.finish_writing(events)?;
        let tensors = self.trainer.state()?;
        if !(self.config.save_in_background && fits(&tensors)) {
            self.checkpoints.save(step, &tensors, &state)?;
            self.checkpoints.retain(self.config.keep)?;
            drop(tensors);
            self.told_saved(step, events);
            return Ok(());
        }
        let copy = Snapshot::of(&tensors)?;
        let keep = self.config.keep;
        self.writing = Some(Writing::start(&self.checkpoints, step, copy, state, keep)?);
        Ok(())
    }

    /// What goes into `state.json`.
    fn remembered(&mut self) -> Result<Value> {
        (self.state.metrics_bytes, self.state.samples_bytes) = self.journals.lengths();
        let run = serde_json::to_value(&self.state).map_err(Error::internal)?;
        Ok(json!({ "identity": self.identity, "run": run, "machine": self.machine() }))
    }

    fn told_saved(&mut self, step: u64, events: &mut Vec<Event>) {
        self.saved = Some(step);
        let path = self.checkpoints.path(step).display().to_string();
        events.push(Event::Saved { step, path });
    }

    /// Tells of a checkpoint that has reached the disk since the last call.
    pub(super) fn look_after_writing(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if self.writing.as_ref().is_some_and(Writing::is_over) {
            self.finish_writing(events)?;
        }
        Ok(())
    }

    /// Waits for a checkpoint that is being written.
    fn finish_writing(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if let Some(writing) = self.writing.take() {
            let step = writing.step();
            writing.finish()?;
            self.told_saved(step, events);
        }
        Ok(())
    }
}

/// Whether a copy of `files` fits into the memory that is left, with a quarter more for what else grows.
fn fits(files: &Files<'_>) -> bool {
    let bytes = size_of(files);
    available_bytes() > bytes + bytes / 4
}

/// With `fresh`, clears the run folder of an earlier run; refuses to lose one without `force`.
pub(super) fn make_room(out: &Path, options: &RunOptions) -> Result<()> {
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
    if options.from.is_some() {
        return Err(Error::new(
            Code::Usage,
            "--fresh starts at step 0 and --from at a checkpoint",
            "leave out one of them",
        ));
    }
    let mut there: Vec<PathBuf> = OWN
        .iter()
        .map(|name| out.join(name))
        .filter(|path| path.exists())
        .collect();
    let kept = fs::read_dir(out).into_iter().flatten().flatten();
    there.extend(kept.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("not-finite-") || is_event_file(path)
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
