//! Encoding without the tokenizers crate's bookkeeping: the same ids, no offsets, no copies of words.
//!
//! Knows BPE over characters (any of NFKC, `Whitespace`, `WhitespaceSplit`, `Punctuation`, `Digits`,
//! then `Metaspace`), which is what ChatLM's tokenizer and the preset `char-bpe` are, and BPE over bytes
//! (`ByteLevel` alone) as GPT-2's and the preset `byte-bpe`. For other tokenizers, and for texts with added tokens or the space mark in them, it answers nothing and the
//! crate encodes. `tests/direct.rs` compares the two.

mod bytes;
mod cache;
mod chars;
mod merges;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use bytes::Bytes;
use cache::Cache;
use chars::{Characters, Cutting};
use merges::{Merges, Room};

/// An id that is none.
const NONE: u32 = u32::MAX;

/// Where the space mark is put before a word that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Always,
    First,
    Never,
}

pub(crate) struct Direct {
    cut: Cut,
    merges: Merges,
    added: Vec<String>,
    /// Whether an added token starts with this byte.
    starts: [bool; 256],
    owner: u64,
}

/// What the symbols are and how a text is cut before they are merged.
enum Cut {
    Words(Words),
    Bytes(Bytes),
}

struct Words {
    characters: Characters,
    /// Ids of the single characters of the vocabulary, up to U+FFFF and above.
    ids: Vec<u32>,
    rare: HashMap<char, u32>,
    unknown: u32,
    fuse_unknown: bool,
    /// The space mark, how it is spelled and when it is put.
    mark: (u32, char, Mark),
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<Pair>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Two(String, String),
    Spaced(String),
}

impl Direct {
    /// From `tokenizer.json`; `None` where it holds a part that is not known here.
    pub(crate) fn new(json: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(json).ok()?;
        let model = file.model;
        let plain = model.kind == "BPE"
            && model.dropout.is_none_or(|share| share == 0.0)
            && model.continuing_subword_prefix.is_none_or(|s| s.is_empty())
            && model.end_of_word_suffix.is_none_or(|s| s.is_empty())
            && !model.byte_fallback
            && !model.ignore_merges
            // Trims offsets, which are not told here.
            && parts(file.post_processor.as_ref(), "processors").iter().all(|p| p["type"] == "ByteLevel");
        if !plain {
            return None;
        }
        let mut cutting = Cutting::default();
        for part in parts(file.normalizer.as_ref(), "normalizers") {
            match part["type"].as_str()? {
                "NFKC" => cutting.nfkc = true,
                _ => return None,
            }
        }
        let single = |c: char| model.vocab.get(c.to_string().as_str()).copied();
        let merges: Option<Vec<(u32, u32, u32)>> = model
            .merges
            .iter()
            .map(|pair| {
                let (first, second) = match pair {
                    Pair::Two(first, second) => (first.as_str(), second.as_str()),
                    Pair::Spaced(both) => both.split_once(' ')?,
                };
                let whole = model.vocab.get(&format!("{first}{second}"))?;
                Some((*model.vocab.get(first)?, *model.vocab.get(second)?, *whole))
            })
            .collect();
        let mut starts = [false; 256];
        let added: Vec<String> = file.added_tokens.into_iter().map(|t| t.content).collect();
        for token in &added {
            starts[usize::from(*token.as_bytes().first()?)] = true;
        }
        let unknown = match &model.unk_token {
            Some(token) => *model.vocab.get(token)?,
            None => NONE,
        };
        let pre = parts(file.pre_tokenizer.as_ref(), "pretokenizers");
        let cut = if let [only] = pre[..]
            && only["type"] == "ByteLevel"
        {
            // A byte that the vocabulary lacks goes; with a token for it, the crate knows.
            if cutting.nfkc || unknown != NONE {
                return None;
            }
            let ids = Box::new(bytes::spelling().map(|c| single(c).unwrap_or(NONE)));
            let is = |key: &str| only[key].as_bool().unwrap_or(true);
            Cut::Bytes(Bytes::new(ids, is("add_prefix_space"), is("use_regex")))
        } else {
            let mark = cut(&pre, &mut cutting)?;
            let (mut ids, mut rare) = (vec![NONE; 0x1_0000], HashMap::new());
            for (token, id) in &model.vocab {
                let mut chars = token.chars();
                if let (Some(c), None) = (chars.next(), chars.next()) {
                    match ids.get_mut(c as usize) {
                        Some(place) => *place = *id,
                        None => {
                            rare.insert(c, *id);
                        }
                    }
                }
            }

            Cut::Words(Words {
                ids,
                rare,
                unknown,
                fuse_unknown: model.fuse_unk,
                mark: (single(mark.0).unwrap_or(unknown), mark.0, mark.1),
                characters: Characters::new(cutting),
            })
        };
        Some(Self {
            cut,
            merges: Merges::new(&merges?),
            added,
            starts,
            owner: cache::owner(),
        })
    }

