//! Near-duplicates: a row falls when some earlier row, kept or not, has a Jaccard similarity of at
//! least the threshold with it. Shingles ([`text`]) are character n-grams of prompt and response after
//! NFKC, without white space; MinHash ([`minhash`]) and LSH ([`bands`]) find the candidates, exact
//! sets decide ([`judge`], [`join`]). Rows are numbered as `chatlm-dataset` numbers them.
//!
//! Texts and keys lie in a file ([`spill`]), a few numbers a row in memory ([`state`]); docs/dedup.md
//! tells how much. The same rows give the same answer for any number of threads and any memory, and a
//! run that was broken off goes on ([`work`]).

mod bands;
#[cfg(test)]
mod brute;
mod compat;
mod join;
mod judge;
mod memory;
mod method;
mod minhash;
mod options;
mod output;
mod report;
mod run;
mod sets;
mod source;
mod spill;
mod state;
mod text;
mod verdicts;
mod work;

pub use minhash::Bands;
pub use options::{DedupOptions, DedupReport};
pub use run::dedup;
