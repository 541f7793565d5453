//! Merging one pair in all words that hold it.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::pairs::{List, Pair, pair};
use super::slots::{Slot, Slots};

/// Words that are worth more than one thread.
const PARALLEL: usize = 4096;

/// The pair to merge and the token it becomes.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) first: u32,
    pub(super) second: u32,
    pub(super) token: u32,
}

/// Counts by symbol that are quick to clear.
#[derive(Default)]
pub(super) struct Counts {
    by_symbol: Vec<i64>,
    touched: Vec<u32>,
}

impl Counts {
    fn add(&mut self, symbol: u32, count: i64) {
        let place = symbol as usize;
        if place >= self.by_symbol.len() {
            self.by_symbol.resize((place + 1).next_power_of_two(), 0);
        }
        if self.by_symbol[place] == 0 {
            self.touched.push(symbol);
        }
        self.by_symbol[place] += count;
    }

    fn take_from(&mut self, other: &mut Self) {
        for (symbol, count) in other.drain() {
            self.add(symbol, count);
        }
    }

    /// All counts that are not zero, each symbol once, leaving none.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u32, i64)> + '_ {
        let by_symbol = &mut self.by_symbol;
        self.touched.drain(..).filter_map(move |symbol| {
            let count = std::mem::take(&mut by_symbol[symbol as usize]);
            (count != 0).then_some((symbol, count))
        })
    }
}

/// How the neighbours of a merged pair changed.
#[derive(Default)]
pub(super) struct Change {
    /// Fewer pairs (symbol, first).
    pub(super) before: Counts,
    /// Fewer pairs (second, symbol).
    pub(super) after: Counts,
    /// Fewer of the merged pair itself, where its symbols are one and overlap.
    pub(super) itself: i64,
    /// Pairs (symbol, token), more and fewer.
    pub(super) left: Counts,
    /// Pairs (token, symbol).
    pub(super) right: Counts,
    /// Pairs (token, token).
    pub(super) both: i64,
    /// Words where (symbol, token) and (token, symbol) were formed, and (token, token), where they were
    /// few enough to be kept.
    pub(super) kept: bool,
    pub(super) lefts: Vec<(u32, u32)>,
    pub(super) rights: Vec<(u32, u32)>,
    pub(super) boths: Vec<u32>,
}

impl Change {
    /// Pairs formed with the token and how many more of each there are now; leaves none.
    pub(super) fn formed(&mut self, token: u32) -> Vec<(Pair, i64)> {
        let left = self
            .left
            .drain()
            .map(|(symbol, count)| (pair(symbol, token), count));
        let right = self
            .right
            .drain()
            .map(|(symbol, count)| (pair(token, symbol), count));
        let both = (pair(token, token), std::mem::take(&mut self.both));
        left.chain(right).chain([both]).collect()
    }

    /// The words of the pairs formed with the token, where they were kept; leaves none.
    pub(super) fn each_kept(&mut self, token: u32, mut each: impl FnMut(Pair, u32)) {
        for (symbol, place) in self.lefts.drain(..) {
            each(pair(symbol, token), place);
        }
        for (symbol, place) in self.rights.drain(..) {
            each(pair(token, symbol), place);
        }
        for place in self.boths.drain(..) {
            each(pair(token, token), place);
        }
    }

    fn take_from(&mut self, other: &mut Self) {
        self.before.take_from(&mut other.before);
        self.after.take_from(&mut other.after);
        self.left.take_from(&mut other.left);
        self.right.take_from(&mut other.right);
        self.itself += std::mem::take(&mut other.itself);
        self.both += std::mem::take(&mut other.both);
        self.lefts.append(&mut other.lefts);
        self.rights.append(&mut other.rights);
        self.boths.append(&mut other.boths);
    }

