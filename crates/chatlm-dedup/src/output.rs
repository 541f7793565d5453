//! The tables that a run makes: the rows that stay, the rows that fell and their clusters.

use std::io;
use std::path::Path;

use chatlm_dataset::{Cell, Cells, Chunk, ChunkWriter, ColumnKind, Schema, TableWriter};
use chatlm_job::{Error, Job, Result};
use rayon::prelude::*;

use crate::source::{Place, Source, pieces_at_once, pipeline};
use crate::state::State;
use crate::verdicts::Fall;

/// Rows between two looks at the cancel flag.
const LOOK: u64 = 4096;

fn changed(target: &Path) -> Error {
    let error = io::Error::other("the inputs changed while they were read");
    Error::io(&error, "write", target)
}

/// A table of rows that is whole but not in place yet.
pub(crate) enum Written {
    Chunks(ChunkWriter),
    Rows(TableWriter),
}

impl Written {
    /// Puts it in place; the number of rows.
    pub(crate) fn finish(self) -> Result<u64> {
        match self {
            Self::Chunks(writer) => writer.finish(),
            Self::Rows(table) => table.finish(),
        }
    }
}

/// Copies the rows that stay, by columns where the inputs allow it.
pub(crate) fn write_rows(
    target: &Path,
    source: &Source,
    columns: Option<&[(String, String)]>,
    state: &State,
    piece: u64,
    force: bool,
    job: &Job,
) -> Result<Written> {
    let rows = state.rows() - state.own;
    if !source.unchanged() {
        return Err(changed(target));
    }
    let Some(files) = source.alike() else {
        return write_one_by_one(target, source, columns, state, force, job);
    };
    let Some((first, _)) = files.first() else {
        return Err(changed(target));
    };
    let mut out = Gather {
        writer: ChunkWriter::create(target, &first.empty(), force)?,
        rest: None,
    };
    let pieces = source.pieces(0, piece);
    let mut batches = pieces.chunks(pieces_at_once());
    let mut done = 0;
    pipeline(
        job,
        || Ok(batches.next()),
        |batch| kept(source, state, batch),
        |chunks| {
            for (read, chunk) in chunks {
                done += read as u64;
                out.add(chunk)?;
            }
            out.put(false)?;
            job.progress
                .report("write", done, Some(u64::from(rows)), "rows");
            Ok(())
        },
    )?;
    if done != u64::from(rows) {
        return Err(changed(target));
    }
    out.put(true)?;
    Ok(Written::Chunks(out.writer))
}

/// Rows read and the rows of them that stay, piece by piece.
fn kept(source: &Source, state: &State, places: &[Place]) -> Result<Vec<(usize, Chunk)>> {
    places
        .par_iter()
        .with_max_len(1)
        .map(|place| {
            let chunk = source.chunk(place, None)?;
            let first = u64::from(state.own) + place.2;
            let kept: Vec<bool> = (first..first + chunk.rows() as u64)
                .map(|place| {
                    let place = place as u32;
                    place < state.rows() && !state.falls(place) && !state.is_broken(place)
                })
                .collect();
            Ok((chunk.rows(), chunk.filter(&kept)?))
        })
        .collect()
}

/// Collects rows until they fill row groups, so that the file does not tell how it was read.
struct Gather {
    writer: ChunkWriter,
    rest: Option<Chunk>,
}

impl Gather {
    fn add(&mut self, chunk: Chunk) -> Result<()> {
        if let Some(rest) = &mut self.rest {
            return rest.append(&chunk);
        }
        self.rest = Some(chunk);
        Ok(())
    }

    /// Writes all whole row groups, and what is left where `all`.
    fn put(&mut self, all: bool) -> Result<()> {
        let Some(rest) = self.rest.take() else {
            return Ok(());
        };
        let whole = rest.rows() / ChunkWriter::ROWS * ChunkWriter::ROWS;
        let end = if all { rest.rows() } else { whole };
        let groups: Vec<usize> = (0..end).step_by(ChunkWriter::ROWS).collect();
        let encoded: Vec<_> = groups
            .par_iter()
            .with_max_len(1)
            .map(|&start| {
                let rows = ChunkWriter::ROWS.min(end - start);
                self.writer.encode(rest.slice(start, rows))
            })
            .collect::<Result<_>>()?;
        for group in encoded {
            self.writer.push(group)?;
        }
        self.rest = Some(rest.slice(end, rest.rows() - end));
        Ok(())
    }
}

fn write_one_by_one(
    target: &Path,
    source: &Source,
    columns: Option<&[(String, String)]>,
    state: &State,
    force: bool,
    job: &Job,
) -> Result<Written> {
    let known: Option<Vec<(&str, ColumnKind)>> = columns.map(|columns| {
        let kind = |name: &str| match name {
            "int64" => ColumnKind::Int64,
            "float64" => ColumnKind::Float64,
            _ => ColumnKind::Text,
        };
        (columns.iter())
            .map(|(name, of)| (name.as_str(), kind(of)))
            .collect()
    });
    let mut schema = Schema::default();
    if known.is_none() {
        // Parquet files of different columns: read by columns, but written row by row.
        for row in source.each_row()? {
            schema.add_row(&row?.fields);
        }
    }
    let columns = known.unwrap_or_else(|| schema.columns());
    let mut table = TableWriter::create(target, &columns, force)?;
    let total = u64::from(state.rows() - state.own);
    for row in source.each_row()? {
        let mut row = row?;
        if row.row.is_multiple_of(LOOK) {
            job.cancel.check()?;
            job.progress.report("write", row.row, Some(total), "rows");
        }
        if row.row >= total {
            return Err(changed(target));
        }
        if !state.falls(state.own + row.row as u32) {
            table.push(&Cells::new(&mut row.fields, &columns).cells())?;
        }
    }
    Ok(Written::Rows(table))
}

/// The table of dropped rows.
pub(crate) struct Clusters {
    table: TableWriter,
    own: u32,
}

impl Clusters {
    const COLUMNS: [(&str, ColumnKind); 4] = [
        ("row", ColumnKind::Int64),
        ("similar_row", ColumnKind::Int64),
        ("cluster", ColumnKind::Int64),
        ("similarity", ColumnKind::Float64),
    ];

    pub(crate) fn create(target: &Path, own: u32, force: bool) -> Result<Self> {
        let table = TableWriter::create(target, &Self::COLUMNS, force)?;
        Ok(Self { table, own })
    }

    pub(crate) fn push(&mut self, fall: &Fall) -> Result<()> {
        let number = |place: u32| Cell::Int64(i64::from(place - self.own));
        let cells = [
            number(fall.place),
            // -1: what it resembles is a row of the other set.
            fall.similar.map_or(Cell::Int64(-1), number),
            number(fall.group),
            Cell::Float64(fall.similarity),
        ];
        self.table.push(&cells)
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.table.finish().map(|_| ())
    }
}
