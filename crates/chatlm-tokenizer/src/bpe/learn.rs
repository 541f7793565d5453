//! The merges of a corpus, in rounds: a scan finds the frequent pairs, which are merged from the most
//! frequent down to the scan's threshold, then comes the next scan.
//!
//! The order is the tokenizers crate's (`models/bpe/trainer.rs`): the highest count first, of equal
//! counts the smaller pair, counts as that crate keeps them. Within a round only pairs at or above the
//! threshold matter: others can only fall, since new pairs hold the round's new tokens. A token that is
//! formed in a second way breaks that, so it ends the round.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chatlm_job::{Code, Error, Job, Result};

use super::merge::{Change, Merger, Step};
use super::pairs::{
    Limits, List, Merged, NoRound, PAIR_BYTES, Pair, PairMap, Round, Tracked, pair, symbols,
};
use super::slots::{Slot, Slots};
use super::vocabulary::Vocabulary;

/// When to stop, and in how much memory.
#[derive(Debug, Clone)]
pub(crate) struct LearnOptions {
    /// Tokens in all.
    pub(crate) vocab_size: usize,
    pub(crate) min_frequency: u64,
    /// Initial symbols a token stays below.
    pub(crate) max_token_length: Option<usize>,
    /// Bytes beside the corpus itself.
    pub(crate) memory: usize,
}

/// Two tokens and what they become.
pub(crate) type Merge = (u32, u32, u32);

pub(super) struct Learner<'a, S> {
    corpus: Slots<S>,
    vocabulary: &'a mut Vocabulary,
    options: &'a LearnOptions,
    /// Ids below are initial symbols or special.
    initial: u32,
    merges: Vec<Merge>,
    merged: PairMap<Merged>,
    merger: Merger,
}

/// How a round ended.
enum End {
    /// Nothing is left to merge, or the vocabulary is full.
    Training,
    /// Every pair at or above the threshold is merged.
    Threshold,
    /// A token was formed in a second way.
    SecondWay,
}

/// The pairs of a round in the order of merging; entries whose count has fallen are put back.
type Queue = BinaryHeap<(u64, Reverse<Pair>)>;

impl<'a, S: Slot> Learner<'a, S> {
    pub(super) fn new(
        corpus: Slots<S>,
        vocabulary: &'a mut Vocabulary,
        options: &'a LearnOptions,
    ) -> Self {
        Self {
            corpus,
            initial: vocabulary.len() as u32,
            vocabulary,
            options,
            merges: Vec::new(),
            merged: PairMap::default(),
            merger: Merger::new(),
        }
    }

    /// All merges, in order.
    pub(super) fn learn(mut self, job: &Job) -> Result<Vec<Merge>> {
        let floor = self.options.min_frequency.max(1);
        let mut below = u64::MAX;
        while self.vocabulary.len() < self.options.vocab_size && below > floor {
            job.cancel.check()?;
            self.corpus.compact();
            let mut round = self.scan(floor, below, job)?;
            below = match self.round(&mut round, floor, job)? {
                End::Training => break,
                End::Threshold => round.threshold.min(below),
                End::SecondWay => u64::MAX,
            };
        }
        Ok(self.merges)
    }

    fn scan(&self, floor: u64, below: u64, job: &Job) -> Result<Round> {
        let vocabulary = &*self.vocabulary;
        let (most, initial) = (self.options.max_token_length, self.initial);
        let allowed = |first: u32, second: u32| {
            let lengths = vocabulary.length(first) + vocabulary.length(second);
            most.is_none_or(|most| (lengths as usize) < most)
                || (first < initial && second < initial)
        };
        let memory = self.options.memory;
        // Four bytes each on every thread, a quarter of the memory in all.
        let most = memory / 16 / rayon::current_num_threads().max(1);
        let counters = (self.corpus.len() / 4).clamp(1 << 14, most.max(1 << 14));
        let counters = counters.next_power_of_two().min(1 << 24);
        let limits = Limits {
            floor,
            below,
            places: self.shared_places(),
            pairs: (memory / 4 / PAIR_BYTES).max(1 << 12),
            counters,
            merged: &self.merged,
            allowed: &allowed,
        };
        let round = Round::scan(&self.corpus, &limits, &job.cancel)?;
        round.map_err(|why| self.too_small(&why))
    }

