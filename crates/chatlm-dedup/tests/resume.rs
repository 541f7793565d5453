//! Runs that are broken off: killed, interrupted, out of disk, with little memory; and what changes
//! nothing: threads and memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chatlm_dataset::{Cell, ColumnKind, TableWriter};
use chatlm_dedup::{DedupOptions, dedup};
use chatlm_job::{Code, Job, Random};

const CHILD: &str = "CHATLM_TEST_DEDUP_FOLDER";
const RESULTS: [&str; 2] = ["out.parquet", "clusters.jsonl"];

fn options(folder: &Path) -> DedupOptions {
    DedupOptions {
        inputs: vec![folder.join("in.parquet").display().to_string()],
        output: folder.join(RESULTS[0]),
        threshold: 0.7,
        ngram: 5,
        num_perm: 128,
        clusters: Some(folder.join(RESULTS[1])),
        report: None,
        against: Vec::new(),
        work: None,
        compat: false,
        max_memory: None,
        encoding: None,
        keep_going: true,
        force: false,
    }
}

/// Rows of which a third resemble another, some are equal and some are null.
fn corpus(folder: &Path, rows: u64) {
    let columns = [
        ("id", ColumnKind::Int64),
        ("prompt", ColumnKind::Text),
        ("response", ColumnKind::Text),
        ("score", ColumnKind::Float64),
    ];
    let mut table = TableWriter::create(&folder.join("in.parquet"), &columns, true).unwrap();
    for row in 0..rows {
        let mut drawn = Random::new(row);
        let source = if drawn.below(3) == 0 {
            drawn.below(rows)
        } else {
            row
        };
        let mut letters = Random::new(source.wrapping_mul(0x9e37));
        let mut text: Vec<char> = (0..100 + letters.below(60))
            .filter_map(|_| char::from_u32(0x4e00 + letters.below(3000) as u32))
            .collect();
        if drawn.below(4) > 0 {
            let at = drawn.below(100) as usize;
            text[at] = '好';
        }
        let (prompt, response) = text.split_at(20);
        let (prompt, response) = (String::from_iter(prompt), String::from_iter(response));
        let prompt = if row % 101 == 7 {
            Cell::Null
        } else {
            Cell::Text(&prompt)
        };
        let score = Cell::Float64(row as f64 / 4.0);
        let cells = [
            Cell::Int64(row as i64),
            prompt,
            Cell::Text(&response),
            score,
        ];
        table.push(&cells).unwrap();
    }
    table.finish().unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The bytes of the results, which are removed.
fn take(folder: &Path) -> Vec<Vec<u8>> {
    assert_eq!(
        names(folder),
        ["clusters.jsonl", "in.parquet", "out.parquet"]
    );
    RESULTS
        .map(|name| {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            std::fs::remove_file(folder.join(name)).unwrap();
            bytes
        })
        .to_vec()
}

fn reference(folder: &Path, rows: u64) -> (Vec<Vec<u8>>, Duration) {
    corpus(folder, rows);
    let start = Instant::now();
    let report = dedup(&options(folder), &Job::quiet()).unwrap();
    assert!(
        report.duplicates > rows / 6 && report.kept > rows / 3,
        "{report:?}"
    );
    assert_eq!(report.rows, rows - (rows + 93) / 101);
    (take(folder), start.elapsed())
}

#[test]
fn neither_threads_nor_memory_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (expected, _) = reference(folder.path(), 30_000);
    let mut options = options(folder.path());
    options.max_memory = Some(1);
    let error = dedup(&options, &Job::quiet()).unwrap_err();
    assert_eq!(error.code(), Code::Usage);
    let needed = error.context()["needed"].as_u64().unwrap();
    assert_eq!(names(folder.path()), ["in.parquet"]);
    // The tests of this file share a process, so what it holds changes a little meanwhile.
    for (threads, memory) in [
        (1, None),
        (3, None),
        (2, Some(needed + (256 << 20))),
        (5, Some(2 << 30)),
    ] {
        options.max_memory = memory;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| dedup(&options, &Job::quiet())).unwrap();
        assert!(
            take(folder.path()) == expected,
            "{threads} threads, {memory:?}"
        );
    }
}

