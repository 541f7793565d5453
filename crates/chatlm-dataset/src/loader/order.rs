//! In which order an epoch visits the rows: a pure function of the seed and the epoch, so that any
//! place can be found without the places before it.
//!
//! Rows lie in blocks of neighbours, which are cheap to read together. An epoch permutes the blocks,
//! takes them in groups of the shuffle buffer's size, and permutes the rows of each group.

use chatlm_job::{Permutation, Random, mix};

/// Rows that are read together.
const BLOCK: u64 = 1024;

/// Keeps the order's random numbers apart from those of dropout, which start from the bare seed.
const STREAM: u64 = 0x6f72_6465_7273;

/// One set of rows, as often as its weight says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The first row's index over all sets.
    pub(crate) first: u64,
    pub(crate) rows: u64,
    /// How often every row comes in an epoch.
    pub(crate) whole: u64,
    /// How many rows come once more, others each epoch.
    pub(crate) share: u64,
}

impl Part {
    pub(crate) fn new(first: u64, rows: u64, weight: f64) -> Self {
        let share = (weight.fract() * rows as f64).round() as u64;
        Self {
            first,
            rows,
            whole: weight.trunc() as u64,
            share: share.min(rows),
        }
    }

    fn total(&self) -> u64 {
        self.rows * self.whole + self.share
    }
}

/// The order of all epochs.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    key: u64,
    shuffle: bool,
    block: u64,
    blocks_per_group: usize,
    parts: Vec<Part>,
}

/// Some neighbouring rows of a part.
#[derive(Debug, Clone, Copy)]
struct Block {
    part: usize,
    /// The first and the end of its rows within the part.
    from: u64,
    to: u64,
    /// How many of them come, which is all but for the fractional copy.
    count: u64,
}

/// The order of one epoch.
#[derive(Debug, Clone)]
pub(crate) struct Epoch {
    key: u64,
    shuffle: bool,
    parts: Vec<Part>,
    blocks: Vec<Block>,
    blocks_per_group: usize,
    /// The first place of each group, and the end.
    starts: Vec<u64>,
}

impl Order {
    pub(crate) fn new(parts: Vec<Part>, seed: u64, shuffle: bool, buffer: u64) -> Self {
        let block = BLOCK.min(buffer.max(1));
        let blocks_per_group = (buffer.max(1) / block).max(1) as usize;
        Self {
            key: mix(seed, STREAM),
            shuffle,
            block,
            blocks_per_group,
            parts,
        }
    }

    /// Places in an epoch.
    pub(crate) fn total(&self) -> u64 {
        self.parts.iter().map(Part::total).sum()
    }

    pub(crate) fn epoch(&self, epoch: u64) -> Epoch {
        let key = mix(self.key, epoch);
        let mut blocks = Vec::new();
        for (place, part) in self.parts.iter().enumerate() {
            let edges = || (0..part.rows.div_ceil(self.block)).map(|n| n * self.block);
            for _ in 0..part.whole {
                blocks.extend(edges().map(|from| {
                    let to = (from + self.block).min(part.rows);
                    Block {
                        part: place,
                        from,
                        to,
                        count: to - from,
                    }
                }));
            }
            if part.share > 0 {
                // Each block gives its share, rounded so that the sum is right; where the rounding
                // falls changes with the epoch.
                let phase = Random::new(mix(mix(key, 1), place as u64)).below(part.rows);
                let given = |rows: u64| {
                    let product = u128::from(part.share) * u128::from(rows) + u128::from(phase);
                    (product / u128::from(part.rows)) as u64
                };
                blocks.extend(edges().map(|from| {
                    let to = (from + self.block).min(part.rows);
                    Block {
                        part: place,
                        from,
                        to,
                        count: given(to) - given(from),
                    }
                }));
            }
        }
        blocks.retain(|block| block.count > 0);
        if self.shuffle {
            let permutation = Permutation::new(blocks.len() as u64, mix(key, 2));
            blocks = (0..blocks.len() as u64)
                .map(|n| blocks[permutation.at(n) as usize])
                .collect();
        }
        let mut starts = vec![0];
        let mut end = 0;
        for group in blocks.chunks(self.blocks_per_group) {
            end += group.iter().map(|block| block.count).sum::<u64>();
            starts.push(end);
        }
        Epoch {
            key,
            shuffle: self.shuffle,
            parts: self.parts.clone(),
            blocks,
            blocks_per_group: self.blocks_per_group,
            starts,
        }
    }
}

