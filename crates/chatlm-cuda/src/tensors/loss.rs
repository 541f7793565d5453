use candle_core::{DType, Result, Tensor, bail};

use super::device::{Session, element};
use crate::loss::Loss;

/// Logits of a chunk: 64 to 128 MiB, but never so few rows that the products grow thin.
fn rows_a_chunk(width: usize) -> usize {
    ((1 << 25) / width.max(1)).max(256)
}

/// Gradients of the hidden states, and in f32 of the weight; `None` where nobody asked for them.
pub type ProjectedGradients = Option<(Tensor, Tensor)>;

/// What a projection's loss is made of.
#[derive(Debug, Clone, Copy)]
pub struct Projected<'a> {
    /// (v, d), of the hidden states' type.
    pub weight: &'a Tensor,
    /// What logits are multiplied by.
    pub scale: f64,
    /// One a row; below v, or `ignore`.
    pub targets: &'a [u32],
    pub ignore: u32,
}

impl Projected<'_> {
    fn loss(&self, logits: &Tensor, from: usize, count: usize) -> Result<Loss<'_>> {
        Ok(Loss {
            element: element(logits.dtype())?,
            targets: &self.targets[from..from + count],
            width: logits.dim(1)?,
            ignore: self.ignore,
            scale: self.scale as f32,
        })
    }

    /// Calls `score(session, logits, from, count)` for chunks of rows, then takes what the logits have
    /// become for their gradients: the hidden states' and, f32, the weight's.
    fn chunks(
        &self,
        hidden: &Tensor,
        gradients: bool,
        mut score: impl FnMut(&Session, &Tensor, usize, usize) -> Result<()>,
    ) -> Result<ProjectedGradients> {
        let ((rows, inner), (width, columns)) = (hidden.dims2()?, self.weight.dims2()?);
        if inner != columns || self.targets.len() != rows {
            bail!(
                "hidden states of {:?} and {} targets for a projection of {:?}",
                hidden.dims(),
                self.targets.len(),
                self.weight.dims()
            );
        }
        let mut dx = Vec::new();
        let mut dw: Option<Tensor> = None;
        let size = rows_a_chunk(width).min(rows.max(1));
        for from in (0..rows).step_by(size) {
            let count = size.min(rows - from);
            let x = hidden.narrow(0, from, count)?;
            let logits = x.matmul(&self.weight.t()?)?;
            let on = Session::new(&logits)?;
            score(&on, &logits, from, count)?;
            if gradients {
                dx.push(logits.matmul(self.weight)?);
                let part = logits.t()?.matmul(&x)?.to_dtype(DType::F32)?;
                dw = Some(match dw {
                    Some(sum) => (sum + part)?,
                    None => part,
                });
            }
        }
        match dw {
            Some(dw) => Ok(Some((Tensor::cat(&dx, 0)?, dw))),
            None => Ok(None),
        }
    }
}

/// The SUM of the cross-entropies of `hidden (n, d)` in nats, rows of `ignore` left out, with `smoothing`
/// of each target spread evenly over the vocabulary. With `factor`, that many times the gradients: the
/// hidden states' and, in f32, the weight's; logits of the whole batch never exist (Hsu et al. 2024).
pub fn projected_cross_entropy(
    hidden: &Tensor,
    with: Projected<'_>,
    smoothing: f64,
    factor: Option<f64>,
) -> Result<(f64, ProjectedGradients)> {
    let mut losses = Vec::new();
    let gradients = with.chunks(hidden, factor.is_some(), |on, logits, from, count| {
        let out = on.empty(count, DType::F32)?;
        let (logits_memory, to) = (on.memory(logits)?, on.memory(&out)?);
        let factor = factor.map(|factor| factor as f32);
        with.loss(logits, from, count)?.cross_entropy(
            on,
            logits_memory,
            smoothing as f32,
            factor,
            to,
        )?;
        losses.push(out);
        Ok(())
    })?;
    if losses.is_empty() {
        return Ok((0.0, gradients));
    }
    // The one place that waits.
    let all: Vec<f32> = Tensor::cat(&losses, 0)?.to_vec1()?;
    Ok((all.into_iter().map(f64::from).sum(), gradients))
}

/// The log-probability of each row's target, f32 (n), 0 where it is `ignore`; with `by` f32 (n), also the
/// gradients of `Σ by[row] · log-probability(row)`.
pub fn log_probabilities(
    hidden: &Tensor,
    with: Projected<'_>,
    by: Option<&Tensor>,
) -> Result<(Vec<f32>, ProjectedGradients)> {
    let mut scores = Vec::new();
    let gradients = with.chunks(hidden, by.is_some(), |on, logits, from, count| {
        let out = on.empty(count, DType::F32)?;
        let by = by.map(|by| by.narrow(0, from, count)).transpose()?;
        let by = by.map(|by| on.of(&by, DType::F32)).transpose()?;
        let (logits_memory, to) = (on.memory(logits)?, on.memory(&out)?);
        with.loss(logits, from, count)?
            .log_probabilities(on, logits_memory, by, to)?;
        scores.push(out);
        Ok(())
    })?;
    if scores.is_empty() {
        return Ok((Vec::new(), gradients));
    }
    Ok((Tensor::cat(&scores, 0)?.to_vec1()?, gradients))
}

/// The loss of each row of `logits (n, v)`, f32 (n), logits multiplied by `scale` first. With `factor`,
/// `logits` BECOME that many times their gradient.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &[u32],
    ignore: u32,
    (smoothing, scale): (f64, f64),
    factor: Option<f64>,
) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    if rows != targets.len() {
        bail!("{} targets for {rows} rows", targets.len());
    }
    let on = Session::new(logits)?;
    let out = on.empty(rows, DType::F32)?;
    let loss = Loss {
        element: element(logits.dtype())?,
        targets,
        width,
        ignore,
        scale: scale as f32,
    };
    let factor = factor.map(|factor| factor as f32);
    loss.cross_entropy(
        &on,
        on.memory(logits)?,
        smoothing as f32,
        factor,
        on.memory(&out)?,
    )?;
    Ok(out)
}
