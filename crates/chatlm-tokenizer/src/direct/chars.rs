//! What each character is to a tokenizer, found out when it is first met.
//!
//! The classes are those of the tokenizers crate's own parts, from the same tables: `\w` of the regex
//! crate, punctuation of `unicode_categories`, NFKC of `unicode-normalization-alignments`.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization};
use unicode_normalization_alignments::{char as normalization, is_nfkc_quick};

/// How a tokenizer cuts a text into words, as far as single characters decide.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cutting {
    pub(super) nfkc: bool,
    /// `Whitespace`: white space goes, letters and other signs stand apart.
    pub(super) words: bool,
    /// `WhitespaceSplit`: white space goes.
    pub(super) blanks: bool,
    /// `Punctuation`: each sign stands alone.
    pub(super) punctuation: bool,
    /// `Digits`: alone where true, else in runs.
    pub(super) digits: Option<bool>,
}

const KNOWN: u32 = 1 << 31;
const GONE: u32 = 1 << 30;
const ALONE: u32 = 1 << 29;
const WORD: u32 = 1 << 28;
const NUMBER: u32 = 1 << 27;
/// Its NFKC is another character, in the low bits, or several.
const OTHER: u32 = 1 << 26;
const SEVERAL: u32 = 1 << 25;
/// Its NFKC depends on its neighbours.
const JOINED: u32 = 1 << 24;
const CHARACTER: u32 = (1 << 21) - 1;

/// The class of a character.
#[derive(Clone, Copy)]
pub(super) struct Class(u32);

impl Class {
    /// White space that is no part of any word.
    pub(super) fn gone(self) -> bool {
        self.0 & GONE != 0
    }

    /// Whether a word goes on from a character of this class to one of the next.
    pub(super) fn joins(self, next: Self) -> bool {
        (self.0 | next.0) & ALONE == 0 && (self.0 ^ next.0) & (WORD | NUMBER) == 0
    }
}

pub(super) struct Characters {
    cutting: Cutting,
    /// 0 until a character is met. Threads may both find out the same.
    known: Vec<AtomicU32>,
}

fn settled(c: char) -> bool {
    normalization::canonical_combining_class(c) == 0
        && is_nfkc_quick(std::iter::once(c)) == IsNormalized::Yes
}

impl Characters {
    pub(super) fn new(cutting: Cutting) -> Self {
        let mut known = Vec::new();
        known.resize_with(0x11_0000, AtomicU32::default);
        Self { cutting, known }
    }

    fn look(&self, c: char) -> u32 {
        let known = self.known[c as usize].load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let found = self.find(c);
        self.known[c as usize].store(found, Ordering::Relaxed);
        found
    }

    fn find(&self, c: char) -> u32 {
        let Cutting {
            nfkc,
            words,
            blanks,
            punctuation,
            digits,
        } = self.cutting;
        let mut found = KNOWN;
        let mut set = |bit: u32, is: bool| found |= if is { bit } else { 0 };
        // A character without a table counts as no letter; there is none without.
        let letter = regex_syntax::try_is_word_character(c).unwrap_or_default();
        let blank = c.is_whitespace();
        set(GONE, blank && ((words && !letter) || blanks));
        set(WORD, words && letter);
        set(
            ALONE,
            punctuation && (c.is_ascii_punctuation() || c.is_punctuation()),
        );
        set(ALONE, digits == Some(true) && c.is_numeric());
        set(NUMBER, digits == Some(false) && c.is_numeric());
        if nfkc && !settled(c) {
            let mut other = std::iter::once(c).nfkc().map(|(c, _)| c);
            match (other.next(), other.next()) {
                (Some(one), None) if settled(one) => found |= OTHER | one as u32,
                (Some(one), Some(two)) if settled(one) && settled(two) && other.all(settled) => {
                    found |= OTHER | SEVERAL;
                }
                _ => found |= JOINED,
            }
        }
        found
    }

    pub(super) fn class(&self, c: char) -> Class {
        Class(self.look(c))
    }

    /// The NFKC of a text; `None` where `aligned` and it is not certain which of its characters come
    /// from the first one of the text. A text whose characters all become starters that never join is
    /// the row of those; others are left to the library.
    pub(super) fn normalized<'a>(&self, text: &'a str, aligned: bool) -> Option<Cow<'a, str>> {
        let other = |c: char| !c.is_ascii() && self.look(c) & (OTHER | JOINED) != 0;
        let Some(first) = text.find(other).filter(|_| self.cutting.nfkc) else {
            return Some(Cow::Borrowed(text));
        };
        let mut made = String::with_capacity(text.len());
        made.push_str(&text[..first]);
        for (at, c) in text[first..].char_indices() {
            let known = self.look(c);
            if aligned && (known & JOINED != 0 || (known & SEVERAL != 0 && first + at == 0)) {
                return None;
            }
            if known & JOINED != 0 {
                return Some(text.nfkc().map(|(c, _)| c).collect());
            }
            if known & OTHER == 0 {
                made.push(c);
            } else if known & SEVERAL == 0 {
                made.extend(char::from_u32(known & CHARACTER));
            } else {
                made.extend(std::iter::once(c).nfkc().map(|(c, _)| c));
            }
        }
        Some(Cow::Owned(made))
    }
}
