//! An adapter into its base model, with the proof that nothing was lost on the way.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use chatlm_checkpoint::{SaveOptions, load_adapter, load_model, merge, save_model};
use chatlm_job::{AtomicDir, Code, Error, Job, Random, Result, check_target};
use chatlm_t5::{Model, Pass, Precision, Sequences, Tape};
use chatlm_tokenizer::Tokenizer;
use serde::Serialize;

#[derive(Debug, Clone)]
pub struct MergeOptions {
    pub base: PathBuf,
    pub adapter: PathBuf,
    pub output: PathBuf,
    pub force: bool,
    /// What the merged weights are rounded to: `f32` (where left out), `f16` or `bf16`.
    pub dtype: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct MergeReport {
    pub max_logit_difference: f64,
    pub merged: usize,
}

/// The largest difference of a logit that rounding in f32 may make.
const BOUND: f64 = 1e-2;

/// Merges `W + B·A·alpha/r` in f32 and writes, rounded to `dtype`, a whole model folder with the base's tokenizer.
pub fn merge_lora(options: &MergeOptions, job: &Job) -> Result<MergeReport> {
    check_target(&options.output, options.force)?;
    let save = SaveOptions::with_dtype(options.dtype.as_deref().unwrap_or("f32"))?;
    let device = Device::Cpu;
    let mut folder = load_model(&options.base, &device)?;
    let tokenizer = Tokenizer::load(&options.base)?;
    let lora = load_adapter(&options.adapter, &folder.config, &mut folder.parameters)?;
    let with_adapter = Model::new(&folder.config, &folder.parameters, Some(&lora))?;
    let vocabulary = folder.config.vocab_size;
    let before = probe(&with_adapter, vocabulary)?;
    drop(with_adapter);
    job.cancel.check()?;
    let merged = merge(&mut folder.parameters, &lora)?;
    let after = probe(
        &Model::new(&folder.config, &folder.parameters, None)?,
        vocabulary,
    )?;
    let max_logit_difference = largest_difference(&before, &after).map_err(Error::internal)?;
    if max_logit_difference.is_nan() || max_logit_difference > BOUND {
        return Err(Error::new(
            Code::ModelInvalid,
            format!("merged and adapted model differ by {max_logit_difference} in a logit"),
            "the adapter may belong to another base model; nothing was written",
        )
        .with("file", options.adapter.display().to_string()));
    }
    let dir = AtomicDir::create(&options.output, options.force)?;
    save_model(dir.path(), &folder.config, &folder.parameters, save)?;
    tokenizer.copy_to(dir.path())?;
    dir.commit()?;
    Ok(MergeReport {
        max_logit_difference,
        merged,
    })
}

/// Logits of fixed random inputs below `vocabulary`: 4 rows of 16 source and 8 target ids.
pub(crate) fn probe(model: &Model, vocabulary: usize) -> Result<Tensor> {
    let mut random = Random::new(23_333);
    let mut rows = |columns: usize| -> Vec<Vec<u32>> {
        let mut row = || {
            (0..columns)
                .map(|_| random.below(vocabulary as u64) as u32)
                .collect()
        };
        (0..4).map(|_| row()).collect()
    };
    let source = Sequences::new(&rows(16), model.device())?;
    let target = Sequences::new(&rows(8), model.device())?;
    let (tape, pass) = (Tape::off(Precision::F32), Pass::inference());
    let encoded = model.encode(&tape, &source, &pass)?;
    let hidden = model.decode(&tape, &target, &encoded, &source.rows, &pass)?;
    model.logits(hidden.tensor())
}

fn largest_difference(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let difference = (a - b)?.abs()?.flatten_all()?.max(0)?;
    Ok(f64::from(difference.to_scalar::<f32>()?))
}
