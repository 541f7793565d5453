//! Tokenizer folders: trained, loaded, encoding and decoding.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::path::{Path, PathBuf};

use chatlm_job::{Code, Job, Result};
use chatlm_tokenizer::{Preset, SPECIAL_TOKENS, Tokenizer, TrainOptions, train};
use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;

const TEXTS: [&str; 6] = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "请背诵李白的《静夜思》[SEP]床前明月光，疑是地上霜。[SEP]",
    "In 2024 there were 365 days, or 366?",
    "明月几时有？把酒问青天。\n不知天上宫阙，今夕是何年。",
    "Ａｂｃ　１２３：全角字符",
];

fn trained(folder: &Path, preset: Preset, vocab_size: usize) -> Tokenizer {
    let texts: Vec<Result<String>> = TEXTS
        .iter()
        .cycle()
        .take(60)
        .map(|text| Ok((*text).to_owned()))
        .collect();
    let options = TrainOptions {
        preset,
        vocab_size,
        min_frequency: 2,
        max_memory: None,
        files: None,
    };
    let report = train(texts.into_iter(), &options, folder, false, &Job::quiet()).unwrap();
    assert_eq!(report.texts, 60);
    assert!(report.merges > 10, "{report:?}");
    let tokenizer = Tokenizer::load(folder).unwrap();
    assert_eq!(report.vocab_size as usize, tokenizer.vocab_size());
    tokenizer
}

fn both() -> Vec<(Preset, Tokenizer, tempfile::TempDir)> {
    [(Preset::CharBpe, 260), (Preset::ByteBpe, 400)]
        .into_iter()
        .map(|(preset, size)| {
            let folder = tempfile::tempdir().unwrap();
            let tokenizer = trained(&folder.path().join("tokenizer"), preset, size);
            (preset, tokenizer, folder)
        })
        .collect()
}

#[test]
fn special_tokens_have_the_first_ids() {
    for (_, tokenizer, folder) in both() {
        let ids: Vec<u32> = (0..7).collect();
        assert_eq!(tokenizer.tokens(&ids), SPECIAL_TOKENS);
        assert_eq!((tokenizer.pad_id(), tokenizer.eos_id()), (0, 1));
        assert_eq!(tokenizer.encode("明[EOS]").unwrap().last(), Some(&1));
        assert_eq!(tokenizer.decode(&[0, 2, 1]).unwrap(), "");
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ] {
            assert!(folder.path().join("tokenizer").join(name).is_file());
        }
    }
}

#[test]
fn training_twice_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    for preset in [Preset::CharBpe, Preset::ByteBpe] {
        let names = [format!("{preset:?}1"), format!("{preset:?}2")];
        let hashes = names.map(|name| trained(&folder.path().join(name), preset, 400).hash());
        assert_eq!(hashes[0], hashes[1]);
    }
}

#[test]
fn training_text_round_trips() {
    for (preset, tokenizer, _folder) in both() {
        for text in TEXTS.iter().filter(|text| !text.contains("[SEP]")) {
            let ids = tokenizer.encode(text).unwrap();
            let back = tokenizer.decode(&ids).unwrap();
            let expected = if preset == Preset::CharBpe {
                nfkc(text)
            } else {
                (*text).to_owned()
            };
            assert_eq!(back, expected, "{preset:?}");
        }
    }
}

#[test]
fn merges_do_not_learn_special_tokens() {
    let (_, tokenizer, _folder) = both().swap_remove(0);
    let tokens = tokenizer.tokens(&(7..tokenizer.vocab_size() as u32).collect::<Vec<_>>());
    assert!(
        !tokens.iter().any(|token| token.contains("SE")),
        "{tokens:?}"
    );
}

#[test]
fn a_folder_copies_whole() {
    for (_, tokenizer, folder) in both() {
        let copy = folder.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        tokenizer.copy_to(&copy).unwrap();
        let again = Tokenizer::load(&copy).unwrap();
        assert_eq!(again.hash(), tokenizer.hash());
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let load = || Tokenizer::load(folder.path()).unwrap_err();
    let error = load();
    assert_eq!(error.code(), Code::TokenizerInvalid);
    assert!(
        error.message().contains("tokenizer.json is missing"),
        "{error}"
    );
    std::fs::write(folder.path().join("tokenizer.json"), "{\"half\":").unwrap();
    assert_eq!(load().code(), Code::TokenizerInvalid);
    let json =
        r#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    assert!(load().message().contains("[PAD]"), "{}", load());
    let error = Tokenizer::load(&folder.path().join("nowhere")).unwrap_err();
    assert_eq!(error.code(), Code::TokenizerInvalid);
}

#[test]
fn nothing_is_written_without_text_or_when_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("t");
    let options = TrainOptions {
        preset: Preset::CharBpe,
        vocab_size: 100,
        min_frequency: 1,
        max_memory: None,
        files: None,
    };
    let error = train(std::iter::empty(), &options, &out, false, &Job::quiet()).unwrap_err();
    assert_eq!(error.code(), Code::InputFormat);
    let job = Job::quiet();
    job.cancel.cancel();
    let texts = std::iter::repeat_with(|| Ok("文字".to_owned()));
    let error = train(texts, &options, &out, false, &job).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    let texts = [
        Ok("文".to_owned()),
        Err(chatlm_job::Error::internal("broken")),
    ];
    let error = train(texts.into_iter(), &options, &out, false, &Job::quiet()).unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    let options = TrainOptions {
        vocab_size: 5,
        ..options
    };
    let error = train(std::iter::empty(), &options, &out, false, &Job::quiet()).unwrap_err();
    assert_eq!(error.code(), Code::Usage);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What the char-level preset does to text before anything else.
fn nfkc(text: &str) -> String {
    text.nfkc().collect()
}

/// No files of failed cases beside the tests.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for id in ids {
        if let Some(piece) = stream.push(*id).unwrap() {
            assert!(!piece.ends_with('\u{FFFD}'));
            text.push_str(&piece);
        }
    }
    text.push_str(&stream.finish().unwrap().unwrap_or_default());
    text
}

