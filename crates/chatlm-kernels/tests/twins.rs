//! Operators over places against candle's own and candle's autograd, values and all gradients.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{DType, Tensor};
use chatlm_kernels::testing::device;
use chatlm_kernels::{
    Gradients, Precision, Projection, Weight, attention_probabilities, dropout, embedding,
    gated_gelu, has_kernels, linear, plain, relu, residual, rms_norm,
};

use common::attend::Attend;
use common::block::gelu;
use common::{
    Found, HEIGHTS, NEAR, WIDTHS, close, dropout_keys, factors, random, reference, rows, seed,
    taped, twins,
};

/// Every height and width.
fn shapes() -> impl Iterator<Item = (usize, usize)> {
    HEIGHTS
        .into_iter()
        .flat_map(|height| WIDTHS.into_iter().map(move |width| (height, width)))
}

#[test]
fn linear_is_its_twin() {
    for (height, inner) in shapes() {
        for out in WIDTHS {
            for scale in [1.0, 0.3] {
                let (x, w) = (random(1, &[height, inner]), random(2, &[out, inner]));
                twins(
                    &format!("linear ({height}, {inner}) to {out} times {scale}"),
                    &[&x],
                    &[&w],
                    |tape, x, w| linear(tape, &x[0], &w[0], scale),
                    |x, w| plain::linear(&x[0], &w[0])? * scale,
                );
            }
        }
    }
}

#[test]
fn linear_in_bf16_rounds_its_operands_and_nothing_else() {
    for (height, inner, out) in [(1, 513, 17), (3, 64, 513), (17, 17, 64), (17, 513, 3)] {
        let (x, w) = (random(1, &[height, inner]), random(2, &[out, inner]));
        let rounded = |t: &Tensor| {
            let narrow = t.to_dtype(DType::BF16).unwrap();
            narrow.to_dtype(t.dtype()).unwrap()
        };
        // Where there is no kernel, results may be rounded too.
        let kinds = [(2e-2, false), (NEAR, true)];
        let kinds = kinds
            .into_iter()
            .filter(|kind| !kind.1 || has_kernels(&device()));
        for (tolerance, exact) in kinds {
            let pick = |t: &Tensor| if exact { rounded(t) } else { t.clone() };
            let (x, w) = (pick(&x), pick(&w));
            let found = taped(
                Precision::Bf16,
                (&[&x], &[&w]),
                |y| pick(&seed(y)),
                |tape, x, w| linear(tape, &x[0], &w[0], 0.3),
            );
            let run = |x: &[Tensor], w: &[Tensor]| plain::linear(&x[0], &w[0])? * 0.3;
            let mut expected = reference(&[&x], &[&w], run);
            if exact {
                // The gradient that flows in is rounded too.
                let through = |x: &[Tensor], w: &[Tensor]| {
                    let y = run(x, w)?;
                    let seed = seed(&y);
                    &y * (rounded(&seed) / seed)?
                };
                let gradients = reference(&[&x], &[&w], through);
                expected.splice(1.., gradients.into_iter().skip(1));
            }
            close(
                &format!("({height}, {inner}) to {out}"),
                &found,
                &expected,
                tolerance,
            );
        }
    }
}

#[test]
fn f16_rounds_the_operands_of_products() {
    let (x, w) = (random(1, &[17, 64]), random(2, &[13, 64]));
    let attend = Attend::own(2, &[9, 4], true).biased().dropped();
    let (inputs, weights) = (attend.inputs(8), attend.weights());
    let check = |what: &str, found: Vec<Found>| {
        close(what, &found[1], &found[0], 2e-3);
        assert_ne!(common::bits(&found[0]), common::bits(&found[1]), "{what}");
    };
    let both = [Precision::F32, Precision::F16];
    let linear = |precision| {
        taped(precision, (&[&x], &[&w]), seed, |tape, x, w| {
            linear(tape, &x[0], &w[0], 0.3)
        })
    };
    check("linear", both.map(linear).into());
    let attention = |precision| {
        let inputs = inputs.each_ref();
        taped(precision, (&inputs, &[&weights[0]]), seed, |tape, x, w| {
            attend.run(tape, x, w)
        })
    };
    check("attention", both.map(attention).into());
    let loss = |precision| {
        let weight = Weight::new(w.clone(), Some(0));
        let projection = Projection {
            weight: &weight,
            scale: 0.3,
            precision,
        };
        let mut gradients = Gradients::new(vec![w.elem_count()]);
        let targets: Vec<u32> = (0..17).map(|place| place % 13).collect();
        let (loss, dx) = projection
            .cross_entropy_backward(&x, &targets, 5, 0.1, 1.0, &mut gradients)
            .unwrap();
        let dw = common::gathered(&gradients, &[&w]);
        [vec![vec![loss], common::values(&dx)], dw].concat()
    };
    check("loss", both.map(loss).into());
}

