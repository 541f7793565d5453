//! A NaN reaches what it has a part in, and nothing else: a broken step is seen in the loss.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{Result, Tensor};
use chatlm_kernels::testing::device;
use chatlm_kernels::{
    Gradients, Precision, Projection, Tape, Value, Weight, attention_probabilities, dropout,
    embedding, gated_gelu, linear, relu, residual, rms_norm,
};

use common::attend::Attend;
use common::block::Block;
use common::{dropout_keys, random, rows, sizes, trained, values};

/// Places and width of what is poisoned.
const SHAPE: [usize; 2] = [5, 19];
/// The place of the NaN.
const ROW: usize = 3;
const COLUMN: usize = 16;

fn poisoned(t: &Tensor, place: usize) -> Tensor {
    let mut values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    values[place] = f32::NAN;
    Tensor::from_vec(values, t.shape(), &device()).unwrap()
}

/// Where a NaN comes out, by rows of `width`.
fn reached(t: &Tensor, width: usize) -> Vec<(usize, usize)> {
    let values = values(t).into_iter().enumerate();
    let bad = values.filter(|(_, value)| value.is_nan());
    bad.map(|(place, _)| (place / width, place % width))
        .collect()
}

#[test]
fn it_stays_at_its_place() {
    let bad = Value::constant(poisoned(&random(1, &SHAPE), ROW * SHAPE[1] + COLUMN));
    let good = Value::constant(random(2, &SHAPE));
    let (rows, tape) = (rows(&[2, 3]), Tape::off(Precision::F32));
    let mut keys = dropout_keys(2);
    // Where it is dropped, too.
    for rate in [0.0, 0.5, 0.999] {
        keys.rate = rate;
        let drop = Some((&keys, 1));
        for (what, y) in [
            ("dropout", dropout(&tape, &bad, &rows, drop)),
            ("residual x", residual(&tape, &bad, &good, &rows, drop)),
            ("residual y", residual(&tape, &good, &bad, &rows, drop)),
            ("relu", relu(&tape, &bad, &rows, drop)),
            ("gated_gelu x", gated_gelu(&tape, &bad, &good, &rows, drop)),
            ("gated_gelu y", gated_gelu(&tape, &good, &bad, &rows, drop)),
        ] {
            assert_eq!(
                reached(y.unwrap().tensor(), SHAPE[1]),
                [(ROW, COLUMN)],
                "{what} {rate}"
            );
        }
    }
}

#[test]
fn it_reaches_its_row_or_column() {
    let (x, norm, w) = (random(1, &SHAPE), random(2, &[19]), random(3, &[4, 19]));
    let place = ROW * SHAPE[1] + COLUMN;
    for precision in [Precision::F32, Precision::Bf16] {
        // Three places are multiplied in another way.
        for places in [5, 4] {
            let x = x.narrow(0, 0, places).unwrap().contiguous().unwrap();
            let tape = Tape::off(precision);
            let value = |t: &Tensor| Value::constant(t.clone());
            let weight = |t: &Tensor| Weight::new(t.clone(), None);
            let bad = value(&poisoned(&x, place));
            let y = linear(&tape, &bad, &weight(&w), 1.0).unwrap();
            assert_eq!(
                reached(y.tensor(), 4),
                [0, 1, 2, 3].map(|column| (ROW, column))
            );
            let y = linear(&tape, &value(&x), &weight(&poisoned(&w, 2 * 19)), 1.0).unwrap();
            let column: Vec<_> = (0..places).map(|row| (row, 2)).collect();
            assert_eq!(reached(y.tensor(), 4), column);
            let y = rms_norm(&tape, &bad, &weight(&norm), 1e-6).unwrap();
            let row: Vec<_> = (0..19).map(|column| (ROW, column)).collect();
            assert_eq!(reached(y.tensor(), 19), row);
            let y = rms_norm(&tape, &value(&x), &weight(&poisoned(&norm, 7)), 1e-6).unwrap();
            let column: Vec<_> = (0..places).map(|row| (row, 7)).collect();
            assert_eq!(reached(y.tensor(), 19), column);
        }
    }
    let table = Weight::new(poisoned(&random(4, &[6, 3]), 4), None);
    let ids = Tensor::new(&[0u32, 1, 5, 1], &device()).unwrap();
    let y = embedding(&Tape::off(Precision::F32), &table, &ids).unwrap();
    assert_eq!(reached(y.tensor(), 3), [(1, 1), (3, 1)]);
}

#[test]
fn it_reaches_all_queries_of_its_row_and_head() {
    let attend = Attend::cross(2, &[2, 3], &[17, 20], false).biased();
    let (inputs, weights) = (attend.inputs(3), attend.weights());
    let run = |n: usize, place: usize| -> Result<Tensor> {
        let mut inputs = inputs.clone();
        inputs[n] = poisoned(&inputs[n], place);
        let weight = Weight::new(weights[0].clone(), None);
        let tape = Tape::off(Precision::F32);
        Ok(attend
            .run(&tape, &inputs.map(Value::constant), &[weight])?
            .into_tensor())
    };
    // The second head of the second row's second query.
    let query = [(3, 3), (3, 4), (3, 5)];
    assert_eq!(reached(&run(0, 3 * 6 + 4).unwrap(), 6), query);
    let head = [2, 3, 4]
        .map(|row| [3, 4, 5].map(|column| (row, column)))
        .concat();
    assert_eq!(reached(&run(1, 20 * 6 + 4).unwrap(), 6), head);
    assert_eq!(
        reached(&run(2, 20 * 6 + 4).unwrap(), 6),
        [(2, 4), (3, 4), (4, 4)]
    );
    let weight = Weight::new(poisoned(&weights[0], 1), None);
    let tape = Tape::off(Precision::F32);
    let y = attend
        .run(&tape, &inputs.map(Value::constant), &[weight])
        .unwrap();
    assert!(
        reached(y.tensor(), 6)
            .iter()
            .all(|(_, column)| *column >= 3)
    );
    assert!(!reached(y.tensor(), 6).is_empty());
}

