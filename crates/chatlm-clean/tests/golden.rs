//! `--compat` against what the reference program wrote (`../shared/golden/clean`, not part of the
//! repository: where it is missing these tests say so and pass).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use chatlm_clean::{CleanOptions, CleanReport, Purpose, clean};
use chatlm_dataset::{InputOptions, Rows};
use chatlm_job::Job;

fn golden(case: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("CHATLM_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = shared.join("golden/clean").join(case);
    if folder.is_dir() {
        return Some(folder);
    }
    #[expect(clippy::print_stderr, reason = "says that the test was skipped")]
    {
        eprintln!("skipped: {} is not there", folder.display());
    }
    None
}

fn pairs(path: &Path) -> Vec<(String, String)> {
    Rows::open(&[path.display().to_string()], &InputOptions::default())
        .unwrap()
        .map(|row| {
            let row = row.unwrap();
            (
                row.text("prompt").unwrap().to_owned(),
                row.text("response").unwrap().to_owned(),
            )
        })
        .collect()
}

/// Cleans `input` of a case with `--compat` and compares with `expected`, row by row.
fn compare(source: &str, purpose: Purpose, case: &str, files: [&str; 2], encoding: Option<&str>) {
    let Some(folder) = golden(case) else { return };
    let [input, expected] = files.map(|name| folder.join(name));
    let out = tempfile::tempdir().unwrap();
    let mut options = CleanOptions::new(
        source.parse().unwrap(),
        purpose,
        vec![input.display().to_string()],
        out.path().join("out.parquet"),
    );
    options.rejects = Some(out.path().join("rejects.parquet"));
    options.compat = true;
    options.encoding = encoding.map(str::to_owned);
    let report: CleanReport = clean(&options, &Job::quiet()).unwrap();
    let (got, expected) = (pairs(&options.output), pairs(&expected));
    for (place, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "{case}, row {place}");
    }
    assert_eq!(got.len(), expected.len());
    assert_eq!(report.kept, expected.len() as u64);
    let dropped: u64 = report
        .dropped
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    assert_eq!(report.read, report.kept + dropped);
    let rejects = [options.rejects.unwrap().display().to_string()];
    assert_eq!(
        Rows::open(&rejects, &InputOptions::default())
            .unwrap()
            .count() as u64,
        dropped
    );
}

#[test]
fn json_lines_and_parquet() {
    for (source, input) in [
        ("webtext2019zh", "input.jsonl"),
        ("baike-qa2019", "input.jsonl"),
        ("zhihu-kol", "input.parquet"),
        ("belle", "input.jsonl"),
    ] {
        let files = [input, "expected.parquet"];
        compare(source, Purpose::Pretrain, source, files, None);
    }
}

#[test]
fn belle_for_fine_tuning() {
    let files = ["input.jsonl", "expected_sft.parquet"];
    compare("belle", Purpose::Sft, "belle", files, None);
}

#[test]
fn medical_dialogue_in_both_encodings() {
    for case in ["medical-dialogue", "medical-dialogue-nasty"] {
        for (expected, encoding) in [
            ("expected.parquet", None),
            ("expected_gb18030.parquet", Some("gb18030")),
        ] {
            let files = ["input.csv", expected];
            compare("medical-dialogue", Purpose::Pretrain, case, files, encoding);
        }
    }
}

#[test]
fn finance_with_and_without_the_fourth_column() {
    for case in ["finance-qa", "finance-qa-3col"] {
        let files = ["input.csv", "expected.parquet"];
        compare("finance-qa", Purpose::Pretrain, case, files, None);
    }
}

/// The reference reads WikiExtractor's text alone; its templates are in the golden folder.
#[test]
fn wikipedia() {
    let Some(templates) = golden("zhwiki").map(|folder| folder.join("templates.txt")) else {
        return;
    };
    for case in ["zhwiki", "zhwiki-page"] {
        let Some(folder) = golden(case) else { return };
        let out = tempfile::tempdir().unwrap();
        let mut options = CleanOptions::new(
            "zhwiki".parse().unwrap(),
            Purpose::Pretrain,
            vec![folder.join("input.txt").display().to_string()],
            out.path().join("out.parquet"),
        );
        options.compat = true;
        options.templates = Some(templates.clone());
        clean(&options, &Job::quiet()).unwrap();
        let (got, expected) = (
            pairs(&options.output),
            pairs(&folder.join("expected.parquet")),
        );
        for (place, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(got, expected, "{case}, row {place}");
        }
        assert_eq!(got.len(), expected.len());
    }
}

/// A real dump of one page becomes a row in plain, simplified text.
#[test]
fn a_real_dump() {
    let Some(folder) = golden("zhwiki-page") else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let options = CleanOptions::new(
        "zhwiki".parse().unwrap(),
        Purpose::Pretrain,
        vec![folder.join("input.xml.bz2").display().to_string()],
        out.path().join("out.parquet"),
    );
    let report = clean(&options, &Job::quiet()).unwrap();
    assert_eq!((report.read, report.kept), (1, 1));
    let rows = pairs(&options.output);
    let (prompt, response) = &rows[0];
    assert!(prompt.contains("数学"), "{prompt}");
    let length = response.chars().count();
    assert!((200..=512).contains(&length), "{length}");
    assert!(response.ends_with(['。', '！', '？', '；']), "{response}");
    assert!(!response.contains(['{', '[', '<', '|']), "{response}");
}