    fn too_small(&self, why: &NoRound) -> Error {
        let (what, bytes) = match why {
            NoRound::TooSmall(places) => (
                "words of the most frequent pair",
                places * size_of::<u32>() * 4,
            ),
            NoRound::TooManyPairs => ("many different pairs of this text", self.options.memory * 2),
        };
        let needed = (bytes + self.corpus.len() * size_of::<S>()) / (1 << 20) + 64;
        Error::new(
            Code::Usage,
            format!("the memory allowed is too small for the {what}"),
            format!("give --max-memory at least {needed} MiB more than the program's own"),
        )
    }

    /// Places in the lists of a scan, and in those of new pairs.
    fn shared_places(&self) -> usize {
        (self.options.memory / 3 / size_of::<u32>()).max(1 << 10)
    }

    fn own_places(&self) -> usize {
        (self.options.memory / 4 / size_of::<u32>()).max(1 << 10)
    }

    /// Merges from the most frequent pair down to the round's threshold.
    fn round(&mut self, round: &mut Round, floor: u64, job: &Job) -> Result<End> {
        let mut queue: Queue = round
            .pairs
            .iter()
            .map(|(pair, tracked)| (tracked.count, Reverse(*pair)))
            .collect();
        let mut own = 0;
        while self.vocabulary.len() < self.options.vocab_size {
            let Some((count, Reverse(top))) = queue.pop() else {
                return Ok(End::Threshold);
            };
            let Some(tracked) = round.pairs.get(&top) else {
                continue;
            };
            if tracked.count != count {
                if tracked.count >= round.threshold {
                    queue.push((tracked.count, Reverse(top)));
                } else if let Some(tracked) = round.pairs.remove(&top) {
                    own -= tracked.own();
                }
                continue;
            }
            if count < floor {
                return Ok(End::Training);
            }
            let Some(tracked) = round.pairs.remove(&top) else {
                continue;
            };
            own -= tracked.own();
            let (first, second) = symbols(top);
            let text = [self.vocabulary.token(first), self.vocabulary.token(second)].concat();
            let length = self.vocabulary.length(first) + self.vocabulary.length(second);
            let (token, new) = self.vocabulary.add(&text, length);
            self.merges.push((first, second, token));
            let step = Step {
                first,
                second,
                token,
            };
            let change = self
                .merger
                .merge(&self.corpus, &tracked.list, &round.places, step);
            let residue = count.saturating_add_signed(std::mem::take(&mut change.itself));
            let merged = Merged {
                residue,
                again: false,
            };
            self.merged.insert(top, merged);
            fall(&mut round.pairs, &mut change.before, |symbol| {
                pair(symbol, first)
            });
            fall(&mut round.pairs, &mut change.after, |symbol| {
                pair(second, symbol)
            });
            let done = self.merges.len() as u64;
            if done.is_multiple_of(64) {
                job.cancel.check()?;
                let total = done + (self.options.vocab_size - self.vocabulary.len()) as u64;
                job.progress.report("merge", done, Some(total), "merges");
            }
            if !new {
                formed_again(&mut self.merged, change, token);
                return Ok(End::SecondWay);
            }
            let most = self.options.max_token_length;
            let vocabulary = &*self.vocabulary;
            let allowed = |other: u32| {
                let lengths = vocabulary.length(other) + vocabulary.length(token);
                most.is_none_or(|most| (lengths as usize) < most)
            };
            own += track(round, &mut queue, change, token, allowed);
            if own > self.own_places() {
                own = raise(round, self.own_places() / 2);
            }
        }
        Ok(End::Training)
    }
}

impl Tracked {
    /// Places in a list of its own.
    fn own(&self) -> usize {
        match &self.list {
            List::Shared(_) => 0,
            List::Own(places) => places.len(),
        }
    }
}

