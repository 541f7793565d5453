//! What a training run would take: real steps of the configuration's own rows for its speed, and steps of
//! rows as long as the longest for its memory, without touching the run folder.
//!
//! One call is one probe, to be made in a process of its own: memory is the most that the process has held,
//! which never goes down, and a probe that asks for too much takes nobody else down. Who makes probes, of
//! which batches, and what is concluded from them is `ts/train/plan.ts`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use chatlm_checkpoint::Piece;
use chatlm_dataset::{Batch, Cursor, Loader};
use chatlm_job::{Code, Error, Job, Random, Result, mix};
use chatlm_train::{
    PreferenceBatch, ReferenceBatch, SequenceBatch, StepReport, TrainConfig, Trainer,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batches::{preference_batch, sequence_batch};
use crate::device::open_device;
use crate::machine::{available_bytes, peak_rss_bytes, rss_bytes, set_threads};
use crate::setup::{Prepared, RunKind, open_rows, prepare, read_config, train_sets};
use crate::worker::compute;

/// Rows whose lengths are looked at.
const SAMPLE: usize = 8192;
/// Real steps go on for so long, so that many short ones are as good a measure as a few long ones.
const ENOUGH: Duration = Duration::from_secs(4);
/// After so long no further real step is begun, once two are counted.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a probe does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProbeOptions {
    /// Real steps that count at least, after one that does not; 0: none.
    pub steps: u64,
    /// A step of so many of the longest rows each, in rising order.
    pub batches: Vec<usize>,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    pub device: Option<String>,
}

/// A real step.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbedStep {
    pub seconds: f64,
    pub forward_seconds: f64,
    pub tokens: usize,
}

/// A step of rows that are as long as the longest.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbedBatch {
    pub batch: usize,
    pub seconds: f64,
    /// The most memory the process has held up to here.
    pub peak_bytes: u64,
}

/// What a probe found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    pub device: String,
    pub parameters: u64,
    pub trainable: u64,
    /// Rows an epoch.
    pub rows: u64,
    pub total_steps: u64,
    /// The newest checkpoint in the run folder; 0 where there is none.
    pub done_steps: u64,
    /// Mean over the rows looked at, all texts of a row together.
    pub tokens_per_row: f64,
    /// The longest text of each column among them, in tokens.
    pub longest: Vec<usize>,
    pub weight_bytes: u64,
    /// 0 where each weight is updated as soon as its gradient is there.
    pub gradient_bytes: u64,
    pub optimizer_bytes: u64,
    pub checkpoint_bytes: u64,
    /// Of `best/` and of `last/`.
    pub export_bytes: u64,
    /// Before anything was loaded.
    pub available_bytes: u64,
    /// Held when all was loaded and no step done.
    pub opened_bytes: u64,
    pub steps: Vec<ProbedStep>,
    /// The most that was held after the real steps.
    pub steps_peak_bytes: u64,
    pub batches: Vec<ProbedBatch>,
}

/// Everything that a step needs.
struct Probe {
    kind: RunKind,
    config: TrainConfig,
    trainer: Trainer,
    rows: Loader,
    pad: u32,
    vocab: u64,
}

/// Makes one probe.
pub fn plan_probe(
    kind: RunKind,
    config: Value,
    options: &ProbeOptions,
    job: &Job,
) -> Result<ProbeReport> {
    let available = available_bytes();
    let device = open_device(options.device.as_deref())?;
    let config = read_config(config, &device)?;
    if let Some(threads) = config.threads {
        set_threads(threads)?;
    }
    let Prepared {
        tokenizer,
        config: model,
        parameters,
        lora,
        ..
    } = prepare(kind, &config, &device)?;
    let mut rows = open_rows(kind, &config, train_sets(&config), true, &tokenizer, job)?;
    let steps_per_epoch = rows
        .batches_per_epoch()
        .div_ceil(config.gradient_accumulation.max(1) as u64);
    let total = config.max_steps.unwrap_or(config.epochs * steps_per_epoch);
    let vocab = model.vocab_size as u64;
    let trainer = Trainer::new(&config, model, parameters, lora, total)?;
    let (parameters, trainable) = trainer.parameter_counts();
    let (tokens_per_row, longest) = lengths(&mut rows, job)?;
    let state = trainer.state()?;
    let size = |name: &str| -> u64 {
        let pieces = state.iter().filter(|(file, _)| file.starts_with(name));
        pieces
            .flat_map(|(_, pieces)| pieces.values())
            .map(bytes)
            .sum()
    };
    let (saved, optimizer) = (size("weights"), size("optimizer"));
    drop(state);
    let mut report = ProbeReport {
        device: options.device.clone().unwrap_or_else(|| "cpu".to_owned()),
        parameters,
        trainable,
        rows: rows.rows(),
        total_steps: total,
        done_steps: done_steps(Path::new(&config.out)),
        tokens_per_row,
        longest: longest.clone(),
        weight_bytes: parameters * 4,
        gradient_bytes: if trainer.holds_gradients(config.gradient_accumulation) {
            trainable * 4
        } else {
            0
        },
        optimizer_bytes: optimizer,
        checkpoint_bytes: saved + optimizer,
        export_bytes: saved,
        available_bytes: available,
        opened_bytes: rss_bytes(),
        steps: Vec::new(),
        steps_peak_bytes: 0,
        batches: Vec::new(),
    };
    if !trainer.device().is_cpu() && options.device.is_none() {
        "cuda:0".clone_into(&mut report.device);
    }
    let mut probe = Probe {
        kind,
        pad: tokenizer.pad_id(),
        config,
        trainer,
        rows,
        vocab,
    };
    if options.steps > 0 {
        report.steps = probe.real_steps(options.steps, job)?;
        report.steps_peak_bytes = peak_rss_bytes();
    }
    for &batch in &options.batches {
        job.cancel.check()?;
        let step = probe.longest_step(batch, &longest)?;
        report.batches.push(ProbedBatch {
            batch,
            seconds: step.seconds,
            peak_bytes: peak_rss_bytes(),
        });
    }
    Ok(report)
}

