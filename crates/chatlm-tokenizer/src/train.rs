//! Training a tokenizer on a stream of texts.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use chatlm_job::{AtomicDir, Code, Error, Job, Result, check_target};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer, Trainer,
};

use crate::preset::{Preset, SPECIAL_TOKENS, special_tokens, untrained};
use crate::tokenizer::{CONFIG, SPECIAL_MAP, TOKENIZER};

/// What to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    pub preset: Preset,
    /// The largest vocabulary, special tokens included; single characters are in it all the same,
    /// even where there are more of them than this.
    pub vocab_size: usize,
    /// Pairs seen less often are not merged.
    pub min_frequency: u64,
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
    let mut trainer = trainer(options);
    let feed = Feed {
        state: Mutex::new(FeedState::default()),
        job,
    };
    // Counting and merging are two calls, so that an error or the cancel flag stops between them.
    let counted = trainer.feed(feed.watch(texts).flat_map(pieces), |text| {
        words(&tokenizer, text)
    });
    let state = feed
        .state
        .into_inner()
        .map_err(|_| Error::internal("a reader panicked"))?;
    if let Some(error) = state.error {
        return Err(error);
    }
    counted.map_err(Error::internal)?;
    if state.texts == 0 {
        return Err(Error::new(
            Code::InputFormat,
            "there is no text to train a tokenizer on",
            "check the input: its text columns are empty, or it has none",
        ));
    }
    job.cancel.check()?;
    let mut model = tokenizer.get_model().clone();
    let special = trainer.train(&mut model).map_err(Error::internal)?;
    tokenizer.with_model(model);
    tokenizer
        .add_special_tokens(special)
        .map_err(Error::internal)?;
    job.cancel.check()?;
    let blanks: Vec<AddedToken> = ["\t", "\n"]
        .into_iter()
        .filter(|blank| tokenizer.token_to_id(blank).is_none())
        .map(|blank| AddedToken::from(blank, false))
        .collect();
    tokenizer.add_tokens(blanks).map_err(Error::internal)?;
    let merges = write(&tokenizer, out, force)?;
    Ok(TrainReport {
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        texts: state.texts,
        seconds: started.elapsed().as_secs_f64(),
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

fn trainer(options: &TrainOptions) -> TrainerWrapper {
    let builder = BpeTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .special_tokens(special_tokens())
        .show_progress(false);
    let builder = match options.preset {
        Preset::CharBpe => builder,
        Preset::ByteBpe => builder.initial_alphabet(ByteLevel::alphabet().into_iter().collect()),
    };
    TrainerWrapper::BpeTrainer(builder.build())
}

/// Hands texts on until the first error or the cancel flag, and keeps that error.
struct Feed<'a> {
    state: Mutex<FeedState>,
    job: &'a Job,
}

#[derive(Default)]
struct FeedState {
    texts: u64,
    error: Option<Error>,
}

impl Feed<'_> {
    fn watch(
        &self,
        texts: impl Iterator<Item = Result<String>> + Send,
    ) -> impl Iterator<Item = String> + Send {
        texts.map_while(|text| {
            let Ok(mut state) = self.state.lock() else {
                return None;
            };
            match text.and_then(|text| self.job.cancel.check().map(|()| text)) {
                Ok(text) => {
                    state.texts += 1;
                    self.job
                        .progress
                        .report("count", state.texts, None, "texts");
                    Some(text)
                }
                Err(error) => {
                    state.error.get_or_insert(error);
                    None
                }
            }
        })
    }
}

/// The words of a text, as the tokenizers crate's own training takes them.
fn words(tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut normalized)?;
    }
    let mut split = PreTokenizedString::from(normalized);
    if let Some(splitter) = tokenizer.get_pre_tokenizer() {
        splitter.pre_tokenize(&mut split)?;
    }
    let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(words
        .into_iter()
        .map(|(word, _, _)| word.to_owned())
        .collect())
}

/// The stretches of a text between special tokens.
fn pieces(text: String) -> Vec<String> {
    let mut pieces = vec![text];
    for token in SPECIAL_TOKENS {
        if pieces.iter().any(|piece| piece.contains(token)) {
            pieces = pieces
                .iter()
                .flat_map(|piece| piece.split(token))
                .filter(|piece| !piece.is_empty())
                .map(str::to_owned)
                .collect();
        }
    }
    pieces
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
