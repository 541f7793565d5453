//! From scores to tokens: the best, one drawn, the best few, a few drawn.

use chatlm_job::Random;

/// Softmax in f64; all zero where nothing is left.
pub(crate) fn probabilities(scores: &[f32]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return vec![0.0; scores.len()];
    }
    let mut values: Vec<f64> = scores
        .iter()
        .map(|&score| (f64::from(score) - f64::from(largest)).exp())
        .collect();
    let sum: f64 = values.iter().sum();
    for value in &mut values {
        *value /= sum;
    }
    values
}

/// Logits become logarithms of probabilities.
pub(crate) fn log_softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from((logit - largest).exp()))
        .sum();
    let log_sum = sum.ln() as f32;
    for logit in logits {
        *logit = (*logit - largest) - log_sum;
    }
}

/// The first of the largest scores; `None` where nothing is left.
pub(crate) fn best(scores: &[f32]) -> Option<u32> {
    let mut best: Option<usize> = None;
    for (place, &score) in scores.iter().enumerate() {
        if score > best.map_or(f32::NEG_INFINITY, |b| scores[b]) {
            best = Some(place);
        }
    }
    best.map(|place| place as u32)
}

/// A token drawn by the softmax of `scores`; `None` where nothing is left.
pub(crate) fn draw(scores: &[f32], random: &mut Random) -> Option<u32> {
    let mut left = random.uniform();
    for (place, probability) in probabilities(scores).into_iter().enumerate() {
        if probability > 0.0 && left < probability {
            return Some(place as u32);
        }
        left -= probability;
    }
    // Only rounding of the sum leads here.
    best(scores)
}

/// The places of the `count` largest of `keys`, largest first, the earlier first where equal; none
/// that is minus infinity.
pub(crate) fn largest(keys: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = Vec::with_capacity(count.min(keys.len()) + 1);
    for (place, &key) in keys.iter().enumerate() {
        let full = places.len() == count;
        if key == f32::NEG_INFINITY || (full && places.last().is_none_or(|&p| keys[p] >= key)) {
            continue;
        }
        let at = places.partition_point(|&p| keys[p] >= key);
        places.insert(at, place);
        places.truncate(count);
    }
    places
}

/// `count` places drawn one after the other by the softmax of `scores`, none twice, in the order of
/// drawing. Adding Gumbel noise and sorting does just that (Kool and others, "Stochastic beams and
/// where to find them", 2019).
pub(crate) fn draw_several(scores: &[f32], count: usize, random: &mut Random) -> Vec<usize> {
    let keys: Vec<f32> = scores
        .iter()
        .map(|&score| {
            if score == f32::NEG_INFINITY {
                return score;
            }
            let noise = -(-random.uniform().ln()).ln();
            // A uniform of 0 has no noise above minus infinity, but its place is still there.
            ((f64::from(score) + noise) as f32).max(f32::MIN)
        })
        .collect();
    largest(&keys, count)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::filter::filter;
    use chatlm_job::mix;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Whether `counts` may come from `shares`: Pearson's test at one in ten thousand (the quantile
    /// by Wilson and Hilferty). What is expected less than five times is taken together.
    fn fits(counts: &[u32], shares: &[f64]) -> bool {
        let rounds = f64::from(counts.iter().sum::<u32>());
        let (mut chi, mut cells) = (0.0, 0);
        let mut rest = (0.0, 0.0);
        for (&count, &share) in counts.iter().zip(shares) {
            let (count, expected) = (f64::from(count), share * rounds);
            if expected == 0.0 && count > 0.0 {
                return false;
            }
            if expected < 5.0 {
                rest = (rest.0 + count, rest.1 + expected);
            } else {
                chi += (count - expected).powi(2) / expected;
                cells += 1;
            }
        }
        if rest.1 > 1.0 {
            chi += (rest.0 - rest.1).powi(2) / rest.1;
            cells += 1;
        }
        let freedom = f64::from(cells - 1);
        let spread = 2.0 / (9.0 * freedom);
        cells < 2 || chi < freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3)
    }

    /// Made by `test/golden/generate/filters.py`: what transformers would draw from, exactly.
    #[test]
    fn draws_follow_the_distributions_of_transformers() {
        let text = include_str!("../../../test/golden/generate/distributions.json");
        let states: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(states.len() >= 20);
        for (number, state) in (0u64..).zip(states) {
            let mut scores: Vec<f32> = serde_json::from_value(state["logits"].clone()).unwrap();
            let history: Vec<u32> = serde_json::from_value(state["history"].clone()).unwrap();
            let settings: Settings = serde_json::from_value(state["settings"].clone()).unwrap();
            let shares: Vec<f64> = serde_json::from_value(state["shares"].clone()).unwrap();
            filter(&mut scores, &history, &settings, &[1]);
            let mut counts = vec![0; scores.len()];
            for key in 0..40_000 {
                let random = &mut Random::new(mix(number, key));
                counts[draw(&scores, random).unwrap() as usize] += 1;
            }
            assert!(fits(&counts, &shares), "{settings:?} {counts:?} {shares:?}");
            // The first of several is drawn like the only one.
            let mut counts = vec![0; scores.len()];
            for key in 0..20_000 {
                counts[draw_several(&scores, 3, &mut Random::new(mix(key, number)))[0]] += 1;
            }
            assert!(fits(&counts, &shares), "{settings:?} {counts:?} {shares:?}");
            // The test sees a distribution that is off by a twentieth.
            let mut wrong: Vec<f64> = shares.iter().map(|share| share * 0.95).collect();
            let likely = best(&scores).unwrap() as usize;
            wrong[likely] += 0.05;
            if shares[likely] < 0.9 {
                assert!(!fits(&counts, &wrong), "{settings:?} {counts:?} {wrong:?}");
            }
        }
    }

    /// Pairs drawn without putting back: p(a) · p(b) / (1 − p(a)).
    #[test]
    fn several_draws_follow_the_distribution_of_pairs() {
        let shares = [0.5f64, 0.3, 0.15, 0.05];
        let scores = shares.map(|share| share.ln() as f32);
        let mut counts = [0; 16];
        for key in 0..100_000 {
            let pair = draw_several(&scores, 2, &mut Random::new(key));
            counts[4 * pair[0] + pair[1]] += 1;
        }
        let pairs: Vec<f64> = (0..16)
            .map(|place| match (place / 4, place % 4) {
                (a, b) if a == b => 0.0,
                (a, b) => shares[a] * shares[b] / (1.0 - shares[a]),
            })
            .collect();
        assert!(fits(&counts, &pairs), "{counts:?}");
    }

    #[test]
    fn nothing_left_is_told() {
        let none = [f32::NEG_INFINITY; 3];
        assert_eq!(best(&none), None);
        assert_eq!(draw(&none, &mut Random::new(1)), None);
        assert!(draw_several(&none, 2, &mut Random::new(1)).is_empty());
    }

    proptest! {
        #[test]
        fn the_largest_are_those_of_a_sort(
            keys in proptest::collection::vec((-4i8..4).prop_map(f32::from), 0..40),
            count in 0usize..12,
        ) {
            let mut order: Vec<usize> = (0..keys.len()).collect();
            order.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
            order.truncate(count);
            prop_assert_eq!(largest(&keys, count), order);
        }

        #[test]
        fn logarithms_of_probabilities_sum_to_one(
            logits in proptest::collection::vec(-30f32..30.0, 1..50),
        ) {
            let mut logs = logits.clone();
            log_softmax(&mut logs);
            let sum: f64 = logs.iter().map(|&log| f64::from(log).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4);
        }
    }
}
