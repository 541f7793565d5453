//! Workers against one that has all of their rows.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use candle_core::Device;
use chatlm_checkpoint::Checkpoints;
use serde_json::json;

use super::tests::together;
use crate::trainer::tests::{bytes, preferences, rows, settings, shape, trainer_of, weights};
use crate::{SequenceBatch, StepReport, TrainConfig, Trainer};

const STEPS: u64 = 50;

fn alone(settings: &TrainConfig) -> Trainer {
    trainer_of(&Device::Cpu, settings, shape())
}

/// The micro-batches of a step: `count` of two rows each.
fn micro(step: u64, count: usize) -> Vec<SequenceBatch> {
    let (keys, sources, targets) = rows(step, 2 * count as u64);
    (0..count)
        .map(|n| {
            let part = 2 * n..2 * n + 2;
            let (s, t) = (&sources[part.clone()], &targets[part.clone()]);
            SequenceBatch::new(&keys[part], s, t, 0, &Device::Cpu).unwrap()
        })
        .collect()
}

/// A step of a worker: every `world`-th micro-batch, or the pairs.
fn step(
    trainer: &mut Trainer,
    settings: &TrainConfig,
    step: u64,
    rank: usize,
    world: usize,
) -> StepReport {
    if settings.lora.is_some() && settings.beta > 0.2 {
        let parts = [0..1, 1..2, 2..4];
        let own: Vec<_> = parts
            .into_iter()
            .skip(rank)
            .step_by(world)
            .map(|part| preferences(step, part, trainer))
            .collect();
        return trainer.preference_step(&own).unwrap();
    }
    // At an epoch's end some have fewer, or none.
    let count = if step % 5 == 4 { 1 } else { 4 };
    let own: Vec<_> = micro(step, count)
        .into_iter()
        .skip(rank)
        .step_by(world)
        .collect();
    trainer.step(&own).unwrap()
}

fn compare(changes: serde_json::Value, world: usize, tolerance: f64) {
    let settings = settings(changes);
    let mut one = alone(&settings);
    let reports: Vec<StepReport> = (0..STEPS)
        .map(|n| step(&mut one, &settings, n, 0, 1))
        .collect();
    let team = together(world, |talk| {
        let rank = talk.rank();
        let mut trainer = alone(&settings).join(Arc::new(Mutex::new(talk))).unwrap();
        let reports: Vec<StepReport> = (0..STEPS)
            .map(|n| step(&mut trainer, &settings, n, rank, world))
            .collect();
        (reports, weights(&trainer))
    });
    for (found, held) in &team {
        for (ours, theirs) in found.iter().zip(&reports) {
            assert!(
                (ours.loss - theirs.loss).abs() < tolerance,
                "{ours:?} {theirs:?}"
            );
            let apart = (ours.grad_norm - theirs.grad_norm).abs();
            assert!(apart < 1e-2 * theirs.grad_norm, "{ours:?} {theirs:?}");
            assert_eq!(ours.tokens, theirs.tokens);
        }
        assert_eq!(held, &team[0].1, "workers differ");
    }
}

#[test]
fn two_workers_are_one_with_twice_the_rows() {
    compare(json!({ "optimizer": "adamw" }), 2, 1e-4);
    compare(json!({ "optimizer": "adafactor", "clip": 1.0 }), 2, 1e-4);
    compare(
        json!({ "optimizer": "adamw", "precision": "bf16", "clip": 1.0 }),
        2,
        5e-3,
    );
}

#[test]
fn three_workers_with_dropout_and_adapters_are_one() {
    let lora =
        json!({ "r": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["q", "v"], "bias": "none" });
    compare(json!({ "dropout": 0.1 }), 3, 1e-4);
    compare(json!({ "lora": lora, "dropout": 0.1 }), 3, 1e-4);
    compare(
        json!({ "lora": lora, "beta": 0.3, "loss": "sigmoid" }),
        2,
        1e-4,
    );
}

/// Two, then one, then two again; the checkpoint of two is whole, and nothing depends on the way.
#[test]
fn a_checkpoint_goes_on_with_another_number_of_workers() {
    for optimizer in ["adamw", "adafactor"] {
        let settings = settings(json!({ "optimizer": optimizer }));
        let folder = tempfile::tempdir().unwrap();
        let store = Checkpoints::open(folder.path()).unwrap();
        let run = |world: usize, from: u64, to: u64| {
            let losses = together(world, |talk| {
                let rank = talk.rank();
                let mut trainer = alone(&settings).join(Arc::new(Mutex::new(talk))).unwrap();
                if let Some(loaded) = store.newest().unwrap() {
                    trainer.restore(&loaded).unwrap();
                }
                assert_eq!(trainer.steps(), from);
                let losses: Vec<f64> = (from..to)
                    .map(|n| step(&mut trainer, &settings, n, rank, world).loss)
                    .collect();
                let state = trainer.state().unwrap();
                if rank == 0 {
                    store.save(to, &state, &json!({})).unwrap();
                }
                losses
            });
            losses.into_iter().next().unwrap()
        };
        let found = [run(2, 0, 5), run(1, 5, 9), run(2, 9, 14)].concat();
        let mut one = alone(&settings);
        for (n, loss) in found.into_iter().enumerate() {
            let want = step(&mut one, &settings, n as u64, 0, 1).loss;
            assert!(
                (loss - want).abs() < 1e-4,
                "{optimizer} step {n}: {loss} {want}"
            );
        }
        let kept = store.newest().unwrap().unwrap();
        let mut back = alone(&settings);
        back.restore(&kept).unwrap();
        assert_eq!(bytes(&back).len(), bytes(&one).len());
    }
}
