//! What an exact computation would drop, against what a run dropped: all pairs that share a shingle,
//! true Jaccard similarity, no hashing of signatures anywhere.
//!
//! `cargo run --release -p chatlm-dedup --example exact -- ROWS.parquet CLUSTERS.parquet [THRESHOLD] [NGRAM]`
//! prints one JSON object. `CLUSTERS.parquet` is what `chatlm dedup --clusters` wrote for `ROWS.parquet`.
//! It knows nothing of the crate's own code: texts are normalized, cut and compared here once more.
#![expect(clippy::print_stdout, reason = "the answer of an example")]
#![expect(clippy::unwrap_used, reason = "an example for developers")]

use std::collections::{HashMap, HashSet};

use chatlm_dataset::{InputOptions, Rows};
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, clusters, rest @ ..] = arguments.as_slice() else {
        println!("usage: exact ROWS.parquet CLUSTERS.parquet [THRESHOLD] [NGRAM]");
        return;
    };
    let threshold: f64 = rest.first().map_or(0.85, |text| text.parse().unwrap());
    let ngram: usize = rest.get(1).map_or(5, |text| text.parse().unwrap());
    let open = |path: &String| {
        Rows::open(std::slice::from_ref(path), &InputOptions::default())
            .unwrap()
            .map(Result::unwrap)
    };

    // Shingles as numbers in the order in which they are first seen.
    let mut numbers: HashMap<Vec<char>, u32> = HashMap::new();
    let mut sets: Vec<Vec<u32>> = Vec::new();
    for row in open(rows) {
        let text: Vec<char> = [row.text("prompt").unwrap(), row.text("response").unwrap()]
            .concat()
            .nfkc()
            .filter(|c| !c.is_whitespace())
            .collect();
        let mut set: Vec<u32> = if text.len() < ngram {
            vec![&text[..]]
        } else {
            text.windows(ngram).collect()
        }
        .into_iter()
        .map(|shingle| {
            let next = numbers.len() as u32;
            *numbers.entry(shingle.to_vec()).or_insert(next)
        })
        .collect();
        set.sort_unstable();
        set.dedup();
        sets.push(set);
    }
    let mut holders: Vec<Vec<u32>> = vec![Vec::new(); numbers.len()];
    for (set, row) in sets.iter().zip(0u32..) {
        for &shingle in set {
            holders[shingle as usize].push(row);
        }
    }

    // For each row the earliest similar one among all that share a shingle, counted one by one.
    let exact: Vec<(u32, f64)> = (0..sets.len() as u32)
        .into_par_iter()
        .map_init(
            || (vec![0u32; sets.len()], Vec::new()),
            |(shared, seen), row| {
                let set = &sets[row as usize];
                for &shingle in set {
                    for &other in holders[shingle as usize]
                        .iter()
                        .take_while(|other| **other < row)
                    {
                        if shared[other as usize] == 0 {
                            seen.push(other);
                        }
                        shared[other as usize] += 1;
                    }
                }
                let mut best = (u32::MAX, 0.0);
                for other in seen.drain(..) {
                    let both = std::mem::take(&mut shared[other as usize]) as usize;
                    let either = set.len() + sets[other as usize].len() - both;
                    let similarity = both as f64 / either as f64;
                    if similarity >= threshold && other < best.0 {
                        best = (other, similarity);
                    }
                }
                best
            },
        )
        .collect();

    let number = |value: &serde_json::Value| value.as_i64().unwrap();
    let dropped: HashMap<u32, (i64, f64)> = open(clusters)
        .map(|row| {
            let fields = &row.fields;
            let similarity = fields["similarity"].as_f64().unwrap();
            (
                number(&fields["row"]) as u32,
                (number(&fields["similar_row"]), similarity),
            )
        })
        .collect();
    let should: HashSet<u32> = (0..)
        .zip(&exact)
        .filter(|(_, e)| e.0 != u32::MAX)
        .map(|(row, _)| row)
        .collect();
    let found = should
        .iter()
        .filter(|row| dropped.contains_key(row))
        .count();
    let wrong = dropped.keys().filter(|row| !should.contains(row)).count();
    let earliest = dropped
        .iter()
        .filter(|(row, (similar, similarity))| {
            let (other, exact) = exact[**row as usize];
            i64::from(other) == *similar && (exact - similarity).abs() < 1e-12
        })
        .count();
    println!(
        "{}",
        serde_json::json!({
            "rows": sets.len(), "threshold": threshold, "ngram": ngram,
            "exact_drops": should.len(), "dropped": dropped.len(),
            "found": found as f64 / should.len().max(1) as f64, "wrongly_dropped": wrong,
            "similar_row_and_similarity_equal": earliest,
        })
    );
}
