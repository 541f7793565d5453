//! More tokens in an existing vocabulary: whole words that the pipeline no longer cuts.

use std::path::Path;

use chatlm_job::{Code, Error, Result};
use tokenizers::AddedToken;

use crate::folder::{Beside, write_into};
use crate::tokenizer::{Tokenizer, parse, read};

/// A folder's tokenizer with more tokens, not written yet.
pub struct Extended {
    tokenizer: tokenizers::Tokenizer,
    beside: Beside,
    /// The ids that the old tokenizer gave to the text of each new token, in the order of the new ids.
    pub pieces: Vec<Vec<u32>>,
    /// Ids are smaller than this.
    pub vocab_size: usize,
}

impl Extended {
    /// Adds tokens after all others; those that the vocabulary has, and empty ones, are left out.
    pub fn new(dir: &Path, tokens: &[String]) -> Result<Self> {
        let old = Tokenizer::load(dir)?;
        let files = read(dir)?;
        let mut tokenizer = parse(dir, &files[0].1)?;
        let mut pieces = Vec::new();
        for token in tokens {
            if token.is_empty() || tokenizer.token_to_id(token).is_some() {
                continue;
            }
            pieces.push(old.encode(token)?);
            let added = AddedToken::from(token.as_str(), false).normalized(false);
            tokenizer.add_tokens([added]).map_err(Error::internal)?;
            let id = tokenizer.token_to_id(token).map(|id| id as usize);
            // Ids with gaps before them would leave rows of the embeddings to no token.
            if id != Some(old.vocab_size() + pieces.len() - 1) {
                return Err(Error::new(
                    Code::TokenizerInvalid,
                    format!("{}: the ids of its vocabulary have gaps", dir.display()),
                    "new tokens would get ids that others have; train it anew",
                ));
            }
        }
        if pieces.is_empty() {
            return Err(Error::new(
                Code::InputFormat,
                "there is no new token to add",
                "the vocabulary has all of them already, or the file is empty",
            ));
        }
        Ok(Self {
            vocab_size: old.vocab_size() + pieces.len(),
            beside: Beside::of(&files)?,
            tokenizer,
            pieces,
        })
    }

    /// Writes the three files into an existing folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_into(&self.tokenizer, &self.beside, dir).map(drop)
    }
}
