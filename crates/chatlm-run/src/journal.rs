//! What a run writes while it goes: `metrics.jsonl`, `samples.jsonl`, and the same for TensorBoard
//! (`tensorboard.rs`). Lines are appended; on resume the files are cut back to the checkpoint's lengths,
//! so that no step stands there twice.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chatlm_job::{Error, Result};
use serde_json::{Map, Value, json};

use crate::event::{Evaluated, Rewards, Stamp, StepEvent};
use crate::tensorboard::EventFile;

const METRICS: &str = "metrics.jsonl";
const SAMPLES: &str = "samples.jsonl";

/// One appended file.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    /// None where another worker writes.
    file: Option<File>,
    length: u64,
}

impl Journal {
    /// Opens `path`, keeping only its first `keep` bytes.
    fn open(path: PathBuf, keep: u64) -> Result<Self> {
        let failed = |e: &std::io::Error| Error::io(e, "write", &path);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| failed(&e))?;
        let length = file.metadata().map_err(|e| failed(&e))?.len().min(keep);
        file.set_len(length).map_err(|e| failed(&e))?;
        file.seek(SeekFrom::Start(length)).map_err(|e| failed(&e))?;
        Ok(Self {
            path,
            file: Some(file),
            length,
        })
    }

    fn of_another(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            length: 0,
        }
    }

    fn append(&mut self, line: &Value) -> Result<()> {
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

/// The lines of a file, one by one; a line that was torn by a crash is passed over.
pub(crate) fn each_line(path: &Path, mut each: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(&e, "read", path))?;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|e| Error::io(&e, "read", path))?;
        if let Ok(value) = serde_json::from_str(&line) {
            each(&value)?;
        }
    }
    Ok(())
}

/// The files of a run folder that are appended to.
#[derive(Debug)]
pub(crate) struct Journals {
    folder: PathBuf,
    metrics: Journal,
    samples: Journal,
    /// Made of what the two files hold, when the first line is written.
    events: Option<EventFile>,
    /// Tokens up to the last step line.
    tokens: u64,
    /// Seconds up to the last line of an earlier process.
    seconds: f64,
    opened: Instant,
}

impl Journals {
    /// Opens the files of `folder`, keeping only so many bytes of each.
    pub(crate) fn open(folder: &Path, metrics: u64, samples: u64) -> Result<Self> {
        let metrics = Journal::open(folder.join(METRICS), metrics)?;
        let samples = Journal::open(folder.join(SAMPLES), samples)?;
        let (mut tokens, mut seconds) = (0, 0.0);
        each_line(&metrics.path, |line| {
            if line.get("loss").is_some() {
                tokens = line["tokens"].as_u64().unwrap_or(tokens);
            }
            seconds = line["seconds"].as_f64().unwrap_or(seconds);
            Ok(())
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            metrics,
            samples,
            events: None,
            tokens,
            seconds,
            opened: Instant::now(),
        })
    }

    /// Those of a worker that writes none: another one does.
    pub(crate) fn of_another(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            metrics: Journal::of_another(folder.join(METRICS)),
            samples: Journal::of_another(folder.join(SAMPLES)),
            events: None,
            tokens: 0,
            seconds: 0.0,
            opened: Instant::now(),
        }
    }

    /// Bytes written so far to metrics and samples; a checkpoint remembers them.
    pub(crate) fn lengths(&self) -> (u64, u64) {
        (self.metrics.length, self.samples.length)
    }

    /// Where the run is now, with so many tokens since the last step line.
    pub(crate) fn stamp(&self, tokens: u64) -> Stamp {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Stamp {
            tokens: self.tokens + tokens,
            seconds: thousandths(self.seconds + self.opened.elapsed().as_secs_f64()),
            time: thousandths(now.as_secs_f64()),
        }
    }

    pub(crate) fn step(&mut self, event: &StepEvent) -> Result<()> {
        self.tokens = event.stamp.tokens;
        self.metrics(&step_line(event))
    }

    pub(crate) fn evaluation(&mut self, event: &Evaluated) -> Result<()> {
        self.metrics(&evaluation_line(event))
    }

    fn metrics(&mut self, line: &Value) -> Result<()> {
        if self.metrics.file.is_none() {
            return Ok(());
        }
        self.events()?.metrics(line)?;
        self.metrics.append(line)
    }

    /// A line of `samples.jsonl`.
    pub(crate) fn sample(&mut self, line: &Value) -> Result<()> {
        if self.samples.file.is_none() {
            return Ok(());
        }
        self.events()?.sample(line)?;
        self.samples.append(line)
    }

    fn events(&mut self) -> Result<&mut EventFile> {
        let events = match self.events.take() {
            Some(events) => events,
            None => EventFile::open(&self.folder, &self.metrics.path, &self.samples.path)?,
        };
        Ok(self.events.insert(events))
    }
}

