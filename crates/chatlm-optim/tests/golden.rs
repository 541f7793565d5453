//! The numbers of PyTorch's AdamW and transformers' Adafactor (`test/golden/optim/make.py`).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor, Var};
use chatlm_kernels::testing::device;
use chatlm_optim::{Optimizer, OptimizerConfig, clip_scale, squared_norm, squared_norm_of};

const NAMES: [&str; 5] = ["small", "large", "row", "vector", "zeros"];
const STEPS: usize = 10;
/// Norm of the difference by norm of the reference; the worst is 2.1e-7.
const TOLERANCE: f64 = 1e-6;
/// The same of tensors, whose sums are a device's own.
const TENSORS: f64 = 5e-6;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn read() -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../test/golden/optim/optim.safetensors");
        Self(candle_core::safetensors::load(file, &Device::Cpu).unwrap())
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A line of a run: the weight after a step.
    fn after(&self, run: &str, name: &str, step: usize) -> Vec<f32> {
        let steps = &self.0[&format!("{run}.{name}")];
        steps.get(step).unwrap().to_vec1().unwrap()
    }

    fn gradient(&self, name: &str, step: usize) -> Vec<f32> {
        let bytes = self.0[&format!("gradient.{name}")].get(step).unwrap();
        let bytes: Vec<u8> = bytes.flatten_all().unwrap().to_vec1().unwrap();
        let unit = 2.0f32.powi(step as i32 - 12);
        bytes
            .iter()
            .map(|&b| (f32::from(b) - 128.0) * unit)
            .collect()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        NAMES
            .iter()
            .map(|&name| {
                let start = &self.0[&format!("start.{name}")];
                (name.to_owned(), start.dims().to_vec())
            })
            .collect()
    }
}

/// What the file holds of a weight.
fn sample(name: &str, values: &[f32]) -> Vec<f32> {
    let every = if name == "large" && values.len() > 100 {
        31
    } else {
        1
    };
    values.iter().copied().step_by(every).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn difference(values: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(values.len(), reference.len());
    let both = values.iter().zip(reference);
    let size = norm(reference.iter().copied().map(f64::from));
    norm(both.map(|(&a, &b)| f64::from(a) - f64::from(b))) / size
}

struct Run {
    name: &'static str,
    config: OptimizerConfig,
    rate: fn(f64) -> f64,
    start: i32,
    scale: f32,
}

fn adamw(beta1: f64, beta2: f64, epsilon: f64, weight_decay: f64) -> OptimizerConfig {
    OptimizerConfig::AdamW {
        beta1,
        beta2,
        epsilon,
        weight_decay,
        scale_parameter: false,
    }
}

/// [`adamw`] with rates relative to the weights' sizes.
fn adamw_scaled(weight_decay: f64) -> OptimizerConfig {
    OptimizerConfig::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay,
        scale_parameter: true,
    }
}

fn adafactor(
    relative_step: bool,
    scale_parameter: bool,
    warmup_init: bool,
    weight_decay: f64,
) -> OptimizerConfig {
    OptimizerConfig::Adafactor {
        relative_step,
        scale_parameter,
        warmup_init,
        weight_decay,
    }
}

/// The runs of `make.py`.
fn runs() -> [Run; 8] {
    let run = |name, config, rate, start, scale| Run {
        name,
        config,
        rate,
        start,
        scale,
    };
    let falls = |step| 1e-2 * (1.0 - step / 20.0);
    // Adafactor with a relative step does not look at it.
    let none = |_| f64::NAN;
    [
        run("adamw", adamw(0.9, 0.999, 1e-8, 0.01), |_| 1e-2, -3, 1.0),
        run(
            "adamw_other",
            adamw(0.8, 0.95, 1e-4, 0.3),
            |step| 1e-3 * (1.0 - step / 20.0),
            -6,
            0.37,
        ),
        run("adamw_scale", adamw_scaled(0.1), falls, -5, 0.37),
        run(
            "adafactor",
            adafactor(false, false, false, 0.0),
            falls,
            -3,
            1.0,
        ),
        run(
            "adafactor_warmup",
            adafactor(true, true, true, 0.0),
            none,
            -20,
            1.0,
        ),
        run(
            "adafactor_relative",
            adafactor(true, false, false, 0.0),
            none,
            -3,
            1.0,
        ),
        run(
            "adafactor_scale",
            adafactor(false, true, false, 0.0),
            |_| 1e-1,
            0,
            1.0,
        ),
        run(
            "adafactor_decay",
            adafactor(false, true, false, 0.1),
            |step| 1e-2 * (step + 1.0),
            -1,
            0.37,
        ),
    ]
}

/// One optimizer over all weights: on slices, or on tensors of the device of the tests.
enum Rig {
    Slices(Optimizer, Vec<Vec<f32>>),
    Tensors(Optimizer, Vec<Var>),
}

impl Rig {
    fn update(&mut self, index: usize, gradient: Vec<f32>, scale: f32, rate: f64) {
        match self {
            Self::Slices(optimizer, weights) => {
                optimizer.update(index, &mut weights[index], &gradient, scale, rate);
            }
            Self::Tensors(optimizer, weights) => {
                let var = &weights[index];
                let gradient = Tensor::from_vec(gradient, var.shape(), var.device()).unwrap();
                optimizer
                    .update_tensor(index, var, &gradient, scale, rate)
                    .unwrap();
            }
        }
    }

