//! A table being written: parquet (zstd, row groups of 8192 rows) or JSON lines, by the name's ending.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chatlm_job::{AtomicFile, Code, Error, Result};
use polars::io::parquet::write::{BatchedWriter, ParquetCompression, ParquetWriter};
use polars::prelude::{Column, DataFrame, DataType, Schema, StatisticsOptions};
use serde_json::{Map, Value};

use crate::input::ending;

/// Rows in a row group: small enough to skip to a row cheaply, large enough to compress well.
pub(crate) const GROUP: usize = 8192;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Int64,
    Float64,
}

impl ColumnKind {
    /// The name users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
        }
    }
}

/// One value of a row being written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    Text(&'a str),
    Int64(i64),
    Float64(f64),
    Null,
}

/// The file under the writers of libraries: keeps its first error, whose kind they would lose.
#[derive(Clone)]
pub(crate) struct Sink(Arc<Mutex<SinkState>>);

struct SinkState {
    file: Option<AtomicFile>,
    error: Option<io::Error>,
}

impl Sink {
    pub(crate) fn new(file: AtomicFile) -> Self {
        Self(Arc::new(Mutex::new(SinkState {
            file: Some(file),
            error: None,
        })))
    }

    /// Syncs the file and puts it in place.
    pub(crate) fn commit(&self) -> Result<()> {
        let file = match self.0.lock() {
            Ok(mut state) => state.file.take(),
            Err(_) => None,
        };
        file.ok_or_else(|| Error::internal("the table was closed twice"))?
            .commit()
    }

    fn with<T>(&self, act: impl FnOnce(&mut AtomicFile) -> io::Result<T>) -> io::Result<T> {
        let mut state = self
            .0
            .lock()
            .map_err(|_| io::Error::other("the writer panicked"))?;
        let Some(file) = &mut state.file else {
            return Err(io::Error::other("already closed"));
        };
        act(file).inspect_err(|error| {
            if state.error.is_none() {
                state.error = Some(match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::from(error.kind()),
                });
            }
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(Write::flush)
    }
}

enum Kind {
    Parquet {
        writer: Box<BatchedWriter<Sink>>,
        columns: Vec<Values>,
    },
    JsonLines,
}

/// The values of a column that wait for their row group.
enum Values {
    Text(Vec<Option<String>>),
    Int64(Vec<Option<i64>>),
    Float64(Vec<Option<f64>>),
}

impl Values {
    fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Text => Self::Text(Vec::new()),
            ColumnKind::Int64 => Self::Int64(Vec::new()),
            ColumnKind::Float64 => Self::Float64(Vec::new()),
        }
    }

    fn push(&mut self, cell: &Cell<'_>) -> bool {
        match (self, cell) {
            (Self::Text(values), Cell::Text(text)) => values.push(Some((*text).to_owned())),
            (Self::Int64(values), Cell::Int64(value)) => values.push(Some(*value)),
            (Self::Float64(values), Cell::Float64(value)) => values.push(Some(*value)),
            (Self::Text(values), Cell::Null) => values.push(None),
            (Self::Int64(values), Cell::Null) => values.push(None),
            (Self::Float64(values), Cell::Null) => values.push(None),
            _ => return false,
        }
        true
    }

    fn take(&mut self, name: &str) -> Column {
        let name = name.into();
        match self {
            Self::Text(values) => Column::new(name, std::mem::take(values)),
            Self::Int64(values) => Column::new(name, std::mem::take(values)),
            Self::Float64(values) => Column::new(name, std::mem::take(values)),
        }
    }
}

/// `parquet` or `jsonl`, by the target's ending; anything else is wrong usage.
pub(crate) fn table_format(target: &Path) -> Result<String> {
    let format = ending(target);
    if !["parquet", "jsonl"].contains(&format.as_str()) {
        return Err(Error::new(
            Code::Usage,
            format!("{} is neither .parquet nor .jsonl", target.display()),
            "the ending of the output's name chooses its format: .parquet or .jsonl",
        )
        .with("file", target.display().to_string()));
    }
    Ok(format)
}

/// Writes a table beside its target and puts it in place at the end.
pub struct TableWriter {
    target: PathBuf,
    columns: Vec<(String, ColumnKind)>,
    sink: Sink,
    kind: Kind,
    waiting: usize,
    rows: u64,
}