/// Mean tokens of a row, and the longest text of each column, among the first rows of the order.
fn lengths(rows: &mut Loader, job: &Job) -> Result<(f64, Vec<usize>)> {
    let (mut seen, mut tokens) = (0, 0);
    let mut longest: Vec<usize> = Vec::new();
    let started = Instant::now();
    while seen < SAMPLE.min(rows.rows() as usize) && started.elapsed() < PATIENCE {
        job.cancel.check()?;
        let batch = rows.next_batch()?;
        seen += batch.keys.len();
        longest.resize(batch.fields.len(), 0);
        for (longest, field) in longest.iter_mut().zip(&batch.fields) {
            tokens += field.iter().map(Vec::len).sum::<usize>();
            *longest = field.iter().map(Vec::len).fold(*longest, usize::max);
        }
    }
    rows.seek(Cursor { epoch: 0, row: 0 });
    Ok((tokens as f64 / seen.max(1) as f64, longest))
}

/// The newest checkpoint's step, by the folders' names.
fn done_steps(out: &Path) -> u64 {
    fs::read_dir(out.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("manifest.json").exists())
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("step-")?.parse().ok()
        })
        .max()
        .unwrap_or(0)
}

fn bytes(piece: &Piece<'_>) -> u64 {
    let size = match piece {
        Piece::Tensor(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
        Piece::Values { values, .. } => size_of_val(*values),
        Piece::Bytes { values, .. } => values.len(),
    };
    size as u64
}

impl Probe {
    /// Steps as the run would make them; the first does not count.
    fn real_steps(&mut self, count: u64, job: &Job) -> Result<Vec<ProbedStep>> {
        let mut steps = Vec::new();
        let began = Instant::now();
        loop {
            job.cancel.check()?;
            let step = steps.len() as u64;
            let spent = began.elapsed();
            let enough = if spent < PATIENCE { count } else { 2 };
            if step > enough && spent > ENOUGH {
                break;
            }
            job.progress.report("measure", step, None, "steps");
            let started = Instant::now();
            let mut batches = Vec::new();
            while batches.len() < self.config.gradient_accumulation.max(1) {
                let batch = self.rows.next_batch()?;
                let ends = batch.next.epoch > batch.epoch;
                batches.push(batch);
                if ends {
                    break;
                }
            }
            let report = self.train(&batches)?;
            steps.push(ProbedStep {
                seconds: started.elapsed().as_secs_f64(),
                forward_seconds: report.forward_seconds,
                tokens: report.tokens,
            });
        }
        // Memory is touched for the first time in it.
        steps.remove(0);
        Ok(steps)
    }

    /// A step of `batch` rows that are all as long as the longest; with accumulation two micro-batches, since
    /// gradients are then held between them.
    fn longest_step(&mut self, batch: usize, longest: &[usize]) -> Result<StepReport> {
        if batch == 0 {
            return Err(Error::new(
                Code::Usage,
                "a probe of 0 rows",
                "ask for at least one row",
            ));
        }
        let mut random = Random::new(self.config.seed);
        let mut field = |length: usize| -> Vec<Vec<u32>> {
            // Neither padding nor an end inside: what stands there does not matter, only that it is scored.
            let mut row = || {
                let words = (1..length.max(1)).map(|_| 2 + random.below(self.vocab - 2) as u32);
                words.chain([1]).collect()
            };
            (0..batch).map(|_| row()).collect()
        };
        let rows = Batch {
            keys: (0..batch as u64).map(|row| mix(7, row)).collect(),
            fields: longest.iter().map(|&length| field(length)).collect(),
            indices: vec![0; batch],
            epoch: 0,
            next: Cursor { epoch: 0, row: 0 },
        };
        let micro = self.config.gradient_accumulation.clamp(1, 2);
        self.train(&vec![rows; micro])
    }

    /// A step as `TrainingRun` makes it. Where the loss compares with a reference, that is said to be 0:
    /// it changes neither time nor memory.
    fn train(&mut self, batches: &[Batch]) -> Result<StepReport> {
        let device = self.trainer.device().clone();
        if self.kind == RunKind::Dpo {
            let micro = batches
                .iter()
                .map(|batch| {
                    let count = batch.keys.len();
                    let none = || vec![0.0; count];
                    let reference = self.trainer.needs_reference().then(|| ReferenceBatch {
                        chosen: none(),
                        rejected: none(),
                    });
                    let plain = preference_batch(batch, count, self.pad, None, &device)?;
                    Ok(PreferenceBatch { reference, ..plain })
                })
                .collect::<Result<Vec<PreferenceBatch>>>()?;
            return compute(|| self.trainer.preference_step(&micro));
        }
        let micro = batches
            .iter()
            .map(|batch| sequence_batch(batch, batch.keys.len(), self.pad, &device))
            .collect::<Result<Vec<SequenceBatch>>>()?;
        compute(|| self.trainer.step(&micro))
    }
}
