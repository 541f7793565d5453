//! Reports of tokenizers, on texts small enough to count by hand.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use chatlm_job::{Code, Job, Result};
use chatlm_tokenizer::{Preset, RowTexts, Tokenizer, TokenizerReport, TrainOptions, report, train};

fn trained(folder: &Path, preset: Preset, texts: &[&str]) -> Tokenizer {
    let out = folder.join(format!("{preset:?}"));
    let options = TrainOptions {
        preset,
        vocab_size: 300,
        min_frequency: 2,
        max_memory: None,
        files: None,
    };
    let texts = texts.iter().map(|text| Ok((*text).to_owned()));
    train(texts, &options, &out, false, &Job::quiet()).unwrap();
    Tokenizer::load(&out).unwrap()
}

fn rows(texts: &[&[&str]]) -> Vec<RowTexts> {
    let file: Arc<str> = Arc::from("a.jsonl");
    texts
        .iter()
        .zip(0..)
        .map(|(texts, row)| RowTexts {
            file: file.clone(),
            row,
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        })
        .collect()
}

fn of(rows: Vec<RowTexts>, tokenizers: &[Tokenizer]) -> TokenizerReport {
    let inputs = ["a.jsonl".to_owned()];
    report(&inputs, rows.into_iter().map(Ok), tokenizers, &Job::quiet()).unwrap()
}

#[test]
fn figures_are_those_counted_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let known = ["明月明月", "明月光，", "1 2"];
    let chars = trained(folder.path(), Preset::CharBpe, &known);
    let bytes = trained(folder.path(), Preset::ByteBpe, &known);
    let given = rows(&[&["明月光，", ""], &["１ 2", "明鑫"], &["[EOS]"], &[]]);
    let told = of(given.clone(), &[chars.clone(), bytes.clone()]);
    assert_eq!(
        (told.rows, told.texts, told.characters, told.bytes),
        (4, 4, 14, 12 + 5 + 6 + 5)
    );
    let [first, second] = &told.tokenizers[..] else {
        panic!("{told:?}")
    };
    // One token is unknown, and its text alone does not come back; the wide signs come back as NFKC has them.
    let unknown = &first.unknown;
    assert_eq!(
        (unknown.tokens, unknown.characters, unknown.occurrences),
        (1, 1, 1)
    );
    assert_eq!(unknown.frequent[0].character, '鑫');
    let trip = &first.round_trip;
    assert_eq!((trip.exact, trip.normalized, trip.failed), (1, 2, 1));
    let example = &trip.examples[0];
    assert_eq!(
        (
            &*example.file,
            example.row,
            example.reason,
            &*example.text,
            &*example.back
        ),
        ("a.jsonl", 1, "unknown", "明鑫", "明[UNK]")
    );
    let ids = |text: &str| chars.encode(text).unwrap().len() as u64;
    let lengths = [ids("明月光，"), ids("１ 2") + ids("明鑫"), ids("[EOS]"), 0];
    assert_eq!(first.tokens, lengths.iter().sum::<u64>());
    assert_eq!(first.tokens_per_row.max, lengths.into_iter().max());
    assert_eq!(
        (first.tokens_per_row.count, first.tokens_per_row.min),
        (4, Some(0))
    );
    assert!((first.characters_per_token - 14.0 / first.tokens as f64).abs() < 1e-12);
    // Uses by writing system are all tokens; entries are the whole vocabulary.
    for one in [first, second] {
        let sum = |of: fn(&(u64, u64)) -> u64| -> u64 {
            let pairs = one
                .scripts
                .iter()
                .map(|script| (script.entries, script.uses));
            pairs.map(|pair| of(&pair)).sum()
        };
        assert_eq!(sum(|pair| pair.1), one.tokens);
        assert_eq!(sum(|pair| pair.0), one.vocab_size);
        assert!(one.unused.tokens <= one.unused.of);
    }
    let longest = &first.longest[0];
    assert_eq!((&*longest.text, longest.uses), ("▁明月", 1));
    // By bytes everything comes back.
    assert_eq!((second.round_trip.exact, second.unknown.tokens), (4, 0));
    // One row or many at once, and one tokenizer or two: the same figures.
    let many: Vec<RowTexts> = (0..1000).flat_map(|_| given.clone()).collect();
    let again = of(many, &[chars]);
    assert_eq!(again.tokenizers[0].tokens, 1000 * first.tokens);
    assert_eq!(again.tokenizers[0].round_trip.failed, 1000);
    assert_eq!(again.tokenizers[0].unused.tokens, first.unused.tokens);
}

#[test]
fn no_text_a_broken_row_and_cancelling_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = trained(folder.path(), Preset::CharBpe, &["明月明月"]);
    let error = |rows: Vec<Result<RowTexts>>, job: &Job| {
        report(&[], rows.into_iter(), std::slice::from_ref(&tokenizer), job)
            .unwrap_err()
            .code()
    };
    assert_eq!(error(Vec::new(), &Job::quiet()), Code::InputFormat);
    let empty = rows(&[&[""]]).into_iter().map(Ok).collect();
    assert_eq!(error(empty, &Job::quiet()), Code::InputFormat);
    let broken = vec![
        Ok(rows(&[&["明"]]).remove(0)),
        Err(chatlm_job::Error::internal("broken")),
    ];
    assert_eq!(error(broken, &Job::quiet()), Code::Internal);
    let job = Job::quiet();
    job.cancel.cancel();
    let endless = std::iter::repeat_with(|| Ok(rows(&[&["明月"]]).remove(0)));
    let stopped = report(&[], endless, std::slice::from_ref(&tokenizer), &job).unwrap_err();
    assert_eq!(stopped.code(), Code::Cancelled);
}
