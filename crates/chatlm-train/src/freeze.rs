//! Which weights train.

use candle_core::Var;
use chatlm_job::{Code, Error, Result};
use chatlm_t5::{LoraConfig, Parameters};

/// Whether an entry of `freeze` means a weight: one of three words, or a part of its name.
fn means(entry: &str, name: &str) -> bool {
    match entry {
        "embedding" => name == "shared.weight",
        "encoder" => name.starts_with("encoder."),
        "decoder" => name.starts_with("decoder."),
        part => name.contains(part),
    }
}

/// The weights to train, in the order of their names: the adapter's where there is one, else all;
/// less what `freeze` names.
pub(crate) fn trainable(
    parameters: &Parameters,
    lora: Option<&LoraConfig>,
    freeze: &[String],
) -> Result<Vec<(String, Var)>> {
    let refuse = |what: String| {
        Err(Error::new(
            Code::ConfigInvalid,
            what,
            "freeze takes embedding, encoder, decoder, or a part of a weight's name",
        )
        .with("field", "freeze"))
    };
    for entry in freeze {
        if !parameters.iter().any(|(name, _)| means(entry, name)) {
            return refuse(format!(
                "freeze names {entry}, which is part of no weight's name"
            ));
        }
    }
    let found: Vec<(String, Var)> = parameters
        .iter()
        .filter(|(name, _)| lora.is_none_or(|lora| lora.trains(name)))
        .filter(|(name, _)| !freeze.iter().any(|entry| means(entry, name)))
        .map(|(name, var)| (name.to_owned(), var.clone()))
        .collect();
    if found.is_empty() {
        return refuse("everything is frozen, so there is nothing to train".to_owned());
    }
    Ok(found)
}
