use candle_core::{Result, Tensor, bail};

use super::device::{Session, same};
use crate::feedforward::Hidden;
use crate::machine::Dropout;

/// Rows laid end to end, and what is dropped of their hidden values.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Where each row begins, and where the last ends.
    pub starts: &'a [u32],
    pub drop: Option<Dropout<'a>>,
}

impl<'a> Places<'a> {
    /// Checks that all are `(places, d)`.
    fn hidden(&self, all: &[&Tensor]) -> Result<Hidden<'a>> {
        let (element, _) = same(all)?;
        let (places, width) = all[0].dims2()?;
        if self.starts.last() != Some(&(places as u32))
            || all.iter().any(|x| x.dims() != all[0].dims())
        {
            bail!("{:?} for {:?} places", all[0].dims(), self.starts.last());
        }
        Ok(Hidden {
            element,
            width,
            starts: self.starts,
            drop: self.drop,
        })
    }
}

/// `x + dropout(y)`, all `(places, d)`.
pub fn residual(x: &Tensor, y: &Tensor, places: Places<'_>) -> Result<Tensor> {
    let hidden = places.hidden(&[x, y])?;
    let on = Session::new(x)?;
    let out = on.empty(x.shape(), x.dtype())?;
    hidden.residual(&on, Some(on.memory(x)?), on.memory(y)?, on.memory(&out)?)?;
    Ok(out)
}

/// `dropout(x)`; applied to a gradient, its backward.
pub fn dropout(x: &Tensor, places: Places<'_>) -> Result<Tensor> {
    let hidden = places.hidden(&[x])?;
    let on = Session::new(x)?;
    let out = on.empty(x.shape(), x.dtype())?;
    hidden.residual(&on, None, on.memory(x)?, on.memory(&out)?)?;
    Ok(out)
}

/// `dropout(max(x, 0))`. A NaN stays.
pub fn relu(x: &Tensor, places: Places<'_>) -> Result<Tensor> {
    let hidden = places.hidden(&[x])?;
    let on = Session::new(x)?;
    let out = on.empty(x.shape(), x.dtype())?;
    hidden.relu(&on, on.memory(x)?, on.memory(&out)?)?;
    Ok(out)
}

/// The gradient of [`relu`]'s x, from its result and its result's gradient.
pub fn relu_backward(result: &Tensor, gradient: &Tensor, places: Places<'_>) -> Result<Tensor> {
    let hidden = places.hidden(&[result, gradient])?;
    let on = Session::new(result)?;
    let dx = on.empty(result.shape(), result.dtype())?;
    hidden.relu_backward(
        &on,
        on.memory(result)?,
        on.memory(gradient)?,
        on.memory(&dx)?,
    )?;
    Ok(dx)
}

/// `dropout(gelu(x) · y)`, GELU in its tanh form (T5 v1.1's `gelu_new`).
pub fn gated_gelu(x: &Tensor, y: &Tensor, places: Places<'_>) -> Result<Tensor> {
    let hidden = places.hidden(&[x, y])?;
    let on = Session::new(x)?;
    let out = on.empty(x.shape(), x.dtype())?;
    hidden.gated_gelu(&on, on.memory(x)?, on.memory(y)?, on.memory(&out)?)?;
    Ok(out)
}

/// The gradients of [`gated_gelu`]'s x and y.
pub fn gated_gelu_backward(
    [x, y, gradient]: [&Tensor; 3],
    places: Places<'_>,
) -> Result<(Tensor, Tensor)> {
    let hidden = places.hidden(&[x, y, gradient])?;
    let on = Session::new(x)?;
    let (dx, dy) = (
        on.empty(x.shape(), x.dtype())?,
        on.empty(x.shape(), x.dtype())?,
    );
    hidden.gated_gelu_backward(
        &on,
        [on.memory(x)?, on.memory(y)?, on.memory(gradient)?],
        [on.memory(&dx)?, on.memory(&dy)?],
    )?;
    Ok((dx, dy))
}
