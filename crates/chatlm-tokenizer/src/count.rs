//! From texts to counted words: reading runs ahead on a thread of its own, cutting and counting use all
//! threads.

use std::path::Path;
use std::sync::mpsc::sync_channel;

use chatlm_job::{Code, Error, Job, Result};
use rayon::prelude::*;

use crate::bpe::{Batch, Counter};
use crate::memory::Memory;
use crate::words::Words;

/// Bytes of text cut into words together.
const BATCH: usize = 4 << 20;

pub(crate) struct Counted {
    pub(crate) counter: Counter,
    /// All characters of the words, sorted.
    pub(crate) alphabet: Vec<char>,
    pub(crate) texts: u64,
}

/// Counts the words of all texts, cut at special tokens. Words that do not fit the memory go to `folder`.
pub(crate) fn count(
    texts: impl Iterator<Item = Result<String>> + Send,
    words: &Words<'_>,
    memory: &Memory,
    folder: &Path,
    job: &Job,
) -> Result<Counted> {
    let mut counter = Counter::new(&folder.join("words"), memory.bytes() / 2);
    let mut seen = 0;
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel::<Result<Vec<String>>>(2);
        scope.spawn(move || {
            let mut texts = texts;
            loop {
                let batch = batch(&mut texts);
                let last = batch.as_ref().map_or(true, Vec::is_empty);
                if sender.send(batch).is_err() || last {
                    return;
                }
            }
        });
        for batch in batches {
            let batch = batch?;
            job.cancel.check()?;
            let pieces: Vec<&str> = batch.iter().flat_map(|text| words.pieces(text)).collect();
            let share = pieces
                .len()
                .div_ceil(4 * rayon::current_num_threads())
                .max(1);
            let counted: Vec<Batch> = pieces
                .par_chunks(share)
                .map(|texts| {
                    let mut batch = Batch::new();
                    for text in texts {
                        words.of(text, &mut batch)?;
                    }
                    Ok(batch)
                })
                .collect::<Result<_>>()?;
            counter.add(&counted)?;
            seen += batch.len() as u64;
            job.progress.report("count", seen, None, "texts");
        }
        Ok(())
    })?;
    if seen == 0 {
        return Err(no_text());
    }
    Ok(Counted {
        counter,
        alphabet: words.alphabet(),
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

/// Some texts; none at the end.
fn batch(texts: &mut impl Iterator<Item = Result<String>>) -> Result<Vec<String>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH {
        let Some(text) = texts.next().transpose()? else {
            break;
        };
        bytes += text.len() + size_of::<String>();
        batch.push(text);
    }
    Ok(batch)
}