fn thousandths(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn add_rewards(line: &mut Map<String, Value>, rewards: Option<Rewards>, prefix: &str) {
    if let Some(rewards) = rewards {
        for (name, value) in [
            ("rewards/chosen", Some(rewards.chosen)),
            ("rewards/rejected", Some(rewards.rejected)),
            ("rewards/margins", Some(rewards.margins)),
            ("rewards/accuracies", Some(rewards.accuracies)),
            ("logps/chosen", Some(rewards.logps_chosen)),
            ("logps/rejected", Some(rewards.logps_rejected)),
            ("nll_loss", Some(rewards.nll_loss)),
            ("log_odds_ratio", rewards.log_odds_ratio),
            ("log_odds_chosen", rewards.log_odds_chosen),
        ] {
            if let Some(value) = value {
                line.insert(format!("{prefix}{name}"), json!(value));
            }
        }
    }
}

fn add_stamp(line: &mut Map<String, Value>, stamp: Stamp) {
    line.insert("tokens".into(), json!(stamp.tokens));
    line.insert("seconds".into(), json!(stamp.seconds));
    line.insert("time".into(), json!(stamp.time));
}

/// A step as a line of `metrics.jsonl`.
fn step_line(event: &StepEvent) -> Value {
    let mut line = Map::new();
    line.insert("step".into(), json!(event.step));
    line.insert("epoch".into(), json!(event.epoch));
    line.insert("loss".into(), json!(event.loss));
    line.insert("learning_rate".into(), json!(event.learning_rate));
    line.insert("grad_norm".into(), json!(event.grad_norm));
    line.insert("tokens_per_second".into(), json!(event.tokens_per_second));
    line.insert("rss_bytes".into(), json!(event.rss_bytes));
    line.insert("padding_share".into(), json!(event.padding_share));
    if let (Some(scale), Some(skipped)) = (event.loss_scale, event.skipped_steps) {
        line.insert("loss_scale".into(), json!(scale));
        line.insert("skipped_steps".into(), json!(skipped));
    }
    add_rewards(&mut line, event.rewards, "");
    line.insert("total_steps".into(), json!(event.total_steps));
    add_stamp(&mut line, event.stamp);
    Value::Object(line)
}

/// An evaluation as a line of `metrics.jsonl`.
fn evaluation_line(event: &Evaluated) -> Value {
    let mut line = Map::new();
    line.insert("step".into(), json!(event.step));
    line.insert("epoch".into(), json!(event.epoch));
    line.insert("eval_loss".into(), json!(event.eval_loss));
    if let Some(bleu) = event.eval_bleu4 {
        line.insert("eval_bleu4".into(), json!(bleu));
    }
    add_rewards(&mut line, event.rewards, "eval_");
    add_stamp(&mut line, event.stamp);
    Value::Object(line)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn step(journals: &Journals, step: u64, tokens: u64) -> StepEvent {
        StepEvent {
            step,
            epoch: 0.5,
            loss: 2.0,
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens_per_second: 10.0,
            rss_bytes: 1,
            padding_share: 0.0,
            total_steps: 9,
            stamp: journals.stamp(tokens),
            loss_scale: None,
            skipped_steps: None,
            rewards: None,
        }
    }

    fn lines(folder: &Path) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        each_line(&folder.join(METRICS), |line| {
            found.push((
                line["step"].as_u64().unwrap(),
                line["tokens"].as_u64().unwrap(),
            ));
            assert!(line["seconds"].as_f64().unwrap() >= 0.0);
            assert!(line["time"].as_f64().unwrap() > 1e9);
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn resuming_cuts_what_the_checkpoint_does_not_know_and_counts_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut journals = Journals::open(folder.path(), u64::MAX, u64::MAX).unwrap();
        journals.step(&step(&journals, 1, 100)).unwrap();
        let (metrics, samples) = journals.lengths();
        journals.step(&step(&journals, 2, 50)).unwrap();
        drop(journals);
        assert_eq!(lines(folder.path()), [(1, 100), (2, 150)]);

        let mut journals = Journals::open(folder.path(), metrics, samples).unwrap();
        assert_eq!(lines(folder.path()), [(1, 100)]);
        let evaluated = Evaluated {
            step: 1,
            epoch: 0.5,
            eval_loss: 1.0,
            eval_bleu4: None,
            rewards: None,
            best: true,
            stamp: journals.stamp(7),
        };
        journals.evaluation(&evaluated).unwrap();
        journals.step(&step(&journals, 2, 60)).unwrap();
        drop(journals);
        assert_eq!(lines(folder.path()), [(1, 100), (1, 107), (2, 160)]);
    }
}