impl Epoch {
    /// The group of a place.
    pub(crate) fn group_of(&self, place: u64) -> usize {
        self.starts
            .partition_point(|start| *start <= place)
            .saturating_sub(1)
    }

    /// The first place of a group and the place after its last.
    pub(crate) fn places(&self, group: usize) -> std::ops::Range<u64> {
        self.starts[group]..self.starts[group + 1]
    }

    /// The row indices of a group's blocks, block by block.
    pub(crate) fn rows(&self, group: usize) -> Vec<Vec<u64>> {
        let first = group * self.blocks_per_group;
        let last = (first + self.blocks_per_group).min(self.blocks.len());
        (first..last)
            .map(|number| {
                let block = &self.blocks[number];
                let size = block.to - block.from;
                let mut rows: Vec<u64> = if block.count == size {
                    (0..size).collect()
                } else {
                    let drawn = mix(mix(mix(self.key, 3), block.part as u64), block.from);
                    let permutation = Permutation::new(size, drawn);
                    (0..block.count).map(|n| permutation.at(n)).collect()
                };
                rows.sort_unstable();
                for row in &mut rows {
                    *row += self.parts[block.part].first + block.from;
                }
                rows
            })
            .collect()
    }

    /// Where in the group's rows the group's n-th place looks; `None`: at the n-th.
    pub(crate) fn inside(&self, group: usize) -> Option<Permutation> {
        let places = self.places(group);
        let key = mix(mix(self.key, 4), group as u64);
        self.shuffle
            .then(|| Permutation::new(places.end - places.start, key))
    }

    /// How the batches of a section, known by its first place, are permuted.
    pub(crate) fn batches(&self, section: u64, count: u64) -> Option<Permutation> {
        self.shuffle
            .then(|| Permutation::new(count, mix(mix(self.key, 5), section)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn visit(order: &Order, epoch: u64) -> Vec<u64> {
        let epoch = order.epoch(epoch);
        (0..epoch.starts.len() - 1)
            .flat_map(|group| {
                let rows = epoch.rows(group).concat();
                let inside = epoch.inside(group);
                (0..rows.len() as u64)
                    .map(|n| rows[inside.as_ref().map_or(n, |i| i.at(n)) as usize])
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_row_comes_as_often_as_its_weight_says(
            rows in prop::collection::vec((0u64..3000, 0u32..10), 1..4),
            seed: u64, epoch: u64, shuffle: bool, buffer in 0u64..5000,
        ) {
            let mut first = 0;
            let parts: Vec<Part> = rows.iter().map(|(rows, quarters)| {
                first += rows;
                Part::new(first - rows, *rows, f64::from(*quarters) / 4.0)
            }).collect();
            let order = Order::new(parts.clone(), seed, shuffle, buffer);
            let visited = visit(&order, epoch);
            prop_assert_eq!(visited.len() as u64, order.total());
            let mut seen: HashMap<u64, u64> = HashMap::new();
            for row in &visited { *seen.entry(*row).or_default() += 1; }
            for part in parts {
                let counts = (part.first..part.first + part.rows)
                    .map(|row| seen.get(&row).copied().unwrap_or_default());
                prop_assert!(counts.clone().all(|count| count == part.whole || count == part.whole + 1));
                prop_assert_eq!(counts.sum::<u64>(), part.total());
            }
        }
    }

    #[test]
    fn epochs_differ_and_half_a_set_changes() {
        let order = Order::new(vec![Part::new(0, 5000, 0.5)], 7, true, 2048);
        let (one, two) = (visit(&order, 0), visit(&order, 1));
        assert_ne!(one, two);
        let both = one.iter().filter(|row| two.contains(row)).count();
        assert!(
            (900..1600).contains(&both),
            "{both} of 2500 rows again; chance gives 1250"
        );
    }

    #[test]
    fn a_shuffle_is_thorough_and_none_keeps_the_order() {
        let order = Order::new(vec![Part::new(0, 10_000, 1.0)], 7, true, 65_536);
        let visited = visit(&order, 0);
        let near = visited
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) < 100)
            .count();
        assert!(
            near < 400,
            "{near} neighbours stayed near; chance gives 200"
        );
        let order = Order::new(vec![Part::new(0, 10_000, 1.0)], 7, false, 65_536);
        assert_eq!(visit(&order, 3), (0..10_000).collect::<Vec<_>>());
    }
}
