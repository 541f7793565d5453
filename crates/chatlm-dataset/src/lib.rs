//! Tables in and out: rows of parquet, json, csv and text files as a stream, tables written whole or
//! not at all, and the loader that turns rows into shuffled, encoded batches that resume exactly.
//!
//! Leaves cleaning and deduplication to their own crates and knows no tensors: a batch is token ids.

mod chunks;
mod columns;
mod copying;
mod encoding;
mod exchange;
mod input;
mod inspect;
mod json;
mod lines;
mod loader;
mod mended;
mod packed;
mod parquet;
mod prompts;
mod rows;
mod separated;
mod table;
mod writer;

pub use chunks::{ChunkWriter, EncodedChunk};
pub use columns::{Chunk, ColumnFile, Piece, read_exact_at};
pub use exchange::{RowBatches, RowTable};
pub use input::{InputOptions, expand};
pub use inspect::{Bucket, ColumnDescription, Inspection, Lengths, inspect};
pub use loader::{Batch, Cursor, Loader, LoaderOptions, SetSpec, Shard};
pub use prompts::Prompts;
pub use rows::{Row, Rows};
pub use table::{Cells, Schema, Split, Written, corpus, merge, row_texts, split, texts};
pub use writer::{Cell, ColumnKind, TableWriter};
