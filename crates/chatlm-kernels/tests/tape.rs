//! What a tape records and plays back, and where gradients gather.
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

mod common;

use std::sync::{Arc, Mutex};

use candle_core::{Result, Tensor};
use chatlm_kernels::{
    Gradients, Precision, Projection, Sink, Tape, Value, Weight, dropout, gated_gelu, linear, relu,
    residual, rms_norm, testing,
};

use common::attend::Attend;
use common::block::{BIAS, Block, IGNORE, TABLE, UNUSED};
use common::{
    Found, bits, close, dropout_keys, gathered, kernels, random, rows, seed, sizes, trained, values,
};

const LENGTHS: [usize; 4] = [5, 0, 9, 1];

fn weights() -> (Vec<Tensor>, Vec<usize>) {
    let weights = Block::weights();
    let sizes = sizes(&weights.iter().collect::<Vec<_>>());
    (weights, sizes)
}

#[test]
fn what_is_recomputed_has_the_same_bits() {
    for dropped in [false, true] {
        for precision in [Precision::F32, Precision::Bf16] {
            let kept = Block::new(&LENGTHS, dropped);
            let recomputed = Block {
                recompute: true,
                ..kept.clone()
            };
            assert_eq!(
                bits(&kept.found(precision)),
                bits(&recomputed.found(precision))
            );
        }
    }
}

/// A pair of inputs, one of them used before and after as well.
fn around(tape: &Tape, x: &[Value], w: &[Weight], inside: &Wrap) -> Result<Value> {
    let rows = rows(&[3, 2]);
    let y = linear(tape, &x[0], &w[0], 1.0)?;
    let z = inside(tape, vec![y.clone(), x[1].clone()], w.to_vec())?;
    let z = residual(tape, &y, &z, &rows, None)?;
    gated_gelu(tape, &z, &x[1], &rows, None)
}

type Wrap = dyn Fn(&Tape, Vec<Value>, Vec<Weight>) -> Result<Value>;

fn inner(tape: &Tape, x: &[Value], w: &[Weight]) -> Result<Value> {
    let (rows, keys) = (rows(&[3, 2]), dropout_keys(2));
    let z = rms_norm(tape, &x[0], &w[1], 1e-6)?;
    let z = residual(tape, &z, &x[1], &rows, Some((&keys, 1)))?;
    let z = linear(tape, &z, &w[0], 0.5)?;
    residual(tape, &z, &x[0], &rows, Some((&keys, 2)))
}

#[test]
fn sums_go_on_in_the_same_order_inside() {
    let (x, y) = (random(1, &[5, 4]), random(2, &[5, 4]));
    let (w, norm) = (random(3, &[4, 4]), random(4, &[4]));
    let run = |wrap: &Wrap| {
        bits(&kernels(&[&x, &y], &[&w, &norm], |tape, x, w| {
            around(tape, x, w, wrap)
        }))
    };
    let kept = run(&|tape, x, w| inner(tape, &x, &w));
    let once = run(&|tape, x, w| tape.recomputed(x, move |tape, x| inner(tape, x, &w)));
    assert_eq!(kept, once);
    let nested = run(&|tape, x, w| {
        tape.recomputed(x, move |tape, x| {
            let w = w.clone();
            tape.recomputed(x.to_vec(), move |tape, x| inner(tape, x, &w))
        })
    });
    assert_eq!(kept, nested);
}

#[test]
fn an_input_may_be_recomputed_twice_and_be_the_result_itself() {
    let (x, w) = (random(1, &[5, 4]), random(3, &[4, 4]));
    let rows = rows(&[5]);
    let product = |tape: &Tape, x: &[Value], w: &[Weight]| {
        gated_gelu(tape, &linear(tape, &x[0], &w[0], 1.0)?, &x[1], &rows, None)
    };
    let kept = kernels(&[&x], &[&w], |tape, x, w| {
        product(tape, &[x[0].clone(), x[0].clone()], w)
    });
    let again = kernels(&[&x], &[&w], |tape, x, w| {
        let (rows, w) = (rows.clone(), w.to_vec());
        tape.recomputed(vec![x[0].clone(), x[0].clone()], move |tape, x| {
            gated_gelu(tape, &linear(tape, &x[0], &w[0], 1.0)?, &x[1], &rows, None)
        })
    });
    close("an input twice", &again, &kept, 1e-6);
    // Dropout that drops nothing hands its input on.
    let found = kernels(&[&x], &[], |tape, x, _| {
        let rows = rows.clone();
        let same = tape.recomputed(vec![x[0].clone()], move |tape, x| {
            dropout(tape, &x[0], &rows, None)
        })?;
        residual(tape, &same, &x[0], &common::rows(&[5]), None)
    });
    let twice: Vec<f64> = values(&seed(&x)).iter().map(|seed| 2.0 * seed).collect();
    assert_eq!(found[1], twice);
}

