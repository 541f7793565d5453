//! Properties of searches over a made-up decoder of any size.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::{BTreeMap, HashSet};

use chatlm_generate::{Answer, Batch, Decoder, EarlyStopping, Request, Search, Settings, generate};
use chatlm_job::Cancel;
use common::{Fake, Heard, run_with};
use proptest::prelude::*;

fn any_settings() -> impl Strategy<Value = Settings> {
    let search = prop_oneof![
        Just(Search::Greedy),
        Just(Search::Sample),
        Just(Search::Beam),
        Just(Search::BeamSample),
        Just(Search::Contrastive),
    ];
    let stopping = prop_oneof![
        Just(EarlyStopping::No),
        Just(EarlyStopping::Yes),
        Just(EarlyStopping::Never),
    ];
    let shape = (
        search,
        stopping,
        1usize..6,
        1usize..14,
        0usize..4,
        -2.0..2.0f64,
    );
    let filters = (0usize..4, 0usize..8, 0.1..1.0f64, 0usize..4, any::<bool>());
    (shape, filters).prop_map(|(shape, filters)| {
        let (search, early_stopping, beams, max_new_tokens, answers, length_penalty) = shape;
        let (no_repeat_ngram, top_k, top_p, min_new_tokens, strict) = filters;
        let contrastive = search == Search::Contrastive;
        Settings {
            search,
            early_stopping,
            beams,
            max_new_tokens,
            answers: match search {
                Search::Greedy | Search::Contrastive => 1,
                Search::Sample => answers.max(1),
                _ => answers.clamp(1, beams),
            },
            length_penalty,
            no_repeat_ngram,
            top_k: if contrastive { top_k.max(2) } else { top_k },
            top_p,
            min_new_tokens,
            end_tokens: if strict { vec![1, 2] } else { Vec::new() },
            // Padding is no part of an answer: two beams that differ by it alone would look alike.
            suppress: vec![0],
            ..Settings::default()
        }
    })
}

fn request(key: u64) -> Request {
    Request {
        ids: vec![(key % 5) as u32, 1],
        key,
    }
}

fn repeats(tokens: &[u32], size: usize) -> bool {
    // The start token is the first of the history.
    let history: Vec<u32> = [0].into_iter().chain(tokens.iter().copied()).collect();
    let mut seen = HashSet::new();
    history
        .windows(size)
        .any(|ngram| !seen.insert(ngram.to_vec()))
}

