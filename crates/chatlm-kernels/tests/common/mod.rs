//! What the tests of the operators share: random inputs, twins, finite differences.
#![expect(clippy::unwrap_used, reason = "tests")]

use candle_core::{Device, Result, Tensor, Var};
use chatlm_job::Random;

pub(crate) fn random(key: u64, shape: &[usize]) -> Var {
    let mut random = Random::new(key);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| random.normal() as f32).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

pub(crate) fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn close(a: &Tensor, b: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    for (x, y) in values(a).iter().zip(values(b)) {
        assert!(
            (x - y).abs() <= tolerance * (1.0 + y.abs()),
            "{what}: {x} and {y}"
        );
    }
}

/// A scalar of `y` that weights its values unevenly.
pub(crate) fn scalar(y: &Tensor) -> Result<Tensor> {
    let weights: Vec<f32> = (0..y.elem_count())
        .map(|i| ((i * 7 % 11) as f32 - 4.0) / 5.0)
        .collect();
    (y * Tensor::from_vec(weights, y.shape(), y.device())?)?.sum_all()
}

/// Values and gradients of two ways to compute the same.
pub(crate) fn twins(
    what: &str,
    inputs: &[&Var],
    ours: impl Fn(&[&Tensor]) -> Result<Tensor>,
    theirs: impl Fn(&[&Tensor]) -> Result<Tensor>,
) {
    let tensors: Vec<&Tensor> = inputs.iter().map(|v| v.as_tensor()).collect();
    let (a, b) = (ours(&tensors).unwrap(), theirs(&tensors).unwrap());
    close(&a, &b, 2e-5, what);
    let (ga, gb) = (
        scalar(&a).unwrap().backward().unwrap(),
        scalar(&b).unwrap().backward().unwrap(),
    );
    for (n, v) in inputs.iter().enumerate() {
        close(
            ga.get(v).unwrap(),
            gb.get(v).unwrap(),
            1e-4,
            &format!("{what}, gradient {n}"),
        );
    }
}

/// The gradient of `run` at each value of `input` against a central difference.
pub(crate) fn differences(what: &str, input: &Var, run: impl Fn(&Tensor) -> Result<Tensor>) {
    let loss = |t: &Tensor| scalar(&run(t).unwrap()).unwrap();
    let grads = loss(input).backward().unwrap();
    let grads = values(grads.get(input).unwrap());
    let start = values(input);
    for place in 0..start.len() {
        let at = |step: f32| {
            let mut moved = start.clone();
            moved[place] += step;
            let t = Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap();
            f64::from(loss(&t).to_scalar::<f32>().unwrap())
        };
        let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
        let error = (f64::from(grads[place]) - expected).abs();
        assert!(
            error < 5e-3 * (1.0 + expected.abs()),
            "{what} at {place}: {} and {expected}",
            grads[place]
        );
    }
}

/// The bits of a computation's values and of its gradients.
pub(crate) fn bits(inputs: &[&Var], y: &Tensor) -> Vec<Vec<u32>> {
    let grads = scalar(y).unwrap().backward().unwrap();
    let tensors = inputs.iter().map(|v| grads.get(v).unwrap());
    std::iter::once(y)
        .chain(tensors)
        .map(|t| values(t).iter().map(|f| f.to_bits()).collect())
        .collect()
}

/// `run` must give the same with one thread and with three.
pub(crate) fn any_threads<R: PartialEq + Send>(what: &str, run: impl Fn() -> R + Sync) {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    assert!(pool(1).install(&run) == pool(3).install(&run), "{what}");
}
