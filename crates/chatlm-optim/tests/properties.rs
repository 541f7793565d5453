//! Threads, vector widths and checkpoints change no bit.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use chatlm_optim::{Optimizer, OptimizerConfig, squared_norm};
use proptest::prelude::*;

const ADAMW: OptimizerConfig = OptimizerConfig::AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.01,
    scale_parameter: false,
};
const ADAFACTOR: OptimizerConfig = OptimizerConfig::Adafactor {
    relative_step: false,
    scale_parameter: true,
    warmup_init: false,
    weight_decay: 0.01,
};
const SCALE: f32 = 0.37;
const RATE: f64 = 1e-2;

/// Pseudorandom values in [-1, 1).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn in_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(work)
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn optimizer(config: OptimizerConfig, shape: &[usize]) -> Optimizer {
    Optimizer::new(config, &[("w".to_owned(), shape.to_vec())])
}

/// A step whose gradient is that of `step`.
fn take_step(optimizer: &mut Optimizer, weights: &mut [f32], step: u64) {
    let gradient = values(weights.len(), 100 + step);
    optimizer.begin_step();
    optimizer.update(0, weights, &gradient, SCALE, RATE);
}

/// Bits of the weights after `steps` steps, and of the state.
fn train(config: OptimizerConfig, shape: &[usize], seed: u64, steps: u64) -> Vec<Vec<u32>> {
    let mut weights = values(count(shape), seed);
    let mut optimizer = optimizer(config, shape);
    for step in 0..steps {
        take_step(&mut optimizer, &mut weights, seed + step);
    }
    let mut all = vec![bits(&weights)];
    for (name, tensor) in optimizer.state().unwrap() {
        if name != "step" {
            all.push(bits(&tensor.flatten_all().unwrap().to_vec1().unwrap()));
        }
    }
    all
}

