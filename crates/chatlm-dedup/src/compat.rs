//! What the reference program does: datasketch's MinHash over the set of kept characters, 256
//! permutations with seed 1, LSH at 0.85 (13 bands of 19), nothing verified.
//!
//! datasketch 1.6 (`minhash.py`): a character's hash is the first four bytes of its UTF-8's SHA-1; each
//! permutation is (a·h + b) modulo 2⁶⁴, modulo 2⁶¹ − 1, the lower 32 bits, with a and b drawn in turn
//! from numpy's `RandomState(1)`.

use std::collections::HashMap;

use sha1::{Digest, Sha1};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::minhash::Bands;
use crate::text::characters;

const PERMUTATIONS: usize = 256;
const PRIME: u64 = (1 << 61) - 1;

/// What datasketch chooses for 256 permutations at 0.85 with both errors weighing the same.
pub(crate) const BANDS: Bands = Bands {
    count: 13,
    rows: 19,
};
pub(crate) const THRESHOLD: f64 = 0.85;

/// The reference's pattern of characters; it keeps `[` and `|` by oversight.
fn is_kept(c: char) -> bool {
    matches!(c, '一'..='龥' | '|' | '[' | 'A'..='Z' | 'a'..='z' | '0'..='9' | '_')
}

/// Appends the characters of prompt and response that count.
pub(crate) fn keep(prompt: &str, response: &str, text: &mut Vec<u16>) {
    let kept = prompt
        .chars()
        .chain(response.chars())
        .filter(|c| is_kept(*c));
    text.extend(kept.map(|c| c as u16));
}

#[derive(Debug, Clone)]
pub(crate) struct Datasketch {
    multipliers: Vec<u64>,
    addends: Vec<u64>,
}

/// Memory that signing one text after another uses again.
#[derive(Debug, Default)]
pub(crate) struct CompatScratch {
    known: HashMap<u32, u32>,
    letters: Vec<u32>,
}

impl Datasketch {
    pub(crate) fn new() -> Self {
        let mut random = Twister::new(1);
        let (multipliers, addends) = (0..PERMUTATIONS)
            .map(|_| (1 + random.below(PRIME - 1), random.below(PRIME)))
            .unzip();
        Self {
            multipliers,
            addends,
        }
    }

    fn signature(&self, text: &[u16], scratch: &mut CompatScratch) -> [u32; PERMUTATIONS] {
        scratch.letters.clear();
        scratch.letters.extend(characters(text));
        scratch.letters.sort_unstable();
        scratch.letters.dedup();
        let mut least = [u32::MAX; PERMUTATIONS];
        for &letter in &scratch.letters {
            let hash = u64::from(
                *scratch
                    .known
                    .entry(letter)
                    .or_insert_with(|| sha1_32(letter)),
            );
            let functions = self.multipliers.iter().zip(&self.addends);
            for (least, (a, b)) in least.iter_mut().zip(functions) {
                let value = a.wrapping_mul(hash).wrapping_add(*b) % PRIME;
                *least = (*least).min(value as u32);
            }
        }
        least
    }

    /// Hands on one key a band.
    pub(crate) fn keys(
        &self,
        text: &[u16],
        scratch: &mut CompatScratch,
        mut take: impl FnMut(usize, u64),
    ) {
        let signature = self.signature(text, scratch);
        let bands = signature.chunks_exact(BANDS.rows).take(BANDS.count);
        for (band, rows) in bands.enumerate() {
            take(
                band,
                xxh3_64_with_seed(bytemuck::cast_slice(rows), band as u64),
            );
        }
    }
}

fn sha1_32(letter: u32) -> u32 {
    let letter = char::from_u32(letter).unwrap_or_default();
    let digest = Sha1::digest(letter.encode_utf8(&mut [0; 4]).as_bytes());
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// MT19937 as numpy's `RandomState` seeds and reads it (Matsumoto and Nishimura 1998).
struct Twister {
    state: [u32; 624],
    place: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before: u32 = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, place: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.place == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ odd;
            }
            self.place = 0;
        }
        let mut y = self.state[self.place];
        self.place += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in `0..bound`, by numpy's masked rejection.
    fn below(&mut self, bound: u64) -> u64 {
        let mask = u64::MAX >> (bound - 1).leading_zeros();
        loop {
            let high = u64::from(self.next());
            let value = ((high << 32) | u64::from(self.next())) & mask;
            if value < bound {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RandomState(1)` of numpy 2.4: the first two pairs and the last of 256.
    #[test]
    fn permutations_are_numpys() {
        let sketch = Datasketch::new();
        let pair = |i: usize| (sketch.multipliers[i], sketch.addends[i]);
        assert_eq!(
            pair(0),
            (775_169_054_918_279_404, 1_758_426_461_858_698_312)
        );
        assert_eq!(pair(1), (2_109_959_069_025_162, 965_365_488_286_768_773));
        assert_eq!(
            pair(255),
            (1_369_100_512_183_171_272, 1_825_998_840_733_297_350)
        );
    }

    #[test]
    fn a_text_without_kept_characters_is_like_any_other_such() {
        let mut text = Vec::new();
        keep("？！", "，《》😀", &mut text);
        assert!(text.is_empty());
        let signature = Datasketch::new().signature(&text, &mut CompatScratch::default());
        assert_eq!(signature, [u32::MAX; PERMUTATIONS]);
    }
}
