//! Rows of any number of files as one stream, each with the file and number that errors name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chatlm_job::{Code, Error, Result};
use serde_json::{Map, Value};

use crate::input::{InputOptions, Layout, Opened, expand, open};
use crate::parquet::ParquetTable;
use crate::{json, lines, mended, separated};

/// One row: its fields by name, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub file: Arc<str>,
    /// Counted from 0 over all inputs as given; broken rows count too.
    pub row: u64,
    pub fields: Map<String, Value>,
}

impl Row {
    /// The text of a field; anything else is an error that names file, row, field and what there is.
    pub fn text(&self, field: &str) -> Result<&str> {
        match self.fields.get(field) {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Null) => Err(self.error(field, &format!("the field {field:?} is null"))),
            Some(other) => Err(self.error(
                field,
                &format!("the field {field:?} is {}, not text", kind(other)),
            )),
            None => {
                let columns: Vec<&str> = self.fields.keys().map(String::as_str).collect();
                let there = if columns.is_empty() {
                    "it has none".to_owned()
                } else {
                    format!("it has {}", columns.join(", "))
                };
                Err(self.error(field, &format!("there is no field {field:?}; {there}")))
            }
        }
    }

    /// An `INPUT_ROW` error about this row.
    pub fn error(&self, field: &str, what: &str) -> Error {
        row_error(&self.file, self.row, what).with("field", field)
    }
}

pub(crate) fn row_error(file: &str, row: u64, what: &str) -> Error {
    Error::new(
        Code::InputRow,
        format!("{file}, row {row}: {what}"),
        "mend or remove the row, or name the right column; --keep-going skips rows that cannot be read",
    )
    .with("file", file)
    .with("row", row)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Why a file's next row could not be had.
pub(crate) enum Fault {
    /// This row is broken, the next may be fine.
    Row(String),
    /// So many rows are lost, those behind them may be fine.
    Rows(Error, u64),
    /// Nothing more can be read.
    File(Error),
}

pub(crate) type Fields = Map<String, Value>;
pub(crate) type FileRows = Box<dyn Iterator<Item = Result<Fields, Fault>> + Send>;

/// The rows of all inputs, one after another, in constant memory.
pub struct Rows {
    files: std::vec::IntoIter<PathBuf>,
    options: InputOptions,
    ragged: bool,
    mending: bool,
    mended: Arc<AtomicU64>,
    file: Arc<str>,
    current: Option<FileRows>,
    row: u64,
    broken: u64,
    replaced: Arc<AtomicU64>,
    stopped: bool,
}

impl Rows {
    /// Finds the files; each is opened when its turn comes.
    pub fn open(paths: &[String], options: &InputOptions) -> Result<Self> {
        Ok(Self::of(expand(paths)?, options))
    }

    /// The rows of files that are known already.
    pub(crate) fn of(files: Vec<PathBuf>, options: &InputOptions) -> Self {
        Self {
            files: files.into_iter(),
            options: options.clone(),
            ragged: false,
            mending: false,
            mended: Arc::default(),
            file: Arc::from(""),
            current: None,
            row: 0,
            broken: 0,
            replaced: Arc::default(),
            stopped: false,
        }
    }

    /// Numbers the rows from `row` on: for one file of several.
    pub(crate) fn counted_from(mut self, row: u64) -> Self {
        self.row = row;
        self
    }

    /// Takes csv rows with too few fields (the rest is absent) or too many (named `column5`, …)
    /// instead of calling them broken.
    #[must_use]
    pub fn ragged(mut self, ragged: bool) -> Self {
        self.ragged = ragged;
        self
    }

    /// Takes a csv quote that is never properly closed for a plain sign instead of calling its row
    /// broken.
    #[must_use]
    pub fn mending(mut self, mending: bool) -> Self {
        self.mending = mending;
        self
    }

    /// Csv rows whose broken quote was taken for a plain sign (`mending`).
    pub fn mended(&self) -> u64 {
        self.mended.load(Ordering::Relaxed)
    }

    /// Rows skipped because they could not be read (`keep_going`); a file that is none counts as one.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Byte sequences that were no text in the file's encoding and became U+FFFD.
    pub fn undecodable(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    fn begin(&mut self, path: &Path) -> Result<()> {
        self.file = Arc::from(path.display().to_string());
        self.current = Some(match open(path, &self.options, self.replaced.clone())? {
            Opened::Parquet(bytes) => Box::new(ParquetTable::open(path, bytes)?.into_rows()),
            Opened::Text {
                layout: Layout::JsonLines,
                reader,
            } => Box::new(json::lines(path, reader)),
            Opened::Text {
                layout: Layout::Json,
                reader,
            } => Box::new(json::values(path, reader)),
            Opened::Text {
                layout: Layout::Lines,
                reader,
            } => Box::new(lines::lines(path, reader)),
            Opened::Text {
                layout: Layout::Separated(separator),
                reader,
            } if self.mending => {
                mended::rows(path, reader, separator, self.ragged, self.mended.clone())?
            }
            Opened::Text {
                layout: Layout::Separated(separator),
                reader,
            } => separated::rows(path, reader, separator, self.ragged)?,
        });
        Ok(())
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.stopped {
            let Some(current) = &mut self.current else {
                let path = self.files.next()?;
                if let Err(error) = self.begin(&path) {
                    if self.options.keep_going && error.code() == Code::InputFormat {
                        self.broken += 1;
                        continue;
                    }
                    self.stopped = true;
                    return Some(Err(error));
                }
                continue;
            };
            let Some(next) = current.next() else {
                self.current = None;
                continue;
            };
            let row = self.row;
            self.row += 1;
            match next {
                Ok(fields) => {
                    return Some(Ok(Row {
                        file: self.file.clone(),
                        row,
                        fields,
                    }));
                }
                Err(Fault::Row(_)) if self.options.keep_going => self.broken += 1,
                Err(Fault::Row(what)) => {
                    self.stopped = true;
                    return Some(Err(row_error(&self.file, row, &what)));
                }
                Err(Fault::Rows(_, count)) if self.options.keep_going => {
                    self.row = row + count;
                    self.broken += count;
                }
                Err(Fault::Rows(error, _) | Fault::File(error)) => {
                    self.stopped = true;
                    return Some(Err(error.with("row", row)));
                }
            }
        }
        None
    }
}
