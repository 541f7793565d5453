//! Training on a device against training by the processor's kernels. Without a graphics card the device
//! is the processor taken for one without kernels: candle's operators, gradients and moments as tensors,
//! which is what runs on a card too.
#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]

use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use chatlm_checkpoint::Checkpoints;
use chatlm_kernels::testing;
use serde_json::{Value, json};

use super::tests::{bytes, rows, settings, shape, step_batch_on, trainer_of, trainer_on, weights};
use super::*;
use crate::ReferenceBatch;
use crate::parallel::tests::together;

/// The share by which a loss in f32 may be off, in the course of twenty steps.
const NEAR: f64 = 1e-4;
const STEPS: u64 = 20;

/// Runs on the device of the tests, as on one without kernels.
fn on_device<R>(work: impl FnOnce(&Device) -> R) -> R {
    let device = testing::device();
    let _twins = device.is_cpu().then(testing::twins_only);
    work(&device)
}

fn near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found / expected - 1.0).abs();
        assert!(
            off < tolerance,
            "{what}, step {step}: {found} and {expected}"
        );
    }
}

fn adapter() -> Value {
    json!({"r": 2, "alpha": 4, "dropout": 0.1, "targets": ["q", "wo"], "bias": "all"})
}

/// Losses and norms of steps of two micro-batches.
fn train(device: &Device, settings: &TrainConfig, config: &Config) -> (Vec<f64>, Vec<f64>) {
    let mut trainer = trainer_of(device, settings, config.clone());
    let steps = (0..STEPS).map(|step| {
        let micro = [step, 100 + step].map(|step| step_batch_on(device, step));
        let report = trainer.step(&micro).unwrap();
        (report.loss, report.grad_norm)
    });
    steps.unzip()
}

#[test]
fn steps_on_a_device_are_those_of_the_kernels() {
    // Mostly T5 v1.1: a ReLU whose input is all but zero is on or off by the rounding of a sum.
    let gated = Config {
        feed_forward_proj: "gated-gelu".to_owned(),
        tie_word_embeddings: false,
        ..shape()
    };
    let frozen = json!({"freeze": ["embedding", "encoder"], "dropout": 0.3});
    for optimizer in ["adamw", "adafactor"] {
        for (name, config, mut changes) in [
            ("v1.0", shape(), json!({})),
            (
                "v1.1",
                gated.clone(),
                json!({"labelSmoothing": 0.1, "clip": 0.0}),
            ),
            (
                "recomputed",
                gated.clone(),
                json!({"recompute": true, "clip": 0.1}),
            ),
            ("frozen", gated.clone(), frozen.clone()),
            ("an adapter", shape(), json!({"lora": adapter()})),
        ] {
            changes["optimizer"] = json!(optimizer);
            let settings = settings(changes);
            let (losses, norms) = train(&Device::Cpu, &settings, &config);
            let (found, sizes) = on_device(|device| train(device, &settings, &config));
            let what = format!("{optimizer}, {name}");
            near(&what, &found, &losses, NEAR);
            near(&format!("{what}, norm"), &sizes, &norms, 10.0 * NEAR);
        }
    }
}

fn preferences(device: &Device, step: u64) -> PreferenceBatch {
    let (keys, sources, chosen) = rows(step, 4);
    let (_, _, rejected) = rows(step + 50, 4);
    let side = |targets: &[Vec<u32>]| SequenceBatch::new(&keys, &sources, targets, 0, device);
    PreferenceBatch {
        chosen: side(&chosen).unwrap(),
        rejected: side(&rejected).unwrap(),
        reference: Some(ReferenceBatch {
            chosen: vec![-9.0, -12.0, -7.5, -11.0],
            rejected: vec![-10.0, -8.0, -9.5, -12.5],
        }),
    }
}

#[test]
fn preference_steps_on_a_device_are_those_of_the_kernels() {
    for loss in ["sigmoid", "ipo", "simpo", "orpo"] {
        for lora in [json!(null), adapter()] {
            let settings = settings(json!({"loss": loss, "lora": lora, "beta": 0.3}));
            let run = |device: &Device| -> Vec<f64> {
                let mut trainer = trainer_on(device, &settings);
                (0..STEPS)
                    .map(|step| {
                        let micro = [preferences(device, step)];
                        trainer.preference_step(&micro).unwrap().loss
                    })
                    .collect()
            };
            let expected = run(&Device::Cpu);
            near(loss, &on_device(run), &expected, 2.0 * NEAR);
        }
    }
}

/// Trains `steps` on a device, from what the folder holds, and saves there.
fn part(device: &Device, settings: &TrainConfig, folder: &Checkpoints, steps: u64) -> Trainer {
    let mut trainer = trainer_on(device, settings);
    if let Some(loaded) = folder.newest().unwrap() {
        trainer.restore(&loaded).unwrap();
    }
    for _ in 0..steps {
        let batch = step_batch_on(device, trainer.steps());
        trainer.step(&[batch]).unwrap();
    }
    let state = trainer.state().unwrap();
    folder.save(trainer.steps(), &state, &json!({})).unwrap();
    trainer
}

