//! A folder is a test: `test/cases/clean/SOURCE/NAME` holds `input.*`, `expected.jsonl` (the kept rows and
//! then one line with the counts) and, where something else than `--for pretrain` is asked for,
//! `case.json`. With `CHATLM_WRITE_CASES=1` the expectations are written anew, to be read before they
//! are committed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use chatlm_clean::{CleanOptions, Purpose, clean};
use chatlm_job::Job;
use serde_json::{Value, json};

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Runs a case: its kept rows and counts, one a line.
fn run(folder: &Path, source: &str) -> String {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let input = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "input");
    let input = files.into_iter().find(input).unwrap();
    let asked: Value = std::fs::read(folder.join("case.json"))
        .map_or(json!({}), |text| serde_json::from_slice(&text).unwrap());
    let text = |name: &str| asked[name].as_str().map(str::to_owned);
    let purpose: Purpose = text("purpose")
        .as_deref()
        .unwrap_or("pretrain")
        .parse()
        .unwrap();
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("out.jsonl");
    let inputs = vec![input.display().to_string()];
    let mut options = CleanOptions::new(source.parse().unwrap(), purpose, inputs, output);
    options.compat = asked["compat"] == true;
    options.keep_going = asked["keepGoing"] == true;
    options.encoding = text("encoding");
    options.prompt_column = text("promptColumn");
    options.response_column = text("responseColumn");
    if let Some(turns) = text("turns") {
        options.turns = turns.parse().unwrap();
    }
    let report = clean(&options, &Job::quiet()).unwrap();
    let counts = json!({
        "read": report.read,
        "kept": report.kept,
        "dropped": report.dropped,
        "broken": report.broken,
        "undecodable": report.undecodable,
    });
    let rows = std::fs::read_to_string(&options.output).unwrap();
    format!("{rows}{counts}\n")
}

#[test]
fn every_case_gives_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/cases/clean");
    let mut count = 0;
    for source in folders(&root) {
        for folder in folders(&source) {
            let name = source.file_name().unwrap().to_str().unwrap();
            let got = run(&folder, name);
            let expected = folder.join("expected.jsonl");
            if std::env::var_os("CHATLM_WRITE_CASES").is_some() {
                std::fs::write(&expected, &got).unwrap();
            }
            let expected = std::fs::read_to_string(&expected).unwrap();
            assert_eq!(got, expected, "{}", folder.display());
            count += 1;
        }
    }
    assert!(count > 0, "no cases under {}", root.display());
}
