//! Multi-head attention as T5 has it: scores without scaling plus a learned relative bias
//! (Raffel et al. 2020), padding mask and causality, softmax, dropout, and the mix of the values, in
//! one operator over activations as the projections give them: heads are strides, not copies.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::dropout::{Drop, Mask, mask};
use crate::math::{dot, vector};
use crate::plain;
use crate::product::{Matrix, Product};
use crate::rows::{fused, slice, with_slice};
use crate::softmax::{Visible, bias_gradient};

/// Sizes of one call; `inner` is the width of all heads together.
#[derive(Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
    heads: usize,
    inner: usize,
}

struct Attention {
    visible: Visible,
    mask: Option<Mask>,
    sizes: Sizes,
    /// Whether a backward pass may come.
    track: bool,
    /// Probabilities before dropout, for the backward: (batch, heads, queries, keys).
    saved: OnceLock<Vec<f32>>,
}

/// One head's views into a batch row of queries and of keys beside values.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// (queries, inner) and its transpose are views of this from the head's first value on.
    q: &'a [f32],
    /// (keys, 2 · inner)
    k: &'a [f32],
    v: &'a [f32],
}

impl Attention {
    fn head<'a>(&self, q: &'a [f32], kv: &'a [f32], batch: usize, head: usize) -> Head<'a> {
        let Sizes {
            queries,
            keys,
            heads,
            inner,
        } = self.sizes;
        let width = inner / heads;
        let q = &q[batch * queries * inner..(batch + 1) * queries * inner];
        let kv = &kv[batch * keys * 2 * inner..(batch + 1) * keys * 2 * inner];
        Head {
            q: &q[head * width..],
            k: &kv[head * width..],
            v: &kv[inner + head * width..],
        }
    }

    /// Drops probabilities `p (queries, keys)` of a batch row's head into `out`.
    #[inline(always)]
    fn drop(&self, mask: &Mask, batch: usize, head: usize, p: &[f32], out: &mut [f32]) {
        let Sizes {
            queries,
            keys,
            heads,
            ..
        } = self.sizes;
        for query in 0..queries {
            let at = query * keys..(query + 1) * keys;
            let line = mask.line((batch * heads + head) * queries + query);
            line.apply(&p[at.clone()], &mut out[at]);
        }
    }

    fn forward(&self, q: &[f32], kv: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let Sizes {
            queries,
            keys,
            heads,
            inner,
        } = self.sizes;
        let (width, square) = (inner / heads, queries * keys);
        let mut out = vec![0.0f32; q.len()];
        let rows = q.len() / (queries * inner).max(1);
        let mut probabilities = vec![0.0f32; rows * heads * square];
        if out.is_empty() || square == 0 {
            return out;
        }
        out.par_chunks_mut(queries * inner)
            .zip(probabilities.par_chunks_mut(heads * square))
            .enumerate()
            .for_each(|(batch, (out, probabilities))| {
                let mut dropped = vec![0.0f32; if self.mask.is_some() { square } else { 0 }];
                for (head, p) in probabilities.chunks_mut(square).enumerate() {
                    let at = self.head(q, kv, batch, head);
                    let (a, b) = (Matrix::rows(at.q, inner), Matrix::columns(at.k, 2 * inner));
                    Product {
                        m: queries,
                        n: keys,
                        k: width,
                        a,
                        b,
                        scale: 1.0,
                    }
                    .write_to(p, keys, false, false);
                    let bias = bias.map(|bias| &bias[head * square..(head + 1) * square]);
                    vector(
                        #[inline(always)]
                        || {
                            for (query, p) in p.chunks_mut(keys).enumerate() {
                                let bias = bias.map(|bias| &bias[query * keys..(query + 1) * keys]);
                                self.visible.softmax(p, bias, batch, query, queries);
                            }
                            if let Some(mask) = &self.mask {
                                self.drop(mask, batch, head, p, &mut dropped);
                            }
                        },
                    );
                    let seen = if self.mask.is_some() { &dropped } else { &*p };
                    let (a, b) = (Matrix::rows(seen, keys), Matrix::rows(at.v, 2 * inner));
                    Product {
                        m: queries,
                        n: width,
                        k: keys,
                        a,
                        b,
                        scale: 1.0,
                    }
                    .write_to(&mut out[head * width..], inner, false, false);
                }
            });
        if self.track {
            // A forward runs once for an operator, so the cell is empty.
            let _ = self.saved.set(probabilities);
        }
        out
    }

