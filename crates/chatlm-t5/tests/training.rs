//! What training relies on: one loss two ways, frozen weights, adapters, dropout that knows neither
//! neighbours nor threads, and random weights that know neither order nor each other.
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Tensor, Var};
use chatlm_job::Code;
use chatlm_kernels::testing::device;
use chatlm_kernels::{linear, plain};
use chatlm_optim::OptimizerConfig;
use chatlm_t5::{Config, LoraBias, LoraConfig, Model, Parameters, Pass, Precision, Tape};

use common::{
    Batch, How, Named, Trained, bits, difference, hidden, hidden_on, largest, lora, named_bits,
    train_adapter, values,
};

fn config() -> Config {
    common::config(false)
}

/// Two rows; the second is shorter on both sides. With `alone` it is there without the first.
fn batch(alone: bool) -> Batch {
    let first: Vec<u32> = (2..11).collect();
    let second: Vec<u32> = (20..25).collect();
    let sources = if alone {
        vec![second]
    } else {
        vec![first, second]
    };
    let target = |row: &Vec<u32>| row.iter().rev().map(|id| id + 3).collect();
    let targets: Vec<Vec<u32>> = sources.iter().map(target).collect();
    let all = [71u64, 72];
    Batch {
        keys: all[all.len() - sources.len()..].to_vec(),
        ..Batch::new(&sources, &targets)
    }
}

/// As labels were smoothed in the run of the reference program.
fn smooth(pass: Pass) -> How {
    How {
        smoothing: 0.1,
        ..How::of(pass)
    }
}

#[test]
fn the_loss_without_logits_is_the_loss_of_the_logits() {
    for tied in [true, false] {
        let config = Config {
            tie_word_embeddings: tied,
            ..config()
        };
        let parameters = Parameters::random(&config, 1, &device()).unwrap();
        let trained = Trained::all(&config, &parameters);
        let batch = batch(false);
        let total = batch.tokens() as f64;
        for ignored in [None, Some(batch.labels[4])] {
            let ignore = ignored.unwrap_or(common::NOTHING);
            let projection = trained.model.projection(Precision::F32);

            let mut joined = trained.gradients();
            let tape = Tape::new(Precision::F32);
            let hidden = hidden_on(&tape, &trained.model, &batch, &Pass::inference());
            let (one, seed) = projection
                .cross_entropy_backward(
                    hidden.tensor(),
                    &batch.labels,
                    ignore,
                    0.1,
                    1.0 / total,
                    &mut joined,
                )
                .unwrap();
            let alone = projection
                .cross_entropy(hidden.tensor(), &batch.labels, ignore, 0.1)
                .unwrap();
            assert_eq!(one, alone);
            tape.backward(vec![(hidden, seed)], &mut joined).unwrap();

            let mut apart = trained.gradients();
            let tape = Tape::new(Precision::F32);
            let hidden = hidden_on(&tape, &trained.model, &batch, &Pass::inference());
            let logits = linear(&tape, &hidden, projection.weight, projection.scale).unwrap();
            let same = trained.model.logits(hidden.tensor()).unwrap();
            assert_eq!(difference(logits.tensor(), &same), 0.0);
            let var = Var::from_tensor(logits.tensor()).unwrap();
            let targets = Tensor::new(batch.labels.as_slice(), &device()).unwrap();
            let loss = plain::cross_entropy(&var, &targets, ignore, 0.1).unwrap();
            let other = f64::from(loss.to_scalar::<f32>().unwrap());
            let store = (loss / total).unwrap().backward().unwrap();
            let seed = store.get(&var).unwrap().clone();
            tape.backward(vec![(logits, seed)], &mut apart).unwrap();

            assert!((one - other).abs() < 1e-4, "{one} {other}");
            let (a, b) = (trained.named(&joined), trained.named(&apart));
            assert_eq!(a.len(), parameters.iter().count());
            for (name, grad) in &a {
                assert!(largest(grad, &b[name]) < 1e-5, "{name}");
            }
        }
    }
}

