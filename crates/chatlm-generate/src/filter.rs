//! What may be written next: penalties, bans and forced tokens for every search, temperature, top-k
//! and top-p where tokens are drawn; in the order of `transformers` 5.
//!
//! Source: `transformers/generation/logits_process.py`; compared in the tests below.

use crate::Settings;
use crate::draw::probabilities;

/// Changes the scores of one row: logits, or logarithms of probabilities in a search with beams.
/// `history` is the decoder's input so far, its start token included; `ends` are the tokens that end
/// an answer.
pub(crate) fn filter(scores: &mut [f32], history: &[u32], settings: &Settings, ends: &[u32]) {
    if is_on(settings.repetition_penalty) {
        penalize(scores, history, settings.repetition_penalty as f32);
    }
    ban_repeated_ngrams(scores, history, settings.no_repeat_ngram);
    ban_words(scores, history, &settings.bad_words, ends);
    let written = history.len() - 1;
    if written < settings.min_new_tokens {
        ban(scores, ends);
    }
    if written == 0
        && let Some(id) = settings.forced_first
    {
        force(scores, id);
    }
    if written + 1 == settings.max_new_tokens
        && let Some(id) = settings.forced_last
    {
        force(scores, id);
    }
    ban(scores, &settings.suppress);
    if written == usize::from(settings.forced_first.is_some()) {
        ban(scores, &settings.suppress_first);
    }
    if settings.search.draws() {
        // Beams need a token to go on with beside those that end them.
        let least = if settings.search.has_beams() {
            ends.len() + 1
        } else {
            1
        };
        if is_on(settings.temperature) {
            let temperature = settings.temperature as f32;
            for score in &mut *scores {
                *score /= temperature;
            }
        }
        if settings.top_k > 0 {
            keep_most_likely(scores, settings.top_k.max(least));
        }
        keep_nucleus(scores, settings.top_p, least);
    }
}

/// Whether [`filter`] leaves every score as it is, at every length.
pub(crate) fn changes_nothing(settings: &Settings) -> bool {
    !is_on(settings.repetition_penalty)
        && settings.no_repeat_ngram == 0
        && settings.bad_words.is_empty()
        && settings.min_new_tokens == 0
        && settings.forced_first.is_none()
        && settings.forced_last.is_none()
        && settings.suppress.is_empty()
        && settings.suppress_first.is_empty()
        && !settings.search.draws()
}

/// 1 is the exact value that switches a divisor off.
#[expect(clippy::float_cmp, reason = "1 itself, not a value near it")]
fn is_on(divisor: f64) -> bool {
    divisor != 1.0
}

fn ban(scores: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn force(scores: &mut [f32], id: u32) {
    scores.fill(f32::NEG_INFINITY);
    if let Some(score) = scores.get_mut(id as usize) {
        *score = 0.0;
    }
}

fn penalize(scores: &mut [f32], history: &[u32], penalty: f32) {
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 {
                *score * penalty
            } else {
                *score / penalty
            };
        }
    }
}

fn ban_repeated_ngrams(scores: &mut [f32], history: &[u32], size: usize) {
    if size == 0 || history.len() < size {
        return;
    }
    let beginning = &history[history.len() + 1 - size..];
    for ngram in history.windows(size) {
        if let Some((&last, before)) = ngram.split_last()
            && before == beginning
        {
            ban(scores, &[last]);
        }
    }
}

/// A word that is an end token alone is no bad word.
fn ban_words(scores: &mut [f32], history: &[u32], words: &[Vec<u32>], ends: &[u32]) {
    for word in words {
        if let Some((&last, before)) = word.split_last()
            && history.ends_with(before)
            && !(before.is_empty() && ends.contains(&last))
        {
            ban(scores, &[last]);
        }
    }
}

/// Ties with the last one that stays stay too.
fn keep_most_likely(scores: &mut [f32], count: usize) {
    if count >= scores.len() {
        return;
    }
    let mut sorted = scores.to_vec();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    for score in scores {
        if *score < least {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The `least` most likely tokens always stay.
fn keep_nucleus(scores: &mut [f32], share: f64, least: usize) {
    if share >= 1.0 {
        return;
    }
    let mut order: Vec<usize> = (0..scores.len())
        .filter(|&place| scores[place] > f32::NEG_INFINITY)
        .collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order.truncate(order.len().saturating_sub(least));
    let probabilities = probabilities(scores);
    let mut sum = 0.0;
    for place in order {
        sum += probabilities[place];
        if sum > 1.0 - share {
            break;
        }
        scores[place] = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::Search;
    use crate::draw::{best, draw};
    use chatlm_job::Random;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Made by `test/golden/generate/filters.py` with transformers' own processors.
    #[test]
    fn filters_agree_with_transformers() {
        let text = include_str!("../../../test/golden/generate/filters.json");
        let cases: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(cases.len() >= 60);
        for case in cases {
            let mut logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
            let history: Vec<u32> = serde_json::from_value(case["history"].clone()).unwrap();
            let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
            let expected: Vec<Option<f32>> =
                serde_json::from_value(case["expected"].clone()).unwrap();
            filter(&mut logits, &history, &settings, &[1]);
            for (place, (&got, &want)) in logits.iter().zip(&expected).enumerate() {
                let same = match want {
                    None => got == f32::NEG_INFINITY,
                    Some(want) => (got - want).abs() < 1e-5,
                };
                assert!(same, "{settings:?} at {place}: {got} {want:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_drawn_token_is_one_that_the_filters_left(
            logits in proptest::collection::vec(-8f32..8.0, 1..60),
            top_k in 0usize..70,
            top_p in 0.01f64..1.0,
            key: u64,
        ) {
            let settings = Settings { search: Search::Sample, top_k, top_p, ..Settings::default() };
            let mut filtered = logits.clone();
            filter(&mut filtered, &[0], &settings, &[1]);
            let id = draw(&filtered, &mut Random::new(key)).unwrap();
            prop_assert!(filtered[id as usize].is_finite());
            prop_assert!(filtered[best(&logits).unwrap() as usize].is_finite());
        }

        /// What the fast way leaves out must change nothing.
        #[test]
        fn settings_that_change_nothing_change_nothing(
            logits in proptest::collection::vec(-8f32..8.0, 1..20),
            history in proptest::collection::vec(0u32..20, 1..9),
            penalty in prop_oneof![Just(1.0), Just(1.3)],
            ngram in 0usize..3,
            least in 0usize..3,
            bad in proptest::collection::vec(0u32..20, 0..2),
            forced in proptest::option::of(0u32..20),
        ) {
            let settings = Settings {
                repetition_penalty: penalty,
                no_repeat_ngram: ngram,
                min_new_tokens: least,
                bad_words: bad.iter().map(|&id| vec![id]).collect(),
                suppress_first: bad.clone(),
                suppress: bad,
                forced_first: forced,
                ..Settings::default()
            };
            if changes_nothing(&settings) {
                let mut filtered = logits.clone();
                filter(&mut filtered, &history, &settings, &[1]);
                prop_assert_eq!(filtered, logits);
            }
        }
    }
}