#[test]
fn a_checkpoint_of_one_device_goes_on_on_another() {
    for optimizer in ["adamw", "adafactor"] {
        let settings = settings(json!({"optimizer": optimizer, "warmupSteps": 0}));
        let run = |devices: [bool; 2]| {
            let dir = tempfile::tempdir().unwrap();
            let folder = Checkpoints::open(dir.path()).unwrap();
            for other in devices {
                if other {
                    on_device(|device| part(device, &settings, &folder, 5));
                } else {
                    part(&Device::Cpu, &settings, &folder, 5);
                }
            }
            let names = |loaded: &Loaded| -> Vec<Vec<String>> {
                let files = [WEIGHTS, OPTIMIZER];
                files
                    .map(|file| loaded.tensors(file).unwrap().names())
                    .into()
            };
            let names = names(&folder.newest().unwrap().unwrap());
            let mut last = trainer_on(&Device::Cpu, &settings);
            last.restore(&folder.newest().unwrap().unwrap()).unwrap();
            let batch = step_batch_on(&Device::Cpu, 10);
            (names, last.step(&[batch]).unwrap().loss)
        };
        let (names, loss) = run([false, false]);
        for devices in [[false, true], [true, false], [true, true]] {
            let (found, other) = run(devices);
            assert_eq!(names, found);
            near(optimizer, &[other], &[loss], NEAR);
        }
    }
}

#[test]
fn a_run_in_two_parts_on_a_device_is_a_run_in_one_to_the_bit() {
    for (optimizer, precision) in [
        ("adamw", "f32"),
        ("adafactor", "f32"),
        ("adamw", "f16"),
        ("adafactor", "bf16"),
    ] {
        let settings = settings(json!({"optimizer": optimizer, "precision": precision}));
        let run = |parts: &[u64]| {
            let dir = tempfile::tempdir().unwrap();
            let folder = Checkpoints::open(dir.path()).unwrap();
            on_device(|device| {
                let mut last = Vec::new();
                for &steps in parts {
                    last = bytes(&part(device, &settings, &folder, steps));
                }
                last
            })
        };
        assert!(run(&[6]) == run(&[4, 2]), "{optimizer} {precision}");
    }
}

#[test]
fn half_precision_on_a_device_learns_as_f32_does() {
    let run = |precision: &str| -> Vec<f64> {
        let settings = settings(json!({
            "precision": precision, "dropout": 0.0, "schedule": "constant", "warmupSteps": 0,
        }));
        on_device(|device| {
            let mut trainer = trainer_on(device, &settings);
            let batch = step_batch_on(device, 5);
            (0..40)
                .map(|_| trainer.step(std::slice::from_ref(&batch)).unwrap().loss)
                .collect()
        })
    };
    let wide = run("f32");
    for (precision, tolerance) in [("f16", 1e-3), ("bf16", 1e-2)] {
        let narrow = run(precision);
        near(precision, &narrow[..1], &wide[..1], tolerance);
        assert_ne!(narrow[0], wide[0], "{precision} rounds nothing");
        assert!(narrow[39] < narrow[0] / 3.0, "{precision}: {narrow:?}");
    }
}

#[test]
fn a_scaled_gradient_beyond_f16_leaves_a_step_out_and_halves_the_scale() {
    // Whatever is to be done with what is not finite: this is the scale's own affair.
    for choice in ["stop", "skip"] {
        let settings = settings(json!({
            "precision": "f16", "dropout": 0.0, "schedule": "constant", "warmupSteps": 0,
            "onNaN": choice,
        }));
        on_device(|device| {
            let mut trainer = trainer_on(device, &settings);
            let tensors = |scale: f64| {
                let scale = Tensor::new(&[scale], &Device::Cpu).unwrap();
                let good = Tensor::new(&[3i64], &Device::Cpu).unwrap();
                BTreeMap::from([
                    ("scaler.scale".to_owned(), scale),
                    ("scaler.growth_tracker".to_owned(), good),
                ])
            };
            // Beyond any number of f16.
            trainer.scaler = LossScale::read(&mut &tensors(2f64.powi(40))).unwrap();
            let before = weights(&trainer);
            let batch = step_batch_on(device, 5);
            let mut scale = 2f64.powi(40);
            let mut skipped = 0;
            let good = loop {
                let steps = trainer.steps();
                let report = trainer.step(std::slice::from_ref(&batch)).unwrap();
                assert_eq!(report.loss_scale, Some(scale));
                // A step left out is a step, as transformers counts them.
                assert_eq!(trainer.steps(), steps + 1);
                if !report.skipped {
                    break report;
                }
                assert!(report.loss.is_finite());
                assert_eq!(weights(&trainer), before);
                skipped += 1;
                scale /= 2.0;
                assert_eq!(trainer.scaler.unwrap().scale(), scale);
            };
            assert!((15..40).contains(&skipped), "{skipped}");
            assert!(good.grad_norm.is_finite() && weights(&trainer) != before);
            // The optimizer has seen one step, whatever the scale was: its first moments say so.
            let mut plain = trainer_on(device, &settings);
            plain.step(std::slice::from_ref(&batch)).unwrap();
            assert_eq!(trainer.optimizer.steps(), plain.optimizer.steps());
            let second = |trainer: &mut Trainer| {
                let report = trainer.step(std::slice::from_ref(&batch)).unwrap();
                report.loss
            };
            near(
                "after the overflow",
                &[second(&mut trainer)],
                &[second(&mut plain)],
                1e-2,
            );
            // A scale that cannot be to blame any more: what stops stops, what skips skips.
            trainer.scaler = LossScale::read(&mut &tensors(0.5)).unwrap();
            let norm = trainer.parameters.get("encoder.final_layer_norm.weight");
            let norm = norm.unwrap().clone();
            norm.set(&Tensor::full(f32::NAN, norm.dims(), device).unwrap())
                .unwrap();
            let result = trainer.step(std::slice::from_ref(&batch));
            assert_eq!(result.is_err(), choice == "stop");
            assert_eq!(trainer.scaler.unwrap().scale(), 0.5);
        });
    }
}

