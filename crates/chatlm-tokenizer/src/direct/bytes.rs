//! Cutting a text as `ByteLevel` does: GPT-2's regex by hand, over classes that the crate itself tells.

use std::sync::atomic::{AtomicU8, Ordering};

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SIGN: u8 = 3;
const BLANK: u8 = 4;

pub(super) struct Bytes {
    /// Ids of the single bytes.
    pub(super) ids: Box<[u32; 256]>,
    pub(super) prefix: bool,
    pub(super) cut: bool,
    /// 0 until a character is met. Threads may both find out the same.
    known: Vec<AtomicU8>,
}

/// Whether the crate leaves a text in one piece.
fn whole(text: &str) -> bool {
    let mut pieces = PreTokenizedString::from(text);
    let cut = ByteLevel::new(false, false, true).pre_tokenize(&mut pieces);
    let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    cut.is_ok() && splits.len() == 1
}

/// The character that `ByteLevel` writes for each byte.
pub(super) fn spelling() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        if let own @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) = byte as u8 {
            return char::from(own);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or_default()
    })
}

impl Bytes {
    pub(super) fn new(ids: Box<[u32; 256]>, prefix: bool, cut: bool) -> Self {
        let mut known = Vec::new();
        known.resize_with(if cut { 0x11_0000 } else { 0 }, AtomicU8::default);
        Self {
            ids,
            prefix,
            cut,
            known,
        }
    }

    /// By what the character joins, so that the tables are the crate's.
    fn class(&self, c: char) -> u8 {
        let known = self.known[c as usize].load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let found = [('a', LETTER), ('1', NUMBER), ('!', SIGN)]
            .into_iter()
            .find(|(before, _)| whole(&format!("{before}{c}")))
            .map_or(BLANK, |(_, class)| class);
        self.known[c as usize].store(found, Ordering::Relaxed);
        found
    }

    /// The length of the first piece of a text that is not empty:
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    pub(super) fn piece(&self, text: &str) -> usize {
        if !self.cut {
            return text.len();
        }
        if let Some(after) = text.strip_prefix('\'') {
            let ends = ["s", "t", "re", "ve", "m", "ll", "d"];
            if let Some(end) = ends.iter().find(|end| after.starts_with(**end)) {
                return 1 + end.len();
            }
        }
        let mut chars = text.char_indices();
        let class_of = |next: Option<(usize, char)>| next.map(|(_, c)| self.class(c));
        let mut class = class_of(chars.next());
        if text.starts_with(' ') {
            match class_of(chars.clone().next()) {
                Some(BLANK) | None => {}
                next => {
                    chars.next();
                    class = next;
                }
            }
        }
        // White space before something else leaves it its last character.
        let mut last = 0;
        for (at, c) in chars {
            if Some(self.class(c)) != class {
                return if class == Some(BLANK) && last > 0 {
                    last
                } else {
                    at
                };
            }
            last = at;
        }
        text.len()
    }
}
