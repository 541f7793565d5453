//! Rows handed to another language and taken back from it: many at a time as JSON text, which costs far
//! less than one call a row or a field.
//!
//! What the rows mean is left to whoever asks; here they keep their file, number and order.

use std::path::{Path, PathBuf};

use chatlm_job::{Cancel, Code, Error, Result};
use serde_json::{Map, Value, json};

use crate::input::InputOptions;
use crate::rows::{Fields, Rows};
use crate::table::{Cells, Schema};
use crate::writer::{ColumnKind, TableWriter};

/// Characters of a batch from which no row is added: long rows come in smaller batches.
const ENOUGH: usize = 4 << 20;

/// The rows of all inputs, a batch at a time.
pub struct RowBatches {
    rows: Rows,
    columns: Option<Vec<String>>,
    cancel: Cancel,
}

impl RowBatches {
    /// With `columns` only these fields are handed over, and a row that lacks one is an error.
    pub fn open(
        paths: &[String],
        options: &InputOptions,
        columns: Option<Vec<String>>,
        cancel: Cancel,
    ) -> Result<Self> {
        Ok(Self {
            rows: Rows::open(paths, options)?,
            columns,
            cancel,
        })
    }

    /// Up to `count` rows as a JSON list of `{"file", "row", "fields"}`; `[]` is the end. Fails with
    /// `CANCELLED` within a row once the cancel flag is set.
    pub fn next(&mut self, count: usize) -> Result<String> {
        let mut batch = String::from("[");
        for _ in 0..count {
            self.cancel.check()?;
            let Some(row) = self.rows.next() else { break };
            let mut row = row?;
            if let Some(columns) = &self.columns {
                row.fields = chosen(columns, &row.fields).map_err(|name| {
                    let there: Vec<&str> = row.fields.keys().map(String::as_str).collect();
                    let there = if there.is_empty() {
                        "none".to_owned()
                    } else {
                        there.join(", ")
                    };
                    row.error(name, &format!("there is no field {name:?}; it has {there}"))
                })?;
            }
            if batch.len() > 1 {
                batch.push(',');
            }
            let value = json!({ "file": &*row.file, "row": row.row, "fields": row.fields });
            batch.push_str(&value.to_string());
            if batch.len() >= ENOUGH {
                break;
            }
        }
        batch.push(']');
        Ok(batch)
    }

    /// Rows skipped because they could not be read (`keep_going`).
    pub fn broken(&self) -> u64 {
        self.rows.broken()
    }
}

/// The fields of these names in their order, or the first name that is not there.
fn chosen<'a>(columns: &'a [String], fields: &Fields) -> Result<Fields, &'a str> {
    columns
        .iter()
        .map(|name| match fields.get(name) {
            Some(value) => Ok((name.clone(), value.clone())),
            None => Err(name.as_str()),
        })
        .collect()
}

/// Writes rows given as JSON into a table, which is put in place at the end or not at all.
pub struct RowTable {
    target: PathBuf,
    force: bool,
    columns: Option<Vec<(String, ColumnKind)>>,
    table: Option<TableWriter>,
    rows: u64,
}

impl RowTable {
    /// Without `columns` they are those of the first batch, with kinds that hold all its values.
    pub fn create(
        target: &Path,
        columns: Option<Vec<(String, ColumnKind)>>,
        force: bool,
    ) -> Result<Self> {
        let mut made = Self {
            target: target.to_owned(),
            force,
            columns,
            table: None,
            rows: 0,
        };
        if made.columns.is_some() {
            made.begin()?;
        } else {
            // A target that may not be replaced is told before any work, not after the first batch.
            chatlm_job::check_target(target, force)?;
        }
        Ok(made)
    }

    fn begin(&mut self) -> Result<&mut TableWriter> {
        let columns = self.columns.get_or_insert_default();
        let named: Vec<(&str, ColumnKind)> =
            columns.iter().map(|(n, k)| (n.as_str(), *k)).collect();
        let table = TableWriter::create(&self.target, &named, self.force)?;
        Ok(self.table.insert(table))
    }

    /// Adds the rows of a JSON list of objects; a field that a row lacks is null.
    pub fn write(&mut self, batch: &str) -> Result<()> {
        let rows: Vec<Map<String, Value>> =
            serde_json::from_str(batch).map_err(|e| self.error(&format!("no object: {e}")))?;
        if rows.is_empty() {
            return Ok(());
        }
        if self.columns.is_none() {
            let mut schema = Schema::default();
            for fields in &rows {
                schema.add_row(fields);
            }
            let columns = schema.columns();
            self.columns = Some(
                columns
                    .into_iter()
                    .map(|(n, k)| (n.to_owned(), k))
                    .collect(),
            );
        }
        if self.table.is_none() {
            self.begin()?;
        }
        for mut fields in rows {
            self.check(&fields)?;
            let columns = self.columns.as_deref().unwrap_or_default();
            let named: Vec<(&str, ColumnKind)> =
                columns.iter().map(|(n, k)| (n.as_str(), *k)).collect();
            let cells = Cells::new(&mut fields, &named);
            if let Some(table) = &mut self.table {
                table.push(&cells.cells())?;
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// Whether every value has a column that can hold it.
    fn check(&self, fields: &Fields) -> Result<()> {
        let columns = self.columns.as_deref().unwrap_or_default();
        for (name, value) in fields {
            let Some((_, kind)) = columns.iter().find(|(known, _)| known == name) else {
                let there: Vec<&str> = columns.iter().map(|(n, _)| n.as_str()).collect();
                let what = format!(
                    "the field {name:?} has no column; there are {}",
                    there.join(", ")
                );
                return Err(self.error(&what).with("field", name.as_str()));
            };
            let fits = match kind {
                ColumnKind::Text => true,
                ColumnKind::Int64 => value.is_null() || value.is_i64(),
                ColumnKind::Float64 => value.is_null() || value.is_number(),
            };
            if !fits {
                let kind = if *kind == ColumnKind::Int64 {
                    "whole numbers"
                } else {
                    "numbers"
                };
                let what = format!("the column {name:?} holds {kind}, not {value}");
                return Err(self.error(&what).with("field", name.as_str()));
            }
        }
        Ok(())
    }

    fn error(&self, what: &str) -> Error {
        let row = self.rows;
        Error::new(
            Code::InputRow,
            format!("row {row} for {}: {what}", self.target.display()),
            "name the columns and their kinds, or give every row the same fields",
        )
        .with("file", self.target.display().to_string())
        .with("row", row)
    }

    /// Puts the table in place; the number of rows.
    pub fn finish(mut self) -> Result<u64> {
        if self.table.is_none() {
            self.begin()?;
        }
        self.table.take().map_or(Ok(0), TableWriter::finish)
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
