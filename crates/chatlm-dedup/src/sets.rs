//! Exact sets of shingles and their similarity. One set is a table, the others are looked up in it:
//! nothing is sorted, and the memory is used again for each pair.

use crate::text::{Shingle, each_shingle};

/// No shingle: packed ones use 126 bits, and the mark of a short text stands alone.
const EMPTY: Shingle = Shingle::MAX;

/// The distinct shingles of one text, as a list and, once asked for, as a table.
#[derive(Debug, Default)]
pub(crate) struct Set {
    items: Vec<Shingle>,
    slots: Vec<Shingle>,
    mask: usize,
}

fn slot(shingle: Shingle, mask: usize) -> usize {
    let folded = (shingle as u64) ^ ((shingle >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = folded.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 32) as usize & mask
}

impl Set {
    /// Makes it the set of this text.
    pub(crate) fn fill(&mut self, text: &[u16], ngram: usize) {
        let slots = (text.len().max(4) * 2).next_power_of_two();
        self.mask = slots - 1;
        self.slots.clear();
        self.slots.resize(slots, EMPTY);
        self.items.clear();
        let (slots, items, mask) = (&mut self.slots, &mut self.items, self.mask);
        each_shingle(text, ngram, |shingle| {
            let mut at = slot(shingle, mask);
            while slots[at] != EMPTY {
                if slots[at] == shingle {
                    return;
                }
                at = (at + 1) & mask;
            }
            slots[at] = shingle;
            items.push(shingle);
        });
    }

    pub(crate) fn items(&self) -> &[Shingle] {
        &self.items
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    fn holds(&self, shingle: Shingle) -> bool {
        let mut at = slot(shingle, self.mask);
        loop {
            let there = self.slots[at];
            if there == shingle {
                return true;
            }
            if there == EMPTY {
                return false;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// The Jaccard similarity, where it reaches the threshold.
    pub(crate) fn similarity(&self, other: &Self, threshold: f64) -> Option<f64> {
        let (a, b) = (self.len(), other.len());
        if a.min(b) as f64 / (a.max(b) as f64) < threshold {
            return None;
        }
        let (table, list) = (self, &other.items);
        // Misses that cannot be made up for end it early; one to spare, as the last word is exact.
        let needed = (threshold * (a + b) as f64 / (1.0 + threshold)).floor() as usize;
        let mut misses = (list.len() + 1).saturating_sub(needed);
        let mut both = 0;
        for &shingle in list {
            if table.holds(shingle) {
                both += 1;
            } else {
                misses = misses.checked_sub(1)?;
            }
        }
        let similarity = both as f64 / (a + b - both) as f64;
        (similarity >= threshold).then_some(similarity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests::{jaccard, normalized, shingles};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn similarity_is_that_of_plain_sets(
            a in "[ab一二]{0,24}", b in "[ab一二]{0,24}", ngram in 1usize..8, threshold in 0.01f64..=1.0,
        ) {
            let texts = [&a, &b].map(|text| normalized(text, ""));
            let expected = jaccard(&shingles(&texts[0], ngram), &shingles(&texts[1], ngram));
            let sets = texts.map(|text| {
                let mut set = Set::default();
                set.fill("used before".encode_utf16().collect::<Vec<_>>().as_slice(), ngram);
                set.fill(&text, ngram);
                set
            });
            let found = sets[0].similarity(&sets[1], threshold);
            prop_assert_eq!(found, (expected >= threshold).then_some(expected));
        }
    }
}
