//! What the tests share: batches as training has them, one pass with its gradients, optimizer steps.
#![allow(dead_code, reason = "every file of tests uses its part")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor, Var};
use chatlm_job::Random;
use chatlm_kernels::testing::device;
use chatlm_optim::{Optimizer, clip_scale, squared_norm, squared_norm_of};
use chatlm_t5::{
    Config, DropoutKeys, Gradients, LoraBias, LoraConfig, Model, Parameters, Pass, Precision,
    Sequences, Tape, Value, has_kernels, write,
};

/// No target is this id.
pub(crate) const NOTHING: u32 = u32::MAX;

/// Gradients by the names of their weights; those of weights that had a part in the loss.
pub(crate) type Named = BTreeMap<String, Vec<f32>>;

pub(crate) struct Batch {
    pub(crate) source: Sequences,
    /// The decoder's input.
    pub(crate) target: Sequences,
    pub(crate) labels: Vec<u32>,
    pub(crate) keys: Vec<u64>,
}

impl Batch {
    /// `targets` are what is to be predicted; the decoder's input is the same, shifted by one.
    pub(crate) fn new(sources: &[Vec<u32>], targets: &[Vec<u32>]) -> Self {
        let shifted = |row: &Vec<u32>| -> Vec<u32> {
            let before = row[..row.len() - 1].iter().copied();
            std::iter::once(0).chain(before).collect()
        };
        let inputs: Vec<Vec<u32>> = targets.iter().map(shifted).collect();
        Self {
            source: Sequences::new(sources, &device()).unwrap(),
            target: Sequences::new(&inputs, &device()).unwrap(),
            labels: targets.concat(),
            keys: (71..).take(sources.len()).collect(),
        }
    }

    /// Rows of these many source and target ids, which depend on `key` alone.
    pub(crate) fn random(key: u64, lengths: &[(usize, usize)], vocab: usize) -> Self {
        let mut random = Random::new(key);
        let mut row = |length: usize| -> Vec<u32> {
            let id = |_| 2 + random.below(vocab as u64 - 2) as u32;
            (0..length).map(id).collect()
        };
        let sources: Vec<_> = lengths.iter().map(|&(source, _)| row(source)).collect();
        let targets: Vec<_> = lengths.iter().map(|&(_, target)| row(target)).collect();
        Self::new(&sources, &targets)
    }

    /// Scored tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.labels.iter().filter(|&&id| id != NOTHING).count()
    }

    /// A training pass with dropout.
    pub(crate) fn dropping(&self, rate: f64) -> Pass {
        let rows = self.keys.clone();
        Pass {
            dropout: Some(Arc::new(DropoutKeys { rows, rate })),
            ..Pass::inference()
        }
    }
}

/// How a loss is made of a batch.
#[derive(Clone)]
pub(crate) struct How {
    pub(crate) pass: Pass,
    pub(crate) precision: Precision,
    pub(crate) smoothing: f64,
}

impl How {
    /// No dropout, f32, no smoothing.
    pub(crate) fn plain() -> Self {
        Self::of(Pass::inference())
    }

    pub(crate) fn of(pass: Pass) -> Self {
        Self {
            pass,
            precision: Precision::F32,
            smoothing: 0.0,
        }
    }
}

/// The decoder's last hidden states, on a tape.
pub(crate) fn hidden_on(tape: &Tape, model: &Model, batch: &Batch, pass: &Pass) -> Value {
    let encoded = model.encode(tape, &batch.source, pass).unwrap();
    let rows = &batch.source.rows;
    model
        .decode(tape, &batch.target, &encoded, rows, pass)
        .unwrap()
}

/// The same, without gradients, in f32.
pub(crate) fn hidden(model: &Model, batch: &Batch, pass: &Pass) -> Tensor {
    hidden_on(&Tape::off(Precision::F32), model, batch, pass).into_tensor()
}

/// A model and its trained weights, in the order of their gradients.
pub(crate) struct Trained {
    pub(crate) model: Model,
    pub(crate) weights: Vec<(String, Var)>,
}

impl Trained {
    pub(crate) fn new(
        config: &Config,
        parameters: &Parameters,
        lora: Option<&LoraConfig>,
        trains: impl Fn(&str) -> bool,
    ) -> Self {
        let weights: Vec<(String, Var)> = parameters
            .iter()
            .filter(|(name, _)| trains(name))
            .map(|(name, var)| (name.to_owned(), var.clone()))
            .collect();
        let place = |name: &str| weights.iter().position(|(trained, _)| trained == name);
        let model = Model::with_trainable(config, parameters, lora, &place).unwrap();
        Self { model, weights }
    }

    pub(crate) fn all(config: &Config, parameters: &Parameters) -> Self {
        Self::new(config, parameters, None, |_| true)
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.weights
            .iter()
            .map(|(_, var)| var.elem_count())
            .collect()
    }

