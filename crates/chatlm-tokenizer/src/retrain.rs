//! A new vocabulary in an old pipeline, as `train_new_from_iterator` of transformers: normalizer,
//! pre-tokenizers, decoder, post-processor, special tokens, model type and its settings are the folder's.
//!
//! BPE is learnt by our own trainer on words that the folder's own parts cut. Unigram goes to the tokenizers
//! crate's trainer on counted words; WordPiece, WordLevel, and BPE with marks inside or after words go
//! through that crate wholly, and in its memory.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use chatlm_job::{Code, Error, Job, Result, check_target, sha256_bytes};
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::models::wordlevel::WordLevelTrainer;
use tokenizers::models::wordpiece::WordPieceTrainer;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use crate::bpe::{LearnOptions, Vocabulary, byte_characters, learn};
use crate::count::Counted;
use crate::folder::{Beside, write};
use crate::memory::{Memory, peak_rss_bytes};
use crate::preset::{Preset, untrained};
use crate::tokenizer::{invalid, parse, read};
use crate::train::{TrainReport, too_small, with_merges};
use crate::unigram::{pieces, sentences};
use crate::words::Cutter;
use crate::work::Work;

/// How large the new vocabulary becomes.
#[derive(Debug, Clone)]
pub struct RetrainOptions {
    /// Tokens in all; as many as the old tokenizer has by default.
    pub vocab_size: Option<usize>,
    /// Pairs (words, for a model of whole words) seen less often are left out; has no part in unigram.
    pub min_frequency: u64,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<u64>,
    /// The files that the texts come from: an interrupted training over the same files goes on. `None`
    /// keeps nothing, nor does a model that goes through the tokenizers crate wholly.
    pub files: Option<Vec<PathBuf>>,
}

/// A tokenizer folder without what it learnt.
struct Pipeline {
    json: Value,
    /// Without vocabulary, added tokens and post-processor.
    tokenizer: Tokenizer,
    added: Vec<AddedToken>,
    beside: Beside,
    vocab_size: usize,
    /// Of tab and newline those that the old tokenizer knew.
    blanks: Vec<&'static str>,
}

impl Pipeline {
    fn load(dir: &Path) -> Result<Self> {
        let files = read(dir)?;
        let old = parse(dir, &files[0].1)?;
        let unusable = |e: &dyn std::fmt::Display| {
            invalid(dir, &format!("tokenizer.json cannot be used: {e}"))
        };
        // As the crate writes it: with the model's type, and merges in one form.
        let mut json = serde_json::to_value(&old).map_err(|e| unusable(&e))?;
        let added = json["added_tokens"].take();
        let added: Vec<AddedToken> = serde_json::from_value(added).map_err(|e| unusable(&e))?;
        let mut empty = json.clone();
        empty["added_tokens"] = json!([]);
        for part in ["post_processor", "truncation", "padding"] {
            empty[part] = Value::Null;
        }
        let model = &mut empty["model"];
        if model["type"] == "Unigram" {
            let unknown = model["unk_id"]
                .as_u64()
                .map(|id| model["vocab"][id as usize][0].clone());
            model["vocab"] = json!([[unknown.clone().unwrap_or_default(), 0.0]]);
            model["unk_id"] = json!(unknown.map(|_| 0));
            if model["vocab"][0][0].is_null() {
                model["vocab"] = json!([]);
            }
        } else {
            model["vocab"] = json!({});
            if model["type"] == "BPE" {
                model["merges"] = json!([]);
            }
        }
        let tokenizer = Tokenizer::from_bytes(empty.to_string()).map_err(|e| unusable(&e))?;
        Ok(Self {
            beside: Beside::of(&files)?,
            vocab_size: old.get_vocab_size(true),
            blanks: ["\t", "\n"]
                .into_iter()
                .filter(|blank| old.token_to_id(blank).is_some())
                .collect(),
            json,
            tokenizer,
            added,
        })
    }

    fn special(&self) -> Vec<AddedToken> {
        self.added
            .iter()
            .filter(|token| token.special)
            .cloned()
            .collect()
    }

    fn byte_level(&self) -> bool {
        fn within(part: &Value) -> bool {
            let inner = part["pretokenizers"].as_array();
            part["type"] == "ByteLevel" || inner.is_some_and(|parts| parts.iter().any(within))
        }
        within(&self.json["pre_tokenizer"])
    }

