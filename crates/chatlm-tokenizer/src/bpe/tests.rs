//! The same vocabulary and merges as the tokenizers crate's trainer.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeSet, HashMap};

use chatlm_job::Job;
use proptest::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{Model, Trainer};

use super::*;

/// Vocabulary by id, and merges by rank as the crate writes them.
type Trained = (Vec<String>, Vec<(String, String)>);

struct Settings {
    vocab_size: usize,
    min_frequency: u64,
    max_token_length: Option<usize>,
}

fn crates(words: &[(String, u64)], settings: &Settings) -> Trained {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(settings.vocab_size)
        .min_frequency(settings.min_frequency)
        .max_token_length(settings.max_token_length)
        .special_tokens(vec![tokenizers::AddedToken::from("[UNK]", true)])
        .show_progress(false)
        .build();
    let repeated = words
        .iter()
        .flat_map(|(word, count)| std::iter::repeat_n(word.as_str(), *count as usize));
    trainer
        .feed(repeated, |word| Ok(vec![word.to_owned()]))
        .unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let mut tokens: Vec<(u32, String)> = model
        .get_vocab()
        .into_iter()
        .map(|(t, id)| (id, t))
        .collect();
    tokens.sort();
    let folder = tempfile::tempdir().unwrap();
    let files = model.save(folder.path(), None).unwrap();
    let merges = std::fs::read_to_string(&files[1]).unwrap();
    let merges = merges
        .lines()
        .skip(1)
        .map(|line| line.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect();
    (tokens.into_iter().map(|(_, token)| token).collect(), merges)
}

fn ours(words: &[(String, u64)], settings: &Settings, memory: usize, wide: bool) -> Trained {
    trained(words, settings, memory, wide, Saving::default())
}

fn trained(
    words: &[(String, u64)],
    settings: &Settings,
    memory: usize,
    wide: bool,
    saving: Saving<'_>,
) -> Trained {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::new(folder.path(), memory);
    for (word, count) in words {
        counter.add_counted(word.as_bytes(), *count);
    }
    let alphabet: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars()).collect();
    let alphabet: Vec<char> = alphabet.into_iter().collect();
    let mut vocabulary = Vocabulary::default();
    vocabulary.add("[UNK]", 5);
    let options = LearnOptions {
        vocab_size: settings.vocab_size,
        min_frequency: settings.min_frequency,
        max_token_length: settings.max_token_length,
        memory,
    };
    let ids = Ids::new(Symbols::Characters, &alphabet, &mut vocabulary);
    let job = Job::quiet();
    let words = Words::Counted(counter);
    let merges = if wide {
        learn_in::<AtomicU32>(words, &ids, &mut vocabulary, &options, saving, &job)
    } else {
        learn_in::<AtomicU16>(words, &ids, &mut vocabulary, &options, saving, &job)
    }
    .unwrap();
    (
        vocabulary
            .tokens()
            .iter()
            .map(ToString::to_string)
            .collect(),
        by_rank(&merges)
            .into_iter()
            .map(|(a, b)| {
                (
                    vocabulary.token(a).to_owned(),
                    vocabulary.token(b).to_owned(),
                )
            })
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn merges_equal_the_crates(
        words in prop::collection::hash_map("[ab]{1,12}|[abcd一二三]{1,9}|哈{1,9}|(ab){1,6}c?", 1u64..40, 1..40),
        vocab_size in 5usize..80,
        min_frequency in 0u64..6,
        max_token_length in prop::option::of(2usize..7),
        memory in prop::sample::select(vec![20_000usize, 1 << 24]),
        wide: bool,
    ) {
        let words: Vec<(String, u64)> = words.into_iter().collect();
        let settings = Settings { vocab_size, min_frequency, max_token_length };
        let expected = crates(&words, &settings);
        let got = ours(&words, &settings, memory, wide);
        prop_assert_eq!(&got.0, &expected.0);
        prop_assert_eq!(&got.1, &expected.1);
        // Going on from the middle gives the same.
        let mut states = Vec::new();
        let mut save = |progress: &Progress| {
            states.push(serde_json::to_string(progress).unwrap());
            Ok(())
        };
        let saving = Saving { save: Some(&mut save), ..Saving::default() };
        trained(&words, &settings, memory, wide, saving);
        let state = states.len() / 2;
        if let Some(state) = states.get(state) {
            let progress = Some(serde_json::from_str(state).unwrap());
            let got = trained(&words, &settings, memory, wide, Saving { progress, ..Saving::default() });
            prop_assert_eq!(&got, &expected);
        }
    }
}

/// Small budgets make many rounds: the same merges.
#[test]
fn rounds_change_nothing() {
    let mut words: HashMap<String, u64> = HashMap::new();
    for n in 0..4000u64 {
        let word: String = (0..3 + n % 7)
            .map(|k| {
                char::from_u32(
                    0x4e00
                        + (chatlm_job::mix(n / 3, k) % 400).min(chatlm_job::mix(n, k) % 400) as u32,
                )
                .unwrap()
            })
            .collect();
        *words.entry(word).or_default() += 1 + n % 5;
    }
    let words: Vec<(String, u64)> = words.into_iter().collect();
    let settings = Settings {
        vocab_size: 2500,
        min_frequency: 2,
        max_token_length: None,
    };
    let expected = crates(&words, &settings);
    for memory in [3 << 20, 5 << 20, 1 << 26] {
        let got = ours(&words, &settings, memory, false);
        assert_eq!(got.0, expected.0, "{memory}");
        assert_eq!(got.1, expected.1, "{memory}");
    }
}
