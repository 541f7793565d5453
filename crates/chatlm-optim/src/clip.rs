//! Clipping by global norm, as `torch.nn.utils.clip_grad_norm_`.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor};
use chatlm_job::{Error, Result};
use rayon::prelude::*;

use crate::state::{TASK, sum_of_squares};

struct Scale(f32);

impl InplaceOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((from, to))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("gradients are contiguous f32")
        };
        values[from..to].par_chunks_mut(TASK).for_each(|chunk| {
            for value in chunk {
                *value *= self.0;
            }
        });
        Ok(())
    }
}

fn squares(tensor: &Tensor) -> candle_core::Result<f64> {
    let tensor = tensor.contiguous()?.to_device(&Device::Cpu)?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(values)), Some((from, to))) =
        (&*storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("gradients are contiguous f32")
    };
    Ok(sum_of_squares(&values[from..to]))
}

/// Scales all gradients so that their L2 norm together is at most `max_norm`; a `max_norm` of 0
/// changes nothing. Answers the norm before. Where it is not finite, nothing is scaled.
pub fn clip(grads: &mut BTreeMap<String, Tensor>, max_norm: f64) -> Result<f64> {
    let mut total = 0.0;
    for grad in grads.values_mut() {
        if !grad.is_contiguous() {
            *grad = grad.contiguous().map_err(Error::internal)?;
        }
        total += squares(grad).map_err(Error::internal)?;
    }
    let norm = total.sqrt();
    if max_norm > 0.0 && norm.is_finite() && norm > max_norm {
        let scale = (max_norm / (norm + 1e-6)) as f32;
        for grad in grads.values() {
            grad.inplace_op1(&Scale(scale)).map_err(Error::internal)?;
        }
    }
    Ok(norm)
}
