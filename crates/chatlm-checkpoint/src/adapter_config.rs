//! `adapter_config.json` as PEFT has it: what of it is understood, what is harmless, and what changes
//! the mathematics and is refused by name.

use std::path::Path;

use chatlm_job::{Error, Result};
use chatlm_t5::{LoraBias, LoraConfig, LoraInit, Names};
use serde_json::{Map, Value, json};

use crate::model::{invalid, read_json};

/// Settings that make another model of the same weights, or weights that are not read here.
const REFUSED: [&str; 15] = [
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "velora_config",
    "loftq_config",
];

/// Initializations that change the base weights, so that the adapter does not fit the plain base.
const CHANGED_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

fn whole(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn names(names: &Names) -> Value {
    match names {
        Names::Pattern(pattern) => json!(pattern),
        Names::List(list) => json!(list),
    }
}

/// What PEFT 0.13 and later load: keys that older ones do not know stay out.
pub(crate) fn to_peft(lora: &LoraConfig, base: &str) -> Value {
    let mut config = json!({
        "alpha_pattern": lora.alpha_pattern,
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": lora.bias,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": lora.init_lora_weights,
        "layers_pattern": lora.layers_pattern.as_ref().map(names),
        "layers_to_transform": lora.layers_to_transform,
        "lora_alpha": whole(lora.alpha),
        "lora_dropout": lora.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": lora.rank_pattern,
        "revision": null,
        "target_modules": names(&lora.targets),
        "task_type": "SEQ_2_SEQ_LM",
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
    });
    // PEFT 0.14 brought it; older ones refuse a key that they do not know.
    if !lora.exclude_modules.is_empty() {
        config["exclude_modules"] = names(&lora.exclude_modules);
    }
    config
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn read_names(value: &Value) -> Names {
    match value {
        Value::String(pattern) => Names::Pattern(pattern.clone()),
        Value::Array(list) => Names::List(
            list.iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
        ),
        _ => Names::default(),
    }
}

fn read_map(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// Reads the file; keys of newer PEFTs that say nothing here are passed over.
pub(crate) fn from_peft(path: &Path) -> Result<LoraConfig> {
    let value = read_json(path)?;
    let refuse = |field: &str, what: String| -> Error {
        let help = "LoRA, rsLoRA and DoRA adapters of linear layers can be used";
        invalid(path, what, help).with("field", field)
    };
    let kind = value["peft_type"].as_str().unwrap_or_default();
    if kind != "LORA" {
        return Err(refuse(
            "peft_type",
            format!("peft_type is {kind}, not LORA"),
        ));
    }
    for name in REFUSED {
        if says_something(&value[name]) {
            let what = format!("{name} is set, which changes what the adapter's weights mean");
            return Err(refuse(name, what));
        }
    }
    let init = &value["init_lora_weights"];
    if let Some(name) = init.as_str()
        && CHANGED_BASE.iter().any(|changed| name.starts_with(changed))
    {
        let what = format!(
            "init_lora_weights is {name}: the adapter belongs to a base whose weights were changed"
        );
        return Err(refuse("init_lora_weights", what));
    }
    let Some(r) = value["r"].as_u64().filter(|&r| r > 0) else {
        return Err(refuse("r", "r is missing".to_owned()));
    };
    let Some(alpha) = value["lora_alpha"].as_f64() else {
        return Err(refuse("lora_alpha", "lora_alpha is missing".to_owned()));
    };
    let bias = match value["bias"].as_str() {
        None | Some("none") => LoraBias::None,
        Some("lora_only") => LoraBias::LoraOnly,
        Some("all") => LoraBias::All,
        Some(other) => return Err(refuse("bias", format!("bias is {other}"))),
    };
    let layers = match &value["layers_to_transform"] {
        Value::Number(one) => one.as_u64().map(|one| vec![one as usize]),
        Value::Array(many) => Some(
            many.iter()
                .filter_map(|one| one.as_u64().map(|one| one as usize))
                .collect(),
        ),
        _ => None,
    };
    Ok(LoraConfig {
        r: r as usize,
        alpha,
        dropout: value["lora_dropout"].as_f64().unwrap_or(0.0),
        targets: read_names(&value["target_modules"]),
        bias,
        exclude_modules: read_names(&value["exclude_modules"]),
        layers_to_transform: layers,
        layers_pattern: says_something(&value["layers_pattern"])
            .then(|| read_names(&value["layers_pattern"])),
        rank_pattern: read_map(&value["rank_pattern"]),
        alpha_pattern: read_map(&value["alpha_pattern"]),
        use_rslora: value["use_rslora"] == json!(true),
        use_dora: value["use_dora"] == json!(true),
        // How a trained adapter began does not matter any more.
        init_lora_weights: LoraInit::try_from(init.clone()).unwrap_or_default(),
    })
}
