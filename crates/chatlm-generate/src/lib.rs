//! Decoding: greedy and sampled, many prompts at once, with a key and value cache. Ids in, ids out;
//! text is the tokenizer's business.
//!
//! The filters follow `transformers`' logits processors, so that the same model gives the same
//! greedy answer there and here.

mod decode;
mod decoder;
mod filter;
mod settings;

pub use decode::{Request, generate};
pub use decoder::{Decoder, Plain};
pub use settings::{Search, Settings};
