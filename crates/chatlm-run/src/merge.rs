//! Adapters into their base model and off it again, with the proof that nothing was lost on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use chatlm_checkpoint::{
    ModelFolder, SaveOptions, load_adapter, load_model, merge, remove, save_model, unmerge,
};
use chatlm_job::{AtomicDir, Code, Error, Job, Random, Result, check_target};
use chatlm_t5::{LoraBias, LoraConfig, Model, Parameters, Pass, Precision, Sequences, Tape};
use chatlm_tokenizer::Tokenizer;
use serde::Serialize;

/// How several adapters are added up: PEFT's `combination_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Combination {
    /// One after the other, each times its weight; without DoRA the sum, whatever the order.
    #[default]
    Cat,
    /// `Σ √(w·s)·B` times `Σ √(w·s)·A`: adapters of the same ranks.
    Linear,
}

impl Combination {
    pub fn named(name: Option<&str>) -> Result<Self> {
        match name {
            None | Some("cat") => Ok(Self::Cat),
            Some("linear") => Ok(Self::Linear),
            Some(other) => {
                let what = format!("adapters cannot be combined by {other}");
                Err(usage(&what, "cat and linear are known"))
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct MergeOptions {
    pub base: PathBuf,
    /// In the order in which they are merged.
    pub adapters: Vec<PathBuf>,
    /// One for each adapter; 1 where left out.
    pub weights: Option<Vec<f64>>,
    pub combination: Combination,
    pub output: PathBuf,
    pub force: bool,
    /// What the merged weights are rounded to: `f32` (where left out), `f16` or `bf16`.
    pub dtype: Option<String>,
}

#[derive(Debug, Clone)]
pub struct UnmergeOptions {
    /// The merged model.
    pub model: PathBuf,
    pub adapter: PathBuf,
    pub output: PathBuf,
    pub force: bool,
    pub dtype: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct MergeReport {
    pub max_logit_difference: f64,
    pub merged: usize,
}

/// The largest difference of a logit that rounding in f32 may make.
const BOUND: f64 = 1e-2;

/// Merges adapters in f32 and writes, rounded to `dtype`, a whole model folder with the base's tokenizer.
pub fn merge_lora(options: &MergeOptions, job: &Job) -> Result<MergeReport> {
    check_target(&options.output, options.force)?;
    let save = SaveOptions::with_dtype(options.dtype.as_deref().unwrap_or("f32"))?;
    let weights = weights(options)?;
    let mut folder = load_model(&options.base, &Device::Cpu)?;
    let tokenizer = Tokenizer::load(&options.base)?;
    let (mut merged, mut worst) = (BTreeSet::new(), 0.0);
    let mut merge_into = |folder: &mut ModelFolder, lora: &LoraConfig, file: &Path| {
        merged.extend(modules(&folder.parameters));
        let with_adapter = logits(folder, Some(lora))?;
        job.cancel.check()?;
        merge(&mut folder.parameters, lora)?;
        let without = logits(folder, None)?;
        worst = bounded(&with_adapter, &without, file)?.max(worst);
        Ok::<_, Error>(())
    };
    if options.combination == Combination::Linear {
        let lora = linear_sum(&mut folder, &options.adapters, &weights)?;
        merge_into(&mut folder, &lora, &options.adapters[0])?;
    } else {
        let mut biased = false;
        for (adapter, &weight) in options.adapters.iter().zip(&weights) {
            let mut lora = load_adapter(adapter, &folder.config, &mut folder.parameters)?;
            if lora.bias == LoraBias::All && std::mem::replace(&mut biased, true) {
                let what = "two adapters bring biases of their own (bias \"all\")";
                return Err(usage(what, "merge one of them"));
            }
            let weighted = (weight - 1.0).abs() > 0.0;
            if weighted && (lora.use_dora || lora.bias == LoraBias::All) {
                let what = format!("{} (DoRA or bias \"all\") has no weight", adapter.display());
                return Err(usage(&what, "give it the weight 1"));
            }
            lora.scale(weight);
            merge_into(&mut folder, &lora, adapter)?;
        }
    }
    let report = MergeReport {
        max_logit_difference: worst,
        merged: merged.len(),
    };
    write(
        &options.output,
        options.force,
        &options.base,
        &folder,
        &tokenizer,
        save,
    )?;
    Ok(report)
}

/// Takes a merged adapter off again and writes the base model, up to rounding.
pub fn unmerge_lora(options: &UnmergeOptions, job: &Job) -> Result<MergeReport> {
    check_target(&options.output, options.force)?;
    let save = SaveOptions::with_dtype(options.dtype.as_deref().unwrap_or("f32"))?;
    let mut folder = load_model(&options.model, &Device::Cpu)?;
    let tokenizer = Tokenizer::load(&options.model)?;
    let before = logits(&folder, None)?;
    let lora = load_adapter(&options.adapter, &folder.config, &mut folder.parameters)?;
    job.cancel.check()?;
    let merged = unmerge(&mut folder.parameters, &lora)?;
    // The proof: the adapter over what is left is the model that came.
    load_adapter(&options.adapter, &folder.config, &mut folder.parameters)?;
    let after = logits(&folder, Some(&lora))?;
    let max_logit_difference = bounded(&before, &after, &options.adapter)?;
    remove(&mut folder.parameters);
    write(
        &options.output,
        options.force,
        &options.model,
        &folder,
        &tokenizer,
        save,
    )?;
    Ok(MergeReport {
        max_logit_difference,
        merged,
    })
}

fn usage(what: &str, help: &str) -> Error {
    Error::new(Code::Usage, what, help)
}

fn weights(options: &MergeOptions) -> Result<Vec<f64>> {
    let count = options.adapters.len();
    if count == 0 {
        return Err(usage("no adapter is named", "give --adapter DIR"));
    }
    let weights = options.weights.clone().unwrap_or_else(|| vec![1.0; count]);
    if weights.len() != count || weights.iter().any(|weight| !weight.is_finite()) {
        let what = format!("{} weights for {count} adapters", weights.len());
        return Err(usage(
            &what,
            "give one number for each adapter: --weights 0.7,0.3",
        ));
    }
    Ok(weights)
}

fn modules(parameters: &Parameters) -> Vec<String> {
    let names = parameters.iter();
    names
        .filter_map(|(name, _)| name.strip_suffix(".lora_A.weight").map(str::to_owned))
        .collect()
}

/// Leaves the linear combination of adapters in the folder's weights, with scaling 1.
fn linear_sum(
    folder: &mut ModelFolder,
    adapters: &[PathBuf],
    weights: &[f64],
) -> Result<LoraConfig> {
    let mut sums: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut rank = None;
    for (adapter, &weight) in adapters.iter().zip(weights) {
        let lora = load_adapter(adapter, &folder.config, &mut folder.parameters)?;
        let plain = !lora.use_dora && lora.bias != LoraBias::All && lora.rank_pattern.is_empty();
        if !plain || *rank.get_or_insert(lora.r) != lora.r || weight < 0.0 {
            let what = format!("{} cannot be combined linearly", adapter.display());
            let help = "that takes plain adapters of one rank and weights of 0 or more; use --combination cat";
            return Err(usage(&what, help));
        }
        for module in modules(&folder.parameters) {
            let factor = (weight * lora.scaling(&module)?).sqrt();
            for part in ["lora_A", "lora_B"] {
                let name = format!("{module}.{part}.weight");
                let Some(var) = folder.parameters.remove(&name) else {
                    continue;
                };
                let add = || match sums.get(&name) {
                    Some(sum) => sum + (var.as_detached_tensor() * factor)?,
                    None => var.as_detached_tensor() * factor,
                };
                let sum = add().map_err(Error::internal)?;
                sums.insert(name, sum);
            }
        }
    }
    for (name, sum) in sums {
        let var = Var::from_tensor(&sum).map_err(Error::internal)?;
        folder.parameters.insert(name, var);
    }
    let r = rank.unwrap_or(1);
    Ok(LoraConfig {
        r,
        alpha: r as f64,
        ..LoraConfig::default()
    })
}

fn bounded(a: &Tensor, b: &Tensor, adapter: &Path) -> Result<f64> {
    let found = largest_difference(a, b).map_err(Error::internal)?;
    if found.is_nan() || found > BOUND {
        return Err(Error::new(
            Code::ModelInvalid,
            format!("merged and adapted model differ by {found} in a logit"),
            "the adapter may belong to another base model; nothing was written",
        )
        .with("file", adapter.display().to_string()));
    }
    Ok(found)
}

/// A whole model folder, with the generation settings and the tokenizer of the one it comes from.
fn write(
    output: &Path,
    force: bool,
    from: &Path,
    folder: &ModelFolder,
    tokenizer: &Tokenizer,
    save: SaveOptions,
) -> Result<()> {
    let dir = AtomicDir::create(output, force)?;
    save_model(dir.path(), &folder.config, &folder.parameters, save)?;
    let settings = from.join("generation_config.json");
    if settings.exists() {
        let copy = dir.path().join("generation_config.json");
        std::fs::copy(&settings, copy).map_err(|error| Error::io(&error, "copy", &settings))?;
    }
    tokenizer.copy_to(dir.path())?;
    dir.commit()
}

/// Logits of the probe over all of a folder's vocabulary.
fn logits(folder: &ModelFolder, lora: Option<&LoraConfig>) -> Result<Tensor> {
    let model = Model::new(&folder.config, &folder.parameters, lora)?;
    probe(&model, folder.config.vocab_size)
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn golden(name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/golden/lora");
        folder.join(name)
    }

    /// Logits of the inputs of `test/golden/lora`.
    fn golden_logits(
        folder: &ModelFolder,
        lora: Option<&LoraConfig>,
        given: &serde_json::Value,
    ) -> Tensor {
        let rows = |name: &str| -> Sequences {
            let rows: Vec<Vec<u32>> = serde_json::from_value(given[name].clone()).unwrap();
            Sequences::new(&rows, &Device::Cpu).unwrap()
        };
        let (source, target) = (rows("source"), rows("target"));
        let model = Model::new(&folder.config, &folder.parameters, lora).unwrap();
        let (tape, pass) = (Tape::off(Precision::F32), Pass::inference());
        let encoded = model.encode(&tape, &source, &pass).unwrap();
        let hidden = model.decode(&tape, &target, &encoded, &source.rows, &pass);
        let logits = model.logits(hidden.unwrap().tensor()).unwrap();
        logits.flatten_all().unwrap()
    }

    #[test]
    fn weighted_sums_are_pefts() {
        let json = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
        };
        let (given, expected) = (json("expected.json"), json("variants.json"));
        let adapters = [golden("variants/second"), golden("variants/rslora")];
        let want = |name: &str| -> Tensor {
            let values: Vec<f32> =
                serde_json::from_value(expected["weighted"][name].clone()).unwrap();
            let count = values.len();
            Tensor::from_vec(values, count, &Device::Cpu).unwrap()
        };
        let mut folder = load_model(&golden("base"), &Device::Cpu).unwrap();
        let lora = linear_sum(&mut folder, &adapters, &[0.3, 0.7]).unwrap();
        let got = golden_logits(&folder, Some(&lora), &given);
        assert!(largest_difference(&got, &want("linear")).unwrap() < 1e-5);

        let mut folder = load_model(&golden("base"), &Device::Cpu).unwrap();
        for (adapter, weight) in adapters.iter().zip([0.3, 0.7]) {
            let mut lora = load_adapter(adapter, &folder.config, &mut folder.parameters).unwrap();
            lora.scale(weight);
            merge(&mut folder.parameters, &lora).unwrap();
        }
        let got = golden_logits(&folder, None, &given);
        assert!(largest_difference(&got, &want("cat")).unwrap() < 1e-5);
    }
}
