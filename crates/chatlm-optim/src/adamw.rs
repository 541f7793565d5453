//! AdamW (Loshchilov and Hutter 2019) in the order of `torch.optim.AdamW`: decay, moments, step.

use rayon::prelude::*;

use crate::adafactor::EPSILON_PARAMETER;
use crate::clip::squared_norm;
use crate::vector::{TASK, vector};

/// The two moments of all weights, side by side: two pieces of memory, not two for each weight.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
    /// Where each weight's begin, and where the last ends.
    starts: Vec<usize>,
}

impl Moments {
    pub(crate) fn new(sizes: impl Iterator<Item = usize>) -> Self {
        let mut starts = vec![0];
        for size in sizes {
            starts.push(starts[starts.len() - 1] + size);
        }
        let count = starts[starts.len() - 1];
        Self {
            first: vec![0.0; count],
            second: vec![0.0; count],
            starts,
        }
    }

    /// Both moments of a weight.
    pub(crate) fn of(&self, index: usize) -> (&[f32], &[f32]) {
        let range = self.starts[index]..self.starts[index + 1];
        (&self.first[range.clone()], &self.second[range])
    }

    pub(crate) fn of_mut(&mut self, index: usize) -> (&mut [f32], &mut [f32]) {
        let range = self.starts[index]..self.starts[index + 1];
        (&mut self.first[range.clone()], &mut self.second[range])
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamW {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
    pub(crate) scale_parameter: bool,
}

impl AdamW {
    /// The rate of a weight whose values have `squares` as the sum of their squares: with
    /// `scale_parameter` relative to their root mean square, as Adafactor's.
    pub(crate) fn rate(self, learning_rate: f64, squares: f64, count: usize) -> f64 {
        if self.scale_parameter {
            learning_rate * EPSILON_PARAMETER.max((squares / count as f64).sqrt())
        } else {
            learning_rate
        }
    }

    /// Updates `weights` for step `step`, counted from 1, in one pass over memory.
    pub(crate) fn update(
        self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        (first, second): (&mut [f32], &mut [f32]),
        learning_rate: f64,
        step: u64,
    ) {
        if weights.is_empty() {
            return;
        }
        let squares = if self.scale_parameter {
            squared_norm(weights)
        } else {
            0.0
        };
        let learning_rate = self.rate(learning_rate, squares, weights.len());
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
            .zip(gradient.par_chunks(TASK))
            .zip(first.par_chunks_mut(TASK))
            .zip(second.par_chunks_mut(TASK))
            .for_each(|(((weights, gradient), first), second)| {
                vector(
                    #[inline(always)]
                    || {
                        for (((w, g), m), v) in
                            weights.iter_mut().zip(gradient).zip(first).zip(second)
                        {
                            let g = scale * g;
                            *m = beta1 * *m + rest1 * g;
                            *v = beta2 * *v + rest2 * g * g;
                            *w = *w * keep - size * *m / (v.sqrt() / root + epsilon);
                        }
                    },
                );
            });
    }
}