#[test]
fn a_leaf_without_a_part_gets_zeros_and_seeds_add_up() {
    let (x, other) = (random(1, &[5, 4]), random(2, &[3]));
    let rows = rows(&[5]);
    let tape = Tape::new(Precision::F32);
    let (x, other) = (tape.leaf(x), tape.leaf(other));
    let y = residual(&tape, &x, &x, &rows, None).unwrap();
    let z = relu(&tape, &y, &rows, None).unwrap();
    let (one, two, three) = (random(3, &[5, 4]), random(4, &[5, 4]), random(5, &[5, 4]));
    let seeds = vec![
        (z.clone(), one.copy().unwrap()),
        (y, two.copy().unwrap()),
        (x.clone(), three.copy().unwrap()),
    ];
    let mut gradients = Gradients::new(Vec::new());
    let found = tape
        .backward_to(&[&other, &x], seeds, &mut gradients)
        .unwrap();
    assert_eq!(values(&found[0]), [0.0; 3]);
    let expected: Vec<f64> = values(z.tensor())
        .iter()
        .zip(values(&one))
        .zip(values(&two).iter().zip(values(&three)))
        .map(|((z, one), (two, three))| 2.0 * (if *z > 0.0 { one } else { 0.0 } + two) + three)
        .collect();
    close("seeds", &vec![values(&found[1])], &vec![expected], 1e-6);
}

#[test]
fn a_seed_stays_its_owners() {
    let rows = rows(&[5]);
    let tape = Tape::new(Precision::F32);
    let x = tape.leaf(random(1, &[5, 4]));
    let y = residual(&tape, &x, &x, &rows, None).unwrap();
    let z = residual(&tape, &y, &x, &rows, None).unwrap();
    let one = random(2, &[5, 4]);
    let before = values(&one);
    let mut gradients = Gradients::new(Vec::new());
    // One tensor as the gradient of two values, and strided.
    let strided = random(3, &[4, 5]).t().unwrap();
    let seeds = vec![
        (z, one.clone()),
        (y, strided.clone()),
        (x.clone(), one.clone()),
    ];
    let found = tape.backward_to(&[&x], seeds, &mut gradients).unwrap();
    assert_eq!(values(&one), before);
    let expected = before.iter().zip(values(&strided));
    let expected: Vec<f64> = expected
        .map(|(one, strided)| 4.0 * one + 2.0 * strided)
        .collect();
    close("seeds", &vec![values(&found[0])], &vec![expected], 1e-6);
}

#[test]
fn gradients_of_two_passes_add_up_and_are_forgotten() {
    let (weights, sizes) = weights();
    let weights: Vec<&Tensor> = weights.iter().collect();
    let (first, second) = (Block::new(&LENGTHS, true), Block::new(&[2, 7], false));
    let mut gradients = Gradients::new(sizes);
    for _ in 0..2 {
        for block in [&first, &second] {
            block
                .step(Precision::F32, &trained(&weights), &mut gradients)
                .unwrap();
        }
        let (one, two) = (first.found(Precision::F32), second.found(Precision::F32));
        let sum: Found = one[1..]
            .iter()
            .zip(&two[1..])
            .map(|(one, two)| one.iter().zip(two).map(|(one, two)| one + two).collect())
            .collect();
        close("two passes", &gathered(&gradients, &weights), &sum, 1e-6);
        gradients.clear();
        assert!((0..gradients.len()).all(|index| gradients.get(index).is_none()));
    }
}

#[test]
fn gradients_on_a_device_are_those_in_plain_memory() {
    let device = testing::device();
    let _twins = device.is_cpu().then(testing::twins_only);
    let (weights, sizes) = weights();
    let weights: Vec<&Tensor> = weights.iter().collect();
    let (first, second) = (Block::new(&LENGTHS, true), Block::new(&[2, 7], false));
    let (mut plain, mut tensors) = (Gradients::new(sizes.clone()), Gradients::on_device(sizes));
    assert!(tensors.are_tensors() && !plain.are_tensors());
    for _ in 0..2 {
        for gradients in [&mut plain, &mut tensors] {
            gradients.clear();
            for block in [&first, &second] {
                let weights = trained(&weights);
                block.step(Precision::F32, &weights, gradients).unwrap();
            }
        }
        for (index, weight) in weights.iter().enumerate() {
            assert!(plain.tensor(index).is_none());
            let found = tensors.tensor(index).map(|gradient| {
                assert_eq!(gradient.dims(), weight.dims());
                values(gradient)
            });
            let expected = plain.get(index);
            let expected = expected.map(|of| of.iter().map(|&of| f64::from(of)).collect());
            assert_eq!(found, expected, "{index}");
        }
    }
    tensors.clear();
    assert!((0..tensors.len()).all(|index| tensors.tensor(index).is_none()));
}

