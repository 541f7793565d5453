//! Reference log-probabilities of preference pairs: computed once, with the weights a run starts
//! from and the adapter off, under a key of everything they depend on.
//!
//! So only one model is in memory while training. They lie in the user's cache, where any other run over
//! the same model and rows finds them, and as a copy in the run folder, which is whole by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chatlm_dataset::{Cursor, Loader, SetSpec};
use chatlm_job::{
    AtomicFile, Code, Error, FileLock, Job, Result, cache_folder, sha256_bytes, sha256_file,
};
use chatlm_t5::{Model, Pass};
use chatlm_tokenizer::Tokenizer;
use chatlm_train::{ReferenceBatch, TrainConfig, sequence_log_probabilities};

use crate::batches::preference_batch;
use crate::event::Event;
use crate::scores::{ScoreFile, Scores, read};
use crate::setup::{RunKind, open_rows};
use crate::worker::compute;

/// A kill costs at most so much work.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// How often one asks whether another process is done with the same scores.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// One chosen and one rejected score a row, summed over the tokens, in nats.
pub(crate) struct ReferenceScores(Scores);

/// What scores depend on besides the rows.
pub(crate) struct Source<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) model: &'a Model,
    /// A hash of the weights the run starts from.
    pub(crate) model_hash: &'a str,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) out: &'a Path,
}

impl ReferenceScores {
    /// Finds the scores of the first `most` rows of `sets`, or computes and keeps them; and tells which.
    pub(crate) fn open(
        source: &Source<'_>,
        sets: Vec<SetSpec>,
        most: u64,
        job: &Job,
    ) -> Result<(Self, Vec<Event>)> {
        let Source {
            config, tokenizer, ..
        } = source;
        // Each row once, whatever its weight: a row's index does not depend on weights.
        let sets: Vec<SetSpec> = sets
            .into_iter()
            .map(|set| SetSpec { weight: 1.0, ..set })
            .collect();
        let name = format!("{}.scores", &source.key(&sets)?[..32]);
        let copy = source.out.join(format!("reference-{name}"));
        let mut rows = open_rows(RunKind::Dpo, config, sets, false, tokenizer, job)?;
        let total = rows.rows().min(most);

        let mut events = Vec::new();
        let found = read(&copy);
        let (scores, computed) = if found.scores.rows() >= total {
            (found.scores, 0)
        } else {
            let file = place(&name, &copy);
            let _lock = wait(&file, total, job)?;
            let found = read(&file);
            if found.damaged {
                events.push(Event::Warned {
                    step: 0,
                    reason: format!(
                        "{} is damaged behind row {}; the rest is computed again",
                        file.display(),
                        found.scores.rows()
                    ),
                });
            }
            let before = found.scores.rows();
            let scores = if before >= total {
                found.scores
            } else {
                source.compute(ScoreFile::open(&file, found)?, &mut rows, total, job)?
            };
            if file != copy {
                AtomicFile::write_all(&copy, true, &scores.to_bytes())?;
            }
            (scores, total.saturating_sub(before))
        };
        events.push(Event::Reference {
            step: 0,
            rows: total,
            computed,
            path: copy.display().to_string(),
        });
        Ok((Self(scores), events))
    }

    /// The scores of the given rows.
    pub(crate) fn of(&self, indices: &[u64]) -> ReferenceBatch {
        let pick = |all: &[f32]| indices.iter().map(|&index| all[index as usize]).collect();
        ReferenceBatch {
            chosen: pick(&self.0.chosen),
            rejected: pick(&self.0.rejected),
        }
    }
}

impl Source<'_> {
    /// Scores the rows that are missing, one after another; what is done stays when it ends early.
    fn compute(
        &self,
        mut file: ScoreFile,
        rows: &mut Loader,
        total: u64,
        job: &Job,
    ) -> Result<Scores> {
        let first = file.scores.rows();
        rows.seek(Cursor {
            epoch: 0,
            row: first,
        });
        let mut flushed = Instant::now();
        while file.scores.rows() < total {
            if let Err(error) = job.cancel.check().and_then(|()| self.add(&mut file, rows)) {
                file.flush()?;
                return Err(error);
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                file.flush()?;
                flushed = Instant::now();
            }
            let done = file.scores.rows().min(total);
            job.progress.report("reference", done, Some(total), "rows");
        }
        file.finish()
    }

    /// Scores one batch.
    fn add(&self, file: &mut ScoreFile, rows: &mut Loader) -> Result<()> {
        let pass = Pass {
            adapter: false,
            ..Pass::inference()
        };
        let first = file.scores.rows();
        let batch = rows.next_batch()?;
        let (count, pad) = (batch.keys.len(), self.tokenizer.pad_id());
        let sides = preference_batch(&batch, count, pad, None, self.model.device())?;
        let values = |side| compute(|| sequence_log_probabilities(self.model, side, &pass));
        let (chosen, rejected) = (values(&sides.chosen)?, values(&sides.rejected)?);
        let in_order = (first..)
            .zip(&batch.indices)
            .all(|(row, &index)| row == index);
        if !in_order {
            return Err(Error::internal("rows of a reference out of order"));
        }
        if let Some(place) = (0..count).find(|&row| !(chosen[row] + rejected[row]).is_finite()) {
            let row = batch.indices[place];
            return Err(Error::new(
                Code::NotFinite,
                format!("the reference log-probability of row {row} is not finite"),
                "the model that dpo starts from is broken; generate with it, or train it again",
            )
            .with("row", row));
        }
        file.scores.chosen.extend(chosen);
        file.scores.rejected.extend(rejected);
        Ok(())
    }

    /// A hash of all that the scores depend on.
    fn key(&self, sets: &[SetSpec]) -> Result<String> {
        let shape = chatlm_t5::Config {
            dropout_rate: 0.0,
            ..self.model.config().clone()
        };
        let mut parts = vec![
            "1".to_owned(),
            self.model_hash.to_owned(),
            serde_json::to_string(&shape).map_err(Error::internal)?,
            self.tokenizer.hash(),
            self.config.max_length.to_string(),
        ];
        for set in sets {
            for path in chatlm_dataset::expand(&set.paths)? {
                parts.push(sha256_file(&path)?);
            }
        }
        Ok(sha256_bytes(parts.join("\n").as_bytes()))
    }
}

/// The file of the user's cache, or that of the run where there is no cache to write to.
fn place(name: &str, copy: &Path) -> PathBuf {
    let folder = cache_folder("reference");
    match fs::create_dir_all(&folder) {
        Ok(()) => folder.join(name),
        Err(_) => copy.to_owned(),
    }
}

/// Waits for another process that computes the same.
fn wait(file: &Path, total: u64, job: &Job) -> Result<FileLock> {
    let lock = file.with_extension("lock");
    loop {
        job.cancel.check()?;
        if let Some(lock) = FileLock::try_acquire(&lock)? {
            return Ok(lock);
        }
        let done = read(file).scores.rows().min(total);
        job.progress.report("reference", done, Some(total), "rows");
        std::thread::sleep(ASK_EVERY);
    }
}