#[test]
fn dropout_of_a_row_knows_neither_neighbours_nor_padding() {
    let parameters = Parameters::random(&config(), 1, &device()).unwrap();
    let model = Model::new(&config(), &parameters, None).unwrap();
    let row = |alone: bool| {
        let batch = batch(alone);
        let hidden = hidden(&model, &batch, &batch.dropping(0.2));
        hidden.narrow(0, hidden.dim(0).unwrap() - 5, 5).unwrap()
    };
    assert!(difference(&row(true), &row(false)) < 1e-5);
    let without = hidden(&model, &batch(true), &Pass::inference());
    assert!(difference(&row(true), &without) > 0.1);
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
}

/// Wide enough that every operator has several tasks.
fn wide() -> Config {
    Config {
        d_model: 128,
        d_ff: 512,
        vocab_size: 3000,
        ..config()
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for precision in [Precision::F32, Precision::Bf16] {
        let run = || {
            let parameters = Parameters::random(&wide(), 1, &device()).unwrap();
            let trained = Trained::all(&wide(), &parameters);
            let batch = Batch::random(3, &[(37, 37); 9], 3000);
            let how = How {
                precision,
                ..smooth(batch.dropping(0.1))
            };
            trained.passed(&batch, &how)
        };
        let one = pool(1).install(run);
        for threads in [2, 5] {
            let other = pool(threads).install(run);
            assert_eq!(one.0, other.0, "{threads} threads");
            assert!(
                named_bits(&one.1) == named_bits(&other.1),
                "{threads} threads"
            );
        }
    }
}

#[test]
fn steps_on_any_number_of_threads_give_the_same_bits_of_all_weights() {
    for precision in [Precision::F32, Precision::Bf16] {
        let run = || {
            let parameters = Parameters::random(&wide(), 1, &device()).unwrap();
            let trained = Trained::all(&wide(), &parameters);
            let mut gradients = trained.gradients();
            let mut optimizer = trained.optimizer(OptimizerConfig::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                scale_parameter: false,
            });
            let mut losses = Vec::new();
            for step in 0..20 {
                let batch = Batch::random(step, &[(29, 17), (3, 11), (17, 29), (40, 1)], 3000);
                let how = How {
                    precision,
                    ..smooth(batch.dropping(0.1))
                };
                let update = (&mut optimizer, 1e-3, 1.0);
                losses.push(trained.step(&batch, &how, update, &mut gradients));
            }
            assert!(losses.iter().all(|loss| loss.is_finite()));
            let weights: Named = parameters
                .iter()
                .map(|(name, var)| (name.to_owned(), values(var)))
                .collect();
            (losses, weights)
        };
        let one = pool(1).install(run);
        let before = Parameters::random(&wide(), 1, &device()).unwrap();
        for (name, var) in before.iter() {
            assert!(largest(&values(var), &one.1[name]) > 1e-3, "{name} stays");
        }
        for threads in [2, 4] {
            let other = pool(threads).install(run);
            assert_eq!(one.0, other.0, "{threads} threads");
            assert!(
                named_bits(&one.1) == named_bits(&other.1),
                "{threads} threads"
            );
        }
    }
}

#[test]
fn frozen_weights_have_no_gradient_and_change_no_other() {
    let parameters = Parameters::random(&config(), 1, &device()).unwrap();
    let (batch, how) = (batch(false), smooth(Pass::inference()));
    let run = |trains: fn(&str) -> bool| {
        let trained = Trained::new(&config(), &parameters, None, trains);
        trained.passed(&batch, &how)
    };
    let (loss, all) = run(|_| true);
    assert_eq!(all.len(), parameters.iter().count());
    let parts: [fn(&str) -> bool; 4] = [
        |name| name.starts_with("decoder"),
        |name| name.starts_with("encoder"),
        |name| name.contains("norm"),
        |name| name.contains("relative_attention_bias"),
    ];
    for part in parts {
        let (same, some) = run(part);
        assert_eq!(same, loss);
        let names = |named: &Named| named.keys().cloned().collect::<Vec<_>>();
        let mut expected = names(&all);
        expected.retain(|name| part(name));
        assert!(!some.is_empty() && names(&some) == expected);
        for (name, grad) in &some {
            assert_eq!(bits(grad), bits(&all[name]), "{name}");
        }
    }
    let (same, none) = run(|_| false);
    assert!(same == loss && none.is_empty());
}

