//! The comparison against the contract's rule computed pair by pair, over any memory and way of joining.

use chatlm_job::Job;
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
) -> Vec<Fallen> {
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
    fallen
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
        prop_assert_eq!(judge(ALL_PAIRS, &own, &other, ngram, threshold, room, cut), expected);
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
    let fallen = judge(ALL_PAIRS, &rows, &[], 1, 0.85, WIDE, 3);
    let found: Vec<_> = fallen.iter().map(|f| (f.0, f.1, f.2)).collect();
    // The last one is not similar enough to the first, but in its group.
    assert_eq!(found, [(1, Some(0), 0), (2, Some(1), 0)]);
}

/// Time must grow with the rows, not with their pairs. Buckets of rows that share boilerplate, of near-identical and of identical rows.
#[test]
fn huge_buckets_take_linear_time() {
    let boilerplate: String = (0x4e00..0x4e00 + 60).filter_map(char::from_u32).collect();
    let word = |row: u32, salt: u32, len: u32| -> String {
        (0..len)
            .filter_map(|i| {
                let mixed = (row * 977 + salt)
                    .wrapping_mul(0x9e37_79b9)
                    .wrapping_add(i * 7919);
                char::from_u32(0x5000 + (mixed ^ mixed >> 13) % 0x4000)
            })
            .collect()
    };
    let kinds: [(&str, f64, Box<dyn Fn(u32) -> String>); 3] = [
        (
            "boilerplate",
            0.0,
            Box::new(|row| format!("{boilerplate}{}", word(row, 1, 40))),
        ),
        (
            "near-identical",
            0.9,
            Box::new(|row| format!("{boilerplate}{}", word(row, 2, 2))),
        ),
        ("identical", 0.9, Box::new(|_| boilerplate.clone())),
    ];
    for (name, share, text) in kinds {
        let seconds = [4_000u32, 32_000].map(|count| {
            let rows: Vec<String> = (0..count).map(&text).collect();
            let start = std::time::Instant::now();
            let fallen = judge(
                Bands { count: 4, rows: 1 },
                &rows,
                &[],
                5,
                0.85,
                WIDE,
                1 << 12,
            );
            assert!(
                fallen.len() as f64 >= share * f64::from(count),
                "{name}: {}",
                fallen.len()
            );
            if share == 0.0 {
                assert!(fallen.len() < 5, "{name}: {}", fallen.len());
            }
            start.elapsed().as_secs_f64()
        });
        // Eight times the rows; pair by pair would be sixty-four times the work.
        assert!(
            seconds[1] < 24.0 * seconds[0].max(0.05),
            "{name}: {seconds:?}"
        );
    }
}
