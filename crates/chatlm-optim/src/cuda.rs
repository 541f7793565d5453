//! The updates by chatlm-cuda's kernels: in place, on the GPU, nothing read back.

use candle_core::{Result, Tensor, Var, bail};
use chatlm_cuda::tensors::{self, AdafactorMoments};

use crate::device::{Ask, Kept, Rule};

pub(crate) fn update(
    rule: Rule,
    weights: &Var,
    gradient: &Tensor,
    kept: &Kept,
    ask: Ask,
) -> Result<()> {
    let gradient = gradient.contiguous()?;
    let (weight, rates) = (weights.as_detached_tensor(), (ask.scale, ask.learning_rate));
    match (rule, kept) {
        (Rule::AdamW(rule), Kept::Moments { first, second }) => {
            let rule = chatlm_cuda::adamw::AdamW {
                beta1: rule.beta1,
                beta2: rule.beta2,
                epsilon: rule.epsilon,
                weight_decay: rule.weight_decay,
            };
            tensors::adamw(rule, &weight, &gradient, (first, second), rates, ask.step)
        }
        (Rule::AdamW(_), _) => bail!("AdamW keeps two moments"),
        (Rule::Adafactor(rule), kept) => {
            let rule = chatlm_cuda::adafactor::Adafactor {
                relative_step: rule.relative_step,
                scale_parameter: rule.scale_parameter,
                warmup_init: rule.warmup_init,
                weight_decay: rule.weight_decay,
            };
            let moments = match kept {
                Kept::Factors { row, column } => AdafactorMoments::Matrix {
                    row: row.clone(),
                    column: column.clone(),
                },
                Kept::Second(second) => AdafactorMoments::Whole(second.clone()),
                Kept::Moments { .. } => bail!("Adafactor keeps second moments alone"),
            };
            tensors::adafactor(rule, &weight, &gradient, &moments, rates, ask.step)
        }
    }
}
