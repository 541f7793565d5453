//! Softmax over attention scores with relative position bias and padding mask, for a decoder's
//! single steps, which need no gradient.

use candle_core::{Result, Tensor, bail};

use crate::math::{exp_in_place, max};
use crate::plain;
use crate::rows::{fused, new_rows, read};

/// The place of the first of the largest of each row of `scores (rows, vocabulary)`, `None` where one is
/// not finite: a greedy step. From a GPU four bytes a row come back.
pub fn best(scores: &Tensor) -> Result<Vec<Option<u32>>> {
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(&[scores]) {
        return chatlm_cuda::tensors::argmax(scores);
    }
    let rows: Vec<Vec<f32>> = scores.to_vec2()?;
    let first = |row: Vec<f32>| {
        let finite = row.iter().all(|score| score.is_finite());
        let largest = max(&row);
        let place = row.iter().position(|&score| score >= largest);
        place.filter(|_| finite).map(|place| place as u32)
    };
    Ok(rows.into_iter().map(first).collect())
}

/// Attention probabilities of `scores (batch, heads, queries, keys)`: plus `bias (1, heads, queries,
/// keys)`, without the keys whose `mask (batch, keys)` is 0; softmax over the keys. A query that may
/// see nothing gets zeros. No gradient flows through it.
pub fn attention_probabilities(
    scores: &Tensor,
    bias: Option<&Tensor>,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    if !fused(&[scores]) || bias.is_some_and(|bias| !fused(&[bias])) {
        return plain::attention_probabilities(scores, bias, mask, false);
    }
    let (batch, heads, queries, keys) = scores.dims4()?;
    let mask = match mask {
        Some(mask) if mask.dims() != [batch, keys] => {
            bail!(
                "an attention mask of {:?} for {:?}",
                mask.dims(),
                scores.dims()
            )
        }
        Some(mask) => mask.flatten_all()?.to_vec1::<u8>()?,
        None => Vec::new(),
    };
    let (scores, bias) = (
        scores.contiguous()?,
        bias.map(Tensor::contiguous).transpose()?,
    );
    let (values, bias) = (read(&scores)?, bias.as_ref().map(read).transpose()?);
    let (values, bias) = (&*values, bias.as_deref());
    new_rows(
        &scores,
        #[inline(always)]
        |line, row| {
            let (query, head) = (line % queries, line / queries % heads);
            row.copy_from_slice(&values[line * keys..(line + 1) * keys]);
            if let Some(bias) = bias {
                let from = (head * queries + query) * keys;
                for (score, bias) in row.iter_mut().zip(&bias[from..from + keys]) {
                    *score += bias;
                }
            }
            if !mask.is_empty() {
                let batch = line / queries / heads;
                let mask = &mask[batch * keys..(batch + 1) * keys];
                for (score, &real) in row.iter_mut().zip(mask) {
                    *score = if real == 0 { f32::NEG_INFINITY } else { *score };
                }
            }
            let largest = max(row);
            // Not where all scores are NaN.
            if row.iter().all(|&score| score == f32::NEG_INFINITY) {
                row.fill(0.0);
                return;
            }
            let scale = 1.0 / exp_in_place(row, largest);
            for p in row {
                *p *= scale;
            }
        },
    )
}
