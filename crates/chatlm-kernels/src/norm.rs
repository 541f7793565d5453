//! T5's layer norm: `x / sqrt(mean(x²) + eps) · weight`, no mean subtracted, no bias
//! (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::math::{dot, vector};
use crate::plain;
use crate::rows::{for_rows, fused, rows_a_task, slice, with_slice};

struct RmsNorm {
    eps: f64,
}

#[inline(always)]
fn scale(row: &[f32], eps: f64) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps as f32).sqrt()
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let width = weight.len();
        let mut out = vec![0.0f32; x.len()];
        for_rows(
            &mut out,
            width,
            #[inline(always)]
            |row, out| {
                let x = &x[row * width..(row + 1) * width];
                let scale = scale(x, self.eps);
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * w;
                }
            },
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// With `s = 1/rms`, `g = grad · weight`: `dx = s·g − x·s³·mean(g·x)`, `dw = Σ grad·x·s`.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let (dx, dw) = with_slice(x, |xs| {
            with_slice(weight, |w| {
                with_slice(grad, |g| Ok(backward(xs, w, g, width, self.eps)))
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(dw, width, x.device())?)))
    }
}

fn backward(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    width: usize,
    eps: f64,
) -> (Vec<f32>, Vec<f32>) {
    use rayon::prelude::*;
    let mut dx = vec![0.0f32; x.len()];
    let task = rows_a_task(width) * width;
    // One partial weight gradient a task, added up in the order of the tasks.
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .zip(grad.par_chunks(task))
        .map(|((dx, x), grad)| {
            let mut dw = vec![0.0f32; width];
            vector(
                #[inline(always)]
                || {
                    let rows = dx
                        .chunks_mut(width)
                        .zip(x.chunks(width))
                        .zip(grad.chunks(width));
                    for ((dx, x), grad) in rows {
                        let s = scale(x, eps);
                        for (((dx, dw), g), (x, w)) in dx
                            .iter_mut()
                            .zip(&mut dw)
                            .zip(grad)
                            .zip(x.iter().zip(weight))
                        {
                            *dx = g * w;
                            *dw += g * x * s;
                        }
                        let mean = dot(dx, x) / width as f32;
                        let cubed = s * s * s * mean;
                        for (dx, x) in dx.iter_mut().zip(x) {
                            *dx = s * *dx - x * cubed;
                        }
                    }
                },
            );
            dw
        })
        .collect();
    let mut dw = vec![0.0f32; width];
    for part in partial {
        for (dw, part) in dw.iter_mut().zip(part) {
            *dw += part;
        }
    }
    (dx, dw)
}

/// Normalizes the last dimension of `x (…, d)` and scales it by `weight (d)`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(&[x, weight]) {
        x.contiguous()?
            .apply_op2(&weight.contiguous()?, RmsNorm { eps })
    } else {
        plain::rms_norm(x, weight, eps)
    }
}
