//! What training relies on: one loss two ways, frozen weights, adapters, dropout that knows neither
//! neighbours nor threads, and random weights that know neither order nor each other.
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use chatlm_job::Code;
use chatlm_kernels::cross_entropy;
use chatlm_t5::{Config, DropoutKeys, LoraBias, LoraConfig, Model, Parameters, Pass};

fn config() -> Config {
    Config {
        vocab_size: 60,
        d_model: 32,
        d_kv: 8,
        d_ff: 48,
        num_layers: 2,
        num_heads: 4,
        ..Config::default()
    }
}

struct Batch {
    source: Tensor,
    mask: Tensor,
    decoder: Tensor,
    targets: Tensor,
    keys: DropoutKeys,
}

/// Two rows; the second is shorter on both sides. With `alone` it is there without padding.
fn batch(alone: bool) -> Batch {
    let device = Device::Cpu;
    let first: Vec<u32> = (2..11).collect();
    let second: Vec<u32> = (20..25).collect();
    let rows: Vec<&[u32]> = if alone {
        vec![&second]
    } else {
        vec![&first, &second]
    };
    let width = rows[0].len();
    let pad = |row: &[u32]| -> Vec<u32> {
        let mut row = row.to_vec();
        row.resize(width, 0);
        row
    };
    let ids: Vec<Vec<u32>> = rows.iter().map(|row| pad(row)).collect();
    let source = Tensor::new(ids, &device).unwrap();
    let targets: Vec<Vec<u32>> = rows
        .iter()
        .map(|row| pad(&row.iter().rev().map(|id| id + 3).collect::<Vec<_>>()))
        .collect();
    let decoder: Vec<Vec<u32>> = targets
        .iter()
        .map(|row| {
            std::iter::once(0)
                .chain(row[..width - 1].iter().copied())
                .collect()
        })
        .collect();
    let all = [71u64, 72];
    Batch {
        mask: source.ne(0u32).unwrap(),
        source,
        decoder: Tensor::new(decoder, &device).unwrap(),
        targets: Tensor::new(targets, &device).unwrap(),
        keys: DropoutKeys {
            rows: all[all.len() - rows.len()..].to_vec(),
            rate: 0.2,
        },
    }
}

fn hidden(model: &Model, batch: &Batch, pass: &Pass<'_>) -> Tensor {
    let encoded = model.encode(&batch.source, &batch.mask, pass).unwrap();
    model
        .decode(&batch.decoder, &encoded, &batch.mask, pass)
        .unwrap()
        .flatten_to(1)
        .unwrap()
}

