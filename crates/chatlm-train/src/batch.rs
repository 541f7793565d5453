//! Rows of ids as a pass takes them: laid end to end, without padding.

use candle_core::Device;
use chatlm_job::{Error, Result};
use chatlm_t5::Sequences;

use crate::loss::NOTHING;

/// Source and target rows.
#[derive(Debug, Clone)]
pub struct SequenceBatch {
    /// One dropout key a row.
    pub keys: Vec<u64>,
    pub source: Sequences,
    /// The decoder's input: `[PAD]`, then the target without its last id.
    pub target: Sequences,
    /// The id to predict at each place of `target`.
    pub labels: Vec<u32>,
    /// Scored tokens of each row.
    pub lengths: Vec<usize>,
    /// Scored tokens of all rows.
    pub tokens: usize,
    /// Source tokens.
    pub source_tokens: usize,
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
        let inputs: Vec<Vec<u32>> = targets
            .iter()
            .map(|ids| {
                std::iter::once(pad)
                    .chain(ids[..ids.len() - 1].iter().copied())
                    .collect()
            })
            .collect();
        let labels: Vec<u32> = targets
            .iter()
            .flatten()
            .map(|&id| if id == pad { NOTHING } else { id })
            .collect();
        let lengths: Vec<usize> = targets
            .iter()
            .map(|ids| ids.iter().filter(|&&id| id != pad).count())
            .collect();
        Ok(Self {
            keys: keys.to_vec(),
            source: Sequences::new(sources, device)?,
            target: Sequences::new(&inputs, device)?,
            labels,
            tokens: lengths.iter().sum(),
            lengths,
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