/// What a sink takes, in order.
type Taken = Arc<Mutex<Vec<(usize, Vec<f32>)>>>;

fn taking() -> (Taken, Sink<'static>) {
    let taken = Taken::default();
    let into = taken.clone();
    let sink = move |index: usize, gradient: &[f32]| {
        into.lock().unwrap().push((index, gradient.to_vec()));
    };
    (taken, Box::new(sink))
}

#[test]
fn a_sink_gets_every_gradient_once_when_it_is_complete() {
    let (tensors, sizes) = weights();
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    for recompute in [false, true] {
        let block = Block {
            recompute,
            ..Block::new(&LENGTHS, true)
        };
        let mut whole = Gradients::new(sizes.clone());
        let loss = block
            .step(Precision::F32, &trained(&tensors), &mut whole)
            .unwrap();
        let (taken, sink) = taking();
        let mut gradients = Gradients::with_sink(sizes.clone(), sink);
        let same = block
            .step(Precision::F32, &trained(&tensors), &mut gradients)
            .unwrap();
        assert_eq!(loss.to_bits(), same.to_bits());
        let order: Vec<usize> = taken
            .lock()
            .unwrap()
            .iter()
            .map(|(index, _)| *index)
            .collect();
        // From the last layer to the first; what all layers share comes after them, the table last.
        let of = |layer| Block::layer(layer).filter(|&index| index != UNUSED);
        let expected: Vec<usize> = std::iter::once(2)
            .chain(of(1))
            .chain(of(0))
            .chain([BIAS, TABLE])
            .collect();
        assert_eq!(order, expected);
        gradients.finish();
        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), expected.len());
        for (index, gradient) in &*taken {
            assert_eq!(Some(gradient.as_slice()), whole.get(*index), "{index}");
        }
        assert!(whole.get(UNUSED).is_none());
        assert!((0..gradients.len()).all(|index| gradients.get(index).is_none()));
    }
}

#[test]
fn what_nobody_declares_complete_is_handed_over_at_the_end() {
    let (taken, sink) = taking();
    let (x, w) = (random(1, &[5, 4]), random(2, &[4, 4]));
    let mut whole = Gradients::new(vec![16, 16]);
    let mut passing = Gradients::with_sink(vec![16, 16], sink);
    for gradients in [&mut whole, &mut passing] {
        // Two passes: micro-batches of one step.
        for _ in 0..2 {
            let tape = Tape::new(Precision::F32);
            let weight = Weight::new(w.clone(), Some(1));
            let y = linear(&tape, &Value::constant(x.clone()), &weight, 1.0).unwrap();
            let seed = seed(y.tensor());
            tape.backward(vec![(y, seed)], gradients).unwrap();
        }
    }
    assert!(taken.lock().unwrap().is_empty());
    passing.finish();
    passing.finish();
    assert_eq!(
        *taken.lock().unwrap(),
        [(1, whole.get(1).unwrap().to_vec())]
    );
    assert!(whole.get(0).is_none());
}

/// All operators with weights, and attention over something else.
fn everything(tape: &Tape, x: &[Value], w: &[Weight]) -> Result<Value> {
    let attend = Attend::cross(2, &[3, 2], &[1, 4], false).biased().dropped();
    let q = linear(tape, &rms_norm(tape, &x[0], &w[0], 1e-6)?, &w[1], 0.7)?;
    let mixed = attend.run(tape, &[q, x[1].clone(), x[2].clone()], &w[2..])?;
    residual(tape, &x[0], &mixed, &attend.queries, None)
}

