//! A table written by whole chunks: encoded and compressed by any thread, put into the file in order.
//! Columns keep the types they were read with. Parquet with row groups of 8192 rows, or JSON lines, by
//! the name's ending, as [`crate::TableWriter`] writes them.

use std::io::Write;
use std::path::{Path, PathBuf};

use chatlm_job::{AtomicFile, Error, Result};
use polars::prelude::{ArrowSchema, CompatLevel, PolarsError, PolarsResult, SchemaExt};
use polars_parquet::write::{
    CompressedPage, CompressionOptions, DynIter, DynStreamingIterator, Encoding, FileWriter,
    ParquetType, StatisticsOptions, Version, WriteOptions, ZstdLevel, array_to_columns, compress,
    fallible_streaming_iterator, get_dtype_encoding, to_parquet_schema,
};

use crate::columns::Chunk;
use crate::parquet::json;
use crate::writer::{GROUP, Sink, failure, table_format};

/// zstd's level: the smaller ones are faster; see docs/dedup.md for what each costs.
const LEVEL: i32 = 1;

/// A chunk as bytes of the file.
pub enum EncodedChunk {
    Group {
        rows: usize,
        columns: Vec<Vec<CompressedPage>>,
    },
    Lines {
        rows: usize,
        bytes: Vec<u8>,
    },
}

enum Kind {
    Parquet {
        writer: Box<FileWriter<Sink>>,
        layout: Layout,
    },
    JsonLines,
}

/// How chunks are encoded.
struct Layout {
    types: Vec<ParquetType>,
    encodings: Vec<Vec<Encoding>>,
    options: WriteOptions,
}

pub struct ChunkWriter {
    target: PathBuf,
    sink: Sink,
    kind: Kind,
    rows: u64,
}

impl ChunkWriter {
    /// Rows of the chunks that [`ChunkWriter::encode`] should be given.
    pub const ROWS: usize = GROUP;

    /// Opens a table with the columns of `like`.
    pub fn create(target: &Path, like: &Chunk, force: bool) -> Result<Self> {
        let format = table_format(target)?;
        let sink = Sink::new(AtomicFile::create(target, force)?);
        let kind = if format == "parquet" {
            Self::parquet(like, sink.clone()).map_err(|e| failure(&sink, target, &e))?
        } else {
            Kind::JsonLines
        };
        Ok(Self {
            target: target.to_owned(),
            sink,
            kind,
            rows: 0,
        })
    }

    fn parquet(like: &Chunk, sink: Sink) -> PolarsResult<Kind> {
        let schema: ArrowSchema = like
            .0
            .schema()
            .iter_fields()
            .map(|field| field.to_arrow(CompatLevel::newest()))
            .map(|field| (field.name.clone(), field))
            .collect();
        let types = to_parquet_schema(&schema)?.fields().to_vec();
        let encodings = schema
            .iter_values()
            .map(|field| get_dtype_encoding(&field.dtype))
            .collect();
        let options = WriteOptions {
            statistics: StatisticsOptions::empty(),
            version: Version::V1,
            compression: CompressionOptions::Zstd(Some(ZstdLevel::try_new(LEVEL)?)),
            data_page_size: None,
        };
        Ok(Kind::Parquet {
            writer: Box::new(FileWriter::try_new(sink, schema, options)?),
            layout: Layout {
                types,
                encodings,
                options,
            },
        })
    }

    /// Encodes and compresses; may be called by many threads at once.
    pub fn encode(&self, mut chunk: Chunk) -> Result<EncodedChunk> {
        let rows = chunk.rows();
        match &self.kind {
            Kind::Parquet { layout, .. } => {
                let columns = layout
                    .pages(&mut chunk)
                    .map_err(|e| failure(&self.sink, &self.target, &e))?;
                Ok(EncodedChunk::Group { rows, columns })
            }
            Kind::JsonLines => Ok(EncodedChunk::Lines {
                rows,
                bytes: json_lines(&chunk)?,
            }),
        }
    }

    /// Adds encoded rows to the file.
    pub fn push(&mut self, chunk: EncodedChunk) -> Result<()> {
        match (&mut self.kind, chunk) {
            (Kind::Parquet { writer, .. }, EncodedChunk::Group { rows, columns }) => {
                let group = columns.iter().map(|pages| {
                    let pages = pages.iter().map(PolarsResult::Ok);
                    Ok(DynStreamingIterator::new(
                        fallible_streaming_iterator::convert(pages),
                    ))
                });
                writer
                    .write(rows as u64, DynIter::new(group))
                    .map_err(|e| failure(&self.sink, &self.target, &e))?;
                self.rows += rows as u64;
            }
            (Kind::JsonLines, EncodedChunk::Lines { rows, bytes }) => {
                self.sink
                    .write_all(&bytes)
                    .map_err(|e| Error::io(&e, "write", &self.target))?;
                self.rows += rows as u64;
            }
            _ => return Err(Error::internal("a chunk encoded for another format")),
        }
        Ok(())
    }

