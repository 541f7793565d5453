//! What a batch costs: cross-entropy summed over its real target tokens, and log-probabilities
//! summed by row.

use candle_core::{DType, Tensor};
use chatlm_job::{Error, Result};
use chatlm_kernels::log_probabilities;
use chatlm_t5::{Model, Pass};

use crate::batch::SequenceBatch;

/// No target is ever this id: padding is left out before.
const NOTHING: u32 = u32::MAX;

/// Hidden states of the real target places only, (n, d).
fn hidden(
    model: &Model,
    batch: &SequenceBatch,
    encoded: &Tensor,
    pass: &Pass<'_>,
) -> Result<Tensor> {
    let hidden = model.decode(&batch.decoder_input, encoded, &batch.mask, pass)?;
    let real = |hidden: Tensor| -> candle_core::Result<Tensor> {
        let (rows, length, width) = hidden.dims3()?;
        let flat = hidden.reshape((rows * length, width))?;
        if batch.tokens == rows * length {
            Ok(flat)
        } else {
            flat.index_select(&batch.places, 0)
        }
    };
    real(hidden).map_err(Error::internal)
}

/// The SUM of the cross-entropies of the target tokens in nats (a scalar), and how many they are.
pub fn sequence_loss(
    model: &Model,
    batch: &SequenceBatch,
    pass: &Pass<'_>,
    smoothing: f64,
) -> Result<(Tensor, usize)> {
    let encoded = model.encode(&batch.source, &batch.mask, pass)?;
    let hidden = hidden(model, batch, &encoded, pass)?;
    let sum = model.cross_entropy(&hidden, &batch.labels, NOTHING, smoothing)?;
    Ok((sum, batch.tokens))
}

/// The log-probability of each row's target, summed over its tokens, (b); and the token counts.
/// For a reference, use a pass without dropout, with `adapter: false` where there is one.
pub fn sequence_log_probabilities<'a>(
    model: &Model,
    batch: &'a SequenceBatch,
    pass: &Pass<'_>,
) -> Result<(Tensor, &'a [usize])> {
    let encoded = model.encode(&batch.source, &batch.mask, pass)?;
    Ok((
        target_log_probabilities(model, batch, &encoded, pass)?,
        &batch.lengths,
    ))
}

/// The same, over a source that is encoded already.
pub(crate) fn target_log_probabilities(
    model: &Model,
    batch: &SequenceBatch,
    encoded: &Tensor,
    pass: &Pass<'_>,
) -> Result<Tensor> {
    let logits = model.logits(&hidden(model, batch, encoded, pass)?)?;
    let sums = || -> candle_core::Result<Tensor> {
        let each = log_probabilities(&logits, &batch.labels, NOTHING)?;
        Tensor::zeros(batch.len(), DType::F32, each.device())?.index_add(&batch.rows, &each, 0)
    };
    sums().map_err(Error::internal)
}
