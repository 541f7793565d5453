//! When two texts are the same to a reader of data, or nearly: the measure of `chatlm dedup`.

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization;

/// Characters of a shingle.
const SHINGLE: usize = 5;

/// After NFKC, without white space.
pub(crate) fn normalized(text: &str) -> String {
    let kept = |c: &char| !c.is_whitespace();
    if text.is_ascii() {
        return text.chars().filter(kept).collect();
    }
    text.nfkc().filter(kept).collect()
}

/// Runs of five characters; a shorter text is one.
fn shingles(text: &str) -> HashSet<&str> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    if starts.len() <= SHINGLE {
        return [text].into();
    }
    let ends = starts[SHINGLE..].iter().copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(&a, b)| &text[a..b]).collect()
}

/// Jaccard similarity of the shingles of two normalized texts: 1 for the same, 0 for nothing in common.
pub(crate) fn similarity(a: &str, b: &str) -> f64 {
    let (a, b) = (shingles(a), shingles(b));
    let common = a.intersection(&b).count();
    common as f64 / (a.len() + b.len() - common) as f64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "counts of shingles divided")]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_by_what_is_written_not_how() {
        assert_eq!(normalized("Ａ b\u{3000}，ｃ\n"), "Ab,c");
        assert_eq!(similarity("一二三四五六", "一二三四五六"), 1.0);
        // 12345, 23456 and 12345, 23457: one in three.
        assert_eq!(similarity("123456", "123457"), 1.0 / 3.0);
        assert_eq!(similarity("短", "长"), 0.0);
        assert_eq!(similarity("12345", "12345"), 1.0);
        assert_eq!(similarity("", "一二三四五六"), 0.0);
    }
}
