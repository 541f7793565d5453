//! Ways of making one pass that must agree: activations kept or computed again, gradients held or
//! handed over, f32 or bf16 products, kernels or candle's autograd in f64, rows together or alone.
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

mod common;

use candle_core::{DType, Tensor, Var};
use chatlm_kernels::testing::device;
use chatlm_t5::{Config, Gradients, LoraBias, LoraConfig, Parameters, Pass, Precision, Tape};

use common::{
    Batch, How, Named, Trained, difference, distance, hidden, lora, named_bits, norm, train_adapter,
};

const LENGTHS: [(usize, usize); 4] = [(9, 7), (1, 12), (14, 1), (5, 5)];

/// An adapter on every kind of linear layer, with dropout of its own; for v1.1 with DoRA.
fn adapter(config: &Config, parameters: &mut Parameters) -> LoraConfig {
    let wi = if config.gated() { "wi_1" } else { "wi" };
    let lora = LoraConfig {
        dropout: 0.25,
        use_dora: config.gated(),
        ..lora(&["q", "v", "o", wi, "wo"], LoraBias::All)
    };
    lora.attach(config, parameters, 5).unwrap();
    train_adapter(parameters);
    lora
}

#[test]
fn activations_that_are_computed_again_give_the_same_bits() {
    let batch = Batch::random(4, &LENGTHS, 60);
    for gated in [false, true] {
        let config = common::config(gated);
        let mut parameters = Parameters::random(&config, 1, &device()).unwrap();
        let lora = adapter(&config, &mut parameters);
        let whole: &dyn Fn(&str) -> bool = &|_| true;
        let only: &dyn Fn(&str) -> bool = &|name| lora.trains(name);
        let decoder: &dyn Fn(&str) -> bool = &|name| name.starts_with("decoder");
        for (trains, precision) in [
            (whole, Precision::F32),
            (whole, Precision::Bf16),
            (only, Precision::F32),
            (decoder, Precision::F32),
        ] {
            let trained = Trained::new(&config, &parameters, Some(&lora), trains);
            let run = |pass: Pass| {
                let how = How {
                    pass,
                    precision,
                    smoothing: 0.1,
                };
                trained.passed(&batch, &how)
            };
            let (loss, kept) = run(batch.dropping(0.2));
            let (again, computed) = run(Pass {
                recompute: true,
                ..batch.dropping(0.2)
            });
            assert!(kept.len() == trained.weights.len());
            assert_eq!(loss, again);
            assert!(named_bits(&kept) == named_bits(&computed));
            // Dropout has a part in it.
            assert!((loss - run(Pass::inference()).0).abs() > 1e-4);
        }
    }
}

#[test]
fn gradients_that_are_handed_over_are_those_that_are_held() {
    let batch = Batch::random(4, &LENGTHS, 60);
    for gated in [false, true] {
        let config = common::config(gated);
        let mut parameters = Parameters::random(&config, 1, &device()).unwrap();
        let lora = adapter(&config, &mut parameters);
        let trained = Trained::new(&config, &parameters, Some(&lora), |_| true);
        for recompute in [false, true] {
            let how = How::of(Pass {
                recompute,
                ..batch.dropping(0.2)
            });
            let (loss, held) = trained.passed(&batch, &how);

            let (mut handed, mut twice) = (Named::new(), false);
            let sink = |index: usize, gradient: &[f32]| {
                let name = trained.weights[index].0.clone();
                twice |= handed.insert(name, gradient.to_vec()).is_some();
            };
            let mut gradients = Gradients::with_sink(trained.sizes(), Box::new(sink));
            let same = trained.run(&batch, &how, &mut gradients);
            // Nothing is held but what no block can tell to be complete.
            let left: Vec<&str> = (0..gradients.len())
                .filter(|&index| gradients.get(index).is_some())
                .map(|index| trained.weights[index].0.as_str())
                .collect();
            let tops: &[&str] = if gated {
                &["lm_head.weight", "shared.weight"]
            } else {
                &["shared.weight"]
            };
            assert_eq!(left, tops);
            gradients.finish();
            drop(gradients);
            assert!(loss == same && !twice && handed.len() == trained.weights.len());
            assert!(named_bits(&held) == named_bits(&handed));
        }
    }
}

/// The same weights in f64: every operator is candle's own, and so are the gradients.
fn in_f64(parameters: &Parameters) -> Parameters {
    let mut wide = parameters.clone();
    for (name, var) in parameters.iter() {
        let tensor = var.as_detached_tensor().to_dtype(DType::F64).unwrap();
        wide.insert(name, Var::from_tensor(&tensor).unwrap());
    }
    wide
}

/// Every gradient is within `tolerance` of its reference.
fn assert_near(found: &Named, reference: &Named, tolerance: f64) {
    assert!(found.keys().eq(reference.keys()));
    for (name, gradient) in found {
        // A single key is certain: attention over it has no gradient at all.
        let apart = if norm(&reference[name]) < 1e-9 {
            norm(gradient)
        } else {
            distance(gradient, &reference[name])
        };
        assert!(apart < tolerance, "{name}: {apart}");
    }
}

