//! Cross-entropy of logits and the log-probabilities of targets, without a tensor of
//! log-probabilities for the whole vocabulary: the backward computes the softmax again from the
//! logits and one number a row.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::math::{exp, log_sum_exp, sum, vector};
use crate::plain;
use crate::rows::{for_rows, fused, rows_a_task, slice, with_slice};

struct Scores {
    targets: Vec<u32>,
    ignore: u32,
    /// Share of the target spread evenly over the vocabulary.
    smoothing: f64,
    /// Sum the negative log-probabilities (loss), or keep one log-probability a row.
    summed: bool,
}

impl Scores {
    /// The log-probability of each row's (smoothed) target, 0 where ignored.
    fn rows(&self, logits: &[f32], width: usize) -> Vec<f32> {
        let smoothing = self.smoothing as f32;
        let mut out = vec![0.0f32; self.targets.len()];
        let task = rows_a_task(width);
        out.par_chunks_mut(task)
            .enumerate()
            .for_each(|(chunk, out)| {
                vector(
                    #[inline(always)]
                    || {
                        for (place, out) in out.iter_mut().enumerate() {
                            let row = chunk * task + place;
                            let target = self.targets[row];
                            if target == self.ignore {
                                continue;
                            }
                            let logits = &logits[row * width..(row + 1) * width];
                            let norm = log_sum_exp(logits);
                            let mut score = (1.0 - smoothing) * logits[target as usize];
                            if smoothing > 0.0 {
                                score += smoothing * sum(logits) / width as f32;
                            }
                            *out = score - norm;
                        }
                    },
                );
            });
        out
    }

    /// `d log p(target) / d logits = (1 − s)·onehot + s/V − softmax`, times the row's gradient.
    fn backward(
        &self,
        logits: &[f32],
        width: usize,
        grad: impl Fn(usize) -> f32 + Sync,
    ) -> Vec<f32> {
        let smoothing = self.smoothing as f32;
        let mut out = vec![0.0f32; logits.len()];
        for_rows(
            &mut out,
            width,
            #[inline(always)]
            |row, out| {
                let target = self.targets[row];
                if target == self.ignore {
                    return;
                }
                let logits = &logits[row * width..(row + 1) * width];
                let (norm, grad) = (log_sum_exp(logits), grad(row));
                let even = smoothing / width as f32;
                for (out, value) in out.iter_mut().zip(logits) {
                    *out = (even - exp(value - norm)) * grad;
                }
                out[target as usize] += (1.0 - smoothing) * grad;
            },
        );
        out
    }
}

impl CustomOp1 for Scores {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let rows = self.rows(slice(storage, layout)?, width);
        if self.summed {
            let total: f64 = rows.iter().map(|&row| -f64::from(row)).sum();
            Ok((CpuStorage::F32(vec![total as f32]), Shape::from(())))
        } else {
            let count = rows.len();
            Ok((CpuStorage::F32(rows), Shape::from(count)))
        }
    }

    fn bwd(&self, logits: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = logits.dim(1)?;
        let out = if self.summed {
            let grad = -grad.to_scalar::<f32>()?;
            with_slice(logits, |logits| Ok(self.backward(logits, width, |_| grad)))?
        } else {
            with_slice(grad, |grad| {
                with_slice(logits, |logits| {
                    Ok(self.backward(logits, width, |row| grad[row]))
                })
            })?
        };
        Ok(Some(Tensor::from_vec(
            out,
            logits.shape(),
            logits.device(),
        )?))
    }
}

/// Targets of `rows` rows, each inside a vocabulary of `width` or `ignore`.
pub(crate) fn checked(
    targets: &Tensor,
    rows: usize,
    width: usize,
    ignore: u32,
) -> Result<Vec<u32>> {
    let targets = targets.flatten_all()?.to_vec1::<u32>()?;
    if targets.len() != rows {
        bail!("{} targets for {rows} rows of logits", targets.len());
    }
    if let Some(bad) = targets
        .iter()
        .find(|&&t| t != ignore && t as usize >= width)
    {
        bail!("target {bad} is outside a vocabulary of {width}");
    }
    Ok(targets)
}

/// The SUM over the rows of `logits (n, v)` of the cross-entropy with `targets (n)`, in nats; rows
/// whose target is `ignore` add nothing. As PyTorch's `cross_entropy(…, reduction="sum")`.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignore: u32,
    smoothing: f64,
) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    let checked = checked(targets, rows, width, ignore)?;
    if fused(&[logits]) {
        logits.contiguous()?.apply_op1(Scores {
            targets: checked,
            ignore,
            smoothing,
            summed: true,
        })
    } else {
        plain::cross_entropy(logits, targets, ignore, smoothing)
    }
}

/// The log-probability of each row's target, `(n)`, 0 where the target is `ignore`.
pub fn log_probabilities(logits: &Tensor, targets: &Tensor, ignore: u32) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    let checked = checked(targets, rows, width, ignore)?;
    if fused(&[logits]) {
        logits.contiguous()?.apply_op1(Scores {
            targets: checked,
            ignore,
            smoothing: 0.0,
            summed: false,
        })
    } else {
        plain::log_probabilities(logits, targets, ignore)
    }
}