#[test]
fn an_adapter_starts_as_nothing_can_be_switched_off_and_merges() {
    for targets in [
        &["q", "v"][..],
        &["k"],
        &["EncDecAttention.k", "wi", "o"],
        &["wo"],
    ] {
        let (config, lora) = (config(), lora(targets, LoraBias::None));
        let mut parameters = Parameters::random(&config, 1, &device()).unwrap();
        let batch = batch(false);
        let base = Model::new(&config, &parameters, None).unwrap();
        let on = Pass::inference();
        let off = Pass {
            adapter: false,
            ..Pass::inference()
        };
        let before = hidden(&base, &batch, &on);
        let names = lora.attach(&config, &mut parameters, 5).unwrap();
        let trained = Trained::new(&config, &parameters, Some(&lora), |name| lora.trains(name));
        let model = &trained.model;
        assert!(difference(&hidden(model, &batch, &on), &before) < 1e-6);
        train_adapter(&parameters);
        let adapted = hidden(model, &batch, &on);
        assert!(difference(&adapted, &before) > 1e-3);
        assert_eq!(difference(&hidden(model, &batch, &off), &before), 0.0);

        let (_, grads) = trained.passed(&batch, &smooth(on.clone()));
        assert_eq!(
            grads.keys().cloned().collect::<BTreeSet<_>>(),
            names.iter().cloned().collect()
        );
        assert!(grads.values().all(|grad| common::norm(grad) > 0.0));
        let (_, none) = trained.passed(&batch, &smooth(off.clone()));
        assert!(none.is_empty());

        let merged = Parameters::random(&config, 1, &device()).unwrap();
        for module in names
            .iter()
            .filter_map(|name| name.strip_suffix(".lora_A.weight"))
        {
            let part = |name: &str| parameters.get(&format!("{module}.{name}.weight")).unwrap();
            let low = part("lora_B").matmul(part("lora_A")).unwrap();
            let var = merged.get(&format!("{module}.weight")).unwrap();
            var.set(&(var.as_tensor() + (low * lora.scaling(module).unwrap()).unwrap()).unwrap())
                .unwrap();
        }
        let merged = Model::new(&config, &merged, None).unwrap();
        assert!(difference(&hidden(&merged, &batch, &on), &adapted) < 1e-4);
        // Steps with a cache take the adapter too.
        let tape = Tape::off(Precision::F32);
        let encoded = model.encode(&tape, &batch.source, &on).unwrap();
        let mut cache = model.start(&encoded, &batch.source.rows, &on).unwrap();
        let logits = model.logits(&adapted).unwrap();
        let ids: Vec<u32> = batch.target.ids.to_vec1().unwrap();
        let rows = [batch.target.rows.range(0), batch.target.rows.range(1)];
        for step in 0..5 {
            let ids: Vec<u32> = rows.iter().map(|row| ids[row.start + step]).collect();
            let ids = Tensor::from_vec(ids, (2, 1), &device()).unwrap();
            let got = model.step(&ids, &mut cache, &on).unwrap();
            for (place, row) in rows.iter().enumerate() {
                let expected = logits.narrow(0, row.start + step, 1).unwrap();
                assert!(
                    difference(&got.narrow(0, place, 1).unwrap(), &expected) < 1e-4,
                    "step {step}"
                );
            }
        }
    }
}

#[test]
fn an_adapter_with_biases_trains_them() {
    let lora = lora(&["q"], LoraBias::All);
    assert!(lora.trains("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"));
    assert!(!lora.trains("encoder.block.0.layer.0.SelfAttention.q.weight"));
}

