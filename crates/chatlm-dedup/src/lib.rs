//! Near-duplicates: a row falls when some earlier row, kept or not, has a Jaccard similarity of at
//! least the threshold with it. Shingles ([`text`]) are character n-grams of prompt and response after
//! NFKC, without white space; MinHash ([`minhash`]) and LSH ([`index`]) find the candidates, exact
//! sets decide ([`find`]). Rows are numbered as `chatlm-dataset` numbers them.
//!
//! Memory: the normalized texts and the band keys are held, the sets are made again for each
//! comparison; the rows themselves are read twice instead. The same rows give the same answer for any
//! number of threads.

mod corpus;
mod find;
mod groups;
mod index;
mod minhash;
mod options;
mod run;
mod text;

pub use minhash::Bands;
pub use options::{DedupOptions, DedupReport};
pub use run::dedup;
