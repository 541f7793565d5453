//! The comparison against the contract's rule computed pair by pair, over any memory and way of joining.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use chatlm_job::{Job, Random};
use proptest::prelude::*;

use crate::judge::{Room, Search};
use crate::method::Method;
use crate::minhash::{Bands, MinHash};
use crate::spill::{Spill, Texts};
use crate::state::State;
use crate::text::tests::{jaccard, normalized, shingles};
use crate::verdicts::each_fall;

/// Row, earliest similar row, smallest row of the group, similarity.
type Fallen = (u32, Option<u32>, u32, f64);

fn brute_force(own: &[String], other: &[String], ngram: usize, threshold: f64) -> Vec<Fallen> {
    let sets = |rows: &[String]| -> Vec<_> {
        rows.iter()
            .map(|row| shingles(&normalized(row, ""), ngram))
            .collect()
    };
    let (own, other) = (sets(own), sets(other));
    let groups = State::new(0, own.len() as u32, &[]);
    let mut fallen = Vec::new();
    for i in 0..own.len() {
        let similar: Vec<(usize, f64)> = (0..i)
            .map(|j| (j, jaccard(&own[i], &own[j])))
            .filter(|(_, similarity)| *similarity >= threshold)
            .collect();
        for (j, _) in &similar {
            groups.join(i as u32, *j as u32);
        }
        let others = other.iter().map(|set| jaccard(&own[i], set));
        if let Some((j, similarity)) = similar.first() {
            fallen.push((i as u32, Some(*j as u32), 0, *similarity));
        } else if let Some(similarity) = others.into_iter().find(|s| *s >= threshold) {
            fallen.push((i as u32, None, 0, similarity));
        }
    }
    for fall in &mut fallen {
        fall.2 = groups.group(fall.0);
    }
    fallen
}

/// So many bands of one row that no pair is missed: the rest must be exact.
const ALL_PAIRS: Bands = Bands {
    count: 128,
    rows: 1,
};

fn judge(
    bands: Bands,
    own: &[String],
    other: &[String],
    ngram: usize,
    threshold: f64,
    room: Room,
    cut: usize,
) -> (Vec<Fallen>, u64) {
    let method = Method::Shingles {
        ngram,
        threshold,
        bands,
        minhash: MinHash::new(bands),
    };
    let job = Job::quiet();
    let folder = tempfile::tempdir().expect("a folder");
    let mut spill = Spill::open(&folder.path().join("spill"), bands.count, &job).expect("a spill");
    for rows in other.chunks(cut).chain(own.chunks(cut)) {
        let pairs = rows.iter().map(|row| Some((row.as_str(), "")));
        spill
            .append(&method.sign(rows.len(), pairs))
            .expect("room on the disk");
    }
    let texts = Texts::load(&spill).expect("texts");
    let state = State::new(other.len() as u32, spill.rows() as u32, &[]);
    let search = Search {
        spill: &spill,
        texts: &texts,
        state: &state,
        method: &method,
        room,
        job: &job,
        looked_at: AtomicU64::new(0),
    };
    search.repetitions().expect("repetitions");
    for band in 0..bands.count {
        search.band(band).expect("a band");
    }
    let mut fallen = Vec::new();
    let row = |place: u32| place - other.len() as u32;
    each_fall(&search, |fall| {
        let similar = fall.similar.map(row);
        fallen.push((row(fall.place), similar, row(fall.group), fall.similarity));
        Ok(())
    })
    .expect("verdicts");
    (fallen, search.looked_at.load(Relaxed))
}

/// Rows of a few clauses from a small pool, so that many are alike and repeat.
fn rows(most: usize) -> impl Strategy<Value = Vec<String>> {
    const CLAUSES: [&str; 9] = [
        "床前明月光",
        "疑是地上霜",
        "举头望明月",
        "低头思故乡",
        "月",
        "Ｍoon light",
        "😀",
        "",
        "黄河入海流",
    ];
    let row = prop::collection::vec(0usize..CLAUSES.len(), 0..6).prop_map(|places| {
        places
            .into_iter()
            .map(|place| CLAUSES[place])
            .collect::<String>()
    });
    prop::collection::vec(row, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn verdicts_equal_brute_force(
        own in rows(60), other in rows(8), ngram in 1usize..8, threshold in 0.2f64..1.0,
        entries in 1usize..100, cut in 1usize..70, join in any::<bool>(), index in 0usize..4000,
    ) {
        let room = Room { entries, units: if join { 0 } else { 1 << 16 }, index };
        let expected = brute_force(&own, &other, ngram, threshold);
        prop_assert_eq!(judge(ALL_PAIRS, &own, &other, ngram, threshold, room, cut).0, expected);
    }
}

const WIDE: Room = Room {
    entries: 1 << 20,
    units: 1 << 16,
    index: 1 << 24,
};

#[test]
fn a_row_falls_for_an_earlier_row_that_fell_itself() {
    let rows = [
        "一二三四五六七八九十",
        "一二三四五六七八九",
        "一二三四五六七八",
    ]
    .map(str::to_owned);
    let (fallen, _) = judge(ALL_PAIRS, &rows, &[], 1, 0.85, WIDE, 3);
    let found: Vec<_> = fallen.iter().map(|f| (f.0, f.1, f.2)).collect();
    // The last one is not similar enough to the first, but in its group.
    assert_eq!(found, [(1, Some(0), 0), (2, Some(1), 0)]);
}

/// Work must grow with the rows, not with their pairs: in buckets of rows that share boilerplate, of a
/// template just below the threshold, of near-identical and of identical rows.
#[test]
fn huge_buckets_take_linear_work() {
    let boilerplate: String = (0x4e00..0x4e00 + 60).filter_map(char::from_u32).collect();
    let word = |row: u32, len: u32| -> String {
        let mut drawn = Random::new(u64::from(row) << 8 | u64::from(len));
        (0..len)
            .filter_map(|_| char::from_u32(0x5000 + drawn.below(0x4000) as u32))
            .collect()
    };
    // What each row adds to the boilerplate, and whether nearly all rows fall.
    for (own, falls) in [(40, false), (8, false), (2, true), (0, true)] {
        let looked_at = [4_000u32, 32_000].map(|count| {
            let text = |row| format!("{boilerplate}{}", word(row, own));
            let rows: Vec<String> = (0..count).map(text).collect();
            let bands = Bands { count: 4, rows: 1 };
            let (fallen, looked_at) = judge(bands, &rows, &[], 5, 0.85, WIDE, 1 << 12);
            let most = if falls { count..count + 1 } else { 0..5 };
            assert!(
                most.contains(&(fallen.len() as u32 + u32::from(falls))),
                "{own}: {}",
                fallen.len()
            );
            looked_at
        });
        // Eight times the rows; pair by pair would be sixty-four times the work.
        assert!(
            looked_at[1] <= 16 * looked_at[0].max(4_000),
            "{own}: {looked_at:?}"
        );
    }
}
