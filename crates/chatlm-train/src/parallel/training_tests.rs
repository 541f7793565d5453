//! Workers against one that has all of their rows, by the processor's kernels and on a device: the
//! processor taken for one without kernels, whose tensors travel through its memory, or by a stand-in for
//! NCCL.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use candle_core::Device;
use chatlm_checkpoint::Checkpoints;
use chatlm_job::Code;
use chatlm_kernels::has_kernels;
use chatlm_kernels::testing::{TwinsOnly, twins_only};
use serde_json::json;

use super::nccl::tests::{by_stand_in, work};
use super::tests::together;
use super::{Communicator, Talk};
use crate::trainer::tests::{bytes, preferences, rows, settings, shape, trainer_of, weights};
use crate::{SequenceBatch, StepReport, TrainConfig, Trainer};

const STEPS: u64 = 50;

/// What the workers of a test compute with, and how they talk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Kernels,
    ThroughHost,
    Nccl,
}

impl Way {
    /// Holds for this thread.
    fn guard(self) -> Option<TwinsOnly> {
        (self != Self::Kernels).then(twins_only)
    }

    fn join(self, settings: &TrainConfig, talk: Communicator) -> Trainer {
        let talk: Talk = Arc::new(Mutex::new(talk));
        let trainer = alone(settings);
        match self {
            Self::Kernels | Self::ThroughHost => trainer.join(talk).unwrap(),
            Self::Nccl => trainer.join_by(talk, by_stand_in).unwrap(),
        }
    }

    /// Each of `world` workers, with a trainer that has joined the others.
    fn team<R: Send>(
        self,
        world: usize,
        settings: &TrainConfig,
        work: impl Fn(Trainer, usize) -> R + Sync,
    ) -> Vec<R> {
        together(world, |talk| {
            let _twins = self.guard();
            let rank = talk.rank();
            work(self.join(settings, talk), rank)
        })
    }
}

const DEVICES: [Way; 2] = [Way::ThroughHost, Way::Nccl];

fn alone(settings: &TrainConfig) -> Trainer {
    trainer_of(&Device::Cpu, settings, shape())
}