impl TableWriter {
    /// Opens a table with these columns; `.parquet` or `.jsonl`, anything else is wrong usage.
    pub fn create(target: &Path, columns: &[(&str, ColumnKind)], force: bool) -> Result<Self> {
        let format = table_format(target)?;
        let file = AtomicFile::create(target, force)?;
        let sink = Sink::new(file);
        let kind = if format == "parquet" {
            let schema: Schema = columns
                .iter()
                .map(|(name, kind)| {
                    let kind = match kind {
                        ColumnKind::Text => DataType::String,
                        ColumnKind::Int64 => DataType::Int64,
                        ColumnKind::Float64 => DataType::Float64,
                    };
                    ((*name).into(), kind)
                })
                .collect();
            let writer = ParquetWriter::new(sink.clone())
                .with_compression(ParquetCompression::Zstd(None))
                .with_statistics(StatisticsOptions::empty())
                .batched(&schema)
                .map_err(|e| failure(&sink, target, &e))?;
            let columns = columns.iter().map(|(_, kind)| Values::new(*kind)).collect();
            Kind::Parquet {
                writer: Box::new(writer),
                columns,
            }
        } else {
            Kind::JsonLines
        };
        let columns = columns
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), *kind))
            .collect();
        Ok(Self {
            target: target.to_owned(),
            columns,
            sink,
            kind,
            waiting: 0,
            rows: 0,
        })
    }

    /// Adds a row: one cell a column, of the column's kind or null.
    pub fn push(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        if cells.len() != self.columns.len() {
            return Err(Error::internal(format!(
                "a row of {} cells for {} columns",
                cells.len(),
                self.columns.len()
            )));
        }
        match &mut self.kind {
            Kind::Parquet { columns, .. } => {
                for ((values, cell), (name, _)) in columns.iter_mut().zip(cells).zip(&self.columns)
                {
                    if !values.push(cell) {
                        return Err(Error::internal(format!("{cell:?} in the column {name:?}")));
                    }
                }
                self.waiting += 1;
            }
            Kind::JsonLines => {
                let fields: Map<String, Value> = self
                    .columns
                    .iter()
                    .zip(cells)
                    .map(|((name, _), cell)| (name.clone(), json(cell)))
                    .collect();
                let mut line = serde_json::to_vec(&fields).map_err(Error::internal)?;
                line.push(b'\n');
                self.sink
                    .write_all(&line)
                    .map_err(|e| Error::io(&e, "write", &self.target))?;
            }
        }
        self.rows += 1;
        if self.waiting >= GROUP {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Rows pushed so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn flush(&mut self) -> Result<()> {
        let Kind::Parquet { writer, columns } = &mut self.kind else {
            return Ok(());
        };
        if self.waiting == 0 {
            return Ok(());
        }
        let columns = columns
            .iter_mut()
            .zip(&self.columns)
            .map(|(v, (name, _))| v.take(name))
            .collect();
        DataFrame::new(self.waiting, columns)
            .and_then(|frame| writer.write_batch(&frame))
            .map_err(|e| failure(&self.sink, &self.target, &e))?;
        self.waiting = 0;
        Ok(())
    }

    /// Writes what waits, syncs, puts the table in place; the number of rows.
    pub fn finish(mut self) -> Result<u64> {
        self.flush()?;
        let Self {
            target,
            sink,
            kind,
            rows,
            ..
        } = self;
        if let Kind::Parquet { writer, .. } = kind {
            writer.finish().map_err(|e| failure(&sink, &target, &e))?;
        }
        sink.commit()?;
        Ok(rows)
    }
}

fn json(cell: &Cell<'_>) -> Value {
    match cell {
        Cell::Text(text) => Value::String((*text).to_owned()),
        Cell::Int64(value) => Value::from(*value),
        Cell::Float64(value) => Value::from(*value),
        Cell::Null => Value::Null,
    }
}

/// The system's own error where there was one: polars would hide that the disk is full.
pub(crate) fn failure(sink: &Sink, target: &Path, error: &polars::prelude::PolarsError) -> Error {
    match sink.0.lock().ok().and_then(|mut state| state.error.take()) {
        Some(error) => Error::io(&error, "write", target),
        None => Error::internal(format!("cannot write {}: {error}", target.display())),
    }
}