#[test]
fn it_reaches_a_decoders_probabilities() {
    let scores = random(1, &[1, 2, 1, 20]);
    let whole = |t: &Tensor| poisoned(t, 0).affine(1.0, f64::NAN).unwrap();
    let mask: Vec<u8> = (0..20).map(|key| u8::from(key != 3)).collect();
    let mask = Tensor::from_vec(mask, (1, 20), &device()).unwrap();
    for mask in [None, Some(&mask)] {
        let one = attention_probabilities(&poisoned(&scores, 25), None, mask).unwrap();
        assert!(reached(&one, 20).contains(&(1, 5)));
        assert!(reached(&one, 20).iter().all(|(row, _)| *row == 1));
        // A hidden state that is NaN makes all its scores NaN.
        let all = attention_probabilities(&whole(&scores), None, mask).unwrap();
        assert!(reached(&all, 20).len() >= 38);
    }
    // What the mask hides has no part.
    let hidden = attention_probabilities(&poisoned(&scores, 3), None, Some(&mask)).unwrap();
    assert!(reached(&hidden, 20).is_empty());
}

#[test]
fn it_reaches_the_loss() {
    let (hidden, weight) = (random(1, &[6, 5]), random(2, &[40, 5]));
    let targets = [1, 2, 3, 4, 5, 6];
    let with = |hidden: &Tensor, weight: &Tensor, smoothing| {
        let weight = Weight::new(weight.clone(), Some(0));
        let projection = Projection {
            weight: &weight,
            scale: 1.0,
            precision: Precision::F32,
        };
        let mut gradients = Gradients::new(vec![200]);
        let loss = projection
            .cross_entropy(hidden, &targets, 0, smoothing)
            .unwrap();
        let (also, dx) = projection
            .cross_entropy_backward(hidden, &targets, 0, smoothing, 1.0, &mut gradients)
            .unwrap();
        assert_eq!(loss.is_nan(), also.is_nan());
        assert_eq!(
            loss.is_nan(),
            gradients.get(0).unwrap().iter().any(|g| g.is_nan())
        );
        let scores = projection.log_probabilities(hidden, &targets, 0).unwrap();
        let bad = scores.iter().filter(|score| score.is_nan()).count();
        (loss.is_nan(), bad, reached(&dx, 5).len())
    };
    for smoothing in [0.0, 0.1] {
        assert_eq!(with(&hidden, &weight, smoothing), (false, 0, 0));
        assert_eq!(
            with(&poisoned(&hidden, 11), &weight, smoothing),
            (true, 1, 5)
        );
        // A word that is no row's target, first, in the middle and last.
        for word in [0, 20, 39] {
            let bad = poisoned(&weight, word * 5);
            assert_eq!(with(&hidden, &bad, smoothing), (true, 6, 30), "{word}");
        }
    }
    // Values too large for f32.
    let large = (&hidden * 1e30).unwrap();
    let weight = (&weight * 1e30).unwrap();
    let (bad, ..) = with(&large, &weight, 0.1);
    assert!(bad);
}

#[test]
fn it_reaches_the_loss_from_every_weight_of_a_model() {
    let block = Block::new(&[5, 9], true);
    let weights = Block::weights();
    let sizes = sizes(&weights.iter().collect::<Vec<_>>());
    for bad in 0..weights.len() {
        if bad == common::block::UNUSED {
            continue;
        }
        let mut weights = weights.clone();
        weights[bad] = poisoned(&weights[bad], 0);
        let weights: Vec<&Tensor> = weights.iter().collect();
        let mut gradients = Gradients::new(sizes.clone());
        let loss = block
            .step(Precision::F32, &trained(&weights), &mut gradients)
            .unwrap();
        assert!(loss.is_nan(), "weight {bad}");
    }
}

#[test]
fn it_flows_backward() {
    let (x, w, norm) = (random(1, &[4, 5]), random(2, &[5, 5]), random(3, &[5]));
    let rows = rows(&[4]);
    let found = common::taped(
        Precision::F32,
        (&[&x], &[&w, &norm]),
        |y| poisoned(&common::seed(y), 2),
        |tape, x, w| {
            let y = linear(tape, &x[0], &w[0], 1.0)?;
            let y = rms_norm(tape, &y, &w[1], 1e-6)?;
            residual(tape, &y, &y, &rows, None)
        },
    );
    for (n, gradient) in found.iter().enumerate().skip(1) {
        assert!(gradient.iter().any(|value| value.is_nan()), "{n}");
    }
}
