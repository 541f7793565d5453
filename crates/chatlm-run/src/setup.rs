//! From a resolved configuration to what a run works with: tokenizer, weights, adapter, rows, and
//! the identity that decides whether a checkpoint belongs to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::Device;
use chatlm_checkpoint::load_model;
use chatlm_dataset::{Loader, LoaderOptions, SetSpec, Shard};
use chatlm_job::{Code, Error, Job, Result, sha256_bytes, sha256_file};
use chatlm_t5::{Config, LoraConfig, Parameters};
use chatlm_tokenizer::Tokenizer;
use chatlm_train::TrainConfig;
use serde_json::{Value, json};

use crate::generator::check_vocabulary;

/// Rows shuffled together.
pub(crate) const BUFFER: u64 = 65_536;

/// What is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    Pretrain,
    Sft,
    Dpo,
}

impl RunKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Dpo => "dpo",
        }
    }

    /// The columns a row must have.
    pub fn columns(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Pretrain | Self::Sft => &["prompt", "response"],
            Self::Dpo => &["prompt", "chosen", "rejected"],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }
}

impl FromStr for RunKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "pretrain" => Ok(Self::Pretrain),
            "sft" => Ok(Self::Sft),
            "dpo" => Ok(Self::Dpo),
            other => Err(Error::new(
                Code::Usage,
                format!("{other} is not a kind of training"),
                "use pretrain, sft or dpo",
            )),
        }
    }
}

/// Reads the configuration and refuses what this build cannot do, before any work.
pub(crate) fn read_config(value: Value, device: &Device) -> Result<TrainConfig> {
    let config: TrainConfig = serde_json::from_value(value).map_err(|e| {
        Error::new(
            Code::ConfigInvalid,
            format!("the configuration does not fit: {e}"),
            "compare it with --print-config",
        )
    })?;
    chatlm_t5::cpu::check()?;
    config.validate(device)?;
    Ok(config)
}

/// Tokenizer and weights, with the base model's identity.
pub(crate) struct Prepared {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) config: Config,
    pub(crate) parameters: Parameters,
    pub(crate) lora: Option<LoraConfig>,
    /// A hash of the base weights' file, or of the configuration and seed that make them.
    pub(crate) model_hash: String,
}

pub(crate) fn prepare(kind: RunKind, config: &TrainConfig, device: &Device) -> Result<Prepared> {
    let tokenizer = Tokenizer::load(Path::new(&config.tokenizer))?;
    let (mut model, mut parameters, model_hash) = match &config.model {
        Some(Value::String(folder)) => {
            let folder = PathBuf::from(folder);
            let loaded = load_model(&folder, device)?;
            check_vocabulary(&loaded.config, &tokenizer, &folder)?;
            let hash = hash_weights(&folder)?;
            (loaded.config, loaded.parameters, hash)
        }
        Some(Value::Object(_)) | None if kind == RunKind::Dpo => {
            return Err(Error::new(
                Code::ConfigInvalid,
                "dpo starts from a trained model",
                "set model to a model folder",
            )
            .with("field", "model"));
        }
        inline => {
            let model = fresh_config(inline.as_ref(), &tokenizer)?;
            let parameters = Parameters::random(&model, config.seed, device)?;
            let text = serde_json::to_string(&model).map_err(Error::internal)?;
            (
                model,
                parameters,
                sha256_bytes(format!("{text}{}", config.seed).as_bytes()),
            )
        }
    };
    // The run's own dropout is used, whatever the folder says.
    model.dropout_rate = config.dropout;
    let lora = config.lora.clone();
    if let Some(lora) = &lora {
        lora.attach(&model, &mut parameters, config.seed)?;
    }
    Ok(Prepared {
        tokenizer,
        config: model,
        parameters,
        lora,
        model_hash,
    })
}

