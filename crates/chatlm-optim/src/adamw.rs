//! AdamW (Loshchilov and Hutter 2019) in the order of `torch.optim.AdamW`: decay, moments, step.

use rayon::prelude::*;

use crate::state::TASK;

/// The two moments of one weight.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Moments {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            first: vec![0.0; count],
            second: vec![0.0; count],
        }
    }
}

/// One step's constants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamW {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
}

impl AdamW {
    /// Updates `weights` for step `step`, counted from 1.
    pub(crate) fn update(
        self,
        weights: &mut [f32],
        grad: &[f32],
        moments: &mut Moments,
        learning_rate: f64,
        step: u64,
    ) {
        let power = step.min(i32::MAX as u64) as i32;
        let correction1 = 1.0 - self.beta1.powi(power);
        let correction2 = (1.0 - self.beta2.powi(power)).sqrt();
        let keep = (1.0 - learning_rate * self.weight_decay) as f32;
        let size = (learning_rate / correction1) as f32;
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        let (rest1, rest2) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32);
        let (root, epsilon) = (correction2 as f32, self.epsilon as f32);
        weights
            .par_chunks_mut(TASK)
            .zip(grad.par_chunks(TASK))
            .zip(moments.first.par_chunks_mut(TASK))
            .zip(moments.second.par_chunks_mut(TASK))
            .for_each(|(((weights, grad), first), second)| {
                for (((w, g), m), v) in weights.iter_mut().zip(grad).zip(first).zip(second) {
                    *m = beta1 * *m + rest1 * g;
                    *v = beta2 * *v + rest2 * g * g;
                    *w = *w * keep - size * *m / (v.sqrt() / root + epsilon);
                }
            });
    }
}