#[test]
fn an_adapter_that_fits_nothing_is_refused() {
    let mut parameters = Parameters::random(&config(), 1, &device()).unwrap();
    for (lora, field) in [
        (lora(&["query"], LoraBias::None), "lora.targets"),
        (lora(&[], LoraBias::None), "lora.targets"),
        (
            LoraConfig {
                r: 0,
                ..lora(&["q"], LoraBias::None)
            },
            "lora.r",
        ),
        (
            LoraConfig {
                dropout: 1.0,
                ..lora(&["q"], LoraBias::None)
            },
            "lora.dropout",
        ),
    ] {
        let error = lora.attach(&config(), &mut parameters, 1).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn random_weights_are_keyed_by_name_and_have_transformers_deviations() {
    let small = Parameters::random(&config(), 1, &device()).unwrap();
    let larger = Config {
        num_layers: 3,
        ..config()
    };
    let larger = Parameters::random(&larger, 1, &device()).unwrap();
    for (name, var) in small.iter() {
        assert_eq!(difference(var, larger.get(name).unwrap()), 0.0, "{name}");
    }
    let other = Parameters::random(&config(), 2, &device()).unwrap();
    assert!(
        difference(
            small.get("shared.weight").unwrap(),
            other.get("shared.weight").unwrap()
        ) > 1.0
    );
    for (name, expected) in [
        ("shared.weight", 1.0),
        (
            "encoder.block.0.layer.0.SelfAttention.q.weight",
            (32.0f32 * 8.0).powf(-0.5),
        ),
        (
            "decoder.block.1.layer.1.EncDecAttention.k.weight",
            32.0f32.powf(-0.5),
        ),
        (
            "decoder.block.1.layer.0.SelfAttention.o.weight",
            32.0f32.powf(-0.5),
        ),
        (
            "encoder.block.1.layer.1.DenseReluDense.wo.weight",
            48.0f32.powf(-0.5),
        ),
    ] {
        let values = values(small.get(name).unwrap());
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(
            (square.sqrt() / expected - 1.0).abs() < 0.1,
            "{name}: {}",
            square.sqrt()
        );
    }
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let config = config();
    let whole = || -> BTreeMap<String, Tensor> {
        let parameters = Parameters::random(&config, 1, &device()).unwrap();
        parameters
            .iter()
            .map(|(name, var)| (name.to_owned(), var.as_tensor().clone()))
            .collect()
    };
    let name = "decoder.final_layer_norm.weight";
    let mut missing = whole();
    missing.remove(name);
    let mut shaped = whole();
    shaped.insert(
        name.to_owned(),
        Tensor::zeros(3, DType::F32, &device()).unwrap(),
    );
    for tensors in [missing, shaped] {
        let error = Parameters::from_tensors(&config, tensors, &device()).unwrap_err();
        assert!(
            error.code() == Code::ModelInvalid && error.to_string().contains(name),
            "{error}"
        );
    }
    let mut unknown = whole();
    unknown.insert(
        "decoder.extra".to_owned(),
        Tensor::zeros(3, DType::F32, &device()).unwrap(),
    );
    let error = Parameters::from_tensors(&config, unknown, &device()).unwrap_err();
    assert!(error.to_string().contains("decoder.extra"), "{error}");
    let mut copies = whole();
    for copy in [
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
    ] {
        copies.insert(copy.to_owned(), copies["shared.weight"].clone());
    }
    assert!(Parameters::from_tensors(&config, copies, &device()).is_ok());
}

#[test]
fn an_update_of_a_weight_shows_in_every_model_over_it() {
    let parameters = Parameters::random(&config(), 1, &device()).unwrap();
    let model = Model::new(&config(), &parameters, None).unwrap();
    let batch = batch(false);
    let before = hidden(&model, &batch, &Pass::inference());
    let var: &Var = parameters.get("decoder.final_layer_norm.weight").unwrap();
    var.set(&(var.as_tensor() * 2.0).unwrap()).unwrap();
    let after = hidden(&model, &batch, &Pass::inference());
    assert!(difference(&after, &(before * 2.0).unwrap()) < 1e-5);
}
