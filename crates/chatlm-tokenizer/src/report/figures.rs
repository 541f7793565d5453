//! A tally as the figures of a report.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chatlm_job::Result;
use rayon::prelude::*;
use serde::Serialize;

use super::script::Script;
use super::subject::Subject;
use super::tally::{Failure, Tally};

/// Entries of each list in a report.
const LISTED: usize = 20;
const QUANTILES: [f64; 6] = [0.5, 0.75, 0.9, 0.95, 0.99, 0.999];

/// How one tokenizer does. Shares are between 0 and 1.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub folder: String,
    pub vocab_size: u64,
    pub tokens: u64,
    pub characters_per_token: f64,
    pub bytes_per_token: f64,
    pub unknown: Unknown,
    pub round_trip: RoundTrip,
    pub unused: Unused,
    /// The longest tokens, by characters.
    pub longest: Vec<Token>,
    pub scripts: Vec<ScriptTokens>,
    pub tokens_per_row: Distribution,
}

#[derive(Debug, Clone, Serialize)]
pub struct Unknown {
    /// Unknown tokens among all.
    pub tokens: u64,
    pub share: f64,
    /// Different characters of the texts that the tokenizer lacks, how often they stand there, their
    /// share of all characters, and the most frequent.
    pub characters: u64,
    pub occurrences: u64,
    pub character_share: f64,
    pub frequent: Vec<Character>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Character {
    pub character: char,
    pub count: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct RoundTrip {
    pub texts: u64,
    /// Texts that come back as they were.
    pub exact: u64,
    /// Texts that come back as the tokenizer normalizes them, but for a space before them.
    pub normalized: u64,
    pub failed: u64,
    pub failed_share: f64,
    /// The failed ones by reason: `unknown` characters, `spaces` alone differ, `other`.
    pub reasons: BTreeMap<&'static str, u64>,
    pub examples: Vec<Failure>,
}

/// Tokens that no text uses; special ones left out.
#[derive(Debug, Clone, Serialize)]
pub struct Unused {
    pub tokens: u64,
    pub of: u64,
    pub share: f64,
    /// Those with the smallest ids, which were learnt first.
    pub first: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Token {
    pub id: u32,
    pub text: String,
    pub characters: u64,
    pub uses: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ScriptTokens {
    pub script: &'static str,
    /// Tokens of the vocabulary.
    pub entries: u64,
    pub uses: u64,
    /// Of all tokens of the texts.
    pub share: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Distribution {
    pub count: u64,
    pub min: Option<u64>,
    pub max: Option<u64>,
    pub mean: Option<f64>,
    pub quantiles: Vec<Quantile>,
    /// From `from` on, `to` left out; empty ones at the ends are left out.
    pub histogram: Vec<Bucket>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Quantile {
    pub q: f64,
    pub value: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Bucket {
    pub from: u64,
    pub to: u64,
    pub count: u64,
}

pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl Figures {
    pub(super) fn new(
        subject: &Subject,
        mut tally: Tally,
        characters: &BTreeMap<char, u64>,
        bytes: u64,
    ) -> Result<Self> {
        let size = subject.tokenizer.vocab_size();
        tally.uses.resize(size, 0);
        let all: u64 = characters.values().sum();
        let failed = tally.failed.values().sum();
        let texts = tally.exact + tally.normalized + failed;
        let entries = entries(subject, &tally)?;
        let per_token = |n: u64| {
            if tally.tokens == 0 {
                0.0
            } else {
                n as f64 / tally.tokens as f64
            }
        };
        Ok(Self {
            folder: subject.tokenizer.folder().display().to_string(),
            vocab_size: size as u64,
            tokens: tally.tokens,
            characters_per_token: per_token(all),
            bytes_per_token: per_token(bytes),
            unknown: unknown(subject, &tally, characters, all)?,
            unused: unused(&entries),
            longest: longest(&entries),
            scripts: scripts(subject, &entries, &tally)?,
            tokens_per_row: distribution(&tally.rows),
            round_trip: RoundTrip {
                texts,
                exact: tally.exact,
                normalized: tally.normalized,
                failed,
                failed_share: share(failed, texts),
                reasons: tally.failed,
                examples: tally.examples,
            },
        })
    }
}

/// The tokens of the vocabulary that stand for text.
fn entries(subject: &Subject, tally: &Tally) -> Result<Vec<Token>> {
    (0..subject.tokenizer.vocab_size() as u32)
        .into_par_iter()
        .filter(|id| !subject.is_special(*id))
        .filter(|id| subject.tokenizer.inner().id_to_token(*id).is_some())
        .map(|id| {
            let text = subject.text(id)?;
            Ok(Token {
                id,
                characters: text.chars().count() as u64,
                text,
                uses: tally.uses[id as usize],
            })
        })
        .collect()
}

fn unknown(
    subject: &Subject,
    tally: &Tally,
    characters: &BTreeMap<char, u64>,
    all: u64,
) -> Result<Unknown> {
    let mut lacking = Vec::new();
    // Without an unknown token nothing was lacking, and no character need be asked for.
    if tally.unknown > 0 {
        lacking = characters
            .par_iter()
            .map(|(c, count)| (*c, count - tally.spelled.get(c).unwrap_or(&0)))
            .filter(|(_, count)| *count > 0)
            .filter_map(|(c, count)| match subject.lacks(c) {
                Ok(true) => Some(Ok((c, count))),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<Vec<(char, u64)>>>()?;
    }
    lacking.sort_by_key(|(c, count)| (Reverse(*count), *c));
    let occurrences = lacking.iter().map(|(_, count)| count).sum();
    Ok(Unknown {
        tokens: tally.unknown,
        share: share(tally.unknown, tally.tokens),
        characters: lacking.len() as u64,
        occurrences,
        character_share: share(occurrences, all),
        frequent: lacking
            .into_iter()
            .take(LISTED)
            .map(|(character, count)| Character { character, count })
            .collect(),
    })
}

fn unused(entries: &[Token]) -> Unused {
    let never = || entries.iter().filter(|token| token.uses == 0);
    let (tokens, of) = (never().count() as u64, entries.len() as u64);
    Unused {
        tokens,
        of,
        share: share(tokens, of),
        first: never()
            .take(LISTED)
            .map(|token| token.text.clone())
            .collect(),
    }
}

fn longest(entries: &[Token]) -> Vec<Token> {
    let mut longest: Vec<&Token> = entries.iter().collect();
    longest.sort_by_key(|token| (Reverse(token.characters), token.id));
    longest.into_iter().take(LISTED).cloned().collect()
}

fn scripts(subject: &Subject, entries: &[Token], tally: &Tally) -> Result<Vec<ScriptTokens>> {
    let mut found = BTreeMap::new();
    for token in entries {
        let (tokens, uses) = found.entry(subject.script(token.id)?).or_insert((0, 0));
        *tokens += 1;
        *uses += token.uses;
    }
    for id in subject.special() {
        let (tokens, uses) = found.entry(Script::Special).or_insert((0, 0));
        *tokens += 1;
        *uses += tally.uses.get(id as usize).unwrap_or(&0);
    }
    let mut scripts: Vec<ScriptTokens> = found
        .into_iter()
        .map(|(script, (entries, uses))| ScriptTokens {
            script: script.name(),
            entries,
            uses,
            share: share(uses, tally.tokens),
        })
        .collect();
    scripts.sort_by_key(|script| Reverse((script.uses, script.entries)));
    Ok(scripts)
}

/// Rows by their tokens, in buckets that double.
fn distribution(rows: &BTreeMap<u64, u64>) -> Distribution {
    let count: u64 = rows.values().sum();
    let total: u64 = rows.iter().map(|(length, rows)| length * rows).sum();
    let quantile = |q: f64| {
        let wanted = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        rows.iter()
            .find(|(_, rows)| {
                seen += *rows;
                seen >= wanted
            })
            .map(|(length, _)| Quantile { q, value: *length })
    };
    let mut histogram: Vec<Bucket> = Vec::new();
    let last = rows.keys().last().copied();
    let mut bounds = (0, 8);
    while last.is_some_and(|last| bounds.0 <= last) {
        let (from, to) = bounds;
        let count = rows.range(from..to).map(|(_, rows)| rows).sum();
        if count > 0 || !histogram.is_empty() {
            histogram.push(Bucket { from, to, count });
        }
        bounds = (to, to * 2);
    }
    Distribution {
        count,
        min: rows.keys().next().copied(),
        max: last,
        mean: (count > 0).then(|| share(total, count)),
        quantiles: QUANTILES.into_iter().filter_map(quantile).collect(),
        histogram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_by_quantiles_and_buckets() {
        let rows = BTreeMap::from([(9, 1), (10, 98), (40, 1)]);
        let told = distribution(&rows);
        assert_eq!((told.count, told.min, told.max), (100, Some(9), Some(40)));
        let quantiles: Vec<u64> = told
            .quantiles
            .iter()
            .map(|quantile| quantile.value)
            .collect();
        assert_eq!(quantiles, [10, 10, 10, 10, 10, 40]);
        let buckets: Vec<(u64, u64)> = told.histogram.iter().map(|b| (b.from, b.count)).collect();
        assert_eq!(buckets, [(8, 99), (16, 0), (32, 1)]);
        assert!(distribution(&BTreeMap::new()).histogram.is_empty());
    }
}