    fn cutter(&self) -> Result<Cutter<'_>> {
        let special: Vec<String> = self
            .special()
            .into_iter()
            .map(|token| token.content)
            .collect();
        for preset in [Preset::CharBpe, Preset::ByteBpe] {
            let ours = serde_json::to_value(untrained(preset).map_err(Error::internal)?)
                .map_err(Error::internal)?;
            if ["normalizer", "pre_tokenizer"]
                .iter()
                .all(|part| ours[*part] == self.json[*part])
            {
                return Ok(Cutter::of_preset(preset, &self.tokenizer, special));
            }
        }
        let initial = if self.byte_level() {
            byte_characters().to_vec()
        } else {
            Vec::new()
        };
        Ok(Cutter::of_pipeline(&self.tokenizer, special, initial))
    }

    /// The tokens before all that is learnt. For unigram the crate's trainer would put all added ones there.
    fn head(&self) -> Vec<String> {
        let unigram = self.json["model"]["type"] == "Unigram";
        let added = self.added.iter().filter(|token| unigram || token.special);
        let mut head: Vec<String> = added.map(|token| token.content.clone()).collect();
        if unigram
            && let Some(unknown) = self.unknown()
            && !head.contains(&unknown)
        {
            head.insert(0, unknown);
        }
        head
    }

    /// The unigram model's piece for what is unknown.
    fn unknown(&self) -> Option<String> {
        let model = &self.json["model"];
        let id = model["unk_id"].as_u64()? as usize;
        model["vocab"][id][0].as_str().map(str::to_owned)
    }

    /// Whether our own trainer learns what this model is made of.
    fn ours(&self) -> bool {
        let model = &self.json["model"];
        let marked = ["continuing_subword_prefix", "end_of_word_suffix"]
            .iter()
            .any(|mark| model[*mark].as_str().is_some_and(|mark| !mark.is_empty()));
        model["type"] == "BPE" && !marked
    }

    /// The special tokens at their ids, the other added tokens and the post-processor around a new model.
    fn complete(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        tokenizer
            .add_special_tokens(self.special())
            .map_err(Error::internal)?;
        let others = self.added.iter().filter(|token| !token.special).cloned();
        tokenizer.add_tokens(others).map_err(Error::internal)?;
        for blank in &self.blanks {
            if tokenizer.token_to_id(blank).is_none() {
                tokenizer
                    .add_tokens([AddedToken::from(*blank, false)])
                    .map_err(Error::internal)?;
            }
        }
        let mut processor = self.json["post_processor"].clone();
        renumber(&mut processor, tokenizer);
        let processor: Option<PostProcessorWrapper> =
            serde_json::from_value(processor).map_err(Error::internal)?;
        tokenizer.with_post_processor(processor);
        Ok(())
    }
}

/// Puts the new ids of tokens where a post-processor names them.
fn renumber(processor: &mut Value, tokenizer: &Tokenizer) {
    let id = |token: &Value| {
        token
            .as_str()
            .and_then(|token| tokenizer.token_to_id(token))
    };
    let Some(processor) = processor.as_object_mut() else {
        return;
    };
    for part in processor
        .get_mut("processors")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        renumber(part, tokenizer);
    }
    let specials = processor
        .get_mut("special_tokens")
        .and_then(Value::as_object_mut);
    for special in specials.into_iter().flat_map(|map| map.values_mut()) {
        let tokens = special["tokens"].as_array().into_iter().flatten();
        special["ids"] = tokens.filter_map(id).collect();
    }
    for role in ["sep", "cls"] {
        if let Some(pair) = processor.get_mut(role)
            && let Some(new) = id(&pair[0])
        {
            pair[1] = json!(new);
        }
    }
}

