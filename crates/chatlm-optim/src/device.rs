//! The updates on tensors of any device, by candle's operators: the path of devices whose weights the
//! slices of this crate cannot reach. The same formulas in the same order, rounded by the device.
//!
//! [`update`] and [`squared_norm_of`] are where a device's own kernels take over: NVIDIA's, under the
//! feature `cuda`.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::adafactor::{
    Adafactor, CLIP_THRESHOLD, DECAY_RATE, EPSILON_GRADIENT, EPSILON_PARAMETER,
};
use crate::adamw::AdamW;

/// What an optimizer keeps of a weight, on its device.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Moments {
        first: Tensor,
        second: Tensor,
    },
    /// Adafactor's of a matrix.
    Factors {
        row: Tensor,
        column: Tensor,
    },
    /// Adafactor's of anything else.
    Second(Tensor),
}

impl Kept {
    pub(crate) fn new(rule: Rule, shape: &[usize], device: &Device) -> Result<Self> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, device);
        Ok(match (rule, shape) {
            (Rule::AdamW(_), shape) => Self::Moments {
                first: zeros(shape)?,
                second: zeros(shape)?,
            },
            (Rule::Adafactor(_), &[rows, columns]) => Self::Factors {
                row: zeros(&[rows])?,
                column: zeros(&[columns])?,
            },
            (Rule::Adafactor(_), shape) => Self::Second(zeros(shape)?),
        })
    }

    /// Names as the processor's state has them, so that a checkpoint of one device is another's.
    pub(crate) fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Moments { first, second } => vec![("exp_avg", first), ("exp_avg_sq", second)],
            Self::Factors { row, column } => {
                vec![("exp_avg_sq_row", row), ("exp_avg_sq_col", column)]
            }
            Self::Second(second) => vec![("exp_avg_sq", second)],
        }
    }

    /// The tensors of [`Self::parts`], in the same order.
    pub(crate) fn parts_mut(&mut self) -> Vec<&mut Tensor> {
        match self {
            Self::Moments { first, second } => vec![first, second],
            Self::Factors { row, column } => vec![row, column],
            Self::Second(second) => vec![second],
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    AdamW(AdamW),
    Adafactor(Adafactor),
}

/// What a step asks of an update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    /// What the gradient is multiplied by.
    pub(crate) scale: f32,
    pub(crate) learning_rate: f64,
    /// Counted from 1.
    pub(crate) step: u64,
}

/// Updates `weights` and what is kept of them.
pub(crate) fn update(
    rule: Rule,
    weights: &Var,
    gradient: &Tensor,
    kept: &mut Kept,
    ask: Ask,
) -> Result<()> {
    if weights.elem_count() == 0 {
        return Ok(());
    }
    let mut ask = ask;
    if let Rule::AdamW(rule) = rule
        && rule.scale_parameter
    {
        let squares = squared_norm_of([&weights.as_detached_tensor()])?;
        ask.learning_rate = rule.rate(ask.learning_rate, squares, weights.elem_count());
    }
    #[cfg(feature = "cuda")]
    if weights.device().is_cuda() {
        return crate::cuda::update(rule, weights, gradient, kept, ask);
    }
    match (rule, kept) {
        (Rule::AdamW(rule), Kept::Moments { first, second }) => {
            adamw(rule, weights, gradient, (first, second), ask)
        }
        (Rule::Adafactor(rule), kept) => adafactor(rule, weights, gradient, kept, ask),
        (Rule::AdamW(_), _) => candle_core::bail!("AdamW keeps two moments"),
    }
}

fn adamw(
    rule: AdamW,
    weights: &Var,
    gradient: &Tensor,
    (first, second): (&mut Tensor, &mut Tensor),
    ask: Ask,
) -> Result<()> {
    let power = ask.step.min(i32::MAX as u64) as i32;
    let correction1 = 1.0 - rule.beta1.powi(power);
    let root = (1.0 - rule.beta2.powi(power)).sqrt();
    let keep = 1.0 - ask.learning_rate * rule.weight_decay;
    let size = ask.learning_rate / correction1;
    let g = (gradient * f64::from(ask.scale))?;
    *first = ((&*first * rule.beta1)? + (&g * (1.0 - rule.beta1))?)?;
    *second = ((&*second * rule.beta2)? + (g.sqr()? * (1.0 - rule.beta2))?)?;
    let below = second.sqrt()?.affine(1.0 / root, rule.epsilon)?;
    let step = ((&*first * size)? / below)?;
    weights.set(&((weights.as_detached_tensor() * keep)? - step)?)
}

fn adafactor(
    rule: Adafactor,
    weights: &Var,
    gradient: &Tensor,
    kept: &mut Kept,
    ask: Ask,
) -> Result<()> {
    let beta = 1.0 - (ask.step as f64).powf(DECAY_RATE);
    let on = |moment: &Tensor, square: Tensor| -> Result<Tensor> {
        (moment * beta)? + ((square + f64::from(EPSILON_GRADIENT))? * (1.0 - beta))?
    };
    let g = (gradient * f64::from(ask.scale))?;
    let update = match kept {
        Kept::Factors { row, column } => {
            let square = g.sqr()?;
            *row = on(row, square.mean(1)?)?;
            *column = on(column, square.mean(0)?)?;
            let mean = row.mean_all()?;
            // (rows, 1) and (1, columns)
            let r = row.broadcast_div(&mean)?.sqrt()?.recip()?.unsqueeze(1)?;
            let c = column.sqrt()?.recip()?.unsqueeze(0)?;
            g.broadcast_mul(&r)?.broadcast_mul(&c)?
        }
        Kept::Second(second) => {
            *second = on(second, g.sqr()?)?;
            (g / second.sqrt()?)?
        }
        Kept::Moments { .. } => candle_core::bail!("Adafactor keeps second moments alone"),
    };
    let w = weights.as_detached_tensor();
    let root_mean_square = |x: &Tensor| x.sqr()?.mean_all()?.sqrt();
    let clipped = (root_mean_square(&update)? / CLIP_THRESHOLD)?.maximum(1.0)?;
    let step = update.broadcast_div(&clipped)?;
    let rate = rule.relative_rate(ask.learning_rate, ask.step);
    // No number comes back from the device: a weight's own size stays a tensor there.
    let (kept, step) = if rule.scale_parameter {
        let rate = (root_mean_square(&w)?.maximum(EPSILON_PARAMETER)? * rate)?;
        let keep = rate.affine(-rule.weight_decay, 1.0)?;
        (w.broadcast_mul(&keep)?, step.broadcast_mul(&rate)?)
    } else {
        ((w * (1.0 - rule.weight_decay * rate))?, (step * rate)?)
    };
    weights.set(&(kept - step)?)
}

/// `Σ values²` over all tensors, fetched from their device at once; what is not finite is carried
/// through.
pub fn squared_norm_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let tensors: Vec<&Tensor> = tensors.into_iter().collect();
    #[cfg(feature = "cuda")]
    if tensors
        .first()
        .is_some_and(|tensor| tensor.device().is_cuda())
    {
        return Ok(chatlm_cuda::tensors::squared_norms(&tensors)?
            .into_iter()
            .sum());
    }
    let sums = tensors
        .into_iter()
        .map(|tensor| tensor.flatten_all()?.sqr()?.sum_all())
        .collect::<Result<Vec<_>>>()?;
    if sums.is_empty() {
        return Ok(0.0);
    }
    let sums: Vec<f32> = Tensor::stack(&sums, 0)?.to_vec1()?;
    Ok(sums.into_iter().map(f64::from).sum())
}
