//! Large buckets: an exact join by prefixes (Xiao, Wang, Lin, Yu, "Efficient similarity joins for
//! near-duplicate detection", 2008), so that a million rows that share a key but little else are not
//! compared pair by pair.
//!
//! Shingles are ordered by how rare they are in the bucket. Two sets of similarity t share at least
//! t / (1 + t) of their shingles together, so the first few that they share are among the first few of
//! each: of the larger set's first (1 − t)·n + k ("wide") and the smaller one's first
//! (1 − t)/(1 + t)·n + k ("narrow") at least k are shared, or all if that is less. What shares fewer
//! cannot be similar; what shares them is compared by exact sets.
//!
//! Candidates come in ascending order, and a row stops at its first similar one. Groups are connected
//! in a second pass over rows sorted by the group they are in: a pair of one group is never looked at.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use chatlm_job::Result;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::judge::{Loaded, Search};
use crate::state::State;

/// What a candidate calls for.
enum Step {
    Compare,
    /// Go on at this position.
    Jump(usize),
    Stop,
}

/// k above. More would mean fewer candidates, but longer prefixes: rows of a template just below the
/// threshold would meet in what they have in common.
const SHARED: usize = 2;

/// A narrow or wide prefix in the index: the shingle's hash and the row's position.
type Posting = (u64, u32);

pub(crate) fn join(search: &Search<'_>, bucket: &[u32]) -> Result<()> {
    let state = search.state;
    first_of_all(search, bucket)?;
    if !search.tells_something(bucket) {
        return Ok(());
    }
    let rarity = Rarity::of(search, bucket)?;
    let own = bucket.partition_point(|place| *place < state.own);
    let pass = Pass {
        search,
        rarity: &rarity,
        order: bucket,
        from: own,
    };
    let first_row = bucket[own];
    let settled = |row: u32| {
        state.best(row) <= first_row && (own == 0 || state.contaminated(row) <= bucket[0])
    };
    pass.run(
        |position| {
            if settled(bucket[position]) {
                0
            } else {
                position
            }
        },
        |row, other, _| {
            if other < state.own {
                if state.contaminated(row) <= other {
                    Step::Jump(own)
                } else {
                    Step::Compare
                }
            } else if state.best(row) <= other {
                Step::Stop
            } else {
                Step::Compare
            }
        },
        |row, other| {
            search.note(row, other);
            if other < state.own {
                Step::Jump(own)
            } else {
                Step::Stop
            }
        },
    )?;

    let (order, ends) = by_group(state, &bucket[own..]);
    if ends.first() == Some(&order.len()) {
        return Ok(());
    }
    let end_of = |position: usize| ends[ends.partition_point(|end| *end <= position)];
    let start_of = |position: usize| match ends.partition_point(|end| *end <= position) {
        0 => 0,
        group => ends[group - 1],
    };
    let pass = Pass {
        search,
        rarity: &rarity,
        order: &order,
        from: 0,
    };
    pass.run(
        start_of,
        |row, other, position| {
            if state.group(row) == state.group(other) {
                Step::Jump(end_of(position))
            } else {
                Step::Compare
            }
        },
        |row, other| {
            state.join(row, other);
            // The next look at this group finds it joined and jumps over the rest of it.
            Step::Jump(0)
        },
    )
}

/// Compares all rows with the first one: a bucket of rows that are all alike is settled by that.
fn first_of_all(search: &Search<'_>, bucket: &[u32]) -> Result<()> {
    let own = bucket.partition_point(|place| *place < search.state.own);
    for first in [0, own] {
        let leader = bucket[first];
        let mut leading = Loaded::default();
        search.load(leader, &mut leading)?;
        bucket[own.max(first + 1)..]
            .par_iter()
            .with_min_len(64)
            .try_for_each_init(Loaded::default, |loaded, &row| {
                if !search.is_new(row, leader) {
                    return Ok(());
                }
                search.job.cancel.check()?;
                search.load(row, loaded)?;
                let threshold = search.method.threshold();
                if leading.set.similarity(&loaded.set, threshold).is_some() {
                    search.note(row, leader);
                }
                Ok(())
            })?;
        if own == 0 {
            break;
        }
    }
    Ok(())
}

