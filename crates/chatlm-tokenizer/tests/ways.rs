//! The other ways to a tokenizer: dictionary words, an old pipeline, pieces with bytes, SentencePiece
//! files, more tokens.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use chatlm_job::{Cancel, Code, Job, Reporter, Result};
use chatlm_tokenizer::{
    Extended, FromWordsOptions, Preset, RetrainOptions, SPECIAL_TOKENS, Tokenizer, TrainOptions,
    from_words, import, retrain, train,
};
use serde_json::Value;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{AddedToken, TokenizerImpl};

const TEXTS: [&str; 6] = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "我来到北京清华大学，清华大学在北京。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "In 2024 there were 365 days, or 366 days?",
    "明月几时有？把酒问青天。\n不知天上宫阙，今夕是何年。",
    "Ａｂｃ　１２３：全角字符",
];

fn texts(count: usize) -> impl Iterator<Item = Result<String>> + Send {
    TEXTS
        .iter()
        .cycle()
        .take(count)
        .map(|text| Ok((*text).to_owned()))
}

fn trained(out: &Path, preset: Preset, vocab_size: usize) -> Tokenizer {
    let options = TrainOptions {
        preset,
        vocab_size,
        min_frequency: 2,
        max_memory: None,
        files: None,
    };
    train(texts(60), &options, out, false, &Job::quiet()).unwrap();
    Tokenizer::load(out).unwrap()
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

#[test]
fn kept_words_are_one_token() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("t");
    let options = FromWordsOptions {
        min_count: 9,
        max_memory: None,
        files: None,
    };
    let report = from_words(texts(60), &options, &out, false, &Job::quiet()).unwrap();
    assert_eq!(report.texts, 60);
    let tokenizer = Tokenizer::load(&out).unwrap();
    let ids: Vec<u32> = (0..7).collect();
    assert_eq!(tokenizer.tokens(&ids), SPECIAL_TOKENS);
    for word in ["北京", "清华大学", "明月", "不觉"] {
        let ids = tokenizer.encode(word).unwrap();
        assert_eq!(tokenizer.tokens(&ids), ["▁", word]);
    }
    // Latin words are kept with the space before them.
    let ids = tokenizer.encode("there were days").unwrap();
    assert_eq!(tokenizer.tokens(&ids), ["▁there", "▁were", "▁days"]);
    for text in TEXTS {
        let back = tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap();
        assert!(!back.contains("[UNK]"), "{back}");
    }
    let options = FromWordsOptions {
        min_count: 1000,
        max_memory: None,
        files: None,
    };
    let error = from_words(
        texts(60),
        &options,
        &folder.path().join("u"),
        false,
        &Job::quiet(),
    )
    .unwrap_err();
    assert_eq!(error.code(), Code::InputFormat);
    assert!(error.help().contains("20 times"), "{}", error.help());
    assert!(!folder.path().join("u").exists());
}

/// The crate's own training in the pipeline of a folder: what `train_new_from_iterator` calls.
fn by_the_crate(folder: &Path, vocab_size: usize, byte_level: bool) -> Value {
    let mut pipeline = json(folder, "tokenizer.json");
    pipeline["added_tokens"] = Value::Array(Vec::new());
    pipeline["model"]["vocab"] = serde_json::json!({});
    pipeline["model"]["merges"] = serde_json::json!([]);
    let tokenizer = tokenizers::Tokenizer::from_bytes(pipeline.to_string()).unwrap();
    let tokenizers::ModelWrapper::BPE(model) = tokenizer.get_model().clone() else {
        unreachable!("a BPE folder")
    };
    let mut tokenizer: TokenizerImpl<
        _,
        tokenizers::NormalizerWrapper,
        tokenizers::PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    > = {
        let mut new = TokenizerImpl::new(model);
        new.with_normalizer(tokenizer.get_normalizer().cloned())
            .unwrap();
        new.with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned());
        new
    };
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .special_tokens(
            SPECIAL_TOKENS
                .map(|token| AddedToken::from(token, true))
                .to_vec(),
        )
        .show_progress(false);
    if byte_level {
        trainer = trainer.initial_alphabet(
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
                .into_iter()
                .collect(),
        );
    }
    tokenizer
        .train(&mut trainer.build(), TEXTS.iter().cycle().take(60))
        .unwrap();
    serde_json::to_value(&tokenizer).unwrap()["model"].clone()
}