#[test]
fn rms_norm_is_its_twin() {
    for (height, width) in shapes() {
        // Of one value, without a large eps, nothing is left but its sign.
        for eps in if width == 1 { [0.3, 0.1] } else { [1e-6, 0.1] } {
            let (x, w) = (random(1, &[height, width]), random(2, &[width]));
            twins(
                &format!("rms_norm ({height}, {width})"),
                &[&x],
                &[&w],
                |tape, x, w| rms_norm(tape, &x[0], &w[0], eps),
                |x, w| {
                    let mean = x[0].sqr()?.mean_keepdim(1)?;
                    let normed = x[0].broadcast_div(&(mean + eps)?.sqrt()?)?;
                    normed.broadcast_mul(&w[0])
                },
            );
        }
    }
}

#[test]
fn what_drops_is_its_twin() {
    for (height, width) in shapes() {
        // An empty row in the middle.
        let rows = rows(&[height - height / 3, 0, height / 3]);
        let keys = dropout_keys(3);
        let (x, y) = (random(1, &[height, width]), random(2, &[height, width]));
        for keys in [None, Some(&keys)] {
            let drop = keys.map(|keys| (keys, 3));
            let factors = factors(&rows, width, keys, 3);
            let dropped = |t: &Tensor| t * &factors;
            let name = |of: &str| format!("{of} ({height}, {width}), dropped {}", keys.is_some());
            twins(
                &name("dropout"),
                &[&x],
                &[],
                |tape, x, _| dropout(tape, &x[0], &rows, drop),
                |x, _| dropped(&x[0]),
            );
            twins(
                &name("residual"),
                &[&x, &y],
                &[],
                |tape, x, _| residual(tape, &x[0], &x[1], &rows, drop),
                |x, _| &x[0] + dropped(&x[1])?,
            );
            twins(
                &name("relu"),
                &[&x],
                &[],
                |tape, x, _| relu(tape, &x[0], &rows, drop),
                |x, _| dropped(&x[0].relu()?),
            );
            twins(
                &name("gated_gelu"),
                &[&x, &y],
                &[],
                |tape, x, _| gated_gelu(tape, &x[0], &x[1], &rows, drop),
                |x, _| dropped(&(gelu(&x[0])? * &x[1])?),
            );
        }
    }
}

#[test]
fn a_value_that_is_used_twice_gets_both_gradients() {
    let (x, w, norm) = (random(1, &[5, 4]), random(2, &[4, 4]), random(3, &[4]));
    let rows = rows(&[5]);
    twins(
        "twice",
        &[&x],
        &[&w, &norm],
        |tape, x, w| {
            let y = linear(tape, &x[0], &w[0], 0.5)?;
            let z = residual(tape, &y, &rms_norm(tape, &y, &w[1], 0.1)?, &rows, None)?;
            let z = gated_gelu(tape, &z, &y, &rows, None)?;
            linear(tape, &residual(tape, &z, &z, &rows, None)?, &w[0], 1.0)
        },
        |x, w| {
            let y = (plain::linear(&x[0], &w[0])? * 0.5)?;
            let z = (&y + plain::rms_norm(&y, &w[1], 0.1)?)?;
            let z = (gelu(&z)? * y)?;
            plain::linear(&(z * 2.0)?, &w[0])
        },
    );
}

#[test]
fn gelu_is_right_far_from_zero() {
    let x: Vec<f32> = (-400..=400).map(|step| step as f32 / 10.0).collect();
    let (x, y) = (
        Tensor::from_vec(x, (801, 1), &device()).unwrap(),
        Tensor::ones((801, 1), DType::F32, &device()).unwrap(),
    );
    let rows = rows(&[801]);
    twins(
        "gated_gelu",
        &[&x, &y],
        &[],
        |tape, x, _| gated_gelu(tape, &x[0], &x[1], &rows, None),
        |x, _| gelu(&x[0])? * &x[1],
    );
}

#[test]
fn embedding_is_its_twin() {
    for (height, width) in shapes() {
        // Some ids twice or more, and most never.
        let ids: Vec<u32> = (0..height as u32).map(|place| place * place % 11).collect();
        let ids = Tensor::new(ids, &device()).unwrap();
        twins(
            &format!("embedding ({height}, {width})"),
            &[],
            &[&random(1, &[13, width])],
            |tape, _, w| embedding(tape, &w[0], &ids),
            |_, w| w[0].embedding(&ids),
        );
    }
}

