//! Gradients of every operator by every input and weight against finite differences.

mod common;

use candle_core::Tensor;
use chatlm_kernels::testing::device;
use chatlm_kernels::{dropout, embedding, gated_gelu, linear, relu, residual, rms_norm};

use common::attend::Attend;
use common::{differences, dropout_keys, random, rows};

#[test]
fn of_linear_and_rms_norm() -> candle_core::Result<()> {
    let (x, w, norm) = (random(1, &[4, 5]), random(2, &[3, 5]), random(3, &[5]));
    for scale in [1.0, 0.37] {
        differences("linear", &[&x], &[&w], |tape, x, w| {
            linear(tape, &x[0], &w[0], scale)
        });
    }
    // Three dimensions are as many rows.
    differences("linear", &[&x.reshape((2, 2, 5))?], &[&w], |tape, x, w| {
        linear(tape, &x[0], &w[0], 2.0)
    });
    differences("rms_norm", &[&x], &[&norm], |tape, x, w| {
        rms_norm(tape, &x[0], &w[0], 1e-6)
    });
    Ok(())
}

#[test]
fn of_what_drops() -> candle_core::Result<()> {
    let (x, y) = (random(4, &[4, 5]), random(5, &[4, 5]));
    let (rows, keys) = (rows(&[3, 0, 1]), dropout_keys(3));
    // Away from the kink.
    let bent = (&x + x.sign()?)?;
    for drop in [None, Some((&keys, 2))] {
        differences("dropout", &[&x], &[], |tape, x, _| {
            dropout(tape, &x[0], &rows, drop)
        });
        differences("residual", &[&x, &y], &[], |tape, x, _| {
            residual(tape, &x[0], &x[1], &rows, drop)
        });
        differences("residual of the same", &[&x], &[], |tape, x, _| {
            residual(tape, &x[0], &x[0], &rows, drop)
        });
        differences("relu", &[&bent], &[], |tape, x, _| {
            relu(tape, &x[0], &rows, drop)
        });
        differences("gated_gelu", &[&x, &y], &[], |tape, x, _| {
            gated_gelu(tape, &x[0], &x[1], &rows, drop)
        });
        differences("gated_gelu of the same", &[&x], &[], |tape, x, _| {
            gated_gelu(tape, &x[0], &x[0], &rows, drop)
        });
    }
    Ok(())
}

#[test]
fn of_embedding() -> candle_core::Result<()> {
    let ids = Tensor::new(&[3u32, 0, 3, 4], &device())?;
    differences("embedding", &[], &[&random(6, &[6, 3])], |tape, _, w| {
        embedding(tape, &w[0], &ids)
    });
    Ok(())
}

#[test]
fn of_attention() {
    for attend in [
        Attend::own(2, &[4, 0, 2], true),
        Attend::own(2, &[4, 0, 2], false),
        Attend::cross(2, &[2, 0, 3, 1], &[3, 2, 0, 1], false),
    ] {
        let plain = attend.clone();
        let biased = attend.clone().biased();
        for attend in [plain, biased.clone(), attend.dropped(), biased.dropped()] {
            let (inputs, weights) = (attend.inputs(3), attend.weights());
            let weights: Vec<&Tensor> = weights.iter().collect();
            differences("attention", &inputs.each_ref(), &weights, |tape, x, w| {
                attend.run(tape, x, w)
            });
        }
    }
}

#[test]
fn of_weights_and_values_that_are_used_twice() {
    let (x, w, norm) = (random(7, &[3, 4]), random(8, &[4, 4]), random(9, &[4]));
    let rows = rows(&[3]);
    differences("twice", &[&x], &[&w, &norm], |tape, x, w| {
        let y = linear(tape, &x[0], &w[0], 0.5)?;
        let z = rms_norm(tape, &y, &w[1], 1e-6)?;
        let z = linear(tape, &residual(tape, &x[0], &z, &rows, None)?, &w[0], 1.0)?;
        gated_gelu(tape, &rms_norm(tape, &z, &w[1], 1e-6)?, &y, &rows, None)
    });
}
