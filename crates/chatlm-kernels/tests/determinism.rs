//! Threads change no bit, and neither do neighbours where no reduction crosses rows.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{Result, Tensor};
use chatlm_kernels::testing::device;
use chatlm_kernels::{
    Drop, DropoutKeys, Gradients, Precision, Projection, Tape, Value, Weight,
    attention_probabilities, dropout, embedding, gated_gelu, linear, relu, residual, rms_norm,
};
use proptest::prelude::*;

use common::attend::Attend;
use common::block::Block;
use common::{
    Found, bits, dropout_keys, factors, gathered, kernels, random, rows, seed, taped, values,
};

/// `run` must give the same bits with one, two and four threads.
fn any_threads(what: &str, run: impl Fn() -> Found + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        bits(&pool.build().unwrap().install(&run))
    };
    let alone = on(1);
    assert!(alone == on(2), "{what}: two threads");
    assert!(alone == on(4), "{what}: four threads");
}

#[test]
fn threads_change_no_bit_of_operators_over_places() {
    // Large enough for several tasks, with edges.
    let (x, y) = (random(1, &[301, 130]), random(2, &[301, 130]));
    let (rows, keys) = (rows(&[200, 0, 101]), dropout_keys(3));
    any_threads("what drops", || {
        kernels(&[&x, &y], &[], |tape, x, _| {
            let drop = Some((&keys, 1));
            let z = residual(tape, &x[0], &x[1], &rows, drop)?;
            let z = gated_gelu(tape, &z, &x[1], &rows, drop)?;
            dropout(tape, &relu(tape, &z, &rows, drop)?, &rows, drop)
        })
    });
    any_threads("rms_norm", || {
        kernels(&[&x], &[&random(3, &[130])], |tape, x, w| {
            rms_norm(tape, &x[0], &w[0], 1e-6)
        })
    });
    let ids: Vec<u32> = (0..700u32).map(|place| place * place % 97).collect();
    let ids = Tensor::new(ids, &device()).unwrap();
    any_threads("embedding", || {
        kernels(&[], &[&random(4, &[97, 200])], |tape, _, w| {
            embedding(tape, &w[0], &ids)
        })
    });
}

#[test]
fn threads_change_no_bit_of_products() {
    for (places, inner, out) in [(3, 300, 1030), (517, 300, 530), (70, 64, 4200)] {
        let (x, w) = (random(1, &[places, inner]), random(2, &[out, inner]));
        for precision in [Precision::F32, Precision::Bf16] {
            any_threads("linear", || {
                taped(precision, (&[&x], &[&w]), seed, |tape, x, w| {
                    linear(tape, &x[0], &w[0], 0.3)
                })
            });
        }
    }
}

#[test]
fn threads_change_no_bit_of_attention() {
    for attend in [
        Attend::own(3, &[140, 3, 0, 70], true),
        Attend::cross(3, &[140, 3, 0, 70], &[20, 0, 4, 300], false),
    ] {
        let attend = attend.biased().dropped();
        let (inputs, weights) = (attend.inputs(32), attend.weights());
        any_threads("attention", || {
            kernels(&inputs.each_ref(), &[&weights[0]], |tape, x, w| {
                attend.run(tape, x, w)
            })
        });
    }
    let scores = random(1, &[7, 5, 3, 300]);
    any_threads("a decoder's probabilities", || {
        vec![values(
            &attention_probabilities(&scores, None, None).unwrap(),
        )]
    });
}

#[test]
fn threads_change_no_bit_of_a_projected_loss() {
    let (hidden, weight) = (random(1, &[700, 32]), random(2, &[9000, 32]));
    let targets: Vec<u32> = (0..700).map(|place| place * 13 % 9000).collect();
    let by: Vec<f32> = random(3, &[700]).to_vec1().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        any_threads("projected loss", || {
            let weight_of = Weight::new(weight.clone(), Some(0));
            let projection = Projection {
                weight: &weight_of,
                scale: 0.3,
                precision,
            };
            let mut gradients = Gradients::new(vec![weight.elem_count()]);
            let (loss, dx) = projection
                .cross_entropy_backward(&hidden, &targets, 0, 0.1, 1.0, &mut gradients)
                .unwrap();
            let also = projection
                .log_probabilities_backward(&hidden, &targets, 0, &by, &mut gradients)
                .unwrap();
            let scores = projection.log_probabilities(&hidden, &targets, 0).unwrap();
            let scores = scores.iter().map(|&score| f64::from(score)).collect();
            let found = vec![vec![loss], scores, values(&dx), values(&also)];
            [found, gathered(&gradients, &[&weight])].concat()
        });
    }
}

#[test]
fn threads_change_no_bit_of_a_model() {
    for recompute in [false, true] {
        let block = Block {
            recompute,
            ..Block::new(&[150, 0, 33, 2], true)
        };
        any_threads("model", || block.found(Precision::F32));
    }
}

