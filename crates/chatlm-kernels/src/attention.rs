//! Softmax over scores with relative position bias, padding mask and causality in one pass.
//! T5 adds the bias to unscaled scores (Raffel et al. 2020).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::math::{dot, exp, max};
use crate::plain;
use crate::rows::{for_rows, fused, slice, with_slice};

struct Probabilities {
    /// Valid keys of each batch row: 1 where real. Empty: all.
    mask: Vec<u8>,
    causal: bool,
    /// (batch, heads, queries, keys)
    dims: (usize, usize, usize, usize),
}

impl Probabilities {
    fn forward(&self, scores: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (_, heads, queries, keys) = self.dims;
        let mut out = vec![0.0f32; scores.len()];
        for_rows(&mut out, keys, |line, out| {
            let (query, head, batch) =
                (line % queries, line / queries % heads, line / queries / heads);
            let row = &scores[line * keys..(line + 1) * keys];
            match bias {
                Some(bias) => {
                    let from = (head * queries + query) * keys;
                    let bias = &bias[from..from + keys];
                    for ((out, s), b) in out.iter_mut().zip(row).zip(bias) {
                        *out = s + b;
                    }
                }
                None => out.copy_from_slice(row),
            }
            // A step of decoding has fewer queries than keys: its last query sees every key.
            let seen = if self.causal { (keys - queries + query + 1).min(keys) } else { keys };
            out[seen..].fill(f32::NEG_INFINITY);
            if !self.mask.is_empty() {
                let mask = &self.mask[batch * keys..(batch + 1) * keys];
                for (out, &real) in out.iter_mut().zip(mask) {
                    *out = if real == 0 { f32::NEG_INFINITY } else { *out };
                }
            }
            let largest = max(out);
            if largest == f32::NEG_INFINITY {
                // A row that may see nothing attends to nothing.
                out.fill(0.0);
                return;
            }
            let mut sum = 0.0;
            for out in out.iter_mut() {
                *out = exp(*out - largest);
            }
            sum += crate::math::sum(out, |value| value);
            let scale = 1.0 / sum;
            for out in out.iter_mut() {
                *out *= scale;
            }
        });
        out
    }

    /// `ds = p · (dp − Σ p·dp)`; masked places have `p = 0` and so no gradient.
    fn backward(&self, probabilities: &Tensor, grad: &Tensor) -> Result<Vec<f32>> {
        let keys = self.dims.3;
        with_slice(probabilities, |p| {
            with_slice(grad, |grad| {
                let mut out = vec![0.0f32; p.len()];
                for_rows(&mut out, keys, |line, out| {
                    let at = line * keys..(line + 1) * keys;
                    let (p, grad) = (&p[at.clone()], &grad[at]);
                    let total = dot(p, grad);
                    for ((out, p), grad) in out.iter_mut().zip(p).zip(grad) {
                        *out = p * (grad - total);
                    }
                });
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
            let (batch, heads, queries, keys) = self.dims;
            let width = heads * queries * keys;
            let mut db = vec![0.0f32; width];
            // Lines in parallel, batch rows in order.
            for_rows(&mut db, keys, |line, db| {
                for row in 0..batch {
                    let from = row * width + line * keys;
                    for (db, ds) in db.iter_mut().zip(&ds[from..from + keys]) {
                        *db += ds;
                    }
                }
            });
            Some(Tensor::from_vec(db, bias.shape(), bias.device())?)
        } else {
            None
        };
        Ok((Some(Tensor::from_vec(ds, scores.shape(), scores.device())?), db))
    }
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
    let op = Probabilities {
        mask: match mask {
            Some(mask) => mask.flatten_all()?.to_vec1::<u8>()?,
            None => Vec::new(),
        },
        causal,
        dims: scores.dims4()?,
    };
    let scores = scores.contiguous()?;
    match bias {
        Some(bias) => scores.apply_op2(&bias.contiguous()?, op),
        None => scores.apply_op1(op),
    }
}
