//! Training tokenizers, encoding and decoding through the tokenizers crate.
//!
//! Owns tokenizer folders (`tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`) in the
//! form that `transformers` and `tokenizers` load. Presets and special tokens follow the reference
//! program's `train_tokenizer.py`; where they differ, `preset.rs` says why.

mod ahead;
mod bpe;
mod count;
mod direct;
mod extend;
mod folder;
mod from_words;
mod jieba;
mod memory;
mod preset;
mod report;
mod retrain;
mod sentencepiece;
mod stream;
mod tokenizer;
mod train;
mod unigram;
mod words;
mod work;

pub use extend::Extended;
pub use from_words::{FromWordsOptions, FromWordsReport, from_words};
pub use preset::{Preset, SPECIAL_TOKENS};
pub use report::{Figures, RowTexts, TokenizerReport, report};
pub use retrain::{RetrainOptions, retrain};
pub use sentencepiece::{ImportReport, import};
pub use stream::DecodeStream;
pub use tokenizer::Tokenizer;
pub use train::{TrainOptions, TrainReport, train};