    /// Syncs and puts the table in place; the number of rows.
    pub fn finish(mut self) -> Result<u64> {
        if let Kind::Parquet { writer, .. } = &mut self.kind {
            writer
                .end(None)
                .map_err(|e| failure(&self.sink, &self.target, &e))?;
        }
        self.sink.commit()?;
        Ok(self.rows)
    }
}

impl Layout {
    fn pages(&self, chunk: &mut Chunk) -> PolarsResult<Vec<Vec<CompressedPage>>> {
        let mut columns = Vec::new();
        for ((column, kind), encodings) in chunk
            .0
            .columns()
            .iter()
            .zip(&self.types)
            .zip(&self.encodings)
        {
            let series = column.as_materialized_series().rechunk();
            let array = series.to_arrow(0, CompatLevel::newest());
            for pages in array_to_columns(array, kind.clone(), self.options, encodings)? {
                let compressed = pages.map(|page| {
                    compress(page?, Vec::new(), self.options.compression).map_err(PolarsError::from)
                });
                columns.push(compressed.collect::<PolarsResult<_>>()?);
            }
        }
        Ok(columns)
    }
}

fn json_lines(chunk: &Chunk) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let names: Vec<String> = chunk
        .0
        .columns()
        .iter()
        .map(|column| serde_json::to_string(column.name().as_str()))
        .collect::<Result<_, _>>()
        .map_err(Error::internal)?;
    for row in 0..chunk.rows() {
        let mut before = b'{';
        for (column, name) in chunk.0.columns().iter().zip(&names) {
            bytes.push(before);
            before = b',';
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b':');
            let value = column.get(row).map_err(Error::internal)?;
            serde_json::to_writer(&mut bytes, &json(&value)).map_err(Error::internal)?;
        }
        bytes.extend_from_slice(b"}\n");
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::columns::ColumnFile;
    use crate::input::InputOptions;
    use polars::prelude::{Column, DataFrame, IntoSeries, ListChunked, NamedFrom, Series};

    fn frame(rows: usize) -> DataFrame {
        let numbers: Vec<Option<u64>> = (0..rows as u64)
            .map(|i| (i % 7 > 0).then_some(u64::MAX - i))
            .collect();
        let texts: Vec<Option<String>> = (0..rows)
            .map(|i| (i % 11 > 0).then(|| format!("第{i}行{}", "，".repeat(i % 50))))
            .collect();
        let flags: Vec<bool> = (0..rows).map(|i| i % 3 == 0).collect();
        let lists: ListChunked = (0..rows)
            .map(|i| Some(Series::new("".into(), vec![i as i32; i % 4])))
            .collect();
        let columns = vec![
            Column::new("number".into(), numbers),
            Column::new("prompt".into(), texts),
            Column::new("flag".into(), flags),
            lists.into_series().with_name("list".into()).into(),
        ];
        DataFrame::new(rows, columns).unwrap()
    }

    #[test]
    fn columns_of_any_type_come_back_however_they_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let whole = frame(5000);
        let mut writer = ChunkWriter::create(&path, &Chunk(whole.slice(0, 0)), false).unwrap();
        for start in [0, 3000] {
            let part = Chunk(whole.slice(start, if start == 0 { 3000 } else { 2000 }));
            let encoded = writer.encode(part).unwrap();
            writer.push(encoded).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 5000);
        let file = ColumnFile::open(&path, &InputOptions::default())
            .unwrap()
            .unwrap();
        for bytes in [u64::MAX, 50_000, 2_000] {
            let pieces = file.pieces(bytes);
            assert!(bytes != u64::MAX || pieces.len() == 2);
            let mut read = file.empty();
            for piece in pieces {
                assert_eq!(piece.first, read.rows() as u64);
                read.append(&file.read(&piece, None).unwrap()).unwrap();
            }
            for (found, expected) in read.0.columns().iter().zip(whole.columns()) {
                assert_eq!(found.name(), expected.name());
                assert_eq!(found.dtype(), expected.dtype());
                for row in 0..5000 {
                    assert_eq!(
                        found.get(row).unwrap(),
                        expected.get(row).unwrap(),
                        "{bytes}"
                    );
                }
            }
        }
        let text = file
            .read(&file.pieces(u64::MAX)[1].after(10), Some(&["prompt"]))
            .unwrap();
        let texts = file.texts(&text, "prompt", 3010).unwrap();
        assert_eq!(
            texts.iter().next(),
            Some(Some(format!("第3010行{}", "，".repeat(10)).as_str()))
        );
        let kept: Vec<bool> = (0..text.rows()).map(|row| row % 2 == 0).collect();
        assert_eq!(text.filter(&kept).unwrap().rows(), text.rows().div_ceil(2));
    }
}