/// Small shapes with every edge, and some of several tasks.
fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        (0usize..700).prop_map(|n| vec![n]),
        (0usize..70_000).prop_map(|n| vec![n]),
        (0usize..40, 0usize..40).prop_map(|(r, c)| vec![r, c]),
        (1usize..400, 1usize..600).prop_map(|(r, c)| vec![r, c]),
        Just(vec![3, 40_000]),
        Just(vec![70_000, 1]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn threads_change_no_bit(shape in shapes(), seed in 0u64..1000) {
        for config in [ADAMW, ADAFACTOR] {
            let one = in_threads(1, || train(config, &shape, seed, 3));
            for threads in [2, 4] {
                prop_assert!(one == in_threads(threads, || train(config, &shape, seed, 3)));
            }
        }
        let all = values(count(&shape), seed);
        let one = in_threads(1, || squared_norm(&all));
        for threads in [2, 4] {
            prop_assert_eq!(one.to_bits(), in_threads(threads, || squared_norm(&all)).to_bits());
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_to_the_bit(shape in shapes(), seed in 0u64..1000, steps in 0u64..4) {
        for config in [ADAMW, ADAFACTOR] {
            let mut weights = values(count(&shape), seed);
            let mut one = optimizer(config, &shape);
            for step in 0..steps {
                take_step(&mut one, &mut weights, step);
            }
            let mut two = optimizer(config, &shape);
            two.load_state(&mut &one.state().unwrap()).unwrap();
            prop_assert_eq!(two.steps(), steps);
            let mut restored = weights.clone();
            take_step(&mut one, &mut weights, steps);
            take_step(&mut two, &mut restored, steps);
            prop_assert!(bits(&weights) == bits(&restored));
        }
    }

    /// This loop is compiled for the narrowest vectors, the crate's runs on the widest.
    #[test]
    fn adamw_is_its_formula_to_the_bit(size in 0usize..2000, seed in 0u64..1000) {
        let mut weights = values(size, seed);
        let mut expected = weights.clone();
        let (mut first, mut second) = (vec![0.0f32; size], vec![0.0f32; size]);
        let mut optimizer = optimizer(ADAMW, &[size]);
        for step in 1..=3u64 {
            let gradient = values(size, 100 + step);
            take_step(&mut optimizer, &mut weights, step);
            let keep = (1.0 - RATE * 0.01) as f32;
            let size = (RATE / (1.0 - 0.9f64.powi(step as i32))) as f32;
            let root = (1.0 - 0.999f64.powi(step as i32)).sqrt() as f32;
            let (rest1, rest2) = ((1.0 - 0.9f64) as f32, (1.0 - 0.999f64) as f32);
            for (at, w) in expected.iter_mut().enumerate() {
                let g = SCALE * gradient[at];
                let (m, v) = (&mut first[at], &mut second[at]);
                *m = 0.9 * *m + rest1 * g;
                *v = 0.999 * *v + rest2 * g * g;
                *w = *w * keep - size * *m / (v.sqrt() / root + 1e-8);
            }
            prop_assert!(bits(&weights) == bits(&expected));
        }
    }

    #[test]
    fn the_norm_is_that_of_f64(size in 0usize..100_000, seed in 0u64..1000) {
        let all = values(size, seed);
        let plain: f64 = all.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        prop_assert!((squared_norm(&all) - plain).abs() <= 1e-12 * plain);
    }

    #[test]
    fn what_is_not_finite_is_carried_through(size in 1usize..100_000, at in any::<prop::sample::Index>()) {
        let mut all = values(size, 1);
        all[at.index(size)] = f32::INFINITY;
        prop_assert!(squared_norm(&all).is_infinite());
        all[at.index(size)] = f32::NAN;
        prop_assert!(squared_norm(&all).is_nan());
        // A square that no f32 holds.
        all[at.index(size)] = f32::MAX;
        prop_assert!(squared_norm(&all).is_finite());
    }
}

#[test]
fn small_slices_work() {
    for shape in [
        &[][..],
        &[0],
        &[1],
        &[3],
        &[17],
        &[513],
        &[0, 5],
        &[5, 0],
        &[1, 1],
        &[27, 19],
    ] {
        for config in [ADAMW, ADAFACTOR] {
            let start = values(count(shape), 7);
            let mut weights = start.clone();
            let mut optimizer = optimizer(config, shape);
            take_step(&mut optimizer, &mut weights, 1);
            // The first step moves every weight against its gradient.
            let gradient = values(weights.len(), 101);
            for ((after, before), g) in weights.iter().zip(&start).zip(gradient) {
                assert!(after.is_finite());
                assert!((before - after) * g > -2e-4 * g.abs(), "{shape:?}");
                assert!((before - after).abs() > 0.0);
            }
        }
    }
}

/// As in transformers: a NaN anywhere is a NaN everywhere, through the update's root mean square.
#[test]
fn a_nan_spreads_in_adafactor() {
    for shape in [&[40][..], &[5, 8]] {
        let mut weights = values(40, 1);
        let mut gradient = values(40, 2);
        gradient[11] = f32::NAN;
        let mut optimizer = optimizer(ADAFACTOR, shape);
        optimizer.begin_step();
        optimizer.update(0, &mut weights, &gradient, 1.0, RATE);
        assert!(weights.iter().all(|w| w.is_nan()));
    }
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let names = [("a".to_owned(), vec![4, 3]), ("b".to_owned(), vec![3])];
    for config in [ADAMW, ADAFACTOR] {
        let mut optimizer = Optimizer::new(config, &names);
        optimizer.begin_step();
        optimizer.update(0, &mut values(12, 1), &values(12, 2), 1.0, RATE);
        let good = optimizer.state().unwrap();
        let read = |state: &BTreeMap<String, Tensor>| -> Vec<Vec<u32>> {
            let rest = state.iter().filter(|(name, _)| *name != "step");
            rest.map(|(_, t)| bits(&t.flatten_all().unwrap().to_vec1().unwrap()))
                .collect()
        };
        let mut fresh = Optimizer::new(config, &names);
        let before = read(&fresh.state().unwrap());
        for name in good.keys() {
            let mut bad = good.clone();
            bad.remove(name);
            assert!(fresh.load_state(&mut &bad).is_err());
            bad.insert(
                name.clone(),
                Tensor::new(&[1.5f64; 7], &Device::Cpu).unwrap(),
            );
            assert!(fresh.load_state(&mut &bad).is_err());
        }
        assert_eq!(fresh.steps(), 0);
        assert!(before == read(&fresh.state().unwrap()));
        fresh.load_state(&mut &good).unwrap();
        assert!(read(&good) == read(&fresh.state().unwrap()));
    }
}
