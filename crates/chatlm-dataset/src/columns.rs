//! Parquet by columns: pieces of row groups as whole columns, read by position into memory that lasts as
//! long as the piece: what a process holds is what it asked for. Only where a row group is cut into
//! pieces is the file mapped, for the time of one piece, so that the pages before it are passed over.
//!
//! Leaves which pieces are read when, and by how many threads, to the caller.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_job::{Error, Result};
use polars::io::mmap::ReaderBytes;
use polars::prelude::{
    ArrowField, BooleanChunked, Column, DataFrame, DataType, NewChunkedArray, PolarsError,
    PolarsResult, Series,
};
use polars_buffer::Buffer;
use polars_parquet::read::{BasicDecompressor, Filter, PageReader, column_iter_to_arrays};

use crate::input::{InputOptions, Opened, ParquetBytes, open};
use crate::parquet::{check_end, guarded, reader, texts};
use crate::rows::row_error;

type Metadata = polars::io::parquet::metadata::FileMetadataRef;

/// A parquet file that is read piece by piece, by any number of threads.
pub struct ColumnFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    fields: Vec<ArrowField>,
    rows: u64,
}

/// Consecutive rows of one row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    group: usize,
    start: usize,
    /// The place of its first row in the file.
    pub first: u64,
    pub rows: usize,
    /// Part of a row group.
    cut: bool,
}

impl Piece {
    /// Without its first rows.
    #[must_use]
    pub fn after(&self, rows: usize) -> Self {
        Self {
            group: self.group,
            start: self.start + rows,
            first: self.first + rows as u64,
            rows: self.rows - rows,
            cut: self.cut || rows > 0,
        }
    }
}

impl ColumnFile {
    /// `None` where the file is not parquet.
    pub fn open(path: &Path, options: &InputOptions) -> Result<Option<Self>> {
        let bytes = match open(path, options, Arc::default())? {
            Opened::Parquet(bytes) => bytes,
            Opened::Text { .. } => return Ok(None),
        };
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
        let ParquetBytes::File(file) = bytes else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            metadata,
            fields: schema.iter_values().cloned().collect(),
            rows,
        }))
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// No rows of its columns.
    pub fn empty(&self) -> Chunk {
        let column = |field: &ArrowField| {
            Series::new_empty(field.name.clone(), &DataType::from_arrow_field(field)).into()
        };
        Chunk(
            DataFrame::new_infer_height(self.fields.iter().map(column).collect())
                .unwrap_or_default(),
        )
    }

    /// Whether its columns have the names, order and types of the other's.
    pub fn same_columns(&self, other: &Self) -> bool {
        let plain = |field: &ArrowField| (field.name.clone(), DataType::from_arrow_field(field));
        self.fields.len() == other.fields.len()
            && (self.fields.iter().map(plain)).eq(other.fields.iter().map(plain))
    }

    /// All rows in order, in pieces of about `bytes` uncompressed bytes at most; a row group is cut
    /// only where it is larger.
    pub fn pieces(&self, bytes: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut first = 0;
        for (group, metadata) in self.metadata.row_groups.iter().enumerate() {
            let rows = metadata.num_rows();
            let size = metadata.total_byte_size() as u64;
            let cuts = size.div_ceil(bytes.max(1)).clamp(1, rows.max(1) as u64) as usize;
            let each = rows.div_ceil(cuts).max(1);
            for start in (0..rows).step_by(each) {
                pieces.push(Piece {
                    group,
                    start,
                    first: first + start as u64,
                    rows: each.min(rows - start),
                    cut: cuts > 1,
                });
            }
            first += rows as u64;
        }
        pieces
    }

    /// Reads a piece; only `columns` where given, those that the file has.
    pub fn read(&self, piece: &Piece, columns: Option<&[&str]>) -> Result<Chunk> {
        let wanted = |field: &&ArrowField| columns.is_none_or(|c| c.contains(&&*field.name));
        let map = piece.cut.then(|| self.map()).transpose()?;
        let columns = self.fields.iter().filter(wanted).map(|field| {
            let group = &self.metadata.row_groups[piece.group];
            let Some(parts) = group.columns_under_root_iter(&field.name) else {
                return Ok(Column::full_null(
                    field.name.clone(),
                    piece.rows,
                    &DataType::from_arrow_field(field),
                ));
            };
            let (mut pages, mut types) = (Vec::new(), Vec::new());
            for part in parts {
                let bytes = self.bytes(part.byte_range(), map.as_ref())?;
                let reader = PageReader::new(io::Cursor::new(bytes), part, Vec::new(), usize::MAX);
                pages.push(BasicDecompressor::new(reader, Vec::new()));
                types.push(&part.descriptor().descriptor.primitive_type);
            }
            let rows = Filter::new_ranged(piece.start, piece.start + piece.rows);
            let (arrays, _) = column_iter_to_arrays(pages, types, field.clone(), Some(rows))?;
            Ok(Series::try_from((field, arrays))?.into())
        });
        let frame = guarded(&self.path, || {
            let columns = columns.collect::<PolarsResult<Vec<Column>>>()?;
            DataFrame::new(piece.rows, columns)
        })?;
        Ok(Chunk(frame))
    }

    fn bytes(&self, range: Range<u64>, map: Option<&Buffer<u8>>) -> PolarsResult<Buffer<u8>> {
        let (start, end) = (range.start as usize, range.end as usize);
        if let Some(map) = map {
            if start > end || end > map.len() {
                return Err(polars_err("a column lies beyond the end"));
            }
            return Ok(map.clone().sliced(start..end));
        }
        // A damaged footer may claim more than any memory holds.
        let there = self.file.metadata().map_or(0, |metadata| metadata.len());
        if range.start > range.end || range.end > there {
            return Err(polars_err("a column lies beyond the end"));
        }
        let mut bytes = vec![0; end - start];
        read_exact_at(&self.file, &mut bytes, range.start)
            .map_err(|e| polars_err(&e.to_string()))?;
        Ok(Buffer::from_vec(bytes))
    }

    fn map(&self) -> Result<Buffer<u8>> {
        let file = self.file.try_clone();
        let mut file = file.map_err(|e| Error::io(&e, "read", &self.path))?;
        Ok(match ReaderBytes::from(&mut file) {
            ReaderBytes::Owned(bytes) => bytes,
            ReaderBytes::Borrowed(bytes) => Buffer::from_vec(bytes.to_vec()),
        })
    }

    /// The texts of a column of a chunk; where a row has none, the error about it. `first` is the row
    /// number of the chunk's first row over all inputs.
    pub fn texts<'a>(&self, chunk: &'a Chunk, column: &str, first: u64) -> Result<Texts<'a>> {
        let file: Arc<str> = self.path.display().to_string().into();
        let missing = |row: u64, what: String| row_error(&file, row, &what).with("field", column);
        let Ok(found) = chunk.0.column(column) else {
            let names: Vec<&str> = self.fields.iter().map(|f| f.name.as_str()).collect();
            let what = format!("there is no field {column:?}; it has {}", names.join(", "));
            return Err(missing(first, what));
        };
        let values = match found.str() {
            Ok(strings) => Values::Plain(strings),
            Err(_) => Values::Made(
                texts(found)
                    .map_err(|what| missing(first, format!("the field {column:?} {what}")))?,
            ),
        };
        Ok(Texts {
            values,
            file,
            column: column.to_owned(),
            first,
        })
    }
}

