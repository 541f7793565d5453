//! Randomness that is a pure function of a key and a counter, so that it can be saved as two
//! numbers and never depends on threads or on the order of calls elsewhere.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
//! generators", 2014) over `key + counter * golden`.

use serde::{Deserialize, Serialize};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Derives a key from a key and a number: `mix(mix(seed, epoch), row)` is a stream of its own.
#[inline]
pub fn mix(key: u64, number: u64) -> u64 {
    finish(finish(key.wrapping_add(GOLDEN)) ^ number.wrapping_mul(GOLDEN))
}

/// A stream of random numbers whose whole state is its key and its counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Random {
    key: u64,
    counter: u64,
}

impl Random {
    pub fn new(key: u64) -> Self {
        Self { key, counter: 0 }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        finish(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..bound`; 0 where the bound is 0. (Lemire's multiplication, bias below 2⁻⁶⁴·bound.)
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Standard normal, by Box and Muller's method.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// A permutation of `0..len` whose value at any place is computed without the others:
/// a four-round Feistel network over the next even number of bits, walked until inside.
#[derive(Debug, Clone)]
pub struct Permutation {
    len: u64,
    half: u32,
    key: u64,
}

impl Permutation {
    pub fn new(len: u64, key: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self {
            len,
            half: bits.div_ceil(2).max(1),
            key,
        }
    }

    /// Where `index` goes; a bijection on `0..len`. Indices outside map to themselves.
    pub fn at(&self, index: u64) -> u64 {
        if index >= self.len {
            return index;
        }
        let mask = (1u64 << self.half) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half, value & mask);
            for round in 0..4u64 {
                (left, right) = (right, left ^ (mix(mix(self.key, round), right) & mask));
            }
            value = (left << self.half) | right;
            if value < self.len {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_permutation_visits_every_index_once(len in 0u64..2000, key: u64) {
            let permutation = Permutation::new(len, key);
            let mut seen: Vec<u64> = (0..len).map(|i| permutation.at(i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn a_saved_stream_goes_on(key: u64, drawn in 0usize..50) {
            let mut stream = Random::new(key);
            for _ in 0..drawn { stream.bits(); }
            let mut restored: Random =
                serde_json::from_str(&serde_json::to_string(&stream).unwrap_or_default())
                    .unwrap_or_else(|_| Random::new(0));
            prop_assert_eq!(stream.bits(), restored.bits());
        }
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut random = Random::new(7);
        let count = 200_000;
        let (mut sum, mut normal, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            sum += random.uniform();
            let n = random.normal();
            normal += n;
            square += n * n;
        }
        let count = f64::from(count);
        assert!((sum / count - 0.5).abs() < 5e-3);
        assert!((normal / count).abs() < 1e-2);
        assert!((square / count - 1.0).abs() < 2e-2);
    }
}
