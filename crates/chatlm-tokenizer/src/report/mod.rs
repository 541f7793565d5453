//! What tokenizers make of text: how many characters a token holds, what is unknown, what does not come
//! back, which tokens are never used. Several tokenizers are compared on the same rows.
//!
//! Owns the counting, in memory that does not grow with the text. Leaves reading rows to whoever gives
//! them, and the table and the page to the TypeScript side.

mod figures;
mod script;
mod subject;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chatlm_job::{Code, Error, Job, Result};
use hashbrown::HashMap;
use rayon::prelude::*;
use serde::Serialize;

use crate::ahead::ahead;
use crate::tokenizer::Tokenizer;
pub use figures::Figures;
use figures::share;
use script::Script;
use subject::Subject;
use tally::Tally;

/// Bytes of text counted together.
const BATCH: usize = 4 << 20;

/// The texts of a row, and where it came from.
#[derive(Debug, Clone)]
pub struct RowTexts {
    pub file: Arc<str>,
    /// Counted from 0 over all inputs.
    pub row: u64,
    pub texts: Vec<String>,
}

/// What came of it, as JSON shows it.
#[derive(Debug, Clone, Serialize)]
pub struct TokenizerReport {
    pub kind: &'static str,
    pub version: u32,
    pub inputs: Vec<String>,
    pub rows: u64,
    pub texts: u64,
    pub characters: u64,
    pub bytes: u64,
    /// Characters of the texts by writing system.
    pub scripts: Vec<ScriptCharacters>,
    /// The tokenizer asked for, then those beside it.
    pub tokenizers: Vec<Figures>,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ScriptCharacters {
    pub script: &'static str,
    pub characters: u64,
    pub share: f64,
}

/// Counts over a share of the rows.
#[derive(Default)]
struct Share {
    characters: HashMap<char, u64>,
    tallies: Vec<Tally>,
}

/// Encodes and decodes all texts with each of the tokenizers. Empty texts are passed over.
pub fn report(
    inputs: &[String],
    rows: impl Iterator<Item = Result<RowTexts>> + Send,
    tokenizers: &[Tokenizer],
    job: &Job,
) -> Result<TokenizerReport> {
    let started = Instant::now();
    let subjects: Vec<Subject> = tokenizers
        .iter()
        .map(|tokenizer| Subject::new(tokenizer.clone()))
        .collect::<Result<_>>()?;
    let mut tallies: Vec<Tally> = subjects.iter().map(|_| Tally::default()).collect();
    let mut characters: BTreeMap<char, u64> = BTreeMap::new();
    let (mut seen, mut texts, mut bytes) = (0, 0, 0);
    let weight =
        |row: &RowTexts| row.texts.iter().map(String::len).sum::<usize>() + size_of::<RowTexts>();
    ahead(rows, weight, BATCH, |batch| {
        job.cancel.check()?;
        let size = batch
            .len()
            .div_ceil(4 * rayon::current_num_threads())
            .max(1);
        let shares: Vec<Share> = batch
            .par_chunks(size)
            .map(|rows| counted(&subjects, rows))
            .collect::<Result<_>>()?;
        for share in shares {
            for (c, count) in share.characters {
                *characters.entry(c).or_default() += count;
            }
            for (tally, later) in tallies.iter_mut().zip(share.tallies) {
                tally.join(later);
            }
        }
        for row in &batch {
            let full = row.texts.iter().filter(|text| !text.is_empty());
            texts += full.clone().count() as u64;
            bytes += full.map(|text| text.len() as u64).sum::<u64>();
        }
        seen += batch.len() as u64;
        job.progress.report("report", seen, None, "rows");
        Ok(())
    })?;
    if texts == 0 {
        return Err(Error::new(
            Code::InputFormat,
            "there is no text to report on",
            "check the input: its text columns are empty, or it has none",
        ));
    }
    let figures = subjects
        .iter()
        .zip(tallies)
        .map(|(subject, tally)| Figures::new(subject, tally, &characters, bytes))
        .collect::<Result<_>>()?;
    let all = characters.values().sum();
    Ok(TokenizerReport {
        kind: "tokenizer",
        version: 1,
        inputs: inputs.to_vec(),
        rows: seen,
        texts,
        characters: all,
        bytes,
        scripts: scripts(&characters, all),
        tokenizers: figures,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn counted(subjects: &[Subject], rows: &[RowTexts]) -> Result<Share> {
    let mut share = Share {
        characters: HashMap::new(),
        tallies: subjects.iter().map(|_| Tally::default()).collect(),
    };
    for row in rows {
        for c in row.texts.iter().flat_map(|text| text.chars()) {
            *share.characters.entry(c).or_default() += 1;
        }
        for (subject, tally) in subjects.iter().zip(&mut share.tallies) {
            tally.add(subject, row)?;
        }
    }
    Ok(share)
}

fn scripts(characters: &BTreeMap<char, u64>, all: u64) -> Vec<ScriptCharacters> {
    let mut found: BTreeMap<Script, u64> = BTreeMap::new();
    for (c, count) in characters {
        *found.entry(Script::of(*c)).or_default() += count;
    }
    let mut scripts: Vec<ScriptCharacters> = found
        .into_iter()
        .map(|(script, count)| ScriptCharacters {
            script: script.name(),
            characters: count,
            share: share(count, all),
        })
        .collect();
    scripts.sort_by_key(|script| std::cmp::Reverse(script.characters));
    scripts
}