#[test]
fn what_is_frozen_or_constant_gets_nothing_and_breaks_nothing() {
    let x = [random(1, &[5, 6]), random(2, &[5, 6]), random(3, &[5, 6])];
    let w = [random(4, &[6]), random(5, &[6, 6]), random(6, &[8, 2])];
    let run = |live: &dyn Fn(usize) -> bool| {
        let tape = Tape::new(Precision::F32);
        let inputs: Vec<Value> = (0..3)
            .map(|n| {
                let x = x[n].clone();
                if live(n) {
                    tape.leaf(x)
                } else {
                    Value::constant(x)
                }
            })
            .collect();
        let weights: Vec<Weight> = (0..3)
            .map(|n| Weight::new(w[n].clone(), live(3 + n).then_some(n)))
            .collect();
        let mut gradients = Gradients::new(sizes(&w.each_ref()));
        let y = everything(&tape, &inputs, &weights).unwrap();
        let mut found = vec![Some(values(y.tensor()))];
        let seeds = vec![(y.clone(), seed(y.tensor()))];
        let leaves: Vec<&Value> = inputs.iter().collect();
        let to_inputs = tape.backward_to(&leaves, seeds, &mut gradients).unwrap();
        found.extend(to_inputs.iter().map(|gradient| Some(values(gradient))));
        found.extend((0..3).map(|index| {
            let gradient = gradients.get(index)?;
            Some(gradient.iter().map(|&value| f64::from(value)).collect())
        }));
        found
    };
    let all = run(&|_| true);
    // All of the 64 ways.
    for mask in 0..64 {
        let live = |n: usize| mask & (1 << n) != 0;
        let found = run(&live);
        assert_eq!(found[0], all[0]);
        for n in 0..6 {
            match (live(n), n < 3) {
                (true, _) => assert_eq!(found[n + 1], all[n + 1], "{mask:b}: {n}"),
                // Of a constant one may ask, too.
                (false, true) => assert_eq!(found[n + 1], Some(vec![0.0; 30]), "{mask:b}: {n}"),
                (false, false) => assert_eq!(found[n + 1], None, "{mask:b}: {n}"),
            }
        }
    }
}

#[test]
fn a_frozen_projection_and_embedding_get_nothing() {
    let (tensors, sizes) = weights();
    let block = Block::new(&LENGTHS, true);
    let mut gradients = Gradients::new(sizes);
    let frozen: Vec<Weight> = tensors
        .iter()
        .map(|w| Weight::new(w.clone(), None))
        .collect();
    let loss = block.step(Precision::F32, &frozen, &mut gradients).unwrap();
    assert_eq!(loss, block.found(Precision::F32)[0][0]);
    assert!((0..gradients.len()).all(|index| gradients.get(index).is_none()));
    // One weight deep inside is trained: its gradient is the same.
    let mut one = frozen;
    one[5] = Weight::new(tensors[5].clone(), Some(0));
    let mut gradients = Gradients::new(vec![tensors[5].elem_count()]);
    block.step(Precision::F32, &one, &mut gradients).unwrap();
    let found = gathered(&gradients, &[&tensors[5]]);
    assert_eq!(found[0], block.found(Precision::F32)[1 + 5]);
    // Hidden states get theirs through a frozen projection.
    let hidden = random(1, &[3, 16]);
    let dx = |index| {
        let weight = Weight::new(tensors[TABLE].clone(), index);
        let projection = Projection {
            weight: &weight,
            scale: 1.0,
            precision: Precision::F32,
        };
        let mut gradients = Gradients::new(vec![tensors[TABLE].elem_count()]);
        let by = [0.5, 1.0, -2.0];
        let (_, loss) = projection
            .cross_entropy_backward(&hidden, &[1, 2, 3], IGNORE, 0.0, 1.0, &mut gradients)
            .unwrap();
        let scores = projection
            .log_probabilities_backward(&hidden, &[1, 2, 3], IGNORE, &by, &mut gradients)
            .unwrap();
        assert_eq!(gradients.get(0).is_some(), index.is_some());
        bits(&vec![values(&loss), values(&scores)])
    };
    assert_eq!(dx(None), dx(Some(0)));
}

#[test]
fn a_tape_that_is_off_records_nothing() {
    let (tensors, sizes) = weights();
    let w = trained(&tensors.iter().collect::<Vec<_>>());
    for recompute in [false, true] {
        let block = Block {
            recompute,
            ..Block::new(&LENGTHS, true)
        };
        let (on, off) = (Tape::new(Precision::F32), Tape::off(Precision::F32));
        let kept = block.forward(&on, &w).unwrap();
        let held = Arc::strong_count(&block.rows);
        let bare = block.forward(&off, &w).unwrap();
        assert_eq!(values(kept.tensor()), values(bare.tensor()));
        // Records hold on to the layout; the tape that is off added none.
        assert!(held > 1);
        assert_eq!(Arc::strong_count(&block.rows), held);
        let leaf = off.leaf(random(1, &[3]));
        let mut gradients = Gradients::new(sizes.clone());
        let seed = seed(bare.tensor());
        let seeds = vec![(bare, seed), (leaf.clone(), random(2, &[3]))];
        let found = off.backward_to(&[&leaf], seeds, &mut gradients).unwrap();
        assert_eq!(values(&found[0]), [0.0; 3]);
        assert!((0..gradients.len()).all(|index| gradients.get(index).is_none()));
        drop(on);
        assert_eq!(Arc::strong_count(&block.rows), 1);
    }
}
