//! Cross-entropy and log-probabilities joined with the projection onto the vocabulary: logits live
//! only for a chunk of rows, whose share of the gradients is computed at once, so the largest tensor
//! of a training step is never made (the idea of Liger Kernel's fused linear cross-entropy, Hsu et
//! al. 2024).

use candle_core::{DType, Device, Result, Tensor, Var, bail};
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

/// The same on devices, which have more memory and want larger work: 128 MiB.
fn rows_a_device_chunk(width: usize) -> usize {
    ((1 << 25) / width.max(1)).max(256)
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

    /// The scores of all rows by the twin, a chunk of rows at a time: `score(logits, targets)` gives one
    /// a row. With `into`, the gradients of `Σ by[row] · score[row]`: the hidden states' as the answer,
    /// the weight's into gradients.
    fn twin(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        mut into: Option<(&[f32], &mut Gradients<'_>)>,
        score: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<(Vec<f64>, Tensor)> {
        let (rows, device) = (targets.len(), hidden.device());
        let weight = match &into {
            Some(_) => Var::from_tensor(self.weight.tensor())?.as_tensor().clone(),
            None => self.weight.tensor().clone(),
        };
        let size = rows_a_device_chunk(weight.dims2()?.0).min(rows.max(1));
        let (mut scores, mut dx) = (Vec::new(), Vec::new());
        for from in (0..rows).step_by(size) {
            let count = size.min(rows - from);
            let ids = Tensor::from_slice(&targets[from..from + count], count, device)?;
            let x = hidden.narrow(0, from, count)?.contiguous()?;
            let x = match &into {
                Some(_) => Var::from_tensor(&x)?.as_tensor().clone(),
                None => x,
            };
            let logits = plain::product(&x, &weight, self.scale, self.precision)?;
            let chunk = score(&logits, &ids)?;
            scores.push(chunk.detach());
            let Some((by, gradients)) = &mut into else {
                continue;
            };
            let by = Tensor::from_slice(&by[from..from + count], count, device)?;
            let mut store = (chunk * by.to_dtype(x.dtype())?)?.sum_all()?.backward()?;
            if let (Some(index), Some(dw)) = (self.weight.index(), store.remove(&weight)) {
                gradients.add(index, &dw)?;
            }
            dx.push(match store.remove(&x) {
                Some(dx) => dx,
                None => x.zeros_like()?,
            });
        }
        // All at once from the device, and added up as the kernels' are.
        let scores = if scores.is_empty() {
            Vec::new()
        } else {
            Tensor::cat(&scores, 0)?
                .to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?
                .to_vec1()?
        };
        let dx = if dx.is_empty() {
            hidden.zeros_like()?
        } else {
            Tensor::cat(&dx, 0)?
        };
        Ok((scores, dx))
    }

    /// Whether the kernels do it.
    fn fused(&self, hidden: &Tensor) -> bool {
        self.precision != Precision::F16 && fused(&[hidden, self.weight.tensor()])
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
        if !self.fused(hidden) {
            let (scores, _) = self.twin(hidden, targets, None, |logits, ids| {
                plain::cross_entropies(logits, ids, ignore, smoothing)
            })?;
            return Ok(scores.iter().sum());
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
        if !self.fused(hidden) {
            let by = vec![factor as f32; targets.len()];
            let into = Some((by.as_slice(), gradients));
            let (scores, dx) = self.twin(hidden, targets, into, |logits, ids| {
                plain::cross_entropies(logits, ids, ignore, smoothing)
            })?;
            return Ok((scores.iter().sum(), dx));
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
        if !self.fused(hidden) {
            let (scores, _) = self.twin(hidden, targets, None, |logits, ids| {
                plain::log_probabilities(logits, ids, ignore)
            })?;
            return Ok(scores.iter().map(|&score| score as f32).collect());
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
        if !self.fused(hidden) {
            let (_, dx) = self.twin(hidden, targets, Some((by, gradients)), |logits, ids| {
                plain::log_probabilities(logits, ids, ignore)
            })?;
            return Ok(dx);
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
