//! BLEU-4 of one answer by characters (Papineni et al. 2002): clipped n-gram precisions with equal
//! weights, no smoothing, brevity penalty only where the answer is shorter.

use std::collections::HashMap;

/// Between 0 and 1; 0 where any of the four precisions is 0.
pub fn bleu4(reference: &str, output: &str) -> f64 {
    let reference: Vec<char> = reference.chars().collect();
    let output: Vec<char> = output.chars().collect();
    let mut sum = 0.0;
    for size in 1..=4 {
        let (shared, total) = (clipped(&reference, &output, size), output.len() + 1);
        if shared == 0 || total <= size {
            return 0.0;
        }
        sum += (shared as f64 / (total - size) as f64).ln();
    }
    let ratio = reference.len() as f64 / output.len() as f64;
    let brevity = if ratio > 1.0 {
        (1.0 - ratio).exp()
    } else {
        1.0
    };
    brevity * (sum / 4.0).exp()
}

/// n-grams of the output that the reference has too, each counted at most as often as there.
fn clipped(reference: &[char], output: &[char], size: usize) -> usize {
    let mut room: HashMap<&[char], usize> = HashMap::new();
    for ngram in reference.windows(size) {
        *room.entry(ngram).or_default() += 1;
    }
    output
        .windows(size)
        .filter(|ngram| match room.get_mut(ngram) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        })
        .count()
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::print_stderr,
    reason = "tests"
)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::PathBuf;

    #[test]
    fn known_values() {
        assert_eq!(bleu4("床前明月光", "床前明月光"), 1.0);
        assert_eq!(bleu4("床前明月光", "疑是地上霜"), 0.0);
        assert_eq!(bleu4("", "床前"), 0.0);
        assert_eq!(bleu4("床前明月光", ""), 0.0);
        assert_eq!(bleu4("床前明", "床前明"), 0.0);
        let shorter = bleu4("床前明月光", "床前明月");
        assert!((shorter - (1.0f64 - 5.0 / 4.0).exp()).abs() < 1e-12);
    }

    /// The values of the reference corpus, checked there against NLTK.
    #[test]
    fn agrees_with_the_golden_pairs() {
        let shared = std::env::var_os("CHATLM_SHARED").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
            PathBuf::from,
        );
        let folder = shared.join("golden/bleu");
        let Ok(pairs) = std::fs::read_to_string(folder.join("pairs.jsonl")) else {
            eprintln!("skipped: {} is not there", folder.display());
            return;
        };
        let expected = std::fs::read_to_string(folder.join("expected.jsonl")).unwrap();
        let mut count = 0;
        for (pair, expected) in pairs.lines().zip(expected.lines()) {
            let pair: Value = serde_json::from_str(pair).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            let got = bleu4(
                pair["reference"].as_str().unwrap(),
                pair["output"].as_str().unwrap(),
            );
            let want = expected["standard"].as_f64().unwrap();
            assert!((got - want).abs() < 1e-12, "{got} {want} {pair}");
            count += 1;
        }
        assert!(count > 500);
    }
}