#[test]
fn retraining_is_the_crates_training() {
    let folder = tempfile::tempdir().unwrap();
    for (preset, byte_level) in [(Preset::CharBpe, false), (Preset::ByteBpe, true)] {
        // The second pipeline is none of ours, so words go the slow way.
        for foreign in [false, true] {
            let from = folder.path().join(format!("from{byte_level}{foreign}"));
            trained(&from, preset, 300);
            let path = from.join("tokenizer.json");
            if foreign {
                let mut changed = json(&from, "tokenizer.json");
                changed["normalizer"] = serde_json::json!({"type": "Lowercase"});
                fs::write(&path, changed.to_string()).unwrap();
            }
            let out = folder.path().join(format!("out{byte_level}{foreign}"));
            let options = RetrainOptions {
                vocab_size: Some(330),
                min_frequency: 0,
                max_memory: None,
                files: None,
            };
            retrain(&from, texts(60), &options, &out, false, &Job::quiet()).unwrap();
            let expected = by_the_crate(&from, 330, byte_level);
            let got = json(&out, "tokenizer.json");
            assert_eq!(got["model"]["vocab"], expected["vocab"]);
            assert_eq!(got["model"]["merges"], expected["merges"]);
            let old = json(&from, "tokenizer.json");
            for part in ["normalizer", "pre_tokenizer", "decoder", "post_processor"] {
                assert_eq!(got[part], old[part], "{part}");
            }
            let tokenizer = Tokenizer::load(&out).unwrap();
            assert_eq!((tokenizer.pad_id(), tokenizer.eos_id()), (0, 1));
        }
    }
}

#[test]
fn every_model_type_is_retrained() {
    let folder = tempfile::tempdir().unwrap();
    for (name, preset) in [("u", Preset::Unigram), ("s", Preset::SentencePieceBpe)] {
        let from = folder.path().join(name);
        trained(&from, preset, 400);
        let out = folder.path().join(format!("{name}2"));
        let options = RetrainOptions {
            vocab_size: Some(380),
            min_frequency: 0,
            max_memory: None,
            files: None,
        };
        retrain(&from, texts(60), &options, &out, false, &Job::quiet()).unwrap();
        let (old, new) = (json(&from, "tokenizer.json"), json(&out, "tokenizer.json"));
        assert_eq!(new["model"]["type"], old["model"]["type"]);
        assert_eq!(new["model"]["byte_fallback"], old["model"]["byte_fallback"]);
        let tokenizer = Tokenizer::load(&out).unwrap();
        let text = "床前明月光";
        assert_eq!(
            tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(),
            text
        );
    }
    let error = retrain(
        &folder.path().join("nowhere"),
        texts(1),
        &RetrainOptions {
            vocab_size: None,
            min_frequency: 0,
            max_memory: None,
            files: None,
        },
        &folder.path().join("x"),
        false,
        &Job::quiet(),
    );
    assert_eq!(error.unwrap_err().code(), Code::TokenizerInvalid);
}

#[test]
fn pieces_with_bytes_bring_every_text_back() {
    let folder = tempfile::tempdir().unwrap();
    for (name, preset) in [("u", Preset::Unigram), ("s", Preset::SentencePieceBpe)] {
        let tokenizer = trained(&folder.path().join(name), preset, 420);
        let again = trained(&folder.path().join(format!("{name}2")), preset, 420);
        assert_eq!(
            tokenizer.hash(),
            again.hash(),
            "the same text gives the same file"
        );
        let ids: Vec<u32> = (0..7).collect();
        assert_eq!(tokenizer.tokens(&ids), SPECIAL_TOKENS);
        // Never seen, several bytes long, white space, and the spelling of a byte token.
        for text in ["龘😀 a  b", "明月\n\t几时", "<0x41>", "清华大学, days"] {
            let ids = tokenizer.encode(text).unwrap();
            assert!(!ids.contains(&6), "{text}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{preset:?}");
        }
        let options = TrainOptions {
            preset,
            vocab_size: 200,
            min_frequency: 0,
            max_memory: None,
            files: None,
        };
        let out = folder.path().join("small");
        let error = train(texts(6), &options, &out, false, &Job::quiet()).unwrap_err();
        assert_eq!(error.code(), Code::Usage);
        assert!(!out.exists());
    }
    let options = TrainOptions {
        preset: Preset::Unigram,
        vocab_size: 270,
        min_frequency: 0,
        max_memory: None,
        files: None,
    };
    let error = train(
        texts(6),
        &options,
        &folder.path().join("few"),
        false,
        &Job::quiet(),
    )
    .unwrap_err();
    assert!(error.message().contains("different characters"), "{error}");
}

/// What a way makes of texts; it is asked for a folder, and for files to go on from.
type Way = dyn Fn(&Path, Option<Vec<PathBuf>>, bool, &Job) -> Result<()>;

