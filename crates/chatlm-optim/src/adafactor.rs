//! Adafactor (Shazeer and Stern 2018) as transformers' `Adafactor`: no momentum, second moments
//! factored into rows and columns for matrices, updates clipped by their root mean square. The
//! update is never stored, but computed once for its root mean square and once to be applied.

use rayon::prelude::*;

use crate::clip::squared_norm;
use crate::vector::{BUFFER, Lanes, TASK, square, vector};

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

pub(crate) const EPSILON_GRADIENT: f32 = 1e-30;
pub(crate) const EPSILON_PARAMETER: f64 = 1e-3;
pub(crate) const CLIP_THRESHOLD: f64 = 1.0;
pub(crate) const DECAY_RATE: f64 = -0.8;

fn root_mean_square(squares: f64, count: usize) -> f64 {
    (squares / count as f64).sqrt()
}

/// How a moment moves on; both factors are rounded once, as in transformers.
#[derive(Clone, Copy)]
struct Decay {
    beta: f32,
    rest: f32,
}

impl Decay {
    fn new(step: u64) -> Self {
        let beta = 1.0 - (step as f64).powf(DECAY_RATE);
        Self {
            beta: beta as f32,
            rest: (1.0 - beta) as f32,
        }
    }

    #[inline(always)]
    fn on(self, moment: f32, square: f32) -> f32 {
        self.beta * moment + self.rest * (square + EPSILON_GRADIENT)
    }
}

/// `w · keep - size · update`, where the update's root mean square is at most the threshold.
#[derive(Clone, Copy)]
struct Apply {
    keep: f32,
    size: f32,
}

impl Adafactor {
    /// Updates `weights` for step `step`, counted from 1. Without `relative_step` the given
    /// learning rate is used.
    pub(crate) fn update(
        self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        factors: &mut Factors,
        learning_rate: f64,
        step: u64,
    ) {
        if weights.is_empty() {
            return;
        }
        let rate = self.rate(weights, learning_rate, step);
        let decay = Decay::new(step);
        let apply = |squares: f64| {
            let clipped = root_mean_square(squares, gradient.len()) / CLIP_THRESHOLD;
            Apply {
                keep: (1.0 - self.weight_decay * rate) as f32,
                // `f64::max` would lose a NaN.
                size: (rate / if clipped < 1.0 { 1.0 } else { clipped }) as f32,
            }
        };
        match factors {
            Factors::Matrix { row, column } => {
                let blocks = Blocks::new(column.len());
                blocks.moments(gradient, scale, row, column, decay);
                let mean = row.iter().copied().map(f64::from).sum::<f64>() / row.len() as f64;
                let row: Vec<f32> = row.iter().map(|r| 1.0 / (r / mean as f32).sqrt()).collect();
                let column: Vec<f32> = column.iter().map(|c| 1.0 / c.sqrt()).collect();
                let squares = blocks.squares(gradient, scale, &row, &column);
                blocks.apply(weights, gradient, scale, &row, &column, apply(squares));
            }
            Factors::Whole(second) => {
                let squares = whole_moments(gradient, scale, second, decay);
                whole_apply(weights, gradient, scale, second, apply(squares));
            }
        }
    }

    /// transformers' `_get_lr`, without the size of the weights.
    pub(crate) fn relative_rate(self, learning_rate: f64, step: u64) -> f64 {
        if self.relative_step {
            let least = if self.warmup_init {
                1e-6 * step as f64
            } else {
                1e-2
            };
            least.min(1.0 / (step as f64).sqrt())
        } else {
            learning_rate
        }
    }

    /// transformers' `_get_lr`.
    fn rate(self, weights: &[f32], learning_rate: f64, step: u64) -> f64 {
        let rate = self.relative_rate(learning_rate, step);
        if self.scale_parameter {
            let size = root_mean_square(squared_norm(weights), weights.len());
            rate * EPSILON_PARAMETER.max(size)
        } else {
            rate
        }
    }
}

/// A value of a matrix's update: `r` and `c` are its row's and its column's factors.
#[inline(always)]
fn update_of(g: f32, scale: f32, r: f32, c: f32) -> f32 {
    r * c * (scale * g)
}

/// A matrix in blocks of whole rows, a task each.
#[derive(Clone, Copy)]
struct Blocks {
    columns: usize,
    /// Rows of a block, and their values.
    rows: usize,
    values: usize,
}

impl Blocks {
    fn new(columns: usize) -> Self {
        let rows = (TASK / columns).max(1);
        Self {
            columns,
            rows,
            values: rows * columns,
        }
    }

