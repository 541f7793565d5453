//! The rows as documents: rows of equal text share one, so that a text repeated a million times is
//! compared once. Documents are numbered by their first row.

use std::collections::HashMap;

use chatlm_job::{Code, Error, Result};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::minhash::MinHash;
use crate::text::{Shingle, normalize, shingles};

#[derive(Debug)]
pub(crate) struct Corpus {
    ngram: usize,
    bands: usize,
    minhash: MinHash,
    /// Normalized texts of the documents, end to end.
    texts: String,
    ends: Vec<usize>,
    /// Number of distinct shingles of each document.
    sizes: Vec<u32>,
    /// `keys[document * bands + band]`.
    keys: Vec<u64>,
    /// The document of each row of the set being filled.
    rows: Vec<u32>,
    /// Documents of the set being filled, by hash of the text.
    known: HashMap<u64, u32>,
    /// Documents below this one belong to the other set (`--against`).
    own: u32,
}

impl Corpus {
    pub(crate) fn new(ngram: usize, bands: usize, minhash: MinHash) -> Self {
        Self {
            ngram,
            bands,
            minhash,
            texts: String::new(),
            ends: Vec::new(),
            sizes: Vec::new(),
            keys: Vec::new(),
            rows: Vec::new(),
            known: HashMap::new(),
            own: 0,
        }
    }

    /// What was added so far is the other set; from here on come the rows to judge.
    pub(crate) fn own_rows_follow(&mut self) {
        self.own = self.documents();
        self.rows.clear();
        self.known.clear();
    }

    /// Adds rows of prompt and response, the work spread over all threads, the order kept.
    pub(crate) fn add(&mut self, rows: &[(&str, &str)]) -> Result<()> {
        let texts: Vec<(String, u64)> = rows
            .par_iter()
            .map(|(prompt, response)| {
                let text = normalize(prompt, response);
                let hash = xxh3_64(text.as_bytes());
                (text, hash)
            })
            .collect();
        let first = self.documents();
        for (text, hash) in &texts {
            let known = self
                .known
                .get(hash)
                .copied()
                .filter(|&known| self.text(known) == text);
            let document = known.unwrap_or_else(|| {
                let document = self.documents();
                self.texts.push_str(text);
                self.ends.push(self.texts.len());
                // Of two texts with one hash the later is a document of its own, found by its bands.
                self.known.entry(*hash).or_insert(document);
                document
            });
            self.rows.push(document);
        }
        let signed: Vec<(u32, Vec<u64>)> = (first..self.documents())
            .into_par_iter()
            .map(|document| {
                let set = self.shingles(document);
                (set.len() as u32, self.minhash.keys(&set))
            })
            .collect();
        for (size, keys) in signed {
            self.sizes.push(size);
            self.keys.extend(keys);
        }
        // Documents have 32-bit numbers, of which the last means none.
        if self.ends.len() >= u32::MAX as usize {
            return Err(Error::new(
                Code::Usage,
                "more than four thousand million different texts cannot be compared at once",
                "split the inputs",
            ));
        }
        Ok(())
    }

    pub(crate) fn documents(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The first document of the set to judge.
    pub(crate) fn own(&self) -> u32 {
        self.own
    }

    /// The document of each row to judge.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.rows
    }

    pub(crate) fn keys(&self) -> &[u64] {
        &self.keys
    }

    pub(crate) fn bands(&self) -> usize {
        self.bands
    }

    pub(crate) fn size(&self, document: u32) -> u32 {
        self.sizes[document as usize]
    }

    /// The exact set of shingles.
    pub(crate) fn shingles(&self, document: u32) -> Vec<Shingle> {
        shingles(self.text(document), self.ngram)
    }

    fn text(&self, document: u32) -> &str {
        let document = document as usize;
        let start = if document == 0 {
            0
        } else {
            self.ends[document - 1]
        };
        &self.texts[start..self.ends[document]]
    }
}
