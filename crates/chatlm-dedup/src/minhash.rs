//! MinHash signatures and how they are cut into bands for locality-sensitive hashing
//! (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3).
//!
//! The hash family is version 1 and pinned: a shingle's sixteen little-endian bytes are hashed by
//! XXH3 to 64 bits x, and permutation i is the upper half of aᵢ·x + bᵢ modulo 2⁶⁴, aᵢ odd, aᵢ and bᵢ
//! drawn in turn from SplitMix64 with the key "MINHASH1". A change of any of it changes which
//! candidates are seen, so it needs a new version.

use chatlm_job::{Code, Error, Random, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::text::each_shingle;

/// The eight letters `MINHASH1`, the last of them the version.
const KEY: u64 = u64::from_be_bytes(*b"MINHASH1");
/// The least chance with which a pair exactly at the threshold becomes a candidate.
const RECALL: f64 = 0.985;

/// Bands of rows: two texts are candidates when one band of their signatures agrees in all its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bands {
    pub count: usize,
    pub rows: usize,
}

impl Bands {
    /// The longest bands (fewest false candidates) that find a pair at the threshold with a chance
    /// of at least 0.985; pairs above the threshold are found more surely still.
    pub fn choose(threshold: f64, permutations: usize) -> Result<Self> {
        (1..=permutations)
            .rev()
            .map(|rows| Self { count: permutations / rows, rows })
            .find(|bands| bands.chance(threshold) >= RECALL)
            .ok_or_else(|| {
                let needed = ((1.0 - RECALL).ln() / (1.0 - threshold).ln()).ceil();
                Error::new(
                    Code::Usage,
                    format!("{permutations} permutations cannot find pairs of similarity {threshold} reliably"),
                    format!("give --num-perm {needed} or more, or a higher --threshold"),
                )
            })
    }

    /// The chance that a pair of this similarity becomes a candidate.
    pub fn chance(self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.count as i32)
    }
}

/// Permutations that are computed side by side: as many as AVX-512 holds in registers with their
/// multipliers and addends.
const SIDE: usize = 32;

/// The hash functions of a signature, filled up to whole [`SIDE`]s.
#[derive(Debug, Clone)]
pub(crate) struct MinHash {
    bands: Bands,
    multipliers: Vec<u64>,
    addends: Vec<u64>,
    arch: pulp::Arch,
}

/// Memory that signing one text after another uses again.
#[derive(Debug, Default)]
pub(crate) struct SignScratch {
    hashes: Vec<u64>,
    least: Vec<u64>,
    bytes: Vec<u8>,
}

impl MinHash {
    pub(crate) fn new(bands: Bands) -> Self {
        let mut random = Random::new(KEY);
        let (mut multipliers, mut addends) = (Vec::new(), Vec::new());
        for _ in 0..bands.count * bands.rows {
            multipliers.push(random.bits() | 1);
            addends.push(random.bits());
        }
        let whole = multipliers.len().next_multiple_of(SIDE);
        multipliers.resize(whole, 0);
        addends.resize(whole, 0);
        Self {
            bands,
            multipliers,
            addends,
            arch: pulp::Arch::new(),
        }
    }

    /// The smallest value of each permutation over the text's shingles, in the upper halves.
    fn least<'a>(&self, text: &[u16], ngram: usize, scratch: &'a mut SignScratch) -> &'a [u64] {
        scratch.hashes.clear();
        each_shingle(text, ngram, |shingle| {
            scratch.hashes.push(xxh3_64(&shingle.to_le_bytes()));
        });
        scratch.least.resize(self.multipliers.len(), 0);
        let (hashes, least) = (&scratch.hashes, &mut scratch.least);
        self.arch
            .dispatch(|| minima(&self.multipliers, &self.addends, hashes, least));
        &scratch.least[..self.bands.count * self.bands.rows]
    }

    /// Hands on one key a band: equal where all rows of the band are equal.
    pub(crate) fn keys(
        &self,
        text: &[u16],
        ngram: usize,
        scratch: &mut SignScratch,
        mut take: impl FnMut(usize, u64),
    ) {
        let mut bytes = std::mem::take(&mut scratch.bytes);
        let least = self.least(text, ngram, scratch);
        for (band, rows) in least.chunks_exact(self.bands.rows).enumerate() {
            bytes.clear();
            bytes.extend(
                rows.iter()
                    .flat_map(|row| ((row >> 32) as u32).to_le_bytes()),
            );
            take(band, xxh3_64_with_seed(&bytes, band as u64));
        }
        scratch.bytes = bytes;
    }
}

