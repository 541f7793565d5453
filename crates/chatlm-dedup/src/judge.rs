//! Which rows of a bucket are similar. Small buckets are compared pair by pair, large ones by
//! [`crate::join`]; both find the same: of each row the earliest similar one in the bucket, and every
//! group that a pair of the bucket connects.
//!
//! A pair is compared only where it can tell something new: the earlier row comes before the earliest
//! similar row known so far, or the two are in different groups.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use chatlm_job::{Error, Job, Result};

use crate::bands::each_bucket;
use crate::join::join;
use crate::method::Method;
use crate::sets::Set;
use crate::spill::{Spill, Texts};
use crate::state::{NONE, State};

/// Rows of a bucket that are compared pair by pair.
const SMALL: usize = 128;

/// What the comparison may hold in memory, besides the state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Entries of a band held at a time.
    pub(crate) entries: usize,
    /// UTF-16 units of the texts of a bucket that is compared pair by pair, on each thread.
    pub(crate) units: usize,
    /// Bytes of the index of a large bucket.
    pub(crate) index: usize,
}

pub(crate) struct Search<'a> {
    pub(crate) spill: &'a Spill,
    pub(crate) texts: &'a Texts<'a>,
    pub(crate) state: &'a State,
    pub(crate) method: &'a Method,
    pub(crate) room: Room,
    pub(crate) job: &'a Job,
    /// Candidates looked at in large buckets: what must not grow with the pairs.
    pub(crate) looked_at: AtomicU64,
}

/// A text and its set, and memory for the next.
#[derive(Default)]
pub(crate) struct Loaded {
    text: Vec<u16>,
    pub(crate) set: Set,
}

impl Search<'_> {
    pub(crate) fn load(&self, place: u32, into: &mut Loaded) -> Result<()> {
        self.texts.read(place, &mut into.text)?;
        into.set.fill(&into.text, self.method.ngram());
        Ok(())
    }

    /// The exact similarity of two rows, whatever it is.
    pub(crate) fn similarity(&self, a: u32, b: u32, with: &mut [Loaded; 2]) -> Result<f64> {
        let [x, y] = with;
        self.load(a, x)?;
        self.load(b, y)?;
        Ok(x.set.similarity(&y.set, 0.0).unwrap_or(0.0))
    }

    /// Rows of one text: all but the first of each set stand aside from here on.
    pub(crate) fn repetitions(&self) -> Result<()> {
        let scratch = || (Vec::<u16>::new(), Vec::<(u32, Vec<u16>)>::new());
        each_bucket(
            self.spill,
            None,
            self.state,
            self.room.entries,
            scratch,
            |(text, firsts), bucket| {
                self.job.cancel.check()?;
                firsts.clear();
                for &place in bucket {
                    self.texts.read(place, text)?;
                    let same_set =
                        |first: u32| (first < self.state.own) == (place < self.state.own);
                    // Nearly always one or two: another text has the same hash by chance alone.
                    match firsts
                        .iter()
                        .find(|(first, other)| same_set(*first) && other == text)
                    {
                        Some((first, _)) => self.state.repeats(place, *first),
                        None => firsts.push((place, text.clone())),
                    }
                }
                Ok(())
            },
        )
    }

    /// Compares the rows that share a key of this band.
    pub(crate) fn band(&self, band: usize) -> Result<()> {
        let large = Mutex::new(Vec::new());
        each_bucket(
            self.spill,
            Some(band),
            self.state,
            self.room.entries,
            Vec::new,
            |sets, bucket| {
                self.job.cancel.check()?;
                if !self.method.verifies() {
                    return self.shared_key(band, bucket);
                }
                if !self.tells_something(bucket) {
                    return Ok(());
                }
                let units: usize = bucket.iter().map(|place| self.texts.len(*place)).sum();
                if bucket.len() == 2 || (bucket.len() <= SMALL && units <= self.room.units) {
                    return self.pair_by_pair(bucket, sets);
                }
                large
                    .lock()
                    .map_err(|_| Error::internal("a thread panicked"))?
                    .push(bucket.to_vec());
                Ok(())
            },
        )?;
        let large = large
            .into_inner()
            .map_err(|_| Error::internal("a thread panicked"))?;
        for bucket in large {
            join(self, &bucket)?;
        }
        Ok(())
    }

    /// Whether any pair of the bucket could still change the state.
    pub(crate) fn tells_something(&self, bucket: &[u32]) -> bool {
        let own = bucket.partition_point(|place| *place < self.state.own);
        let (others, rows) = bucket.split_at(own);
        let Some(&first) = rows.first() else {
            return false;
        };
        let other = others.first().copied().unwrap_or(NONE);
        let group = self.state.group(first);
        rows.iter().any(|&row| {
            self.state.contaminated(row) > other && other != NONE
                || (row != first
                    && (self.state.best(row) > first || self.state.group(row) != group))
        })
    }

    fn pair_by_pair(&self, bucket: &[u32], sets: &mut Vec<Loaded>) -> Result<()> {
        let State { own, .. } = *self.state;
        let threshold = self.method.threshold();
        if sets.len() < bucket.len() {
            sets.resize_with(bucket.len(), Loaded::default);
        }
        let mut loaded = [false; SMALL];
        for (i, &row) in bucket.iter().enumerate() {
            for (j, &earlier) in bucket[..i].iter().enumerate() {
                if row < own || !self.is_new(row, earlier) {
                    continue;
                }
                for member in [i, j] {
                    if !loaded[member] {
                        self.load(bucket[member], &mut sets[member])?;
                        loaded[member] = true;
                    }
                }
                if sets[i].set.similarity(&sets[j].set, threshold).is_some() {
                    self.note(row, earlier);
                }
            }
        }
        Ok(())
    }

    /// Whether a row's likeness to an earlier one would tell anything.
    pub(crate) fn is_new(&self, row: u32, earlier: u32) -> bool {
        if earlier < self.state.own {
            return earlier < self.state.contaminated(row);
        }
        earlier < self.state.best(row) || self.state.group(row) != self.state.group(earlier)
    }

    /// Notes a similar pair.
    pub(crate) fn note(&self, row: u32, earlier: u32) {
        if earlier < self.state.own {
            self.state.contaminate(row, earlier);
        } else {
            self.state.similar(row, earlier);
        }
    }

    /// The reference's way: rows that share a key are alike.
    fn shared_key(&self, band: usize, bucket: &[u32]) -> Result<()> {
        // Buckets go by 44 bits of the key; here all of it counts.
        let mut keyed: Vec<(u64, u32)> = bucket
            .iter()
            .map(|&place| Ok((self.spill.key(band, u64::from(place))?, place)))
            .collect::<Result<_>>()?;
        keyed.sort_unstable();
        for alike in keyed.chunk_by(|a, b| a.0 == b.0) {
            let own = alike.partition_point(|(_, place)| *place < self.state.own);
            for (after, &(_, row)) in alike[own..].iter().enumerate() {
                if own > 0 {
                    self.state.contaminate(row, alike[0].1);
                }
                if after > 0 {
                    self.state.similar(row, alike[own].1);
                }
            }
        }
        Ok(())
    }
}
