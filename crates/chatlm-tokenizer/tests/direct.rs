//! The encoder of our own gives the ids of the tokenizers crate.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs;
use std::path::{Path, PathBuf};

use chatlm_job::Job;
use chatlm_tokenizer::{Preset, Tokenizer, TrainOptions, train};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Ours, warmed so that it encodes by itself, and the crate's.
struct Both {
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
}

impl Both {
    fn load(folder: &Path) -> Self {
        let ours = Tokenizer::load(folder).unwrap();
        ours.encode(&"x ".repeat(20_000)).unwrap();
        let theirs = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
        Self { ours, theirs }
    }

    fn agree(&self, text: &str) {
        let expected = self.theirs.encode_fast(text, false).unwrap();
        let expected = expected.get_ids();
        assert_eq!(self.ours.encode(text).unwrap(), expected, "{text:?}");
        for longest in [0, 1, 3, 30] {
            let ids = self.ours.encode_up_to(text, longest).unwrap();
            assert_eq!(ids, expected[..expected.len().min(longest)], "{text:?}");
        }
    }
}

const TEXTS: [&str; 17] = [
    "we're they'll I'd 'tis x's 's ''s 'Re !'s it'll've",
    "  two   three\n\n x\t\t \u{3000}\u{3000}中 \r\n",
    "\n a\u{a0} b\u{85}c  ",
    "",
    " ",
    "你好，世界！",
    " 你好 ，  世界 123 ４５ ",
    "I can't, 3.14 … ℃ ﬁne",
    "▁mark and [SEP] inside[EOS]",
    "e\u{301}te\u{301} ｅ\u{301} カ\u{3099} \u{1100}\u{1161}",
    "…first",
    "ｆull width，ＡＢＣ",
    "emoji 😀👍🏽 and 𠀀𠮷",
    "tab\tline\r\nend\u{a0}\u{3000}x\u{200b}y",
    "----====____::::",
    "\u{0}\u{1}\u{7f}\u{85}",
    "²³½ ⅷ Ⅷ ①",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[你好世界的一是在不了有和人这中大为上个国我以要]{1,12}",
        2 => "[a-zA-Z0-9 .,;:_-]{1,12}",
        1 => "[，。！？、“”…（） \u{3000}]{1,3}",
        1 => "\\PC{1,4}",
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn trained(folder: &Path, preset: Preset, name: &str) -> PathBuf {
    let texts = [
        "你好世界，的一是在不了有和人这中大为上个国我以要。",
        "hello world, 123 and more 你好世界 (as it is)",
        "我们是中国人；这个世界很大！",
    ];
    let options = TrainOptions {
        preset,
        vocab_size: 400,
        min_frequency: 2,
        max_memory: None,
        files: None,
    };
    let texts = texts.iter().map(|text| Ok(text.repeat(30)));
    let out = folder.join(name);
    train(texts, &options, &out, false, &Job::quiet()).unwrap();
    out
}

/// The trained tokenizer with other parts.
fn variant(folder: &Path, base: &str, name: &str, change: impl Fn(&mut Value)) -> PathBuf {
    let from = fs::read(folder.join(base).join("tokenizer.json")).unwrap();
    let mut value: Value = serde_json::from_slice(&from).unwrap();
    change(&mut value);
    let out = folder.join(name);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("tokenizer.json"), value.to_string()).unwrap();
    out
}

fn space(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
}

fn variants(folder: &Path) -> Vec<PathBuf> {
    let pre = |parts: Vec<Value>| json!({"type": "Sequence", "pretokenizers": parts});
    let part = |name: &str| json!({"type": name});
    let digits = |alone: bool| json!({"type": "Digits", "individual_digits": alone});
    let signs = || json!({"type": "Punctuation", "behavior": "Isolated"});
    let sets = [
        (
            "chatlm",
            pre(vec![
                part("Whitespace"),
                signs(),
                digits(true),
                space("always"),
            ]),
            false,
        ),
        (
            "always",
            pre(vec![signs(), digits(false), space("always")]),
            true,
        ),
        (
            "never",
            pre(vec![part("WhitespaceSplit"), digits(true), space("never")]),
            true,
        ),
        ("bare", space("first"), false),
    ];
    let mut made = vec![
        trained(folder, Preset::CharBpe, "char"),
        trained(folder, Preset::ByteBpe, "byte"),
    ];
    for (name, parts, fuse) in sets {
        made.push(variant(folder, "char", name, |value| {
            value["pre_tokenizer"] = parts.clone();
            value["normalizer"] = Value::Null;
            value["model"]["fuse_unk"] = json!(fuse);
        }));
    }
    for (name, prefix, cut) in [("prefix", true, true), ("uncut", false, false)] {
        made.push(variant(folder, "byte", name, |value| {
            value["pre_tokenizer"]["add_prefix_space"] = json!(prefix);
            value["pre_tokenizer"]["use_regex"] = json!(cut);
            // A byte without a token goes.
            value["model"]["vocab"].as_object_mut().unwrap().remove("Ģ");
            let merges = value["model"]["merges"].as_array_mut().unwrap();
            merges.retain(|pair| !pair.to_string().contains('Ģ'));
        }));
    }
    made
}

#[test]
fn ids_are_those_of_the_crate() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<Both> = variants(folder.path())
        .iter()
        .map(|f| Both::load(f))
        .collect();
    for both in &all {
        for text in TEXTS {
            both.agree(text);
        }
        both.agree(&"这中大为上个国我以要你好世界".repeat(40));
    }
    proptest!(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() },
    |(text in text())| {
        for both in &all {
            both.agree(&text);
        }
    });
}

/// Every character alone, and between two others.
#[test]
fn every_character_is_classed_as_the_crate_does() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<Both> = variants(folder.path())
        .iter()
        .map(|f| Both::load(f))
        .collect();
    for start in (0..0x3_0000u32).step_by(64) {
        let text: String = (start..start + 64)
            .filter_map(char::from_u32)
            .flat_map(|c| ['你', c, 'a', c, ' '])
            .collect();
        for both in &all {
            both.agree(&text);
        }
    }
}

#[test]
fn ids_of_real_text_are_those_of_the_crate() {
    let shared = std::env::var_os("CHATLM_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let shared = shared.join("data");
    let folder = shared.join("tokenizers/chatlm_tokenizer_c4f0e7c4");
    let mut files = Vec::new();
    find(&shared, &mut files);
    if !folder.is_dir() || files.is_empty() {
        eprintln!("skipped: ../shared/data is not here");
        return;
    }
    let both = Both::load(&folder);
    let mut seen = 0;
    for file in files {
        let bytes = fs::read(&file).unwrap();
        for line in String::from_utf8_lossy(&bytes).lines().take(20_000) {
            both.agree(line);
            seen += line.len();
        }
    }
    assert!(seen > 100_000, "{seen} bytes");
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let text = ["txt", "jsonl", "json", "csv", "md"];
        if path.is_dir() {
            find(&path, files);
        } else if path
            .extension()
            .is_some_and(|e| text.contains(&&*e.to_string_lossy()))
        {
            files.push(path);
        }
    }
}
