//! Softmax over attention scores with relative position bias, padding mask and causality in one
//! pass over each row: inside [`crate::attention()`], and alone for a decoder's single steps.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::math::{dot, exp_in_place, max};
use crate::plain;
use crate::rows::{for_rows, fused, slice, with_slice};

/// Which keys a query may see.
pub(crate) struct Visible {
    /// Valid keys of each batch row: 1 where real. Empty: all.
    mask: Vec<u8>,
    causal: bool,
}

impl Visible {
    pub(crate) fn new(
        mask: Option<&Tensor>,
        batch: usize,
        keys: usize,
        causal: bool,
    ) -> Result<Self> {
        let mask = match mask {
            Some(mask) if mask.dims() != [batch, keys] => {
                bail!(
                    "an attention mask of {:?} for {batch} rows, {keys} keys",
                    mask.dims()
                )
            }
            Some(mask) => mask.flatten_all()?.to_vec1::<u8>()?,
            None => Vec::new(),
        };
        Ok(Self { mask, causal })
    }

    /// Turns a query's scores into probabilities, in place.
    #[inline(always)]
    pub(crate) fn softmax(
        &self,
        row: &mut [f32],
        bias: Option<&[f32]>,
        batch: usize,
        query: usize,
        queries: usize,
    ) {
        let keys = row.len();
        if let Some(bias) = bias {
            for (score, bias) in row.iter_mut().zip(bias) {
                *score += bias;
            }
        }
        // Fewer queries than keys are the last ones: the last of all sees every key.
        let seen = if self.causal {
            (keys + query + 1).saturating_sub(queries)
        } else {
            keys
        };
        row[seen.min(keys)..].fill(f32::NEG_INFINITY);
        if !self.mask.is_empty() {
            let mask = &self.mask[batch * keys..(batch + 1) * keys];
            for (score, &real) in row.iter_mut().zip(mask) {
                *score = if real == 0 { f32::NEG_INFINITY } else { *score };
            }
        }
        let largest = max(row);
        if largest == f32::NEG_INFINITY {
            // A query that may see nothing attends to nothing.
            row.fill(0.0);
            return;
        }
        let scale = 1.0 / exp_in_place(row, largest);
        for p in row {
            *p *= scale;
        }
    }
}

struct Probabilities {
    visible: Visible,
    /// (batch, heads, queries, keys)
    dims: (usize, usize, usize, usize),
}

impl Probabilities {
    fn forward(&self, scores: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (_, heads, queries, keys) = self.dims;
        let mut out = vec![0.0f32; scores.len()];
        for_rows(
            &mut out,
            keys,
            #[inline(always)]
            |line, out| {
                let (query, head, batch) = (
                    line % queries,
                    line / queries % heads,
                    line / queries / heads,
                );
                out.copy_from_slice(&scores[line * keys..(line + 1) * keys]);
                let from = (head * queries + query) * keys;
                let bias = bias.map(|bias| &bias[from..from + keys]);
                self.visible.softmax(out, bias, batch, query, queries);
            },
        );
        out
    }

    /// `ds = p · (dp − Σ p·dp)`; masked places have `p = 0` and so no gradient.
    fn backward(&self, probabilities: &Tensor, grad: &Tensor) -> Result<Vec<f32>> {
        let keys = self.dims.3;
        with_slice(probabilities, |p| {
            with_slice(grad, |grad| {
                let mut out = vec![0.0f32; p.len()];
                for_rows(
                    &mut out,
                    keys,
                    #[inline(always)]
                    |line, out| {
                        let at = line * keys..(line + 1) * keys;
                        let (p, grad) = (&p[at.clone()], &grad[at]);
                        let total = dot(p, grad);
                        for ((out, p), grad) in out.iter_mut().zip(p).zip(grad) {
                            *out = p * (grad - total);
                        }
                    },
                );
                Ok(out)
            })
        })
    }
}

impl CustomOp1 for Probabilities {
    fn name(&self) -> &'static str {
        "attention-probabilities"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.forward(slice(storage, layout)?, None);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let ds = self.backward(res, grad)?;
        Ok(Some(Tensor::from_vec(ds, arg.shape(), arg.device())?))
    }
}

impl CustomOp2 for Probabilities {
    fn name(&self) -> &'static str {
        "attention-probabilities-with-bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = self.forward(slice(s1, l1)?, Some(slice(s2, l2)?));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        scores: &Tensor,
        bias: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ds = self.backward(res, grad)?;
        let db = if bias.track_op() {
            Some(bias_gradient(&ds, bias, self.dims.3)?)
        } else {
            None
        };
        Ok((
            Some(Tensor::from_vec(ds, scores.shape(), scores.device())?),
            db,
        ))
    }
}

/// The scores' gradient `ds (batch, …)` summed over the batch, as that of `bias (1, …)`: lines in
/// parallel, batch rows in order.
pub(crate) fn bias_gradient(ds: &[f32], bias: &Tensor, keys: usize) -> Result<Tensor> {
    let count = bias.elem_count();
    let mut db = vec![0.0f32; count];
    for_rows(
        &mut db,
        keys,
        #[inline(always)]
        |line, db| {
            for row in ds.chunks(count) {
                for (db, ds) in db.iter_mut().zip(&row[line * keys..(line + 1) * keys]) {
                    *db += ds;
                }
            }
        },
    );
    Tensor::from_vec(db, bias.shape(), bias.device())
}

/// Attention probabilities of `scores (batch, heads, queries, keys)`: plus `bias (1, heads,
/// queries, keys)`, without the keys whose `mask (batch, keys)` is 0, and, if causal, without the
/// keys after the query; softmax over the keys. A query that may see nothing gets zeros.
pub fn attention_probabilities(
    scores: &Tensor,
    bias: Option<&Tensor>,
    mask: Option<&Tensor>,
    causal: bool,
) -> Result<Tensor> {
    let fits = fused(&[scores]) && bias.is_none_or(|bias| fused(&[bias]));
    if !fits {
        return plain::attention_probabilities(scores, bias, mask, causal);
    }
    let dims = scores.dims4()?;
    let op = Probabilities {
        visible: Visible::new(mask, dims.0, dims.3, causal)?,
        dims,
    };
    let scores = scores.contiguous()?;
    match bias {
        Some(bias) => scores.apply_op2(&bias.contiguous()?, op),
        None => scores.apply_op1(op),
    }
}
