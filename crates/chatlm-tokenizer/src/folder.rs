//! Writing tokenizer folders: `tokenizer.json`, and the two files beside it that `transformers` reads.

use std::fs;
use std::path::Path;

use chatlm_job::{AtomicDir, Code, Error, Result};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::tokenizer::{CONFIG, SPECIAL_MAP, TOKENIZER};

/// The roles of special tokens, as `transformers` calls them.
pub(crate) const ROLES: [(&str, &str); 7] = [
    ("pad_token", "[PAD]"),
    ("eos_token", "[EOS]"),
    ("sep_token", "[SEP]"),
    ("bos_token", "[BOS]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
    ("unk_token", "[UNK]"),
];

/// The files beside `tokenizer.json`.
pub(crate) struct Beside {
    pub(crate) config: Vec<u8>,
    pub(crate) special: Vec<u8>,
}

impl Beside {
    /// What a folder has, for a `tokenizer.json` with other ids.
    pub(crate) fn of(files: &[(&str, Vec<u8>)]) -> Result<Self> {
        let read = |name: &str| -> Result<Map<String, Value>> {
            let Some((_, bytes)) = files.iter().find(|(known, _)| *known == name) else {
                return serde_json::from_slice(&config_json(&[])?).map_err(Error::internal);
            };
            serde_json::from_slice(bytes).map_err(|e| {
                Error::new(
                    Code::TokenizerInvalid,
                    format!("{name} is not a JSON object: {e}"),
                    "the file is broken; fetch or write the folder again",
                )
            })
        };
        let mut config = read(CONFIG)?;
        // Ids of added tokens, which tokenizer.json tells too.
        config.shift_remove("added_tokens_decoder");
        let mut special = read(SPECIAL_MAP)?;
        special.retain(|name, _| name.ends_with("_token") || name.ends_with("_tokens"));
        let bytes =
            |map: Map<String, Value>| serde_json::to_vec_pretty(&map).map_err(Error::internal);
        Ok(Self {
            config: bytes(config)?,
            special: bytes(special)?,
        })
    }

    pub(crate) fn roles(roles: &[(&str, &str)]) -> Result<Self> {
        Ok(Self {
            config: config_json(roles)?,
            special: special_map_json(roles)?,
        })
    }
}

/// Writes the folder whole or not at all; the number of merges.
pub(crate) fn write(
    tokenizer: &Tokenizer,
    beside: &Beside,
    out: &Path,
    force: bool,
) -> Result<u64> {
    let dir = AtomicDir::create(out, force)?;
    let merges = write_into(tokenizer, beside, dir.path())?;
    dir.commit()?;
    Ok(merges)
}

/// Writes the files into a folder; the number of merges.
pub(crate) fn write_into(tokenizer: &Tokenizer, beside: &Beside, dir: &Path) -> Result<u64> {
    let json = tokenizer.to_string(false).map_err(Error::internal)?;
    let parsed: Value = serde_json::from_str(&json).map_err(Error::internal)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(|e| Error::io(&e, "write", &path))
    };
    write(TOKENIZER, json.as_bytes())?;
    write(CONFIG, &beside.config)?;
    write(SPECIAL_MAP, &beside.special)?;
    Ok(parsed["model"]["merges"].as_array().map_or(0, Vec::len) as u64)
}

/// `tokenizer_config.json` for tokens in roles.
pub(crate) fn config_json(roles: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut config = Map::new();
    config.insert(
        "tokenizer_class".to_owned(),
        json!("PreTrainedTokenizerFast"),
    );
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    // transformers' own way to say "no limit".
    config.insert("model_max_length".to_owned(), json!(1e30));
    for (role, token) in roles {
        config.insert((*role).to_owned(), json!(token));
    }
    serde_json::to_vec_pretty(&config).map_err(Error::internal)
}

/// `special_tokens_map.json` for tokens in roles.
pub(crate) fn special_map_json(roles: &[(&str, &str)]) -> Result<Vec<u8>> {
    let map: Map<String, Value> = roles
        .iter()
        .map(|(role, token)| ((*role).to_owned(), json!(token)))
        .collect();
    serde_json::to_vec_pretty(&map).map_err(Error::internal)
}
