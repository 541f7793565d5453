//! Decoding: greedy, sampled, with beams, contrastive; many prompts at once over one [`Decoder`]. Ids
//! in, ids out; text is the tokenizer's business, and the [`Observer`]'s.
//!
//! Searches and filters follow `transformers`, so that the same model gives the same answer there and
//! here. The numbers behind that are in `test/golden/generate`.
//!
//! [`generate`] is one call; [`Batch`] is the same step by step, for requests that come and go.

mod batch;
mod beams;
mod contrastive;
mod decode;
mod decoder;
mod draw;
mod filter;
mod lines;
mod settings;
mod writer;

pub use batch::{Batch, Done, Request};
pub use decode::generate;
pub use decoder::{Decoder, Plain};
pub use settings::{EarlyStopping, Search, Settings};
pub use writer::{Answer, End, Observer};
