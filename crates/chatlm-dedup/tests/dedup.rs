//! The whole run over files.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use chatlm_dataset::{InputOptions, Row, Rows};
use chatlm_dedup::{DedupOptions, dedup};
use chatlm_job::{Code, Job};

fn options(input: &Path, output: &Path) -> DedupOptions {
    DedupOptions {
        inputs: vec![input.display().to_string()],
        output: output.to_owned(),
        threshold: 0.85,
        ngram: 5,
        num_perm: 128,
        clusters: None,
        report: None,
        against: Vec::new(),
        work: None,
        compat: false,
        max_memory: None,
        encoding: None,
        keep_going: false,
        force: false,
    }
}

fn read(path: &Path) -> Vec<Row> {
    let paths = [path.display().to_string()];
    Rows::open(&paths, &InputOptions::default())
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A text of distinct characters, so that each changed one costs five shingles.
fn text(start: u32, len: u32) -> String {
    (start..start + len).filter_map(char::from_u32).collect()
}

fn write(folder: &Path, name: &str, rows: &[(u32, String)]) -> PathBuf {
    let path = folder.join(name);
    let lines: Vec<String> = rows
        .iter()
        .map(|(id, text)| {
            serde_json::json!({"id": id, "prompt": &text[..3], "response": &text[3..]}).to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn rows_fall_in_order_with_their_clusters_and_columns() {
    let folder = tempfile::tempdir().unwrap();
    let long = text(0x4e00, 200);
    let other = text(0x6000, 200);
    let near = format!("{}好", &long[..long.len() - 3]);
    let rows = [
        (7, other.clone()),
        (8, long.clone()),
        (9, near),
        (10, text(0x7000, 80)),
        (11, other),
    ];
    let input = write(folder.path(), "in.jsonl", &rows);
    let against = write(
        folder.path(),
        "eval.jsonl",
        &[(0, text(0x7000, 80)), (1, long)],
    );
    let (output, clusters) = (
        folder.path().join("out.parquet"),
        folder.path().join("c.parquet"),
    );
    let mut options = options(&input, &output);
    options.clusters = Some(clusters.clone());
    options.against = vec![against.display().to_string()];
    let report = dedup(&options, &Job::quiet()).unwrap();

    assert_eq!((report.rows, report.kept, report.duplicates), (5, 1, 2));
    assert_eq!((report.contaminated, report.clusters), (2, 2));
    assert!(report.peak_rss_bytes > 1 << 20);
    let kept: Vec<i64> = read(&output)
        .iter()
        .map(|r| r.fields["id"].as_i64().unwrap())
        .collect();
    assert_eq!(kept, [7]);
    let fallen: Vec<[i64; 3]> = read(&clusters)
        .iter()
        .map(|row| ["row", "similar_row", "cluster"].map(|n| row.fields[n].as_i64().unwrap()))
        .collect();
    assert_eq!(fallen, [[1, -1, 1], [2, 1, 1], [3, -1, 3], [4, 0, 0]]);
    let similarity = read(&clusters)[1].fields["similarity"].as_f64().unwrap();
    assert!((similarity - 195.0 / 197.0).abs() < 1e-15, "{similarity}");
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<(u32, String)> = (0..3000)
        .map(|i| (i, text(0x4e00 + (i * 37) % 900, 60 + i % 7)))
        .collect();
    let input = write(folder.path(), "in.jsonl", &rows);
    let outputs: Vec<Vec<u8>> = [1, 2, 5]
        .map(|threads| {
            let output = folder.path().join(format!("{threads}.jsonl"));
            let clusters = folder.path().join(format!("{threads}.clusters.jsonl"));
            let mut options = options(&input, &output);
            options.threshold = 0.7;
            options.clusters = Some(clusters.clone());
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| dedup(&options, &Job::quiet())).unwrap();
            [output, clusters]
                .map(|path| std::fs::read(path).unwrap())
                .concat()
        })
        .to_vec();
    assert!(outputs[0].len() > 1000);
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn wrong_options_and_rows_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let input = write(folder.path(), "in.jsonl", &[(0, text(0x4e00, 9))]);
    let output = folder.path().join("out.parquet");
    let code = |change: &dyn Fn(&mut DedupOptions)| {
        let mut options = options(&input, &output);
        change(&mut options);
        dedup(&options, &Job::quiet()).unwrap_err().code()
    };
    assert_eq!(code(&|o| o.threshold = 1.5), Code::Usage);
    assert_eq!(code(&|o| o.threshold = f64::NAN), Code::Usage);
    assert_eq!(
        code(&|o| o.output = folder.path().join("out.txt")),
        Code::Usage
    );
    assert_eq!(code(&|o| o.output.clone_from(&input)), Code::TargetExists);
    assert_eq!(
        code(&|o| o.inputs = vec!["/no/such/file".into()]),
        Code::InputNotFound
    );
    std::fs::write(
        &input,
        "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"response\": \"c\"}\n",
    )
    .unwrap();
    assert_eq!(code(&|_| ()), Code::InputRow);
    let mut lenient = options(&input, &output);
    lenient.keep_going = true;
    assert_eq!(dedup(&lenient, &Job::quiet()).unwrap().rows, 1);
}

#[test]
fn an_interrupted_run_leaves_its_work_alone() {
    let folder = tempfile::tempdir().unwrap();
    let input = write(folder.path(), "in.jsonl", &[(0, text(0x4e00, 9))]);
    let job = Job::quiet();
    job.cancel.cancel();
    let error = dedup(&options(&input, &folder.path().join("out.parquet")), &job).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    assert_eq!(names(folder.path()), [".out.parquet.dedup", "in.jsonl"]);
    dedup(
        &options(&input, &folder.path().join("out.parquet")),
        &Job::quiet(),
    )
    .unwrap();
    assert_eq!(names(folder.path()), ["in.jsonl", "out.parquet"]);
}
