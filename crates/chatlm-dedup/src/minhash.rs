//! MinHash signatures and how they are cut into bands for locality-sensitive hashing
//! (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3).
//!
//! The hash family is version 1 and pinned: a shingle's sixteen little-endian bytes are hashed by
//! XXH3 to 64 bits x, and permutation i is the upper half of aᵢ·x + bᵢ modulo 2⁶⁴, aᵢ odd, aᵢ and bᵢ
//! drawn in turn from SplitMix64 with the key "MINHASH1". A change of any of it changes which
//! candidates are seen, so it needs a new version.

use chatlm_job::{Code, Error, Random, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::text::Shingle;

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

/// The hash functions of a signature.
#[derive(Debug, Clone)]
pub(crate) struct MinHash {
    bands: Bands,
    multipliers: Vec<u64>,
    addends: Vec<u64>,
}

impl MinHash {
    pub(crate) fn new(bands: Bands) -> Self {
        let mut random = Random::new(KEY);
        let (mut multipliers, mut addends) = (Vec::new(), Vec::new());
        for _ in 0..bands.count * bands.rows {
            multipliers.push(random.bits() | 1);
            addends.push(random.bits());
        }
        Self {
            bands,
            multipliers,
            addends,
        }
    }

    /// The smallest value of each permutation over the set.
    pub(crate) fn signature(&self, shingles: &[Shingle]) -> Vec<u32> {
        let mut signature = vec![u32::MAX; self.multipliers.len()];
        for shingle in shingles {
            let x = xxh3_64(&shingle.to_le_bytes());
            let functions = self.multipliers.iter().zip(&self.addends);
            for (least, (a, b)) in signature.iter_mut().zip(functions) {
                *least = (*least).min((a.wrapping_mul(x).wrapping_add(*b) >> 32) as u32);
            }
        }
        signature
    }

    /// One key a band: equal where all rows of the band are equal.
    pub(crate) fn keys(&self, shingles: &[Shingle]) -> Vec<u64> {
        let signature = self.signature(shingles);
        let mut bytes = Vec::with_capacity(self.bands.rows * 4);
        signature
            .chunks_exact(self.bands.rows)
            .zip(0u64..)
            .map(|(rows, band)| {
                bytes.clear();
                bytes.extend(rows.iter().flat_map(|row| row.to_le_bytes()));
                xxh3_64_with_seed(&bytes, band)
            })
            .collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::text::{jaccard, shingles};

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

    #[test]
    fn signatures_estimate_similarity() {
        let minhash = MinHash::new(Bands {
            count: 1,
            rows: 1024,
        });
        let text: String = (0..600u32)
            .filter_map(|i| char::from_u32(0x4e00 + i * 7))
            .collect();
        for cut in [30, 90, 240] {
            let a = shingles(&text, 5);
            let b = shingles(&text.chars().skip(cut).collect::<String>(), 5);
            let (p, q) = (minhash.signature(&a), minhash.signature(&b));
            let equal = p.iter().zip(&q).filter(|(x, y)| x == y).count() as f64 / 1024.0;
            assert!(
                (equal - jaccard(&a, &b)).abs() < 0.05,
                "{equal} for {}",
                jaccard(&a, &b)
            );
        }
    }

    #[test]
    fn the_hash_family_is_pinned() {
        let keys =
            MinHash::new(Bands { count: 2, rows: 4 }).keys(&shingles("床前明月光，疑是地上霜", 5));
        assert_eq!(keys, PINNED);
    }

    /// Written down when version 1 was made.
    const PINNED: [u64; 2] = [3_288_420_191_086_510_153, 14_638_609_456_946_275_841];
}
