//! Near-duplicates: shingles, MinHash, LSH, verified Jaccard similarity, clusters.

mod corpus;
mod find;
mod groups;
mod index;
mod minhash;
mod text;
