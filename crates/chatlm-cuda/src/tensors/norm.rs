use candle_core::{DType, Result, Tensor, bail};

use super::device::{Session, same};
use crate::norm::{Backward, Forward, Norm};

/// What [`rms_norm`] answers.
pub struct Normed {
    /// `x + residual`; `None` where there is no residual, and x itself was normalized.
    pub sum: Option<Tensor>,
    /// Of x's shape.
    pub normed: Tensor,
    /// 1/rms of each row, f32 (rows): for the backward.
    pub scales: Tensor,
}

fn shape(x: &Tensor, weight: &Tensor) -> Result<Norm> {
    let (element, _) = same(&[x, weight])?;
    let width = weight.dims1()?;
    if x.dims().last() != Some(&width) || width == 0 {
        bail!("a norm of {:?} for {:?}", weight.dims(), x.dims());
    }
    Ok(Norm {
        element,
        rows: x.elem_count() / width,
        width,
    })
}

/// T5's layer norm of `x (…, d)`, or of `x + residual`, scaled by `weight (d)` (Zhang and Sennrich 2019).
pub fn rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    eps: f64,
) -> Result<Normed> {
    let shape = shape(x, weight)?;
    let on = Session::new(x)?;
    let sum = match residual {
        Some(residual) if residual.dims() != x.dims() || residual.dtype() != x.dtype() => {
            bail!("a residual of {:?} for {:?}", residual.dims(), x.dims())
        }
        Some(_) => Some(on.empty(x.shape(), x.dtype())?),
        None => None,
    };
    let normed = on.empty(x.shape(), x.dtype())?;
    let scales = on.empty(shape.rows, DType::F32)?;
    let with = Forward {
        x: on.memory(x)?,
        residual: match (on.maybe(residual)?, on.maybe(sum.as_ref())?) {
            (Some(residual), Some(sum)) => Some((residual, sum)),
            _ => None,
        },
        weight: on.memory(weight)?,
        normed: on.memory(&normed)?,
        scales: Some(on.memory(&scales)?),
    };
    shape.forward(&on, &with, eps)?;
    Ok(Normed {
        sum,
        normed,
        scales,
    })
}

/// The gradient of what was normalized, `y`, and the weight's in f32 (d), from the result's. `beside` is
/// what flows into y from elsewhere.
pub fn rms_norm_backward(
    y: &Tensor,
    weight: &Tensor,
    scales: &Tensor,
    gradient: &Tensor,
    beside: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let shape = shape(y, weight)?;
    same(&[y, gradient])?;
    let on = Session::new(y)?;
    let dx = on.empty(y.shape(), y.dtype())?;
    let dw = on.empty(shape.width, DType::F32)?;
    if beside.is_some_and(|beside| beside.dtype() != y.dtype()) {
        bail!("gradients of different types");
    }
    let with = Backward {
        y: on.memory(y)?,
        weight: on.memory(weight)?,
        scales: on.of(scales, DType::F32)?,
        gradient: on.memory(gradient)?,
        beside: on.maybe(beside)?,
        dx: on.memory(&dx)?,
        dw: Some((on.memory(&dw)?, false)),
    };
    shape.backward(&on, &with)?;
    Ok((dx, dw))
}
