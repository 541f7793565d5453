//! `metrics.jsonl` and `samples.jsonl` of a run folder: appended while it goes, cut back to the
//! checkpoint's length on resume, so that no step stands there twice.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatlm_job::{Error, Result};
use serde_json::{Map, Value, json};

use crate::event::{Evaluated, Rewards, StepEvent};

/// One appended file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// None where another worker writes.
    file: Option<File>,
    length: u64,
}

impl Journal {
    /// Opens `path`, keeping only its first `keep` bytes.
    pub(crate) fn open(path: &Path, keep: u64) -> Result<Self> {
        let failed = |e: &std::io::Error| Error::io(e, "write", path);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|e| failed(&e))?;
        let length = file.metadata().map_err(|e| failed(&e))?.len().min(keep);
        file.set_len(length).map_err(|e| failed(&e))?;
        file.seek(SeekFrom::Start(length)).map_err(|e| failed(&e))?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            length,
        })
    }

    /// A journal of a worker that does not write: another one does.
    pub(crate) fn of_another(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            length: 0,
        }
    }

    /// Bytes written so far; a checkpoint remembers it.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn append(&mut self, line: &Value) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let text = format!("{line}\n");
        file.write_all(text.as_bytes())
            .map_err(|e| Error::io(&e, "write", &self.path))?;
        self.length += text.len() as u64;
        Ok(())
    }
}

fn add_rewards(line: &mut Map<String, Value>, rewards: Option<Rewards>, prefix: &str) {
    if let Some(rewards) = rewards {
        for (name, value) in [
            ("chosen", rewards.chosen),
            ("rejected", rewards.rejected),
            ("margins", rewards.margins),
            ("accuracies", rewards.accuracies),
        ] {
            line.insert(format!("{prefix}rewards/{name}"), json!(value));
        }
    }
}

/// A step as a line of `metrics.jsonl`.
pub(crate) fn step_line(event: &StepEvent) -> Value {
    let mut line = Map::new();
    line.insert("step".into(), json!(event.step));
    line.insert("epoch".into(), json!(event.epoch));
    line.insert("loss".into(), json!(event.loss));
    line.insert("learning_rate".into(), json!(event.learning_rate));
    line.insert("grad_norm".into(), json!(event.grad_norm));
    line.insert("tokens_per_second".into(), json!(event.tokens_per_second));
    if let (Some(scale), Some(skipped)) = (event.loss_scale, event.skipped_steps) {
        line.insert("loss_scale".into(), json!(scale));
        line.insert("skipped_steps".into(), json!(skipped));
    }
    add_rewards(&mut line, event.rewards, "");
    Value::Object(line)
}

/// An evaluation as a line of `metrics.jsonl`.
pub(crate) fn evaluation_line(event: &Evaluated, epoch: f64) -> Value {
    let mut line = Map::new();
    line.insert("step".into(), json!(event.step));
    line.insert("epoch".into(), json!(epoch));
    line.insert("eval_loss".into(), json!(event.eval_loss));
    if let Some(bleu) = event.eval_bleu4 {
        line.insert("eval_bleu4".into(), json!(bleu));
    }
    add_rewards(&mut line, event.rewards, "eval_");
    Value::Object(line)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn resuming_cuts_what_the_checkpoint_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut journal = Journal::open(&path, u64::MAX).unwrap();
        journal.append(&json!({"step": 1})).unwrap();
        let known = journal.length();
        journal.append(&json!({"step": 2})).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path, known).unwrap();
        journal.append(&json!({"step": 2})).unwrap();
        drop(journal);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2}\n"
        );
    }
}
