//! Clipping by global norm, as `torch.nn.utils.clip_grad_norm_`.

use rayon::prelude::*;

use crate::vector::{Lanes, TASK, square, vector};

/// `Σ values²` in f64, by all threads. The order of additions is fixed whatever their number; what
/// is not finite is carried through.
pub fn squared_norm(values: &[f32]) -> f64 {
    let parts: Vec<f64> = values
        .par_chunks(TASK)
        .map(|values| {
            vector(
                #[inline(always)]
                || {
                    let mut lanes = Lanes::ZERO;
                    lanes.add(values, square);
                    lanes.sum()
                },
            )
        })
        .collect();
    parts.iter().sum()
}

/// What clipping multiplies gradients of this norm by: `min(1, clip / (norm + 1e-6))`, and 1 where
/// `clip` is 0. A norm that is NaN gives NaN, as PyTorch's does.
pub fn clip_scale(norm: f64, clip: f64) -> f32 {
    if clip <= 0.0 {
        return 1.0;
    }
    let scale = clip / (norm + 1e-6);
    // `f64::min` would lose a NaN.
    if scale > 1.0 { 1.0 } else { scale as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "exact by definition")]
    fn clipping_shrinks_only() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(4.0, 1.0), (1.0f64 / 4.000_001) as f32);
        assert_eq!(clip_scale(1e9, 0.0), 1.0);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
        assert_eq!(clip_scale(f64::INFINITY, 1.0), 0.0);
        assert!(clip_scale(f64::NAN, 1.0).is_nan());
    }
}