fn polars_err(what: &str) -> PolarsError {
    PolarsError::ComputeError(what.to_owned().into())
}

enum Values<'a> {
    Plain(&'a polars::prelude::StringChunked),
    Made(Vec<Option<String>>),
}

/// One text column of a chunk.
pub struct Texts<'a> {
    values: Values<'a>,
    file: Arc<str>,
    column: String,
    first: u64,
}

impl Texts<'_> {
    /// The texts in order; `None` where it is null.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Option<&str>> + '_> {
        match &self.values {
            Values::Plain(strings) => Box::new(strings.iter()),
            Values::Made(strings) => Box::new(strings.iter().map(Option::as_deref)),
        }
    }

    /// What is wrong with a row whose text is null.
    pub fn null_error(&self, place: usize) -> Error {
        let column = &self.column;
        let what = format!("the field {column:?} is null");
        row_error(&self.file, self.first + place as u64, &what).with("field", column.as_str())
    }
}

/// Rows as columns, of any types.
pub struct Chunk(pub(crate) DataFrame);

impl Chunk {
    pub fn rows(&self) -> usize {
        self.0.height()
    }

    /// Only the rows whose place in `kept` is true.
    pub fn filter(&self, kept: &[bool]) -> Result<Self> {
        let mask = BooleanChunked::from_slice("kept".into(), kept);
        self.0.filter_seq(&mask).map(Self).map_err(Error::internal)
    }

    /// Adds the rows of another chunk of the same columns.
    pub fn append(&mut self, other: &Self) -> Result<()> {
        self.0
            .vstack_mut(&other.0)
            .map(|_| ())
            .map_err(Error::internal)
    }

    #[must_use]
    pub fn slice(&self, start: usize, rows: usize) -> Self {
        Self(self.0.slice(start as i64, rows))
    }
}

/// Reads at a place without moving the file's own cursor, so that threads may share it.
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            let place = offset + done as u64;
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], place)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}
