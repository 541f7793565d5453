//! Reference log-probabilities of preference pairs: computed once, with the weights a run starts
//! from and the adapter off, and kept in the run folder under a hash of everything they depend on.
//!
//! So only one model is in memory while training, and a resumed run computes nothing again.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use chatlm_dataset::{Cursor, SetSpec};
use chatlm_job::{AtomicFile, Error, Job, Result, sha256_bytes, sha256_file};
use chatlm_t5::{Model, Pass};
use chatlm_tokenizer::Tokenizer;
use chatlm_train::{ReferenceBatch, TrainConfig, sequence_log_probabilities};

use crate::batches::preference_batch;
use crate::setup::{RunKind, open_rows};

/// One chosen and one rejected score a row, summed over the tokens, in nats.
pub(crate) struct ReferenceScores {
    chosen: Vec<f32>,
    rejected: Vec<f32>,
}

impl ReferenceScores {
    /// Reads the cache in `out`, or computes and writes it.
    pub(crate) fn open(
        out: &Path,
        config: &TrainConfig,
        model: &Model,
        model_hash: &str,
        sets: Vec<SetSpec>,
        tokenizer: &Tokenizer,
        job: &Job,
    ) -> Result<Self> {
        // Each row once, whatever its weight: a row's index does not depend on weights.
        let sets: Vec<SetSpec> = sets
            .into_iter()
            .map(|set| SetSpec { weight: 1.0, ..set })
            .collect();
        let file = cache_file(out, config, model_hash, &sets, tokenizer)?;
        if let Some(scores) = read(&file) {
            return Ok(scores);
        }
        let mut rows = open_rows(RunKind::Dpo, config, sets, false, tokenizer, job)?;
        rows.seek(Cursor { epoch: 0, row: 0 });
        let total = rows.rows();
        let mut scores = Self {
            chosen: vec![0.0; total as usize],
            rejected: vec![0.0; total as usize],
        };
        let pass = Pass {
            adapter: false,
            ..Pass::inference()
        };
        let mut done = 0;
        while done < total {
            job.cancel.check()?;
            let batch = rows.next_batch()?;
            let (count, pad) = (batch.keys.len(), tokenizer.pad_id());
            let sides = preference_batch(&batch, count, pad, None, model.device())?;
            let values =
                |side| -> Result<Vec<f32>> { sequence_log_probabilities(model, side, &pass) };
            let (chosen, rejected) = (values(&sides.chosen)?, values(&sides.rejected)?);
            for (place, &index) in batch.indices.iter().enumerate() {
                scores.chosen[index as usize] = chosen[place];
                scores.rejected[index as usize] = rejected[place];
            }
            done += batch.keys.len() as u64;
            job.progress.report("reference", done, Some(total), "rows");
        }
        scores.write(&file)?;
        Ok(scores)
    }

    /// The scores of the given rows.
    pub(crate) fn of(&self, indices: &[u64]) -> ReferenceBatch {
        let pick = |all: &[f32]| indices.iter().map(|&index| all[index as usize]).collect();
        ReferenceBatch {
            chosen: pick(&self.chosen),
            rejected: pick(&self.rejected),
        }
    }

    fn write(&self, file: &Path) -> Result<()> {
        let tensor = |values: &[f32]| {
            Tensor::from_slice(values, values.len(), &Device::Cpu).map_err(Error::internal)
        };
        let bytes = chatlm_checkpoint::to_safetensors(
            &[
                ("chosen".to_owned(), tensor(&self.chosen)?),
                ("rejected".to_owned(), tensor(&self.rejected)?),
            ]
            .into_iter()
            .collect(),
        )?;
        AtomicFile::write_all(file, true, &bytes)
    }
}

/// An unreadable cache is computed again, as if it were not there.
fn read(file: &Path) -> Option<ReferenceScores> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).ok()?;
    let values = |name: &str| tensors.get(name)?.to_vec1::<f32>().ok();
    Some(ReferenceScores {
        chosen: values("chosen")?,
        rejected: values("rejected")?,
    })
}

fn cache_file(
    out: &Path,
    config: &TrainConfig,
    model_hash: &str,
    sets: &[SetSpec],
    tokenizer: &Tokenizer,
) -> Result<PathBuf> {
    let mut parts = vec![
        model_hash.to_owned(),
        tokenizer.hash(),
        config.max_length.to_string(),
    ];
    for set in sets {
        for path in chatlm_dataset::expand(&set.paths)? {
            parts.push(sha256_file(&path)?);
        }
    }
    let key = sha256_bytes(parts.join("\n").as_bytes());
    Ok(out.join(format!("reference-{}.safetensors", &key[..16])))
}
