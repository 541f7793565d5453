//! Vocabulary, merges and ids against the tokenizers package's; `test/golden/tokenizer/make.py` made them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use chatlm_job::Job;
use chatlm_tokenizer::{Tokenizer, TrainOptions, train};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Text {
    text: String,
}

#[derive(Deserialize)]
struct Expected {
    model: String,
    vocab_size: usize,
    min_frequency: u64,
    /// By id.
    tokens: Vec<String>,
    merges: Vec<(usize, usize)>,
    /// Of every fifth text.
    ids: Vec<Vec<u32>>,
}

fn golden(name: &str) -> String {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/golden/tokenizer");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn training_and_encoding_are_the_tokenizers_packages() {
    let texts: Vec<String> = golden("texts.jsonl")
        .split_terminator('\n')
        .map(|line| serde_json::from_str::<Text>(line).unwrap().text)
        .collect();
    let all: Vec<Expected> = serde_json::from_str(&golden("expected.json")).unwrap();
    assert_eq!(all.len(), 6);
    for expected in all {
        let what = format!(
            "{} {} {}",
            expected.model, expected.vocab_size, expected.min_frequency
        );
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("tokenizer");
        let options = TrainOptions {
            preset: expected.model.parse().unwrap(),
            vocab_size: expected.vocab_size,
            min_frequency: expected.min_frequency,
            max_memory: None,
            files: None,
        };
        let given = texts.iter().cloned().map(Ok);
        train(given, &options, &out, false, &Job::quiet()).unwrap();
        let json = fs::read_to_string(out.join("tokenizer.json")).unwrap();
        let model = &serde_json::from_str::<Value>(&json).unwrap()["model"];
        let vocabulary = model["vocab"].as_object().unwrap();
        assert_eq!(vocabulary.len(), expected.tokens.len(), "{what}");
        for (id, token) in expected.tokens.iter().enumerate() {
            assert_eq!(vocabulary[token], id, "{what}, {token:?}");
        }
        let merges = model["merges"].as_array().unwrap();
        assert_eq!(merges.len(), expected.merges.len(), "{what}");
        for (merge, (first, second)) in merges.iter().zip(&expected.merges) {
            let pair = [&expected.tokens[*first], &expected.tokens[*second]];
            assert_eq!([&merge[0], &merge[1]], pair, "{what}");
        }
        let tokenizer = Tokenizer::load(&out).unwrap();
        // Often enough that the faster encoder takes over.
        for _ in 0..30 {
            for (text, ids) in texts.iter().step_by(5).zip(&expected.ids) {
                assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{what}, {text:?}");
            }
        }
    }
}
