//! The words of a text, as the tokenizers crate's normalizer and pre-tokenizers of a preset cut them,
//! many times as fast.
//!
//! What each character is (how NFKC writes it, whether it is punctuation, a letter, a number, white
//! space) is asked of that crate's own parts once and kept. A text with characters that act on their
//! neighbours goes through the crate itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use chatlm_job::{Error, Result};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer,
};
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, is_nfkc_quick};

use crate::bpe::{Batch, Symbols, byte_characters};
use crate::jieba::Segmenter;
use crate::preset::{Preset, SPECIAL_TOKENS};

/// Stands for spaces in the character-level preset.
const SPACE_MARK: char = '▁';

/// How texts are cut.
enum Cut {
    /// As the preset does, by what is known of each character.
    Fast(Preset),
    /// By the tokenizer's own parts; its words may hold these characters whether seen or not.
    Pipeline(Vec<char>),
    /// Into the words of a dictionary, after the character-level preset's normalizer.
    Dictionary(Box<Segmenter>),
}

/// Cuts texts into words.
pub(crate) struct Cutter<'a> {
    cut: Cut,
    tokenizer: &'a Tokenizer,
    /// Texts are cut at these, and they are in no word.
    special: Vec<String>,
    /// What they begin with.
    openers: Vec<char>,
    /// What is known of each character, 0 where it was not asked yet.
    known: Vec<AtomicU32>,
    /// Characters that stood in words.
    seen: Vec<AtomicBool>,
}

// What is kept of a character: these flags, and below them how NFKC writes it where that is one character.
const KNOWN: u32 = 1 << 31;
/// Only the crate itself may treat a text with this character.
const HARD: u32 = 1 << 30;
const ALONE: u32 = 1 << 29;
const LETTER: u32 = 1 << 28;
const NUMBER: u32 = 1 << 27;
const BLANK: u32 = 1 << 26;
const CODE: u32 = (1 << 21) - 1;

impl<'a> Cutter<'a> {
    /// The words of a preset, cut at our own special tokens.
    pub(crate) fn new(preset: Preset, tokenizer: &'a Tokenizer) -> Self {
        Self::of_preset(preset, tokenizer, ours())
    }

    /// The words of a preset, cut at other special tokens.
    pub(crate) fn of_preset(
        preset: Preset,
        tokenizer: &'a Tokenizer,
        special: Vec<String>,
    ) -> Self {
        Self::with(Cut::Fast(preset), tokenizer, special)
    }

    /// The words of any pipeline.
    pub(crate) fn of_pipeline(
        tokenizer: &'a Tokenizer,
        special: Vec<String>,
        initial: Vec<char>,
    ) -> Self {
        Self::with(Cut::Pipeline(initial), tokenizer, special)
    }

    /// The words of a dictionary, as pieces that `tokenizer` (of the character-level preset) keeps whole.
    pub(crate) fn of_dictionary(tokenizer: &'a Tokenizer) -> Self {
        Self::with(Cut::Dictionary(Box::default()), tokenizer, ours())
    }

    fn with(cut: Cut, tokenizer: &'a Tokenizer, special: Vec<String>) -> Self {
        let known = (0..=u32::from(char::MAX))
            .map(|_| AtomicU32::new(0))
            .collect();
        let seen = (0..=u32::from(char::MAX))
            .map(|_| AtomicBool::new(false))
            .collect();
        let mut openers: Vec<char> = special.iter().filter_map(|t| t.chars().next()).collect();
        openers.sort_unstable();
        openers.dedup();
        Self {
            cut,
            tokenizer,
            special,
            openers,
            known,
            seen,
        }
    }

    /// What the bytes of a word are.
    pub(crate) fn symbols(&self) -> Symbols {
        match self.cut {
            Cut::Fast(Preset::ByteBpe) => Symbols::Bytes,
            _ => Symbols::Characters,
        }
    }

    /// All characters that words may hold, sorted.
    pub(crate) fn alphabet(&self) -> Vec<char> {
        let initial: &[char] = match &self.cut {
            Cut::Fast(Preset::ByteBpe) => &byte_characters(),
            Cut::Pipeline(initial) => initial,
            _ => &[],
        };
        for c in initial {
            self.see(*c);
        }
        ('\0'..=char::MAX)
            .filter(|c| self.seen[*c as usize].load(Ordering::Relaxed))
            .collect()
    }

