//! What a batch costs: cross-entropy summed over its real target tokens, and log-probabilities
//! summed by row.

use chatlm_job::{Error, Result};
use chatlm_t5::{Model, Pass, Precision, Tape, Value};

use crate::batch::SequenceBatch;

/// No target is ever this id.
pub(crate) const NOTHING: u32 = u32::MAX;

/// The SUM of the cross-entropies of the target tokens in nats, and how many they are.
pub fn sequence_loss(model: &Model, batch: &SequenceBatch) -> Result<(f64, usize)> {
    let (pass, precision) = (Pass::inference(), Precision::F32);
    let tape = Tape::off(precision);
    let encoded = model.encode(&tape, &batch.source, &pass)?;
    let hidden = model.decode(&tape, &batch.target, &encoded, &batch.source.rows, &pass)?;
    let sum = model
        .projection(precision)
        .cross_entropy(hidden.tensor(), &batch.labels, NOTHING, 0.0)
        .map_err(Error::internal)?;
    Ok((sum, batch.tokens))
}

/// The log-probability of each row's target, summed over its tokens. For a reference, use a pass with
/// `adapter: false` where there is one.
pub fn sequence_log_probabilities(
    model: &Model,
    batch: &SequenceBatch,
    pass: &Pass,
) -> Result<Vec<f32>> {
    let tape = Tape::off(Precision::F32);
    let encoded = model.encode(&tape, &batch.source, pass)?;
    target_log_probabilities(&tape, model, batch, &encoded, pass).map(|(sums, _)| sums)
}

/// The same, over a source that is encoded already; and the hidden states, which the way back needs.
pub(crate) fn target_log_probabilities(
    tape: &Tape,
    model: &Model,
    batch: &SequenceBatch,
    encoded: &Value,
    pass: &Pass,
) -> Result<(Vec<f32>, Value)> {
    let hidden = model.decode(tape, &batch.target, encoded, &batch.source.rows, pass)?;
    let each = model
        .projection(tape.precision())
        .log_probabilities(hidden.tensor(), &batch.labels, NOTHING)
        .map_err(Error::internal)?;
    let sums = (0..batch.len())
        .map(|row| each[batch.target.rows.range(row)].iter().sum())
        .collect();
    Ok((sums, hidden))
}