/// Rows with those of one group side by side, small groups first so that the largest one is not indexed,
/// and where each group ends.
fn by_group(state: &State, rows: &[u32]) -> (Vec<u32>, Vec<usize>) {
    let mut grouped: Vec<(u32, u32)> = rows.iter().map(|row| (state.group(*row), *row)).collect();
    grouped.sort_unstable();
    let mut groups: Vec<&[(u32, u32)]> = grouped.chunk_by(|a, b| a.0 == b.0).collect();
    groups.sort_by_key(|group| group.len());
    let mut ends = Vec::with_capacity(groups.len());
    let mut order = Vec::with_capacity(rows.len());
    for group in groups {
        order.extend(group.iter().map(|(_, row)| *row));
        ends.push(order.len());
    }
    (order, ends)
}

/// How often shingles occur in a bucket, counted by hash: never too few.
struct Rarity {
    counts: Vec<AtomicU32>,
}

/// A row's shingles that can be in a prefix, and how long its prefixes are.
#[derive(Default)]
struct Prefix {
    shingles: Vec<(u32, u64)>,
    narrow: usize,
}

impl Rarity {
    fn of(search: &Search<'_>, bucket: &[u32]) -> Result<Self> {
        let slots = (bucket.len() * 64)
            .next_power_of_two()
            .clamp(1 << 12, 1 << 22);
        let counts = (0..slots).map(|_| AtomicU32::new(0)).collect();
        let rarity = Self { counts };
        bucket.par_iter().with_min_len(16).try_for_each_init(
            Loaded::default,
            |loaded, &place| {
                search.job.cancel.check()?;
                search.load(place, loaded)?;
                for shingle in loaded.set.items() {
                    rarity.slot(hash(*shingle)).fetch_add(1, Relaxed);
                }
                Ok(())
            },
        )?;
        Ok(rarity)
    }

    fn slot(&self, hash: u64) -> &AtomicU32 {
        &self.counts[hash as usize & (self.counts.len() - 1)]
    }

    /// The wide prefix, rarest first; its first part is the narrow one. Shingles that no other row has
    /// are left out of it, but counted.
    fn prefix(&self, loaded: &Loaded, threshold: f64, prefix: &mut Prefix) {
        let shingles = &mut prefix.shingles;
        shingles.clear();
        shingles.extend(loaded.set.items().iter().map(|shingle| {
            let hash = hash(*shingle);
            (self.slot(hash).load(Relaxed), hash)
        }));
        let size = shingles.len();
        let first = |share: f64| {
            // A hair less than the share, as exact sets decide by a rounded quotient.
            let common = (share * size as f64 - 1e-9).ceil().max(1.0) as usize;
            (size - common.min(size) + SHARED).min(size)
        };
        let (wide, narrow) = (first(threshold), first(2.0 * threshold / (1.0 + threshold)));
        if wide < size {
            shingles.select_nth_unstable(wide);
            shingles.truncate(wide);
        }
        shingles.sort_unstable();
        let alone = shingles.partition_point(|(count, _)| *count < 2);
        prefix.narrow = narrow.min(shingles.len()).saturating_sub(alone);
        shingles.drain(..alone);
    }
}

fn hash(shingle: u128) -> u64 {
    xxh3_64(&shingle.to_le_bytes())
}

/// One pass over rows in an order of its own: positions count in it.
struct Pass<'a> {
    search: &'a Search<'a>,
    rarity: &'a Rarity,
    order: &'a [u32],
    /// The first position that looks for others.
    from: usize,
}

/// Memory for looking one row up after another.
#[derive(Default)]
struct Lookup {
    row: Loaded,
    other: Loaded,
    prefix: Prefix,
}

/// The prefixes of some positions.
struct Index {
    narrow: Vec<Posting>,
    wide: Vec<Posting>,
}

