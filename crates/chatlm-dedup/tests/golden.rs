//! `--compat` against the outputs of the reference program, where they are at hand.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::path::Path;

use chatlm_dataset::{InputOptions, Rows};
use chatlm_dedup::{DedupOptions, dedup};
use chatlm_job::Job;

#[test]
fn compat_keeps_the_rows_that_the_reference_keeps() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/dedup");
    let golden = std::env::var_os("CHATLM_SHARED")
        .map_or(golden, |shared| Path::new(&shared).join("golden/dedup"));
    let Ok(expected) = std::fs::read(golden.join("expected_kept.json")) else {
        eprintln!("skipped: {} is not there", golden.display());
        return;
    };
    let expected: Vec<u64> = serde_json::from_slice(&expected).unwrap();
    let groups = std::fs::read(golden.join("clusters.json")).unwrap();
    let groups: serde_json::Value = serde_json::from_slice(&groups).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clusters = folder.path().join("clusters.jsonl");
    let options = DedupOptions {
        inputs: vec![golden.join("input.parquet").display().to_string()],
        output: folder.path().join("out.parquet"),
        threshold: 0.5,
        ngram: 9,
        num_perm: 16,
        clusters: Some(clusters.clone()),
        report: None,
        against: Vec::new(),
        work: None,
        compat: true,
        max_memory: None,
        encoding: None,
        keep_going: false,
        force: false,
    };
    let report = dedup(&options, &Job::quiet()).unwrap();
    assert_eq!(report.kept, expected.len() as u64);
    let mut kept: Vec<u64> = (0..report.rows).collect();
    for row in Rows::open(&[clusters.display().to_string()], &InputOptions::default()).unwrap() {
        let fields = row.unwrap().fields;
        let number = |name: &str| fields[name].as_u64().unwrap();
        let row = number("row");
        kept.retain(|kept| *kept != row);
        let alike = groups[number("similar_row").to_string()]
            .as_array()
            .unwrap();
        let alike = alike.iter().find(|pair| pair[0] == row).unwrap();
        let similarity = fields["similarity"].as_f64().unwrap();
        assert!((alike[1].as_f64().unwrap() - similarity).abs() < 1e-6);
    }
    assert_eq!(kept, expected);
}