    /// The stretches of a text between special tokens.
    pub(crate) fn stretches<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut stretches = vec![text];
        // Few texts hold what they begin with.
        let opened = match &self.openers[..] {
            [one] => text.contains(*one),
            many => text.contains(many),
        };
        if opened {
            for token in &self.special {
                if stretches.iter().any(|stretch| stretch.contains(token)) {
                    stretches = stretches.iter().flat_map(|s| s.split(token)).collect();
                }
            }
        }
        stretches.retain(|stretch| !stretch.is_empty());
        stretches
    }

    fn see(&self, c: char) {
        let seen = &self.seen[c as usize];
        if !seen.load(Ordering::Relaxed) {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// Adds the words of a text: UTF-8 for characters, the text's own bytes for bytes.
    pub(crate) fn cut(&self, text: &str, batch: &mut Batch) -> Result<()> {
        let done = match &self.cut {
            Cut::Fast(Preset::ByteBpe) => self.bytes(text, batch),
            Cut::Fast(_) => self.characters(text, batch),
            Cut::Pipeline(_) => false,
            Cut::Dictionary(segmenter) => return self.dictionary(segmenter, text, batch),
        };
        if done { Ok(()) } else { self.slow(text, batch) }
    }

    fn known(&self, c: char) -> u32 {
        let known = &self.known[c as usize];
        match known.load(Ordering::Relaxed) {
            0 => {
                let told = match self.cut {
                    Cut::Fast(Preset::ByteBpe) => self.class(c),
                    _ => self.character(c),
                };
                known.store(told, Ordering::Relaxed);
                told
            }
            told => told,
        }
    }

    /// NFKC, then punctuation and numbers alone, a new word at each space, a mark before the first.
    fn characters(&self, text: &str, batch: &mut Batch) -> bool {
        if text.chars().any(|c| self.known(c) & HARD != 0) {
            return false;
        }
        let mut word = Vec::with_capacity(64);
        let mut utf8 = [0; 4];
        for (place, c) in text.chars().enumerate() {
            let told = self.known(c);
            let c = match char::from_u32(told & CODE).unwrap_or_default() {
                ' ' => SPACE_MARK,
                c => c,
            };
            let first = place == 0;
            self.see(c);
            if first && c != SPACE_MARK {
                self.see(SPACE_MARK);
                word.extend_from_slice(SPACE_MARK.encode_utf8(&mut utf8).as_bytes());
            }
            let alone = told & ALONE != 0;
            if (alone && !first || c == SPACE_MARK) && !word.is_empty() {
                batch.push(&word);
                word.clear();
            }
            word.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
            if alone {
                batch.push(&word);
                word.clear();
            }
        }
        if !word.is_empty() {
            batch.push(&word);
        }
        true
    }

    /// What the character-level pipeline makes of a character.
    fn character(&self, c: char) -> u32 {
        let mut normalized = NormalizedString::from(c.to_string());
        let combines = canonical_combining_class(c) != 0
            || is_nfkc_quick(std::iter::once(c)) == IsNormalized::Maybe;
        let failed = self
            .tokenizer
            .get_normalizer()
            .is_some_and(|normalizer| normalizer.normalize(&mut normalized).is_err());
        let mut chars = normalized.get().chars();
        let (Some(one), None) = (chars.next(), chars.next()) else {
            return KNOWN | HARD;
        };
        let stays = canonical_combining_class(one) == 0
            && is_nfkc_quick(std::iter::once(one)) == IsNormalized::Yes;
        if combines || failed || !stays {
            return KNOWN | HARD;
        }
        // Between two letters it stands alone, or does not.
        let alone = self
            .pieces(&format!("x{one}x"))
            .is_ok_and(|words| words.len() == 3);
        KNOWN | u32::from(one) | if alone { ALONE } else { 0 }
    }

    /// The pattern of GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    fn bytes(&self, text: &str, batch: &mut Batch) -> bool {
        let bytes = text.as_bytes();
        let class = |at: usize| -> (u32, usize) {
            let byte = bytes[at];
            let c = if byte < 0x80 {
                byte as char
            } else {
                text[at..].chars().next().unwrap_or_default()
            };
            (self.known(c) & (LETTER | NUMBER | BLANK), c.len_utf8())
        };
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            if bytes[at] == b'\'' {
                let two = |n: usize| bytes.get(at + 1..at + 1 + n);
                let short = matches!(two(1), Some(b"s" | b"t" | b"m" | b"d"));
                let long = matches!(two(2), Some(b"re" | b"ve" | b"ll"));
                if short || long {
                    at += if short { 2 } else { 3 };
                    batch.push(&bytes[start..at]);
                    continue;
                }
            }
            let (mut kind, mut length) = class(at);
            if kind & BLANK != 0 {
                let spaced = bytes[at] == b' ' && at + 1 < bytes.len();
                let next = spaced
                    .then(|| class(at + 1))
                    .filter(|(kind, _)| kind & BLANK == 0);
                let Some(after) = next else {
                    at = Self::blanks(text, at, &class);
                    batch.push(&bytes[start..at]);
                    continue;
                };
                at += 1;
                (kind, length) = after;
            }
            loop {
                at += length;
                if at >= bytes.len() {
                    break;
                }
                let (next, next_length) = class(at);
                if next != kind {
                    break;
                }
                length = next_length;
            }
            batch.push(&bytes[start..at]);
        }
        true
    }

    /// The end of white space from a place on; the last blank before something else is left to it.
    fn blanks(text: &str, start: usize, class: &impl Fn(usize) -> (u32, usize)) -> usize {
        let (mut at, mut last) = (start, start);
        while at < text.len() {
            let (kind, length) = class(at);
            if kind & BLANK == 0 {
                return if last > start { last } else { at };
            }
            last = at;
            at += length;
        }
        at
    }

    /// What GPT-2's pattern takes a character for.
    fn class(&self, c: char) -> u32 {
        let alike = |neighbour: char| {
            self.pieces(&format!("{neighbour}{c}{neighbour}"))
                .is_ok_and(|words| words.len() == 1)
        };
        let kind = if alike('x') {
            LETTER
        } else if alike('1') {
            NUMBER
        } else if alike('.') {
            0
        } else {
            BLANK
        };
        KNOWN | kind
    }

    /// The words of a text by the tokenizers crate.
    fn pieces(&self, text: &str) -> tokenizers::Result<Vec<String>> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.tokenizer.get_normalizer() {
            normalizer.normalize(&mut normalized)?;
        }
        let mut split = PreTokenizedString::from(normalized);
        if let Some(splitter) = self.tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut split)?;
        }
        let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(words
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .collect())
    }

    fn slow(&self, text: &str, batch: &mut Batch) -> Result<()> {
        let mut bytes = Vec::new();
        for word in self.pieces(text).map_err(Error::internal)? {
            if self.symbols() == Symbols::Bytes {
                bytes.clear();
                bytes.extend(word.chars().filter_map(byte));
                batch.push(&bytes);
            } else {
                word.chars().for_each(|c| self.see(c));
                batch.push(word.as_bytes());
            }
        }
        Ok(())
    }

    /// Dictionary words, without the characters that the preset keeps alone.
    fn dictionary(&self, segmenter: &Segmenter, text: &str, batch: &mut Batch) -> Result<()> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.tokenizer.get_normalizer() {
            normalizer
                .normalize(&mut normalized)
                .map_err(Error::internal)?;
        }
        self.see(SPACE_MARK);
        let alone = |c: char| self.known(c) & ALONE != 0;
        segmenter.words(normalized.get(), alone, |word| {
            word.chars().for_each(|c| self.see(c));
            batch.push(word.as_bytes());
        });
        Ok(())
    }
}

