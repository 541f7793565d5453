//! Model folders as `transformers` writes and reads them: `config.json`, `generation_config.json`,
//! `model.safetensors` (or shards with an index). The tokenizer's files beside them are not ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use chatlm_job::{Code, Error, Result};
use chatlm_t5::{Config, Parameters, is_adapter};
use serde_json::{Value, json};

use crate::tensors::{all_finite, read_safetensors, write_safetensors};

pub(crate) const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model folder, read.
#[derive(Debug)]
pub struct ModelFolder {
    pub config: Config,
    pub parameters: Parameters,
    /// `generation_config.json`, or an empty object.
    pub generation: Value,
}

pub(crate) fn invalid(path: &Path, what: impl std::fmt::Display, help: &str) -> Error {
    let path = path.display().to_string();
    Error::new(Code::ModelInvalid, format!("{path}: {what}"), help).with("file", path)
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).map_err(|e| Error::io(&e, "read", path))?;
    serde_json::from_slice(&text).map_err(|e| {
        invalid(
            path,
            e,
            "the file is broken; fetch or write the folder again",
        )
    })
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(Error::internal)?;
    text.push(b'\n');
    fs::write(path, text).map_err(|e| Error::io(&e, "write", path))
}

/// Refuses a folder that is not there, or one that lacks `file`, naming what is wrong.
pub(crate) fn require(dir: &Path, file: &str, help: &str) -> Result<PathBuf> {
    if !dir.exists() {
        return Err(Error::new(
            Code::InputNotFound,
            format!("there is no folder {}", dir.display()),
            "check the path; relative paths start at the current folder",
        )
        .with("file", dir.display().to_string()));
    }
    let path = dir.join(file);
    if path.exists() {
        Ok(path)
    } else {
        Err(invalid(dir, format!("{file} is missing"), help))
    }
}

/// `config.json`, read.
pub(crate) struct ConfigFile {
    pub(crate) config: Config,
    /// transformers 5 calls every T5 tied, and tells an untied one by this key and its own lm_head.
    pub(crate) unscaled: bool,
    /// The weights are int8 as [`crate::save_int8`] writes them.
    pub(crate) int8: bool,
}

/// What a folder with int8 weights names as its method of quantization; transformers refuses it by
/// that name.
pub(crate) const INT8_METHOD: &str = "chatlm-int8";

pub(crate) fn read_config(dir: &Path) -> Result<ConfigFile> {
    let help = "give a model folder as transformers or chatlm writes it";
    let path = require(dir, "config.json", help)?;
    let value = read_json(&path)?;
    // Every T5's file has these, and no other encoder-decoder's; the rest has defaults.
    for field in [
        "d_model",
        "d_kv",
        "d_ff",
        "num_layers",
        "num_heads",
        "vocab_size",
    ] {
        if value.get(field).is_none() {
            let kind = value["model_type"].as_str().unwrap_or("unknown").to_owned();
            return Err(invalid(
                &path,
                format!("{field} is missing, so this is no T5 (model_type {kind})"),
                "only T5 models (T5ForConditionalGeneration) can be used",
            )
            .with("field", field));
        }
    }
    let unscaled = value["scale_decoder_outputs"] == json!(false);
    let method = value["quantization_config"]["quant_method"].as_str();
    let int8 = method == Some(INT8_METHOD);
    if let Some(other) = method.filter(|_| !int8) {
        return Err(invalid(
            &path,
            format!("the weights are quantized by {other}, which is not read here"),
            "give the folder with float weights; chatlm export --int8 makes a small one of it",
        )
        .with("field", "quantization_config"));
    }
    let config: Config = serde_json::from_value(value)
        .map_err(|e| invalid(&path, e, "compare it with Hugging Face's T5Config"))?;
    config
        .validate()
        .map_err(|e| e.with("file", path.display().to_string()))?;
    Ok(ConfigFile {
        config,
        unscaled,
        int8,
    })
}

/// `generation_config.json`, or an empty object.
pub(crate) fn read_generation(dir: &Path) -> Result<Value> {
    let path = dir.join("generation_config.json");
    if path.exists() {
        read_json(&path)
    } else {
        Ok(json!({}))
    }
}

/// Files converted from the first T5 carry a bias that no layer uses; transformers ignores it too.
pub(crate) const UNUSED: &str =
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// Reads a T5 of any precision as f32. Code files in the folder are never run: a custom class
/// around standard T5 weights is read as the T5 it is.
pub fn load_model(dir: &Path, device: &Device) -> Result<ModelFolder> {
    let ConfigFile {
        mut config,
        unscaled,
        int8,
    } = read_config(dir)?;
    if int8 {
        return Err(invalid(
            dir,
            "the weights are int8, which is made for answering alone",
            "give the folder that it was exported from",
        ));
    }

    let mut tensors = BTreeMap::new();
    for file in weight_files(dir)? {
        tensors.append(&mut read_safetensors(&file, Code::ModelInvalid, device)?);
    }
    tensors.remove(UNUSED);
    if unscaled && config.tie_word_embeddings {
        config.tie_word_embeddings = false;
        if let Some(shared) = tensors.get("shared.weight").cloned() {
            tensors.entry("lm_head.weight".to_owned()).or_insert(shared);
        }
    }
    let parameters = Parameters::from_tensors(&config, tensors, device)
        .map_err(|e| e.with("file", dir.display().to_string()))?;
    require_finite(
        dir,
        parameters.iter().map(|(name, var)| (name, var.as_tensor())),
    )?;

    Ok(ModelFolder {
        config,
        parameters,
        generation: read_generation(dir)?,
    })
}