fn loss(model: &Model, batch: &Batch, pass: &Pass<'_>) -> Tensor {
    let targets = batch.targets.flatten_all().unwrap();
    model
        .cross_entropy(&hidden(model, batch, pass), &targets, 0, 0.1)
        .unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    values(a)
        .iter()
        .zip(values(b))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

type Gradients = BTreeMap<String, Tensor>;

fn gradients(parameters: &Parameters, loss: &Tensor) -> Gradients {
    let store = loss.backward().unwrap();
    parameters
        .iter()
        .filter_map(|(name, var)| Some((name.to_owned(), store.get(var)?.clone())))
        .collect()
}

#[test]
fn the_loss_without_logits_is_the_loss_of_the_logits() {
    for tied in [true, false] {
        let config = Config {
            tie_word_embeddings: tied,
            ..config()
        };
        let parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
        let model = Model::new(&config, &parameters, None, true).unwrap();
        let (batch, pass) = (batch(false), Pass::inference());
        let one = loss(&model, &batch, &pass);
        let logits = model.logits(&hidden(&model, &batch, &pass)).unwrap();
        let other = cross_entropy(&logits, &batch.targets.flatten_all().unwrap(), 0, 0.1).unwrap();
        assert!(difference(&one, &other) < 1e-4);
        let (a, b) = (gradients(&parameters, &one), gradients(&parameters, &other));
        assert_eq!(a.len(), parameters.iter().count());
        for (name, grad) in &a {
            assert!(difference(grad, &b[name]) < 1e-4, "{name}");
        }
    }
}

#[test]
fn dropout_of_a_row_knows_neither_neighbours_nor_padding() {
    let parameters = Parameters::random(&config(), 1, &Device::Cpu).unwrap();
    let model = Model::new(&config(), &parameters, None, false).unwrap();
    let row = |alone: bool| {
        let batch = batch(alone);
        let pass = Pass {
            dropout: Some(&batch.keys),
            adapter: true,
        };
        let hidden = hidden(&model, &batch, &pass);
        let from = hidden.dim(0).unwrap() - batch.source.dim(1).unwrap();
        hidden.narrow(0, from, 5).unwrap()
    };
    assert!(difference(&row(true), &row(false)) < 1e-5);
    let still = batch(true);
    let without = hidden(&model, &still, &Pass::inference());
    assert!(difference(&row(true), &without) > 0.1);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let run = || {
        let config = Config {
            d_model: 128,
            d_ff: 512,
            vocab_size: 3000,
            ..config()
        };
        let parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
        let model = Model::new(&config, &parameters, None, true).unwrap();
        let (rows, length) = (9usize, 37usize);
        let ids = |shift: usize| {
            let ids = (0..rows * length)
                .map(|i| (2 + (i * 31 + shift) % 2990) as u32)
                .collect();
            Tensor::from_vec(ids, (rows, length), &Device::Cpu).unwrap()
        };
        let keys = DropoutKeys {
            rows: (0..rows as u64).collect(),
            rate: 0.1,
        };
        let mask = Tensor::ones((rows, length), DType::U8, &Device::Cpu).unwrap();
        let batch = Batch {
            source: ids(1),
            mask,
            decoder: ids(2),
            targets: ids(3),
            keys,
        };
        let pass = Pass {
            dropout: Some(&batch.keys),
            adapter: true,
        };
        let loss = loss(&model, &batch, &pass);
        let bits = |t: &Tensor| values(t).iter().map(|f| f.to_bits()).collect::<Vec<_>>();
        let grads = gradients(&parameters, &loss);
        (
            bits(&loss),
            grads
                .iter()
                .map(|(name, t)| (name.clone(), bits(t)))
                .collect::<Vec<_>>(),
        )
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let one = pool(1).install(run);
    for threads in [2, 5] {
        assert!(one == pool(threads).install(run), "{threads} threads");
    }
}

#[test]
fn frozen_weights_have_no_gradient_and_change_no_other() {
    let parameters = Parameters::random(&config(), 1, &Device::Cpu).unwrap();
    let (batch, pass) = (batch(false), Pass::inference());
    let whole = Model::new(&config(), &parameters, None, true).unwrap();
    let all = gradients(&parameters, &loss(&whole, &batch, &pass));
    let part = Model::with_trainable(&config(), &parameters, None, &|name| {
        name.starts_with("decoder")
    });
    let some = gradients(&parameters, &loss(&part.unwrap(), &batch, &pass));
    assert!(!some.is_empty() && some.keys().all(|name| name.starts_with("decoder")));
    assert_eq!(
        some.len(),
        all.keys()
            .filter(|name| name.starts_with("decoder"))
            .count()
    );
    for (name, grad) in &some {
        assert_eq!(difference(grad, &all[name]), 0.0, "{name}");
    }
    let none = Model::new(&config(), &parameters, None, false).unwrap();
    assert!(gradients(&parameters, &loss(&none, &batch, &pass)).is_empty());
}

fn lora(targets: &[&str], bias: LoraBias) -> LoraConfig {
    let targets = targets.iter().map(|&target| target.to_owned()).collect();
    LoraConfig {
        r: 3,
        alpha: 6.0,
        dropout: 0.0,
        targets,
        bias,
    }
}

/// Gives every `lora_B` values, which start at zero.
fn train(parameters: &Parameters) {
    for (name, var) in parameters
        .iter()
        .filter(|(name, _)| name.contains(".lora_B."))
    {
        let values: Vec<f32> = (0..var.elem_count())
            .map(|i| ((i * 7 + name.len()) % 11) as f32 / 40.0 - 0.1)
            .collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
            .unwrap();
    }
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
        let mut parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
        let batch = batch(false);
        let base = Model::new(&config, &parameters, None, false).unwrap();
        let (on, off) = (
            Pass::inference(),
            Pass {
                dropout: None,
                adapter: false,
            },
        );
        let before = hidden(&base, &batch, &on);
        let names = lora.attach(&config, &mut parameters, 5).unwrap();
        let model =
            Model::with_trainable(&config, &parameters, Some(&lora), &|name| lora.trains(name));
        let model = model.unwrap();
        assert!(difference(&hidden(&model, &batch, &on), &before) < 1e-6);
        train(&parameters);
        let adapted = hidden(&model, &batch, &on);
        assert!(difference(&adapted, &before) > 1e-3);
        assert_eq!(difference(&hidden(&model, &batch, &off), &before), 0.0);

        let grads = gradients(&parameters, &loss(&model, &batch, &on));
        assert_eq!(
            grads.keys().cloned().collect::<Vec<_>>(),
            names
                .iter()
                .cloned()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );

        let merged = Parameters::random(&config, 1, &Device::Cpu).unwrap();
        for module in names
            .iter()
            .filter_map(|name| name.strip_suffix(".lora_A.weight"))
        {
            let part = |name: &str| parameters.get(&format!("{module}.{name}.weight")).unwrap();
            let low = part("lora_B").matmul(part("lora_A")).unwrap();
            let var = merged.get(&format!("{module}.weight")).unwrap();
            var.set(&(var.as_tensor() + (low * lora.scaling()).unwrap()).unwrap())
                .unwrap();
        }
        let merged = Model::new(&config, &merged, None, false).unwrap();
        assert!(difference(&hidden(&merged, &batch, &on), &adapted) < 1e-4);
        // Steps with a cache take the adapter too.
        let encoded = model.encode(&batch.source, &batch.mask, &on).unwrap();
        let mut cache = model.start(&encoded, &batch.mask, &on).unwrap();
        let logits = model.logits(&adapted).unwrap();
        for step in 0..5 {
            let ids = batch.decoder.narrow(1, step, 1).unwrap();
            let got = model.step(&ids, &mut cache, &on).unwrap();
            let expected = logits.narrow(0, step, 1).unwrap();
            assert!(
                difference(&got.narrow(0, 0, 1).unwrap(), &expected) < 1e-4,
                "step {step}"
            );
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
    let mut parameters = Parameters::random(&config(), 1, &Device::Cpu).unwrap();
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
    let small = Parameters::random(&config(), 1, &Device::Cpu).unwrap();
    let larger = Config {
        num_layers: 3,
        ..config()
    };
    let larger = Parameters::random(&larger, 1, &Device::Cpu).unwrap();
    for (name, var) in small.iter() {
        assert_eq!(difference(var, larger.get(name).unwrap()), 0.0, "{name}");
    }
    let other = Parameters::random(&config(), 2, &Device::Cpu).unwrap();
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
        let parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
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
        Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(),
    );
    for tensors in [missing, shaped] {
        let error = Parameters::from_tensors(&config, tensors, &Device::Cpu).unwrap_err();
        assert!(
            error.code() == Code::ModelInvalid && error.to_string().contains(name),
            "{error}"
        );
    }
    let mut unknown = whole();
    unknown.insert(
        "decoder.extra".to_owned(),
        Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(),
    );
    let error = Parameters::from_tensors(&config, unknown, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("decoder.extra"), "{error}");
    let mut copies = whole();
    for copy in [
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
    ] {
        copies.insert(copy.to_owned(), copies["shared.weight"].clone());
    }
    assert!(Parameters::from_tensors(&config, copies, &Device::Cpu).is_ok());
}

#[test]
fn an_update_of_a_weight_shows_in_every_model_over_it() {
    let parameters = Parameters::random(&config(), 1, &Device::Cpu).unwrap();
    let model = Model::new(&config(), &parameters, None, false).unwrap();
    let batch = batch(false);
    let before = hidden(&model, &batch, &Pass::inference());
    let var: &Var = parameters.get("decoder.final_layer_norm.weight").unwrap();
    var.set(&(var.as_tensor() * 2.0).unwrap()).unwrap();
    let after = hidden(&model, &batch, &Pass::inference());
    assert!(difference(&after, &(before * 2.0).unwrap()) < 1e-5);
}
