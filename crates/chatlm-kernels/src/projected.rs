//! Cross-entropy joined with the projection onto the vocabulary: logits live only for a chunk of
//! rows, whose share of the gradients is computed at once, so the largest tensor of a training step
//! is never made (the idea of Liger Kernel's fused linear cross-entropy, Hsu et al. 2024).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cross_entropy::checked;
use crate::math::{exp_in_place, max, sum, vector};
use crate::plain;
use crate::product::{Matrix, Product};
use crate::rows::{for_rows, fused, rows_a_task, slice};

/// Logits of a chunk: 16 MiB, but never so few rows that the products grow thin.
fn rows_a_chunk(width: usize) -> usize {
    ((1 << 22) / width.max(1)).max(256)
}

struct Projected {
    targets: Vec<u32>,
    ignore: u32,
    smoothing: f32,
    /// Of the logits.
    scale: f32,
    /// Whether gradients of the hidden states and of the weight are wanted.
    wants: (bool, bool),
    /// Those gradients, for an outer gradient of 1.
    saved: OnceLock<(Vec<f32>, Vec<f32>)>,
}

impl Projected {
    /// The loss of one row; its logits become their gradient.
    #[inline(always)]
    fn row(&self, logits: &mut [f32], target: u32) -> f32 {
        if target == self.ignore {
            logits.fill(0.0);
            return 0.0;
        }
        let (width, target) = (logits.len() as f32, target as usize);
        let mut score = (1.0 - self.smoothing) * logits[target];
        if self.smoothing > 0.0 {
            score += self.smoothing * sum(logits) / width;
        }
        let largest = max(logits);
        let total = exp_in_place(logits, largest);
        let (scale, even) = (1.0 / total, self.smoothing / width);
        for value in logits.iter_mut() {
            *value = *value * scale - even;
        }
        logits[target] -= 1.0 - self.smoothing;
        largest + total.ln() - score
    }

    fn forward(&self, hidden: &[f32], weight: &[f32], inner: usize) -> f32 {
        let (rows, width) = (self.targets.len(), weight.len() / inner.max(1));
        let (want_hidden, want_weight) = self.wants;
        let mut dx = vec![0.0f32; if want_hidden { hidden.len() } else { 0 }];
        let mut dw = vec![0.0f32; if want_weight { weight.len() } else { 0 }];
        let mut losses = vec![0.0f32; rows];
        let size = rows_a_chunk(width).min(rows.max(1));
        let mut logits = vec![0.0f32; size * width];
        let scale = self.scale;
        for from in (0..rows).step_by(size) {
            let count = size.min(rows - from);
            let x = &hidden[from * inner..(from + count) * inner];
            let logits = &mut logits[..count * width];
            let (a, b) = (Matrix::rows(x, inner), Matrix::columns(weight, inner));
            Product {
                m: count,
                n: width,
                k: inner,
                a,
                b,
                scale,
            }
            .write_to(logits, width, false, true);
            let task = rows_a_task(width);
            losses[from..from + count]
                .par_chunks_mut(task)
                .zip(logits.par_chunks_mut(task * width))
                .zip(self.targets[from..from + count].par_chunks(task))
                .for_each(|((losses, logits), targets)| {
                    vector(
                        #[inline(always)]
                        || {
                            let rows = losses.iter_mut().zip(logits.chunks_mut(width)).zip(targets);
                            for ((loss, logits), &target) in rows {
                                *loss = self.row(logits, target);
                            }
                        },
                    );
                });
            if want_hidden {
                let (a, b) = (Matrix::rows(logits, width), Matrix::rows(weight, inner));
                Product {
                    m: count,
                    n: inner,
                    k: width,
                    a,
                    b,
                    scale,
                }
                .write_to(
                    &mut dx[from * inner..(from + count) * inner],
                    inner,
                    false,
                    true,
                );
            }
            if want_weight {
                let (a, b) = (Matrix::columns(logits, width), Matrix::rows(x, inner));
                Product {
                    m: width,
                    n: inner,
                    k: count,
                    a,
                    b,
                    scale,
                }
                .write_to(&mut dw, inner, from > 0, true);
            }
        }
        if want_hidden || want_weight {
            // A forward runs once for an operator, so the cell is empty.
            let _ = self.saved.set((dx, dw));
        }
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32
    }
}

fn times(values: &[f32], grad: f32, like: &Tensor) -> Result<Tensor> {
    let mut out = vec![0.0f32; values.len()];
    let width = like.dims().last().copied().unwrap_or(1);
    for_rows(
        &mut out,
        width,
        #[inline(always)]
        |row, out| {
            for (out, value) in out.iter_mut().zip(&values[row * width..(row + 1) * width]) {
                *out = value * grad;
            }
        },
    );
    Tensor::from_vec(out, like.shape(), like.device())
}

impl CustomOp2 for Projected {
    fn name(&self) -> &'static str {
        "projected-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, inner) = l2.shape().dims2()?;
        let loss = self.forward(slice(s1, l1)?, slice(s2, l2)?, inner);
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some((dx, dw)) = self.saved.get() else {
            bail!("a loss was asked for gradients that its forward did not expect")
        };
        let (grad, (want_hidden, want_weight)) = (grad.to_scalar::<f32>()?, self.wants);
        let dx = want_hidden.then(|| times(dx, grad, hidden)).transpose()?;
        Ok((
            dx,
            want_weight.then(|| times(dw, grad, weight)).transpose()?,
        ))
    }
}

/// The SUM of the cross-entropies of the logits `scale · hidden (n, d) · weight (v, d)ᵀ` with
/// `targets (n)`: as [`crate::cross_entropy()`] of [`crate::linear_scaled`], without the logits.
pub fn projected_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    scale: f64,
    targets: &Tensor,
    ignore: u32,
    smoothing: f64,
) -> Result<Tensor> {
    let ((rows, inner), (width, columns)) = (hidden.dims2()?, weight.dims2()?);
    if inner != columns {
        bail!("hidden states of {inner} for a projection of {columns}");
    }
    if !fused(&[hidden, weight]) {
        let logits = (plain::linear(hidden, weight)? * scale)?;
        return plain::cross_entropy(&logits, targets, ignore, smoothing);
    }
    let op = Projected {
        targets: checked(targets, rows, width, ignore)?,
        ignore,
        smoothing: smoothing as f32,
        scale: scale as f32,
        wants: (hidden.track_op(), weight.track_op()),
        saved: OnceLock::new(),
    };
    hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
}
