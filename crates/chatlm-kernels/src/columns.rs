//! What DoRA (Liu et al. 2024) adds to a linear layer with an adapter: the length of each row of the
//! adapted weight, and a product's columns scaled by a trained magnitude over that length. As in the
//! paper's section 4.3 and in PEFT, the length is a constant to the backward pass.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::gemm::Precision;
use crate::linear::linear;
use crate::rows::{for_rows, fused, new_rows, read, width, zeros};
use crate::tape::{Tape, Value, Weight, twin};

/// Columns that are one task of the magnitude's gradient.
const BLOCK: usize = 64;

/// Length of every row of `weight + scaling · b·a`, in f32 whatever precision products have: `(out)`.
pub fn adapted_lengths(weight: &Tensor, a: &Tensor, b: &Tensor, scaling: f64) -> Result<Tensor> {
    if !fused(&[weight, a, b]) {
        return (weight + (b.matmul(a)? * scaling)?)?.sqr()?.sum(1)?.sqrt();
    }
    // The product of this crate, whose bits no number of threads changes.
    let across = Weight::new(a.t()?.contiguous()?, None);
    let tape = Tape::off(Precision::F32);
    let change = linear(&tape, &Value::constant(b.contiguous()?), &across, scaling)?;
    let mut lengths = zeros(weight.dim(0)?);
    let inner = width(weight);
    let (weight, change) = (read(weight)?, read(change.tensor())?);
    let (weight, change) = (&*weight, &*change);
    for_rows(&mut lengths, 1, |row, length| {
        let at = row * inner..(row + 1) * inner;
        let sum: f64 = weight[at.clone()]
            .iter()
            .zip(&change[at])
            .map(|(w, c)| f64::from(w + c).powi(2))
            .sum();
        length[0] = sum.sqrt() as f32;
    });
    let count = lengths.len();
    Tensor::from_vec(lengths, count, &candle_core::Device::Cpu)
}

/// Columns of `x (places, out)` times `magnitude / lengths − less`, both `(out)`.
pub fn scaled_columns(
    tape: &Tape,
    x: &Value,
    magnitude: &Weight,
    lengths: &Tensor,
    less: f64,
) -> Result<Value> {
    if !fused(&[x.tensor(), magnitude.tensor(), lengths]) {
        let lengths = lengths.clone();
        return twin(tape, &[x], &[magnitude], move |x, m| {
            x[0].broadcast_mul(&((&m[0] / &lengths)? - less)?)
        });
    }
    let x = x.contiguous()?;
    let lengths: Vec<f32> = lengths.to_vec1()?;
    let factors: Vec<f32> = read(magnitude.tensor())?
        .iter()
        .zip(&lengths)
        .map(|(m, length)| m / length - less as f32)
        .collect();
    let apply = move |of: &Tensor| -> Result<Tensor> {
        let (values, width) = (read(of)?, width(of));
        let values = &*values;
        new_rows(of, |place, out| {
            let line = &values[place * width..(place + 1) * width];
            for ((out, x), factor) in out.iter_mut().zip(line).zip(&factors) {
                *out = x * factor;
            }
        })
    };
    let y = apply(x.tensor())?;
    let index = magnitude.index();
    let tracked = x.tracked() || index.is_some();
    Ok(tape.result(y, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        if let Some(index) = index {
            let (g, x) = (read(&gradient)?, read(x.tensor())?);
            let (g, x) = (&*g, &*x);
            backward.gradients.write(index, |sums, add| {
                if !add {
                    sums.fill(0.0);
                }
                add_columns(sums, g, x, &lengths);
            });
        }
        if x.tracked() {
            let dx = apply(&gradient)?;
            backward.add(&x, dx)?;
        }
        Ok(())
    }))
}

/// Adds `Σ g·x / length` of each column, place after place: the same bits on any number of threads.
fn add_columns(sums: &mut [f32], g: &[f32], x: &[f32], lengths: &[f32]) {
    let width = sums.len();
    sums.par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, sums)| {
            let first = block * BLOCK;
            let mut found = [0.0f32; BLOCK];
            for (g, x) in g.chunks_exact(width).zip(x.chunks_exact(width)) {
                let columns = first..first + sums.len();
                for ((found, g), x) in found.iter_mut().zip(&g[columns.clone()]).zip(&x[columns]) {
                    *found += g * x;
                }
            }
            for ((sum, found), length) in sums.iter_mut().zip(found).zip(&lengths[first..]) {
                *sum += found / length;
            }
        });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::cpu::twins_only;
    use crate::gradients::Gradients;
    use crate::testing::device;

    const SHAPE: (usize, usize) = (7, 130);

    fn some(count: usize, step: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * step) % 23) as f32 / 20.0 - 0.4)
            .collect()
    }

    #[test]
    fn gradients_are_finite_differences_and_the_twins() {
        let (rows, width) = SHAPE;
        let tensor =
            |values: Vec<f32>, dims: &[usize]| Tensor::from_vec(values, dims, &device()).unwrap();
        let lengths: Vec<f32> = some(width, 5).iter().map(|v| v.abs() + 0.5).collect();
        let lengths = tensor(lengths, &[width]);
        let seed = tensor(some(rows * width, 11), &[rows, width]);
        let (x, m) = (some(rows * width, 7), some(width, 3));
        let value = |x: &[f32], m: &[f32]| -> f64 {
            let weight = Weight::new(tensor(m.to_vec(), &[width]), None);
            let x = Value::constant(tensor(x.to_vec(), &[rows, width]));
            let tape = Tape::off(Precision::F32);
            let y = scaled_columns(&tape, &x, &weight, &lengths, 1.0).unwrap();
            let sum = (y.tensor() * &seed).unwrap().flatten_all().unwrap();
            let values: Vec<f32> = sum.to_vec1().unwrap();
            values.into_iter().map(f64::from).sum()
        };
        let gradients = || -> (Vec<f32>, Vec<f32>) {
            let tape = Tape::new(Precision::F32);
            let leaf = tape.leaf(tensor(x.clone(), &[rows, width]));
            let weight = Weight::new(tensor(m.clone(), &[width]), Some(0));
            let y = scaled_columns(&tape, &leaf, &weight, &lengths, 1.0).unwrap();
            let mut gradients = Gradients::on_device(vec![width]);
            if fused(&[&seed]) {
                gradients = Gradients::new(vec![width]);
            }
            let found = tape
                .backward_to(&[&leaf], vec![(y, seed.clone())], &mut gradients)
                .unwrap();
            let dm = match gradients.tensor(0) {
                Some(tensor) => tensor.to_vec1().unwrap(),
                None => gradients.get(0).unwrap().to_vec(),
            };
            (found[0].flatten_all().unwrap().to_vec1().unwrap(), dm)
        };
        let (dx, dm) = gradients();
        let h = 1e-2f32;
        for place in [0, 64, width - 1] {
            let nudged = |of: &[f32], by: f32| {
                let mut of = of.to_vec();
                of[place] += by;
                of
            };
            // The function is linear in either, so the step may be large.
            let slope =
                (value(&nudged(&x, h), &m) - value(&nudged(&x, -h), &m)) / f64::from(2.0 * h);
            assert!((slope - f64::from(dx[place])).abs() < 1e-3, "{slope}");
            let slope =
                (value(&x, &nudged(&m, h)) - value(&x, &nudged(&m, -h))) / f64::from(2.0 * h);
            assert!((slope - f64::from(dm[place])).abs() < 1e-3, "{slope}");
        }
        let _twins = twins_only();
        let (twin_x, twin_m) = gradients();
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near(&dx, &twin_x) && near(&dm, &twin_m));
    }
}
