//! How rows become texts, keys and sets: shingles with verified similarity, or the reference's way.

use crate::compat::{self, CompatScratch, Datasketch};
use crate::minhash::{Bands, MinHash, SignScratch};
use crate::spill::{BROKEN, Signed};
use crate::text::normalize;

#[derive(Debug)]
pub(crate) enum Method {
    Shingles {
        ngram: usize,
        threshold: f64,
        bands: Bands,
        minhash: MinHash,
    },
    /// `--compat`: a shared band is enough.
    Compat(Datasketch),
}

impl Method {
    pub(crate) fn bands(&self) -> Bands {
        match self {
            Self::Shingles { bands, .. } => *bands,
            Self::Compat(_) => compat::BANDS,
        }
    }

    pub(crate) fn threshold(&self) -> f64 {
        match self {
            Self::Shingles { threshold, .. } => *threshold,
            Self::Compat(_) => compat::THRESHOLD,
        }
    }

    /// Characters of a shingle.
    pub(crate) fn ngram(&self) -> usize {
        match self {
            Self::Shingles { ngram, .. } => *ngram,
            Self::Compat(_) => 1,
        }
    }

    /// Whether exact sets decide.
    pub(crate) fn verifies(&self) -> bool {
        matches!(self, Self::Shingles { .. })
    }

    /// Signs rows of prompt and response; `None` is a row that could not be read.
    pub(crate) fn sign<'a>(
        &self,
        rows: usize,
        pairs: impl Iterator<Item = Option<(&'a str, &'a str)>>,
    ) -> Signed {
        let mut signed = Signed {
            lengths: Vec::with_capacity(rows),
            hashes: Vec::with_capacity(rows),
            keys: vec![0; rows * self.bands().count],
            texts: Vec::with_capacity(rows * 128),
        };
        let (mut scratch, mut compat) = (SignScratch::default(), CompatScratch::default());
        for (row, pair) in pairs.enumerate() {
            let Some((prompt, response)) = pair else {
                signed.lengths.push(BROKEN);
                signed.hashes.push(0);
                continue;
            };
            let start = signed.texts.len();
            match self {
                Self::Shingles { .. } => normalize(prompt, response, &mut signed.texts),
                Self::Compat(_) => compat::keep(prompt, response, &mut signed.texts),
            }
            let text = &signed.texts[start..];
            signed.lengths.push(text.len() as u32);
            let bytes: &[u8] = bytemuck::cast_slice(text);
            signed.hashes.push(xxhash_rust::xxh3::xxh3_64(bytes));
            let keys = &mut signed.keys;
            let put = |band: usize, key| keys[band * rows + row] = key;
            match self {
                Self::Shingles { ngram, minhash, .. } => {
                    minhash.keys(text, *ngram, &mut scratch, put);
                }
                Self::Compat(sketch) => sketch.keys(text, &mut compat, put),
            }
        }
        signed
    }
}