/// Not a test of its own: what the killed process does.
#[test]
fn child() {
    if let Some(folder) = std::env::var_os(CHILD) {
        dedup(&options(Path::new(&folder)), &Job::quiet()).unwrap();
    }
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (expected, whole) = reference(folder.path(), 30_000);
    let mut random = Random::new(23_333);
    let (mut resumed, mut kills) = (0, 0);
    // A busy machine ends many runs before their moment comes.
    for round in 0..60 {
        if kills >= 12 {
            break;
        }
        loop {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child"])
                .env(CHILD, folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let moment = Duration::from_secs_f64(whole.as_secs_f64() * 1.2 * random.uniform());
            let start = Instant::now();
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if start.elapsed() > moment {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            if let Some(status) = ended {
                // A run that was killed when it had finished is refused: the results are there.
                let there = RESULTS.iter().all(|name| folder.path().join(name).exists());
                assert!(status.success() || there, "round {round}");
                break;
            }
            kills += 1;
            let spill = folder.path().join(".out.parquet.dedup/spill");
            resumed += u32::from(std::fs::metadata(spill).is_ok_and(|spill| spill.len() > 0));
        }
        // A killed process may leave temporary files, which the next one removes.
        assert!(take(folder.path()) == expected, "round {round}");
    }
    assert!(
        kills >= 12 && resumed > 2,
        "{kills} kills, {resumed} with work left"
    );
}

#[test]
fn interrupted_at_any_moment_it_goes_on_and_changed_inputs_start_over() {
    let folder = tempfile::tempdir().unwrap();
    let (expected, whole) = reference(folder.path(), 20_000);
    let options = options(folder.path());
    let interrupted = |share: f64| {
        let job = Job::quiet();
        let cancel = job.cancel.clone();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * share));
            cancel.cancel();
        });
        let result = dedup(&options, &job);
        later.join().unwrap();
        if let Err(error) = &result {
            assert_eq!(error.code(), Code::Cancelled);
            assert!(!folder.path().join(RESULTS[0]).exists());
        }
        result.is_ok()
    };
    let mut random = Random::new(7);
    for _ in 0..5 {
        let mut share = 0.0;
        while !interrupted(share) {
            share += random.uniform() * 0.5;
        }
        assert!(take(folder.path()) == expected);
    }
    while interrupted(0.3) {
        take(folder.path());
    }
    corpus(folder.path(), 500);
    assert_eq!(dedup(&options, &Job::quiet()).unwrap().rows, 500 - 5);
}

/// Runs itself once more under a file-size limit, which ends writes as a full disk does.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    const LIMITED: &str = "CHATLM_TEST_LIMITED_FOLDER";
    if let Some(folder) = std::env::var_os(LIMITED) {
        let error = dedup(&options(Path::new(&folder)), &Job::quiet()).unwrap_err();
        assert_eq!(error.code(), Code::DiskFull, "{error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path(), 3000);
    // In the spill, and (in blocks of 512 bytes) in the table of rows.
    for limit in ["64", "1800"] {
        let script = format!(
            "trap '' XFSZ; ulimit -f {limit}; exec \"$0\" --exact a_disk_that_fills_up_leaves_nothing"
        );
        let status = Command::new("sh")
            .args(["-c", script.as_str()])
            .arg(std::env::current_exe().unwrap())
            .env(LIMITED, folder.path())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{limit}");
        assert_eq!(names(folder.path()), ["in.parquet"]);
    }
}

/// Names what is compared: rows as jsonl are read one by one, and give the same rows.
#[test]
fn rows_read_one_by_one_fall_as_those_of_columns() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path(), 3000);
    let mut options = options(folder.path());
    dedup(&options, &Job::quiet()).unwrap();
    let clusters = std::fs::read(folder.path().join(RESULTS[1])).unwrap();
    let lines: PathBuf = folder.path().join("in.jsonl");
    let paths = [options.inputs[0].clone()];
    chatlm_dataset::merge(
        &paths,
        &chatlm_dataset::InputOptions::default(),
        &lines,
        false,
        &Job::quiet(),
    )
    .unwrap();
    options.inputs = vec![lines.display().to_string()];
    options.force = true;
    options.output = folder.path().join("other.parquet");
    dedup(&options, &Job::quiet()).unwrap();
    assert!(std::fs::read(folder.path().join(RESULTS[1])).unwrap() == clusters);
    let rows = |name: &str| -> Vec<_> {
        let paths = [folder.path().join(name).display().to_string()];
        chatlm_dataset::Rows::open(&paths, &chatlm_dataset::InputOptions::default())
            .unwrap()
            .map(|row| row.unwrap().fields)
            .collect()
    };
    assert!(rows("other.parquet") == rows(RESULTS[0]));
}
