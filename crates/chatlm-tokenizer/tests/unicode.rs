//! Round trips over all of Unicode: byte-level everything comes back as it was, character-level what was
//! in the training text comes back as NFKC writes it.
#![expect(clippy::unwrap_used, reason = "tests")]

use chatlm_job::Job;
use chatlm_tokenizer::{Preset, Tokenizer, TrainOptions, train};
use rayon::prelude::*;
use unicode_normalization_alignments::UnicodeNormalization;

/// Every character that Unicode assigns, and those of its gaps; of the private planes a few. Surrogates are none.
fn all() -> Vec<char> {
    let planes = (0..0x3_4000).chain(0xe_0000..0xe_0200);
    planes.filter_map(char::from_u32).chain(PRIVATE).collect()
}

const PRIVATE: [char; 4] = ['\u{f0000}', '\u{ffffd}', '\u{100000}', '\u{10ffff}'];

/// A character every 256, which is nearly every block, and those at the borders of UTF-8's lengths.
fn representatives() -> Vec<char> {
    let borders = [
        '\0',
        '\u{7f}',
        '\u{80}',
        '\u{7ff}',
        '\u{800}',
        '\u{d7ff}',
        '\u{e000}',
        '\u{feff}',
        '\u{fffd}',
        '\u{ffff}',
        '\u{10000}',
        '\u{e0020}',
    ];
    let blocks = (0..0x3_4000)
        .step_by(256)
        .filter_map(|at| char::from_u32(at + 0x25));
    borders.into_iter().chain(PRIVATE).chain(blocks).collect()
}

fn trained(preset: Preset, texts: &[String], vocab_size: usize) -> (Tokenizer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tokenizer");
    let options = TrainOptions {
        preset,
        vocab_size,
        min_frequency: 2,
        max_memory: None,
        files: None,
    };
    train(
        texts.iter().cloned().map(Ok),
        &options,
        &out,
        false,
        &Job::quiet(),
    )
    .unwrap();
    (Tokenizer::load(&out).unwrap(), folder)
}

fn back(tokenizer: &Tokenizer, text: &str) -> String {
    tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap()
}

/// What the character-level preset says of text: NFKC by the Unicode of the tokenizers crate, and one space
/// at its start is lost, since it looks like the mark that every text begins with, which itself stands for a
/// space.
fn normalized(text: &str) -> String {
    let text: String = text
        .nfkc()
        .map(|(c, _)| if c == '▁' { ' ' } else { c })
        .collect();
    text.strip_prefix(' ').map_or(text.clone(), str::to_owned)
}

fn assert_back(tokenizer: &Tokenizer, text: &str) {
    let (back, wanted) = (back(tokenizer, text), normalized(text));
    let first = back.chars().zip(wanted.chars()).find(|(a, b)| a != b);
    assert!(back == wanted, "the first difference: {first:?}");
}

#[test]
fn byte_level_brings_back_every_character_alone_and_beside_others() {
    let learnt: Vec<String> = [
        "天地玄黄，宇宙洪荒。",
        "hello there, the 123 ",
        "été привет 🙂",
    ]
    .iter()
    .map(|text| text.repeat(20))
    .collect();
    let (tokenizer, _folder) = trained(Preset::ByteBpe, &learnt, 500);
    all().par_iter().for_each(|c| {
        let alone = c.to_string();
        assert_eq!(back(&tokenizer, &alone), alone, "{:x}", *c as u32);
    });
    let some = representatives();
    some.par_iter().for_each(|first| {
        // All that stand beside one are in one text.
        let text: String = some
            .iter()
            .flat_map(|second| [*first, *second, 'a'])
            .collect();
        assert_eq!(back(&tokenizer, &text), text, "{:x}", *first as u32);
    });
    for c in [
        '\0',
        '\n',
        ' ',
        '\u{85}',
        '\u{3000}',
        'a',
        '1',
        '.',
        '天',
        '🙂',
        '\u{301}',
        '\u{10ffff}',
    ] {
        for length in [1, 2, 3, 4095, 4096, 65_537] {
            let run = c.to_string().repeat(length);
            assert!(back(&tokenizer, &run) == run, "{length} of {:x}", c as u32);
        }
    }
}

#[test]
fn character_level_brings_back_the_normal_form_of_every_character() {
    // A text each, so that none acts on its neighbour; the text teaches all of them.
    let texts: Vec<String> = all()
        .chunks(512)
        .map(|chunk| chunk.iter().flat_map(|c| ['天', *c]).collect())
        .collect();
    let (tokenizer, _folder) = trained(Preset::CharBpe, &texts, 250_000);
    texts.par_iter().for_each(|text| {
        assert_back(&tokenizer, text);
    });
    let some = representatives();
    some.par_iter().for_each(|first| {
        let text: String = some
            .iter()
            .flat_map(|second| ['a', *first, *second])
            .collect();
        assert_back(&tokenizer, &text);
    });
    for c in [
        '\0',
        '\n',
        '\u{85}',
        'a',
        '1',
        '.',
        '天',
        '🙂',
        '\u{10ffff}',
    ] {
        let run = c.to_string().repeat(65_537);
        assert_back(&tokenizer, &run);
    }
    // What the crate takes for the start of a text is each part of its first character: where NFKC takes that
    // apart, every part but the first gets a space.
    assert_eq!(back(&tokenizer, "天㈠"), "天(一)");
    assert_eq!(back(&tokenizer, "㈠天"), "( 一 )天");
}
