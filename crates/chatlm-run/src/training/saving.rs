//! What a run leaves in its folder: checkpoints, `best/` and `last/`; and going on from them.

use std::fs;
use std::path::{Path, PathBuf};

use chatlm_checkpoint::{Loaded, SaveOptions, save_adapter, save_model};
use chatlm_job::{AtomicDir, Code, Error, Result};
use serde_json::{Value, json};

use super::{RunOptions, TrainingRun};
use crate::event::Event;
use crate::journal::Journals;
use crate::setup::check_identity;
use crate::tensorboard::is_event_file;

impl TrainingRun {
    /// Restores the newest whole checkpoint, if there is one, and tells how the run starts.
    pub(super) fn resume(&mut self) -> Result<()> {
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
        });
        Ok(())
    }

    /// Saves at the current step unless that is done; answers the newest checkpoint's folder.
    pub fn interrupt(&mut self) -> Result<Option<PathBuf>> {
        if !self.crew.is_alone() && !self.stopped && !self.state.finished {
            self.job.cancel.cancel();
            self.advance(0)?;
        }
        self.save_if_new(&mut Vec::new())?;
        Ok(self.saved.map(|step| self.checkpoints.path(step)))
    }

    /// Saves at the current step unless that is done, or a failed step has left no whole weights.
    pub(super) fn save_if_new(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if self.trainer.is_whole() && self.saved != Some(self.state.step) {
            self.save(events)?;
        }
        Ok(())
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

    pub(super) fn save(&mut self, events: &mut Vec<Event>) -> Result<()> {
        (self.state.metrics_bytes, self.state.samples_bytes) = self.journals.lengths();
        let run = serde_json::to_value(&self.state).map_err(Error::internal)?;
        let state = json!({ "identity": self.identity, "run": run });
        let step = self.state.step;
        // All workers give what they have to it; the leader writes.
        let tensors = self.trainer.state()?;
        let mut path = self.checkpoints.path(step);
        if self.crew.leads() {
            path = self.checkpoints.save(step, &tensors, &state)?;
            self.checkpoints.retain(self.config.keep)?;
        }
        self.saved = Some(step);
        events.push(Event::Saved {
            step,
            path: path.display().to_string(),
        });
        Ok(())
    }
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
