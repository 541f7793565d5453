//! Seconds of a training step (forward, backward, clip, AdamW) of the quickstart's model on random
//! ids, without any file: `cargo run --release -p chatlm-t5 --example step -- [steps]`.
//! PyTorch's half is `benches/peers/step.py`; run both by turns and compare the ratio only.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use chatlm_job::Random;
use chatlm_optim::{Optimizer, OptimizerConfig, clip};
use chatlm_t5::{Config, DropoutKeys, Model, Parameters, Pass};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`, which the bindings do not name.
const PURGE_DELAY: i32 = 15;
const BATCH: usize = 32;
const SOURCE: usize = 24;
const TARGET: usize = 64;

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() {
    #[expect(
        unsafe_code,
        reason = "mimalloc's options are set through its C interface"
    )]
    // SAFETY: sets an option of the allocator; a plain store, valid at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
    let steps: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(10);
    let config = Config {
        vocab_size: 8000,
        d_model: 256,
        d_ff: 1024,
        num_heads: 4,
        num_layers: 3,
        ..Config::default()
    };
    let device = Device::Cpu;
    let parameters = Parameters::random(&config, 1, &device).unwrap();
    let vars: Vec<(String, Var)> = parameters
        .iter()
        .map(|(name, var)| (name.to_owned(), var.clone()))
        .collect();
    let shapes: Vec<_> = vars
        .iter()
        .map(|(name, var)| (name.clone(), var.dims().to_vec()))
        .collect();
    let adamw = OptimizerConfig::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
    };
    let mut optimizer = Optimizer::new(adamw, &shapes);
    let model = Model::new(&config, &parameters, None, true).unwrap();
    let mut random = Random::new(1);
    let mut ids = |length: usize| {
        let values: Vec<u32> = (0..BATCH * length)
            .map(|_| 2 + random.below(7998) as u32)
            .collect();
        Tensor::from_vec(values, (BATCH, length), &device).unwrap()
    };
    let (source_ids, target_ids) = (ids(SOURCE), ids(TARGET));
    let mask = Tensor::ones((BATCH, SOURCE), DType::U8, &device).unwrap();
    let (mut forwards, mut backwards, mut updates, mut totals) = (vec![], vec![], vec![], vec![]);
    // The first step, which asks the system for its memory, is not counted.
    for step in 0..=steps {
        let started = Instant::now();
        let keys = DropoutKeys {
            rows: (0..BATCH as u64).map(|r| r + 100 * step).collect(),
            rate: 0.1,
        };
        let pass = Pass {
            dropout: Some(&keys),
            adapter: true,
        };
        let encoded = model.encode(&source_ids, &mask, &pass).unwrap();
        let hidden = model.decode(&target_ids, &encoded, &mask, &pass).unwrap();
        let targets = target_ids.flatten_all().unwrap();
        let loss = model
            .cross_entropy(&hidden.flatten_to(1).unwrap(), &targets, 0, 0.0)
            .unwrap();
        let loss = (loss / (BATCH * TARGET) as f64).unwrap();
        drop((encoded, hidden));
        let forward = started.elapsed();
        let mut store = loss.backward().unwrap();
        let mut grads: BTreeMap<String, Tensor> = vars
            .iter()
            .filter_map(|(name, var)| Some((name.clone(), store.remove(var)?)))
            .collect();
        let backward = started.elapsed();
        clip(&mut grads, 1.0).unwrap();
        optimizer.step(&vars, &grads, 1e-3).unwrap();
        let total = started.elapsed();
        if step > 0 {
            forwards.push(forward.as_secs_f64());
            backwards.push(backward.as_secs_f64() - forward.as_secs_f64());
            updates.push(total.as_secs_f64() - backward.as_secs_f64());
            totals.push(total.as_secs_f64());
        }
        println!(
            "step {step}: {:.3} s, loss {}",
            total.as_secs_f64(),
            loss.to_scalar::<f32>().unwrap()
        );
    }
    println!(
        "seconds a step {:.3} (median of {steps}; forward {:.3}, backward {:.3}, update {:.3})",
        median(totals),
        median(forwards),
        median(backwards),
        median(updates)
    );
}
