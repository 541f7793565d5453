//! The operators that do several things at once, against what they stand for.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{Device, Tensor, Var};
use chatlm_kernels::{
    Drop, DropoutKeys, attention, cross_entropy, dropout, linear_scaled, plain,
    projected_cross_entropy, relu, residual,
};

use common::{any_threads, bits, close, differences, random, twins, values};

fn keys(rows: u64) -> DropoutKeys {
    DropoutKeys {
        rows: (0..rows).map(|row| row * 77 + 5).collect(),
        rate: 0.3,
    }
}

fn drops(keys: &DropoutKeys) -> [Drop<'_>; 2] {
    [None, Some((keys, 3))]
}

fn mask() -> Tensor {
    Tensor::new(&[[1u8, 1, 1, 1, 1], [1, 1, 1, 0, 0]], &Device::Cpu).unwrap()
}

#[test]
fn residual_and_relu_are_what_they_stand_for() {
    let keys = keys(3);
    for width in [1, 16, 33] {
        let (x, y) = (random(1, &[3, 4, width]), random(2, &[3, 4, width]));
        for drop in drops(&keys) {
            let dropped = |t: &Tensor| match drop {
                Some((keys, site)) => dropout(t, keys, site),
                None => Ok(t.clone()),
            };
            twins(
                "residual",
                &[&x, &y],
                |t| residual(t[0], t[1], drop),
                |t| t[0] + dropped(t[1])?,
            );
            twins(
                "relu",
                &[&x],
                |t| relu(t[0], drop),
                |t| dropped(&t[0].relu()?),
            );
        }
    }
}

fn heads(batch: usize, queries: usize, keys: usize) -> (Var, Var, Var) {
    // Two heads of width 4.
    (
        random(1, &[batch, queries, 8]),
        random(2, &[batch, keys, 16]),
        random(3, &[1, 2, queries, keys]),
    )
}

#[test]
fn attention_is_its_twin() {
    let (keys, mask) = (keys(2), mask());
    for queries in [1, 3, 5] {
        let (q, kv, bias) = heads(2, queries, 5);
        for (causal, mask) in [
            (false, None),
            (true, None),
            (false, Some(&mask)),
            (true, Some(&mask)),
        ] {
            for drop in drops(&keys) {
                twins(
                    "attention with bias",
                    &[&q, &kv, &bias],
                    |t| attention(t[0], t[1], 2, Some(t[2]), mask, causal, drop),
                    |t| plain::attention(t[0], t[1], 2, Some(t[2]), mask, causal, drop),
                );
                twins(
                    "attention",
                    &[&q, &kv],
                    |t| attention(t[0], t[1], 2, None, mask, causal, drop),
                    |t| plain::attention(t[0], t[1], 2, None, mask, causal, drop),
                );
            }
        }
    }
}

#[test]
fn attention_gradients_are_finite_differences() {
    let (keys, mask) = (keys(2), mask());
    let (q, kv, bias) = heads(2, 5, 5);
    let run = |q: &Tensor, kv: &Tensor, bias: &Tensor| {
        attention(q, kv, 2, Some(bias), Some(&mask), true, Some((&keys, 4)))
    };
    differences("queries", &q, |t| run(t, &kv, &bias));
    differences("keys and values", &kv, |t| run(&q, t, &bias));
    differences("bias", &bias, |t| run(&q, &kv, t));
}

#[test]
fn attention_without_a_visible_key_gives_zeros() {
    let (q, kv, _) = heads(1, 2, 3);
    let mask = Tensor::zeros((1, 3), candle_core::DType::U8, &Device::Cpu).unwrap();
    let y = attention(&q, &kv, 2, None, Some(&mask), false, None).unwrap();
    assert_eq!(values(&y), [0.0; 16]);
}

#[test]
fn attention_refuses_shapes_that_do_not_fit() {
    let (q, kv, bias) = heads(2, 3, 5);
    assert!(attention(&q, &kv, 3, None, None, false, None).is_err());
    assert!(attention(&q, &q, 2, None, None, false, None).is_err());
    let other = bias.narrow(3, 0, 4).unwrap();
    assert!(attention(&q, &kv, 2, Some(&other), None, false, None).is_err());
    let short = mask().narrow(1, 0, 4).unwrap();
    assert!(attention(&q, &kv, 2, None, Some(&short), false, None).is_err());
    assert!(attention(&q, &kv, 2, None, None, false, Some((&keys(3), 1))).is_err());
}