/// Takes what neighbours lost off their counts.
fn fall(
    pairs: &mut PairMap<Tracked>,
    counts: &mut super::merge::Counts,
    pair: impl Fn(u32) -> Pair,
) {
    for (symbol, change) in counts.drain() {
        if let Some(tracked) = pairs.get_mut(&pair(symbol)) {
            tracked.count = tracked.count.saturating_add_signed(change);
        }
    }
}

/// Marks pairs merged before that were formed again with a token that was there already.
fn formed_again(merged: &mut PairMap<Merged>, change: &mut Change, token: u32) {
    let formed = change
        .lefts
        .drain(..)
        .map(|(symbol, _)| pair(symbol, token))
        .chain(
            change
                .rights
                .drain(..)
                .map(|(symbol, _)| pair(token, symbol)),
        )
        .chain(change.boths.drain(..).map(|_| pair(token, token)));
    for pair in formed {
        if let Some(merged) = merged.get_mut(&pair) {
            merged.again = true;
        }
    }
    // The scan that follows counts everything anew.
    change.left.drain().for_each(drop);
    change.right.drain().for_each(drop);
    change.both = 0;
}

/// Takes in the frequent ones of the pairs formed with a new token; the places in their lists.
fn track(
    round: &mut Round,
    queue: &mut Queue,
    change: &mut Change,
    token: u32,
    allowed: impl Fn(u32) -> bool,
) -> usize {
    let mut places = 0;
    let threshold = round.threshold;
    let frequent = |symbol: u32, count: i64| {
        u64::try_from(count).is_ok_and(|count| count >= threshold) && allowed(symbol)
    };
    let lists = |counts: &mut super::merge::Counts, words: &mut Vec<(u32, u32)>| {
        let mut lists: PairMap<(u64, Vec<u32>)> = counts
            .drain()
            .filter(|(symbol, count)| frequent(*symbol, *count))
            .map(|(symbol, count)| (u64::from(symbol), (count as u64, Vec::new())))
            .collect();
        if !lists.is_empty() {
            for (symbol, place) in words.iter() {
                if let Some((_, list)) = lists.get_mut(&u64::from(*symbol))
                    && list.last() != Some(place)
                {
                    list.push(*place);
                }
            }
        }
        words.clear();
        lists
    };
    let mut add = |pair: Pair, count: u64, mut list: Vec<u32>| {
        list.shrink_to_fit();
        places += list.len();
        queue.push((count, Reverse(pair)));
        let list = List::Own(list);
        round.pairs.insert(pair, Tracked { count, list });
    };
    for (symbol, (count, list)) in lists(&mut change.left, &mut change.lefts) {
        add(pair(symbol as u32, token), count, list);
    }
    for (symbol, (count, list)) in lists(&mut change.right, &mut change.rights) {
        add(pair(token, symbol as u32), count, list);
    }
    let both = std::mem::take(&mut change.both);
    if frequent(token, both) {
        let mut list = std::mem::take(&mut change.boths);
        list.dedup();
        add(pair(token, token), both as u64, list);
    }
    change.boths.clear();
    places
}

/// Raises the threshold until lists of their own hold no more than `most` places; how many they hold.
fn raise(round: &mut Round, most: usize) -> usize {
    let mut counts: Vec<(u64, usize)> = round
        .pairs
        .values()
        .map(|tracked| (tracked.count, tracked.own()))
        .collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut places = 0;
    let over = counts.iter().find(|(_, own)| {
        places += own;
        places > most
    });
    if let Some((count, _)) = over {
        round.threshold = count + 1;
    }
    let threshold = round.threshold;
    round.pairs.retain(|_, tracked| tracked.count >= threshold);
    round.pairs.values().map(Tracked::own).sum()
}

/// The pairs in the order of the last time each was merged, as the tokenizers crate writes them.
pub(crate) fn by_rank(merges: &[Merge]) -> Vec<(u32, u32)> {
    let mut last: PairMap<usize> = PairMap::default();
    for (rank, (first, second, _)) in merges.iter().enumerate() {
        last.insert(pair(*first, *second), rank);
    }
    let pairs = merges.iter().enumerate();
    pairs
        .filter(|(rank, (first, second, _))| last.get(&pair(*first, *second)) == Some(rank))
        .map(|(_, (first, second, _))| (*first, *second))
        .collect()
}
