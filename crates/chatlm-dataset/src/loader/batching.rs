//! Which rows of a section go together, and in which order: by length, by tokens, or as they come.

use chatlm_job::Permutation;

/// How batches are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Rows a batch.
    pub(super) rows: usize,
    /// Or as many rows as fit into so many tokens, padding included.
    pub(super) tokens: Option<usize>,
    /// Rows of like lengths together.
    pub(super) by_length: bool,
}

/// Rows cut together, where batches depend on the lengths of neighbours.
const SECTION: u64 = 8192;

/// Rows encoded at a time, where they do not.
const PIECE: u64 = 512;

/// Rows kept together on the way to batches of so many tokens.
const NEIGHBOURS: usize = 8;

impl Cut {
    fn looks_at_lengths(&self) -> bool {
        self.by_length || self.tokens.is_some()
    }

    /// The places that are cut together with `place`. Sections start at multiples of their size,
    /// pieces at any batch.
    pub(super) fn section(&self, place: u64, total: u64) -> std::ops::Range<u64> {
        let batch = self.rows as u64;
        let (start, size) = if self.tokens.is_some() {
            (place - place % SECTION, SECTION)
        } else if self.looks_at_lengths() {
            let size = (SECTION / batch).max(1) * batch;
            (place - place % size, size)
        } else {
            (place, (PIECE / batch).max(1) * batch)
        };
        start..(start + size).min(total)
    }

    /// The batches of a section as lists of its rows, in the order in which they come. `lengths` are
    /// tokens by row and field; `shuffle` permutes batches of the given number.
    pub(super) fn batches(
        &self,
        lengths: &[Vec<u32>],
        shuffle: impl Fn(u64) -> Option<Permutation>,
    ) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        if self.by_length {
            let leaf = if self.tokens.is_some() {
                NEIGHBOURS
            } else {
                self.rows
            };
            cluster(&mut order, lengths, leaf);
        }
        let mut batches: Vec<Vec<usize>> = match self.tokens {
            Some(tokens) => pack(&order, lengths, tokens),
            None => order.chunks(self.rows).map(<[usize]>::to_vec).collect(),
        };
        if !self.by_length {
            return batches;
        }
        // The order inside a batch says nothing about lengths, the order of batches neither; a short
        // batch of rows stays the last, so that batches start at multiples of their size.
        for batch in &mut batches {
            batch.sort_unstable();
        }
        let short = batches.pop_if(|last| self.tokens.is_none() && last.len() < self.rows);
        if let Some(permutation) = shuffle(batches.len() as u64) {
            let mut before: Vec<_> = batches.into_iter().map(Some).collect();
            batches = (0..before.len() as u64)
                .filter_map(|place| before[permutation.at(place) as usize].take())
                .collect();
        }
        batches.extend(short);
        batches
    }
}

/// Halves the rows at a whole number of leaves along the field that varies most, until a leaf is left.
fn cluster(rows: &mut [usize], lengths: &[Vec<u32>], leaf: usize) {
    if rows.len() <= leaf {
        return;
    }
    let fields = rows.first().map_or(0, |row| lengths[*row].len());
    let spread = |field: &usize| {
        let of = |row: &usize| lengths[*row][*field];
        let (low, high) = (rows.iter().map(of).min(), rows.iter().map(of).max());
        high.unwrap_or_default() - low.unwrap_or_default()
    };
    // The first of fields that vary alike.
    let Some(field) = (0..fields).rev().max_by_key(spread) else {
        return;
    };
    let half = rows.len().div_ceil(leaf) / 2 * leaf;
    rows.select_nth_unstable_by_key(half, |row| (lengths[*row][field], *row));
    let (left, right) = rows.split_at_mut(half);
    cluster(left, lengths, leaf);
    cluster(right, lengths, leaf);
}

/// As many rows a batch as fit when each field is padded to its longest; one row fits always.
fn pack(order: &[usize], lengths: &[Vec<u32>], tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest: Vec<u32> = Vec::new();
    for row in order {
        let mut wider = longest.clone();
        wider.resize(lengths[*row].len(), 0);
        for (most, length) in wider.iter_mut().zip(&lengths[*row]) {
            *most = (*most).max(*length);
        }
        let width: usize = wider.iter().map(|most| *most as usize).sum();
        match batches.last_mut() {
            Some(batch) if width * (batch.len() + 1) <= tokens => {
                batch.push(*row);
                longest = wider;
            }
            _ => {
                batches.push(vec![*row]);
                longest.clone_from(&lengths[*row]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatlm_job::Random;
    use proptest::prelude::*;

    fn lengths(rows: usize, seed: u64) -> Vec<Vec<u32>> {
        let mut random = Random::new(seed);
        (0..rows)
            .map(|_| vec![1 + random.below(60) as u32, 1 + random.below(256) as u32])
            .collect()
    }

    fn padding(batches: &[Vec<usize>], lengths: &[Vec<u32>]) -> f64 {
        let (mut real, mut all) = (0u64, 0u64);
        for batch in batches {
            for side in ["source", "target"] {
                let of = |row: &usize| {
                    let length = &lengths[*row];
                    u64::from(if side == "source" {
                        length[0]
                    } else {
                        length[1]
                    })
                };
                real += batch.iter().map(of).sum::<u64>();
                all += batch.iter().map(of).max().unwrap_or_default() * batch.len() as u64;
            }
        }
        1.0 - real as f64 / all as f64
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_batch_and_batches_keep_their_size(
            rows in 1usize..600, size in 1usize..40, seed: u64, by_length: bool,
            tokens in prop::option::of(316usize..4000),
        ) {
            let cut = Cut { rows: size, tokens, by_length };
            let lengths = lengths(rows, seed);
            let batches = cut.batches(&lengths, |count| Some(Permutation::new(count, seed)));
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..rows).collect::<Vec<_>>());
            match tokens {
                None => {
                    let full = &batches[..batches.len() - 1];
                    prop_assert!(full.iter().all(|batch| batch.len() == size));
                }
                Some(tokens) => for batch in &batches {
                    let longest = |field: usize| batch.iter().map(|row| lengths[*row][field]).max();
                    let width = longest(0).unwrap_or(0) + longest(1).unwrap_or(0);
                    prop_assert!(width as usize * batch.len() <= tokens);
                }
            }
        }
    }

    #[test]
    fn rows_of_like_lengths_come_together_and_their_batches_in_any_order() {
        let lengths = lengths(8192, 1);
        let cut = |by_length, tokens| Cut {
            rows: 16,
            tokens,
            by_length,
        };
        let shuffle = |count| Some(Permutation::new(count, 3));
        let grouped = cut(true, None).batches(&lengths, shuffle);
        let plain = cut(false, None).batches(&lengths, shuffle);
        assert!(padding(&plain, &lengths) > 0.4);
        assert!(padding(&grouped, &lengths) < 0.08);
        assert!(padding(&cut(true, Some(4096)).batches(&lengths, shuffle), &lengths) < 0.1);
        let longest: Vec<u32> = grouped
            .iter()
            .map(|batch| batch.iter().map(|row| lengths[*row][1]).max().unwrap_or(0))
            .collect();
        let rising = longest.windows(2).filter(|two| two[0] < two[1]).count();
        assert!((200..312).contains(&rising), "{rising} of 511");
    }
}
