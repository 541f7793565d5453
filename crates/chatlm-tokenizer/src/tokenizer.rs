//! A tokenizer folder, loaded: text to ids and back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use chatlm_job::{Code, Error, Result, sha256_bytes};
use rayon::prelude::*;
use serde_json::Value;

use crate::direct::Direct;
use crate::folder::{config_json, special_map_json};
use crate::stream::DecodeStream;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const CONFIG: &str = "tokenizer_config.json";
pub(crate) const SPECIAL_MAP: &str = "special_tokens_map.json";

/// A loaded tokenizer; clones share it, and any number of threads may use it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    tokenizer: tokenizers::Tokenizer,
    vocab_size: usize,
    pad: u32,
    eos: u32,
    hash: String,
    /// The files of the folder by name, for [`Tokenizer::copy_to`].
    files: Vec<(&'static str, Vec<u8>)>,
    /// Bytes encoded so far, up to the point where `direct` is made.
    encoded: AtomicUsize,
    direct: OnceLock<Option<Direct>>,
}

/// Bytes of text after which a faster encoder is worth making; a short conversation starts without.
const WORTH_IT: usize = 1 << 14;

pub(crate) fn invalid(folder: &Path, what: &str) -> Error {
    Error::new(
        Code::TokenizerInvalid,
        format!("{}: {what}", folder.display()),
        "give a folder with tokenizer.json, as chatlm tokenizer train or transformers write it",
    )
    .with("file", folder.display().to_string())
}

/// The files of a folder by name, `tokenizer.json` first.
pub(crate) fn read(dir: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = Vec::new();
    for name in [TOKENIZER, CONFIG, SPECIAL_MAP] {
        let path = dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => files.push((name, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !dir.is_dir() {
                    return Err(invalid(dir, "there is no such folder"));
                }
                if name == TOKENIZER {
                    return Err(invalid(dir, "tokenizer.json is missing"));
                }
            }
            Err(error) => return Err(Error::io(&error, "read", &path)),
        }
    }
    Ok(files)
}

/// `tokenizer.json` of a folder, as the tokenizers crate reads it.
pub(crate) fn parse(dir: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(bytes)
        .map_err(|e| invalid(dir, &format!("tokenizer.json cannot be read: {e}")))
}

impl Tokenizer {
    /// Loads a folder with `tokenizer.json`; the other files are taken where they are there.
    pub fn load(dir: &Path) -> Result<Self> {
        let files = read(dir)?;
        let bytes = &files[0].1;
        let mut tokenizer = parse(dir, bytes)?;
        // Cutting and padding are the loader's business; a folder may have them switched on.
        tokenizer
            .with_truncation(None)
            .map_err(|e| invalid(dir, &format!("tokenizer.json cannot be used: {e}")))?
            .with_padding(None);
        let configured = files
            .iter()
            .find(|(name, _)| *name == CONFIG)
            .map(|(_, bytes)| {
                serde_json::from_slice::<Value>(bytes)
                    .map_err(|e| invalid(dir, &format!("{CONFIG} is not JSON: {e}")))
            });
        let configured = configured.transpose()?.unwrap_or_default();
        let special = |key: &str, names: [&str; 2]| {
            let token = &configured[key];
            let token = token["content"].as_str().or(token.as_str());
            token
                .into_iter()
                .chain(names)
                .find_map(|name| tokenizer.token_to_id(name))
                .ok_or_else(|| {
                    invalid(
                        dir,
                        &format!("it has no {} or {} token", names[0], names[1]),
                    )
                })
        };
        let (pad, eos) = (
            special("pad_token", ["[PAD]", "<pad>"])?,
            special("eos_token", ["[EOS]", "</s>"])?,
        );
        let last = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .unwrap_or_default() as usize;
        Ok(Self(Arc::new(Inner {
            folder: dir.to_owned(),
            vocab_size: tokenizer.get_vocab_size(true).max(last + 1),
            hash: sha256_bytes(bytes),
            tokenizer,
            pad,
            eos,
            files,
            encoded: AtomicUsize::new(0),
            direct: OnceLock::new(),
        })))
    }

    /// The ids of a text; nothing is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_up_to(text, usize::MAX)
    }

    /// The first ids of a text, `longest` at most.
    pub fn encode_up_to(&self, text: &str, longest: usize) -> Result<Vec<u32>> {
        let direct = self.direct(text.len());
        if let Some(ids) = direct.and_then(|direct| direct.encode(text, longest)) {
            return Ok(ids);
        }
        let encoding = self
            .0
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| invalid(&self.0.folder, &format!("a text cannot be encoded: {e}")))?;
        let ids = encoding.get_ids();
        Ok(ids[..ids.len().min(longest)].to_vec())
    }

    /// The faster encoder, once it is worth it and where it knows the tokenizer's parts.
    fn direct(&self, bytes: usize) -> Option<&Direct> {
        let inner = &self.0;
        if inner.direct.get().is_none()
            && inner
                .encoded
                .fetch_add(bytes, Ordering::Relaxed)
                .saturating_add(bytes)
                < WORTH_IT
        {
            return None;
        }
        inner
            .direct
            .get_or_init(|| Direct::new(&inner.files[0].1))
            .as_ref()
    }

    /// The ids of many texts, in parallel.
    pub fn encode_batch(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The tokens of ids as the vocabulary spells them; an empty one for an id it lacks.
    pub fn tokens(&self, ids: &[u32]) -> Vec<String> {
        ids.iter()
            .map(|id| self.0.tokenizer.id_to_token(*id).unwrap_or_default())
            .collect()
    }

    /// The text of ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.0
            .tokenizer
            .decode(ids, true)
            .map_err(|e| invalid(&self.0.folder, &format!("ids cannot be decoded: {e}")))
    }

    /// The tokenizers crate's own, which has its parts.
    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.0.tokenizer
    }

    /// Where it was loaded from.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Decodes ids as they come.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone())
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    pub fn pad_id(&self) -> u32 {
        self.0.pad
    }

    pub fn eos_id(&self) -> u32 {
        self.0.eos
    }

    /// Writes the three files into an existing folder, as they were when loaded.
    pub fn copy_to(&self, dir: &Path) -> Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).map_err(|e| Error::io(&e, "write", &path))
        };
        for name in [TOKENIZER, CONFIG, SPECIAL_MAP] {
            if let Some((_, bytes)) = self.0.files.iter().find(|(known, _)| *known == name) {
                write(name, bytes)?;
            } else {
                let text = |id: u32| self.0.tokenizer.id_to_token(id).unwrap_or_default();
                let (pad, eos) = (text(self.0.pad), text(self.0.eos));
                let roles = [("pad_token", pad.as_str()), ("eos_token", eos.as_str())];
                let json = if name == CONFIG {
                    config_json(&roles)
                } else {
                    special_map_json(&roles)
                };
                write(name, &json?)?;
            }
        }
        Ok(())
    }

    /// SHA-256 of `tokenizer.json`.
    pub fn hash(&self) -> String {
        self.0.hash.clone()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Tokenizer({})", self.0.folder.display())
    }
}
