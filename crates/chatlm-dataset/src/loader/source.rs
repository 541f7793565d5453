//! The rows of all sets by index: parquet read by slices, everything else held in memory.

use std::path::Path;
use std::sync::Arc;

use chatlm_job::{Cancel, Result};

use super::SetSpec;
use crate::input::{InputOptions, Opened, expand, open};
use crate::parquet::{ParquetTable, texts};
use crate::rows::{Rows, row_error};

/// What the loader takes from a row.
#[derive(Debug)]
pub(crate) struct Record {
    /// Counted over all sets.
    pub(crate) index: u64,
    /// One text a column, or what is wrong with the row.
    pub(crate) texts: Result<Vec<String>>,
}

enum Kind {
    Parquet(ParquetTable),
    Memory(Vec<Vec<String>>),
}

struct SourceFile {
    name: Arc<str>,
    /// The first row's index over all sets, and its number over the inputs of its set.
    first: u64,
    number: u64,
    rows: u64,
    kind: Kind,
}

pub(crate) struct Source {
    files: Vec<SourceFile>,
    columns: Vec<String>,
    /// Rows of each set.
    pub(crate) sets: Vec<u64>,
}

/// What makes a text unfit, if anything.
fn fault(file: &str, row: u64, column: &str, text: Option<&str>) -> Result<()> {
    let what = match text {
        None => "is null",
        Some("") => "is empty",
        Some(_) => return Ok(()),
    };
    Err(row_error(file, row, &format!("the field {column:?} {what}")).with("field", column))
}

impl Source {
    pub(crate) fn open(sets: &[SetSpec], columns: &[String], cancel: &Cancel) -> Result<Self> {
        let mut source = Self {
            files: Vec::new(),
            columns: columns.to_vec(),
            sets: Vec::new(),
        };
        let mut first = 0;
        for set in sets {
            let start = first;
            for path in expand(&set.paths)? {
                cancel.check()?;
                let file = source.open_file(&path, first, first - start, cancel)?;
                first += file.rows;
                source.files.push(file);
            }
            source.sets.push(first - start);
        }
        Ok(source)
    }

    fn open_file(
        &self,
        path: &Path,
        first: u64,
        number: u64,
        cancel: &Cancel,
    ) -> Result<SourceFile> {
        let name: Arc<str> = path.display().to_string().into();
        let options = InputOptions::default();
        // Standard input is opened once, by the rows; looking at it here would use it up.
        let stdin = path.as_os_str() == "-";
        let opened = if stdin {
            None
        } else {
            Some(open(path, &options, Arc::default())?)
        };
        if let Some(Opened::Parquet(bytes)) = opened {
            let table = ParquetTable::open(path, bytes)?;
            for column in &self.columns {
                if !table.columns.iter().any(|(known, _)| known == column) {
                    let there: Vec<&str> = table.columns.iter().map(|(n, _)| n.as_str()).collect();
                    let what = format!("there is no field {column:?}; it has {}", there.join(", "));
                    return Err(row_error(&name, number, &what).with("field", column.as_str()));
                }
            }
            return Ok(SourceFile {
                name,
                first,
                number,
                rows: table.rows,
                kind: Kind::Parquet(table),
            });
        }
        drop(opened);
        let mut held = Vec::new();
        for row in Rows::of(vec![path.to_owned()], &options).counted_from(number) {
            let row = row?;
            if held.len() % 1024 == 0 {
                cancel.check()?;
            }
            let mut texts = Vec::with_capacity(self.columns.len());
            for column in &self.columns {
                let text = row.text(column)?;
                fault(&name, row.row, column, Some(text))?;
                texts.push(text.to_owned());
            }
            held.push(texts);
        }
        Ok(SourceFile {
            name,
            first,
            number,
            rows: held.len() as u64,
            kind: Kind::Memory(held),
        })
    }

    /// The rows with these indices, which rise and lie near each other.
    pub(crate) fn read(&self, indices: &[u64]) -> Result<Vec<Record>> {
        let mut records = Vec::with_capacity(indices.len());
        let mut rest = indices;
        while let Some(index) = rest.first() {
            let place = self
                .files
                .partition_point(|file| file.first + file.rows <= *index);
            let Some(file) = self.files.get(place) else {
                return Err(chatlm_job::Error::internal(format!(
                    "there is no row {index}"
                )));
            };
            let here = rest.partition_point(|index| *index < file.first + file.rows);
            file.read(&rest[..here], &self.columns, &mut records)?;
            rest = &rest[here..];
        }
        Ok(records)
    }
}

impl SourceFile {
    fn read(&self, indices: &[u64], columns: &[String], records: &mut Vec<Record>) -> Result<()> {
        let (Some(lowest), Some(highest)) = (indices.first(), indices.last()) else {
            return Ok(());
        };
        let table = match &self.kind {
            Kind::Memory(rows) => {
                records.extend(indices.iter().map(|index| Record {
                    index: *index,
                    texts: Ok(rows[(index - self.first) as usize].clone()),
                }));
                return Ok(());
            }
            Kind::Parquet(table) => table,
        };
        let start = lowest - self.first;
        let frame = table.slice(start, highest - lowest + 1, Some(columns))?;
        let mut read = Vec::with_capacity(columns.len());
        for column in columns {
            let there = frame
                .column(column)
                .map_err(|e| e.to_string())
                .and_then(texts);
            read.push(there.map_err(|what| {
                let what = format!("the field {column:?} {what}");
                row_error(&self.name, self.number + start, &what).with("field", column.as_str())
            })?);
        }
        for index in indices {
            let row = self.number + index - self.first;
            let texts = read.iter_mut().zip(columns).map(|(texts, column)| {
                let text = texts
                    .get_mut((index - lowest) as usize)
                    .and_then(Option::take);
                fault(&self.name, row, column, text.as_deref())?;
                Ok(text.unwrap_or_default())
            });
            let texts = texts.collect();
            records.push(Record {
                index: *index,
                texts,
            });
        }
        Ok(())
    }
}
