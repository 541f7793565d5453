//! From the loader's rows to the trainer's padded batches: where the two branches meet.

use candle_core::Device;
use chatlm_dataset::Batch;
use chatlm_job::Result;
use chatlm_train::{PreferenceBatch, SequenceBatch};

use crate::reference::ReferenceScores;

/// Prompt and response rows; only the first `keep`.
pub(crate) fn sequence_batch(
    batch: &Batch,
    keep: usize,
    pad: u32,
    device: &Device,
) -> Result<SequenceBatch> {
    SequenceBatch::new(
        &batch.keys[..keep],
        &batch.fields[0][..keep],
        &batch.fields[1][..keep],
        pad,
        device,
    )
}

/// Prompt, chosen, rejected rows with their reference scores; only the first `keep`.
pub(crate) fn preference_batch(
    batch: &Batch,
    keep: usize,
    pad: u32,
    reference: Option<&ReferenceScores>,
    device: &Device,
) -> Result<PreferenceBatch> {
    let side = |column: usize| {
        SequenceBatch::new(
            &batch.keys[..keep],
            &batch.fields[0][..keep],
            &batch.fields[column][..keep],
            pad,
            device,
        )
    };
    Ok(PreferenceBatch {
        chosen: side(1)?,
        rejected: side(2)?,
        reference: reference.map(|scores| scores.of(&batch.indices[..keep])),
    })
}
