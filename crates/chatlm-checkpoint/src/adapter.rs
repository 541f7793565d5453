//! Adapter folders as PEFT writes and reads them, and merging an adapter into its base.
//!
//! Names and configuration follow PEFT's `LoraConfig` (task type `SEQ_2_SEQ_LM`). With `bias: all`
//! the relative attention biases are kept too, under PEFT's names: PEFT up to 0.17 trains and
//! writes them, newer ones still load them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use chatlm_job::{Code, Error, Result};
use chatlm_t5::{Config, LoraBias, LoraConfig, Parameters};
use serde_json::{Value, json};

use crate::model::{invalid, read_json, require, require_finite, write_json};
use crate::tensors::{read_safetensors, write_safetensors};

const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";
const HELP: &str = "give an adapter folder as PEFT or chatlm writes it";

/// Whether a name is one of an adapter's weights.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.contains(".lora_A.") || name.contains(".lora_B.")
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `dir`, a folder that the
/// caller commits whole. `base` is the base model's folder, as PEFT notes it.
pub fn save_adapter(
    dir: &Path,
    lora: &LoraConfig,
    parameters: &Parameters,
    base: &str,
) -> Result<()> {
    let alpha = if lora.alpha.fract() == 0.0 {
        json!(lora.alpha as i64)
    } else {
        json!(lora.alpha)
    };
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": match lora.bias { LoraBias::None => "none", LoraBias::All => "all" },
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {},
        "revision": null,
        "target_modules": lora.targets,
        "task_type": "SEQ_2_SEQ_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    write_json(&dir.join("adapter_config.json"), &config)?;
    let tensors: BTreeMap<String, Tensor> = parameters
        .iter()
        .filter(|(name, _)| lora.trains(name))
        .map(|(name, var)| (format!("{PREFIX}{name}"), var.as_tensor().clone()))
        .collect();
    write_safetensors(&dir.join(WEIGHTS), &tensors)
}

/// Reads an adapter folder into `parameters`, beside the base model's weights.
pub fn load_adapter(
    dir: &Path,
    config: &Config,
    parameters: &mut Parameters,
) -> Result<LoraConfig> {
    let path = require(dir, "adapter_config.json", HELP)?;
    let mut lora = read_config(&path)?;
    let file = dir.join(WEIGHTS);
    if !file.exists() && dir.join("adapter_model.bin").exists() {
        return Err(invalid(
            dir,
            "the adapter is a Python pickle (adapter_model.bin), which is not read here",
            "save it again with a current PEFT: save_pretrained(DIR, safe_serialization=True)",
        ));
    }
    let file = require(dir, WEIGHTS, HELP).map(|_| file)?;
    let device = parameters
        .iter()
        .next()
        .map_or(candle_core::Device::Cpu, |(_, v)| v.device().clone());
    let tensors = read_safetensors(&file, Code::ModelInvalid, &device)?;
    require_finite(
        dir,
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)),
    )?;

    let mut ours = BTreeMap::new();
    for (name, tensor) in tensors {
        let inner = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
        ours.insert(inner, tensor);
    }
    name_targets(&mut lora, config, ours.keys().map(String::as_str), &file)?;
    for (module, input, output) in lora.modules(config)? {
        for (part, shape) in [("lora_A", [lora.r, input]), ("lora_B", [output, lora.r])] {
            let name = format!("{module}.{part}.weight");
            let tensor = ours.remove(&name).ok_or_else(|| {
                invalid(&file, format!("{name} is missing"), HELP).with("field", name.as_str())
            })?;
            insert(parameters, name, &tensor, &shape, &file)?;
        }
    }
    for (name, tensor) in ours {
        // What `bias: all` trains; anything else would change the base in ways not understood here.
        let Some(shape) = parameters.get(&name).filter(|_| name.contains("bias")) else {
            let what = format!("{name} is no weight of a LoRA adapter for this model");
            return Err(invalid(&file, what, HELP).with("field", name));
        };
        let shape = shape.dims().to_vec();
        insert(parameters, name, &tensor, &shape, &file)?;
    }
    Ok(lora)
}

