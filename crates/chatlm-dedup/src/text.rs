//! What two rows are compared by: the text without white space after NFKC, and its set of character
//! n-grams. Exact sets decide; hashes only find candidates.

use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_128;

/// A shingle as a number, equal exactly when the shingles are equal.
pub(crate) type Shingle = u128;

/// Bits of a Unicode code point.
const CHAR_BITS: usize = 21;
/// n-grams up to this length fit a [`Shingle`] without hashing.
const PACKED: usize = 6;
/// Marks the single shingle of a text shorter than n, so that no n-gram can equal it.
const SHORT: Shingle = 1 << 127;

/// NFKC, then without Unicode white space.
pub(crate) fn normalize(prompt: &str, response: &str) -> String {
    let mut text = String::with_capacity(prompt.len() + response.len());
    if prompt.chars().chain(response.chars()).all(is_simple) {
        text.extend(
            prompt
                .chars()
                .chain(response.chars())
                .map(narrow)
                .filter(|c| !c.is_whitespace()),
        );
    } else {
        // Over the join, as a mark at the start of the response belongs to the prompt's last letter.
        let joined = prompt.chars().chain(response.chars());
        text.extend(joined.nfkc().filter(|c| !c.is_whitespace()));
    }
    text
}

/// Characters that NFKC maps one by one: nearly all of Chinese text, ten times as fast.
fn is_simple(c: char) -> bool {
    matches!(c, '\0'..='\u{7f}' | '\u{4e00}'..='\u{9fff}' | '、' | '。' | '\u{3000}' | '\u{ff01}'..='\u{ff5e}')
}

/// NFKC of one [`is_simple`] character.
fn narrow(c: char) -> char {
    match c {
        '\u{3000}' => ' ',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// The set of character n-grams, sorted; a text shorter than n is one shingle.
pub(crate) fn shingles(text: &str, ngram: usize) -> Vec<Shingle> {
    let mut set = if ngram <= PACKED {
        packed(text, ngram)
    } else {
        hashed(text, ngram)
    };
    set.sort_unstable();
    set.dedup();
    set
}

fn packed(text: &str, ngram: usize) -> Vec<Shingle> {
    let mask = (1 << (CHAR_BITS * ngram)) - 1;
    let mut set = Vec::with_capacity(text.len() / 3);
    let (mut window, mut seen): (Shingle, usize) = (0, 0);
    for c in text.chars() {
        window = ((window << CHAR_BITS) | Shingle::from(c as u32)) & mask;
        seen += 1;
        if seen >= ngram {
            set.push(window);
        }
    }
    if seen < ngram {
        set.push(SHORT | window);
    }
    set
}

fn hashed(text: &str, ngram: usize) -> Vec<Shingle> {
    let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    starts.push(text.len());
    if starts.len() <= ngram {
        return vec![xxh3_128(text.as_bytes()) | SHORT];
    }
    starts
        .windows(ngram + 1)
        .map(|w| xxh3_128(&text.as_bytes()[w[0]..w[ngram]]) & !SHORT)
        .collect()
}

/// Jaccard similarity of two sorted sets.
pub(crate) fn jaccard(a: &[Shingle], b: &[Shingle]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        both += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let either = a.len() + b.len() - both;
    if either == 0 {
        1.0
    } else {
        both as f64 / either as f64
    }
}

/// No two sets of these sizes can be more similar than this.
pub(crate) fn jaccard_bound(a: u32, b: u32) -> f64 {
    f64::from(a.min(b)) / f64::from(a.max(b)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn plain(text: &str, ngram: usize) -> BTreeSet<String> {
        let chars: Vec<char> = text.chars().collect();
        if chars.len() < ngram {
            return BTreeSet::from([text.to_owned()]);
        }
        chars.windows(ngram).map(String::from_iter).collect()
    }

    #[test]
    fn width_and_white_space_do_not_count() {
        assert_eq!(normalize("Ａ　b\u{a0}c，", "\t１\n²"), "Abc,12");
        assert_eq!(normalize("cafe", "\u{301}x"), "caféx");
    }

    #[test]
    fn a_short_text_is_one_shingle_that_no_ngram_equals() {
        assert_eq!(shingles("", 5).len(), 1);
        assert_eq!(shingles("一二三四", 5).len(), 1);
        assert_eq!(shingles("一二三四五", 5).len(), 1);
        assert!(jaccard(&shingles("\0abcd", 5), &shingles("abcd", 5)) < 0.5);
    }

    proptest! {
        #[test]
        fn the_fast_path_is_nfkc(a in "[ -~一-龥、。\u{3000}！-～\u{300}-\u{304}]{0,20}", b in "\\PC{0,12}") {
            let expected: String = format!("{a}{b}").nfkc().filter(|c| !c.is_whitespace()).collect();
            prop_assert_eq!(normalize(&a, &b), expected);
        }

        #[test]
        fn sets_and_similarity_equal_plain_ones(
            a in "[ab一二]{0,14}", b in "[ab一二]{0,14}", ngram in 1usize..9,
        ) {
            let (x, y) = (plain(&a, ngram), plain(&b, ngram));
            let (p, q) = (shingles(&a, ngram), shingles(&b, ngram));
            prop_assert_eq!((p.len(), q.len()), (x.len(), y.len()));
            let expected = x.intersection(&y).count() as f64 / x.union(&y).count() as f64;
            prop_assert!((jaccard(&p, &q) - expected).abs() < 1e-15);
            prop_assert!(jaccard_bound(p.len() as u32, q.len() as u32) >= expected);
        }
    }
}
