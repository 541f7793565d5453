//! Attention over rows of different lengths against candle's own operators.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use candle_core::Tensor;
use chatlm_kernels::{Precision, RelativeBias, Tape, Value, Weight, attention};
use proptest::prelude::*;

use common::attend::Attend;
use common::{close, kernels, random, reference, rows, taped, twins, values};

fn is_its_twin(what: &str, attend: &Attend, width: usize) {
    let (inputs, weights) = (attend.inputs(width), attend.weights());
    let weights: Vec<&Tensor> = weights.iter().collect();
    twins(
        what,
        &inputs.each_ref(),
        &weights,
        |tape, x, w| attend.run(tape, x, w),
        |x, w| attend.plain(x, w),
    );
}

/// With and without bias, dropout and both.
fn in_all_ways(what: &str, attend: &Attend, width: usize) {
    is_its_twin(what, attend, width);
    is_its_twin(
        &format!("{what}, dropped"),
        &attend.clone().dropped(),
        width,
    );
    let biased = attend.clone().biased();
    is_its_twin(&format!("{what}, biased"), &biased, width);
    is_its_twin(
        &format!("{what}, biased and dropped"),
        &biased.dropped(),
        width,
    );
}

#[test]
fn over_a_rows_own_places() {
    // More than 128 queries are more than one block.
    for lengths in [vec![1], vec![3, 1], vec![17, 0, 3], vec![0, 130, 128, 0]] {
        for width in [1, 3, 8, 64] {
            for causal in [false, true] {
                let attend = Attend::own(2, &lengths, causal);
                in_all_ways(
                    &format!("{lengths:?} of {width}, causal {causal}"),
                    &attend,
                    width,
                );
            }
        }
    }
}

#[test]
fn over_three_blocks() {
    for causal in [false, true] {
        let attend = Attend::own(3, &[300, 3], causal);
        in_all_ways(&format!("300, causal {causal}"), &attend, 8);
    }
}

#[test]
fn over_other_rows() {
    // Empty rows of queries, of keys, and of both.
    for (queries, keys) in [
        (vec![1], vec![17]),
        (vec![17, 0, 3, 0], vec![3, 5, 0, 0]),
        (vec![130, 1, 3], vec![17, 300, 130]),
        (vec![300], vec![130]),
        (vec![0, 3], vec![3, 0]),
    ] {
        for width in [3, 8, 64] {
            let attend = Attend::cross(2, &queries, &keys, false);
            in_all_ways(
                &format!("{queries:?} over {keys:?} of {width}"),
                &attend,
                width,
            );
        }
    }
}

#[test]
fn an_empty_row_of_keys_gives_zeros_and_gets_none() {
    let attend = Attend::cross(2, &[3, 2], &[0, 4], false).biased().dropped();
    let (inputs, weights) = (attend.inputs(5), attend.weights());
    let [y, dq, dk, dv, _] = &kernels(&inputs.each_ref(), &[&weights[0]], |tape, x, w| {
        attend.run(tape, x, w)
    })[..] else {
        panic!("a value and four gradients")
    };
    for values in [y, dq] {
        assert!(values[..3 * 10].iter().all(|&value| value == 0.0));
    }
    assert!(y[3 * 10..].iter().all(|&value| value != 0.0));
    assert!(dk.iter().chain(dv).all(|value| value.is_finite()));
}

#[test]
fn no_places_at_all_are_no_trouble() {
    for (queries, keys) in [
        (vec![], vec![]),
        (vec![0, 0], vec![0, 0]),
        (vec![0, 0], vec![3, 0]),
        (vec![2, 0], vec![0, 0]),
    ] {
        let attend = Attend::cross(2, &queries, &keys, false).biased().dropped();
        let (inputs, weights) = (attend.inputs(3), attend.weights());
        let found = kernels(&inputs.each_ref(), &[&weights[0]], |tape, x, w| {
            attend.run(tape, x, w)
        });
        assert!(
            found.iter().flatten().all(|&value| value == 0.0),
            "{queries:?} over {keys:?}"
        );
    }
}

