//! Adapter folders as PEFT writes and reads them, and merging an adapter into its base.
//!
//! Names and configuration follow PEFT's `LoraConfig` (task type `SEQ_2_SEQ_LM`). With `bias: all`
//! the relative attention biases are kept too, under PEFT's names: PEFT up to 0.17 trains and
//! writes them, newer ones still load them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use chatlm_job::{Code, Error, Result};
use chatlm_t5::{Config, LoraBias, LoraConfig, MAGNITUDE, Names, Parameters, is_adapter};

use crate::adapter_config::{from_peft, to_peft};
use crate::model::{invalid, require, require_finite, write_json};
use crate::tensors::{read_safetensors, write_safetensors};

const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";
const HELP: &str = "give an adapter folder as PEFT or chatlm writes it";

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `dir`, a folder that the
/// caller commits whole. `base` is the base model's folder, as PEFT notes it.
pub fn save_adapter(
    dir: &Path,
    lora: &LoraConfig,
    parameters: &Parameters,
    base: &str,
) -> Result<()> {
    write_json(&dir.join("adapter_config.json"), &to_peft(lora, base))?;
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
    let mut lora = from_peft(&path)?;
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
        let inner = name.strip_prefix(PREFIX).unwrap_or(&name);
        // Some versions of PEFT wrote the magnitudes' place in memory into the name.
        let inner = match inner.strip_suffix(".weight") {
            Some(short) if short.ends_with(MAGNITUDE) => short.to_owned(),
            _ => inner.to_owned(),
        };
        ours.insert(inner, tensor);
    }
    let outside = ["lora_embedding_", "lm_head.", "shared.", "embed_tokens."];
    if let Some(name) = ours
        .keys()
        .find(|name| outside.iter().any(|part| name.contains(part)))
    {
        let what = format!("{name} changes the embedding or the output projection");
        let help = "adapters of linear layers can be used; in PEFT, merge_and_unload() and save the model whole";
        return Err(invalid(&file, what, help).with("field", name.as_str()));
    }
    name_targets(&mut lora, config, ours.keys().map(String::as_str), &file)?;
    for (module, input, output) in lora.modules(config)? {
        let r = lora.rank(&module)?;
        let mut parts = vec![
            (format!("{module}.lora_A.weight"), vec![r, input]),
            (format!("{module}.lora_B.weight"), vec![output, r]),
        ];
        if lora.use_dora {
            parts.push((format!("{module}.{MAGNITUDE}"), vec![output]));
        }
        for (name, shape) in parts {
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
        lora.targets = Names::List(there);
        lora.exclude_modules = Names::default();
        lora.layers_to_transform = None;
        lora.layers_pattern = None;
    }
    lora.modules(config).map(drop).map_err(|error| {
        invalid(
            file,
            error.message(),
            "the adapter belongs to another base model",
        )
    })
}

/// Puts every adapter into its weight, `W + B·A·scaling` (DoRA: with its rows' lengths), and removes
/// it. Answers how many.
pub fn merge(parameters: &mut Parameters, lora: &LoraConfig) -> Result<usize> {
    let modules: Vec<String> = parameters
        .iter()
        .filter_map(|(name, _)| name.strip_suffix(".lora_A.weight").map(str::to_owned))
        .collect();
    for module in &modules {
        let name = format!("{module}.weight");
        let weight = parameters
            .get(&name)
            .ok_or_else(|| Error::internal(format!("the weight {name} is missing")))?
            .as_detached_tensor();
        let merged = lora
            .merged(module, &weight, parameters)?
            .ok_or_else(|| Error::internal(format!("{module} has half an adapter")))?;
        parameters.insert(name, Var::from_tensor(&merged).map_err(Error::internal)?);
    }
    remove(parameters);
    Ok(modules.len())
}

/// Takes what `merge` added off again, `W − B·A·scaling`. A DoRA adapter cannot be taken off: of the
/// rows' lengths before it nothing is left.
pub fn unmerge(parameters: &mut Parameters, lora: &LoraConfig) -> Result<usize> {
    if lora.use_dora {
        return Err(Error::new(
            Code::Usage,
            "a merged DoRA adapter cannot be taken off: the lengths of the rows before it are lost",
            "keep the base model's folder",
        ));
    }
    if lora.bias == LoraBias::All {
        return Err(Error::new(
            Code::Usage,
            "an adapter with bias \"all\" cannot be taken off: the base's biases were replaced",
            "keep the base model's folder",
        ));
    }
    let mut negative = lora.clone();
    negative.scale(-1.0);
    merge(parameters, &negative)
}

/// Drops the adapter's weights.
pub fn remove(parameters: &mut Parameters) {
    let names: Vec<String> = parameters
        .iter()
        .filter(|(name, _)| is_adapter(name))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in &names {
        parameters.remove(name);
    }
}