    /// Pass 1: moves the means of squares on, of rows and of columns.
    fn moments(
        self,
        gradient: &[f32],
        scale: f32,
        row: &mut [f32],
        column: &mut [f32],
        decay: Decay,
    ) {
        let columns = self.columns;
        // Sums of columns, a line a block.
        let mut sums = vec![0.0f64; row.len().div_ceil(self.rows) * columns];
        row.par_chunks_mut(self.rows)
            .zip(gradient.par_chunks(self.values))
            .zip(sums.par_chunks_mut(columns))
            .for_each(|((row, gradient), sums)| {
                vector(
                    #[inline(always)]
                    || {
                        for (row, gradient) in row.iter_mut().zip(gradient.chunks_exact(columns)) {
                            let sum = squares_into(gradient, scale, sums);
                            *row = decay.on(*row, (sum / columns as f64) as f32);
                        }
                    },
                );
            });
        let (total, others) = sums.split_at_mut(columns);
        for block in others.chunks_exact(columns) {
            for (total, sum) in total.iter_mut().zip(block) {
                *total += sum;
            }
        }
        for (column, sum) in column.iter_mut().zip(total) {
            *column = decay.on(*column, (*sum / row.len() as f64) as f32);
        }
    }

    /// Pass 2: the update's sum of squares.
    fn squares(self, gradient: &[f32], scale: f32, row: &[f32], column: &[f32]) -> f64 {
        let parts: Vec<f64> = row
            .par_chunks(self.rows)
            .zip(gradient.par_chunks(self.values))
            .map(|(row, gradient)| {
                vector(
                    #[inline(always)]
                    || {
                        let mut lanes = Lanes::ZERO;
                        let mut buffer = [0.0f32; BUFFER];
                        for (&r, gradient) in row.iter().zip(gradient.chunks_exact(self.columns)) {
                            for (g, c) in gradient.chunks(BUFFER).zip(column.chunks(BUFFER)) {
                                let update = &mut buffer[..g.len()];
                                for ((u, &g), &c) in update.iter_mut().zip(g).zip(c) {
                                    *u = update_of(g, scale, r, c);
                                }
                                lanes.add(update, square);
                            }
                        }
                        lanes.sum()
                    },
                )
            })
            .collect();
        parts.iter().sum()
    }

    /// Pass 3.
    fn apply(
        self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        row: &[f32],
        column: &[f32],
        apply: Apply,
    ) {
        let columns = self.columns;
        weights
            .par_chunks_mut(self.values)
            .zip(gradient.par_chunks(self.values))
            .zip(row.par_chunks(self.rows))
            .for_each(|((weights, gradient), row)| {
                vector(
                    #[inline(always)]
                    || {
                        for ((weights, gradient), &r) in weights
                            .chunks_exact_mut(columns)
                            .zip(gradient.chunks_exact(columns))
                            .zip(row)
                        {
                            for ((w, &g), &c) in weights.iter_mut().zip(gradient).zip(column) {
                                *w = *w * apply.keep - apply.size * update_of(g, scale, r, c);
                            }
                        }
                    },
                );
            });
    }
}

/// Adds the squares of a row to the sums of the columns and answers their own sum. As in
/// transformers a square is an f32; sums are f64.
#[inline(always)]
fn squares_into(gradient: &[f32], scale: f32, sums: &mut [f64]) -> f64 {
    let mut lanes = Lanes::ZERO;
    let mut buffer = [0.0f32; BUFFER];
    for (gradient, sums) in gradient.chunks(BUFFER).zip(sums.chunks_mut(BUFFER)) {
        let squares = &mut buffer[..gradient.len()];
        for ((square, g), sum) in squares.iter_mut().zip(gradient).zip(sums) {
            let g = scale * g;
            *square = g * g;
            *sum += f64::from(*square);
        }
        lanes.add(squares, |square| square);
    }
    lanes.sum()
}

/// Moves the second moment on and answers the update's sum of squares.
fn whole_moments(gradient: &[f32], scale: f32, second: &mut [f32], decay: Decay) -> f64 {
    let parts: Vec<f64> = second
        .par_chunks_mut(TASK)
        .zip(gradient.par_chunks(TASK))
        .map(|(second, gradient)| {
            vector(
                #[inline(always)]
                || {
                    let mut lanes = Lanes::ZERO;
                    let mut buffer = [0.0f32; BUFFER];
                    for (v, g) in second.chunks_mut(BUFFER).zip(gradient.chunks(BUFFER)) {
                        let update = &mut buffer[..g.len()];
                        for ((u, v), g) in update.iter_mut().zip(v).zip(g) {
                            let g = scale * g;
                            *v = decay.on(*v, g * g);
                            *u = 1.0 / v.sqrt() * g;
                        }
                        lanes.add(update, square);
                    }
                    lanes.sum()
                },
            )
        })
        .collect();
    parts.iter().sum()
}

fn whole_apply(weights: &mut [f32], gradient: &[f32], scale: f32, second: &[f32], apply: Apply) {
    weights
        .par_chunks_mut(TASK)
        .zip(gradient.par_chunks(TASK))
        .zip(second.par_chunks(TASK))
        .for_each(|((weights, gradient), second)| {
            vector(
                #[inline(always)]
                || {
                    for ((w, g), v) in weights.iter_mut().zip(gradient).zip(second) {
                        let update = 1.0 / v.sqrt() * (scale * g);
                        *w = *w * apply.keep - apply.size * update;
                    }
                },
            );
        });
}
