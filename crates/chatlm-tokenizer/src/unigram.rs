//! Training a unigram model on counted words, by the tokenizers crate's own trainer.
//!
//! That trainer holds all distinct words, a suffix array of them and its candidates in memory: words that
//! would take more than the user allows are refused beforehand.

use chatlm_job::{Code, Error, Job, Result};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};

use crate::count::Counted;
use crate::memory::Memory;
use crate::preset::{SPECIAL_TOKENS, UNKNOWN, byte_tokens};

/// What the crate's trainer takes a character of distinct words: a suffix array with its helpers, and the
/// trie of candidates, which is most of it. Measured: see `docs/tokenizer.md`. There the peak rose by 274 and
/// 293 bytes a character of real text; candidates are a million at most, so more text may take less.
const BYTES_A_CHARACTER: usize = 320;

/// Tokens of bytes are never taken for the text that spells them: its six characters have more together.
const SPELLED: f64 = 6.0;

/// Those characters, which must be pieces for that, be they in the text or not.
const BYTE_SPELLING: &str = "<>x0123456789ABCDEF";

/// The characters that a model of a text with this alphabet has at least.
pub(crate) fn alphabet_size(alphabet: &[char]) -> usize {
    alphabet.len() + spelling(alphabet).count()
}

fn spelling(alphabet: &[char]) -> impl Iterator<Item = char> {
    BYTE_SPELLING.chars().filter(|c| !alphabet.contains(c))
}

/// Learns a model of a size with the special tokens and all bytes at its head.
pub(crate) fn learn(
    counted: Counted,
    vocab_size: usize,
    memory: &Memory,
    job: &Job,
) -> Result<Unigram> {
    let head: Vec<String> = SPECIAL_TOKENS
        .iter()
        .map(|token| (*token).to_owned())
        .chain(byte_tokens())
        .collect();
    let initial = spelling(&counted.alphabet).collect();
    let sentences = sentences(counted, memory)?;
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .initial_alphabet(initial)
        .vocab_size((vocab_size - head.len()) as u32)
        .build()
        .map_err(Error::internal)?;
    let pieces = pieces(&trainer, sentences, job)?;
    let least = pieces.iter().map(|(_, score)| *score).fold(0.0, f64::min);
    let unknown = SPECIAL_TOKENS.iter().position(|token| *token == UNKNOWN);
    let vocabulary = head
        .into_iter()
        .map(|token| (token, least * SPELLED - 1.0))
        .chain(pieces)
        .collect();
    Unigram::from(vocabulary, unknown, true).map_err(Error::internal)
}

/// Words with their counts as the crate's trainer takes them.
pub(crate) fn sentences(counted: Counted, memory: &Memory) -> Result<Vec<(String, u32)>> {
    let bound = counted.words.bound();
    let (mut sentences, mut characters) = (Vec::with_capacity(bound.words as usize), 0);
    let most = memory.bytes() / BYTES_A_CHARACTER;
    counted.words.drain(|word, count| {
        let word = String::from_utf8_lossy(word);
        characters += word.chars().count() + 1;
        if characters <= most {
            sentences.push((word.into_owned(), u32::try_from(count).unwrap_or(u32::MAX)));
        }
    })?;
    if characters > most {
        return Err(Error::new(
            Code::Usage,
            "a unigram model of this text needs more memory than allowed",
            format!(
                "give --max-memory at least {} MiB more than the program's own, less text, or train \
                 --model sentencepiece-bpe, which needs little",
                (characters * BYTES_A_CHARACTER) >> 20
            ),
        ));
    }
    // The counter's order is by hash; the crate's result depends on the order in the last digits.
    sentences.sort_unstable();
    Ok(sentences)
}

/// Pieces with their scores, in the order of the crate's vocabulary but for equal scores.
pub(crate) fn pieces(
    trainer: &UnigramTrainer,
    sentences: Vec<(String, u32)>,
    job: &Job,
) -> Result<Vec<(String, f64)>> {
    let words = sentences.len() as u64;
    job.cancel.check()?;
    job.progress.report("pieces", 0, Some(words), "words");
    let mut model = Unigram::default();
    trainer.do_train(sentences, &mut model).map_err(|e| {
        Error::new(
            Code::InputFormat,
            format!("the text gives no unigram model: {e}"),
            "give more text, or a larger --vocab-size",
        )
    })?;
    job.cancel.check()?;
    job.progress.report("pieces", words, Some(words), "words");
    let mut pieces: Vec<(String, f64)> = model.iter().cloned().collect();
    settle(&mut pieces);
    Ok(pieces)
}

/// The crate goes through sets in a random order: characters that its model lost get the lowest scores, one
/// step above another, in that order, and sums differ in their last digits. Settles both.
fn settle(pieces: &mut [(String, f64)]) {
    const STEP: f64 = 0.0001;
    let least = pieces.iter().map(|(_, score)| *score).fold(0.0, f64::min);
    let lost = |(piece, score): &(String, f64)| {
        let steps = (score - least) / STEP;
        piece.chars().count() == 1 && (steps - steps.round()).abs() < 1e-6
    };
    let mut places: Vec<usize> = (0..pieces.len())
        .filter(|place| lost(&pieces[*place]))
        .collect();
    let mut scores: Vec<f64> = places.iter().map(|place| pieces[*place].1).collect();
    scores.sort_by(f64::total_cmp);
    places.sort_by(|a, b| pieces[*a].0.cmp(&pieces[*b].0));
    for (place, score) in places.into_iter().zip(scores) {
        pieces[place].1 = score;
    }
    for (_, score) in pieces.iter_mut() {
        *score = (*score * 1e6).round() / 1e6;
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
}