fn insert(
    parameters: &mut Parameters,
    name: String,
    tensor: &Tensor,
    shape: &[usize],
    file: &Path,
) -> Result<()> {
    if tensor.dims() != shape {
        let what = format!("{name} has shape {:?}, not {shape:?}", tensor.dims());
        return Err(
            invalid(file, what, "the adapter belongs to another base model").with("field", name),
        );
    }
    let var = tensor
        .to_dtype(DType::F32)
        .and_then(|tensor| Var::from_tensor(&tensor))
        .map_err(Error::internal)?;
    parameters.insert(name, var);
    Ok(())
}

fn read_config(path: &Path) -> Result<LoraConfig> {
    let value = read_json(path)?;
    let refuse = |what: String| Err(invalid(path, what, "only plain LoRA adapters can be used"));
    let kind = value["peft_type"].as_str().unwrap_or_default();
    if kind != "LORA" {
        return refuse(format!("peft_type is {kind}, not LORA"));
    }
    for name in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"] {
        if value[name] == json!(true) {
            return refuse(format!("{name} is set"));
        }
    }
    for name in ["rank_pattern", "alpha_pattern"] {
        if value[name]
            .as_object()
            .is_some_and(|pattern| !pattern.is_empty())
        {
            return refuse(format!(
                "{name} is set: layers of different ranks are not read"
            ));
        }
    }
    let Some(r) = value["r"].as_u64().filter(|&r| r > 0) else {
        return refuse("r is missing".to_owned());
    };
    let Some(alpha) = value["lora_alpha"].as_f64() else {
        return refuse("lora_alpha is missing".to_owned());
    };
    let bias = match value["bias"].as_str() {
        // T5's linear layers have no bias, so "lora_only" adds nothing.
        None | Some("none" | "lora_only") => LoraBias::None,
        Some("all") => LoraBias::All,
        Some(other) => return refuse(format!("bias is {other}")),
    };
    let targets = match &value["target_modules"] {
        Value::Array(names) => names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        // A pattern; the weights' names say what it matched.
        _ => Vec::new(),
    };
    // Rank-stabilized scaling is alpha / sqrt(r).
    let stabilized = value["use_rslora"] == json!(true);
    let alpha = if stabilized {
        alpha * (r as f64).sqrt()
    } else {
        alpha
    };
    let dropout = value["lora_dropout"].as_f64().unwrap_or(0.0);
    Ok(LoraConfig {
        r: r as usize,
        alpha,
        dropout,
        targets,
        bias,
    })
}

/// Replaces targets that do not name exactly the layers in the file (a pattern, or layers that were
/// excluded) by the layers' whole names.
fn name_targets<'a>(
    lora: &mut LoraConfig,
    config: &Config,
    names: impl Iterator<Item = &'a str>,
    file: &Path,
) -> Result<()> {
    let mut there: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".lora_A.weight").map(str::to_owned))
        .collect();
    there.sort();
    if there.is_empty() {
        return Err(invalid(file, "there is no LoRA weight in it", HELP));
    }
    let named = lora.modules(config).map(|modules| {
        let mut names: Vec<String> = modules.into_iter().map(|(module, ..)| module).collect();
        names.sort();
        names
    });
    if named.ok().as_ref() != Some(&there) {
        lora.targets = there;
    }
    lora.modules(config).map(drop).map_err(|error| {
        invalid(
            file,
            error.message(),
            "the adapter belongs to another base model",
        )
    })
}

/// Adds every adapter to its weight, `W + B·A·alpha/r`, and removes it. Answers how many.
pub fn merge(parameters: &mut Parameters, lora: &LoraConfig) -> Result<usize> {
    let modules: Vec<String> = parameters
        .iter()
        .filter_map(|(name, _)| name.strip_suffix(".lora_A.weight").map(str::to_owned))
        .collect();
    for module in &modules {
        let mut take = |part: &str| {
            let name = format!("{module}.{part}.weight");
            parameters
                .remove(&name)
                .ok_or_else(|| Error::internal(format!("the weight {name} is missing")))
        };
        let (a, b) = (take("lora_A")?, take("lora_B")?);
        let name = format!("{module}.weight");
        let weight = parameters
            .get(&name)
            .ok_or_else(|| Error::internal(format!("the weight {name} is missing")))?;
        let merged = b
            .as_detached_tensor()
            .matmul(&a.as_detached_tensor())
            .and_then(|product| product * lora.scaling())
            .and_then(|product| weight.as_detached_tensor() + product)
            .and_then(|sum| Var::from_tensor(&sum))
            .map_err(Error::internal)?;
        parameters.insert(name, merged);
    }
    Ok(modules.len())
}
