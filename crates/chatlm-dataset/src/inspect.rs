//! A look inside: how many rows, which columns, how long the texts are, a few rows.

use std::collections::BTreeMap;

use chatlm_job::{Job, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::input::InputOptions;
use crate::rows::Rows;
use crate::table::Schema;

/// What [`inspect`] found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    pub rows: u64,
    pub columns: Vec<ColumnDescription>,
    pub lengths: Vec<Lengths>,
    /// The first rows.
    pub samples: Vec<Map<String, Value>>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnDescription {
    pub name: String,
    /// `text`, `int64` or `float64`.
    pub kind: String,
}

/// Lengths of a text column in characters.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lengths {
    pub column: String,
    pub min: u64,
    pub max: u64,
    pub mean: f64,
    /// Rows by length; the edges are powers of two.
    pub buckets: Vec<Bucket>,
}

/// Rows longer than the edge before and at most `up_to` characters long.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    pub up_to: u64,
    pub rows: u64,
}

#[derive(Default)]
struct Count {
    rows: u64,
    sum: u64,
    min: u64,
    max: u64,
    buckets: BTreeMap<u64, u64>,
}

impl Count {
    fn add(&mut self, length: u64) {
        self.min = if self.rows == 0 {
            length
        } else {
            self.min.min(length)
        };
        self.max = self.max.max(length);
        self.rows += 1;
        self.sum += length;
        *self
            .buckets
            .entry(length.max(1).next_power_of_two().max(8))
            .or_default() += 1;
    }

    /// Every edge between the shortest and the longest, also where no row falls.
    fn lengths(&self, column: &str) -> Lengths {
        let (first, last) = (self.buckets.keys().next(), self.buckets.keys().next_back());
        let edges = first
            .zip(last)
            .map(|(first, last)| (first.ilog2(), last.ilog2()));
        let buckets = edges
            .into_iter()
            .flat_map(|(first, last)| first..=last)
            .map(|power| {
                let up_to = 1u64 << power;
                Bucket {
                    up_to,
                    rows: self.buckets.get(&up_to).copied().unwrap_or_default(),
                }
            });
        Lengths {
            column: column.to_owned(),
            min: self.min,
            max: self.max,
            mean: self.sum as f64 / self.rows.max(1) as f64,
            buckets: buckets.collect(),
        }
    }
}

/// Reads everything once; `rows` says how many rows to show.
pub fn inspect(
    paths: &[String],
    options: &InputOptions,
    rows: usize,
    job: &Job,
) -> Result<Inspection> {
    let mut schema = Schema::default();
    let mut counts: Vec<(String, Count)> = Vec::new();
    let (mut seen, mut samples) = (0, Vec::new());
    for row in Rows::open(paths, options)? {
        let row = row?;
        schema.add_row(&row.fields);
        for (name, value) in &row.fields {
            let Value::String(text) = value else { continue };
            let place = counts
                .iter()
                .position(|(known, _)| known == name)
                .unwrap_or_else(|| {
                    counts.push((name.clone(), Count::default()));
                    counts.len() - 1
                });
            counts[place].1.add(text.chars().count() as u64);
        }
        if samples.len() < rows {
            samples.push(row.fields);
        }
        seen += 1;
        if seen % 1024 == 0 {
            job.cancel.check()?;
            job.progress.report("inspect", seen, None, "rows");
        }
    }
    let columns = schema.columns();
    let lengths = columns
        .iter()
        .filter(|(_, kind)| kind.as_str() == "text")
        .filter_map(|(name, _)| counts.iter().find(|(known, _)| known == name))
        .map(|(name, count)| count.lengths(name))
        .collect();
    let columns = columns
        .into_iter()
        .map(|(name, kind)| ColumnDescription {
            name: name.to_owned(),
            kind: kind.as_str().to_owned(),
        })
        .collect();
    Ok(Inspection {
        rows: seen,
        columns,
        lengths,
        samples,
    })
}
