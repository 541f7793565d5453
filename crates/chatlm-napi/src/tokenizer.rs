//! Training a tokenizer and using one.

use std::path::Path;

use chatlm_dataset::{InputOptions, expand, texts};
use chatlm_run::{ExtendOptions, extend};
use chatlm_tokenizer::{
    FromWordsOptions, Preset, RetrainOptions, TrainOptions, TrainReport, from_words, import,
    retrain, train,
};
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::{blocking, guarded};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct TokenizerTrainOptions {
    pub inputs: Vec<String>,
    /// The folder to write.
    pub output: String,
    /// `char-bpe`, `byte-bpe`, `unigram` or `sentencepiece-bpe`.
    pub model: String,
    pub vocab_size: u32,
    /// Pairs seen less often are not merged.
    pub min_frequency: u32,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<f64>,
    pub encoding: Option<String>,
    pub force: bool,
}

#[napi(object)]
pub struct TokenizerTrainReport {
    pub vocab_size: i64,
    pub merges: i64,
    pub texts: i64,
    pub seconds: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: i64,
}

/// Trains a tokenizer on every text column of the inputs.
#[napi]
pub async fn train_tokenizer(
    options: TokenizerTrainOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TokenizerTrainReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        // Pages that are free go back, so that --max-memory holds.
        prepare_for(Work::Answers);
        let settings = TrainOptions {
            preset: options.model.parse::<Preset>()?,
            vocab_size: options.vocab_size as usize,
            min_frequency: u64::from(options.min_frequency),
            max_memory: options.max_memory.map(|bytes| bytes as u64),
            files: Some(expand(&options.inputs)?),
        };
        let rows = texts(&options.inputs, &input(options.encoding))?;
        let out = Path::new(&options.output);
        train(rows, &settings, out, options.force, &job).map(Into::into)
    })
    .await
}

#[napi(object)]
pub struct TokenizerRetrainOptions {
    /// The folder whose pipeline and special tokens are kept.
    pub from: String,
    pub inputs: Vec<String>,
    pub output: String,
    /// As large as the old one where left out.
    pub vocab_size: Option<u32>,
    pub min_frequency: u32,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<f64>,
    pub encoding: Option<String>,
    pub force: bool,
}

/// Trains a new vocabulary in the pipeline of an existing folder.
#[napi]
pub async fn retrain_tokenizer(
    options: TokenizerRetrainOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TokenizerTrainReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        // Pages that are free go back, so that --max-memory holds.
        prepare_for(Work::Answers);
        let settings = RetrainOptions {
            vocab_size: options.vocab_size.map(|size| size as usize),
            min_frequency: u64::from(options.min_frequency),
            max_memory: options.max_memory.map(|bytes| bytes as u64),
            files: Some(expand(&options.inputs)?),
        };
        let rows = texts(&options.inputs, &input(options.encoding))?;
        let (from, out) = (Path::new(&options.from), Path::new(&options.output));
        retrain(from, rows, &settings, out, options.force, &job).map(Into::into)
    })
    .await
}

#[napi(object)]
pub struct TokenizerFromWordsOptions {
    pub inputs: Vec<String>,
    pub output: String,
    /// Words seen more often than this become tokens.
    pub min_count: u32,
    /// Bytes that the whole process may take; by default half of what is free.
    pub max_memory: Option<f64>,
    pub encoding: Option<String>,
    pub force: bool,
}

#[napi(object)]
pub struct TokenizerFromWordsReport {
    pub vocab_size: i64,
    pub merges: i64,
    pub texts: i64,
    /// Different words in the text.
    pub words: i64,
    /// Words of two characters and more that are tokens.
    pub kept: i64,
    pub seconds: f64,
    /// The most memory this process has held.
    pub peak_rss_bytes: i64,
}

/// A tokenizer of the frequent words that jieba finds.
#[napi]
pub async fn tokenizer_from_words(
    options: TokenizerFromWordsOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TokenizerFromWordsReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        // Pages that are free go back, so that --max-memory holds.
        prepare_for(Work::Answers);
        let settings = FromWordsOptions {
            min_count: u64::from(options.min_count),
            max_memory: options.max_memory.map(|bytes| bytes as u64),
            files: Some(expand(&options.inputs)?),
        };
        let rows = texts(&options.inputs, &input(options.encoding))?;
        let out = Path::new(&options.output);
        let report = from_words(rows, &settings, out, options.force, &job)?;
        Ok(TokenizerFromWordsReport {
            vocab_size: report.vocab_size as i64,
            merges: report.merges as i64,
            texts: report.texts as i64,
            words: report.words as i64,
            kept: report.kept as i64,
            seconds: report.seconds,
            peak_rss_bytes: report.peak_rss_bytes as i64,
        })
    })
    .await
}