impl Pass<'_> {
    /// For each row, its candidates at positions before `limit(position)`, ascending, each once: `step`
    /// says what to do with one, `found` what to do after a similar one.
    fn run(
        &self,
        limit: impl Fn(usize) -> usize + Sync,
        step: impl Fn(u32, u32, usize) -> Step + Sync,
        found: impl Fn(u32, u32) -> Step + Sync,
    ) -> Result<()> {
        let mut start = 0;
        while start < self.order.len() {
            let end = self.block(start);
            let index = self.index(start, end)?;
            (self.from.max(start)..self.order.len())
                .into_par_iter()
                .with_min_len(16)
                .try_for_each_init(Lookup::default, |lookup, position| {
                    let end = limit(position).min(end);
                    if start < end {
                        self.search.job.cancel.check()?;
                        self.look_up(&index, position, start..end, lookup, &step, &found)?;
                    }
                    Ok(())
                })?;
            start = end;
        }
        Ok(())
    }

    /// As many positions as the index has room for.
    fn block(&self, start: usize) -> usize {
        let share = 1.0 - self.search.method.threshold();
        let mut room = self.search.room.index as f64;
        let mut end = start;
        while end < self.order.len() && (room > 0.0 || end == start) {
            let size = self.search.texts.len(self.order[end]) as f64;
            // Both prefixes, twice: collecting needs a copy.
            room -= (size * share + 2.0) * 2.0 * 2.0 * size_of::<Posting>() as f64;
            end += 1;
        }
        end
    }

    fn index(&self, start: usize, end: usize) -> Result<Index> {
        let threshold = self.search.method.threshold();
        let pieces: Vec<(Vec<Posting>, Vec<Posting>)> = (start..end)
            .into_par_iter()
            .with_min_len(256)
            .try_fold(
                || (Vec::new(), Vec::new(), Loaded::default(), Prefix::default()),
                |(mut narrow, mut wide, mut row, mut prefix), position| {
                    self.search.job.cancel.check()?;
                    self.search.load(self.order[position], &mut row)?;
                    self.rarity.prefix(&row, threshold, &mut prefix);
                    let posting = |(_, hash): &(u32, u64)| (*hash, position as u32);
                    wide.extend(prefix.shingles.iter().map(posting));
                    narrow.extend(prefix.shingles[..prefix.narrow].iter().map(posting));
                    Ok((narrow, wide, row, prefix))
                },
            )
            .map(|piece| piece.map(|(narrow, wide, ..)| (narrow, wide)))
            .collect::<Result<_>>()?;
        let mut index = Index {
            narrow: Vec::new(),
            wide: Vec::new(),
        };
        for (narrow, wide) in pieces {
            index.narrow.extend(narrow);
            index.wide.extend(wide);
        }
        index.narrow.par_sort_unstable();
        index.wide.par_sort_unstable();
        Ok(index)
    }

    fn look_up(
        &self,
        index: &Index,
        position: usize,
        range: std::ops::Range<usize>,
        lookup: &mut Lookup,
        step: &impl Fn(u32, u32, usize) -> Step,
        found: &impl Fn(u32, u32) -> Step,
    ) -> Result<()> {
        let threshold = self.search.method.threshold();
        let Lookup { row, other, prefix } = lookup;
        let place = self.order[position];
        self.search.load(place, row)?;
        self.rarity.prefix(row, threshold, prefix);
        // A narrow prefix of one side must meet a wide one of the other; which side is smaller is told
        // by the sets themselves.
        let narrow = prefix.shingles[..prefix.narrow].iter();
        let wide = prefix.shingles.iter();
        let mut lists: Vec<(usize, &[Posting])> = (wide.map(|shingle| (0, shingle.1)))
            .chain(narrow.map(|shingle| (1, shingle.1)))
            .map(|(way, hash)| {
                let postings = [&index.narrow, &index.wide][way];
                let from = postings.partition_point(|p| *p < (hash, range.start as u32));
                let to = postings.partition_point(|p| *p < (hash, range.end as u32));
                (way, &postings[from..to])
            })
            .filter(|(_, list)| !list.is_empty())
            .collect();
        let all = (threshold * row.set.len() as f64 - 1e-9).ceil().max(1.0) as usize;
        let needed = SHARED.min(all);
        let (mut at, mut seen) = (0, 0);
        while let Some(next) = lists.iter().map(|(_, list)| list[0].1).min() {
            let mut shared = [0; 2];
            for (way, _) in lists.iter().filter(|(_, list)| list[0].1 == next) {
                shared[*way] += 1;
            }
            let next = next as usize;
            at = at.max(next + 1);
            seen += 1;
            let candidate = self.order[next];
            let mut after = if shared.iter().all(|shared| *shared < needed) {
                Step::Jump(0)
            } else {
                step(place, candidate, next)
            };
            if matches!(after, Step::Compare) {
                self.search.load(candidate, other)?;
                after = match row.set.similarity(&other.set, threshold) {
                    Some(_) => found(place, candidate),
                    None => Step::Jump(0),
                };
            }
            match after {
                Step::Stop => break,
                Step::Jump(to) => at = at.max(to),
                Step::Compare => {}
            }
            lists.retain_mut(|(_, list)| {
                if (list[0].1 as usize) < at {
                    let near = list.get(1).is_none_or(|second| second.1 as usize >= at);
                    let passed = if near {
                        1
                    } else {
                        list.partition_point(|p| (p.1 as usize) < at)
                    };
                    *list = &list[passed..];
                }
                !list.is_empty()
            });
        }
        self.search.looked_at.fetch_add(seen, Relaxed);
        Ok(())
    }
}
