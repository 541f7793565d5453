//! Decoding ids one by one: text goes out as soon as it is certain, and all pieces together are
//! what decoding at once gives.
//!
//! The method is that of the tokenizers crate's `DecodeStream`: a window of the last ids is decoded
//! with and without the new one, and what is new goes out unless it ends in an unfinished character.

use chatlm_job::Result;

use crate::tokenizer::Tokenizer;

/// What a decoder writes for bytes that are not (yet) a character.
const UNFINISHED: char = '\u{FFFD}';

/// A stream of ids being decoded.
#[derive(Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// The ids of the last piece, which give the next its context, and those since.
    window: Vec<u32>,
    /// How many ids at the start of the window are told already.
    told: usize,
    /// The text of the told ids.
    prefix: String,
}

impl DecodeStream {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            told: 0,
            prefix: String::new(),
        }
    }

    /// Takes an id; gives the text that is certain now.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        if text.ends_with(UNFINISHED) {
            return Ok(None);
        }
        let Some(new) = text
            .strip_prefix(&self.prefix)
            .filter(|new| !new.is_empty())
        else {
            return Ok(None);
        };
        let new = new.to_owned();
        self.window.drain(..self.told);
        self.told = self.window.len();
        self.prefix = self.tokenizer.decode(&self.window)?;
        Ok(Some(new))
    }

    /// What is left: an unfinished character comes as U+FFFD.
    pub fn finish(&mut self) -> Result<Option<String>> {
        let text = self.tokenizer.decode(&self.window)?;
        let new = text
            .strip_prefix(&self.prefix)
            .unwrap_or_default()
            .to_owned();
        *self = Self::new(self.tokenizer.clone());
        Ok((!new.is_empty()).then_some(new))
    }
}
