//! Round trips over all of Unicode: byte-level everything comes back as it was, character-level what was
//! in the training text comes back as NFKC writes it.
#![expect(clippy::unwrap_used, reason = "tests")]

use chatlm_job::Job;
use chatlm_tokenizer::{Preset, Tokenizer, TrainOptions, train};
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;

/// Every character; surrogates are none.
fn all() -> Vec<char> {
    ('\0'..=char::MAX).collect()
}

/// One character of each block of 128, which no block of Unicode is smaller than by more than a few,
/// and those at the borders of UTF-8's lengths.
fn representatives() -> Vec<char> {
    let borders = [
        '\0', '\u{7f}', '\u{80}', '\u{7ff}', '\u{800}', '\u{d7ff}', '\u{e000}', '\u{feff}', '\u{fffd}',
        '\u{ffff}', '\u{10000}', '\u{10ffff}',
    ];
    let blocks = (0..0x3_4000).step_by(128).filter_map(|at| char::from_u32(at + 0x25));
    borders.into_iter().chain(blocks).collect()
}

fn trained(preset: Preset, texts: &[String], vocab_size: usize) -> (Tokenizer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tokenizer");
    let options = TrainOptions {
        preset,
        vocab_size,
        min_frequency: 2,
        max_memory: None,
    };
    train(texts.iter().cloned().map(Ok), &options, &out, false, &Job::quiet()).unwrap();
    (Tokenizer::load(&out).unwrap(), folder)
}

fn back(tokenizer: &Tokenizer, text: &str) -> String {
    tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap()
}

/// What the character-level preset says of text: NFKC, and one space at its start is lost, since it looks
/// like the mark that every text begins with, which itself stands for a space.
fn normalized(text: &str) -> String {
    let text = text.nfkc().collect::<String>().replace('▁', " ");
    text.strip_prefix(' ').map_or(text.clone(), str::to_owned)
}

#[test]
fn byte_level_brings_back_every_character_alone_and_beside_others() {
    let learnt: Vec<String> = ["天地玄黄，宇宙洪荒。", "hello there, the 123 ", "été привет 🙂"]
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
        // All that stand beside one are in one text, with a letter, a space and nothing between.
        let text: String = some
            .iter()
            .flat_map(|second| [*first, *second, *first, ' ', *second, 'a'])
            .collect();
        assert_eq!(back(&tokenizer, &text), text, "{:x}", *first as u32);
    });
    for c in ['\0', '\n', ' ', '\u{85}', '\u{3000}', 'a', '1', '.', '天', '🙂', '\u{301}', '\u{10ffff}'] {
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
    let (tokenizer, _folder) = trained(Preset::CharBpe, &texts, 1_200_000);
    texts.par_iter().for_each(|text| {
        assert_eq!(back(&tokenizer, text), normalized(text));
    });
    let some = representatives();
    some.par_iter().for_each(|first| {
        let text: String = some.iter().flat_map(|second| [*first, *second, 'a']).collect();
        assert_eq!(back(&tokenizer, &text), normalized(&text), "{:x}", *first as u32);
    });
    for c in ['\0', '\n', '\u{85}', 'a', '1', '.', '天', '🙂', '\u{10ffff}'] {
        let run = c.to_string().repeat(65_537);
        assert!(back(&tokenizer, &run) == normalized(&run), "{:x}", c as u32);
    }
}
