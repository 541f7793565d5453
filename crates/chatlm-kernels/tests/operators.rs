//! Every operator against its plain twin (values and gradients), against finite differences, and
//! for any number of threads.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{Device, Tensor};
use chatlm_kernels::{
    DropoutKeys, attention_probabilities, cross_entropy, dropout, linear, log_probabilities, plain,
    rms_norm,
};
use proptest::prelude::*;

use common::{any_threads, bits, differences, random, twins, values};

const MASK: [u8; 6] = [1, 1, 1, 1, 0, 0];

fn mask() -> Tensor {
    Tensor::from_slice(&MASK, (2, 3), &Device::Cpu).unwrap()
}

fn targets() -> Tensor {
    Tensor::new(&[3u32, 0, 5, 16], &Device::Cpu).unwrap()
}

#[test]
fn operators_are_their_twins() {
    for (rows, width) in [(1, 1), (3, 17), (5, 513), (130, 64)] {
        let (x, w) = (random(1, &[rows, width]), random(2, &[width]));
        twins(
            "rms_norm",
            &[&x, &w],
            |t| rms_norm(t[0], t[1], 1e-6),
            |t| plain::rms_norm(t[0], t[1], 1e-6),
        );
        let w = random(3, &[7, width]);
        twins(
            "linear",
            &[&x, &w],
            |t| linear(t[0], t[1]),
            |t| plain::linear(t[0], t[1]),
        );
        let targets = Tensor::from_vec(
            (0..rows).map(|r| (r % width) as u32).collect(),
            rows,
            &Device::Cpu,
        )
        .unwrap();
        for smoothing in [0.0, 0.1] {
            twins(
                "cross_entropy",
                &[&x],
                |t| cross_entropy(t[0], &targets, 0, smoothing),
                |t| plain::cross_entropy(t[0], &targets, 0, smoothing),
            );
        }
        twins(
            "log_probabilities",
            &[&x],
            |t| log_probabilities(t[0], &targets, 0),
            |t| plain::log_probabilities(t[0], &targets, 0),
        );
    }
    let (s, b) = (random(4, &[2, 2, 3, 3]), random(5, &[1, 2, 3, 3]));
    for causal in [false, true] {
        for mask in [None, Some(mask())] {
            twins(
                "attention",
                &[&s, &b],
                |t| attention_probabilities(t[0], Some(t[1]), mask.as_ref(), causal),
                |t| plain::attention_probabilities(t[0], Some(t[1]), mask.as_ref(), causal),
            );
            twins(
                "attention without bias",
                &[&s],
                |t| attention_probabilities(t[0], None, mask.as_ref(), causal),
                |t| plain::attention_probabilities(t[0], None, mask.as_ref(), causal),
            );
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    let (x, w) = (random(11, &[4, 17]), random(12, &[17]));
    differences("rms_norm x", &x, |t| rms_norm(t, &w, 1e-6));
    differences("rms_norm weight", &w, |t| rms_norm(&x, t, 1e-6));
    let w = random(13, &[3, 17]);
    differences("linear x", &x, |t| linear(t, &w));
    differences("linear weight", &w, |t| linear(&x, t));
    differences("cross_entropy", &x, |t| {
        cross_entropy(t, &targets(), 0, 0.1)
    });
    differences("log_probabilities", &x, |t| {
        log_probabilities(t, &targets(), 0)
    });
    let (s, b) = (random(14, &[2, 2, 3, 3]), random(15, &[1, 2, 3, 3]));
    let m = mask();
    differences("attention scores", &s, |t| {
        attention_probabilities(t, Some(&b), Some(&m), true)
    });
    differences("attention bias", &b, |t| {
        attention_probabilities(&s, Some(t), Some(&m), true)
    });
    let keys = DropoutKeys {
        rows: vec![1, 2, 3, 4],
        rate: 0.4,
    };
    differences("dropout", &x, |t| dropout(t, &keys, 9));
}

#[test]
fn a_query_that_may_see_nothing_gets_zeros() {
    let s = random(1, &[1, 1, 2, 3]);
    let mask = Tensor::zeros((1, 3), candle_core::DType::U8, &Device::Cpu).unwrap();
    let p = attention_probabilities(&s, None, Some(&mask), false).unwrap();
    assert_eq!(values(&p), [0.0; 6]);
}

#[test]
fn one_and_three_threads_give_the_same_bits() {
    any_threads("norm, linear, cross-entropy", || {
        let (x, w, o) = (
            random(1, &[300, 64]),
            random(2, &[64]),
            random(3, &[700, 64]),
        );
        let logits = linear(&rms_norm(&x, &w, 1e-6).unwrap(), &o).unwrap();
        let targets: Vec<u32> = (0..300u32).collect();
        let targets = Tensor::from_vec(targets, 300, &Device::Cpu).unwrap();
        bits(
            &[&x, &w, &o],
            &cross_entropy(&logits, &targets, 0, 0.1).unwrap(),
        )
    });
    any_threads("log-probabilities", || {
        let x = random(1, &[300, 700]);
        let targets = Tensor::from_vec((0..300u32).collect::<Vec<_>>(), 300, &Device::Cpu).unwrap();
        bits(&[&x], &log_probabilities(&x, &targets, 0).unwrap())
    });
    // As large as gemm needs to use its threads, its blocks and its edges.
    any_threads("a large product", || {
        let (x, w) = (random(1, &[517, 300]), random(2, &[1030, 300]));
        bits(&[&x, &w], &linear(&x, &w).unwrap())
    });
}

proptest! {
    #[test]
    fn dropout_drops_its_share_and_knows_no_padding(key: u64, site: u64, rate in 0.0f64..0.9) {
        let ones = Tensor::ones((1, 40, 50), candle_core::DType::F32, &Device::Cpu).unwrap();
        let keys = DropoutKeys { rows: vec![key], rate };
        let whole = values(&dropout(&ones, &keys, site).unwrap());
        let dropped = whole.iter().filter(|&&v| v == 0.0).count() as f64 / 2000.0;
        prop_assert!((dropped - rate).abs() < 0.08, "{} of {}", dropped, rate);
        // A shorter row in a batch with another: the same values are dropped.
        let short = ones.narrow(1, 0, 13).unwrap();
        let two = Tensor::cat(&[&short, &short], 0).unwrap();
        let keys = DropoutKeys { rows: vec![key ^ 1, key], rate };
        let both = values(&dropout(&two, &keys, site).unwrap());
        prop_assert_eq!(&both[13 * 50..], &whole[..13 * 50]);
    }
}