/// The rows that overflow are one worker's; both leave the step out, halve the scale, and go on as one
/// worker with all rows does.
#[test]
fn workers_agree_on_the_scale_of_f16_and_on_the_steps_left_out() {
    let settings = settings(json!({
        "precision": "f16", "dropout": 0.0, "schedule": "constant", "warmupSteps": 0,
    }));
    let scale = Tensor::new(&[2f64.powi(40)], &Device::Cpu).unwrap();
    let good = Tensor::new(&[3i64], &Device::Cpu).unwrap();
    let scaler = LossScale::read(&mut &BTreeMap::from([
        ("scaler.scale".to_owned(), scale),
        ("scaler.growth_tracker".to_owned(), good),
    ]))
    .unwrap();
    let run = |mut trainer: Trainer, rank: usize, world: usize| -> Vec<StepReport> {
        trainer.scaler = scaler;
        let steps = (0..44u64).map(|step| {
            // The second worker has rows at the end alone.
            let own = rank == 0 && (step < 40 || world == 1 || step % 2 == 0);
            let own = own || (rank == 1 && step >= 40 && step % 2 == 1);
            let batch = step_batch_on(&Device::Cpu, step);
            let before = (weights(&trainer), trainer.scale());
            let report = trainer.step(if own {
                std::slice::from_ref(&batch)
            } else {
                &[]
            });
            let report = report.unwrap();
            if report.skipped {
                assert_eq!(
                    (weights(&trainer), trainer.scale()),
                    (before.0, before.1 / 2.0)
                );
            }
            report
        });
        steps.collect()
    };
    let _twins = testing::twins_only();
    let one = run(trainer_on(&Device::Cpu, &settings), 0, 1);
    let both = together(2, |talk| {
        let _twins = testing::twins_only();
        let rank = talk.rank();
        let talk = Arc::new(Mutex::new(talk));
        let trainer = trainer_on(&Device::Cpu, &settings).join(talk).unwrap();
        run(trainer, rank, 2)
    });
    let skipped = one.iter().filter(|report| report.skipped).count();
    assert!((15..40).contains(&skipped), "{skipped}");
    for reports in both {
        for (ours, theirs) in reports.iter().zip(&one) {
            assert_eq!(ours.skipped, theirs.skipped);
            assert_eq!(ours.loss_scale, theirs.loss_scale);
            near("loss", &[ours.loss], &[theirs.loss], 1e-3);
        }
    }
}

#[test]
fn an_overflow_is_resumed_from_to_the_bit() {
    let settings = settings(json!({"precision": "f16"}));
    on_device(|device| {
        let run = |parts: &[u64]| {
            let dir = tempfile::tempdir().unwrap();
            let folder = Checkpoints::open(dir.path()).unwrap();
            let mut last = None;
            for (place, &steps) in parts.iter().enumerate() {
                let mut trainer = trainer_on(device, &settings);
                if let Some(loaded) = folder.newest().unwrap() {
                    trainer.restore(&loaded).unwrap();
                } else {
                    // Scaled by so much that the first steps are left out.
                    let mut scaler = LossScale::default();
                    for _ in 0..2000 * 8 {
                        scaler.succeeded();
                    }
                    trainer.scaler = Some(scaler);
                }
                let mut skipped = 0;
                for _ in 0..steps {
                    let batch = step_batch_on(device, trainer.steps());
                    skipped += u64::from(trainer.step(&[batch]).unwrap().skipped);
                }
                assert!(place > 0 || skipped > 0);
                let state = trainer.state().unwrap();
                folder.save(trainer.steps(), &state, &json!({})).unwrap();
                last = Some(bytes(&trainer));
            }
            last.unwrap()
        };
        assert!(run(&[14]) == run(&[2, 12]));
    });
}

#[test]
fn f16_is_refused_where_kernels_run() {
    let settings = settings(json!({"precision": "f16"}));
    let parameters = Parameters::random(&shape(), 1, &Device::Cpu).unwrap();
    match Trainer::new(&settings, shape(), parameters, None, 20) {
        Err(error) => assert_eq!(error.code(), Code::PrecisionUnavailable),
        Ok(trainer) => assert!(!trainer.plain),
    }
}
