//! A tokenizer of whole words, as the reference program's author made the published one: count the words
//! that jieba finds, keep the frequent ones, and merge characters until each is one token.
//!
//! The merges are what byte-pair training gives on the kept words, weighed by how often they stand, until
//! nothing is left to merge. So a kept word on its own always becomes its token, in every BPE library; the
//! pieces on the way to it are tokens too (the published tokenizer lacks them, and can never build some of
//! its words). In running text merges of a neighbour may come first.

use std::path::{Path, PathBuf};
use std::time::Instant;

use chatlm_job::{Code, Error, Job, Result, check_target};
use serde::Serialize;

use crate::bpe::{Counter, LearnOptions, Vocabulary, Words, learn};
use crate::count::Counted;
use crate::folder::{Beside, ROLES, write};
use crate::memory::{Memory, peak_rss_bytes};
use crate::preset::{Preset, SPECIAL_TOKENS, untrained};
use crate::train::{complete, with_merges};
use crate::words::Cutter;
use crate::work::Work;

/// Which words to keep.
#[derive(Debug, Clone)]
pub struct FromWordsOptions {
    /// Words seen more often than this.
    pub min_count: u64,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<u64>,
    /// The files that the texts come from: an interrupted training over the same files goes on. `None`
    /// keeps nothing.
    pub files: Option<Vec<PathBuf>>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FromWordsReport {
    pub vocab_size: u64,
    pub merges: u64,
    pub texts: u64,
    /// Different words in the text, those of one character included.
    pub words: u64,
    /// Words of two characters and more that are tokens now.
    pub kept: u64,
    pub seconds: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: u64,
}

/// Counts the words of `texts` and writes the folder `out` in the character-level pipeline.
pub fn from_words(
    texts: impl Iterator<Item = Result<String>> + Send,
    options: &FromWordsOptions,
    out: &Path,
    force: bool,
    job: &Job,
) -> Result<FromWordsReport> {
    let started = Instant::now();
    check_target(out, force)?;
    let tokenizer = untrained(Preset::CharBpe).map_err(Error::internal)?;
    let cutter = Cutter::of_dictionary(&tokenizer);
    let memory = Memory::new(options.max_memory)?;
    let settings = format!("words {}", options.min_count);
    let work = Work::open(out, &settings, options.files.as_deref())?;
    let (mut work, counted) = work.count(texts, &cutter, &memory, |_| Ok(()), job)?;
    let Counted {
        words,
        alphabet,
        texts,
    } = counted;
    let mut frequent = Counter::new(&work.folder().join("frequent"), memory.bytes() / 2);
    let (mut all, mut kept, mut symbols, mut most) = (0, 0, 0, 0);
    words.drain(|word, count| {
        let length = String::from_utf8_lossy(word).chars().count();
        all += 1;
        if length < 2 {
            return;
        }
        most = most.max(count);
        if count > options.min_count {
            kept += 1;
            symbols += length;
            frequent.add_counted(word, count);
        }
    })?;
    if kept == 0 {
        return Err(Error::new(
            Code::InputFormat,
            format!(
                "no word of this text is seen more than {} times",
                options.min_count
            ),
            format!(
                "the most frequent one is seen {most} times: give a smaller --min-count, or more text"
            ),
        ));
    }
    let mut vocabulary = Vocabulary::default();
    for token in SPECIAL_TOKENS {
        vocabulary.add(token, token.chars().count() as u32);
    }
    let settings = LearnOptions {
        // More than there can be: no word is left in pieces.
        vocab_size: SPECIAL_TOKENS.len() + alphabet.len() + symbols,
        min_frequency: 0,
        max_token_length: None,
        memory: memory.bytes(),
    };
    let merges = learn(
        Words::Counted(frequent),
        cutter.symbols(),
        &alphabet,
        &mut vocabulary,
        &settings,
        work.saving(),
        job,
    )?;
    job.cancel.check()?;
    let mut tokenizer = with_merges(&tokenizer, &vocabulary, &merges)?;
    complete(&mut tokenizer)?;
    let merges = write(&tokenizer, &Beside::roles(&ROLES)?, out, force)?;
    work.remove();
    Ok(FromWordsReport {
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        texts,
        words: all,
        kept,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}