    fn optimizer(&mut self) -> &mut Optimizer {
        match self {
            Self::Slices(optimizer, _) | Self::Tensors(optimizer, _) => optimizer,
        }
    }

    fn weights(&self, index: usize) -> Vec<f32> {
        match self {
            Self::Slices(_, weights) => weights[index].clone(),
            Self::Tensors(_, weights) => weights[index].flatten_all().unwrap().to_vec1().unwrap(),
        }
    }
}

fn rigs(run: &Run, golden: &Golden) -> [(&'static str, Rig, f64); 2] {
    let shapes = golden.shapes();
    let weights: Vec<Vec<f32>> = NAMES
        .iter()
        .map(|name| {
            let start = golden.values(&format!("start.{name}"));
            start.iter().map(|w| w * 2.0f32.powi(run.start)).collect()
        })
        .collect();
    let device = device();
    let vars = weights.iter().zip(&shapes).map(|(weights, (_, shape))| {
        Var::from_vec(weights.clone(), shape.as_slice(), &device).unwrap()
    });
    let on_device = Optimizer::on_device(run.config, &shapes, &device).unwrap();
    let tensors = Rig::Tensors(on_device, vars.collect());
    let slices = Rig::Slices(Optimizer::new(run.config, &shapes), weights);
    [("slices", slices, TOLERANCE), ("tensors", tensors, TENSORS)]
}

#[test]
fn every_step_is_that_of_the_reference() {
    let golden = Golden::read();
    for run in runs() {
        for (kind, mut rig, tolerance) in rigs(&run, &golden) {
            let check = |what: String, values: &[f32], reference: &[f32]| {
                let off = difference(values, reference);
                assert!(off < tolerance, "{} {kind} {what}: {off:e}", run.name);
            };
            for step in 0..STEPS {
                rig.optimizer().begin_step();
                for (index, name) in NAMES.iter().enumerate() {
                    let gradient = golden.gradient(name, step);
                    rig.update(index, gradient, run.scale, (run.rate)(step as f64));
                    let reference = golden.after(run.name, name, step);
                    check(
                        format!("step {step} {name}"),
                        &sample(name, &rig.weights(index)),
                        &reference,
                    );
                }
            }
            let last = golden.values(&format!("{}.large.last", run.name));
            check("large at the end".to_owned(), &rig.weights(1), &last);
            for (key, tensor) in rig.optimizer().state().unwrap() {
                if key == "step" {
                    assert_eq!(tensor.to_vec1::<i64>().unwrap(), [STEPS as i64]);
                    continue;
                }
                let (name, _) = key.split_once('.').unwrap();
                let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                let reference = golden.values(&format!("{}.state.{key}", run.name));
                check(format!("state {key}"), &sample(name, &values), &reference);
            }
        }
    }
}

#[test]
fn a_state_of_slices_is_one_of_tensors() {
    let golden = Golden::read();
    for run in runs() {
        let [(_, mut slices, _), (_, mut tensors, _)] = rigs(&run, &golden);
        slices.optimizer().begin_step();
        for (index, name) in NAMES.iter().enumerate() {
            slices.update(index, golden.gradient(name, 0), run.scale, 1e-2);
        }
        let state = slices.optimizer().state().unwrap();
        tensors.optimizer().load_state(&mut &state).unwrap();
        assert_eq!(tensors.optimizer().steps(), 1);
        let again = tensors.optimizer().state().unwrap();
        assert!(state.keys().eq(again.keys()));
        let bits = |tensor: &Tensor| -> Vec<u32> {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            values.iter().map(|value| value.to_bits()).collect()
        };
        for (name, tensor) in state.iter().filter(|(name, _)| *name != "step") {
            assert_eq!(bits(tensor), bits(&again[name]), "{name}");
        }
        let mut broken = state.clone();
        broken.pop_first();
        assert!(tensors.optimizer().load_state(&mut &broken).is_err());
    }
}

#[test]
fn the_norm_of_tensors_is_that_of_slices() {
    let golden = Golden::read();
    let gradients = NAMES.map(|name| golden.gradient(name, STEPS - 1));
    let norm: f64 = gradients.iter().map(|g| squared_norm(g)).sum();
    let tensors = gradients.map(|g| Tensor::new(g, &device()).unwrap());
    assert!((squared_norm_of(&tensors).unwrap() / norm - 1.0).abs() < TENSORS);
    assert_eq!(squared_norm_of(&[] as &[Tensor]).unwrap().to_bits(), 0);
    for bad in [f32::NAN, f32::INFINITY] {
        let bad = Tensor::new(&[1.0, bad, 2.0], &device()).unwrap();
        assert!(
            !squared_norm_of(tensors.iter().chain([&bad]))
                .unwrap()
                .is_finite()
        );
    }
}

#[test]
fn clipping_is_that_of_pytorch() {
    let golden = Golden::read();
    let gradients = NAMES.map(|name| golden.gradient(name, STEPS - 1));
    let norm = gradients
        .iter()
        .map(|g| squared_norm(g))
        .sum::<f64>()
        .sqrt();
    let reference = f64::from(golden.values("norm")[0]);
    assert!((norm / reference - 1.0).abs() < TOLERANCE);
    let scale = clip_scale(norm, 1.0);
    for (name, gradient) in NAMES.iter().zip(&gradients) {
        let clipped: Vec<f32> = gradient.iter().map(|g| g * scale).collect();
        let reference = golden.values(&format!("clipped.{name}"));
        assert!(difference(&sample(name, &clipped), &reference) < TOLERANCE);
    }
}