#[test]
fn round_trips_and_streams_hold_for_any_text_and_ids() {
    let both = both();
    let bytes = &both[1].1;
    proptest!(cases(256), |(text in "(\\PC|[\n\t 的月光，1a]){0,60}")| {
        // Byte-level: everything comes back as it was.
        let ids = bytes.encode(&text).unwrap();
        prop_assert_eq!(&bytes.decode(&ids).unwrap(), &text);
        prop_assert_eq!(streamed(bytes, &ids), text);
    });
    let chars = &both[0].1;
    let known: Vec<char> = TEXTS
        .concat()
        .chars()
        .filter(|c| !"[SEP]".contains(*c))
        .collect();
    proptest!(cases(256), |(picks in prop::collection::vec(0..known.len(), 0..60))| {
        let text: String = picks.iter().map(|pick| known[*pick]).collect();
        // One leading space is taken for the mark that every text begins with.
        let text = text.trim_start_matches([' ', '　']);
        let ids = chars.encode(text).unwrap();
        prop_assert_eq!(chars.decode(&ids).unwrap(), nfkc(text));
        prop_assert_eq!(streamed(chars, &ids), nfkc(text));
    });
    for (_, tokenizer, _) in &both {
        let last = tokenizer.vocab_size() as u32;
        proptest!(cases(256), |(ids in prop::collection::vec(0..last, 0..40))| {
            prop_assert_eq!(streamed(tokenizer, &ids), tokenizer.decode(&ids).unwrap());
        });
    }
}

fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("CHATLM_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    if folder.join("data").is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: there is no {}", folder.display());
    None
}

#[test]
fn the_published_chatlm_tokenizer_loads() {
    let Some(shared) = shared() else { return };
    let tokenizer =
        Tokenizer::load(&shared.join("data/tokenizers/chatlm_tokenizer_c4f0e7c4")).unwrap();
    assert_eq!(
        (
            tokenizer.vocab_size(),
            tokenizer.pad_id(),
            tokenizer.eos_id()
        ),
        (29298, 0, 1)
    );
    // Ids of the tokenizers package 0.23 for the same text; 6 is [UNK], for the space mark.
    let ids = tokenizer.encode("在地球上为什么没有重力的感觉？").unwrap();
    assert_eq!(ids, [6, 7, 8, 9, 10, 11, 15, 12, 13, 6, 89]);
    proptest!(cases(64), |(ids in prop::collection::vec(0u32..29298, 0..40))| {
        prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids).unwrap());
    });
}

/// Stopped while it merges, gone on with: the same file, and nothing left beside it.
#[test]
fn an_interrupted_training_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (file, whole, out) = (
        folder.path().join("a.txt"),
        folder.path().join("whole"),
        folder.path().join("out"),
    );
    std::fs::write(&file, "").unwrap();
    let texts: Vec<String> = (0..3000u64)
        .map(|n| {
            let symbols = (0..20).map(|k| 0x4e00 + (chatlm_job::mix(n / 2, k) % 60) as u32);
            symbols.filter_map(char::from_u32).collect()
        })
        .collect();
    let run = |out: &Path, job: &Job| {
        let options = TrainOptions {
            preset: Preset::CharBpe,
            vocab_size: 1500,
            min_frequency: 2,
            max_memory: None,
            files: Some(vec![file.clone()]),
        };
        let texts = texts.iter().cloned().map(Ok);
        train(texts, &options, out, false, job)
    };
    run(&whole, &Job::quiet()).unwrap();
    let expected = Tokenizer::load(&whole).unwrap().hash().clone();
    // Stops as soon as the words are counted; tried again where merging was over before that was seen.
    let counted = folder.path().join(".out.tokenizer/counted.json");
    let stopped = (0..20).any(|_| {
        let job = Job::quiet();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !counted.exists() && !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                job.cancel.cancel();
            });
            let result = run(&out, &job);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            if result.is_ok() {
                std::fs::remove_dir_all(&out).unwrap();
            }
            result.is_err_and(|error| error.code() == Code::Cancelled)
        })
    });
    assert!(stopped);
    assert!(!out.exists());
    assert!(counted.is_file());
    let none = std::iter::from_fn(|| panic!("the texts are counted already"));
    let options = TrainOptions {
        preset: Preset::CharBpe,
        vocab_size: 1500,
        min_frequency: 2,
        max_memory: None,
        files: Some(vec![file.clone()]),
    };
    train(none, &options, &out, false, &Job::quiet()).unwrap();
    assert_eq!(Tokenizer::load(&out).unwrap().hash(), expected);
    assert!(!folder.path().join(".out.tokenizer").exists());
}