#[test]
fn a_decoders_probabilities_are_their_twin() {
    for (queries, keys) in [(1, 1), (1, 17), (3, 64), (3, 513)] {
        let scores = random(1, &[2, 3, queries, keys]);
        let bias = random(2, &[1, 3, queries, keys]);
        let mask: Vec<u8> = (0..2 * keys).map(|key| u8::from(key % 3 != 1)).collect();
        let mask = Tensor::from_vec(mask, (2, keys), &device()).unwrap();
        for bias in [None, Some(&bias)] {
            for mask in [None, Some(&mask)] {
                let ours = attention_probabilities(&scores, bias, mask).unwrap();
                let theirs = plain::attention_probabilities(&scores, bias, mask, false).unwrap();
                let (ours, theirs) = (common::values(&ours), common::values(&theirs));
                close(
                    &format!("{queries} over {keys}"),
                    &vec![ours],
                    &vec![theirs],
                    NEAR,
                );
            }
        }
    }
    // A row that may see nothing.
    let mask = Tensor::zeros((2, 5), DType::U8, &device()).unwrap();
    let p = attention_probabilities(&random(1, &[2, 3, 1, 5]), None, Some(&mask)).unwrap();
    assert!(common::values(&p).iter().all(|&p| p == 0.0));
}

#[test]
fn inputs_and_gradients_may_be_strided() {
    let turned = |t: &Tensor| t.t().unwrap().contiguous().unwrap().t().unwrap();
    let (x, y, w) = (random(1, &[5, 7]), random(2, &[5, 7]), random(3, &[7, 7]));
    let norm = random(4, &[7]);
    let (rows, keys) = (rows(&[2, 3]), dropout_keys(2));
    let run = |tape: &_, x: &[_], w: &[_]| {
        let drop = Some((&keys, 1));
        let z = residual(tape, &x[0], &x[1], &rows, drop)?;
        let z = gated_gelu(tape, &z, &x[0], &rows, drop)?;
        let z = rms_norm(tape, &z, &w[1], 1e-6)?;
        let z = linear(tape, &z, &w[0], 1.0)?;
        let z = relu(tape, &z, &rows, drop)?;
        dropout(tape, &residual(tape, &x[1], &z, &rows, drop)?, &rows, drop)
    };
    let weights = [&w, &norm];
    let straight = taped(Precision::F32, (&[&x, &y], &weights), seed, run);
    let strided = taped(
        Precision::F32,
        (&[&turned(&x), &turned(&y)], &weights),
        |y| turned(&seed(y)),
        run,
    );
    assert_eq!(common::bits(&straight), common::bits(&strided));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    use chatlm_kernels::{Tape, Value};
    let tape = Tape::new(Precision::F32);
    let value = |shape: &[usize]| Value::constant(random(1, shape));
    let weight = |shape: &[usize]| Weight::new(random(1, shape), Some(0));
    let (two, keys) = (rows(&[1, 1]), dropout_keys(3));
    let x = value(&[2, 5]);
    assert!(linear(&tape, &x, &weight(&[3, 4]), 1.0).is_err());
    assert!(rms_norm(&tape, &x, &weight(&[4]), 1e-6).is_err());
    assert!(rms_norm(&tape, &x, &weight(&[6]), 1e-6).is_err());
    assert!(dropout(&tape, &x, &rows(&[3]), None).is_err());
    assert!(dropout(&tape, &x, &two, Some((&keys, 1))).is_err());
    assert!(relu(&tape, &x, &two, Some((&keys, 1))).is_err());
    for other in [value(&[2, 4]), value(&[3, 5]), value(&[1, 5])] {
        assert!(residual(&tape, &x, &other, &two, None).is_err());
        assert!(gated_gelu(&tape, &x, &other, &two, None).is_err());
    }
    let ids = Tensor::new(&[0u32, 9], &device()).unwrap();
    assert!(embedding(&tape, &weight(&[9, 2]), &ids).is_err());
}

#[test]
fn no_places_are_no_trouble() {
    let (x, w, norm) = (random(1, &[0, 5]), random(2, &[3, 5]), random(3, &[5]));
    let (rows, keys) = (rows(&[0, 0]), dropout_keys(2));
    let found = taped(Precision::F32, (&[&x], &[&w, &norm]), seed, |tape, x, w| {
        let drop = Some((&keys, 1));
        let x = rms_norm(tape, &x[0], &w[1], 1e-6)?;
        let x = gated_gelu(tape, &x, &x, &rows, drop)?;
        let x = relu(tape, &residual(tape, &x, &x, &rows, drop)?, &rows, drop)?;
        linear(tape, &dropout(tape, &x, &rows, drop)?, &w[0], 1.0)
    });
    assert!(found[0].is_empty() && found[1].is_empty());
    assert!(found[2..].iter().flatten().all(|&gradient| gradient == 0.0));
}
