#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]

use candle_core::{Device, Tensor};
use chatlm_checkpoint::Checkpoints;
use chatlm_job::{Random, mix};
use chatlm_kernels::testing::device;
use chatlm_t5::{LoraBias, Pass};
use serde_json::json;

use super::*;
use crate::config::tests::tiny;
use crate::{PreferenceLoss, ReferenceBatch, sequence_log_probabilities, sequence_loss};

pub(crate) fn shape() -> Config {
    Config {
        vocab_size: 40,
        d_model: 16,
        d_kv: 4,
        d_ff: 24,
        num_layers: 2,
        num_decoder_layers: Some(2),
        num_heads: 4,
        dropout_rate: 0.1,
        ..Config::default()
    }
}

pub(crate) fn settings(changes: serde_json::Value) -> TrainConfig {
    let mut value = tiny();
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn trainer(settings: &TrainConfig) -> Trainer {
    trainer_on(&device(), settings)
}

pub(crate) fn trainer_on(device: &Device, settings: &TrainConfig) -> Trainer {
    trainer_of(device, settings, shape())
}

pub(crate) fn trainer_of(device: &Device, settings: &TrainConfig, config: Config) -> Trainer {
    let config = Config {
        dropout_rate: settings.dropout,
        ..config
    };
    let mut parameters = Parameters::random(&config, 3, device).unwrap();
    if let Some(lora) = &settings.lora {
        lora.attach(&config, &mut parameters, 5).unwrap();
    }
    Trainer::new(settings, config, parameters, settings.lora.clone(), 20).unwrap()
}

fn ids(random: &mut Random, longest: u64) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..random.below(longest))
        .map(|_| 2 + random.below(38) as u32)
        .collect();
    ids.push(1);
    ids
}

/// Rows of different lengths that depend on `step` alone.
pub(crate) fn rows(step: u64, count: u64) -> (Vec<u64>, Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut random = Random::new(mix(99, step));
    let keys = (0..count).map(|row| mix(mix(7, step), row)).collect();
    let sources = (0..count).map(|_| ids(&mut random, 9)).collect();
    let targets = (0..count).map(|_| ids(&mut random, 7)).collect();
    (keys, sources, targets)
}

fn batch(keys: &[u64], sources: &[Vec<u32>], targets: &[Vec<u32>]) -> SequenceBatch {
    SequenceBatch::new(keys, sources, targets, 0, &device()).unwrap()
}

fn step_batch(step: u64) -> SequenceBatch {
    step_batch_on(&device(), step)
}

pub(crate) fn step_batch_on(device: &Device, step: u64) -> SequenceBatch {
    let (keys, sources, targets) = rows(step, 4);
    SequenceBatch::new(&keys, &sources, &targets, 0, device).unwrap()
}

pub(crate) fn weights(trainer: &Trainer) -> BTreeMap<String, Vec<f32>> {
    trainer
        .parameters
        .iter()
        .map(|(name, var)| {
            (
                name.to_owned(),
                var.flatten_all().unwrap().to_vec1().unwrap(),
            )
        })
        .collect()
}

/// What a checkpoint's files would hold.
pub(crate) fn bytes(trainer: &Trainer) -> Vec<Vec<u8>> {
    let state = trainer.state().unwrap();
    let files = state.iter();
    files
        .map(|(_, pieces)| chatlm_checkpoint::to_safetensors(pieces).unwrap())
        .collect()
}

pub(super) type Gathered = BTreeMap<String, Vec<f32>>;

/// The gradients of a step by name.
fn gathered(trainer: &Trainer, gradients: &Gradients<'_>) -> Gathered {
    let names = trainer.trained.iter().map(|(name, _)| name.clone());
    names
        .enumerate()
        .filter_map(|(index, name)| Some((name, gradients.get(index)?.to_vec())))
        .collect()
}

/// Loss and gradients of micro-batches.
fn passed(trainer: &Trainer, micro: &[SequenceBatch]) -> (f64, Gathered) {
    let mut gradients = Gradients::new(trainer.sizes());
    let found = trainer
        .passes()
        .gradients(micro, Totals::of(micro), &mut gradients, None)
        .unwrap();
    (found.measured, gathered(trainer, &gradients))
}