    /// The first `longest` ids of a text; `None` where only the crate knows them.
    pub(crate) fn encode(&self, text: &str, longest: usize) -> Option<Vec<u32>> {
        thread_local! {
            static ROOM: RefCell<(Room, Cache)> = RefCell::default();
        }
        if self.holds_added(text) {
            return None;
        }
        match &self.cut {
            Cut::Words(words) => {
                let normalized = words
                    .characters
                    .normalized(text, words.mark.2 == Mark::First)?;
                if matches!(&normalized, Cow::Owned(other) if self.holds_added(other)) {
                    return None;
                }
                ROOM.with_borrow_mut(|(room, _)| {
                    words.encode(&self.merges, &normalized, longest, room)
                })
            }
            Cut::Bytes(bytes) => ROOM.with_borrow_mut(|(room, cache)| {
                cache.own(self.owner);
                Some(self.bytes(bytes, text, longest, room, cache))
            }),
        }
    }

    /// Merges the bytes of each piece; no piece after the `longest`-th id is looked at.
    fn bytes(
        &self,
        bytes: &Bytes,
        text: &str,
        longest: usize,
        room: &mut Room,
        cache: &mut Cache,
    ) -> Vec<u32> {
        let mut out = Vec::with_capacity((text.len() / 3 + 2).min(longest.saturating_add(16)));
        let spaced: String;
        let mut left = text;
        if bytes.prefix && !text.is_empty() && !text.starts_with(' ') {
            spaced = format!(" {text}");
            left = &spaced;
        }
        while !left.is_empty() && out.len() < longest {
            let (piece, after) = left.split_at(bytes.piece(left));
            cache.get(piece.as_bytes(), &mut out, |out| {
                let ids = piece.bytes().map(|byte| bytes.ids[usize::from(byte)]);
                room.symbols.clear();
                room.symbols.extend(ids.filter(|id| *id != NONE));
                finish(&self.merges, room, out);
            });
            left = after;
        }
        out.truncate(longest);
        out
    }

    fn holds_added(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        let starts = |at: usize| {
            self.added
                .iter()
                .any(|t| bytes[at..].starts_with(t.as_bytes()))
        };
        (0..bytes.len()).any(|at| self.starts[usize::from(bytes[at])] && starts(at))
    }
}

impl Words {
    /// Cuts a text into words and merges each; no word after the `longest`-th id is looked at.
    fn encode(
        &self,
        merges: &Merges,
        text: &str,
        longest: usize,
        room: &mut Room,
    ) -> Option<Vec<u32>> {
        let mut out = Vec::with_capacity((text.len() / 3 + 2).min(longest.saturating_add(16)));
        let (mark, mark_char, scheme) = self.mark;
        let mut before = None;
        room.symbols.clear();
        for (at, c) in text.char_indices() {
            if c == mark_char {
                return None;
            }
            let class = self.characters.class(c);
            if class.gone() {
                before = None;
                continue;
            }
            // A blank that is left is the mark of the word after it.
            let begins =
                c == ' ' || !before.is_some_and(|before: chars::Class| before.joins(class));
            if begins {
                finish(merges, room, &mut out);
                if out.len() >= longest {
                    break;
                }
                let marked = match scheme {
                    Mark::Always => true,
                    Mark::First => at == 0,
                    Mark::Never => false,
                };
                if marked && c != ' ' {
                    self.push(mark, room);
                }
            }
            let id = match c {
                ' ' => mark,
                c => self.id(c),
            };
            self.push(id, room);
            before = Some(class);
        }
        finish(merges, room, &mut out);
        out.truncate(longest);
        Some(out)
    }