fn check(settings: &Settings, answers: &[Answer]) -> Result<(), TestCaseError> {
    let ends: &[u32] = if settings.end_tokens.is_empty() {
        &[1]
    } else {
        &settings.end_tokens
    };
    prop_assert!(!answers.is_empty() && answers.len() <= settings.answers);
    let scores: Vec<f32> = answers.iter().filter_map(|answer| answer.score).collect();
    prop_assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    prop_assert!(
        scores
            .iter()
            .all(|score| score.is_finite() && *score <= 0.0)
    );
    // Answers leave [PAD] out, so that two which differ only there look alike.
    if settings.search.has_beams() && settings.suppress.contains(&0) {
        let distinct: HashSet<&Vec<u32>> = answers.iter().map(|a| &a.tokens).collect();
        prop_assert_eq!(
            (distinct.len(), scores.len()),
            (answers.len(), answers.len())
        );
    }
    for Answer { tokens, .. } in answers {
        prop_assert!(tokens.len() <= settings.max_new_tokens);
        let end = tokens.iter().position(|id| ends.contains(id));
        prop_assert!(end.is_none_or(|at| at + 1 == tokens.len()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn answers_keep_their_rules(
        mut settings in any_settings(), keys in prop::collection::vec(any::<u64>(), 1..5), padded: bool,
    ) {
        if !padded {
            settings.suppress.push(0);
        }
        let requests: Vec<Request> = keys.into_iter().map(request).collect();
        let mut heard = Heard::default();
        let found = run_with(&mut Fake::new(12), &requests, &settings, &mut heard);
        for (place, answers) in found.iter().enumerate() {
            check(&settings, answers)?;
            let told = heard.written.get(&(place, 0)).cloned().unwrap_or_default();
            prop_assert_eq!(&told, &answers[0].tokens);
        }
    }

    #[test]
    fn no_run_of_tokens_comes_twice(mut settings in any_settings(), key: u64, size in 1usize..4) {
        settings.no_repeat_ngram = size;
        settings.min_new_tokens = 0;
        let answers = run_with(&mut Fake::new(40), &[request(key)], &settings, &mut ()).concat();
        for answer in answers {
            prop_assert!(!repeats(&answer.tokens, size), "{:?}", answer.tokens);
        }
    }

    /// Requests with searches and settings of their own come to a batch at any step and leave it.
    #[test]
    fn requests_that_come_and_go_change_no_answer(
        plan in prop::collection::vec((any_settings(), any::<u64>(), 0usize..4, any::<bool>()), 1..7),
    ) {
        let mut alone = Vec::new();
        for (settings, key, ..) in &plan {
            let mut decoder = Fake::new(12);
            let found = generate(&mut decoder, &[request(*key)], settings, &Cancel::default(), &mut ());
            alone.push(found.unwrap().remove(0));
        }
        let (mut batch, mut decoder) = (Batch::default(), Fake::new(12));
        let mut answers = BTreeMap::new();
        let mut gone = Vec::new();
        for (settings, key, steps, leaves) in &plan {
            let place = batch.add(&mut decoder, &[request(*key)], settings).unwrap();
            if *leaves && *steps == 3 {
                batch.remove(&mut decoder, &[place]).unwrap();
                gone.push(place);
            }
            for _ in 0..*steps {
                answers.extend(said(&mut batch, &mut decoder));
                prop_assert_eq!(batch.rows(), decoder.rows());
            }
        }
        while !batch.is_empty() {
            answers.extend(said(&mut batch, &mut decoder));
        }
        for (place, want) in alone.into_iter().enumerate() {
            let want = (!gone.contains(&place)).then_some(&want);
            prop_assert_eq!(answers.get(&place), want);
        }
        prop_assert_eq!(decoder.rows(), 0);
    }
}

/// A step's answers.
fn said(batch: &mut Batch, decoder: &mut Fake) -> Vec<(usize, Vec<Answer>)> {
    let done = batch.step(decoder, &mut ()).unwrap();
    done.into_iter()
        .map(|(place, answers)| (place, answers.unwrap()))
        .collect()
}

/// Scores of whole answers, by trying all of them.
fn exhaustive(vocabulary: usize, longest: usize, power: f64) -> Vec<f32> {
    let mut open = vec![(vec![0u32], 0f64)];
    let mut scores = Vec::new();
    while let Some((history, score)) = open.pop() {
        let mut decoder = Fake::new(vocabulary);
        decoder.add(&[&[3, 1]]).unwrap();
        let mut logits = Vec::new();
        for &token in &history {
            decoder.step(&[token], &mut logits).unwrap();
        }
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (token, &logit) in logits.iter().enumerate() {
            let score = score + f64::from(logit) - sum.ln();
            let mut history = history.clone();
            history.push(token as u32);
            if token == 1 || history.len() == longest + 1 {
                scores.push((score / (history.len() as f64 - 1.0).powf(power)) as f32);
            } else {
                open.push((history, score));
            }
        }
    }
    scores.sort_by(|a, b| b.total_cmp(a));
    scores
}

#[test]
fn enough_beams_find_the_best_answers_there_are() {
    for length_penalty in [0.0, 1.0, -1.0] {
        let settings = Settings {
            search: Search::Beam,
            beams: 300,
            answers: 5,
            max_new_tokens: 4,
            length_penalty,
            early_stopping: EarlyStopping::Never,
            ..Settings::default()
        };
        let ids = vec![3, 1];
        let found = run_with(
            &mut Fake::new(4),
            &[Request { ids, key: 0 }],
            &settings,
            &mut (),
        );
        let best = exhaustive(4, 4, length_penalty);
        assert_eq!(found[0].len(), 5);
        for (answer, want) in found[0].iter().zip(best) {
            assert!((answer.score.unwrap() - want).abs() < 1e-4);
        }
    }
}

#[test]
fn where_every_token_is_forbidden_the_answer_ends() {
    for search in [
        Search::Greedy,
        Search::Sample,
        Search::Beam,
        Search::BeamSample,
        Search::Contrastive,
    ] {
        let settings = Settings {
            search,
            suppress: (0..12).collect(),
            top_k: 3,
            ..Settings::default()
        };
        let found = run_with(&mut Fake::new(12), &[request(1)], &settings, &mut ());
        assert_eq!(found[0][0].tokens, [1], "{search:?}");
    }
}
