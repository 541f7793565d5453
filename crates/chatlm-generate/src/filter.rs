//! From a row of logits to one token: penalty and n-gram ban for every search, temperature, top-k
//! and top-p where tokens are drawn; in that order, as `transformers` 5 does.
//!
//! Source: `transformers/generation/logits_process.py`; compared in `tests/filters.rs`.

use chatlm_job::Random;

use crate::{Search, Settings};

/// Changes the logits of one row. `history` is the decoder's input so far, its start token included.
pub(crate) fn filter(logits: &mut [f32], history: &[u32], settings: &Settings) {
    if is_on(settings.repetition_penalty) {
        penalize(logits, history, settings.repetition_penalty as f32);
    }
    ban_repeated_ngrams(logits, history, settings.no_repeat_ngram);
    if settings.search == Search::Sample {
        if is_on(settings.temperature) {
            let temperature = settings.temperature as f32;
            for logit in &mut *logits {
                *logit /= temperature;
            }
        }
        keep_most_likely(logits, settings.top_k);
        keep_nucleus(logits, settings.top_p);
    }
}

/// 1 is the exact value that switches a divisor off.
#[expect(clippy::float_cmp, reason = "1 itself, not a value near it")]
fn is_on(divisor: f64) -> bool {
    divisor != 1.0
}

fn penalize(logits: &mut [f32], history: &[u32], penalty: f32) {
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 {
                *logit * penalty
            } else {
                *logit / penalty
            };
        }
    }
}

fn ban_repeated_ngrams(logits: &mut [f32], history: &[u32], size: usize) {
    if size == 0 || history.len() < size {
        return;
    }
    let beginning = &history[history.len() + 1 - size..];
    for ngram in history.windows(size) {
        if let Some((&last, before)) = ngram.split_last()
            && before == beginning
            && let Some(logit) = logits.get_mut(last as usize)
        {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Ties with the last one that stays stay too.
fn keep_most_likely(logits: &mut [f32], count: usize) {
    if count == 0 || count >= logits.len() {
        return;
    }
    let mut sorted = logits.to_vec();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    for logit in logits {
        if *logit < least {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The most likely token always stays.
fn keep_nucleus(logits: &mut [f32], share: f64) {
    if share >= 1.0 {
        return;
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let Some((_, rest)) = order.split_last() else {
        return;
    };
    let probabilities = probabilities(logits);
    let mut sum = 0.0;
    for &place in rest {
        sum += probabilities[place];
        if sum > 1.0 - share {
            break;
        }
        logits[place] = f32::NEG_INFINITY;
    }
}

/// Softmax in f64; all zero where nothing is left.
fn probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return vec![0.0; logits.len()];
    }
    let mut values: Vec<f64> = logits
        .iter()
        .map(|&logit| (f64::from(logit) - f64::from(largest)).exp())
        .collect();
    let sum: f64 = values.iter().sum();
    for value in &mut values {
        *value /= sum;
    }
    values
}

/// The token of the filtered logits: the first of the largest, or one drawn with `random`.
/// `None` where the filters left nothing.
pub(crate) fn choose(logits: &[f32], search: Search, random: &mut Random) -> Option<u32> {
    let best = || {
        let mut best: Option<usize> = None;
        for (place, &logit) in logits.iter().enumerate() {
            if logit > best.map_or(f32::NEG_INFINITY, |b| logits[b]) {
                best = Some(place);
            }
        }
        best.map(|place| place as u32)
    };
    if search == Search::Greedy {
        return best();
    }
    let mut left = random.uniform();
    for (place, probability) in probabilities(logits).into_iter().enumerate() {
        if probability > 0.0 && left < probability {
            return Some(place as u32);
        }
        left -= probability;
    }
    // Only rounding of the sum leads here.
    best()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Made by `test/golden/generate/make.py` with transformers' own processors.
    #[test]
    fn filters_agree_with_transformers() {
        let text = include_str!("../../../test/golden/generate/filters.json");
        let cases: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(cases.len() >= 12);
        for case in cases {
            let mut logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
            let history: Vec<u32> = serde_json::from_value(case["history"].clone()).unwrap();
            let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
            let expected: Vec<Option<f32>> =
                serde_json::from_value(case["expected"].clone()).unwrap();
            filter(&mut logits, &history, &settings);
            for (place, (&got, &want)) in logits.iter().zip(&expected).enumerate() {
                match want {
                    None => assert_eq!(got, f32::NEG_INFINITY, "{settings:?} at {place}"),
                    Some(want) => {
                        assert!(
                            (got - want).abs() < 1e-5,
                            "{settings:?} at {place}: {got} {want}"
                        );
                    }
                }
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
            filter(&mut filtered, &[0], &settings);
            let id = choose(&filtered, Search::Sample, &mut Random::new(key)).unwrap();
            prop_assert!(filtered[id as usize].is_finite());
            let best = choose(&logits, Search::Greedy, &mut Random::new(key)).unwrap();
            prop_assert!(filtered[best as usize].is_finite());
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0f32, (2f32).ln(), (5f32).ln(), f32::NEG_INFINITY];
        let mut counts = [0u32; 4];
        let mut random = Random::new(3);
        for _ in 0..80_000 {
            counts[choose(&logits, Search::Sample, &mut random).unwrap() as usize] += 1;
        }
        for (count, share) in counts.iter().zip([1.0, 2.0, 5.0, 0.0]) {
            assert!(
                (f64::from(*count) / 10_000.0 - share).abs() < 0.1,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn nothing_left_is_told() {
        let none = [f32::NEG_INFINITY; 3];
        for search in [Search::Greedy, Search::Sample] {
            assert_eq!(choose(&none, search, &mut Random::new(1)), None);
        }
    }
}
