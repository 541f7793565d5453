//! The pairs of neighbouring symbols that are often enough to be merged soon, with where they stand.
//!
//! A scan of the corpus finds all pairs seen at least `threshold` times; the threshold is as low as the
//! lists of their words fit the budget. Three passes: hashed counters that tell what cannot be frequent,
//! exact counts of the rest, then the lists.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use chatlm_job::{Cancel, Result};
use rayon::prelude::*;

use super::slots::{Slot, Slots};

/// Two symbols, the first in the high half: pairs compare as the tokenizers crate compares them.
pub(super) type Pair = u64;

pub(super) fn pair(first: u32, second: u32) -> Pair {
    Pair::from(first) << 32 | Pair::from(second)
}

pub(super) fn symbols(pair: Pair) -> (u32, u32) {
    ((pair >> 32) as u32, pair as u32)
}

/// Pairs are small dense numbers; one multiplication spreads them.
#[derive(Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = spread(self.0 ^ value);
    }
}

fn spread(value: u64) -> u64 {
    let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

pub(super) type PairMap<T> = HashMap<Pair, T, BuildHasherDefault<PairHasher>>;

/// The words that hold a pair (or held it), each once.
#[derive(Debug)]
pub(super) enum List {
    /// In the round's buffer.
    Shared(Range<usize>),
    Own(Vec<u32>),
}

impl List {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Shared(range) => range.len(),
            Self::Own(places) => places.len(),
        }
    }
}

/// A pair that may be merged in this round.
#[derive(Debug)]
pub(super) struct Tracked {
    /// How often it stands in the corpus, by the words' counts.
    pub(super) count: u64,
    pub(super) list: List,
}

/// A pair that was merged before; it can only come back where a token is formed in a second way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Merged {
    /// What the tokenizers crate goes on counting for the pair after it was merged.
    pub(super) residue: u64,
    /// New ones were formed since.
    pub(super) again: bool,
}

/// All pairs seen `threshold` times and more.
pub(super) struct Round {
    pub(super) threshold: u64,
    pub(super) pairs: PairMap<Tracked>,
    pub(super) places: Vec<AtomicU32>,
}

/// What a scan must keep to.
pub(super) struct Limits<'a> {
    /// Pairs below this count are never merged; at least 1.
    pub(super) floor: u64,
    /// The threshold has to be below this: above it everything is merged.
    pub(super) below: u64,
    /// Places in lists.
    pub(super) places: usize,
    /// Pairs counted exactly at once.
    pub(super) pairs: usize,
    /// Counters of the first pass, a power of two.
    pub(super) counters: usize,
    pub(super) merged: &'a PairMap<Merged>,
    /// Pairs of longer tokens are not merged.
    pub(super) allowed: &'a (dyn Fn(u32, u32) -> bool + Sync),
}

/// Bytes a pair takes in a table of exact counts, with the table's free places.
pub(super) const PAIR_BYTES: usize = 48;

/// Why there is no round.
pub(super) enum NoRound {
    /// One pair's list alone has so many places.
    TooSmall(usize),
    /// The pairs that may be as frequent as the threshold take too much memory.
    TooManyPairs,
}

#[derive(Default, Clone, Copy)]
struct Seen {
    count: u64,
    places: usize,
}

