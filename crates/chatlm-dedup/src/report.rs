//! The report of a run as JSON; docs/dedup.md describes its shape.

use chatlm_job::Result;
use serde::Serialize;
use serde_json::{Value, json};

use crate::judge::Search;
use crate::options::{DedupOptions, DedupReport};
use crate::state::State;
use crate::verdicts::Fall;

/// Clusters that are shown, rows of each, characters of each text.
const SHOWN: usize = 10;
const TEXT: usize = 80;
/// Bins of the similarities' histogram, each a hundredth wide; the last one is 1 alone.
const BINS: usize = 101;

/// Seconds by phase, those of this process alone.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Phases {
    pub(crate) read: f64,
    pub(crate) compare: f64,
    pub(crate) write: f64,
}

/// Counts what goes into the histograms.
pub(crate) struct Tally {
    similarities: [u64; BINS],
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            similarities: [0; BINS],
        }
    }

    pub(crate) fn add(&mut self, fall: &Fall) {
        // The hair keeps 0.29 out of the bin of 0.28.
        let bin = (fall.similarity * 100.0 + 1e-9) as usize;
        self.similarities[bin.min(BINS - 1)] += 1;
    }

    pub(crate) fn report(
        &self,
        search: &Search<'_>,
        options: &DedupOptions,
        counts: &DedupReport,
        phases: Phases,
    ) -> Result<Value> {
        let sizes = sizes(search.state);
        let bands = search.method.bands();
        let similarities: Vec<Value> = (self.similarities.iter().enumerate())
            .filter(|(_, rows)| **rows > 0)
            .map(|(bin, rows)| json!({"from": bin as f64 / 100.0, "rows": rows}))
            .collect();
        Ok(json!({
            "kind": "dedup",
            "version": 1,
            "rows": counts.rows,
            "kept": counts.kept,
            "duplicates": counts.duplicates,
            "contaminated": counts.contaminated,
            "clusters": counts.clusters,
            "similarities": similarities,
            "cluster_sizes": histogram(&sizes),
            "largest": largest(search, &sizes)?,
            "settings": {
                "threshold": search.method.threshold(),
                "ngram": search.method.ngram(),
                "num_perm": if options.compat { 256 } else { options.num_perm },
                "bands": bands.count,
                "rows": bands.rows,
                "chance_at_threshold": bands.chance(search.method.threshold()),
                "compat": options.compat,
                "against": options.against,
            },
            "seconds": {
                "read": phases.read,
                "compare": phases.compare,
                "write": phases.write,
                "all": counts.seconds,
            },
            "peak_rss_bytes": counts.peak_rss_bytes,
        }))
    }
}

/// Rows of each row's group, at the place of its smallest.
fn sizes(state: &State) -> Vec<u32> {
    let mut sizes = vec![0; (state.rows() - state.own) as usize];
    for place in state.own_rows() {
        sizes[(state.group(place) - state.own) as usize] += 1;
    }
    sizes
}

/// Groups of 2, 3, 4, 5 to 8, 9 to 16, … rows.
fn histogram(sizes: &[u32]) -> Vec<Value> {
    let mut counts = [0u64; 34];
    for &size in sizes.iter().filter(|size| **size > 1) {
        counts[class(size)] += 1;
    }
    let shown = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    shown
        .map(|(class, clusters)| {
            let (from, to) = if class <= 4 {
                (class as u64, class as u64)
            } else {
                ((1u64 << (class - 3)) + 1, 1u64 << (class - 2))
            };
            json!({"from": from, "to": to, "clusters": clusters})
        })
        .collect()
}

fn class(size: u32) -> usize {
    match size {
        0..=4 => size as usize,
        _ => 34 - (size - 1).leading_zeros() as usize,
    }
}

fn largest(search: &Search<'_>, sizes: &[u32]) -> Result<Vec<Value>> {
    let state = search.state;
    let mut first: Vec<(u32, u32)> = Vec::with_capacity(SHOWN + 1);
    for (&size, row) in sizes.iter().zip(0u32..).filter(|(size, _)| **size > 1) {
        let after = first.partition_point(|(known, _)| *known >= size);
        if after < SHOWN {
            first.insert(after, (size, row));
            first.truncate(SHOWN);
        }
    }
    let mut members = vec![Vec::new(); first.len()];
    for place in state.own_rows() {
        let group = state.group(place) - state.own;
        if let Some(cluster) = first.iter().position(|(_, row)| *row == group)
            && members[cluster].len() < SHOWN
        {
            members[cluster].push(place);
        }
    }
    let mut text = Vec::new();
    (first.iter().zip(members))
        .map(|((size, row), members)| {
            let mut rows = Vec::new();
            for place in members {
                search.texts.read(place, &mut text)?;
                let text: String = char::decode_utf16(text.iter().copied())
                    .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                    .take(TEXT)
                    .collect();
                rows.push(json!({"row": place - state.own, "text": text}));
            }
            Ok(json!({"cluster": row, "size": size, "rows": rows}))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_their_classes() {
        let shown = histogram(&[1, 2, 3, 4, 5, 8, 9, 16, 17, 1, 2, 0]);
        let expected = json!([
            {"from": 2, "to": 2, "clusters": 2}, {"from": 3, "to": 3, "clusters": 1},
            {"from": 4, "to": 4, "clusters": 1}, {"from": 5, "to": 8, "clusters": 2},
            {"from": 9, "to": 16, "clusters": 2}, {"from": 17, "to": 32, "clusters": 1},
        ]);
        assert_eq!(Value::from(shown), expected);
    }
}