    /// Room for gradients, as a trainer takes it.
    pub(crate) fn gradients(&self) -> Gradients<'static> {
        if has_kernels(self.model.device()) {
            Gradients::new(self.sizes())
        } else {
            Gradients::on_device(self.sizes())
        }
    }

    /// The mean loss a token; its gradients are added up.
    pub(crate) fn run(&self, batch: &Batch, how: &How, gradients: &mut Gradients<'_>) -> f64 {
        let tape = Tape::new(how.precision);
        let hidden = hidden_on(&tape, &self.model, batch, &how.pass);
        let total = batch.tokens() as f64;
        let (sum, seed) = self
            .model
            .projection(how.precision)
            .cross_entropy_backward(
                hidden.tensor(),
                &batch.labels,
                NOTHING,
                how.smoothing,
                1.0 / total,
                gradients,
            )
            .unwrap();
        tape.backward(vec![(hidden, seed)], gradients).unwrap();
        sum / total
    }

    /// The gradients by name.
    pub(crate) fn named(&self, gradients: &Gradients<'_>) -> Named {
        let names = self.weights.iter().enumerate();
        names
            .filter_map(|(index, (name, _))| {
                let found = if gradients.are_tensors() {
                    values(gradients.tensor(index)?)
                } else {
                    gradients.get(index)?.to_vec()
                };
                Some((name.clone(), found))
            })
            .collect()
    }

    pub(crate) fn passed(&self, batch: &Batch, how: &How) -> (f64, Named) {
        let mut gradients = self.gradients();
        let loss = self.run(batch, how, &mut gradients);
        (loss, self.named(&gradients))
    }

    pub(crate) fn optimizer(&self, config: chatlm_optim::OptimizerConfig) -> Optimizer {
        let shape = |(name, var): &(String, Var)| (name.clone(), var.dims().to_vec());
        let shapes: Vec<_> = self.weights.iter().map(shape).collect();
        if has_kernels(self.model.device()) {
            Optimizer::new(config, &shapes)
        } else {
            Optimizer::on_device(config, &shapes, self.model.device()).unwrap()
        }
    }

    /// One whole step, as a trainer does it; answers the loss before it.
    pub(crate) fn step(
        &self,
        batch: &Batch,
        how: &How,
        (optimizer, rate, clip): (&mut Optimizer, f64, f64),
        gradients: &mut Gradients<'_>,
    ) -> f64 {
        gradients.clear();
        let loss = self.run(batch, how, gradients);
        let all = 0..gradients.len();
        let square = if gradients.are_tensors() {
            squared_norm_of(all.filter_map(|index| gradients.tensor(index))).unwrap()
        } else {
            let parts = all.filter_map(|index| gradients.get(index));
            parts.map(squared_norm).sum()
        };
        let scale = clip_scale(square.sqrt(), clip);
        optimizer.begin_step();
        for (index, (_, var)) in self.weights.iter().enumerate() {
            if gradients.are_tensors() {
                if let Some(gradient) = gradients.tensor(index) {
                    optimizer
                        .update_tensor(index, var, gradient, scale, rate)
                        .unwrap();
                }
            } else if let Some(gradient) = gradients.get(index) {
                let update = |weights: &mut [f32]| {
                    optimizer.update(index, weights, gradient, scale, rate);
                };
                write(var, update).unwrap();
            }
        }
        loss
    }
}

pub(crate) fn values(t: &Tensor) -> Vec<f32> {
    let t = t.to_dtype(DType::F32).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference of two values.
pub(crate) fn largest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // `f32::max` would lose a NaN.
    differences.fold(0.0, |worst, d| {
        if worst > d || worst.is_nan() {
            worst
        } else {
            d
        }
    })
}

pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f32 {
    largest(&values(a), &values(b))
}

pub(crate) fn norm(values: &[f32]) -> f64 {
    squared_norm(values).sqrt()
}

/// ‖difference‖ / ‖reference‖.
pub(crate) fn distance(a: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(a.len(), reference.len());
    let difference: Vec<f32> = a.iter().zip(reference).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(reference)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(crate) fn named_bits(named: &Named) -> Vec<(&str, Vec<u32>)> {
    named
        .iter()
        .map(|(name, values)| (name.as_str(), bits(values)))
        .collect()
}

/// A small T5: v1.0, or v1.1.
pub(crate) fn config(gated: bool) -> Config {
    Config {
        vocab_size: 60,
        d_model: 32,
        d_kv: 8,
        d_ff: 48,
        num_layers: 2,
        num_heads: 4,
        feed_forward_proj: if gated { "gated-gelu" } else { "relu" }.to_owned(),
        tie_word_embeddings: !gated,
        ..Config::default()
    }
}

pub(crate) fn lora(targets: &[&str], bias: LoraBias) -> LoraConfig {
    let targets: Vec<String> = targets.iter().map(|&target| target.to_owned()).collect();
    let targets = targets.into();
    LoraConfig {
        r: 3,
        alpha: 6.0,
        dropout: 0.0,
        targets,
        bias,
        ..LoraConfig::default()
    }
}

/// Gives every `lora_B` values, which start at zero.
pub(crate) fn train_adapter(parameters: &Parameters) {
    for (name, var) in parameters
        .iter()
        .filter(|(name, _)| name.contains(".lora_B."))
    {
        let values: Vec<f32> = (0..var.elem_count())
            .map(|i| ((i * 7 + name.len()) % 11) as f32 / 40.0 - 0.1)
            .collect();
        var.set(&Tensor::from_vec(values, var.shape(), &device()).unwrap())
            .unwrap();
    }
}

/// The tensors of a file beside `test/golden/t5/make.py`, and its `config`.
pub(crate) fn golden(name: &str) -> (String, BTreeMap<String, Tensor>) {
    let file = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../test/golden/t5")
        .join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&file).unwrap();
    let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let config = meta.metadata().as_ref().unwrap()["config"].clone();
    let tensors = candle_core::safetensors::load(&file, &device()).unwrap();
    (config, tensors.into_iter().collect())
}

/// The weights whose names begin so.
pub(crate) fn weights(
    config: &Config,
    tensors: &BTreeMap<String, Tensor>,
    prefix: &str,
) -> Parameters {
    let weights = tensors
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())))
        .collect();
    Parameters::from_tensors(config, weights, &device()).unwrap()
}
