//! The merges of a corpus, in rounds: a scan finds the frequent pairs, which are merged from the most
//! frequent down to the scan's threshold, then comes the next scan.
//!
//! The order is the tokenizers crate's (`models/bpe/trainer.rs`): the highest count first, of equal
//! counts the smaller pair, counts as that crate keeps them. Within a round only pairs at or above the
//! threshold matter: others can only fall, since new pairs hold the round's new tokens. A token that is
//! formed in a second way breaks that, so it ends the round.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use chatlm_job::{Code, Error, Job, Result};

use super::merge::{Merger, Step, neighbours};
use super::pairs::{
    Limits, List, Merged, NoRound, PAIR_BYTES, Pair, PairMap, Round, Tracked, pair, symbols,
};
use super::replay::{Progress, replay};
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

// How the memory beside the corpus is shared out. A scan's counters and tables are gone before its lists
// are merged.

/// Places in the lists of a scan (with 32 for each pair itself).
fn shared_places(memory: usize) -> usize {
    (memory / 3 / size_of::<u32>()).max(1 << 12)
}

/// Places in the lists of new pairs, which hold twice as much while they grow.
fn own_places(memory: usize) -> usize {
    (memory / 8 / size_of::<u32>()).max(1 << 11)
}

/// Words of a pair whose new neighbours are kept while it is merged, two of 8 bytes each.
fn kept_words(memory: usize) -> usize {
    memory / 8 / 32
}

/// Two tokens and what they become.
pub(crate) type Merge = (u32, u32, u32);

/// Puts what a run got to where a later one finds it.
pub(crate) type Save<'a> = dyn FnMut(&Progress) -> Result<()> + 'a;

/// What an earlier run got to, and where to put what this one gets to; called now and then and when the
/// run is stopped.
#[derive(Default)]
pub(crate) struct Saving<'a> {
    pub(crate) progress: Option<Progress>,
    pub(crate) save: Option<&'a mut Save<'a>>,
    /// Between two times of saving.
    pub(crate) every: Duration,
}

pub(super) struct Learner<'a, 'b, S> {
    corpus: Slots<S>,
    vocabulary: &'a mut Vocabulary,
    options: &'a LearnOptions,
    /// Ids below are initial symbols or special.
    initial: u32,
    merges: Vec<Merge>,
    merged: PairMap<Merged>,
    merger: Merger,
    saving: Saving<'b>,
    saved: Instant,
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

impl<'a, 'b, S: Slot> Learner<'a, 'b, S> {
    pub(super) fn new(
        corpus: Slots<S>,
        vocabulary: &'a mut Vocabulary,
        options: &'a LearnOptions,
        saving: Saving<'b>,
    ) -> Self {
        Self {
            corpus,
            initial: vocabulary.len() as u32,
            vocabulary,
            options,
            merges: Vec::new(),
            merged: PairMap::default(),
            merger: Merger::new(kept_words(options.memory)),
            saving,
            saved: Instant::now(),
        }
    }

