//! Parquet through polars: the columns of a file, and any slice of its rows.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_job::{Code, Error, Result};
use polars::io::mmap::MmapBytesReader;
use polars::prelude::{
    AnyValue, Column, DataFrame, DataType, ParallelStrategy, ParquetReader, PolarsResult, SerReader,
};
use serde_json::{Map, Number, Value};

use crate::columns::{Chunk, ColumnFile, Piece};
use crate::input::{InputOptions, ParquetBytes};
use crate::rows::{Fault, Fields, row_error};
use crate::writer::ColumnKind;

type Metadata = polars::io::parquet::metadata::FileMetadataRef;

/// Unpacked bytes that are turned into values at a time.
const PIECE: u64 = 8 << 20;

/// Rows turned into values at a time, where the whole file is in memory.
const SLICE: u64 = 4096;

/// An open parquet file.
pub(crate) struct ParquetTable {
    path: PathBuf,
    content: Content,
    largest_group: u64,
    pub(crate) rows: u64,
    pub(crate) columns: Vec<(String, ColumnKind)>,
}

enum Content {
    /// Read by position, a row group at a time.
    File {
        file: ColumnFile,
        groups: Vec<Piece>,
    },
    /// Standard input.
    Memory {
        bytes: ParquetBytes,
        metadata: Metadata,
    },
}

impl ParquetTable {
    pub(crate) fn open(path: &Path, bytes: ParquetBytes) -> Result<Self> {
        check_end(path, &bytes)?;
        let (metadata, rows, schema) = guarded(path, || {
            let mut reader = reader(&bytes)?;
            let schema = reader.schema()?;
            Ok((
                reader.get_metadata()?.clone(),
                reader.num_rows()? as u64,
                schema,
            ))
        })?;
        let columns = schema
            .iter_values()
            .map(|field| {
                let kind = match DataType::from_arrow_field(field) {
                    DataType::Float32 | DataType::Float64 => ColumnKind::Float64,
                    kind if kind.is_integer() => ColumnKind::Int64,
                    _ => ColumnKind::Text,
                };
                (field.name.to_string(), kind)
            })
            .collect();
        let sizes = metadata.row_groups.iter();
        let largest_group = sizes.map(|group| group.total_byte_size() as u64).max();
        let file = match &bytes {
            ParquetBytes::File(_) => ColumnFile::open(path, &InputOptions::default())?,
            ParquetBytes::Memory(_) => None,
        };
        let content = match file {
            Some(file) => Content::File {
                groups: file.pieces(u64::MAX),
                file,
            },
            None => Content::Memory { bytes, metadata },
        };
        Ok(Self {
            path: path.to_owned(),
            content,
            largest_group: largest_group.unwrap_or(0),
            rows,
            columns,
        })
    }

    /// Reads `count` rows from `start` on; only `columns` where given.
    pub(crate) fn slice(
        &self,
        start: u64,
        count: u64,
        columns: Option<&[String]>,
    ) -> Result<DataFrame> {
        match &self.content {
            Content::File { file, groups } => {
                let names: Option<Vec<&str>> =
                    columns.map(|c| c.iter().map(String::as_str).collect());
                let end = start + count;
                let mut frame: Option<Chunk> = None;
                let begin = groups.partition_point(|g| g.first + g.rows as u64 <= start);
                for group in groups[begin..].iter().take_while(|g| g.first < end) {
                    let mut piece = group.after(start.saturating_sub(group.first) as usize);
                    piece.rows = piece.rows.min((end - piece.first) as usize);
                    let read = file.read(&piece, names.as_deref())?;
                    match &mut frame {
                        None => frame = Some(read),
                        Some(frame) => frame.append(&read)?,
                    }
                }
                Ok(frame.unwrap_or_else(|| file.empty()).0)
            }
            Content::Memory { bytes, metadata } => guarded(&self.path, || {
                let mut reader = reader(bytes)?;
                reader.set_metadata(metadata.clone());
                reader
                    .with_slice(Some((start as usize, count as usize)))
                    .with_columns(columns.map(<[String]>::to_vec))
                    .read_parallel(ParallelStrategy::None)
                    .set_rechunk(true)
                    .finish()
            }),
        }
    }

    /// Bytes of the largest row group, unpacked.
    pub(crate) fn largest_group(&self) -> u64 {
        self.largest_group
    }

    /// `count` rows of text columns from `start` on, column by column; `None` where there is a null.
    /// `number` is that of the file's first row, for errors.
    pub(crate) fn texts(
        &self,
        start: u64,
        count: u64,
        columns: &[String],
        number: u64,
    ) -> Result<Vec<Vec<Option<String>>>> {
        let frame = self.slice(start, count, Some(columns))?;
        let column = |name: &String| {
            let there = frame.column(name).map_err(|e| e.to_string());
            there.and_then(texts).map_err(|what| {
                let file = self.path.display().to_string();
                let what = format!("the field {name:?} {what}");
                row_error(&file, number + start, &what).with("field", name.as_str())
            })
        };
        columns.iter().map(column).collect()
    }

