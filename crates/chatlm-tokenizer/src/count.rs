//! From texts to counted words, on all threads.

use std::path::Path;

use chatlm_job::{Code, Error, Job, Result};
use rayon::prelude::*;

use crate::ahead::ahead;
use crate::bpe::{Batch, Counter, Words};
use crate::memory::Memory;
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
    cutter: &Cutter<'_>,
    memory: &Memory,
    folder: &Path,
    job: &Job,
) -> Result<Counted> {
    let mut counter = Counter::new(&folder.join("words"), memory.bytes() / 2);
    let mut seen = 0;
    let weight = |text: &String| text.len() + size_of::<String>();
    ahead(texts, weight, BATCH, |batch| {
        job.cancel.check()?;
        let pieces: Vec<&str> = batch
            .iter()
            .flat_map(|text| cutter.stretches(text))
            .collect();
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
        return Err(no_text());
    }
    Ok(Counted {
        words: Words::Counted(counter),
        alphabet: cutter.alphabet(),
        texts: seen,
    })
}

pub(crate) fn no_text() -> Error {
    Error::new(
        Code::InputFormat,
        "there is no text to train a tokenizer on",
        "check the input: its text columns are empty, or it has none",
    )
}
