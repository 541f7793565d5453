//! The Node border, one file a noun: options in, one call of the core, the error mapped, the value
//! out. No logic and no defaults live here. The doc comments are the documentation of `index.d.ts`.

// Border types are taken apart by the macro; their names and passing are the border's, not Rust's.
#![allow(
    clippy::needless_pass_by_value,
    clippy::unused_async,
    reason = "napi's calling convention"
)]
#![allow(unreachable_pub, reason = "exported to Node by the macro")]
// The macro exports nothing in test builds, which clippy looks at too.
#![cfg_attr(test, allow(dead_code, reason = "exported to Node outside tests"))]

mod allocator;
mod bench;
mod bench_encode;
mod checkpoint;
mod clean;
mod dataset;
mod dedup;
mod doctor;
mod error;
mod evaluation;
mod generate;
mod job;
mod lock;
mod plan;
mod rows;
mod serving;
mod tokenizer;
mod tokenizer_report;
mod train;
