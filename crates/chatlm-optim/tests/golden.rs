//! The numbers of PyTorch's AdamW and transformers' Adafactor (`test/golden/optim/make.py`).
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{Device, Tensor, Var};
use chatlm_optim::{Optimizer, OptimizerConfig, clip};

const NAMES: [&str; 3] = ["matrix", "vector", "wide"];

fn golden() -> HashMap<String, Tensor> {
    let file =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/golden/optim/optim.safetensors");
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn start(golden: &HashMap<String, Tensor>) -> Vec<(String, Var)> {
    NAMES
        .iter()
        .map(|&n| {
            (
                n.to_owned(),
                Var::from_tensor(&golden[&format!("start.{n}")]).unwrap(),
            )
        })
        .collect()
}

fn grads(golden: &HashMap<String, Tensor>, step: usize) -> BTreeMap<String, Tensor> {
    NAMES
        .iter()
        .map(|&n| {
            (
                n.to_owned(),
                golden[&format!("grad.{step}.{n}")].copy().unwrap(),
            )
        })
        .collect()
}

fn shapes(parameters: &[(String, Var)]) -> Vec<(String, Vec<usize>)> {
    parameters
        .iter()
        .map(|(name, var)| (name.clone(), var.dims().to_vec()))
        .collect()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

const ADAMW: OptimizerConfig = OptimizerConfig::AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.01,
};

fn adafactor(relative: bool) -> OptimizerConfig {
    OptimizerConfig::Adafactor {
        relative_step: relative,
        scale_parameter: relative,
        warmup_init: false,
        weight_decay: 0.0,
    }
}

#[test]
fn every_step_is_that_of_the_reference() {
    let golden = golden();
    for (run, config) in [
        ("adamw", ADAMW),
        ("adafactor", adafactor(false)),
        ("adafactor_relative", adafactor(true)),
    ] {
        let parameters = start(&golden);
        let mut optimizer = Optimizer::new(config, &shapes(&parameters));
        for step in 0..5 {
            optimizer
                .step(&parameters, &grads(&golden, step), 1e-2)
                .unwrap();
            for (name, var) in &parameters {
                let off = difference(var, &golden[&format!("{run}.{step}.{name}")]);
                assert!(off < 1e-6, "{run} step {step} {name}: {off}");
            }
        }
    }
}

#[test]
fn a_restored_optimizer_goes_on_to_the_bit() {
    let golden = golden();
    for config in [ADAMW, adafactor(true)] {
        let (whole, halves) = (start(&golden), start(&golden));
        let mut one = Optimizer::new(config, &shapes(&whole));
        let mut two = Optimizer::new(config, &shapes(&halves));
        for step in 0..5 {
            one.step(&whole, &grads(&golden, step), 1e-2).unwrap();
            if step == 2 {
                let state = two.state().unwrap();
                two = Optimizer::new(config, &shapes(&halves));
                two.load_state(&state).unwrap();
            }
            two.step(&halves, &grads(&golden, step), 1e-2).unwrap();
        }
        for ((name, a), (_, b)) in whole.iter().zip(&halves) {
            assert_eq!(difference(a, b), 0.0, "{name}");
        }
        assert!(two.load_state(&BTreeMap::new()).is_err());
    }
}

#[test]
fn clipping_is_that_of_pytorch() {
    let golden = golden();
    let mut grads = grads(&golden, 4);
    let norm = clip(&mut grads, 1.0).unwrap();
    assert!((norm - f64::from(golden["norm"].to_vec1::<f32>().unwrap()[0])).abs() < 1e-4);
    for (name, grad) in &grads {
        assert!(difference(grad, &golden[&format!("clipped.{name}")]) < 1e-6);
    }
}
