//! The numbers of PyTorch's AdamW and transformers' Adafactor (`test/golden/optim/make.py`).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use chatlm_optim::{Optimizer, OptimizerConfig, clip_scale, squared_norm};

const NAMES: [&str; 5] = ["small", "large", "row", "vector", "zeros"];
const STEPS: usize = 10;
/// Norm of the difference by norm of the reference; the worst is 2.1e-7.
const TOLERANCE: f64 = 1e-6;

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
fn runs() -> [Run; 7] {
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

#[test]
fn every_step_is_that_of_the_reference() {
    let golden = Golden::read();
    let shapes = golden.shapes();
    for run in runs() {
        let check = |what: String, values: &[f32], reference: &[f32]| {
            let off = difference(values, reference);
            assert!(off < TOLERANCE, "{} {what}: {off:e}", run.name);
        };
        let mut optimizer = Optimizer::new(run.config, &shapes);
        let mut weights: Vec<Vec<f32>> = NAMES
            .iter()
            .map(|name| {
                let start = golden.values(&format!("start.{name}"));
                start.iter().map(|w| w * 2.0f32.powi(run.start)).collect()
            })
            .collect();
        for step in 0..STEPS {
            optimizer.begin_step();
            for (index, (name, weights)) in NAMES.iter().zip(&mut weights).enumerate() {
                let gradient = golden.gradient(name, step);
                let rate = (run.rate)(step as f64);
                optimizer.update(index, weights, &gradient, run.scale, rate);
                let reference = golden.after(run.name, name, step);
                check(
                    format!("step {step} {name}"),
                    &sample(name, weights),
                    &reference,
                );
            }
        }
        let last = golden.values(&format!("{}.large.last", run.name));
        check("large at the end".to_owned(), &weights[1], &last);
        for (key, tensor) in optimizer.state().unwrap() {
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