/// The micro-batches of a step: `count` of two rows each.
fn micro(step: u64, count: usize, device: &Device) -> Vec<SequenceBatch> {
    let (keys, sources, targets) = rows(step, 2 * count as u64);
    (0..count)
        .map(|n| {
            let part = 2 * n..2 * n + 2;
            let (s, t) = (&sources[part.clone()], &targets[part.clone()]);
            SequenceBatch::new(&keys[part], s, t, 0, device).unwrap()
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
    let own: Vec<_> = micro(step, count, trainer.device())
        .into_iter()
        .skip(rank)
        .step_by(world)
        .collect();
    trainer.step(&own).unwrap()
}

fn compare(way: Way, changes: serde_json::Value, world: usize, tolerance: f64) {
    let settings = settings(changes);
    let reports: Vec<StepReport> = {
        let _twins = way.guard();
        let mut one = alone(&settings);
        (0..STEPS)
            .map(|n| step(&mut one, &settings, n, 0, 1))
            .collect()
    };
    let team = way.team(world, &settings, |mut trainer, rank| {
        let reports: Vec<StepReport> = (0..STEPS)
            .map(|n| step(&mut trainer, &settings, n, rank, world))
            .collect();
        (reports, weights(&trainer))
    });
    for (found, held) in &team {
        for (ours, theirs) in found.iter().zip(&reports) {
            assert!(
                (ours.loss - theirs.loss).abs() < tolerance,
                "{way:?} {ours:?} {theirs:?}"
            );
            let apart = (ours.grad_norm - theirs.grad_norm).abs();
            assert!(
                apart < 1e-2 * theirs.grad_norm,
                "{way:?} {ours:?} {theirs:?}"
            );
            assert_eq!(ours.tokens, theirs.tokens);
            assert_eq!(ours.loss_scale, theirs.loss_scale);
        }
        assert_eq!(held, &team[0].1, "workers differ");
    }
}

#[test]
fn two_workers_are_one_with_twice_the_rows() {
    for way in [Way::Kernels, Way::ThroughHost, Way::Nccl] {
        compare(way, json!({ "optimizer": "adamw" }), 2, 1e-4);
        compare(
            way,
            json!({ "optimizer": "adafactor", "clip": 1.0 }),
            2,
            1e-4,
        );
    }
}

/// Sums in another order move a weight by the last bit of f32, and where that is a border of bf16 its
/// operand by the last of 8 bits. Losses of 3.5 to 4.4 were apart by 4.4e-5 at most.
const BF16: f64 = 5e-4;
/// Products answer f16, so each worker's part of a gradient is rounded: 2.6e-4 at most.
const F16: f64 = 2e-3;

#[test]
fn two_workers_in_half_precision_are_one_with_twice_the_rows() {
    for optimizer in ["adamw", "adafactor"] {
        let bf16 = json!({ "optimizer": optimizer, "precision": "bf16", "clip": 1.0 });
        for way in [Way::Kernels, Way::ThroughHost] {
            compare(way, bf16.clone(), 2, BF16);
        }
    }
    compare(Way::ThroughHost, json!({ "precision": "f16" }), 2, F16);
}

#[test]
fn three_workers_with_dropout_and_adapters_are_one() {
    let lora =
        json!({ "r": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["q", "v"], "bias": "none" });
    let preferences = json!({ "lora": lora, "beta": 0.3, "loss": "sigmoid" });
    compare(Way::Kernels, json!({ "dropout": 0.1 }), 3, 1e-4);
    compare(
        Way::Kernels,
        json!({ "lora": lora, "dropout": 0.1 }),
        3,
        1e-4,
    );
    compare(Way::Kernels, preferences.clone(), 2, 1e-4);
    compare(Way::Nccl, json!({ "dropout": 0.1 }), 3, 1e-4);
    compare(Way::ThroughHost, preferences, 2, 1e-4);
}

/// Of three workers each keeps what it updates, about a third, and rank 0 alone gives the whole.
#[test]
fn on_devices_the_optimizer_state_is_sharded() {
    for optimizer in ["adamw", "adafactor"] {
        let settings = settings(json!({ "optimizer": optimizer }));
        let names = |trainer: &Trainer| -> Vec<(String, usize)> {
            let state = trainer.state().unwrap();
            let (_, pieces) = &state[1];
            let pieces = pieces.iter().filter(|(name, _)| name.contains(".exp_avg"));
            pieces
                .map(|(name, piece)| {
                    let one = std::collections::BTreeMap::from([(name.clone(), piece.clone())]);
                    let bytes = chatlm_checkpoint::to_safetensors(&one).unwrap().len();
                    (name.clone(), bytes)
                })
                .collect()
        };
        let whole = {
            let _twins = twins_only();
            names(&alone(&settings))
        };
        for way in DEVICES {
            let found = way.team(3, &settings, |mut trainer, rank| {
                step(&mut trainer, &settings, 0, rank, 3);
                names(&trainer)
            });
            assert_eq!(found[0], whole);
            let all: usize = whole.iter().map(|(_, bytes)| bytes).sum();
            for shard in &found[1..] {
                let bytes: usize = shard.iter().map(|(_, bytes)| bytes).sum();
                let share = bytes as f64 / all as f64;
                assert!((0.2..0.5).contains(&share), "{share}");
                assert!(shard.iter().all(|piece| whole.contains(piece)));
            }
            assert!(!found[1].iter().any(|piece| found[2].contains(piece)));
        }
    }
}

/// A step is two pieces of work, however many tensors there are: sums, and weights handed round.
#[test]
fn nccl_is_called_in_groups() {
    let settings = settings(json!({}));
    let found = Way::Nccl.team(2, &settings, |mut trainer, rank| {
        (0..3).for_each(|n| {
            step(&mut trainer, &settings, n, rank, 2);
        });
        (work(), weights(&trainer).len())
    });
    for ((groups, calls), tensors) in found {
        assert_eq!(groups, 2 * 3);
        assert_eq!(calls, 2 * 3 * tensors);
    }
}

#[test]
fn workers_on_different_kinds_of_device_are_refused() {
    if !has_kernels(&Device::Cpu) {
        // CHATLM_CPU=twin: the processor is a device for all.
        return;
    }
    let settings = settings(json!({}));
    let found = together(2, |talk| {
        let _twins = (talk.rank() == 1).then(twins_only);
        let trainer = alone(&settings).join(Arc::new(Mutex::new(talk)));
        trainer.err().unwrap()
    });
    for error in found {
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(
            error
                .message()
                .starts_with("worker 0 trains on the processor, worker 1 on"),
            "{error}"
        );
    }
}

/// Two, then one, then two again; the checkpoint of two is whole, and nothing depends on the way, nor on
/// the device of each.
#[test]
fn a_checkpoint_goes_on_with_another_number_of_workers() {
    for ways in [
        [Way::Kernels; 3],
        [Way::ThroughHost; 3],
        [Way::Nccl, Way::ThroughHost, Way::Nccl],
        [Way::ThroughHost, Way::Kernels, Way::Nccl],
    ] {
        for optimizer in ["adamw", "adafactor"] {
            goes_on(ways, optimizer);
        }
    }
}

fn goes_on(ways: [Way; 3], optimizer: &str) {
    let settings = settings(json!({ "optimizer": optimizer }));
    let folder = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(folder.path()).unwrap();
    let run = |way: Way, world: usize, from: u64, to: u64| {
        let losses = way.team(world, &settings, |mut trainer, rank| {
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
    let found = [
        run(ways[0], 2, 0, 5),
        run(ways[1], 1, 5, 9),
        run(ways[2], 2, 9, 14),
    ]
    .concat();
    let mut one = alone(&settings);
    for (n, loss) in found.into_iter().enumerate() {
        let want = step(&mut one, &settings, n as u64, 0, 1).loss;
        assert!(
            (loss - want).abs() < 1e-4,
            "{ways:?} {optimizer} step {n}: {loss} {want}"
        );
    }
    let kept = store.newest().unwrap().unwrap();
    let mut back = alone(&settings);
    back.restore(&kept).unwrap();
    assert_eq!(bytes(&back).len(), bytes(&one).len());
}

/// Where this machine has two graphics cards and `CHATLM_TEST_DEVICE` is `cuda`: by NCCL, and without.
#[cfg(feature = "cuda")]
#[test]
fn two_gpus_are_one_with_twice_the_rows() {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    let asked = std::env::var("CHATLM_TEST_DEVICE").is_ok_and(|device| device == "cuda");
    if !asked || CudaContext::device_count().unwrap() < 2 {
        return;
    }
    let settings = settings(json!({ "clip": 1.0 }));
    let on = |number: usize| trainer_of(&Device::new_cuda(number).unwrap(), &settings, shape());
    let run = |mut trainer: Trainer, rank: usize, world: usize| -> Vec<f64> {
        let steps = 0..STEPS;
        steps
            .map(|n| step(&mut trainer, &settings, n, rank, world).loss)
            .collect()
    };
    let one = run(on(0), 0, 1);
    for nccl in [true, false] {
        let found = together(2, |talk| {
            let rank = talk.rank();
            let talk: Talk = Arc::new(Mutex::new(talk));
            let trainer = if nccl {
                on(rank).join(talk).unwrap()
            } else {
                let through_host = |talk: &mut Communicator, device: &Device| {
                    let host = super::carrier::ThroughHost::new(talk, device);
                    Ok((Box::new(host) as Box<dyn super::carrier::Carrier>, None))
                };
                on(rank).join_by(talk, through_host).unwrap()
            };
            assert_eq!(trainer.without_nccl(), None);
            run(trainer, rank, 2)
        });
        for losses in found {
            for (ours, theirs) in losses.iter().zip(&one) {
                assert!((ours - theirs).abs() < 1e-4, "{nccl} {ours} {theirs}");
            }
        }
    }
}