pub(super) fn preferred(
    trainer: &Trainer,
    micro: &[PreferenceBatch],
) -> (PreferenceMeasures, Gathered) {
    let mut gradients = Gradients::new(trainer.sizes());
    let found = trainer
        .passes()
        .preference_gradients(micro, Totals::of_pairs(micro), &mut gradients, None)
        .unwrap();
    (found.measured.means(), gathered(trainer, &gradients))
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

pub(super) fn distance(a: &Gathered, b: &Gathered) -> f64 {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let worst = a.iter().map(|(name, x)| {
        let difference: Vec<f32> = x.iter().zip(&b[name]).map(|(x, y)| x - y).collect();
        (square(&difference) / square(x).max(1e-20)).sqrt()
    });
    worst.fold(0.0, f64::max)
}

/// Moves the weights along the gradients.
fn shift(trainer: &Trainer, gradients: &Gathered, scale: f64) {
    for (name, var) in &trainer.trained {
        let mut weights: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        for (w, g) in weights.iter_mut().zip(&gradients[name]) {
            *w += (f64::from(*g) * scale) as f32;
        }
        var.set(&Tensor::from_vec(weights, var.shape(), var.device()).unwrap())
            .unwrap();
    }
}

#[test]
fn micro_batches_give_the_gradients_of_one_batch() {
    let trainer = trainer(&settings(json!({"dropout": 0.2})));
    let (keys, sources, targets) = rows(1, 6);
    let whole = passed(&trainer, &[batch(&keys, &sources, &targets)]);
    let parts: Vec<SequenceBatch> = [0..1, 1..4, 4..6]
        .into_iter()
        .map(|part| batch(&keys[part.clone()], &sources[part.clone()], &targets[part]))
        .collect();
    let parts = passed(&trainer, &parts);
    assert!((whole.0 - parts.0).abs() < 1e-6);
    assert!(
        distance(&whole.1, &parts.1) < 1e-5,
        "{}",
        distance(&whole.1, &parts.1)
    );
    assert_eq!(whole.1.len(), trainer.trained.len());
}

#[test]
fn gradients_are_those_of_the_loss() {
    // Central differences along the gradient: the slope must be its squared length.
    let trainer = trainer(&settings(json!({"dropout": 0.1, "labelSmoothing": 0.1})));
    let data = [step_batch(3)];
    let (_, gradients) = passed(&trainer, &data);
    let square: f64 = gradients.values().map(|g| square(g)).sum();
    let at = |scale: f64| {
        shift(&trainer, &gradients, scale);
        passed(&trainer, &data).0
    };
    let h = 1e-3;
    let (up, down) = (at(h), at(-2.0 * h));
    let slope = (up - down) / (2.0 * h);
    assert!((slope / square - 1.0).abs() < 2e-2, "{slope} {square}");
}

#[test]
fn a_run_in_two_parts_is_a_run_in_one_to_the_bit() {
    for optimizer in ["adamw", "adafactor"] {
        for lora in [
            json!(null),
            json!({"r": 2, "alpha": 4, "dropout": 0.1, "targets": ["q", "wi"], "bias": "all"}),
            json!({
                "r": 2, "alpha": 4, "dropout": 0.1, "targets": ["q", "wi"], "bias": "none",
                "useDora": true,
            }),
        ] {
            let settings = settings(json!({"optimizer": optimizer, "lora": lora}));
            let mut whole = trainer(&settings);
            for step in 0..6 {
                whole
                    .step(&[step_batch(step), step_batch(100 + step)])
                    .unwrap();
            }
            let folder = tempfile::tempdir().unwrap();
            let store = Checkpoints::open(folder.path()).unwrap();
            let mut first = trainer(&settings);
            for step in 0..3 {
                first
                    .step(&[step_batch(step), step_batch(100 + step)])
                    .unwrap();
            }
            store.save(3, &first.state().unwrap(), &json!({})).unwrap();
            drop(first);
            let mut second = trainer(&settings);
            second.restore(&store.newest().unwrap().unwrap()).unwrap();
            assert_eq!(second.steps(), 3);
            for step in 3..6 {
                second
                    .step(&[step_batch(step), step_batch(100 + step)])
                    .unwrap();
            }
            assert_eq!(weights(&whole), weights(&second), "{optimizer}");
            assert_eq!(bytes(&whole), bytes(&second), "{optimizer}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_shape_changes_nothing() {
    let settings = settings(json!({}));
    let folder = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(folder.path()).unwrap();
    let other = Config {
        d_ff: 32,
        ..shape()
    };
    let parameters = Parameters::random(&other, 3, &device()).unwrap();
    let other = Trainer::new(&settings, other, parameters, None, 20).unwrap();
    store.save(1, &other.state().unwrap(), &json!({})).unwrap();
    let mut trainer = trainer(&settings);
    let before = weights(&trainer);
    let error = trainer
        .restore(&store.newest().unwrap().unwrap())
        .unwrap_err();
    assert_eq!(error.code(), Code::CheckpointInvalid);
    assert_eq!(before, weights(&trainer));
}

#[test]
fn what_is_frozen_stays_to_the_byte() {
    let mut trainer = trainer(&settings(json!({"freeze": ["embedding", "encoder"]})));
    let before = weights(&trainer);
    for step in 0..4 {
        trainer.step(&[step_batch(step)]).unwrap();
    }
    for (name, values) in weights(&trainer) {
        let frozen = name == "shared.weight" || name.starts_with("encoder.");
        assert_eq!(values == before[&name], frozen, "{name}");
    }
    let (all, trained) = trainer.parameter_counts();
    assert!(trained < all);
    let state = trainer.state().unwrap();
    assert!(!state[1].1.keys().any(|name| name.starts_with("encoder.")));
}

#[test]
fn freezing_nothing_known_or_everything_is_refused() {
    for freeze in [
        json!(["encodr"]),
        json!(["embedding", "encoder", "decoder"]),
    ] {
        let settings = settings(json!({"freeze": freeze}));
        let parameters = Parameters::random(&shape(), 3, &device()).unwrap();
        let error = Trainer::new(&settings, shape(), parameters, None, 20)
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::ConfigInvalid);
    }
}

#[test]
fn an_adapter_trains_alone_and_can_be_switched_off() {
    for dora in [false, true] {
        trains_alone(dora);
    }
}

fn trains_alone(dora: bool) {
    let lora = json!({
        "r": 2, "alpha": 4, "dropout": 0.0, "targets": ["q", "v"], "bias": "none", "useDora": dora,
    });
    let mut trainer = trainer(&settings(json!({"lora": lora, "warmupSteps": 0})));
    // Room for gradients and the optimizer's state are of the trained weights alone.
    assert!(
        trainer
            .trained
            .iter()
            .all(|(name, _)| name.contains(".lora_"))
    );
    let data = step_batch(1);
    let off = Pass {
        adapter: false,
        ..Pass::inference()
    };
    let score = |trainer: &Trainer, pass: &Pass| -> Vec<f32> {
        sequence_log_probabilities(&trainer.model().unwrap(), &data, pass).unwrap()
    };
    let (before, base) = (weights(&trainer), score(&trainer, &off));
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(near(&base, &score(&trainer, &Pass::inference())));
    for step in 0..3 {
        trainer.step(&[step_batch(step)]).unwrap();
    }
    for (name, values) in weights(&trainer) {
        assert_eq!(values != before[&name], name.contains(".lora_"), "{name}");
    }
    assert_eq!(base, score(&trainer, &off));
    assert_ne!(base, score(&trainer, &Pass::inference()));
}

#[test]
fn a_loss_that_is_not_finite_stops_or_skips() {
    for (choice, stops) in [("stop", true), ("skip", false)] {
        let mut trainer = trainer(&settings(json!({"onNaN": choice})));
        trainer.step(&[step_batch(0)]).unwrap();
        let norm = trainer
            .parameters
            .get("decoder.final_layer_norm.weight")
            .unwrap()
            .clone();
        norm.set(&Tensor::full(f32::NAN, norm.dims(), &device()).unwrap())
            .unwrap();
        let before = weights(&trainer)["shared.weight"].clone();
        match trainer.step(&[step_batch(1)]) {
            Err(error) => {
                assert!(stops);
                assert_eq!((error.code(), trainer.steps()), (Code::NotFinite, 1));
                assert_eq!(error.context()["step"], 2);
            }
            Ok(report) => assert!(!stops && report.skipped && trainer.steps() == 2),
        }
        assert_eq!(before, weights(&trainer)["shared.weight"]);
    }
}

#[test]
fn training_learns_rows_by_heart() {
    let mut trainer = trainer(&settings(json!({"dropout": 0.0, "schedule": "constant"})));
    let data = step_batch(5);
    let first = trainer.step(std::slice::from_ref(&data)).unwrap();
    let mut last = first;
    for _ in 0..80 {
        last = trainer.step(std::slice::from_ref(&data)).unwrap();
    }
    assert!(
        last.loss < first.loss / 10.0,
        "{} {}",
        first.loss,
        last.loss
    );
    assert_eq!(first.learning_rate, 0.0);
    assert_eq!(first.tokens, data.tokens + data.source_tokens);
}

pub(crate) fn preferences(
    step: u64,
    part: std::ops::Range<usize>,
    trainer: &Trainer,
) -> PreferenceBatch {
    let (keys, sources, chosen) = rows(step, 4);
    let (_, _, rejected) = rows(step + 50, 4);
    let side = |targets: &[Vec<u32>]| {
        batch(
            &keys[part.clone()],
            &sources[part.clone()],
            &targets[part.clone()],
        )
    };
    let (chosen, rejected) = (side(&chosen), side(&rejected));
    let model = trainer.model().unwrap();
    let pass = Pass {
        adapter: false,
        ..Pass::inference()
    };
    let score = |side: &SequenceBatch| sequence_log_probabilities(&model, side, &pass).unwrap();
    let reference = ReferenceBatch {
        chosen: score(&chosen),
        rejected: score(&rejected),
    };
    PreferenceBatch {
        chosen,
        rejected,
        reference: Some(reference),
    }
}

#[test]
fn log_probabilities_sum_to_the_loss() {
    let trainer = trainer(&settings(json!({})));
    let data = step_batch(2);
    let model = trainer.model().unwrap();
    let (loss, tokens) = sequence_loss(&model, &data).unwrap();
    let scores = sequence_log_probabilities(&model, &data, &Pass::inference()).unwrap();
    assert!((loss + scores.iter().map(|&s| f64::from(s)).sum::<f64>()).abs() < 1e-3);
    assert_eq!(data.lengths.iter().sum::<usize>(), tokens);
}

#[test]
fn preference_gradients_are_those_of_the_loss_and_add_up() {
    for loss in ["sigmoid", "ipo", "simpo", "orpo"] {
        let settings = settings(json!({"loss": loss, "beta": 0.5, "dropout": 0.1}));
        let trainer = trainer(&settings);
        let mut whole = preferences(1, 0..4, &trainer);
        let mut parts: Vec<PreferenceBatch> = [0..1, 1..4]
            .map(|part| preferences(1, part, &trainer))
            .into();
        // Away from the point where policy and reference are the same.
        let away = |batch: &mut PreferenceBatch| {
            if let Some(reference) = &mut batch.reference {
                reference.chosen.iter_mut().for_each(|score| *score -= 1.5);
            }
        };
        away(&mut whole);
        parts.iter_mut().for_each(away);
        let whole = [whole];
        let (measures, gradients) = preferred(&trainer, &whole);
        let (again, summed) = preferred(&trainer, &parts);
        assert!((measures.loss - again.loss).abs() < 1e-5, "{loss}");
        assert!(distance(&gradients, &summed) < 1e-4, "{loss}");
        let square: f64 = gradients.values().map(|g| square(g)).sum();
        let at = |scale: f64| {
            shift(&trainer, &gradients, scale);
            preferred(&trainer, &whole).0.loss
        };
        let h = 1e-3 / square.sqrt();
        let (up, down) = (at(h), at(-2.0 * h));
        let slope = (up - down) / (2.0 * h);
        assert!(
            (slope / square - 1.0).abs() < 3e-2,
            "{loss} {slope} {square}"
        );
    }
}

#[test]
fn preference_steps_part_chosen_from_rejected() {
    for (loss, lora) in [
        (PreferenceLoss::Sigmoid, true),
        (PreferenceLoss::Ipo, false),
        (PreferenceLoss::Simpo, true),
        (PreferenceLoss::Orpo, false),
    ] {
        let lora = lora.then(|| LoraConfig {
            r: 4,
            alpha: 8.0,
            dropout: 0.0,
            targets: vec!["q".into(), "v".into(), "wo".into()].into(),
            bias: LoraBias::None,
            ..LoraConfig::default()
        });
        let settings = settings(json!({
            "loss": loss, "lora": lora, "dropout": 0.0, "schedule": "constant", "beta": 0.5,
        }));
        let mut trainer = trainer(&settings);
        let data = [preferences(4, 0..4, &trainer)];
        let first = trainer.preference_step(&data).unwrap().rewards.unwrap();
        let mut last = first;
        for _ in 0..30 {
            last = trainer.preference_step(&data).unwrap().rewards.unwrap();
        }
        assert!(
            last.margins > first.margins && last.loss < first.loss,
            "{loss:?} {first:?} {last:?}"
        );
        let model = trainer.model().unwrap();
        let measured = crate::preference_measures(&model, &data[0], &settings).unwrap();
        assert!(measured.loss <= last.loss * 1.05, "{measured:?} {last:?}");
    }
}

#[test]
fn without_clipping_weights_change_as_their_gradients_come_and_to_the_same() {
    for optimizer in ["adamw", "adafactor"] {
        for recompute in [false, true] {
            let with = |clip: f64| {
                settings(json!({
                    "optimizer": optimizer, "clip": clip, "recompute": recompute, "warmupSteps": 0,
                }))
            };
            // Clipping that never bites takes the other way to the same weights.
            let (mut fused, mut plain) = (trainer(&with(0.0)), trainer(&with(1e9)));
            if !fused.plain {
                // Tensors of a device are updated all together.
                assert!(!fused.fuses(1));
                return;
            }
            assert!(fused.fuses(1) && !plain.fuses(1) && !fused.fuses(2));
            for step in 0..4 {
                let a = fused.step(&[step_batch(step)]).unwrap();
                let b = plain.step(&[step_batch(step)]).unwrap();
                assert_eq!(a.loss, b.loss, "{optimizer} {step}");
                assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-9);
            }
            assert_eq!(weights(&fused), weights(&plain), "{optimizer}");
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_leaves_a_fused_run_as_it_was() {
    let mut trainer = trainer(&settings(json!({"clip": 0.0})));
    trainer.step(&[step_batch(0)]).unwrap();
    let norm = "decoder.final_layer_norm.weight";
    let var = trainer.parameters.get(norm).unwrap().clone();
    let good = var.as_tensor().copy().unwrap();
    let before = bytes(&trainer);
    var.set(&Tensor::full(f32::NAN, var.dims(), &device()).unwrap())
        .unwrap();
    let error = trainer.step(&[step_batch(1)]).unwrap_err();
    assert_eq!(error.code(), Code::NotFinite);
    assert!(trainer.is_whole());
    var.set(&good).unwrap();
    assert_eq!(before, bytes(&trainer));
}

#[test]
fn a_gradient_that_is_not_finite_after_a_fused_update_leaves_no_whole_weights() {
    let mut trainer = trainer(&settings(json!({"clip": 0.0, "warmupSteps": 0})));
    trainer.step(&[step_batch(0)]).unwrap();
    // The forward pass stays finite; the gradient of the first block's norm does not.
    let norm = trainer
        .parameters
        .get("encoder.block.0.layer.0.layer_norm.weight")
        .unwrap()
        .clone();
    let huge = Tensor::full(1e38f32, norm.dims(), &device()).unwrap();
    norm.set(&huge).unwrap();
    match trainer.step(&[step_batch(1)]) {
        Err(error) => {
            assert_eq!(error.code(), Code::NotFinite);
            assert_eq!(
                trainer.is_whole(),
                !error.help().contains("last checkpoint")
            );
        }
        Ok(report) => assert!(report.loss.is_finite()),
    }
}

#[test]
fn bf16_learns_as_f32_does() {
    let run = |precision: &str| {
        let settings = settings(json!({
            "precision": precision, "dropout": 0.0, "schedule": "constant",
        }));
        let mut trainer = trainer(&settings);
        let data = step_batch(5);
        (0..40)
            .map(|_| trainer.step(std::slice::from_ref(&data)).unwrap().loss)
            .collect::<Vec<_>>()
    };
    let (wide, narrow) = (run("f32"), run("bf16"));
    assert!((wide[0] / narrow[0] - 1.0).abs() < 1e-2);
    assert_ne!(wide[1], narrow[1]);
    assert!(narrow[39] < narrow[0] / 3.0, "{narrow:?}");
}
