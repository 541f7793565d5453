//! The rows of a step that was not finite, kept to be looked at.

use std::path::{Path, PathBuf};

use chatlm_dataset::Batch;
use chatlm_job::{AtomicFile, Result};
use serde_json::json;

use super::TrainingRun;

impl TrainingRun {
    /// Writes the rows of a step whose loss or gradients were not finite, to be looked at: a line a
    /// row, with its place among the rows, its texts and their ids.
    pub(super) fn keep_batch(&self, batches: &[Batch]) -> Result<PathBuf> {
        let mut path = not_finite(&self.out, self.state.step + 1);
        if !self.crew.leads() {
            path.set_extension(format!("worker-{}.jsonl", self.crew.rank()));
        }
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
}

/// Where the rows of a step that was not finite are kept.
pub(super) fn not_finite(out: &Path, step: u64) -> PathBuf {
    out.join(format!("not-finite-{step}.jsonl"))
}
