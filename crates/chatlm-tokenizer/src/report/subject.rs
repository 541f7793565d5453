//! A tokenizer that a report is about: what it takes for unknown, and whether a text comes back.

use chatlm_job::{Error, Result};
use serde_json::Value;
use tokenizers::{DecoderWrapper, NormalizedString, Normalizer};

use super::script::Script;
use crate::tokenizer::Tokenizer;

pub(super) struct Subject {
    pub(super) tokenizer: Tokenizer,
    unknown: Option<u32>,
    /// Ids that stand for no text, such as `[EOS]`, and how texts spell them.
    special: Vec<(u32, String)>,
    /// Whether tokens spell bytes, which only decoding makes text.
    spells_bytes: bool,
}

/// What comes back of a text.
pub(super) enum Trip {
    Exact,
    /// The text as the tokenizer normalizes it, but for one space before it.
    Normalized,
    Failed {
        wanted: String,
        back: String,
    },
}

impl Subject {
    pub(super) fn new(tokenizer: Tokenizer) -> Result<Self> {
        let inner = tokenizer.inner();
        let model = serde_json::to_value(inner.get_model()).map_err(Error::internal)?;
        let unknown = match (&model["unk_token"], &model["unk_id"]) {
            (Value::String(token), _) => inner.token_to_id(token),
            (_, id) => id.as_u64().map(|id| id as u32),
        };
        let added = inner.get_added_tokens_decoder().into_iter();
        let mut special: Vec<(u32, String)> = added
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        if let Some(id) = unknown.filter(|id| special.iter().all(|(known, _)| known != id)) {
            special.push((id, String::new()));
        }
        special.sort_unstable();
        let spells_bytes = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        Ok(Self {
            tokenizer,
            unknown,
            special,
            spells_bytes,
        })
    }

    pub(super) fn is_unknown(&self, id: u32) -> bool {
        self.unknown == Some(id)
    }

    /// Whether the tokenizer lacks a character.
    pub(super) fn lacks(&self, c: char) -> Result<bool> {
        // Before it may come the mark of a word's start, which may be unknown itself.
        let ids = self.tokenizer.encode(c.encode_utf8(&mut [0; 4]))?;
        Ok(ids.last().is_some_and(|id| self.is_unknown(*id)))
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special
            .binary_search_by_key(&id, |(id, _)| *id)
            .is_ok()
    }

    pub(super) fn special(&self) -> impl Iterator<Item = u32> {
        self.special.iter().map(|(id, _)| *id)
    }

    /// Characters of a text that are spelled special tokens, which no other token has to hold.
    pub(super) fn spelled<'a>(&'a self, text: &'a str) -> impl Iterator<Item = char> + 'a {
        let spelled = self.special.iter().filter(|(_, token)| !token.is_empty());
        spelled.flat_map(|(_, token)| text.matches(token.as_str()).flat_map(str::chars))
    }

    /// What a token is the text of, as far as it is one.
    pub(super) fn text(&self, id: u32) -> Result<String> {
        if self.spells_bytes {
            return self
                .tokenizer
                .inner()
                .decode(&[id], false)
                .map_err(Error::internal);
        }
        Ok(self.tokenizer.inner().id_to_token(id).unwrap_or_default())
    }

    pub(super) fn script(&self, id: u32) -> Result<Script> {
        Ok(Script::of_token(&self.text(id)?))
    }

    pub(super) fn round_trip(&self, text: &str, ids: &[u32]) -> Result<Trip> {
        // Special tokens that the text spells come back as they are spelled.
        let back = self
            .tokenizer
            .inner()
            .decode(ids, false)
            .map_err(Error::internal)?;
        if back == text {
            return Ok(Trip::Exact);
        }
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.tokenizer.inner().get_normalizer() {
            normalizer
                .normalize(&mut normalized)
                .map_err(Error::internal)?;
        }
        let wanted = normalized.get();
        if back == wanted || wanted.strip_prefix(' ') == Some(back.as_str()) {
            return Ok(Trip::Normalized);
        }
        Ok(Trip::Failed {
            wanted: wanted.to_owned(),
            back,
        })
    }
}
