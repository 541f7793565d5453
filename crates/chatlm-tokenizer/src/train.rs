//! Training a tokenizer on a stream of texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chatlm_job::{AtomicDir, Code, Error, Job, Result, check_target};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, Tokenizer};

use crate::bpe::{LearnOptions, Merge, Symbols, Vocabulary, by_rank, learn};
use crate::count::{Counted, count};
use crate::memory::{Memory, peak_rss_bytes};
use crate::preset::{Preset, SPECIAL_TOKENS, UNKNOWN, special_tokens, untrained};
use crate::tokenizer::{CONFIG, SPECIAL_MAP, TOKENIZER};
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

/// The roles of special tokens, as `transformers` calls them.
const ROLES: [(&str, &str); 7] = [
    ("pad_token", "[PAD]"),
    ("eos_token", "[EOS]"),
    ("sep_token", "[SEP]"),
    ("bos_token", "[BOS]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
    ("unk_token", "[UNK]"),
];

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
    let mut vocabulary = Vocabulary::default();
    for token in SPECIAL_TOKENS {
        vocabulary.add(token, token.chars().count() as u32);
    }
    let memory = Memory::new(options.max_memory)?;
    let mut work = Work::open(options, out)?;
    let counted = if let Some(counted) = work.counted()? {
        counted
    } else {
        let (preset, folder) = (options.preset, work.folder());
        let counted = count(texts, preset, &tokenizer, &memory, &folder, job)
            .and_then(|counted| check_alphabet(options, &counted.alphabet).map(|()| counted));
        match counted {
            Ok(counted) => work.keep(counted)?,
            // Half a count is of no use to a later run.
            Err(error) => {
                work.remove();
                return Err(error);
            }
        }
    };
    let symbols = match options.preset {
        Preset::CharBpe => Symbols::Characters,
        Preset::ByteBpe => Symbols::Bytes,
    };
    let settings = LearnOptions {
        vocab_size: options.vocab_size,
        min_frequency: options.min_frequency,
        max_token_length: None,
        memory: memory.bytes(),
    };
    let Counted {
        words,
        alphabet,
        texts,
    } = counted;
    let merges = learn(
        words,
        symbols,
        &alphabet,
        &mut vocabulary,
        &settings,
        work.saving(),
        job,
    )?;
    tokenizer.with_model(model(options.preset, &vocabulary, &merges)?);
    tokenizer
        .add_special_tokens(special_tokens())
        .map_err(Error::internal)?;
    job.cancel.check()?;
    let blanks: Vec<AddedToken> = ["\t", "\n"]
        .into_iter()
        .filter(|blank| tokenizer.token_to_id(blank).is_none())
        .map(|blank| AddedToken::from(blank, false))
        .collect();
    tokenizer.add_tokens(blanks).map_err(Error::internal)?;
    let merges = write(&tokenizer, out, force)?;
    work.remove();
    Ok(TrainReport {
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        texts,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}

fn check(options: &TrainOptions) -> Result<()> {
    let least = match options.preset {
        Preset::CharBpe => SPECIAL_TOKENS.len() + 1,
        Preset::ByteBpe => SPECIAL_TOKENS.len() + 256,
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
    let least = SPECIAL_TOKENS.len() + alphabet.len();
    if options.vocab_size < least {
        let (size, characters) = (options.vocab_size, alphabet.len());
        return Err(Error::new(
            Code::Usage,
            format!(
                "a vocabulary of {size} is too small: the text has {characters} different characters"
            ),
            format!(
                "give --vocab-size at least {least}, or use --model byte-bpe, which has 256 symbols"
            ),
        ));
    }
    Ok(())
}

/// The model of a vocabulary and merges.
fn model(preset: Preset, vocabulary: &Vocabulary, merges: &[Merge]) -> Result<BPE> {
    let text = |id: u32| vocabulary.token(id).to_owned();
    let ids: tokenizers::models::bpe::Vocab = vocabulary
        .tokens()
        .iter()
        .zip(0..)
        .map(|(token, id)| (token.to_string(), id))
        .collect();
    let merges = by_rank(merges)
        .into_iter()
        .map(|(first, second)| (text(first), text(second)))
        .collect();
    let builder = BPE::builder().vocab_and_merges(ids, merges);
    let builder = match preset {
        Preset::CharBpe => builder.unk_token(UNKNOWN.to_owned()),
        Preset::ByteBpe => builder,
    };
    builder.build().map_err(Error::internal)
}

/// Writes the folder; the number of merges.
fn write(tokenizer: &Tokenizer, out: &Path, force: bool) -> Result<u64> {
    let json = tokenizer.to_string(false).map_err(Error::internal)?;
    let parsed: Value = serde_json::from_str(&json).map_err(Error::internal)?;
    let dir = AtomicDir::create(out, force)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).map_err(|e| Error::io(&e, "write", out.join(name)))
    };
    write(TOKENIZER, json.as_bytes())?;
    write(CONFIG, &config_json(&ROLES)?)?;
    write(SPECIAL_MAP, &special_map_json(&ROLES)?)?;
    dir.commit()?;
    Ok(parsed["model"]["merges"].as_array().map_or(0, Vec::len) as u64)
}

/// `tokenizer_config.json` for tokens in roles.
pub(crate) fn config_json(roles: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut config = Map::new();
    config.insert(
        "tokenizer_class".to_owned(),
        json!("PreTrainedTokenizerFast"),
    );
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    // transformers' own way to say "no limit".
    config.insert("model_max_length".to_owned(), json!(1e30));
    for (role, token) in roles {
        config.insert((*role).to_owned(), json!(token));
    }
    serde_json::to_vec_pretty(&config).map_err(Error::internal)
}

/// `special_tokens_map.json` for tokens in roles.
pub(crate) fn special_map_json(roles: &[(&str, &str)]) -> Result<Vec<u8>> {
    let map: Map<String, Value> = roles
        .iter()
        .map(|(role, token)| ((*role).to_owned(), json!(token)))
        .collect();
    serde_json::to_vec_pretty(&map).map_err(Error::internal)
}