    /// The gradients of queries, of keys and values, and of the scores.
    fn backward(&self, q: &[f32], kv: &[f32], grad: &[f32]) -> Result<[Vec<f32>; 3]> {
        let Sizes {
            queries,
            keys,
            heads,
            inner,
        } = self.sizes;
        let (width, square) = (inner / heads, queries * keys);
        let Some(probabilities) = self.saved.get() else {
            bail!("attention was asked for gradients that its forward did not expect")
        };
        let (mut dq, mut dkv) = (vec![0.0f32; q.len()], vec![0.0f32; kv.len()]);
        let mut ds = vec![0.0f32; probabilities.len()];
        if ds.is_empty() {
            return Ok([dq, dkv, ds]);
        }
        dq.par_chunks_mut(queries * inner)
            .zip(dkv.par_chunks_mut(keys * 2 * inner))
            .zip(ds.par_chunks_mut(heads * square))
            .enumerate()
            .for_each(|(batch, ((dq, dkv), ds))| {
                let mut dropped = vec![0.0f32; if self.mask.is_some() { square } else { 0 }];
                let grad = &grad[batch * queries * inner..(batch + 1) * queries * inner];
                for (head, ds) in ds.chunks_mut(square).enumerate() {
                    let at = self.head(q, kv, batch, head);
                    let from = (batch * heads + head) * square;
                    let p = &probabilities[from..from + square];
                    let grad = Matrix::rows(&grad[head * width..], inner);
                    // dp = dy·vᵀ
                    let b = Matrix::columns(at.v, 2 * inner);
                    Product {
                        m: queries,
                        n: keys,
                        k: width,
                        a: grad,
                        b,
                        scale: 1.0,
                    }
                    .write_to(ds, keys, false, false);
                    vector(
                        #[inline(always)]
                        || {
                            if let Some(mask) = &self.mask {
                                self.drop(mask, batch, head, p, &mut dropped);
                                for query in 0..queries {
                                    let line = mask.line((batch * heads + head) * queries + query);
                                    for (place, ds) in
                                        ds[query * keys..(query + 1) * keys].iter_mut().enumerate()
                                    {
                                        *ds *= line.factor(place);
                                    }
                                }
                            }
                            // ds = p · (dp − Σ p·dp); masked places have p = 0 and so no gradient.
                            for (ds, p) in ds.chunks_mut(keys).zip(p.chunks(keys)) {
                                let total = dot(p, ds);
                                for (ds, p) in ds.iter_mut().zip(p) {
                                    *ds = p * (*ds - total);
                                }
                            }
                        },
                    );
                    // dv = pᵀ·dy, dq = ds·k, dk = dsᵀ·q
                    let seen = if self.mask.is_some() { &dropped } else { p };
                    let a = Matrix::columns(seen, keys);
                    Product {
                        m: keys,
                        n: width,
                        k: queries,
                        a,
                        b: grad,
                        scale: 1.0,
                    }
                    .write_to(
                        &mut dkv[inner + head * width..],
                        2 * inner,
                        false,
                        false,
                    );
                    let (a, b) = (Matrix::rows(ds, keys), Matrix::rows(at.k, 2 * inner));
                    Product {
                        m: queries,
                        n: width,
                        k: keys,
                        a,
                        b,
                        scale: 1.0,
                    }
                    .write_to(&mut dq[head * width..], inner, false, false);
                    let (a, b) = (Matrix::columns(ds, keys), Matrix::rows(at.q, inner));
                    Product {
                        m: keys,
                        n: width,
                        k: queries,
                        a,
                        b,
                        scale: 1.0,
                    }
                    .write_to(
                        &mut dkv[head * width..],
                        2 * inner,
                        false,
                        false,
                    );
                }
            });
        Ok([dq, dkv, ds])
    }

    fn gradients(
        &self,
        q: &Tensor,
        kv: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Vec<f32>)> {
        let [dq, dkv, ds] = with_slice(q, |q| {
            with_slice(kv, |kv| with_slice(grad, |grad| self.backward(q, kv, grad)))
        })?;
        Ok((
            Some(Tensor::from_vec(dq, q.shape(), q.device())?),
            Some(Tensor::from_vec(dkv, kv.shape(), kv.device())?),
            ds,
        ))
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = self.forward(slice(s1, l1)?, slice(s2, l2)?, None);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dq, dkv, _) = self.gradients(q, kv, grad)?;
        Ok((dq, dkv))
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention-with-bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = self.forward(slice(s1, l1)?, slice(s2, l2)?, Some(slice(s3, l3)?));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dq, dkv, ds) = self.gradients(q, kv, grad)?;
        let db = if bias.track_op() {
            Some(bias_gradient(&ds, bias, self.sizes.keys)?)
        } else {
            None
        };
        Ok((dq, dkv, db))
    }
}

/// Attention of queries `q (batch, queries, heads · width)` over keys and, after them in the last
/// dimension, values: `kv (batch, keys, 2 · heads · width)`. To the scores comes `bias (1, heads,
/// queries, keys)`; unseen are the keys whose `mask (batch, keys)` is 0 and, if causal, those after
/// the query; `drop` is dropout of the probabilities. Answers `(batch, queries, heads · width)`.
pub fn attention(
    q: &Tensor,
    kv: &Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    mask: Option<&Tensor>,
    causal: bool,
    drop: Drop<'_>,
) -> Result<Tensor> {
    let ((batch, queries, inner), (rows, keys, both)) = (q.dims3()?, kv.dims3()?);
    if rows != batch || both != 2 * inner || heads == 0 || inner % heads != 0 {
        bail!(
            "attention of {heads} heads over {:?} and {:?}",
            q.dims(),
            kv.dims()
        );
    }
    if let Some(bias) = bias
        && bias.dims() != [1, heads, queries, keys]
    {
        bail!(
            "an attention bias of {:?} for {queries} queries, {keys} keys",
            bias.dims()
        );
    }
    if !fused(&[q, kv]) || bias.is_some_and(|bias| !fused(&[bias])) {
        return plain::attention(q, kv, heads, bias, mask, causal, drop);
    }
    let op = Attention {
        visible: Visible::new(mask, batch, keys, causal)?,
        mask: self::mask(drop, &[batch, heads, queries, keys])?,
        sizes: Sizes {
            queries,
            keys,
            heads,
            inner,
        },
        track: q.track_op() || kv.track_op() || bias.is_some_and(Tensor::track_op),
        saved: OnceLock::new(),
    };
    let (q, kv) = (q.contiguous()?, kv.contiguous()?);
    match bias {
        Some(bias) => q.apply_op3(&kv, &bias.contiguous()?, op),
        None => q.apply_op2(&kv, op),
    }
}
