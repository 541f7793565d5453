//! `bench train-step`: whole optimizer steps on random ids, through the trainer that every run uses.

use candle_core::Device;
use chatlm_job::{Cancel, Code, Error, Random, Result, mix};
use chatlm_t5::{Config, Parameters};
use chatlm_train::{SequenceBatch, StepReport, TrainConfig, Trainer};
use serde_json::json;

use crate::device::open_device;
use crate::machine::{peak_rss_bytes, set_threads};
use crate::worker::compute;

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchTrainStep {
    pub d_model: usize,
    pub d_ff: usize,
    pub heads: usize,
    /// Of the encoder, and as many of the decoder.
    pub layers: usize,
    pub vocab: usize,
    pub batch: usize,
    /// Tokens a row.
    pub source: usize,
    pub target: usize,
    pub optimizer: String,
    pub precision: String,
    /// Steps that count, after one that does not.
    pub steps: u64,
    pub recompute: bool,
    /// Gated GELU and an untied head (T5 v1.1) instead of ReLU and a tied one.
    pub gated: bool,
    /// 0: no clipping.
    pub clip: f64,
    pub seed: u64,
    pub threads: Option<usize>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

/// Medians over the steps, in seconds.
#[derive(Debug, Clone)]
pub struct BenchTrainStepReport {
    pub seconds_per_step: f64,
    /// Up to the loss, whose own gradient it includes.
    pub forward: f64,
    pub backward: f64,
    /// Clipping included.
    pub update: f64,
    pub peak_rss_bytes: u64,
    pub tokens_per_second: f64,
    /// The processor path in use.
    pub cpu: String,
    /// One a step.
    pub loss: Vec<f64>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Runs the steps.
pub fn bench_train_step(options: &BenchTrainStep, cancel: &Cancel) -> Result<BenchTrainStepReport> {
    chatlm_t5::cpu::check()?;
    if let Some(threads) = options.threads {
        set_threads(threads)?;
    }
    if options.heads == 0 || !options.d_model.is_multiple_of(options.heads) {
        return Err(Error::new(
            Code::Usage,
            format!(
                "{} heads do not divide a d-model of {}",
                options.heads, options.d_model
            ),
            "give heads that divide it",
        ));
    }
    let config = Config {
        vocab_size: options.vocab,
        d_model: options.d_model,
        d_kv: options.d_model / options.heads,
        d_ff: options.d_ff,
        num_heads: options.heads,
        num_layers: options.layers,
        feed_forward_proj: if options.gated { "gated-gelu" } else { "relu" }.to_owned(),
        tie_word_embeddings: !options.gated,
        ..Config::default()
    };
    let settings: TrainConfig = serde_json::from_value(json!({
        "model": null, "tokenizer": "", "train": [], "valid": null, "out": "", "epochs": 1,
        "batchSize": options.batch, "gradientAccumulation": 1, "learningRate": 1e-4,
        "schedule": "constant", "warmupSteps": 0, "optimizer": options.optimizer,
        "weightDecay": 0.01, "precision": options.precision,
        "maxLength": options.source.max(options.target).max(2), "saveEvery": 1, "keep": 1,
        "evalEvery": 1, "evalRows": 1, "logEvery": 1, "maxSteps": null,
        "dropout": config.dropout_rate, "clip": options.clip, "recompute": options.recompute,
        "packing": false, "earlyStop": null, "labelSmoothing": 0.0, "onNaN": "stop", "workers": 1,
        "seed": options.seed, "samples": 0, "threads": null,
    }))
    .map_err(|e| Error::new(Code::Usage, e.to_string(), "see chatlm bench --help"))?;
    let device = open_device(options.device.as_deref())?;
    let parameters = Parameters::random(&config, options.seed, &device)?;
    let mut trainer = Trainer::new(&settings, config, parameters, None, options.steps + 1)?;
    let mut reports: Vec<StepReport> = Vec::new();
    for step in 0..=options.steps {
        cancel.check()?;
        let batch = random_batch(options, step, &device)?;
        reports.push(compute(|| trainer.step(&[batch]))?);
    }
    let counted = &reports[1..];
    let middle =
        |part: fn(&StepReport) -> f64| median(counted.iter().map(part).collect::<Vec<_>>());
    let seconds = middle(|r| r.seconds);
    Ok(BenchTrainStepReport {
        seconds_per_step: seconds,
        forward: middle(|r| r.forward_seconds),
        backward: middle(|r| r.seconds - r.forward_seconds - r.update_seconds),
        update: middle(|r| r.update_seconds),
        peak_rss_bytes: peak_rss_bytes(),
        tokens_per_second: (options.batch * (options.source + options.target)) as f64
            / seconds.max(1e-9),
        cpu: chatlm_t5::cpu::cpu().name().to_owned(),
        loss: counted.iter().map(|r| r.loss).collect(),
    })
}

fn random_batch(options: &BenchTrainStep, step: u64, device: &Device) -> Result<SequenceBatch> {
    let mut random = Random::new(mix(options.seed, step));
    let words = options.vocab.saturating_sub(2).max(1) as u64;
    let mut rows = |length: usize| -> Vec<Vec<u32>> {
        (0..options.batch)
            .map(|_| {
                let mut ids: Vec<u32> = (1..length.max(1))
                    .map(|_| 2 + random.below(words) as u32)
                    .collect();
                ids.push(1);
                ids
            })
            .collect()
    };
    let (sources, targets) = (rows(options.source), rows(options.target));
    let keys: Vec<u64> = (0..options.batch as u64)
        .map(|row| mix(mix(options.seed, step), row))
        .collect();
    SequenceBatch::new(&keys, &sources, &targets, 0, device)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tiny() -> BenchTrainStep {
        BenchTrainStep {
            d_model: 32,
            d_ff: 48,
            heads: 4,
            layers: 2,
            vocab: 60,
            batch: 2,
            source: 5,
            target: 4,
            optimizer: "adamw".to_owned(),
            precision: "f32".to_owned(),
            steps: 3,
            recompute: false,
            gated: false,
            clip: 1.0,
            seed: 1,
            threads: None,
            device: None,
        }
    }

    #[test]
    fn steps_are_counted_and_recomputing_changes_no_loss() {
        let run = |options: BenchTrainStep| bench_train_step(&options, &Cancel::default()).unwrap();
        let plain = run(tiny());
        assert_eq!(plain.loss.len(), 3);
        assert!(plain.seconds_per_step > 0.0 && plain.update > 0.0);
        let again = run(BenchTrainStep {
            recompute: true,
            ..tiny()
        });
        let bits = |report: &BenchTrainStepReport| -> Vec<u64> {
            report.loss.iter().map(|loss| loss.to_bits()).collect()
        };
        assert_eq!(bits(&plain), bits(&again));
        let gated = run(BenchTrainStep {
            gated: true,
            precision: "bf16".to_owned(),
            optimizer: "adafactor".to_owned(),
            clip: 0.0,
            ..tiny()
        });
        assert!(gated.loss.iter().all(|loss| loss.is_finite()));
    }

    #[test]
    fn heads_that_do_not_divide_the_model_are_refused() {
        let options = BenchTrainStep { heads: 5, ..tiny() };
        let error = bench_train_step(&options, &Cancel::default()).unwrap_err();
        assert_eq!(error.code(), Code::Usage);
    }
}
