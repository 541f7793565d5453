//! Seconds of a training step (forward, backward, clip, AdamW) of the quickstart's model on random
//! ids: `cargo run --release -p chatlm-train --example step`. PyTorch's half: benches/peers/step.py.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use chatlm_job::Random;
use chatlm_kernels::{DropoutKeys, cross_entropy};
use chatlm_optim::{Optimizer, OptimizerConfig, clip};
use chatlm_t5::{Config, Model, Parameters, Pass};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`, which the bindings do not name.
const PURGE_DELAY: i32 = 15;

fn main() {
    #[expect(
        unsafe_code,
        reason = "mimalloc's options are set through its C interface"
    )]
    // SAFETY: a plain store of an option, before any thread starts.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
    let (batch, source, target) = (32, 24, 64);
    let config = Config {
        vocab_size: 6000,
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
        let values: Vec<u32> = (0..batch * length)
            .map(|_| 2 + random.below(5998) as u32)
            .collect();
        Tensor::from_vec(values, (batch, length), &device).unwrap()
    };
    let (source_ids, target_ids) = (ids(source), ids(target));
    let mask = Tensor::ones((batch, source), DType::U8, &device).unwrap();
    for step in 0..std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(8u64)
    {
        let started = Instant::now();
        let keys = DropoutKeys {
            rows: (0..32).map(|r| r + 100 * step).collect(),
            rate: 0.1,
        };
        let pass = Pass {
            dropout: Some(&keys),
            adapter: true,
        };
        let encoded = model.encode(&source_ids, &mask, &pass).unwrap();
        let hidden = model.decode(&target_ids, &encoded, &mask, &pass).unwrap();
        let logits = model.logits(&hidden).unwrap().flatten_to(1).unwrap();
        let loss = cross_entropy(&logits, &target_ids.flatten_all().unwrap(), 0, 0.0).unwrap();
        let loss = (loss / (batch * target) as f64).unwrap();
        let forward = started.elapsed();
        let mut store = loss.backward().unwrap();
        let mut grads: BTreeMap<String, Tensor> = vars
            .iter()
            .filter_map(|(name, var)| Some((name.clone(), store.remove(var)?)))
            .collect();
        let backward = started.elapsed();
        clip(&mut grads, 1.0).unwrap();
        optimizer.step(&vars, &grads, 1e-3).unwrap();
        println!(
            "step {step}: {:.3} s (forward {:.3}, backward {:.3}, update {:.3}), loss {:.3}",
            started.elapsed().as_secs_f64(),
            forward.as_secs_f64(),
            backward.saturating_sub(forward).as_secs_f64(),
            started.elapsed().saturating_sub(backward).as_secs_f64(),
            loss.to_scalar::<f32>().unwrap()
        );
    }
}