/// The 0.2 B preset, or the configuration given inline; vocabulary and special ids follow the tokenizer.
fn fresh_config(inline: Option<&Value>, tokenizer: &Tokenizer) -> Result<Config> {
    let mut config = match inline {
        None => Config::chatlm(tokenizer.vocab_size()),
        Some(value) => {
            let mut value = value.clone();
            if let Value::Object(fields) = &mut value {
                fields
                    .entry("vocab_size")
                    .or_insert_with(|| json!(tokenizer.vocab_size()));
            }
            serde_json::from_value(value).map_err(|e| {
                Error::new(
                    Code::ConfigInvalid,
                    format!("model is not a T5 configuration: {e}"),
                    "give a model folder, or the fields of Hugging Face's T5Config",
                )
                .with("field", "model")
            })?
        }
    };
    config.pad_token_id = tokenizer.pad_id();
    config.decoder_start_token_id = tokenizer.pad_id();
    config.eos_token_id = tokenizer.eos_id();
    config.validate()?;
    check_vocabulary(&config, tokenizer, Path::new("the configuration"))?;
    Ok(config)
}

fn hash_weights(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|e| Error::io(&e, "read", folder))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    let hashes = files
        .iter()
        .map(|file| sha256_file(file))
        .collect::<Result<Vec<_>>>()?;
    Ok(sha256_bytes(hashes.join("\n").as_bytes()))
}

/// Opens the rows of `sets`.
pub(crate) fn open_rows(
    kind: RunKind,
    config: &TrainConfig,
    sets: Vec<SetSpec>,
    shuffle: bool,
    tokenizer: &Tokenizer,
    job: &Job,
) -> Result<Loader> {
    Loader::open(
        LoaderOptions {
            sets,
            columns: kind.columns(),
            batch_size: config.batch_size,
            batch_tokens: None,
            group_by_length: shuffle && config.group_by_length,
            max_length: config.max_length,
            shuffle,
            seed: config.seed,
            buffer: BUFFER,
            shard: Shard::default(),
            threads: None,
            cache: None,
        },
        tokenizer.clone(),
        job,
    )
}

pub(crate) fn train_sets(config: &TrainConfig) -> Vec<SetSpec> {
    config
        .train
        .iter()
        .map(|set| SetSpec {
            paths: set.paths.clone(),
            weight: set.weight,
        })
        .collect()
}

/// What must be the same for a checkpoint to belong to a run. Other keys may change between runs.
pub(crate) fn identity(
    kind: RunKind,
    config: &TrainConfig,
    prepared: &Prepared,
    rows: u64,
) -> Result<Value> {
    let lora = serde_json::to_value(&config.lora).map_err(Error::internal)?;
    Ok(json!({
        "kind": kind.as_str(),
        "model": prepared.model_hash,
        "tokenizer": prepared.tokenizer.hash(),
        "rows": rows,
        "batchSize": config.batch_size,
        "maxLength": config.max_length,
        "groupByLength": config.group_by_length.then_some(true),
        "seed": config.seed,
        "optimizer": config.optimizer,
        "freeze": config.freeze,
        "lora": lora,
        "loss": config.loss,
    }))
}

/// Refuses a checkpoint of another run, naming the first key that differs.
pub(crate) fn check_identity(ours: &Value, theirs: &Value, folder: &Path) -> Result<()> {
    for (key, value) in ours.as_object().into_iter().flatten() {
        // A key that an older version did not know counts as null.
        let before = theirs.get(key).unwrap_or(&Value::Null);
        if before != value {
            return Err(Error::new(
                Code::CheckpointInvalid,
                format!(
                    "{} holds a run with another {key} ({before}, now {value})",
                    folder.display()
                ),
                "choose another out folder, or --fresh --force to throw that run away",
            )
            .with("field", key.as_str())
            .with("file", folder.display().to_string()));
        }
    }
    Ok(())
}

/// Prompt and response rows in their order, for measuring.
pub(crate) fn open_evaluation_rows(
    inputs: &[String],
    batch_size: usize,
    max_length: usize,
    tokenizer: &Tokenizer,
    job: &Job,
) -> Result<Loader> {
    Loader::open(
        LoaderOptions {
            sets: vec![SetSpec {
                paths: inputs.to_vec(),
                weight: 1.0,
            }],
            columns: RunKind::Pretrain.columns(),
            batch_size: batch_size.max(1),
            batch_tokens: None,
            group_by_length: false,
            max_length,
            shuffle: false,
            seed: 0,
            buffer: BUFFER,
            shard: Shard::default(),
            threads: None,
            cache: None,
        },
        tokenizer.clone(),
        job,
    )
}
