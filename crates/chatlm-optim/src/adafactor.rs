//! Adafactor (Shazeer and Stern 2018) as transformers' `Adafactor`: no momentum, second moments
//! factored into rows and columns for matrices, updates clipped by their root mean square.

use rayon::prelude::*;

use crate::state::{TASK, sum_of_squares};

/// The second moments of one weight.
#[derive(Debug, Clone)]
pub(crate) enum Factors {
    /// For matrices `(rows, columns)`: means over the other dimension.
    Matrix {
        row: Vec<f32>,
        column: Vec<f32>,
    },
    Whole(Vec<f32>),
}

impl Factors {
    pub(crate) fn new(shape: &[usize]) -> Self {
        match shape {
            [rows, columns] => Self::Matrix {
                row: vec![0.0; *rows],
                column: vec![0.0; *columns],
            },
            _ => Self::Whole(vec![0.0; shape.iter().product()]),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Adafactor {
    pub(crate) relative_step: bool,
    pub(crate) scale_parameter: bool,
    pub(crate) warmup_init: bool,
    pub(crate) weight_decay: f64,
}

const EPSILON_GRADIENT: f32 = 1e-30;
const EPSILON_PARAMETER: f64 = 1e-3;
const CLIP_THRESHOLD: f64 = 1.0;
const DECAY_RATE: f64 = -0.8;
/// Columns worth a task of their own.
const BLOCK: usize = 64;

fn root_mean_square(values: &[f32]) -> f64 {
    (sum_of_squares(values) / values.len().max(1) as f64).sqrt()
}

impl Adafactor {
    /// Updates `weights` for step `step`, counted from 1. Without `relative_step` the given
    /// learning rate is used.
    pub(crate) fn update(
        self,
        weights: &mut [f32],
        grad: &[f32],
        factors: &mut Factors,
        learning_rate: f64,
        step: u64,
    ) {
        let mut rate = learning_rate;
        if self.relative_step {
            let least = if self.warmup_init {
                1e-6 * step as f64
            } else {
                1e-2
            };
            rate = least.min(1.0 / (step as f64).sqrt());
        }
        if self.scale_parameter {
            rate *= EPSILON_PARAMETER.max(root_mean_square(weights));
        }
        let beta = (1.0 - (step as f64).powf(DECAY_RATE)) as f32;
        let mut update = match factors {
            Factors::Matrix { row, column } => matrix_update(grad, row, column, beta),
            Factors::Whole(second) => {
                let mut update = vec![0.0f32; grad.len()];
                for ((u, v), g) in update.iter_mut().zip(second).zip(grad) {
                    *v = beta * *v + (1.0 - beta) * (g * g + EPSILON_GRADIENT);
                    *u = g / v.sqrt();
                }
                update
            }
        };
        let size = (rate / (root_mean_square(&update) / CLIP_THRESHOLD).max(1.0)) as f32;
        let keep = (1.0 - self.weight_decay * rate) as f32;
        weights
            .par_chunks_mut(TASK)
            .zip(update.par_chunks_mut(TASK))
            .for_each(|(weights, update)| {
                for (w, u) in weights.iter_mut().zip(update) {
                    *w = *w * keep - size * *u;
                }
            });
    }
}

/// Moves the factored moments on and answers `grad / sqrt(row ⊗ column / mean(row))`.
fn matrix_update(grad: &[f32], row: &mut [f32], column: &mut [f32], beta: f32) -> Vec<f32> {
    let (rows, columns) = (row.len(), column.len());
    let rest = 1.0 - beta;
    row.par_iter_mut().enumerate().for_each(|(at, row)| {
        let mean = sum_of(&grad[at * columns..(at + 1) * columns]) / columns as f64;
        *row = beta * *row + rest * (mean as f32 + EPSILON_GRADIENT);
    });
    // Columns in blocks, each summed over the rows in order.
    column
        .par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, column)| {
            let mut sums = [0.0f64; BLOCK];
            for at in 0..rows {
                let from = at * columns + block * BLOCK;
                for (sum, g) in sums.iter_mut().zip(&grad[from..from + column.len()]) {
                    *sum += f64::from(g * g);
                }
            }
            for (column, sum) in column.iter_mut().zip(sums) {
                *column = beta * *column + rest * ((sum / rows as f64) as f32 + EPSILON_GRADIENT);
            }
        });
    let mean = (row.iter().map(|&r| f64::from(r)).sum::<f64>() / rows as f64) as f32;
    let column: Vec<f32> = column.iter().map(|c| 1.0 / c.sqrt()).collect();
    let mut update = vec![0.0f32; grad.len()];
    update
        .par_chunks_mut(columns)
        .zip(grad.par_chunks(columns))
        .zip(row.par_iter())
        .for_each(|((update, grad), row)| {
            let scale = 1.0 / (row / mean).sqrt();
            for ((u, g), c) in update.iter_mut().zip(grad).zip(&column) {
                *u = g * scale * c;
            }
        });
    update
}

fn sum_of(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(v * v)).sum()
}
