//! Going on where an earlier run was stopped: its merges done again, word by word instead of pair by pair.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::learn::Merge;
use super::pairs::{Merged, PairMap, pair, symbols};
use super::slots::{Slot, Slots};

/// How far training got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(super) merges: Vec<Merge>,
    /// First, second, residue, again: of each pair that was merged.
    merged: Vec<(u32, u32, u64, bool)>,
}

impl Progress {
    pub(super) fn new(merges: &[Merge], merged: &PairMap<Merged>) -> Self {
        let merged = merged.iter().map(|(pair, merged)| {
            let (first, second) = symbols(*pair);
            (first, second, merged.residue, merged.again)
        });
        Self {
            merges: merges.to_vec(),
            merged: merged.collect(),
        }
    }

    pub(super) fn merged(&self) -> PairMap<Merged> {
        let merged = self.merged.iter();
        merged
            .map(|&(first, second, residue, again)| {
                (pair(first, second), Merged { residue, again })
            })
            .collect()
    }
}

/// Does merges in a corpus of initial symbols, in order.
pub(super) fn replay<S: Slot>(corpus: &Slots<S>, merges: &[Merge]) {
    // A pair may be merged more than once, where one of its tokens is formed in a second way.
    let mut steps: PairMap<Vec<u32>> = PairMap::default();
    for (step, (first, second, _)) in (0..).zip(merges) {
        steps.entry(pair(*first, *second)).or_default().push(step);
    }
    corpus.segments().par_iter().for_each(|segment| {
        let mut word = Vec::new();
        corpus.words(segment, |_, _, places| {
            word.clear();
            word.extend(places.clone().map(|at| corpus.get(at)));
            apply(&mut word, &steps, merges);
            for (at, symbol) in places.zip(word.iter().copied().chain(std::iter::repeat(S::END))) {
                corpus.set(at, symbol);
            }
        });
    });
}

fn apply(word: &mut Vec<u32>, steps: &PairMap<Vec<u32>>, merges: &[Merge]) {
    let mut from = 0;
    loop {
        let next = word.windows(2).filter_map(|two| {
            let steps = steps.get(&pair(two[0], two[1]))?;
            steps
                .get(steps.partition_point(|step| *step < from))
                .copied()
        });
        let Some(step) = next.min() else { return };
        let (first, second, token) = merges[step as usize];
        let (mut read, mut write) = (0, 0);
        while read < word.len() {
            let both = word[read] == first && word.get(read + 1) == Some(&second);
            word[write] = if both { token } else { word[read] };
            read += if both { 2 } else { 1 };
            write += 1;
        }
        word.truncate(write);
        from = step + 1;
    }
}
