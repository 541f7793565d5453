//! Rows that share a key, a band at a time: keys are read from the spill, spread over parts by their
//! upper bits, sorted part by part; where not all parts fit the memory they are read in several rounds.
//! A row of an entry is as good as a key: 44 bits of the key and 32 of the place.

use std::ops::Range;

use chatlm_job::Result;
use rayon::prelude::*;

use crate::spill::Spill;
use crate::state::State;

const PART_BITS: u32 = 12;
const PARTS: usize = 1 << PART_BITS;
/// Bytes of an entry.
pub(crate) const ENTRY: u64 = 8;

fn part(key: u64) -> usize {
    (key >> (64 - PART_BITS)) as usize
}

fn entry(key: u64, place: u64) -> u64 {
    (key >> (32 - PART_BITS) << 32) | place
}

/// Calls `judge` with each bucket of a band: the places, ascending, of two rows or more that share a
/// key. `capacity` entries are held at a time, or as many as share their key's upper bits.
pub(crate) fn each_bucket<S: Send>(
    spill: &Spill,
    band: Option<usize>,
    state: &State,
    capacity: usize,
    scratch: impl Fn() -> S + Sync + Send,
    judge: impl Fn(&mut S, &[u32]) -> Result<()> + Sync + Send,
) -> Result<()> {
    let mut counts = vec![0usize; PARTS];
    spill.each_keys(band, |first, keys| {
        for (&key, place) in keys.iter().zip(first..) {
            counts[part(key)] += usize::from(!state.is_out(place as u32));
        }
        Ok(())
    })?;
    let mut entries = Vec::new();
    for round in rounds(&counts, capacity) {
        let sizes = &counts[round.clone()];
        let mut ends = Vec::with_capacity(sizes.len());
        let mut end = 0;
        for size in sizes {
            ends.push(end);
            end += size;
        }
        entries.clear();
        entries.resize(end, 0);
        spill.each_keys(band, |first, keys| {
            for (&key, place) in keys.iter().zip(first..) {
                let part = part(key);
                if round.contains(&part) && !state.is_out(place as u32) {
                    let end = &mut ends[part - round.start];
                    entries[*end] = entry(key, place);
                    *end += 1;
                }
            }
            Ok(())
        })?;
        let mut rest = entries.as_mut_slice();
        let mut parts = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let (part, after) = rest.split_at_mut(size);
            parts.push(part);
            rest = after;
        }
        parts.into_par_iter().try_for_each_init(
            || (scratch(), Vec::new()),
            |(scratch, places), part| {
                part.sort_unstable();
                for bucket in part.chunk_by(|a, b| a >> 32 == b >> 32) {
                    if bucket.len() > 1 {
                        places.clear();
                        places.extend(bucket.iter().map(|entry| *entry as u32));
                        judge(scratch, places)?;
                    }
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Consecutive parts that are held together.
fn rounds(counts: &[usize], capacity: usize) -> Vec<Range<usize>> {
    let mut rounds = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (part, count) in counts.iter().enumerate() {
        if held + count > capacity && held > 0 {
            rounds.push(start..part);
            (start, held) = (part, 0);
        }
        held += count;
    }
    if held > 0 {
        rounds.push(start..counts.len());
    }
    rounds
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::spill::Signed;
    use chatlm_job::Job;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn buckets_are_the_rows_of_equal_keys_for_any_capacity(
            keys in prop::collection::vec((0u64..30).prop_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 1..200),
            cut in 1usize..50, capacity in 1usize..300, broken in prop::collection::vec(0u64..200, 0..20),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut spill = Spill::open(&folder.path().join("spill"), 1, &Job::quiet()).unwrap();
            for keys in keys.chunks(cut) {
                let none = vec![0; keys.len()];
                spill.append(&Signed { lengths: vec![0; keys.len()], hashes: none, keys: keys.to_vec(), texts: vec![] }).unwrap();
            }
            let broken: Vec<u64> = broken.into_iter().filter(|place| *place < keys.len() as u64).collect();
            let state = State::new(0, keys.len() as u32, &broken);
            let mut expected: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
            for (&key, place) in keys.iter().zip(0u32..) {
                if !broken.contains(&u64::from(place)) {
                    expected.entry(key).or_default().push(place);
                }
            }
            let mut expected: Vec<Vec<u32>> = expected.into_values().filter(|b| b.len() > 1).collect();
            expected.sort();
            let found = Mutex::new(Vec::new());
            each_bucket(&spill, Some(0), &state, capacity, || (), |(), bucket| {
                found.lock().unwrap().push(bucket.to_vec());
                Ok(())
            }).unwrap();
            let mut found = found.into_inner().unwrap();
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
