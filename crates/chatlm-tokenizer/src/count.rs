//! From texts to counted words, on all threads.

use std::path::Path;

use chatlm_job::{Code, Error, Job, Result};
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::ahead::ahead;
use crate::bpe::{Batch, Counter, Words, byte_characters};
use crate::memory::Memory;
use crate::preset::{Preset, SPECIAL_TOKENS};
use crate::words::Cutter;

/// Bytes of text cut into words together.
const BATCH: usize = 4 << 20;

pub(crate) struct Counted {
    pub(crate) words: Words,
    /// All characters of the words, sorted.
    pub(crate) alphabet: Vec<char>,
    pub(crate) texts: u64,
}

/// Counts the words of all texts, cut at special tokens. Words that do not fit the memory go to `folder`.
pub(crate) fn count(
    texts: impl Iterator<Item = Result<String>> + Send,
    preset: Preset,
    tokenizer: &Tokenizer,
    memory: &Memory,
    folder: &Path,
    job: &Job,
) -> Result<Counted> {
    let mut counter = Counter::new(&folder.join("words"), memory.bytes() / 2);
    let cutter = Cutter::new(preset, tokenizer);
    let mut seen = 0;
    let weight = |text: &String| text.len() + size_of::<String>();
    ahead(texts, weight, BATCH, |batch| {
        job.cancel.check()?;
        let pieces: Vec<&str> = batch.iter().flat_map(|text| pieces(text)).collect();
        let share = pieces
            .len()
            .div_ceil(4 * rayon::current_num_threads())
            .max(1);
        let counted: Vec<Batch> = pieces
            .par_chunks(share)
            .map(|texts| {
                let mut batch = Batch::new();
                for text in texts {
                    cutter.cut(text, &mut batch)?;
                }
                Ok(batch)
            })
            .collect::<Result<_>>()?;
        counter.add(&counted)?;
        seen += batch.len() as u64;
        job.progress.report("count", seen, None, "texts");
        Ok(())
    })?;
    if seen == 0 {
        return Err(Error::new(
            Code::InputFormat,
            "there is no text to train a tokenizer on",
            "check the input: its text columns are empty, or it has none",
        ));
    }
    let alphabet = match preset {
        Preset::CharBpe => cutter.alphabet(),
        Preset::ByteBpe => {
            let mut shown = byte_characters().to_vec();
            shown.sort_unstable();
            shown
        }
    };
    Ok(Counted {
        words: Words::Counted(counter),
        alphabet,
        texts: seen,
    })
}

/// The stretches of a text between special tokens.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = vec![text];
    // All of them begin alike, and few texts hold that.
    if text.contains('[') {
        for token in SPECIAL_TOKENS {
            if pieces.iter().any(|piece| piece.contains(token)) {
                pieces = pieces.iter().flat_map(|piece| piece.split(token)).collect();
            }
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
