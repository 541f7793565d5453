//! Whether rows that a run is evaluated on are trained on too: the same to the byte, the same after
//! normalization, or with the same prompt. Rows that are merely alike are `chatlm dedup --against`'s.
//!
//! The training rows stream by once; of the evaluation rows three hashes a row are kept.

use std::collections::HashMap;

use chatlm_dataset::{InputOptions, Row, Rows};
use chatlm_job::{Code, Error, Job, Result};
use chatlm_train::{Contamination, TrainConfig};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::event::Event;
use crate::likeness::normalized;
use crate::setup::RunKind;

/// Rows hashed together.
const GROUP: usize = 4096;
/// Row numbers that are told.
const NAMED: usize = 5;

/// What a row is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Mark {
    Exact(u128),
    Same(u128),
    /// Of a prompt that is not blank.
    Prompt(u128),
}

/// How an evaluation row was found among the training rows.
#[derive(Default, Clone, Copy)]
struct Seen {
    exact: bool,
    same: bool,
    prompt: bool,
}

/// The marks of a row; none where it has no texts, which the loader will say.
fn marks(row: &Row, columns: &[String]) -> Vec<Mark> {
    let texts: Result<Vec<&str>> = columns.iter().map(|column| row.text(column)).collect();
    let Ok(texts) = texts else {
        return Vec::new();
    };
    let plain: Vec<String> = texts.iter().map(|text| normalized(text)).collect();
    // No text holds the mark between them.
    let mut marks = vec![
        Mark::Exact(xxh3_128(texts.join("\u{0}").as_bytes())),
        Mark::Same(xxh3_128(plain.join("\u{0}").as_bytes())),
    ];
    if !plain[0].is_empty() {
        marks.push(Mark::Prompt(xxh3_128(plain[0].as_bytes())));
    }
    marks
}

/// Hands the marks of all rows to `each`, in order.
fn each_row(
    paths: &[String],
    columns: &[String],
    job: &Job,
    mut each: impl FnMut(Vec<Mark>),
) -> Result<()> {
    let mut rows = Rows::open(paths, &InputOptions::default())?;
    let mut done = 0;
    loop {
        job.cancel.check()?;
        let group = rows.by_ref().take(GROUP).collect::<Result<Vec<_>>>()?;
        if group.is_empty() {
            return Ok(());
        }
        let found: Vec<Vec<Mark>> = group.par_iter().map(|row| marks(row, columns)).collect();
        found.into_iter().for_each(&mut each);
        done += group.len() as u64;
        job.progress.report("contamination", done, None, "rows");
    }
}

/// Looks for the evaluation rows among the training rows, as the configuration asks; what was found.
pub(crate) fn check(kind: RunKind, config: &TrainConfig, job: &Job) -> Result<Option<Event>> {
    let Some(valid) = &config.valid else {
        return Ok(None);
    };
    if config.contamination == Contamination::Off {
        return Ok(None);
    }
    let columns = kind.columns();
    let mut known: HashMap<Mark, Vec<u32>> = HashMap::new();
    let mut seen: Vec<Seen> = Vec::new();
    each_row(std::slice::from_ref(valid), &columns, job, |marks| {
        let row = seen.len() as u32;
        seen.push(Seen::default());
        for mark in marks {
            known.entry(mark).or_default().push(row);
        }
    })?;
    for set in &config.train {
        each_row(&set.paths, &columns, job, |marks| {
            for mark in marks {
                // A mark is asked for once: what it finds is seen.
                for row in known.remove(&mark).unwrap_or_default() {
                    let seen = &mut seen[row as usize];
                    match mark {
                        Mark::Exact(_) => seen.exact = true,
                        Mark::Same(_) => seen.same = true,
                        Mark::Prompt(_) => seen.prompt = true,
                    }
                }
            }
        })?;
    }
    let count = |is: fn(&Seen) -> bool| seen.iter().filter(|seen| is(seen)).count() as u64;
    let first: Vec<u64> = (0..)
        .zip(&seen)
        .filter(|(_, seen)| seen.same)
        .map(|(row, _)| row)
        .take(NAMED)
        .collect();
    let (exact, same) = (count(|seen| seen.exact), count(|seen| seen.same));
    if same > 0 && config.contamination == Contamination::Stop {
        return Err(Error::new(
            Code::InputRow,
            format!("{valid}: {same} of {} rows are trained on too, such as row {}", seen.len(), first[0]),
            "take them out with chatlm dedup --in TRAIN --against VALID, or set contamination to warn",
        )
        .with("file", valid.as_str())
        .with("row", first[0])
        .with("rows", same));
    }
    Ok(Some(Event::Contamination {
        step: 0,
        rows: seen.len() as u64,
        exact,
        same,
        prompts: count(|seen| seen.prompt),
        first,
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn config(folder: &std::path::Path, contamination: &str) -> TrainConfig {
        serde_json::from_value(json!({
            "model": null, "tokenizer": "t",
            "train": [{"paths": [folder.join("a.jsonl"), folder.join("b.jsonl")], "weight": 0.5}],
            "valid": folder.join("valid.jsonl"), "out": "o", "epochs": 1, "batchSize": 4,
            "gradientAccumulation": 1, "learningRate": 1e-2, "schedule": "linear", "warmupSteps": 2,
            "optimizer": "adamw", "weightDecay": 0.01, "precision": "f32", "maxLength": 16,
            "saveEvery": 10, "keep": 3, "evalEvery": 0, "evalRows": 10, "logEvery": 1,
            "maxSteps": null, "dropout": 0.1, "clip": 1.0, "recompute": false, "packing": false,
            "earlyStop": null, "labelSmoothing": 0, "onNaN": "stop", "workers": 1, "seed": 7,
            "samples": 0, "threads": null, "contamination": contamination
        }))
        .unwrap()
    }

    #[test]
    fn rows_in_both_sets_are_counted_by_how_they_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, rows: &[(&str, &str)]| {
            let lines: Vec<String> = rows
                .iter()
                .map(|(prompt, response)| {
                    json!({"prompt": prompt, "response": response}).to_string()
                })
                .collect();
            fs::write(folder.path().join(name), lines.join("\n")).unwrap();
        };
        write("a.jsonl", &[("你好", "好。"), ("问 Ａ", "答")]);
        write("b.jsonl", &[("只同题", "甲"), (" ", "空"), ("", "空")]);
        write(
            "valid.jsonl",
            &[
                ("没有", "的"),
                ("你好", "好。"),
                ("问A", "答 "),
                ("只同题", "乙"),
                ("问A", "答"),
                (" ", "别的"),
            ],
        );
        let found = |how: &str| {
            let config = config(folder.path(), how);
            check(RunKind::Sft, &config, &Job::quiet())
        };
        let expected = Event::Contamination {
            step: 0,
            rows: 6,
            exact: 1,
            same: 3,
            prompts: 4,
            first: vec![1, 2, 4],
        };
        assert_eq!(found("warn").unwrap(), Some(expected));
        assert_eq!(found("off").unwrap(), None);
        let error = found("stop").unwrap_err();
        assert_eq!(error.code(), Code::InputRow);
        assert_eq!(
            (&error.context()["row"], &error.context()["rows"]),
            (&json!(1), &json!(3))
        );
    }
}