    /// Rows that are read together: starts and counts of about [`PIECE`] bytes, not across row groups.
    fn pieces(&self) -> Vec<(u64, u64)> {
        match &self.content {
            Content::File { file, .. } => {
                let pieces = file.pieces(PIECE).into_iter();
                pieces
                    .map(|piece| (piece.first, piece.rows as u64))
                    .collect()
            }
            Content::Memory { .. } => (0..self.rows)
                .step_by(SLICE as usize)
                .map(|start| (start, SLICE.min(self.rows - start)))
                .collect(),
        }
    }

    /// All rows, in pieces of constant memory. What cannot be read is one fault a piece, and the rows
    /// behind it come.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = Result<Fields, Fault>> + Send {
        let mut pieces = self.pieces().into_iter();
        let mut piece: std::vec::IntoIter<Fields> = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(fields) = piece.next() {
                    return Some(Ok(fields));
                }
                let (start, count) = pieces.next()?;
                let read = self.slice(start, count, None);
                match read.and_then(|frame| values(&self.path, &frame)) {
                    Ok(rows) if rows.len() as u64 == count => piece = rows.into_iter(),
                    Ok(_) => {
                        let error = format_error(&self.path, "it holds fewer rows than it says");
                        return Some(Err(Fault::Rows(error, count)));
                    }
                    Err(error) => return Some(Err(Fault::Rows(error, count))),
                }
            }
        })
    }
}

pub(crate) fn reader(
    bytes: &ParquetBytes,
) -> PolarsResult<ParquetReader<Box<dyn MmapBytesReader>>> {
    let source: Box<dyn MmapBytesReader> = match bytes {
        ParquetBytes::File(file) => Box::new(file.try_clone()?),
        ParquetBytes::Memory(bytes) => Box::new(Cursor::new(Arc::clone(bytes))),
    };
    Ok(ParquetReader::new(source))
}

pub(crate) fn format_error(path: &Path, what: &str) -> Error {
    Error::new(
        Code::InputFormat,
        format!("{} is not a readable parquet file: {what}", path.display()),
        "the file is broken or was cut off: make or fetch it again",
    )
    .with("file", path.display().to_string())
}

/// A file that was cut off is told before polars sees it.
pub(crate) fn check_end(path: &Path, bytes: &ParquetBytes) -> Result<()> {
    let mut end = [0u8; 4];
    let whole = match bytes {
        ParquetBytes::File(file) => {
            let mut file = file;
            let size = file
                .seek(SeekFrom::End(0))
                .map_err(|e| Error::io(&e, "read", path))?;
            size >= 12
                && file.seek(SeekFrom::End(-4)).is_ok()
                && file.read_exact(&mut end).is_ok()
                && file.seek(SeekFrom::Start(0)).is_ok()
        }
        ParquetBytes::Memory(bytes) => {
            bytes.len() >= 12 && {
                end.copy_from_slice(&bytes[bytes.len() - 4..]);
                true
            }
        }
    };
    if whole && &end == b"PAR1" {
        Ok(())
    } else {
        Err(format_error(path, "its end is missing, it was cut off"))
    }
}

/// polars panics on some damaged files; a reader's panic is the file's fault, not the program's.
pub(crate) fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format_error(path, &error.to_string())),
        Err(_) => Err(format_error(path, "its pages are damaged")),
    }
}

/// The rows of a frame.
fn values(path: &Path, frame: &DataFrame) -> Result<Vec<Fields>> {
    let mut rows = vec![Map::with_capacity(frame.width()); frame.height()];
    for column in frame.columns() {
        for (place, fields) in rows.iter_mut().enumerate() {
            let value = column
                .get(place)
                .map_err(|e| format_error(path, &e.to_string()))?;
            fields.insert(column.name().to_string(), json(&value));
        }
    }
    Ok(rows)
}

/// A text column as strings; `None` where it is null; an error text where it holds no text.
pub(crate) fn texts(column: &Column) -> Result<Vec<Option<String>>, String> {
    if let Ok(strings) = column.str() {
        return Ok(strings.iter().map(|text| text.map(str::to_owned)).collect());
    }
    (0..column.len())
        .map(|place| match column.get(place) {
            Ok(AnyValue::Null) => Ok(None),
            Ok(AnyValue::String(text)) => Ok(Some(text.to_owned())),
            Ok(AnyValue::StringOwned(text)) => Ok(Some(text.to_string())),
            Ok(AnyValue::Binary(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err("holds bytes, not text".to_owned()),
            },
            _ => Err(format!("holds {}, not text", column.dtype())),
        })
        .collect()
}

pub(crate) fn json(value: &AnyValue<'_>) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(value) => Value::Bool(*value),
        AnyValue::String(text) => Value::String((*text).to_owned()),
        AnyValue::StringOwned(text) => Value::String(text.to_string()),
        AnyValue::Binary(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => Value::Array(bytes.iter().map(|byte| Value::from(*byte)).collect()),
        },
        AnyValue::Float32(value) => number(f64::from(*value)),
        AnyValue::Float64(value) => number(*value),
        AnyValue::UInt64(value) => Value::from(*value),
        AnyValue::List(items) => Value::Array(items.iter().map(|item| json(&item)).collect()),
        other if other.is_integer() => other.extract::<i64>().map_or(Value::Null, Value::from),
        other => Value::String(other.to_string()),
    }
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