    /// Rewrites one word as the tokenizers crate does, from left to right.
    fn rewrite<S: Slot>(&mut self, corpus: &Slots<S>, place: usize, step: Step) {
        let (count, start) = corpus.count(place);
        let count = count as i64;
        let Step {
            first,
            second,
            token,
        } = step;
        let (mut read, mut write) = (start, start);
        loop {
            let symbol = corpus.get(read);
            if symbol == S::END {
                break;
            }
            if symbol != first || corpus.get(read + 1) != second {
                if read != write {
                    corpus.set(write, symbol);
                }
                read += 1;
                write += 1;
                continue;
            }
            if write > start {
                let previous = corpus.get(write - 1);
                // A pair that begins with the new token is counted with the token's own.
                if previous == token {
                    self.right.add(first, -count);
                    self.both += count;
                    if self.kept {
                        self.boths.push(place as u32);
                    }
                } else {
                    self.before.add(previous, -count);
                    self.left.add(previous, count);
                    if self.kept {
                        self.lefts.push((previous, place as u32));
                    }
                }
            }
            let next = corpus.get(read + 2);
            if next != S::END {
                if first == second && next == first {
                    self.itself -= count;
                } else {
                    self.after.add(next, -count);
                }
                // A next pair takes this back: see above.
                self.right.add(next, count);
                if self.kept {
                    self.rights.push((next, place as u32));
                }
            }
            corpus.set(write, token);
            write += 1;
            read += 2;
        }
        for at in write..read {
            corpus.set(at, S::END);
        }
    }
}

/// A state a thread, kept from merge to merge.
pub(super) struct Merger {
    changes: Vec<Change>,
    /// Words of one pair whose new neighbours are kept beside their counts.
    keep: usize,
}

impl Merger {
    pub(super) fn new(keep: usize) -> Self {
        let threads = rayon::current_num_threads().max(1);
        Self {
            changes: (0..threads).map(|_| Change::default()).collect(),
            keep,
        }
    }

    /// Merges a pair in the words of its list; what changed is to be drained before the next.
    pub(super) fn merge<S: Slot>(
        &mut self,
        corpus: &Slots<S>,
        list: &List,
        places: &[AtomicU32],
        step: Step,
    ) -> &mut Change {
        let words = Words::of(list, places);
        let kept = words.len() <= self.keep;
        for change in &mut self.changes {
            change.kept = kept;
        }
        if words.len() < PARALLEL || self.changes.len() == 1 {
            words.each(|place| self.changes[0].rewrite(corpus, place, step));
            return &mut self.changes[0];
        }
        let share = words.len().div_ceil(self.changes.len());
        self.changes
            .par_iter_mut()
            .enumerate()
            .for_each(|(n, change)| {
                words
                    .part(n * share, share)
                    .each(|place| change.rewrite(corpus, place, step));
            });
        let (first, rest) = self.changes.split_at_mut(1);
        for other in rest {
            first[0].take_from(other);
        }
        &mut self.changes[0]
    }
}

/// Calls `each` with the pairs that hold a token in the words of a list, and the word.
pub(super) fn neighbours<S: Slot>(
    corpus: &Slots<S>,
    list: &List,
    places: &[AtomicU32],
    token: u32,
    mut each: impl FnMut(Pair, u32),
) {
    Words::of(list, places).each(|place| {
        let (_, first) = corpus.count(place);
        let (mut before, mut at) = (corpus.get(first), first + 1);
        while before != S::END {
            let symbol = corpus.get(at);
            if symbol != S::END && (before == token || symbol == token) {
                each(pair(before, symbol), place as u32);
            }
            before = symbol;
            at += 1;
        }
    });
}

#[derive(Clone, Copy)]
enum Words<'a> {
    Own(&'a [u32]),
    Shared(&'a [AtomicU32]),
}

impl<'a> Words<'a> {
    fn of(list: &'a List, places: &'a [AtomicU32]) -> Self {
        match list {
            List::Own(own) => Self::Own(own),
            List::Shared(range) => Self::Shared(&places[range.clone()]),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own(places) => places.len(),
            Self::Shared(places) => places.len(),
        }
    }

    fn part(&self, start: usize, len: usize) -> Self {
        let range = start.min(self.len())..(start + len).min(self.len());
        match self {
            Self::Own(places) => Self::Own(&places[range]),
            Self::Shared(places) => Self::Shared(&places[range]),
        }
    }

    fn each(&self, mut word: impl FnMut(usize)) {
        match self {
            Self::Own(places) => places.iter().for_each(|place| word(*place as usize)),
            Self::Shared(places) => places
                .iter()
                .for_each(|place| word(place.load(Ordering::Relaxed) as usize)),
        }
    }
}