    /// All merges, in order.
    pub(super) fn learn(mut self, job: &Job) -> Result<Vec<Merge>> {
        if let Some(progress) = self.saving.progress.take() {
            replay(&self.corpus, &progress.merges);
            for (first, second, _) in &progress.merges {
                self.add(*first, *second);
            }
            self.merged = progress.merged();
            self.merges = progress.merges;
        }
        let floor = self.options.min_frequency.max(1);
        let mut below = u64::MAX;
        while self.vocabulary.len() < self.options.vocab_size && below > floor {
            self.look(job)?;
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

    /// Saves where that was asked for, at least so often; always where the run is stopped.
    fn look(&mut self, job: &Job) -> Result<()> {
        let stopped = job.cancel.check();
        if let Some(save) = &mut self.saving.save
            && (stopped.is_err() || self.saved.elapsed() > self.saving.every)
        {
            save(&Progress::new(&self.merges, &self.merged))?;
            self.saved = Instant::now();
        }
        stopped
    }

    /// The token of two, and whether it is new.
    fn add(&mut self, first: u32, second: u32) -> (u32, bool) {
        let text = [self.vocabulary.token(first), self.vocabulary.token(second)].concat();
        let length = self.vocabulary.length(first) + self.vocabulary.length(second);
        self.vocabulary.add(&text, length)
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
        let most = (memory / 16 / rayon::current_num_threads().max(1)).max(1 << 14);
        let most = 1 << most.min(1 << 24).ilog2();
        let counters = (self.corpus.len() / 4)
            .next_power_of_two()
            .clamp(1 << 14, most);
        let limits = Limits {
            floor,
            below,
            places: shared_places(memory),
            // Threads' own tables, their sum, and what a table's growth holds twice.
            pairs: (memory / 8 / PAIR_BYTES).max(1 << 12),
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
                places * size_of::<u32>() * 3,
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

    /// Merges from the most frequent pair down to the round's threshold.
    fn round(&mut self, round: &mut Round, floor: u64, job: &Job) -> Result<End> {
        let mut queue: Queue = round
            .pairs
            .iter()
            .map(|(pair, tracked)| (tracked.count, Reverse(*pair)))
            .collect();
        let memory = self.options.memory;
        let mut own = 0;
        while self.vocabulary.len() < self.options.vocab_size {
            self.look(job)?;
            let done = self.merges.len() as u64;
            if done.is_multiple_of(64) {
                let total = done + (self.options.vocab_size - self.vocabulary.len()) as u64;
                job.progress.report("merge", done, Some(total), "merges");
            }
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
            let (token, new) = self.add(first, second);
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
            let formed = change.formed(token);
            let kept = change.kept;
            let corpus = &self.corpus;
            let mut words = |each: &mut dyn FnMut(Pair, u32)| {
                if kept {
                    change.each_kept(token, each);
                } else {
                    neighbours(corpus, &tracked.list, &round.places, token, each);
                }
            };
            if !new {
                words(&mut |pair, _| {
                    // One merged before stands nowhere, so this one is new.
                    if let Some(merged) = self.merged.get_mut(&pair) {
                        merged.again = true;
                    }
                });
                return Ok(End::SecondWay);
            }
            let most = self.options.max_token_length;
            let vocabulary = &*self.vocabulary;
            let length = |id: u32| vocabulary.length(id) as usize;
            let formed = formed.into_iter().filter(|(pair, _)| {
                let (first, second) = symbols(*pair);
                most.is_none_or(|most| length(first) + length(second) < most)
            });
            let mut formed: Vec<(Pair, u64)> = formed
                .filter_map(|(pair, count)| Some((pair, u64::try_from(count).ok()?)))
                .filter(|(_, count)| *count >= round.threshold)
                .collect();
            let words_of_top = tracked.list.len();
            let room = own_places(memory);
            if own + places(&formed, words_of_top) > room {
                own = raise(
                    &mut round.pairs,
                    &mut round.threshold,
                    &mut formed,
                    words_of_top,
                    room / 2,
                );
            }
            let mut lists: PairMap<(u64, Vec<u32>)> = formed
                .into_iter()
                .map(|(pair, count)| (pair, (count, Vec::new())))
                .collect();
            words(&mut |pair, place| {
                if let Some((_, list)) = lists.get_mut(&pair)
                    && list.last() != Some(&place)
                {
                    list.push(place);
                }
            });
            for (pair, (count, mut list)) in lists {
                list.shrink_to_fit();
                own += list.len();
                queue.push((count, Reverse(pair)));
                let list = List::Own(list);
                round.pairs.insert(pair, Tracked { count, list });
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
            List::Own(_) => self.list.len(),
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

/// Places that the lists of pairs formed in so many words take at most.
fn places(formed: &[(Pair, u64)], words: usize) -> usize {
    formed
        .iter()
        .map(|(_, count)| words.min(*count as usize))
        .sum()
}

/// Raises the threshold until lists of pairs' own, and those to come, hold no more than `most` places;
/// how many the lists that are left hold.
fn raise(
    pairs: &mut PairMap<Tracked>,
    threshold: &mut u64,
    formed: &mut Vec<(Pair, u64)>,
    words: usize,
    most: usize,
) -> usize {
    let own = pairs.values().map(|tracked| (tracked.count, tracked.own()));
    let to_come = formed
        .iter()
        .map(|(_, count)| (*count, words.min(*count as usize)));
    let mut counts: Vec<(u64, usize)> = own.chain(to_come).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut places = 0;
    let over = counts.iter().find(|(_, own)| {
        places += own;
        places > most
    });
    if let Some((count, _)) = over {
        *threshold = count + 1;
    }
    let threshold = *threshold;
    pairs.retain(|_, tracked| tracked.count >= threshold);
    formed.retain(|(_, count)| *count >= threshold);
    pairs.values().map(Tracked::own).sum()
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