    fn id(&self, c: char) -> u32 {
        let known = match self.ids.get(c as usize) {
            Some(id) => *id,
            None => self.rare.get(&c).copied().unwrap_or(NONE),
        };
        if known == NONE { self.unknown } else { known }
    }

    fn push(&self, id: u32, room: &mut Room) {
        let fused = self.fuse_unknown && id == self.unknown && room.symbols.last() == Some(&id);
        if id != NONE && !fused {
            room.symbols.push(id);
        }
    }
}

fn finish(merges: &Merges, room: &mut Room, out: &mut Vec<u32>) {
    if !room.symbols.is_empty() {
        merges.apply(room, out);
    }
}

/// The parts of a pipeline: none, one, or a sequence of them.
fn parts<'a>(value: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(value) if value["type"] == "Sequence" => {
            let inner = value[list].as_array().into_iter().flatten();
            inner.flat_map(|part| parts(Some(part), list)).collect()
        }
        Some(value) => vec![value],
    }
}

/// How the parts cut a text; the last must be `Metaspace`.
fn cut(parts: &[&Value], cutting: &mut Cutting) -> Option<(char, Mark)> {
    let (last, parts) = parts.split_last()?;
    for part in parts {
        match part["type"].as_str()? {
            "Whitespace" => cutting.words = true,
            "WhitespaceSplit" => cutting.blanks = true,
            "Punctuation" if part["behavior"].as_str().is_none_or(|b| b == "Isolated") => {
                cutting.punctuation = true;
            }
            "Digits" if cutting.digits.is_none() => {
                cutting.digits = Some(part["individual_digits"].as_bool()?);
            }
            _ => return None,
        }
    }
    if last["type"] != "Metaspace" || last["split"].as_bool() == Some(false) {
        return None;
    }
    let mark = match last["prepend_scheme"].as_str() {
        _ if last["add_prefix_space"].as_bool() == Some(false) => Mark::Never,
        None | Some("always") => Mark::Always,
        Some("first") => Mark::First,
        Some("never") => Mark::Never,
        Some(_) => return None,
    };
    let mut replacement = last["replacement"].as_str()?.chars();
    match (replacement.next(), replacement.next()) {
        (Some(c), None) => Some((c, mark)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokenizers_of_characters_are_known_and_others_left_to_the_crate() {
        let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"});
        let known = json!({
            "added_tokens": [{"content": "[SEP]"}], "normalizer": {"type": "NFKC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, space]},
            "model": {"type": "BPE", "vocab": {"▁": 0, "a": 1, "▁a": 2}, "merges": [["▁", "a"]]},
        });
        let direct = |value: &Value| Direct::new(value.to_string().as_bytes());
        let ours = direct(&known).map(|d| (d.encode("a aｂ", 9), d.encode("a[SEP]", 9)));
        assert_eq!(ours, Some((Some(vec![2, 2]), None)));
        for (place, value) in [
            ("/normalizer", json!({"type": "Lowercase"})),
            ("/pre_tokenizer", json!({"type": "Split"})),
            ("/model/type", json!("WordPiece")),
            ("/model/merges", json!(["a a"])),
        ] {
            let mut other = known.clone();
            if let Some(there) = other.pointer_mut(place) {
                *there = value;
            }
            assert!(direct(&other).is_none(), "{place}");
        }
    }

    #[test]
    fn tokenizers_of_bytes_are_known() {
        let level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let bytes = json!({
            "pre_tokenizer": level, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4},
                "merges": [["a", "b"], ["Ġ", "ab"]]},
        });
        let ours = Direct::new(bytes.to_string().as_bytes()).map(|d| d.encode("ab aba", 9));
        assert_eq!(ours, Some(Some(vec![2, 4, 0])));
    }
}