fn ours() -> Vec<String> {
    SPECIAL_TOKENS.map(str::to_owned).to_vec()
}

/// The byte that a character of byte-level words shows.
fn byte(shown: char) -> Option<u8> {
    static BYTES: OnceLock<Vec<Option<u8>>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut bytes = vec![None; 0x200];
        for (byte, shown) in (0u8..=255).zip(byte_characters()) {
            bytes[shown as usize] = Some(byte);
        }
        bytes
    });
    bytes.get(shown as usize).copied().flatten()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::preset::untrained;
    use proptest::prelude::*;

    fn compare(preset: Preset, text: &str) {
        let tokenizer = untrained(preset).unwrap();
        let words = Cutter::new(preset, &tokenizer);
        let (mut fast, mut slow) = (Batch::new(), Batch::new());
        words.cut(text, &mut fast).unwrap();
        words.slow(text, &mut slow).unwrap();
        assert_eq!(fast.sorted(), slow.sorted(), "{text:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn words_are_the_crates(
            text in "(\\PC|[ \t\n\r\u{3000}\u{a0}▁，。！x1½…'s'll' ' éé\u{301}가각ｶﾞ③①－~]|的|[a-z]{1,3}){0,40}",
        ) {
            compare(Preset::CharBpe, &text);
            compare(Preset::ByteBpe, &text);
        }
    }

    #[test]
    fn every_character_is_told_as_the_crate_tells_it() {
        // All of them in texts of neighbours, so that hard ones do not hide the rest.
        for preset in [Preset::CharBpe, Preset::ByteBpe] {
            let tokenizer = untrained(preset).unwrap();
            let words = Cutter::new(preset, &tokenizer);
            let easy = |c: &char| preset == Preset::ByteBpe || words.known(*c) & HARD == 0;
            let all: Vec<char> = ('\0'..=char::MAX).filter(easy).collect();
            assert!(all.len() > 900_000);
            for piece in all.chunks(4096) {
                let text: String = piece.iter().flat_map(|c| ['文', *c, *c]).collect();
                let (mut fast, mut slow) = (Batch::new(), Batch::new());
                words.cut(&text, &mut fast).unwrap();
                words.slow(&text, &mut slow).unwrap();
                assert_eq!(fast.sorted(), slow.sorted());
            }
        }
    }
}