impl Round {
    /// Scans a compacted corpus.
    pub(super) fn scan<S: Slot>(
        corpus: &Slots<S>,
        limits: &Limits<'_>,
        cancel: &Cancel,
    ) -> Result<Result<Self, NoRound>> {
        let filter = Filter::count(corpus, limits.counters);
        cancel.check()?;
        let mut threshold = filter
            .threshold(limits.places as u64)
            .min(limits.below - 1)
            .max(limits.floor);
        let again: PairMap<u64> = limits
            .merged
            .iter()
            .filter(|(_, merged)| merged.again)
            .map(|(pair, merged)| (*pair, merged.residue))
            .collect();
        // Where all pairs at once take too much memory, a part after another.
        let mut parts = 1;
        let seen = loop {
            let exact = exact(corpus, &filter, &mut threshold, &again, limits, parts);
            cancel.check()?;
            match exact {
                Some(seen) => break seen,
                None if parts < 256 => parts *= 2,
                None => return Ok(Err(NoRound::TooManyPairs)),
            }
        };
        drop(filter);
        let mut counts: Vec<(u64, Pair, usize)> = seen
            .iter()
            .map(|(pair, seen)| {
                let residue = again.get(pair).copied().unwrap_or_default();
                (seen.count + residue, *pair, seen.places)
            })
            .chain(
                again
                    .iter()
                    .filter(|(pair, _)| !seen.contains_key(pair))
                    .map(|(pair, residue)| (*residue, *pair, 0)),
            )
            .filter(|(count, _, _)| *count >= threshold)
            .collect();
        drop(seen);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let mut places = 0;
        let over = counts.iter().find(|(_, _, own)| {
            // A pair itself takes as much as some places.
            places += own + 32;
            places > limits.places
        });
        if let Some(&(over, _, _)) = over {
            // Ties stay together: the threshold is above the first that does not fit.
            let whole = counts.partition_point(|(count, _, _)| *count > over);
            if whole == 0 {
                let needed = counts
                    .iter()
                    .take_while(|(count, _, _)| *count == over)
                    .map(|(_, _, places)| places + 32)
                    .sum();
                return Ok(Err(NoRound::TooSmall(needed)));
            }
            counts.truncate(whole);
            threshold = over + 1;
        }
        Ok(Ok(Self::lists(corpus, threshold, &counts)))
    }

    fn lists<S: Slot>(corpus: &Slots<S>, threshold: u64, counts: &[(u64, Pair, usize)]) -> Self {
        let mut start = 0;
        let mut ranges = Vec::with_capacity(counts.len());
        let mut number: PairMap<u32> = PairMap::default();
        number.reserve(counts.len());
        for ((_, pair, places), n) in counts.iter().zip(0u32..) {
            ranges.push(start..start + places);
            number.insert(*pair, n);
            start += places;
        }
        let places: Vec<AtomicU32> = (0..start).map(|_| AtomicU32::new(0)).collect();
        let filled: Vec<AtomicU32> = counts.iter().map(|_| AtomicU32::new(0)).collect();
        in_pieces(corpus.segments())
            .into_par_iter()
            .for_each(|segments| {
                let mut last = vec![u32::MAX; counts.len()];
                for segment in segments {
                    corpus.words(segment, |place, _, word| {
                        for_pairs(corpus, word, |pair| {
                            let Some(&n) = number.get(&pair) else { return };
                            let n = n as usize;
                            if last[n] != place as u32 {
                                last[n] = place as u32;
                                let at = filled[n].fetch_add(1, Ordering::Relaxed) as usize;
                                places[ranges[n].start + at].store(place as u32, Ordering::Relaxed);
                            }
                        });
                    });
                }
            });
        let pairs = counts
            .iter()
            .zip(ranges)
            .zip(filled)
            .map(|(((count, pair, _), range), filled)| {
                let end = range.start + filled.into_inner() as usize;
                let list = List::Shared(range.start..end);
                let tracked = Tracked {
                    count: *count,
                    list,
                };
                (*pair, tracked)
            })
            .collect();
        Self {
            threshold,
            pairs,
            places,
        }
    }
}

/// A thread's share of the segments each.
fn in_pieces<T>(segments: &[T]) -> Vec<&[T]> {
    let threads = rayon::current_num_threads().max(1);
    segments
        .chunks(segments.len().div_ceil(threads).max(1))
        .collect()
}

#[inline]
fn for_pairs<S: Slot>(corpus: &Slots<S>, word: Range<usize>, mut each: impl FnMut(Pair)) {
    let mut symbols = word.map(|at| corpus.get(at));
    let Some(mut first) = symbols.next() else {
        return;
    };
    for second in symbols {
        each(pair(first, second));
        first = second;
    }
}

/// Counters that many pairs share: none is below the count of any of its pairs.
struct Filter {
    counters: Vec<u32>,
    shift: u32,
}

