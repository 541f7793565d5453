//! Rows of ids as the tensors of one pass, padded to the longest of the batch.

use candle_core::{Device, Tensor};
use chatlm_job::{Error, Result};

/// Source and target rows. Only real target places are scored: padding costs no row of logits.
#[derive(Debug, Clone)]
pub struct SequenceBatch {
    /// One dropout key a row.
    pub keys: Vec<u64>,
    /// (b, s) u32
    pub source: Tensor,
    /// (b, s) u8, 1 where real
    pub mask: Tensor,
    /// (b, t) u32: `[PAD]`, then the target without its last id
    pub decoder_input: Tensor,
    /// (n) u32: the ids to predict, row after row
    pub labels: Tensor,
    /// (n) u32: where they stand in the flattened (b, t)
    pub places: Tensor,
    /// (n) u32: which row they belong to
    pub rows: Tensor,
    /// Scored tokens of each row.
    pub lengths: Vec<usize>,
    /// Scored tokens of all rows.
    pub tokens: usize,
    /// Source tokens without padding.
    pub source_tokens: usize,
}

/// Rows `(b, longest)`, filled up with `fill` at the right.
fn padded<T: candle_core::WithDType>(rows: &[Vec<T>], fill: T, device: &Device) -> Result<Tensor> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut flat = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        flat.extend_from_slice(row);
        flat.resize(flat.len() + longest - row.len(), fill);
    }
    Tensor::from_vec(flat, (rows.len(), longest), device).map_err(Error::internal)
}

impl SequenceBatch {
    /// `sources` and `targets` end in `[EOS]`; ids that are `pad` inside a target are not scored.
    pub fn new(
        keys: &[u64],
        sources: &[Vec<u32>],
        targets: &[Vec<u32>],
        pad: u32,
        device: &Device,
    ) -> Result<Self> {
        let count = keys.len();
        if count == 0 || sources.len() != count || targets.len() != count {
            return Err(Error::internal(format!(
                "a batch of {count} keys, {} sources, {} targets",
                sources.len(),
                targets.len()
            )));
        }
        if sources.iter().chain(targets).any(Vec::is_empty) {
            return Err(Error::internal(
                "a row without ids: [EOS] should always be there",
            ));
        }
        let masks: Vec<Vec<u8>> = sources.iter().map(|ids| vec![1; ids.len()]).collect();
        let inputs: Vec<Vec<u32>> = targets
            .iter()
            .map(|ids| {
                std::iter::once(pad)
                    .chain(ids[..ids.len() - 1].iter().copied())
                    .collect()
            })
            .collect();
        let longest = targets.iter().map(Vec::len).max().unwrap_or(0);
        let (mut labels, mut places, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(count);
        for (row, ids) in targets.iter().enumerate() {
            let before = labels.len();
            for (column, &id) in ids.iter().enumerate().filter(|(_, id)| **id != pad) {
                labels.push(id);
                places.push((row * longest + column) as u32);
                rows.push(row as u32);
            }
            lengths.push(labels.len() - before);
        }
        let tokens = labels.len();
        let tensor =
            |values: Vec<u32>| Tensor::from_vec(values, tokens, device).map_err(Error::internal);
        Ok(Self {
            keys: keys.to_vec(),
            source: padded(sources, pad, device)?,
            mask: padded(&masks, 0, device)?,
            decoder_input: padded(&inputs, pad, device)?,
            labels: tensor(labels)?,
            places: tensor(places)?,
            rows: tensor(rows)?,
            lengths,
            tokens,
            source_tokens: sources.iter().map(Vec::len).sum(),
        })
    }

    /// Batch rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Reference scores of the rows of a preference batch: log-probabilities summed over the tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceBatch {
    pub chosen: Vec<f32>,
    pub rejected: Vec<f32>,
}

/// Two answers to the same prompts: the sources of both sides are the same.
#[derive(Debug, Clone)]
pub struct PreferenceBatch {
    pub chosen: SequenceBatch,
    pub rejected: SequenceBatch,
    /// Needed by the losses that compare with a reference.
    pub reference: Option<ReferenceBatch>,
}
