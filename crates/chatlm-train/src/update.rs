//! From gathered gradients to weights: on slices where they lie in plain memory, else on tensors of
//! their device.

use candle_core::Var;
use chatlm_job::{Error, Result};
use chatlm_optim::{Optimizer, squared_norm, squared_norm_of};
use chatlm_t5::{Gradients, write};

/// The L2 norm of all gradients together.
pub(crate) fn norm(gradients: &Gradients<'_>) -> Result<f64> {
    let all = 0..gradients.len();
    let square = if gradients.are_tensors() {
        squared_norm_of(all.filter_map(|index| gradients.tensor(index))).map_err(Error::internal)?
    } else {
        let gradients = all.filter_map(|index| gradients.get(index));
        gradients.map(squared_norm).sum()
    };
    Ok(square.sqrt())
}

/// Updates every weight that has a gradient, by `scale` times it.
pub(crate) fn apply(
    optimizer: &mut Optimizer,
    trained: &[(String, Var)],
    gradients: &Gradients<'_>,
    scale: f32,
    rate: f64,
) -> Result<()> {
    for (index, (_, var)) in trained.iter().enumerate() {
        if gradients.are_tensors() {
            if let Some(gradient) = gradients.tensor(index) {
                optimizer.update_tensor(index, var, gradient, scale, rate)?;
            }
        } else if let Some(gradient) = gradients.get(index) {
            write(var, |weights| {
                optimizer.update(index, weights, gradient, scale, rate);
            })
            .map_err(Error::internal)?;
        }
    }
    Ok(())
}