/// Texts, which may not be read at all where they are counted already.
fn read_or_not(counted: bool) -> Box<dyn Iterator<Item = Result<String>> + Send> {
    if counted {
        Box::new(std::iter::from_fn(|| {
            panic!("the texts are counted already")
        }))
    } else {
        Box::new(texts(60))
    }
}

#[test]
fn every_way_that_counts_goes_on_from_counted_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    fs::write(&file, "").unwrap();
    let (bpe, pieces) = (folder.path().join("bpe"), folder.path().join("pieces"));
    trained(&bpe, Preset::CharBpe, 260);
    trained(&pieces, Preset::Unigram, 420);
    let words: Box<Way> = Box::new(|out, files, counted, job| {
        let options = FromWordsOptions {
            min_count: 9,
            max_memory: None,
            files,
        };
        from_words(read_or_not(counted), &options, out, false, job).map(drop)
    });
    let again = |from: PathBuf, size: usize| -> Box<Way> {
        Box::new(move |out, files, counted, job| {
            let options = RetrainOptions {
                vocab_size: Some(size),
                min_frequency: 2,
                max_memory: None,
                files,
            };
            retrain(&from, read_or_not(counted), &options, out, false, job).map(drop)
        })
    };
    let unigram: Box<Way> = Box::new(|out, files, counted, job| {
        let options = TrainOptions {
            preset: Preset::Unigram,
            vocab_size: 420,
            min_frequency: 2,
            max_memory: None,
            files,
        };
        train(read_or_not(counted), &options, out, false, job).map(drop)
    });
    let ways = [words, again(bpe, 200), again(pieces, 380), unigram];
    for (name, way) in ways.iter().enumerate() {
        let out = folder.path().join(format!("out{name}"));
        let work = folder.path().join(format!(".out{name}.tokenizer"));
        let whole = folder.path().join(format!("whole{name}"));
        way(&whole, None, false, &Job::quiet()).unwrap();
        // Interrupted while the only batch of texts is counted, which is seen after that.
        let cancel = Cancel::default();
        let interrupt = cancel.clone();
        let stopped = Job {
            cancel,
            progress: Reporter::new(move |_| interrupt.cancel()),
        };
        let error = way(&out, Some(vec![file.clone()]), false, &stopped);
        assert_eq!(error.unwrap_err().code(), Code::Cancelled, "{name}");
        assert!(!out.exists() && work.join("counted.json").is_file());
        way(&out, Some(vec![file.clone()]), true, &Job::quiet()).unwrap();
        assert!(!work.exists());
        let json = |folder: &Path| fs::read(folder.join("tokenizer.json")).unwrap();
        assert!(json(&out) == json(&whole), "{name}");
    }
}

#[test]
fn sentencepiece_files_give_sentencepieces_ids() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/golden/tokenizer");
    let folder = tempfile::tempdir().unwrap();
    let cases = json(&golden, "sentencepiece.json");
    for (name, rows) in cases.as_object().unwrap() {
        let out = folder.path().join(name);
        import(&golden.join(format!("{name}.model")), &out, false).unwrap();
        let tokenizer = Tokenizer::load(&out).unwrap();
        for row in rows.as_array().unwrap() {
            let ids = tokenizer.encode(row["text"].as_str().unwrap()).unwrap();
            assert_eq!(
                serde_json::json!(ids),
                row["ids"],
                "{name}: {}",
                row["text"]
            );
        }
    }
    let broken = folder.path().join("broken.model");
    fs::write(&broken, "no protobuf").unwrap();
    let error = import(&broken, &folder.path().join("b"), false).unwrap_err();
    assert_eq!(error.code(), Code::TokenizerInvalid);
    fs::write(&broken, "").unwrap();
    let error = import(&broken, &folder.path().join("b"), false).unwrap_err();
    assert_eq!(error.code(), Code::TokenizerInvalid);
    assert!(!folder.path().join("b").exists());
}

#[test]
fn new_tokens_come_after_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    let old = trained(&from, Preset::CharBpe, 260);
    let tokens = ["量子力学", "明月", "床前", "量子力学"].map(str::to_owned);
    let extended = Extended::new(&from, &tokens).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    extended.write(&out).unwrap();
    let new = Tokenizer::load(&out).unwrap();
    assert_eq!(new.vocab_size(), extended.vocab_size);
    assert_eq!(new.vocab_size(), old.vocab_size() + extended.pieces.len());
    let ids = new.encode("学量子力学").unwrap();
    assert_eq!(ids.last(), Some(&(old.vocab_size() as u32)));
    assert_eq!(extended.pieces[0], old.encode("量子力学").unwrap());
    assert_eq!(new.decode(&ids).unwrap().chars().last(), Some('学'));
    let error = Extended::new(&out, &tokens).err().unwrap();
    assert_eq!(error.code(), Code::InputFormat);
}