#[test]
fn rows_of_every_shape_have_the_gradients_of_candle_in_f64() {
    let shapes: [&[(usize, usize)]; 6] = [
        &[(1, 1)],
        &[(1, 1), (1, 1), (1, 1)],
        &[(1, 9)],
        &[(9, 1)],
        &LENGTHS,
        // Far beyond the last bucket, and beyond a block of queries.
        &[(300, 2), (1, 270), (40, 33)],
    ];
    for gated in [false, true] {
        let config = common::config(gated);
        let mut parameters = Parameters::random(&config, 1, &device()).unwrap();
        let lora = adapter(&config, &mut parameters);
        let kernels = Trained::new(&config, &parameters, Some(&lora), |_| true);
        let twins = Trained::new(&config, &in_f64(&parameters), Some(&lora), |_| true);
        for (key, lengths) in (0..).zip(shapes) {
            let batch = Batch::random(key, lengths, 60);
            for pass in [Pass::inference(), batch.dropping(0.2)] {
                let how = How {
                    smoothing: 0.1,
                    ..How::of(pass)
                };
                let (loss, ours) = kernels.passed(&batch, &how);
                let (exact, theirs) = twins.passed(&batch, &how);
                assert!((loss / exact - 1.0).abs() < 1e-6, "{lengths:?}: {loss}");
                assert_near(&ours, &theirs, 1e-4);
            }
        }
    }
}

#[test]
fn rows_together_are_rows_alone() {
    let config = common::config(true);
    let parameters = Parameters::random(&config, 1, &device()).unwrap();
    let trained = Trained::all(&config, &parameters);
    let lengths = [(300, 2), (1, 270), (40, 33), (1, 1)];
    let batch = Batch::random(8, &lengths, 60);
    let total = batch.tokens() as f64;
    let how = How::of(batch.dropping(0.1));
    let (loss, together) = trained.passed(&batch, &how);
    let hidden_together = hidden(&trained.model, &batch, &how.pass);

    let ids = |rows: &chatlm_t5::Sequences, row: usize| -> Vec<u32> {
        rows.ids.to_vec1::<u32>().unwrap()[rows.rows.range(row)].to_vec()
    };
    let (mut sum, mut sums) = (0.0, Named::new());
    for row in 0..lengths.len() {
        let places = batch.target.rows.range(row);
        let alone = Batch {
            keys: vec![batch.keys[row]],
            ..Batch::new(
                &[ids(&batch.source, row)],
                &[batch.labels[places.clone()].to_vec()],
            )
        };
        let how = How::of(alone.dropping(0.1));
        let share = alone.tokens() as f64 / total;
        let (loss, gradients) = trained.passed(&alone, &how);
        sum += loss * share;
        for (name, gradient) in gradients {
            let sum = sums
                .entry(name)
                .or_insert_with(|| vec![0.0; gradient.len()]);
            for (sum, value) in sum.iter_mut().zip(gradient) {
                *sum += value * share as f32;
            }
        }
        let here = hidden_together
            .narrow(0, places.start, places.len())
            .unwrap();
        let apart = difference(&hidden(&trained.model, &alone, &how.pass), &here);
        assert!(apart < 1e-5, "row {row}: {apart}");
    }
    assert!((loss / sum - 1.0).abs() < 1e-6, "{loss} {sum}");
    assert_near(&together, &sums, 1e-5);
}

#[test]
fn cached_steps_of_long_and_of_single_places_are_the_whole_decode() {
    for gated in [false, true] {
        let config = common::config(gated);
        let parameters = Parameters::random(&config, 1, &device()).unwrap();
        let trained = Trained::new(&config, &parameters, None, |_| false);
        let (model, pass) = (&trained.model, Pass::inference());
        for lengths in [
            &[(300, 280), (1, 280), (150, 280)][..],
            &[(1, 1)],
            &[(1, 20)],
        ] {
            let batch = Batch::random(2, lengths, 60);
            let logits = model.logits(&hidden(model, &batch, &pass)).unwrap();
            let tape = Tape::off(Precision::F32);
            let encoded = model.encode(&tape, &batch.source, &pass).unwrap();
            let mut cache = model.start(&encoded, &batch.source.rows, &pass).unwrap();
            let (rows, steps) = (lengths.len(), lengths[0].1);
            let (ids, logits) = (
                batch.target.ids.reshape((rows, steps)).unwrap(),
                logits.reshape((rows, steps, 60)).unwrap(),
            );
            for step in 0..steps {
                let ids = ids.narrow(1, step, 1).unwrap();
                let got = model.step(&ids, &mut cache, &pass).unwrap();
                let expected: Tensor = logits.narrow(1, step, 1).unwrap().squeeze(1).unwrap();
                let apart = difference(&got, &expected);
                assert!(apart < 1e-4, "{lengths:?} step {step}: {apart}");
            }
        }
    }
}

/// What rounding does to a gradient depends on the network: where a ReLU's input is close to 0 its
/// derivative flips. With ReLU the worst tensor was 6.2e-2 away, about as far as when only the weights
/// are rounded to bf16 and everything is computed in f32; without it 3.1e-2.
#[test]
fn bf16_products_stay_near_f32() {
    for (gated, seed) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let config = Config {
            d_model: 128,
            d_kv: 32,
            d_ff: 256,
            vocab_size: 500,
            ..common::config(gated)
        };
        let parameters = Parameters::random(&config, seed, &device()).unwrap();
        let trained = Trained::all(&config, &parameters);
        let batch = Batch::random(6 + seed, &[(40, 30), (17, 23), (5, 60)], 500);
        let run = |precision: Precision| {
            let how = How {
                precision,
                ..How::of(batch.dropping(0.1))
            };
            trained.passed(&batch, &how)
        };
        let (exact, reference) = run(Precision::F32);
        let (loss, rounded) = run(Precision::Bf16);
        let apart = (loss / exact - 1.0).abs();
        assert!(apart < 1e-2 && apart > 0.0, "gated {gated} loss: {apart}");
        let whole = |named: &Named| named.values().flatten().copied().collect::<Vec<f32>>();
        let apart = distance(&whole(&rounded), &whole(&reference));
        assert!(apart < 5e-2 && apart > 1e-3, "gated {gated}: {apart}");
        assert_near(&rounded, &reference, if gated { 5e-2 } else { 1e-1 });
    }
}
