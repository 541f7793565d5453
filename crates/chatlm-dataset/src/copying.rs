//! Tables copied by columns: where all inputs are parquet with the same columns, rows go from file to file
//! without being taken apart.

use std::path::{Path, PathBuf};

use chatlm_job::{Error, Job, Result};
use polars::prelude::{Column, DataFrame};
use rayon::prelude::*;

use crate::chunks::ChunkWriter;
use crate::columns::{Chunk, ColumnFile};
use crate::input::InputOptions;

/// Unpacked bytes read at a time.
const PIECE: u64 = 32 << 20;

/// The inputs as tables of the same columns; `None` where they are not.
pub(crate) struct Tables(Vec<ColumnFile>);

impl Tables {
    pub(crate) fn open(files: &[PathBuf], options: &InputOptions) -> Result<Option<Self>> {
        // Broken pieces are left out row by row, and standard input is read once.
        if options.keep_going || files.iter().any(|file| file.as_os_str() == "-") {
            return Ok(None);
        }
        let mut tables: Vec<ColumnFile> = Vec::with_capacity(files.len());
        for file in files {
            match ColumnFile::open(file, options)? {
                Some(table)
                    if tables
                        .first()
                        .is_none_or(|first| first.same_columns(&table)) =>
                {
                    tables.push(table);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(Self(tables)))
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.iter().map(ColumnFile::rows).sum()
    }

    /// Gives all rows in order, with the number of the first of them.
    pub(crate) fn each(
        &self,
        stage: &str,
        job: &Job,
        mut act: impl FnMut(u64, &Chunk) -> Result<()>,
    ) -> Result<()> {
        let (mut row, total) = (0, self.rows());
        for table in &self.0 {
            for piece in table.pieces(PIECE) {
                job.cancel.check()?;
                act(row, &table.read(&piece, None)?)?;
                row += piece.rows as u64;
                job.progress.report(stage, row, Some(total), "rows");
            }
        }
        Ok(())
    }

    pub(crate) fn writer(&self, target: &Path, force: bool) -> Result<Copy> {
        let empty = self.0.first().map(ColumnFile::empty);
        let empty = empty.ok_or_else(|| Error::internal("no tables"))?;
        Ok(Copy {
            writer: ChunkWriter::create(target, &empty, force)?,
            rest: empty,
        })
    }
}

/// A table that takes chunks of any size.
pub(crate) struct Copy {
    writer: ChunkWriter,
    /// Rows that wait for a whole row group.
    rest: Chunk,
}

impl Copy {
    pub(crate) fn push(&mut self, chunk: &Chunk) -> Result<()> {
        self.rest.append(chunk)?;
        let whole = self.rest.rows() / ChunkWriter::ROWS;
        self.write(whole)
    }

    /// The rows of a chunk whose place in `kept` is true.
    pub(crate) fn push_some(&mut self, chunk: &Chunk, kept: &[bool]) -> Result<()> {
        self.push(&own_texts(&chunk.filter(kept)?)?)
    }

    /// Writes so many row groups, packed in parallel.
    fn write(&mut self, groups: usize) -> Result<()> {
        let size = ChunkWriter::ROWS;
        let packed = (0..groups)
            .into_par_iter()
            .map(|group| self.writer.encode(self.rest.slice(group * size, size)))
            .collect::<Result<Vec<_>>>()?;
        for group in packed {
            self.writer.push(group)?;
        }
        let done = (groups * size).min(self.rest.rows());
        self.rest = self.rest.slice(done, self.rest.rows() - done);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<u64> {
        let last = self.rest.rows().div_ceil(ChunkWriter::ROWS);
        self.write(last)?;
        self.writer.finish()
    }
}

/// The same rows with texts of their own: a filter's result keeps all texts of the chunk alive, which a
/// few rows that wait for their row group must not.
fn own_texts(chunk: &Chunk) -> Result<Chunk> {
    let columns = chunk.0.columns().iter().map(|column| match column.str() {
        Ok(texts) => Column::new(column.name().clone(), texts.iter().collect::<Vec<_>>()),
        Err(_) => column.clone(),
    });
    DataFrame::new(chunk.rows(), columns.collect())
        .map(Chunk)
        .map_err(Error::internal)
}
