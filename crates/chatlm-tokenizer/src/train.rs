//! Training a tokenizer on a stream of texts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use chatlm_job::{Code, Error, Job, Result, check_target};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::bpe::{LearnOptions, Merge, Vocabulary, by_rank, learn};
use crate::count::Counted;
use crate::folder::{Beside, ROLES, write};
use crate::memory::{Memory, peak_rss_bytes};
use crate::preset::{
    Preset, SPECIAL_TOKENS, byte_tokens, special_tokens, untrained, while_learning,
};
use crate::unigram;
use crate::words::Cutter;
use crate::work::Work;

/// What to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    pub preset: Preset,
    /// The largest vocabulary, special tokens included. All characters of the text have to fit.
    pub vocab_size: usize,
    /// Pairs seen less often are not merged.
    pub min_frequency: u64,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<u64>,
    /// The files that the texts come from: an interrupted training over the same files goes on. `None`
    /// keeps nothing.
    pub files: Option<Vec<PathBuf>>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainReport {
    pub vocab_size: u64,
    pub merges: u64,
    pub texts: u64,
    pub seconds: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: u64,
}

/// Characters of a piece at most.
const LONGEST_PIECE: usize = 16;

/// Trains on `texts` and writes the folder `out`. Texts are cut at special tokens, which
/// `chatlm corpus` writes between fields, so that those are not learnt as words.
pub fn train(
    texts: impl Iterator<Item = Result<String>> + Send,
    options: &TrainOptions,
    out: &Path,
    force: bool,
    job: &Job,
) -> Result<TrainReport> {
    let started = Instant::now();
    check(options)?;
    check_target(out, force)?;
    let mut tokenizer = untrained(options.preset).map_err(Error::internal)?;
    let pipeline = learning(options.preset, &tokenizer);
    let cutter = if options.preset.spelled() {
        Cutter::of_pipeline(
            &pipeline,
            SPECIAL_TOKENS.map(str::to_owned).to_vec(),
            Vec::new(),
        )
    } else {
        Cutter::new(options.preset, &pipeline)
    };
    let memory = Memory::new(options.max_memory)?;
    let TrainOptions {
        preset,
        vocab_size,
        min_frequency,
        ..
    } = options;
    let settings = format!("{preset:?} {vocab_size} {min_frequency}");
    let work = Work::open(out, &settings, options.files.as_deref())?;
    let fits = |alphabet: &[char]| check_alphabet(options, alphabet);
    let (mut work, counted) = work.count(texts, &cutter, &memory, fits, job)?;
    let texts = counted.texts;
    if options.preset == Preset::Unigram {
        tokenizer.with_model(unigram::learn(counted, options.vocab_size, &memory, job)?);
    } else {
        let mut vocabulary = Vocabulary::default();
        for token in head(options.preset) {
            vocabulary.add(&token, token.chars().count() as u32);
        }
        let settings = LearnOptions {
            vocab_size: options.vocab_size,
            min_frequency: options.min_frequency,
            // As SentencePiece: a piece has 16 characters at most.
            max_token_length: options.preset.spelled().then_some(LONGEST_PIECE + 1),
            memory: memory.bytes(),
        };
        let Counted {
            words, alphabet, ..
        } = counted;
        let merges = learn(
            words,
            cutter.symbols(),
            &alphabet,
            &mut vocabulary,
            &settings,
            work.saving(),
            job,
        )?;
        tokenizer = with_merges(&tokenizer, &vocabulary, &merges)?;
    }
    job.cancel.check()?;
    complete(&mut tokenizer)?;
    let merges = write(&tokenizer, &Beside::roles(&ROLES)?, out, force)?;
    work.remove();
    Ok(TrainReport {
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        texts,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// The pipeline that words are cut by while the preset is learnt.
fn learning(preset: Preset, tokenizer: &Tokenizer) -> Tokenizer {
    let mut pipeline = tokenizer.clone();
    if preset.spelled() {
        pipeline.with_pre_tokenizer(Some(while_learning()));
    }
    pipeline
}

/// The tokens before all that is learnt.
fn head(preset: Preset) -> Vec<String> {
    let special = SPECIAL_TOKENS.iter().map(|token| (*token).to_owned());
    special
        .chain(byte_tokens().filter(|_| preset.spelled()))
        .collect()
}

/// Gives a tokenizer of ours what each of them has: the special tokens, tab and newline.
pub(crate) fn complete(tokenizer: &mut Tokenizer) -> Result<()> {
    tokenizer
        .add_special_tokens(special_tokens())
        .map_err(Error::internal)?;
    let blanks: Vec<AddedToken> = ["\t", "\n"]
        .into_iter()
        .filter(|blank| tokenizer.token_to_id(blank).is_none())
        .map(|blank| AddedToken::from(blank, false))
        .collect();
    tokenizer.add_tokens(blanks).map_err(Error::internal)?;
    Ok(())
}

fn check(options: &TrainOptions) -> Result<()> {
    let least = SPECIAL_TOKENS.len()
        + match options.preset {
            Preset::CharBpe => 1,
            Preset::ByteBpe => 256,
            Preset::Unigram | Preset::SentencePieceBpe => 257,
        };
    if options.vocab_size < least {
        return Err(Error::new(
            Code::Usage,
            format!("a vocabulary of {} is too small", options.vocab_size),
            format!("special tokens and single symbols alone need {least}"),
        ));
    }
    Ok(())
}

/// The package leaves no character out and exceeds the size that it was given. A model made for that size
/// would not hold all ids, so here it is an error.
fn check_alphabet(options: &TrainOptions, alphabet: &[char]) -> Result<()> {
    let own = if options.preset == Preset::Unigram {
        unigram::alphabet_size(alphabet)
    } else {
        alphabet.len()
    };
    let least = head(options.preset).len() + own;
    if options.vocab_size < least {
        return Err(too_small(options.vocab_size, alphabet.len(), least));
    }
    Ok(())
}

pub(crate) fn too_small(size: usize, characters: usize, least: usize) -> Error {
    Error::new(
        Code::Usage,
        format!(
            "a vocabulary of {size} is too small: the text has {characters} different characters"
        ),
        format!(
            "give --vocab-size at least {least}, or use --model byte-bpe, which has 256 symbols"
        ),
    )
}

/// The tokenizer with another vocabulary and merges in its BPE model, every setting kept.
pub(crate) fn with_merges(
    tokenizer: &Tokenizer,
    vocabulary: &Vocabulary,
    merges: &[Merge],
) -> Result<Tokenizer> {
    let mut json = serde_json::to_value(tokenizer).map_err(Error::internal)?;
    let ids: Map<String, Value> = vocabulary
        .tokens()
        .iter()
        .zip(0u32..)
        .map(|(token, id)| (token.to_string(), json!(id)))
        .collect();
    let text = |id: u32| vocabulary.token(id);
    let merges: Vec<[&str; 2]> = by_rank(merges)
        .into_iter()
        .map(|(first, second)| [text(first), text(second)])
        .collect();
    json["model"]["vocab"] = ids.into();
    json["model"]["merges"] = json!(merges);
    Tokenizer::from_bytes(json.to_string()).map_err(Error::internal)
}
