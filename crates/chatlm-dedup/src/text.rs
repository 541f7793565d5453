//! What two rows are compared by: the text without white space after NFKC, and its set of character
//! n-grams. Exact sets decide; hashes only find candidates.
//!
//! A text is held as UTF-16 code units: two bytes for nearly all of Chinese where UTF-8 takes three.

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

/// Appends prompt and response after NFKC, without Unicode white space.
pub(crate) fn normalize(prompt: &str, response: &str, text: &mut Vec<u16>) {
    let begin = text.len();
    for c in prompt.chars().chain(response.chars()) {
        if !is_simple(c) {
            text.truncate(begin);
            // Over the join, as a mark at the start of the response belongs to the prompt's last letter.
            let joined = prompt.chars().chain(response.chars());
            for c in joined.nfkc().filter(|c| !c.is_whitespace()) {
                text.extend_from_slice(c.encode_utf16(&mut [0; 2]));
            }
            return;
        }
        let c = narrow(c);
        if !c.is_whitespace() {
            text.push(c as u16);
        }
    }
}

/// Characters that NFKC maps one by one: nearly all of Chinese text, ten times as fast.
fn is_simple(c: char) -> bool {
    matches!(c, '\0'..='\u{7f}' | '\u{4e00}'..='\u{9fff}' | '\u{3000}'..='\u{3002}' | '\u{ff01}'..='\u{ff5e}'
        | '“' | '”' | '‘' | '’' | '—' | '·' | '《' | '》' | '「' | '」' | '『' | '』' | '【' | '】')
}

/// NFKC of one [`is_simple`] character.
fn narrow(c: char) -> char {
    match c {
        '\u{3000}' => ' ',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// The characters of a text as numbers.
pub(crate) fn characters(text: &[u16]) -> impl Iterator<Item = u32> + '_ {
    let mut units = text.iter();
    std::iter::from_fn(move || {
        let unit = u32::from(*units.next()?);
        if unit & 0xfc00 != 0xd800 {
            return Some(unit);
        }
        let low = u32::from(*units.next()?);
        Some(0x1_0000 + ((unit & 0x3ff) << 10) + (low & 0x3ff))
    })
}

/// Hands on the n-grams one after another, repeated ones too; a text shorter than n is one shingle.
#[inline]
pub(crate) fn each_shingle(text: &[u16], ngram: usize, mut take: impl FnMut(Shingle)) {
    if ngram > PACKED {
        return hashed(text, ngram, take);
    }
    let mask = (1 << (CHAR_BITS * ngram)) - 1;
    let (mut window, mut seen): (Shingle, usize) = (0, 0);
    for c in characters(text) {
        window = ((window << CHAR_BITS) | Shingle::from(c)) & mask;
        seen += 1;
        if seen >= ngram {
            take(window);
        }
    }
    if seen < ngram {
        take(SHORT | window);
    }
}

fn hashed(text: &[u16], ngram: usize, mut take: impl FnMut(Shingle)) {
    // Where characters start: all units but the second halves of pairs.
    let mut starts: Vec<usize> = (0..text.len())
        .filter(|&at| text[at] & 0xfc00 != 0xdc00)
        .collect();
    starts.push(text.len());
    let hash = |units: &[u16]| xxh3_128(bytemuck::cast_slice(units));
    if starts.len() <= ngram {
        return take(hash(text) | SHORT);
    }
    for window in starts.windows(ngram + 1) {
        take(hash(&text[window[0]..window[ngram]]) & !SHORT);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    pub(crate) fn normalized(prompt: &str, response: &str) -> Vec<u16> {
        let mut text = Vec::new();
        normalize(prompt, response, &mut text);
        text
    }

    pub(crate) fn shingles(text: &[u16], ngram: usize) -> BTreeSet<Shingle> {
        let mut set = BTreeSet::new();
        each_shingle(text, ngram, |shingle| {
            set.insert(shingle);
        });
        set
    }

    /// By the definition.
    pub(crate) fn jaccard(a: &BTreeSet<Shingle>, b: &BTreeSet<Shingle>) -> f64 {
        a.intersection(b).count() as f64 / a.union(b).count() as f64
    }

    fn plain(text: &str, ngram: usize) -> BTreeSet<String> {
        let chars: Vec<char> = text.chars().collect();
        if chars.len() < ngram {
            return BTreeSet::from([text.to_owned()]);
        }
        chars.windows(ngram).map(String::from_iter).collect()
    }

    #[test]
    fn width_and_white_space_do_not_count() {
        let text = |a, b| String::from_utf16_lossy(&normalized(a, b));
        assert_eq!(text("Ａ　b\u{a0}c，", "\t１\n²"), "Abc,12");
        assert_eq!(text("cafe", "\u{301}x"), "caféx");
    }

    #[test]
    fn a_short_text_is_one_shingle_that_no_ngram_equals() {
        let set = |text| shingles(&normalized(text, ""), 5);
        for text in ["", "一二三四", "一二三四五"] {
            assert_eq!(set(text).len(), 1);
        }
        assert!(set("\0abcd").is_disjoint(&set("abcd")));
    }

    proptest! {
        #[test]
        fn the_fast_path_is_nfkc(
            a in "[ -~一-龥、。\u{3000}！-～\u{300}-\u{304}“”‘’—·《》「」『』【】]{0,20}", b in "\\PC{0,12}",
        ) {
            let expected: String = format!("{a}{b}").nfkc().filter(|c| !c.is_whitespace()).collect();
            let text = normalized(&a, &b);
            prop_assert_eq!(String::from_utf16_lossy(&text), expected.clone());
            prop_assert!(characters(&text).eq(expected.chars().map(u32::from)));
        }

        #[test]
        fn sets_equal_plain_ones(a in "[ab一二😀]{0,14}", b in "[ab一二😀]{0,14}", ngram in 1usize..9) {
            let (x, y) = (plain(&a, ngram), plain(&b, ngram));
            let sets = [&a, &b].map(|text| shingles(&normalized(text, ""), ngram));
            prop_assert_eq!((sets[0].len(), sets[1].len()), (x.len(), y.len()));
            prop_assert_eq!(sets[0].intersection(&sets[1]).count(), x.intersection(&y).count());
        }
    }
}