impl Filter {
    fn count<S: Slot>(corpus: &Slots<S>, counters: usize) -> Self {
        let shift = 64 - counters.trailing_zeros();
        let counted: Vec<Vec<u32>> = in_pieces(corpus.segments())
            .into_par_iter()
            .map(|segments| {
                let mut own = vec![0u32; counters];
                for segment in segments {
                    corpus.words(segment, |_, count, word| {
                        let count = u32::try_from(count).unwrap_or(u32::MAX);
                        for_pairs(corpus, word, |pair| {
                            let counter = &mut own[place(pair, shift)];
                            *counter = counter.saturating_add(count);
                        });
                    });
                }
                own
            })
            .collect();
        let mut counted = counted.into_iter();
        let mut counters = counted.next().unwrap_or_else(|| vec![0; counters]);
        for other in counted {
            counters
                .par_iter_mut()
                .zip(other)
                .for_each(|(counter, other)| *counter = counter.saturating_add(other));
        }
        Self { counters, shift }
    }

    /// At least this often: the counters from here on hold no more than `places` in all.
    fn threshold(&self, places: u64) -> u64 {
        let mut counters: Vec<u32> = self.counters.iter().copied().filter(|c| *c > 0).collect();
        counters.par_sort_unstable_by(|a, b| b.cmp(a));
        let mut sum = 0;
        counters
            .into_iter()
            .map(u64::from)
            .find(|counter| {
                sum += counter;
                sum > places
            })
            .unwrap_or(1)
    }

    #[inline]
    fn may_reach(&self, pair: Pair, threshold: u64) -> bool {
        let counter = self.counters[place(pair, self.shift)];
        u64::from(counter) >= threshold || counter == u32::MAX
    }
}

#[inline]
fn place(pair: Pair, shift: u32) -> usize {
    let (first, second) = symbols(pair);
    let mixed = (u64::from(first) << 21 ^ u64::from(second)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> shift) as usize
}

/// Exact counts of the pairs that reach the threshold, a part of all pairs at a time; `None` where a
/// part takes too much memory. The threshold rises where too many pairs reach it.
fn exact<S: Slot>(
    corpus: &Slots<S>,
    filter: &Filter,
    threshold: &mut u64,
    again: &PairMap<u64>,
    limits: &Limits<'_>,
    parts: u64,
) -> Option<PairMap<Seen>> {
    let pieces = in_pieces(corpus.segments());
    let most = limits.pairs / pieces.len().max(1);
    let mut all: PairMap<Seen> = PairMap::default();
    for part in 0..parts {
        let least = *threshold;
        let counted: Option<Vec<PairMap<Seen>>> = pieces
            .par_iter()
            .map(|segments| {
                let mut own: PairMap<Seen> = PairMap::default();
                for segment in *segments {
                    corpus.words(segment, |_, count, word| {
                        for_pairs(corpus, word, |pair| {
                            let wanted = filter.may_reach(pair, least) || again.contains_key(&pair);
                            if wanted && spread(pair) % parts == part && own.len() <= most {
                                let seen = own.entry(pair).or_default();
                                seen.count += count;
                                seen.places += 1;
                            }
                        });
                    });
                }
                (own.len() <= most).then_some(own)
            })
            .collect();
        let mut counted = counted?.into_iter();
        let mut sums = counted.next().unwrap_or_default();
        for (pair, seen) in counted.flatten() {
            let sum = sums.entry(pair).or_default();
            sum.count += seen.count;
            sum.places += seen.places;
        }
        all.extend(sums.into_iter().filter(|(pair, seen)| {
            let (first, second) = symbols(*pair);
            let frequent = seen.count >= least || again.contains_key(pair);
            frequent && (limits.allowed)(first, second)
        }));
        if all.len() > limits.pairs {
            // Half of them are enough for a round: those of the highest counts.
            let mut counts: Vec<u64> = all.values().map(|seen| seen.count).collect();
            let (_, middle, _) = counts.select_nth_unstable(all.len() / 2);
            *threshold = *middle + 1;
            if *threshold >= limits.below {
                return None;
            }
            all.retain(|pair, seen| seen.count >= *threshold || again.contains_key(pair));
            all.shrink_to_fit();
        }
    }
    Some(all)
}