/// `least[i]` = the smallest of `multipliers[i] * hash + addends[i]`. Plain code that the compiler turns
/// into vector code for each processor it is dispatched for; lengths are multiples of [`SIDE`].
#[expect(
    clippy::inline_always,
    reason = "the dispatched code must be this function's own"
)]
#[inline(always)]
fn minima(multipliers: &[u64], addends: &[u64], hashes: &[u64], least: &mut [u64]) {
    let (multipliers, _) = multipliers.as_chunks::<SIDE>();
    let (addends, _) = addends.as_chunks::<SIDE>();
    let (least, _) = least.as_chunks_mut::<SIDE>();
    for ((a, b), least) in multipliers.iter().zip(addends).zip(least) {
        let mut smallest = [u64::MAX; SIDE];
        for &x in hashes {
            for i in 0..SIDE {
                smallest[i] = smallest[i].min(a[i].wrapping_mul(x).wrapping_add(b[i]));
            }
        }
        *least = smallest;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::text::tests::{jaccard, normalized, shingles};
    use proptest::prelude::*;

    #[test]
    fn bands_reach_the_recall_and_no_longer_ones_do() {
        for (threshold, bands) in [
            (0.85, (16, 8)),
            (0.7, (25, 5)),
            (0.5, (42, 3)),
            (1.0, (1, 128)),
        ] {
            let chosen = Bands::choose(threshold, 128).unwrap();
            assert_eq!((chosen.count, chosen.rows), bands, "at {threshold}");
            assert!(chosen.chance(threshold) >= RECALL);
        }
        let error = Bands::choose(0.01, 128).unwrap_err();
        assert!(error.help().contains("--num-perm 418"), "{}", error.help());
    }

    fn keys(minhash: &MinHash, text: &str, ngram: usize) -> Vec<u64> {
        let mut keys = Vec::new();
        let text: Vec<u16> = text.encode_utf16().collect();
        minhash.keys(&text, ngram, &mut SignScratch::default(), |_, key| {
            keys.push(key);
        });
        keys
    }

    #[test]
    fn signatures_estimate_similarity() {
        let minhash = MinHash::new(Bands {
            count: 1024,
            rows: 1,
        });
        let text: String = (0..600u32)
            .filter_map(|i| char::from_u32(0x4e00 + i * 7))
            .collect();
        for cut in [30, 90, 240] {
            let other: String = text.chars().skip(cut).collect();
            let (p, q) = (keys(&minhash, &text, 5), keys(&minhash, &other, 5));
            let equal = p.iter().zip(&q).filter(|(x, y)| x == y).count() as f64 / 1024.0;
            let [a, b] = [&text, &other].map(|text| shingles(&normalized(text, ""), 5));
            assert!(
                (equal - jaccard(&a, &b)).abs() < 0.05,
                "{equal} for {}",
                jaccard(&a, &b)
            );
        }
    }

    proptest! {
        #[test]
        fn vector_code_equals_the_formula(hashes in prop::collection::vec(any::<u64>(), 0..70), rows in 1usize..70) {
            let minhash = MinHash::new(Bands { count: 1, rows });
            let mut least = vec![0; minhash.multipliers.len()];
            minhash.arch.dispatch(|| minima(&minhash.multipliers, &minhash.addends, &hashes, &mut least));
            for (i, least) in least.iter().enumerate() {
                let (a, b) = (minhash.multipliers[i], minhash.addends[i]);
                let expected = hashes.iter().map(|x| a.wrapping_mul(*x).wrapping_add(b)).min();
                prop_assert_eq!(*least, expected.unwrap_or(u64::MAX));
            }
        }
    }

    #[test]
    fn the_hash_family_is_pinned() {
        let minhash = MinHash::new(Bands { count: 2, rows: 4 });
        assert_eq!(keys(&minhash, "床前明月光，疑是地上霜", 5), PINNED);
    }

    /// Written down when version 1 was made.
    const PINNED: [u64; 2] = [3_288_420_191_086_510_153, 14_638_609_456_946_275_841];
}
