//! Cross-entropy and log-probabilities joined with the projection onto the vocabulary: logits live
//! only for a chunk of rows, whose share of the gradients is computed at once, so the largest tensor
//! of a training step is never made (the idea of Liger Kernel's fused linear cross-entropy, Hsu et
//! al. 2024).

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use crate::gemm::{Matrix, Precision, Product};
use crate::gradients::Gradients;
use crate::math::{exp, exp_in_place, log_sum_exp, max, sum, vector};
use crate::plain;
use crate::rows::{fused, read, rows_a_task, zeros};
use crate::tape::Weight;

/// The projection onto the vocabulary, and what its product is scaled by.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// (v, d)
    pub weight: &'a Weight,
    pub scale: f64,
    pub precision: Precision,
}

/// Logits of a chunk: 16 MiB, but never so few rows that the products grow thin.
fn rows_a_chunk(width: usize) -> usize {
    ((1 << 22) / width.max(1)).max(256)
}

/// Where a chunk's gradients go.
struct Into<'a, 'g> {
    hidden: &'a mut [f32],
    gradients: &'a mut Gradients<'g>,
}

impl Projection<'_> {
    /// `score(row, logits)` of every row. With `into`, `score` turns its logits into their gradients,
    /// which flow on.
    fn rows(
        &self,
        hidden: &[f32],
        weight: &[f32],
        inner: usize,
        mut into: Option<Into<'_, '_>>,
        score: impl Fn(usize, &mut [f32]) -> f32 + Sync,
    ) -> Vec<f32> {
        let (rows, width) = (hidden.len() / inner.max(1), weight.len() / inner.max(1));
        let (scale, precision) = (self.scale as f32, self.precision);
        let mut scores = vec![0.0f32; rows];
        let size = rows_a_chunk(width).min(rows.max(1));
        let mut logits = zeros(size * width);
        for from in (0..rows).step_by(size) {
            let count = size.min(rows - from);
            let x = &hidden[from * inner..(from + count) * inner];
            let logits = &mut logits[..count * width];
            let product = |(m, n, k), a, b| Product {
                m,
                n,
                k,
                a,
                b,
                scale,
                precision,
            };
            let (a, b) = (Matrix::rows(x, inner), Matrix::columns(weight, inner));
            product((count, width, inner), a, b).write_to(logits, width, false, true);
            let task = rows_a_task(width);
            scores[from..from + count]
                .par_chunks_mut(task)
                .zip(logits.par_chunks_mut(task * width))
                .enumerate()
                .for_each(|(part, (scores, logits))| {
                    vector(
                        #[inline(always)]
                        || {
                            let rows = scores.iter_mut().zip(logits.chunks_mut(width));
                            for (row, (out, logits)) in (from + part * task..).zip(rows) {
                                *out = score(row, logits);
                            }
                        },
                    );
                });
            let Some(into) = &mut into else {
                continue;
            };
            let (a, b) = (Matrix::rows(logits, width), Matrix::rows(weight, inner));
            let out = &mut into.hidden[from * inner..(from + count) * inner];
            product((count, inner, width), a, b).write_to(out, inner, false, true);
            if let Some(index) = self.weight.index() {
                let (a, b) = (Matrix::columns(logits, width), Matrix::rows(x, inner));
                into.gradients.write(index, |values, add| {
                    product((width, inner, count), a, b).write_to(values, inner, add, true);
                });
            }
        }
        scores
    }

    fn check(&self, hidden: &Tensor, targets: &[u32], ignore: u32) -> Result<usize> {
        let ((rows, inner), (width, columns)) = (hidden.dims2()?, self.weight.tensor().dims2()?);
        if inner != columns {
            bail!("hidden states of {inner} for a projection of {columns}");
        }
        if targets.len() != rows {
            bail!("{} targets for {rows} rows", targets.len());
        }
        match targets
            .iter()
            .find(|&&t| t != ignore && t as usize >= width)
        {
            Some(bad) => bail!("target {bad} is outside a vocabulary of {width}"),
            None => Ok(inner),
        }
    }

    /// `loss(logits)` by the twin: its value, and with gradients those of the hidden states.
    fn twin(
        &self,
        hidden: &Tensor,
        gradients: Option<&mut Gradients<'_>>,
        loss: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let logits = |x: &Tensor, w: &Tensor| plain::linear(x, w)? * self.scale;
        let Some(gradients) = gradients else {
            let value = loss(&logits(hidden, self.weight.tensor())?)?;
            return Ok((value, None));
        };
        let (x, w) = (
            Var::from_tensor(hidden)?,
            Var::from_tensor(self.weight.tensor())?,
        );
        let value = loss(&logits(x.as_tensor(), w.as_tensor())?)?;
        let mut store = value.sum_all()?.backward()?;
        if let (Some(index), Some(dw)) = (self.weight.index(), store.remove(w.as_tensor())) {
            gradients.add(index, &dw)?;
        }
        Ok((value, store.remove(x.as_tensor())))
    }

    /// The SUM of the cross-entropies of `hidden (n, d)` with `targets (n)` in nats, rows whose
    /// target is `ignore` left out; `smoothing` is the share of the target spread evenly over the
    /// vocabulary, as PyTorch's `label_smoothing`.
    pub fn cross_entropy(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        ignore: u32,
        smoothing: f64,
    ) -> Result<f64> {
        let inner = self.check(hidden, targets, ignore)?;
        #[cfg(feature = "cuda")]
        if crate::cuda::fused(&[hidden, self.weight.tensor()]) {
            let (loss, _) = self.cuda_cross_entropy(hidden, targets, ignore, smoothing, None)?;
            return Ok(loss);
        }
        if !fused(&[hidden, self.weight.tensor()]) {
            let ids = Tensor::from_slice(targets, targets.len(), hidden.device())?;
            let (value, _) = self.twin(hidden, None, |logits| {
                plain::cross_entropy(logits, &ids, ignore, smoothing)
            })?;
            return value.to_dtype(candle_core::DType::F64)?.to_scalar();
        }
        let hidden = hidden.contiguous()?;
        let (x, w) = (read(&hidden)?, read(self.weight.tensor())?);
        let scores = self.rows(&x, &w, inner, None, |row, logits| {
            loss(logits, targets[row], ignore, smoothing as f32, None)
        });
        Ok(scores.iter().map(|&score| f64::from(score)).sum())
    }

    /// The same, and `factor` times its gradients: the hidden states' as the answer, the weight's
    /// into `gradients`.
    pub fn cross_entropy_backward(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        ignore: u32,
        smoothing: f64,
        factor: f64,
        gradients: &mut Gradients<'_>,
    ) -> Result<(f64, Tensor)> {
        let inner = self.check(hidden, targets, ignore)?;
        #[cfg(feature = "cuda")]
        if crate::cuda::fused(&[hidden, self.weight.tensor()]) {
            let to = Some((factor, gradients));
            return self.cuda_cross_entropy(hidden, targets, ignore, smoothing, to);
        }
        if !fused(&[hidden, self.weight.tensor()]) {
            let ids = Tensor::from_slice(targets, targets.len(), hidden.device())?;
            let (value, dx) = self.twin(hidden, Some(gradients), |logits| {
                plain::cross_entropy(logits, &ids, ignore, smoothing)? * factor
            })?;
            let value: f64 = value.to_dtype(candle_core::DType::F64)?.to_scalar()?;
            let dx = match dx {
                Some(dx) => dx,
                None => hidden.zeros_like()?,
            };
            return Ok((value / factor, dx));
        }
        let hidden = hidden.contiguous()?;
        let mut dx = zeros(hidden.elem_count());
        let scores = {
            let (x, w) = (read(&hidden)?, read(self.weight.tensor())?);
            let into = Into {
                hidden: &mut dx,
                gradients,
            };
            self.rows(&x, &w, inner, Some(into), |row, logits| {
                loss(
                    logits,
                    targets[row],
                    ignore,
                    smoothing as f32,
                    Some(factor as f32),
                )
            })
        };
        let dx = Tensor::from_vec(dx, hidden.shape(), hidden.device())?;
        Ok((scores.iter().map(|&score| f64::from(score)).sum(), dx))
    }

    /// The log-probability of each row's target, 0 where it is `ignore`.
    pub fn log_probabilities(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        ignore: u32,
    ) -> Result<Vec<f32>> {
        let inner = self.check(hidden, targets, ignore)?;
        #[cfg(feature = "cuda")]
        if crate::cuda::fused(&[hidden, self.weight.tensor()]) {
            let (scores, _) = self.cuda_log_probabilities(hidden, targets, ignore, None)?;
            return Ok(scores);
        }
        if !fused(&[hidden, self.weight.tensor()]) {
            let ids = Tensor::from_slice(targets, targets.len(), hidden.device())?;
            let (value, _) = self.twin(hidden, None, |logits| {
                plain::log_probabilities(logits, &ids, ignore)
            })?;
            return value.to_dtype(candle_core::DType::F32)?.to_vec1();
        }
        let hidden = hidden.contiguous()?;
        let (x, w) = (read(&hidden)?, read(self.weight.tensor())?);
        Ok(
            self.rows(&x, &w, inner, None, |row, logits| match targets[row] {
                target if target == ignore => 0.0,
                target => logits[target as usize] - log_sum_exp(logits),
            }),
        )
    }

    /// Gradients of `Σ by[row] · log_probability(row)`: the hidden states' as the answer, the
    /// weight's into `gradients`.
    pub fn log_probabilities_backward(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        ignore: u32,
        by: &[f32],
        gradients: &mut Gradients<'_>,
    ) -> Result<Tensor> {
        let inner = self.check(hidden, targets, ignore)?;
        if by.len() != targets.len() {
            bail!("{} derivatives for {} rows", by.len(), targets.len());
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::fused(&[hidden, self.weight.tensor()]) {
            let to = Some((by, gradients));
            return Ok(self.cuda_log_probabilities(hidden, targets, ignore, to)?.1);
        }
        if !fused(&[hidden, self.weight.tensor()]) {
            let ids = Tensor::from_slice(targets, targets.len(), hidden.device())?;
            let by = Tensor::from_slice(by, by.len(), hidden.device())?.to_dtype(hidden.dtype())?;
            let (_, dx) = self.twin(hidden, Some(gradients), |logits| {
                plain::log_probabilities(logits, &ids, ignore)? * &by
            })?;
            return match dx {
                Some(dx) => Ok(dx),
                None => hidden.zeros_like(),
            };
        }
        let hidden = hidden.contiguous()?;
        let mut dx = zeros(hidden.elem_count());
        {
            let (x, w) = (read(&hidden)?, read(self.weight.tensor())?);
            let into = Into {
                hidden: &mut dx,
                gradients,
            };
            self.rows(&x, &w, inner, Some(into), |row, logits| {
                // d log p / d logits = onehot − softmax
                let (target, by) = (targets[row], by[row]);
                if target == ignore {
                    logits.fill(0.0);
                    return 0.0;
                }
                let norm = log_sum_exp(logits);
                let score = logits[target as usize] - norm;
                for value in logits.iter_mut() {
                    *value = -by * exp(*value - norm);
                }
                logits[target as usize] += by;
                score
            });
        }
        Tensor::from_vec(dx, hidden.shape(), hidden.device())
    }
}

/// The loss of one row; with a factor, its logits become their gradient times it.
#[inline(always)]
fn loss(logits: &mut [f32], target: u32, ignore: u32, smoothing: f32, factor: Option<f32>) -> f32 {
    if target == ignore {
        logits.fill(0.0);
        return 0.0;
    }
    let (width, target) = (logits.len() as f32, target as usize);
    let mut score = (1.0 - smoothing) * logits[target];
    if smoothing > 0.0 {
        score += smoothing * sum(logits) / width;
    }
    let largest = max(logits);
    let total = exp_in_place(logits, largest);
    if let Some(factor) = factor {
        let (scale, even) = (factor / total, factor * smoothing / width);
        for value in logits.iter_mut() {
            *value = *value * scale - even;
        }
        logits[target] -= factor * (1.0 - smoothing);
    }
    largest + total.ln() - score
}
