//! Byte-pair encoding learnt from words and their counts: the tokenizers crate's vocabulary and merges
//! for the same words, in bounded memory.
//!
//! Chinese has no spaces, so a "word" is a clause and nearly every clause is new; that crate holds each
//! with its symbols in 24 bytes and a hash set of places for each pair. Here words are counted with a
//! spill to disk (`counter`), lie end to end with 2 bytes a symbol (`slots`), and places are listed for
//! the frequent pairs alone, round by round (`pairs`, `learn`). Leaves splitting text into words to
//! `words` and writing folders to `train`.

mod counter;
mod learn;
mod merge;
mod pairs;
mod replay;
mod slots;
mod vocabulary;

use std::sync::atomic::{AtomicU16, AtomicU32};

use chatlm_job::{Code, Error, Job, Result};

pub(crate) use counter::{Batch, Counter, Words, Written};
use learn::Learner;
pub(crate) use learn::{LearnOptions, Merge, Save, Saving, by_rank};
pub(crate) use replay::Progress;
use slots::{Slot, Slots, slots_of};
pub(crate) use vocabulary::Vocabulary;

/// What the bytes of a word are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symbols {
    /// UTF-8, a symbol a character.
    Characters,
    /// A symbol a byte, shown as [`byte_characters`].
    Bytes,
}

/// The printable character that byte-level BPE shows each byte as (GPT-2's `bytes_to_unicode`).
pub(crate) fn byte_characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or_default()
    })
}

/// The id of each initial symbol.
struct Ids {
    symbols: Symbols,
    by_code: Vec<u32>,
}

impl Ids {
    fn new(symbols: Symbols, alphabet: &[char], vocabulary: &mut Vocabulary) -> Self {
        let shown = byte_characters();
        let size = match symbols {
            Symbols::Characters => alphabet.last().map_or(0, |last| *last as usize + 1),
            Symbols::Bytes => 256,
        };
        let mut by_code = vec![0; size];
        let mut text = [0; 4];
        for symbol in alphabet {
            let (id, _) = vocabulary.add(symbol.encode_utf8(&mut text), 1);
            let code = match symbols {
                Symbols::Characters => Some(*symbol as usize),
                Symbols::Bytes => shown.iter().position(|shown| shown == symbol),
            };
            if let Some(code) = code {
                by_code[code] = id;
            }
        }
        Self { symbols, by_code }
    }

    fn of(&self, word: &[u8], ids: &mut Vec<u32>) {
        ids.clear();
        match self.symbols {
            Symbols::Bytes => ids.extend(word.iter().map(|byte| self.by_code[*byte as usize])),
            Symbols::Characters => ids.extend(
                String::from_utf8_lossy(word)
                    .chars()
                    .filter_map(|c| self.by_code.get(c as usize)),
            ),
        }
    }
}

/// Learns merges: `vocabulary` holds the special tokens and gets the alphabet (sorted characters) and
/// the new tokens. `saving` is what an earlier run got to and where this one puts the same.
pub(crate) fn learn(
    words: Words,
    symbols: Symbols,
    alphabet: &[char],
    vocabulary: &mut Vocabulary,
    options: &LearnOptions,
    saving: Saving<'_>,
    job: &Job,
) -> Result<Vec<Merge>> {
    let ids = Ids::new(symbols, alphabet, vocabulary);
    let last = vocabulary.len().max(options.vocab_size) as u32;
    if last < <AtomicU16 as Slot>::END {
        learn_in::<AtomicU16>(words, &ids, vocabulary, options, saving, job)
    } else {
        learn_in::<AtomicU32>(words, &ids, vocabulary, options, saving, job)
    }
}

fn learn_in<S: Slot>(
    words: Words,
    ids: &Ids,
    vocabulary: &mut Vocabulary,
    options: &LearnOptions,
    saving: Saving<'_>,
    job: &Job,
) -> Result<Vec<Merge>> {
    let bound = words.bound();
    // Counts of all words together take few slots more than one each.
    let room = bound.bytes as usize + 4 * bound.words as usize;
    let mut corpus = Slots::<S>::with_capacity(room);
    let most = options.memory.min(u32::MAX as usize * size_of::<S>());
    let (mut symbols, mut taken) = (Vec::new(), 0);
    words.drain(|word, count| {
        ids.of(word, &mut symbols);
        taken += slots_of(symbols.len(), count) * size_of::<S>();
        if taken <= most {
            corpus.push(count, symbols.iter().copied());
        }
    })?;
    job.cancel.check()?;
    if taken > most * 9 / 10 {
        let needed = (taken + taken / 4) >> 20;
        return Err(Error::new(
            Code::Usage,
            format!(
                "the words of this text take {} MiB, more than the memory allowed",
                taken >> 20
            ),
            format!("give --max-memory at least {needed} MiB more than the program's own"),
        ));
    }
    let options = LearnOptions {
        memory: options.memory - taken,
        ..options.clone()
    };
    Learner::new(corpus, vocabulary, &options, saving).learn(job)
}

#[cfg(test)]
mod tests;
