//! The report of a cleaning as JSON: what docs/reports.md says under `kind: "clean"`. It holds a fixed
//! amount however many rows come, and is the same whatever the threads, as rows come in order.

mod characters;
mod lengths;
mod samples;

use std::io::Write;
use std::path::Path;

use chatlm_dataset::Row;
use chatlm_job::{AtomicFile, Error, Result};
use serde_json::{Map, Value, json};

use crate::options::CleanOptions;
use crate::run::Tally;
use crate::sample::{Rule, Sample};
use characters::Characters;
use lengths::Lengths;
use samples::Samples;

/// The shape of the JSON.
const VERSION: u32 = 1;

/// The outermost numbers of the funnel.
pub(crate) struct Counts {
    pub read: u64,
    pub kept: u64,
    pub broken: u64,
    pub undecodable: u64,
    pub mended: u64,
}

pub(crate) struct Report {
    lengths: Vec<(&'static str, Lengths)>,
    characters: Characters,
    samples: Samples,
}

impl Report {
    pub(crate) fn new(columns: &[&'static str], rules: usize, seed: u64) -> Self {
        Self {
            lengths: columns.iter().map(|name| (*name, Lengths::new())).collect(),
            characters: Characters::new(),
            samples: Samples::new(rules, seed),
        }
    }

    /// Takes in a kept row.
    pub(crate) fn kept(&mut self, sample: &Sample) {
        for ((_, lengths), text) in self.lengths.iter_mut().zip(sample.texts()) {
            lengths.add(self.characters.add(text));
        }
    }

    /// Takes in a row that fell at the rule at this place.
    pub(crate) fn dropped(&mut self, rule: usize, row: &Row) {
        self.samples.add(rule, row);
    }

    pub(crate) fn write(
        self,
        path: &Path,
        options: &CleanOptions,
        rules: &[Rule],
        tallies: &[Tally],
        counts: &Counts,
    ) -> Result<()> {
        let funnel: Vec<Value> = rules
            .iter()
            .zip(tallies)
            .map(|(rule, tally)| {
                json!({
                    "rule": rule.name,
                    "action": if rule.drops() { "drop" } else { "rewrite" },
                    "reached": tally.reached,
                    "dropped": tally.dropped,
                    "changed": tally.changed,
                })
            })
            .collect();
        let lengths: Map<String, Value> = self
            .lengths
            .iter()
            .map(|(name, lengths)| ((*name).to_owned(), lengths.to_json()))
            .collect();
        let report = json!({
            "kind": "clean",
            "version": VERSION,
            "source": options.source.as_str(),
            "purpose": options.purpose,
            "compat": options.compat,
            "inputs": options.inputs,
            "seed": options.seed,
            "rows": {
                "read": counts.read,
                "kept": counts.kept,
                "dropped": counts.read - counts.kept - counts.broken,
                "broken": counts.broken,
            },
            "undecodable": counts.undecodable,
            "mended": counts.mended,
            "funnel": funnel,
            "lengths": lengths,
            "characters": self.characters.to_json(),
            "rejects": self.samples.to_json(rules),
        });
        let mut text = serde_json::to_vec_pretty(&report).map_err(Error::internal)?;
        text.push(b'\n');
        let mut file = AtomicFile::create(path, options.force)?;
        file.write_all(&text)
            .map_err(|e| Error::io(&e, "write", path))?;
        file.commit()
    }
}