#[napi(object)]
pub struct TokenizerImportOptions {
    /// A `.model` file of SentencePiece.
    pub file: String,
    pub output: String,
    pub force: bool,
}

#[napi(object)]
pub struct TokenizerImportReport {
    /// `bpe` or `unigram`.
    pub model: String,
    pub vocab_size: i64,
    pub merges: i64,
    /// Tokens after the model's own, for roles that it lacks.
    pub added: Vec<String>,
}

/// A SentencePiece model as a tokenizer folder.
#[napi]
pub async fn import_tokenizer(
    options: TokenizerImportOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TokenizerImportReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        job.cancel.check()?;
        let report = import(
            Path::new(&options.file),
            Path::new(&options.output),
            options.force,
        )?;
        Ok(TokenizerImportReport {
            model: report.model,
            vocab_size: report.vocab_size as i64,
            merges: report.merges as i64,
            added: report.added,
        })
    })
    .await
}

#[napi(object)]
pub struct TokenizerExtendOptions {
    /// The tokenizer folder to extend; left out, that of `model`.
    pub tokenizer: Option<String>,
    pub tokens: Vec<String>,
    /// A T5 folder whose embeddings get a row for each new token.
    pub model: Option<String>,
    pub output: String,
    pub force: bool,
}

#[napi(object)]
pub struct TokenizerExtendReport {
    pub vocab_size: i64,
    /// New tokens; those that the vocabulary had are left out.
    pub added: i64,
    /// Rows of the model's embeddings, 0 without a model.
    pub rows: i64,
}

/// Adds tokens to a tokenizer, and rows to a model's embeddings.
#[napi]
pub async fn extend_tokenizer(
    options: TokenizerExtendOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TokenizerExtendReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let options = ExtendOptions {
            tokenizer: options.tokenizer.map(Into::into),
            tokens: options.tokens,
            model: options.model.map(Into::into),
            output: options.output.into(),
            force: options.force,
        };
        let report = extend(&options, &job)?;
        Ok(TokenizerExtendReport {
            vocab_size: report.vocab_size as i64,
            added: report.added as i64,
            rows: report.rows as i64,
        })
    })
    .await
}

fn input(encoding: Option<String>) -> InputOptions {
    InputOptions {
        encoding,
        keep_going: false,
    }
}

impl From<TrainReport> for TokenizerTrainReport {
    fn from(report: TrainReport) -> Self {
        Self {
            vocab_size: report.vocab_size as i64,
            merges: report.merges as i64,
            texts: report.texts as i64,
            seconds: report.seconds,
            peak_rss_bytes: report.peak_rss_bytes as i64,
        }
    }
}

#[napi(object)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub tokens: Vec<String>,
}

/// A tokenizer folder, loaded.
#[napi]
pub struct Tokenizer {
    inner: chatlm_tokenizer::Tokenizer,
}

#[napi]
impl Tokenizer {
    /// Loads a folder with `tokenizer.json`.
    #[napi(factory, catch_unwind)]
    pub fn load(folder: String) -> napi::Result<Self> {
        let inner = guarded(|| chatlm_tokenizer::Tokenizer::load(Path::new(&folder)))?;
        Ok(Self { inner })
    }

    /// Ids and tokens of a text; nothing is added.
    #[napi(catch_unwind)]
    pub fn encode(&self, text: String) -> napi::Result<Encoded> {
        guarded(|| {
            let ids = self.inner.encode(&text)?;
            Ok(Encoded {
                tokens: self.inner.tokens(&ids),
                ids,
            })
        })
    }

    /// The text of ids, without special tokens.
    #[napi(catch_unwind)]
    pub fn decode(&self, ids: Vec<u32>) -> napi::Result<String> {
        guarded(|| self.inner.decode(&ids))
    }

    #[napi(getter)]
    pub fn vocab_size(&self) -> u32 {
        self.inner.vocab_size() as u32
    }
}