const LENGTHS: [usize; 4] = [130, 4, 0, 7];
const WIDTH: usize = 33;

fn places(t: &Tensor, from: usize, count: usize) -> Tensor {
    t.narrow(0, from, count).unwrap().contiguous().unwrap()
}

/// Values and the inputs' gradients of each row alone must be those of the row among others.
fn knows_no_neighbours(
    what: &str,
    weights: &[&Tensor],
    run: impl Fn(&Tape, &[Value], &[Weight], &[usize], Drop<'_>) -> Result<Value>,
) {
    let total = LENGTHS.iter().sum();
    let inputs = [1, 2, 3].map(|key| random(key, &[total, WIDTH]));
    let flowing = random(9, &[total, WIDTH]);
    let keys = dropout_keys(LENGTHS.len());
    let all = taped(
        Precision::F32,
        (&inputs.each_ref(), weights),
        |_| flowing.clone(),
        |tape, x, w| run(tape, x, w, &LENGTHS, Some((&keys, 3))),
    );
    let mut from = 0;
    for (row, &length) in LENGTHS.iter().enumerate() {
        let own = inputs.each_ref().map(|x| places(x, from, length));
        let keys = DropoutKeys {
            rows: vec![keys.rows[row]],
            rate: keys.rate,
        };
        let alone = taped(
            Precision::F32,
            (&own.each_ref(), weights),
            |_| places(&flowing, from, length),
            |tape, x, w| run(tape, x, w, &[length], Some((&keys, 3))),
        );
        for n in 0..4 {
            let among = all[n][from * WIDTH..(from + length) * WIDTH].to_vec();
            let same = bits(&vec![alone[n].clone()]) == bits(&vec![among]);
            assert!(same, "{what}: row {row}, {n}");
        }
        from += length;
    }
}

#[test]
fn a_row_knows_no_neighbours() {
    let norm = random(4, &[WIDTH]);
    knows_no_neighbours("what drops", &[&norm], |tape, x, w, lengths, drop| {
        let rows = rows(lengths);
        let z = residual(tape, &x[0], &x[1], &rows, drop)?;
        let z = gated_gelu(tape, &z, &x[2], &rows, drop)?;
        let z = rms_norm(tape, &z, &w[0], 1e-6)?;
        dropout(tape, &relu(tape, &z, &rows, drop)?, &rows, drop)
    });
    for causal in [false, true] {
        let bias = random(5, &[common::attend::BUCKETS, 3]);
        knows_no_neighbours("attention", &[], |tape, x, _, lengths, drop| {
            let attend = Attend::own(3, lengths, causal).dropped_by(drop.map(|drop| drop.0));
            attend.run(tape, x, &[])
        });
        // A bias whose distances are those of the longest row.
        knows_no_neighbours("biased attention", &[&bias], |tape, x, w, lengths, drop| {
            let attend = Attend::own(3, lengths, causal).for_rows_of(130);
            attend.dropped_by(drop.map(|drop| drop.0)).run(tape, x, w)
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn dropout_drops_its_share_and_scales_the_rest(
        key: u64,
        site in 0u64..1000,
        rate in 0.0f64..0.9,
    ) {
        let keys = DropoutKeys { rows: vec![key], rate };
        let (whole, three, width) = (rows(&[40]), rows(&[7, 0, 13]), 50);
        let kept = |rows, keys: &DropoutKeys, site| values(&factors(rows, width, Some(keys), site));
        let found = kept(&whole, &keys, site);
        let dropped = found.iter().filter(|&&factor| factor == 0.0).count() as f64 / 2000.0;
        prop_assert!((dropped - rate).abs() < 0.08, "{} of {}", dropped, rate);
        let ones = Value::constant(Tensor::ones((40, width), candle_core::DType::F32, &device()).unwrap());
        let y = dropout(&Tape::off(Precision::F32), &ones, &whole, Some((&keys, site))).unwrap();
        let scale = f64::from((1.0 / (1.0 - rate)) as f32);
        let near = |value: f64| value == 0.0 || (value / scale - 1.0).abs() < 1e-6;
        prop_assert!(values(y.tensor()).into_iter().all(near));
        // A shorter row behind others loses the same values.
        let keys = DropoutKeys { rows: vec![key ^ 1, key ^ 2, key], rate };
        let behind = kept(&three, &keys, site);
        prop_assert_eq!(&behind[7 * width..], &found[..13 * width]);
        if rate > 0.1 {
            // Other keys, other sites and other places lose others.
            prop_assert_ne!(&behind[..7 * width], &found[..7 * width]);
            let other = DropoutKeys { rows: vec![key], rate };
            prop_assert_ne!(&kept(&whole, &other, site + 1), &found);
            prop_assert_ne!(&found[..width], &found[width..2 * width]);
        }
    }
}