#[test]
fn its_products_stay_in_f32() {
    let attend = Attend::own(2, &[9, 4], true).biased();
    let (inputs, weights) = (attend.inputs(8), attend.weights());
    let expected = reference(&inputs.each_ref(), &[&weights[0]], |x, w| {
        attend.plain(x, w)
    });
    let found = taped(
        Precision::Bf16,
        (&inputs.each_ref(), &[&weights[0]]),
        common::seed,
        |tape, x, w| attend.run(tape, x, w),
    );
    close("on a bf16 tape", &found, &expected, common::NEAR);
}

#[test]
fn large_scores_do_not_overflow() {
    let attend = Attend::own(1, &[5, 2], true).biased();
    let mut inputs = attend.inputs(4);
    // Scores of some thousands: the softmax is all but one-hot.
    inputs[0] = (&inputs[0] * 60.0).unwrap();
    inputs[1] = (&inputs[1] * 60.0).unwrap();
    let weights = attend.weights();
    let found = kernels(&inputs.each_ref(), &[&weights[0]], |tape, x, w| {
        attend.run(tape, x, w)
    });
    let expected = reference(&inputs.each_ref(), &[&weights[0]], |x, w| {
        attend.plain(x, w)
    });
    close(
        "large scores",
        &found[..1].to_vec(),
        &expected[..1].to_vec(),
        1e-3,
    );
    assert!(found.iter().flatten().all(|value| value.is_finite()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let run = |heads, queries: &[usize], keys: &[usize], causal, longest: usize| {
        let tape = Tape::new(Precision::F32);
        let value = |places| Value::constant(random(1, &[places, 6]));
        let bias = RelativeBias {
            weight: Weight::new(random(2, &[4, 2]), None),
            buckets: Arc::new(vec![1; 2 * longest - 1]),
        };
        attention(
            &tape,
            (&value(3), &value(4), &value(4)),
            heads,
            Some(&bias),
            &rows(queries),
            &rows(keys),
            causal,
            None,
        )
    };
    assert!(run(2, &[1, 2], &[2, 2], false, 2).is_ok());
    assert!(run(0, &[1, 2], &[2, 2], false, 2).is_err());
    // The bias has two heads; four do not divide six.
    assert!(run(3, &[1, 2], &[2, 2], false, 2).is_err());
    assert!(run(4, &[1, 2], &[2, 2], false, 2).is_err());
    assert!(run(2, &[1, 1], &[2, 2], false, 2).is_err());
    assert!(run(2, &[1, 2], &[2, 1], false, 2).is_err());
    assert!(run(2, &[3], &[2, 2], false, 2).is_err());
    assert!(run(2, &[1, 2], &[2, 2], true, 2).is_err());
    assert!(run(2, &[1, 2], &[1, 3], false, 2).is_err());
}

#[test]
fn a_query_knows_no_later_key() {
    let attend = Attend::own(2, &[140], true).biased();
    let inputs = attend.inputs(4);
    let weights = attend.weights();
    let run = |inputs: &[Tensor; 3]| values_of(&attend, inputs, &weights[0])[..100 * 8].to_vec();
    let before = run(&inputs);
    let changed = inputs.clone().map(|x| {
        let early = x.narrow(0, 0, 100).unwrap();
        Tensor::cat(&[early, (x.narrow(0, 100, 40).unwrap() * 3.0).unwrap()], 0).unwrap()
    });
    assert!(before == run(&changed));
}

fn values_of(attend: &Attend, inputs: &[Tensor; 3], weight: &Tensor) -> Vec<f64> {
    let inputs = inputs.clone().map(Value::constant);
    let weight = Weight::new(weight.clone(), None);
    let y = attend
        .run(&Tape::off(Precision::F32), &inputs, &[weight])
        .unwrap();
    values(y.tensor())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_rows_are_their_twin(
        lengths in proptest::collection::vec((0usize..20, 0usize..20), 1..6),
        heads in 1usize..4,
        width in 1usize..10,
        kind in 0usize..3,
        biased: bool,
        dropped: bool,
    ) {
        let (queries, keys): (Vec<usize>, Vec<usize>) = lengths.into_iter().unzip();
        let mut attend = match kind {
            0 => Attend::cross(heads, &queries, &keys, false),
            kind => Attend::own(heads, &queries, kind == 1),
        };
        if biased {
            attend = attend.biased();
        }
        if dropped {
            attend = attend.dropped();
        }
        is_its_twin("attention", &attend, width);
    }
}