fn targets(rows: u32, width: u32) -> Tensor {
    Tensor::from_vec(
        (0..rows).map(|r| r * 5 % width).collect::<Vec<_>>(),
        rows as usize,
        &Device::Cpu,
    )
    .unwrap()
}

#[test]
fn the_projected_loss_is_that_of_the_logits() {
    // The last one has several chunks of rows.
    for (rows, inner, width) in [(1, 3, 2), (7, 8, 33), (40, 16, 600), (700, 2, 9000)] {
        let (x, w) = (random(1, &[rows, inner]), random(2, &[width, inner]));
        let targets = targets(rows as u32, width as u32);
        for smoothing in [0.0, 0.1] {
            twins(
                "projected cross-entropy",
                &[&x, &w],
                |t| projected_cross_entropy(t[0], t[1], 0.5, &targets, 0, smoothing),
                |t| cross_entropy(&linear_scaled(t[0], t[1], 0.5)?, &targets, 0, smoothing),
            );
        }
    }
}

#[test]
fn the_projected_loss_gives_only_the_gradients_that_are_wanted() {
    let (x, w, targets) = (random(1, &[6, 4]), random(2, &[9, 4]), targets(6, 9));
    let loss = |x: &Tensor, w: &Tensor| {
        (projected_cross_entropy(x, w, 1.0, &targets, 0, 0.0).unwrap() * 0.25).unwrap()
    };
    let both = loss(&x, &w).backward().unwrap();
    let one = loss(&x, &w.as_detached_tensor()).backward().unwrap();
    assert!(one.get(&w).is_none());
    close(
        one.get(&x).unwrap(),
        both.get(&x).unwrap(),
        0.0,
        "hidden states alone",
    );
    let other = loss(&x.as_detached_tensor(), &w).backward().unwrap();
    assert!(other.get(&x).is_none());
    close(
        other.get(&w).unwrap(),
        both.get(&w).unwrap(),
        0.0,
        "the weight alone",
    );
    let neither = loss(&x.as_detached_tensor(), &w.as_detached_tensor());
    close(&neither, &loss(&x, &w), 0.0, "no gradient");
    differences("hidden states", &x, |t| {
        projected_cross_entropy(t, &w, 1.0, &targets, 0, 0.1)
    });
    differences("weight", &w, |t| {
        projected_cross_entropy(&x, t, 1.0, &targets, 0, 0.1)
    });
}

#[test]
fn one_and_three_threads_give_the_same_bits() {
    any_threads("attention", || {
        let (q, kv, bias) = (
            random(1, &[5, 70, 96]),
            random(2, &[5, 70, 192]),
            random(3, &[1, 3, 70, 70]),
        );
        let keys = keys(5);
        let y = attention(&q, &kv, 3, Some(&bias), None, true, Some((&keys, 1))).unwrap();
        bits(&[&q, &kv, &bias], &y)
    });
    any_threads("projected cross-entropy", || {
        let (x, w) = (random(1, &[700, 64]), random(2, &[9000, 64]));
        bits(
            &[&x, &w],
            &projected_cross_entropy(&x, &w, 0.125, &targets(700, 9000), 0, 0.1).unwrap(),
        )
    });
    any_threads("residual of relu", || {
        let (x, keys) = (random(1, &[300, 9, 65]), keys(300));
        let y = relu(&x, Some((&keys, 1))).unwrap();
        bits(&[&x], &residual(&x, &y, Some((&keys, 2))).unwrap())
    });
}

#[test]
fn a_row_of_attention_knows_neither_neighbours_nor_padding() {
    let (q, kv, _) = heads(2, 5, 5);
    let keys = keys(2);
    let both = attention(&q, &kv, 2, None, Some(&mask()), true, Some((&keys, 1))).unwrap();
    // Row 1 alone, without its two padded places.
    let part = |t: &Tensor| {
        t.narrow(0, 1, 1)
            .unwrap()
            .narrow(1, 0, 3)
            .unwrap()
            .contiguous()
            .unwrap()
    };
    let alone = DropoutKeys {
        rows: vec![keys.rows[1]],
        rate: keys.rate,
    };
    let one = attention(
        &part(&q),
        &part(&kv),
        2,
        None,
        None,
        true,
        Some((&alone, 1)),
    )
    .unwrap();
    close(&one, &part(&both), 1e-6, "alone");
}
