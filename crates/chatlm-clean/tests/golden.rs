//! `--compat` against what the reference program wrote (`../shared/golden/clean`, not part of the
//! repository: where it is missing these tests say so and pass).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use chatlm_clean::{CleanOptions, CleanReport, Purpose, Source, clean};
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
fn compare(
    source: Source,
    purpose: Purpose,
    case: &str,
    input: &str,
    expected: &str,
    encoding: Option<&str>,
) {
    let Some(folder) = golden(case) else { return };
    let out = tempfile::tempdir().unwrap();
    let options = CleanOptions {
        source,
        purpose,
        inputs: vec![folder.join(input).display().to_string()],
        output: out.path().join("out.parquet"),
        rejects: Some(out.path().join("rejects.parquet")),
        compat: true,
        prompt_column: None,
        response_column: None,
        chosen_column: None,
        rejected_column: None,
        encoding: encoding.map(str::to_owned),
        keep_going: false,
        force: false,
    };
    let report: CleanReport = clean(&options, &Job::quiet()).unwrap();
    let (got, expected) = (pairs(&options.output), pairs(&folder.join(expected)));
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
fn belle_for_pretraining() {
    compare(
        Source::Belle,
        Purpose::Pretrain,
        "belle",
        "input.jsonl",
        "expected.parquet",
        None,
    );
}

#[test]
fn belle_for_fine_tuning() {
    compare(
        Source::Belle,
        Purpose::Sft,
        "belle",
        "input.jsonl",
        "expected_sft.parquet",
        None,
    );
}

#[test]
fn medical_dialogue_as_gb2312() {
    for case in ["medical-dialogue", "medical-dialogue-nasty"] {
        let (source, purpose) = (Source::MedicalDialogue, Purpose::Pretrain);
        compare(source, purpose, case, "input.csv", "expected.parquet", None);
    }
}

#[test]
fn medical_dialogue_as_gb18030() {
    for case in ["medical-dialogue", "medical-dialogue-nasty"] {
        let (source, purpose) = (Source::MedicalDialogue, Purpose::Pretrain);
        compare(
            source,
            purpose,
            case,
            "input.csv",
            "expected_gb18030.parquet",
            Some("gb18030"),
        );
    }
}