/// Trains on `texts` in the pipeline of the folder `from`, and writes the folder `out`.
pub fn retrain(
    from: &Path,
    texts: impl Iterator<Item = Result<String>> + Send,
    options: &RetrainOptions,
    out: &Path,
    force: bool,
    job: &Job,
) -> Result<TrainReport> {
    let started = Instant::now();
    check_target(out, force)?;
    let pipeline = Pipeline::load(from)?;
    let vocab_size = options.vocab_size.unwrap_or(pipeline.vocab_size);
    let special = pipeline.special();
    if vocab_size <= special.len() {
        return Err(Error::new(
            Code::Usage,
            format!("a vocabulary of {vocab_size} is too small"),
            format!("special tokens alone need {}", special.len()),
        ));
    }
    let counts = pipeline.ours() || pipeline.json["model"]["type"] == "Unigram";
    let (work, mut tokenizer, texts) = if counts {
        let (work, tokenizer, texts) = learnt(&pipeline, texts, vocab_size, options, out, job)?;
        (Some(work), tokenizer, texts)
    } else {
        let frequency = options.min_frequency;
        let (tokenizer, texts) = through_the_crate(&pipeline, texts, vocab_size, frequency, job)?;
        (None, tokenizer, texts)
    };
    job.cancel.check()?;
    pipeline.complete(&mut tokenizer)?;
    let merges = write(&tokenizer, &pipeline.beside, out, force)?;
    if let Some(work) = work {
        work.remove();
    }
    Ok(TrainReport {
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        texts,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// Trains on words that are counted first.
fn learnt(
    pipeline: &Pipeline,
    texts: impl Iterator<Item = Result<String>> + Send,
    vocab_size: usize,
    options: &RetrainOptions,
    out: &Path,
    job: &Job,
) -> Result<(Work, Tokenizer, u64)> {
    let memory = Memory::new(options.max_memory)?;
    let cutter = pipeline.cutter()?;
    let from = sha256_bytes(pipeline.json.to_string().as_bytes());
    let settings = format!("retrain {from} {vocab_size} {}", options.min_frequency);
    let work = Work::open(out, &settings, options.files.as_deref())?;
    let fits = |alphabet: &[char]| {
        let least = pipeline.head().len() + alphabet.len();
        if vocab_size < least {
            return Err(too_small(vocab_size, alphabet.len(), least));
        }
        Ok(())
    };
    let (mut work, counted) = work.count(texts, &cutter, &memory, fits, job)?;
    let texts = counted.texts;
    if !pipeline.ours() {
        let tokenizer = unigram(pipeline, counted, vocab_size, &memory, job)?;
        return Ok((work, tokenizer, texts));
    }
    let mut vocabulary = Vocabulary::default();
    for token in pipeline.head() {
        vocabulary.add(&token, token.chars().count() as u32);
    }
    let settings = LearnOptions {
        vocab_size,
        min_frequency: options.min_frequency,
        max_token_length: None,
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
    let tokenizer = with_merges(&pipeline.tokenizer, &vocabulary, &merges)?;
    Ok((work, tokenizer, texts))
}

fn unigram(
    pipeline: &Pipeline,
    counted: Counted,
    vocab_size: usize,
    memory: &Memory,
    job: &Job,
) -> Result<Tokenizer> {
    let mut json = serde_json::to_value(&pipeline.tokenizer).map_err(Error::internal)?;
    let unknown = pipeline.unknown();
    let head = pipeline.head();
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size((vocab_size - head.len()) as u32)
        .build()
        .map_err(Error::internal)?;
    let pieces = pieces(&trainer, sentences(counted, memory)?, job)?;
    let id = unknown.and_then(|unknown| head.iter().position(|token| *token == unknown));
    let vocabulary: Vec<(String, f64)> = head
        .into_iter()
        .map(|token| (token, 0.0))
        .chain(pieces)
        .collect();
    json["model"]["unk_id"] = json!(id);
    json["model"]["vocab"] = json!(vocabulary);
    Tokenizer::from_bytes(json.to_string()).map_err(Error::internal)
}

/// Trains by the crate alone.
fn through_the_crate(
    pipeline: &Pipeline,
    texts: impl Iterator<Item = Result<String>> + Send,
    vocab_size: usize,
    min_frequency: u64,
    job: &Job,
) -> Result<(Tokenizer, u64)> {
    let mut tokenizer = pipeline.tokenizer.clone();
    let model = &pipeline.json["model"];
    let text = |key: &str| model[key].as_str().map(str::to_owned);
    let mut trainer: TrainerWrapper = match model["type"].as_str() {
        Some("WordLevel") => WordLevelTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .special_tokens(pipeline.special())
            .show_progress(false)
            .build()
            .map_err(Error::internal)?
            .into(),
        Some("WordPiece") => {
            let builder = WordPieceTrainer::builder()
                .vocab_size(vocab_size)
                .min_frequency(min_frequency)
                .special_tokens(pipeline.special())
                .show_progress(false);
            builder.build().into()
        }
        _ => {
            let mut builder = BpeTrainer::builder()
                .vocab_size(vocab_size)
                .min_frequency(min_frequency)
                .special_tokens(pipeline.special())
                .show_progress(false);
            if let Some(mark) = text("continuing_subword_prefix") {
                builder = builder.continuing_subword_prefix(mark);
            }
            if let Some(mark) = text("end_of_word_suffix") {
                builder = builder.end_of_word_suffix(mark);
            }
            if pipeline.byte_level() {
                builder = builder.initial_alphabet(byte_characters().into_iter().collect());
            }
            builder.build().into()
        }
    };
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let mut seen = 0;
    let texts = texts.map_while(|text| {
        let text = job.cancel.check().and(text);
        match text {
            Ok(text) => {
                seen += 1;
                job.progress.report("count", seen, None, "texts");
                Some(text)
            }
            Err(error) => {
                if let Ok(mut failed) = failed.lock() {
                    *failed = Some(error);
                }
                None
            }
        }
    });
    tokenizer
        .train(&mut trainer, texts)
        .map_err(Error::internal)?;
    if let Some(error) = failed.into_inner().ok().flatten() {
        return Err(error);
    }
    if seen == 0 {
        return Err(crate::count::no_text());
    }
    Ok((tokenizer, seen))
}
