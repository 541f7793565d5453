//! T5's layer norm: `x / sqrt(mean(x²) + eps) · weight`, no mean subtracted, no bias
//! (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::math::{add_to, dot, vector};
use crate::plain;
use crate::rows::{fused, new_rows, read, rows_a_task, width};
use crate::tape::{Tape, Value, Weight, twin};

#[inline(always)]
fn scale(row: &[f32], eps: f64) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps as f32).sqrt()
}

/// One row.
#[inline(always)]
pub(crate) fn normalize(x: &[f32], weight: &[f32], eps: f64, out: &mut [f32]) {
    let scale = scale(x, eps);
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

/// Normalizes the last dimension of `x (…, d)` and scales it by `weight (d)`.
pub fn rms_norm(tape: &Tape, x: &Value, weight: &Weight, eps: f64) -> Result<Value> {
    if weight.tensor().dims() != [width(x.tensor())] {
        bail!(
            "a norm of {:?} for {:?}",
            weight.tensor().dims(),
            x.tensor().dims()
        );
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(&[x.tensor(), weight.tensor()]) {
        return crate::cuda::rms_norm(tape, x, weight, eps);
    }
    if !fused(&[x.tensor(), weight.tensor()]) {
        return twin(tape, &[x], &[weight], move |x, w| {
            plain::rms_norm(&x[0], &w[0], eps)
        });
    }
    let x = x.contiguous()?;
    let y = {
        let (values, weight) = (read(x.tensor())?, read(weight.tensor())?);
        let (values, weight, width) = (&*values, &*weight, weight.len());
        new_rows(
            x.tensor(),
            #[inline(always)]
            |row, out| {
                normalize(&values[row * width..(row + 1) * width], weight, eps, out);
            },
        )?
    };
    let tracked = x.tracked() || weight.index().is_some();
    let weight = weight.clone();
    Ok(tape.result(y, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        let (g, w) = (read(&gradient)?, read(weight.tensor())?);
        let mut dw = Vec::new();
        backward.accumulate(&x, |dx, add| {
            dw = gradients(&read(x.tensor())?, &w, &g, dx, add, eps);
            Ok(())
        })?;
        let Some(index) = weight.index() else {
            return Ok(());
        };
        if !x.tracked() {
            let mut unused = vec![0.0; g.len()];
            dw = gradients(&read(x.tensor())?, &w, &g, &mut unused, false, eps);
        }
        backward.gradients.write(index, |values, add| {
            if add {
                add_to(values, &dw);
            } else {
                values.copy_from_slice(&dw);
            }
        });
        Ok(())
    }))
}

/// With `s = 1/rms`, `h = g · weight`: `dx = s·h − x·s³·mean(h·x)`, `dw = Σ g·x·s`. Writes dx, or adds
/// it; answers dw.
fn gradients(
    x: &[f32],
    weight: &[f32],
    g: &[f32],
    dx: &mut [f32],
    add: bool,
    eps: f64,
) -> Vec<f32> {
    let width = weight.len();
    let task = rows_a_task(width) * width;
    // One partial weight gradient a task, added up in the order of the tasks.
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .zip(g.par_chunks(task))
        .map(|((dx, x), g)| {
            let (mut dw, mut h) = (vec![0.0f32; width], vec![0.0f32; width]);
            vector(
                #[inline(always)]
                || {
                    let rows = dx
                        .chunks_mut(width)
                        .zip(x.chunks(width))
                        .zip(g.chunks(width));
                    for ((dx, x), g) in rows {
                        let s = scale(x, eps);
                        let (h, dw) = (&mut h[..width], &mut dw[..width]);
                        let (x, g, dx, weight) =
                            (&x[..width], &g[..width], &mut dx[..width], &weight[..width]);
                        for i in 0..width {
                            h[i] = g[i] * weight[i];
                            dw[i] += g[i] * x[i] * s;
                        }
                        let cubed = s * s * s * (dot(h, x) / width as f32);
                        for i in 0..width {
                            let before = if add { dx[i] } else { 0.0 };
                            dx[i] = before + (s * h[i] - x[i] * cubed);
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
    dw
}
