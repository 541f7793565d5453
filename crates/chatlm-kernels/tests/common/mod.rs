//! What the tests of the operators share: random inputs, candle's autograd as the reference, finite
//! differences.
#![allow(dead_code, reason = "every file of tests uses its part")]
#![expect(clippy::unwrap_used, reason = "tests")]

pub(crate) mod attend;
pub(crate) mod block;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var};
use chatlm_job::Random;
use chatlm_kernels::testing::device;
use chatlm_kernels::{DropoutKeys, Gradients, Precision, Rows, Tape, Value, Weight, dropout};

pub(crate) const WIDTHS: [usize; 5] = [1, 3, 17, 64, 513];
pub(crate) const HEIGHTS: [usize; 3] = [1, 3, 17];
/// ‖difference‖ / ‖reference‖ that f32 may have.
pub(crate) const NEAR: f64 = 1e-5;

/// A result, then the gradients of all inputs, then those of all weights. An f32 is an f64 too, so
/// equal bits stay equal.
pub(crate) type Found = Vec<Vec<f64>>;

pub(crate) fn random(key: u64, shape: &[usize]) -> Tensor {
    let mut random = Random::new(key);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| random.normal() as f32).collect();
    Tensor::from_vec(values, shape, &device()).unwrap()
}

pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn bits(found: &Found) -> Vec<Vec<u64>> {
    let bits = |values: &Vec<f64>| values.iter().map(|value| value.to_bits()).collect();
    found.iter().map(bits).collect()
}

/// The gradient that flows into a result: uneven, and a function of its shape alone.
pub(crate) fn seed(y: &Tensor) -> Tensor {
    random(99, y.dims()).to_dtype(y.dtype()).unwrap()
}

pub(crate) fn rows(lengths: &[usize]) -> Arc<Rows> {
    Arc::new(Rows::new(lengths))
}

pub(crate) fn dropout_keys(rows: usize) -> DropoutKeys {
    DropoutKeys {
        rows: (0..rows as u64).map(|row| row * 77 + 5).collect(),
        rate: 0.3,
    }
}

/// What dropout multiplies the values of each place by, in f64; ones without keys.
pub(crate) fn factors(
    rows: &Arc<Rows>,
    width: usize,
    keys: Option<&DropoutKeys>,
    site: u64,
) -> Tensor {
    let ones = Tensor::ones((rows.places(), width), DType::F32, &device()).unwrap();
    let tape = Tape::off(Precision::F32);
    let dropped = dropout(
        &tape,
        &Value::constant(ones),
        rows,
        keys.map(|keys| (keys, site)),
    );
    let kept = values(dropped.unwrap().tensor()).into_iter();
    let scale = 1.0 / (1.0 - keys.map_or(0.0, |keys| keys.rate));
    let exact: Vec<f64> = kept
        .map(|kept| if kept > 0.0 { scale } else { 0.0 })
        .collect();
    Tensor::from_vec(exact, (rows.places(), width), &device()).unwrap()
}

/// Weights that are all trained.
pub(crate) fn trained(weights: &[&Tensor]) -> Vec<Weight> {
    let weights = weights.iter().enumerate();
    weights
        .map(|(index, &weight)| Weight::new(weight.clone(), Some(index)))
        .collect()
}

pub(crate) fn sizes(weights: &[&Tensor]) -> Vec<usize> {
    weights.iter().map(|weight| weight.elem_count()).collect()
}

/// The gradients of all weights, zeros where none came.
pub(crate) fn gathered(gradients: &Gradients<'_>, weights: &[&Tensor]) -> Found {
    let weights = weights.iter().enumerate();
    weights
        .map(|(index, weight)| match gradients.get(index) {
            Some(found) => found.iter().map(|&value| f64::from(value)).collect(),
            None => vec![0.0; weight.elem_count()],
        })
        .collect()
}

/// An operator forward and backward on a tape, its result getting the gradient `seed`.
pub(crate) fn taped(
    precision: Precision,
    (inputs, weights): (&[&Tensor], &[&Tensor]),
    seed: impl Fn(&Tensor) -> Tensor,
    run: impl Fn(&Tape, &[Value], &[Weight]) -> Result<Value>,
) -> Found {
    let tape = Tape::new(precision);
    let leaves: Vec<Value> = inputs.iter().map(|&x| tape.leaf(x.clone())).collect();
    let mut gradients = Gradients::new(sizes(weights));
    let y = run(&tape, &leaves, &trained(weights)).unwrap();
    let mut found = vec![values(y.tensor())];
    let seeds = vec![(y.clone(), seed(y.tensor()))];
    let leaves: Vec<&Value> = leaves.iter().collect();
    let to_inputs = tape.backward_to(&leaves, seeds, &mut gradients).unwrap();
    found.extend(to_inputs.iter().map(values));
    found.extend(gathered(&gradients, weights));
    found
}

