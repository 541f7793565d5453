//! Training a tokenizer on a stream of texts.

use std::path::Path;
use std::time::Instant;

use chatlm_job::{AtomicDir, Code, Error, Job, Result, check_target};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::bpe::{LearnOptions, Merge, Vocabulary, by_rank, learn};
use crate::count::{Counted, count};
use crate::folder::{Beside, ROLES, write};
use crate::memory::Memory;
use crate::preset::{
    Preset, SPECIAL_TOKENS, byte_tokens, special_tokens, untrained, while_learning,
};
use crate::unigram;
use crate::words::Words;

/// What to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    pub preset: Preset,
    /// The largest vocabulary, special tokens included; single characters are in it all the same,
    /// even where there are more of them than this.
    pub vocab_size: usize,
    /// Pairs seen less often are not merged.
    pub min_frequency: u64,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainReport {
    pub vocab_size: u64,
    pub merges: u64,
    pub texts: u64,
    pub seconds: f64,
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
    let tokenizer = untrained(options.preset).map_err(Error::internal)?;
    let mut cutter = tokenizer.clone();
    let spelled = matches!(options.preset, Preset::Unigram | Preset::SentencePieceBpe);
    let words = if spelled {
        cutter.with_pre_tokenizer(Some(while_learning()));
        Words::of_pipeline(
            &cutter,
            SPECIAL_TOKENS.map(str::to_owned).to_vec(),
            Vec::new(),
        )
    } else {
        Words::new(options.preset, &tokenizer)
    };
    let memory = Memory::new(options.max_memory)?;
    let spill = AtomicDir::create(out, force)?;
    let counted = count(texts, &words, &memory, spill.path(), job)?;
    let texts = counted.texts;
    let mut tokenizer = if options.preset == Preset::Unigram {
        let model = unigram::learn(counted, options, &memory, job)?;
        let mut tokenizer = tokenizer;
        tokenizer.with_model(model);
        tokenizer
    } else {
        let mut vocabulary = Vocabulary::default();
        let special = SPECIAL_TOKENS.map(str::to_owned).into_iter();
        for token in special.chain(byte_tokens().filter(|_| spelled)) {
            vocabulary.add(&token, token.chars().count() as u32);
        }
        let settings = LearnOptions {
            vocab_size: options.vocab_size,
            min_frequency: options.min_frequency,
            // As SentencePiece: a piece has 16 characters at most.
            max_token_length: spelled.then_some(LONGEST_PIECE + 1),
            memory: memory.bytes(),
        };
        let Counted {
            counter, alphabet, ..
        } = counted;
        let merges = learn(
            counter,
            words.symbols(),
            &alphabet,
            &mut vocabulary,
            &settings,
            job,
        )?;
        with_merges(&tokenizer, &vocabulary, &merges)?
    };
    drop(spill);
    job.cancel.check()?;
    complete(&mut tokenizer)?;
    let merges = write(&tokenizer, &Beside::roles(&ROLES)?, out, force)?;
    Ok(TrainReport {
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        texts,
        seconds: started.elapsed().as_secs_f64(),
    })
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
