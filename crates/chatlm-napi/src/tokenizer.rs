//! Training a tokenizer and using one.

use std::path::Path;

use chatlm_dataset::{InputOptions, expand, texts};
use chatlm_tokenizer::{Preset, TrainOptions, train};
use napi_derive::napi;

use crate::allocator::{Work, prepare_for};
use crate::error::{blocking, guarded};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct TokenizerTrainOptions {
    pub inputs: Vec<String>,
    /// The folder to write.
    pub output: String,
    /// `char-bpe` or `byte-bpe`.
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
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: false,
        };
        let rows = texts(&options.inputs, &input)?;
        let report = train(
            rows,
            &settings,
            Path::new(&options.output),
            options.force,
            &job,
        )?;
        Ok(TokenizerTrainReport {
            vocab_size: report.vocab_size as i64,
            merges: report.merges as i64,
            texts: report.texts as i64,
            seconds: report.seconds,
            peak_rss_bytes: report.peak_rss_bytes as i64,
        })
    })
    .await
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