pub(crate) fn kernels(
    inputs: &[&Tensor],
    weights: &[&Tensor],
    run: impl Fn(&Tape, &[Value], &[Weight]) -> Result<Value>,
) -> Found {
    taped(Precision::F32, (inputs, weights), seed, run)
}

fn wide(tensors: &[&Tensor]) -> Vec<Tensor> {
    let wide = |t: &&Tensor| t.to_dtype(DType::F64).unwrap();
    tensors.iter().map(wide).collect()
}

/// The same by candle's operators in f64 and candle's autograd.
pub(crate) fn reference(
    inputs: &[&Tensor],
    weights: &[&Tensor],
    run: impl Fn(&[Tensor], &[Tensor]) -> Result<Tensor>,
) -> Found {
    let vars = |tensors: &[&Tensor]| -> Vec<Var> {
        let wide = wide(tensors);
        wide.iter().map(|t| Var::from_tensor(t).unwrap()).collect()
    };
    let tensors =
        |vars: &[Var]| -> Vec<Tensor> { vars.iter().map(|var| var.as_tensor().clone()).collect() };
    let (inputs, weights) = (vars(inputs), vars(weights));
    let y = run(&tensors(&inputs), &tensors(&weights)).unwrap();
    let loss = (&y * seed(&y)).unwrap().sum_all().unwrap();
    let store = loss.backward().unwrap();
    let gradients = inputs
        .iter()
        .chain(&weights)
        .map(|var| match store.get(var) {
            Some(gradient) => values(gradient),
            None => vec![0.0; var.elem_count()],
        });
    std::iter::once(values(&y)).chain(gradients).collect()
}

/// ‖a − b‖ below the tolerance's share of ‖b‖, for all that was found. Of a reference that is
/// almost nothing, rounding may be a larger share.
pub(crate) fn close(what: &str, a: &Found, b: &Found, tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (n, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.len(), b.len(), "{what}, {n}");
        let norm = |squares: f64| squares.sqrt();
        let wrong = norm(a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum());
        let right = norm(b.iter().map(|b| b.powi(2)).sum());
        assert!(
            wrong <= tolerance * right.max(0.05),
            "{what}, {n} (0 is the value, then gradients): off by {wrong} of {right}"
        );
    }
}

/// The kernels, and the path of devices without kernels, against the reference.
pub(crate) fn twins(
    what: &str,
    inputs: &[&Tensor],
    weights: &[&Tensor],
    ours: impl Fn(&Tape, &[Value], &[Weight]) -> Result<Value>,
    theirs: impl Fn(&[Tensor], &[Tensor]) -> Result<Tensor>,
) {
    let expected = reference(inputs, weights, theirs);
    close(what, &kernels(inputs, weights, &ours), &expected, NEAR);
    // There is no kernel for f64.
    let (inputs, weights) = (wide(inputs), wide(weights));
    let (inputs, weights): (Vec<_>, Vec<_>) = (inputs.iter().collect(), weights.iter().collect());
    let twin = kernels(&inputs, &weights, &ours);
    close(&format!("{what} without a kernel"), &twin, &expected, NEAR);
}

/// The slope of `loss` along one value of a tensor, by five points.
pub(crate) fn slope(tensor: &Tensor, place: usize, loss: impl Fn(&Tensor) -> f64) -> f64 {
    const STEP: f64 = 1e-2;
    let start: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let at = |steps: f64| {
        let mut moved = start.clone();
        moved[place] += (steps * STEP) as f32;
        loss(&Tensor::from_vec(moved, tensor.shape(), &device()).unwrap())
    };
    (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP)
}

pub(crate) fn same_slope(what: &str, place: usize, found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-3 * (1.0 + expected.abs()),
        "{what} at {place}: {found} and {expected}"
    );
}

/// Every gradient of every input and weight against finite differences.
pub(crate) fn differences(
    what: &str,
    inputs: &[&Tensor],
    weights: &[&Tensor],
    run: impl Fn(&Tape, &[Value], &[Weight]) -> Result<Value>,
) {
    let found = kernels(inputs, weights, &run);
    let all: Vec<&Tensor> = inputs.iter().chain(weights).copied().collect();
    for ((n, tensor), gradient) in all.iter().enumerate().zip(&found[1..]) {
        for (place, &gradient) in gradient.iter().enumerate() {
            let expected = slope(tensor, place, |moved| {
                let tape = Tape::off(Precision::F32);
                let mut all = all.clone();
                all[n] = moved;
                let (inputs, weights) = all.split_at(inputs.len());
                let inputs: Vec<Value> =
                    inputs.iter().map(|&x| Value::constant(x.clone())).collect();
                let y = run(&tape, &inputs, &trained(weights)).unwrap();
                let pairs = values(y.tensor())
                    .into_iter()
                    .zip(values(&seed(y.tensor())));
                pairs.map(|(y, seed)| y * seed).sum()
            });
            same_slope(&format!("{what}, {n}"), place, gradient, expected);
        }
    }
}