/// Fails with `NOT_FINITE`, naming the first tensor that holds a NaN or an infinity.
pub(crate) fn require_finite<'a>(
    dir: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    for (name, tensor) in tensors {
        if !all_finite(tensor)? {
            return Err(Error::new(
                Code::NotFinite,
                format!(
                    "{}: weight {name} holds values that are not finite",
                    dir.display()
                ),
                "the training that wrote it went wrong: take an earlier checkpoint, and a lower \
                 learning rate",
            )
            .with("file", dir.display().to_string())
            .with("field", name));
        }
    }
    Ok(())
}

/// The safetensors file, or the shards that the index names.
pub(crate) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(WEIGHTS);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let (what, help) = if pickled.iter().any(|name| dir.join(name).exists()) {
            (
                "the weights are a Python pickle (pytorch_model.bin), which is not read here",
                "write them as safetensors, in Python: T5ForConditionalGeneration\
                 .from_pretrained(DIR).save_pretrained(OUT)",
            )
        } else {
            (
                "model.safetensors is missing",
                "give a folder with the model's weights",
            )
        };
        return Err(invalid(dir, what, help));
    }
    let help = "the index is broken; fetch the folder again";
    let value = read_json(&index)?;
    let map = value["weight_map"]
        .as_object()
        .ok_or_else(|| invalid(&index, "weight_map is missing", help))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for file in map.values() {
        let name = file.as_str().unwrap_or_default();
        if name.is_empty() || name.contains(['/', '\\']) {
            return Err(invalid(
                &index,
                format!("{file} is not a file beside it"),
                help,
            ));
        }
        files.push(require(
            dir,
            name,
            "a shard is missing; fetch the folder again",
        )?);
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// How a model folder is written.
#[derive(Debug, Clone, Copy)]
pub struct SaveOptions {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// The most bytes of weights in one file; more go to numbered shards with an index.
    pub max_shard_bytes: u64,
}

impl Default for SaveOptions {
    /// f32, and shards of 5 GB as transformers once wrote them.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            max_shard_bytes: 5_000_000_000,
        }
    }
}

impl SaveOptions {
    /// With the given precision: `f32`, `f16` or `bf16`.
    pub fn with_dtype(dtype: &str) -> Result<Self> {
        let dtype = match dtype {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            other => {
                return Err(Error::new(
                    Code::Usage,
                    format!("{other} is no precision that weights are written in"),
                    "use f32, f16 or bf16",
                )
                .with("field", "dtype"));
            }
        };
        Ok(Self {
            dtype,
            ..Self::default()
        })
    }
}

/// Writes a model folder that `transformers` loads as it is. `dir` is a folder that the caller
/// commits whole; an adapter's weights are left out.
pub fn save_model(
    dir: &Path,
    config: &Config,
    parameters: &Parameters,
    options: SaveOptions,
) -> Result<()> {
    let mut value = serde_json::to_value(config).map_err(Error::internal)?;
    if let Value::Object(fields) = &mut value {
        for (name, field) in [
            ("architectures", json!(["T5ForConditionalGeneration"])),
            ("model_type", json!("t5")),
            ("torch_dtype", json!(torch_name(options.dtype))),
            ("is_encoder_decoder", json!(true)),
            ("use_cache", json!(true)),
        ] {
            fields.insert(name.to_owned(), field);
        }
    }
    write_json(&dir.join("config.json"), &value)?;
    // The limit is ours as well: without it transformers would stop after 20 tokens.
    let generation = json!({
        "decoder_start_token_id": config.decoder_start_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "max_new_tokens": 320,
    });
    write_json(&dir.join("generation_config.json"), &generation)?;
    let mut shards: Vec<BTreeMap<String, Tensor>> = vec![BTreeMap::new()];
    let (mut filled, mut total) = (0, 0);
    for (name, var) in parameters.iter().filter(|(name, _)| !is_adapter(name)) {
        let size = (var.elem_count() * options.dtype.size_in_bytes()) as u64;
        if filled > 0 && filled + size > options.max_shard_bytes {
            shards.push(BTreeMap::new());
            filled = 0;
        }
        filled += size;
        total += size;
        if let Some(shard) = shards.last_mut() {
            shard.insert(name.to_owned(), var.as_tensor().clone());
        }
    }
    let count = shards.len();
    let mut map = serde_json::Map::new();
    for (number, shard) in shards.into_iter().enumerate() {
        let file = if count == 1 {
            WEIGHTS.to_owned()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", number + 1)
        };
        let mut rounded = BTreeMap::new();
        for (name, tensor) in shard {
            let tensor = tensor.to_dtype(options.dtype).map_err(Error::internal)?;
            map.insert(name.clone(), json!(file));
            rounded.insert(name, tensor);
        }
        // A value beyond f16's range would be infinite in the file.
        require_finite(dir, rounded.iter().map(|(name, t)| (name.as_str(), t)))?;
        write_safetensors(&dir.join(&file), &rounded)?;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_json(&dir.join(INDEX), &index)?;
    }
    Ok(())
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}
