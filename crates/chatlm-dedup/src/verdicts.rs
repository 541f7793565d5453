//! From the state of places to what became of rows.

use chatlm_job::Result;
use rayon::prelude::*;

use crate::judge::{Loaded, Search};
use crate::state::{NONE, State};

/// Dropped rows whose similarity is computed together.
const BATCH: usize = 1 << 15;

/// Why a row fell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fall {
    pub(crate) place: u32,
    /// The earliest similar row; `None` where only a row of the other set is similar.
    pub(crate) similar: Option<u32>,
    /// The smallest row of the connected group.
    pub(crate) group: u32,
    pub(crate) similarity: f64,
}

/// How many rows went where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) rows: u64,
    pub(crate) duplicates: u64,
    pub(crate) contaminated: u64,
    pub(crate) clusters: u64,
}

impl State {
    /// A broken row, which is no row.
    pub(crate) fn is_broken(&self, place: u32) -> bool {
        self.is_out(place) && !self.is_repeated(place)
    }

    pub(crate) fn falls(&self, place: u32) -> bool {
        self.best(place) != NONE || self.contaminated(place) != NONE
    }

    /// The rows to judge.
    pub(crate) fn own_rows(&self) -> impl Iterator<Item = u32> + '_ {
        (self.own..self.rows()).filter(|place| !self.is_broken(*place))
    }

    /// The earliest similar row: a repeated text is similar to its first row, or to what that was.
    fn earliest(&self, place: u32) -> Option<u32> {
        let first = self.best(place);
        let earlier = if self.is_repeated(place) {
            self.best(first)
        } else {
            NONE
        };
        [earlier, first].into_iter().find(|place| *place != NONE)
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let mut seen = vec![0u64; (self.rows() as usize).div_ceil(64)];
        for place in self.own_rows() {
            counts.rows += 1;
            if self.best(place) != NONE {
                counts.duplicates += 1;
                let group = self.group(place);
                let (word, bit) = (group as usize / 64, 1 << (group % 64));
                counts.clusters += u64::from(seen[word] & bit == 0);
                seen[word] |= bit;
            } else if self.contaminated(place) != NONE {
                counts.contaminated += 1;
            }
        }
        counts
    }
}

/// Hands on the rows that fall, in order, with their exact similarities.
pub(crate) fn each_fall(
    search: &Search<'_>,
    mut take: impl FnMut(&Fall) -> Result<()>,
) -> Result<()> {
    let state = search.state;
    let mut fallen = state.own_rows().filter(|place| state.falls(*place));
    loop {
        let batch: Vec<u32> = fallen.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        search.job.cancel.check()?;
        let falls: Vec<Fall> = batch
            .par_iter()
            .with_min_len(256)
            .map_init(<[Loaded; 2]>::default, |loaded, &place| {
                let similar = state.earliest(place);
                let other = similar.unwrap_or_else(|| state.contaminated(place));
                Ok(Fall {
                    place,
                    similar,
                    group: state.group(place),
                    similarity: search.similarity(place, other, loaded)?,
                })
            })
            .collect::<Result<_>>()?;
        falls.iter().try_for_each(&mut take)?;
    }
}
