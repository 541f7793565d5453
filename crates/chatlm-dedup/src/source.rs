//! The inputs: as columns of parquet where all of them are parquet, row by row otherwise.

use std::path::{Path, PathBuf};

use chatlm_dataset::{Chunk, ColumnFile, InputOptions, Piece, Row, Rows, Schema, expand};
use chatlm_job::{Job, Result};
use rayon::prelude::*;

use crate::method::Method;
use crate::spill::Signed;
use crate::work::{Stamp, stamp};

/// Rows that are read one by one and signed together.
const BATCH: usize = 16_384;
/// Bytes of such rows.
const BATCH_BYTES: usize = 16 << 20;

pub(crate) struct Source {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) stamps: Vec<Stamp>,
    options: InputOptions,
    /// All files with the number of their first row, where all are parquet.
    columns: Option<Vec<(ColumnFile, u64)>>,
}

/// A piece of a file and the number of its first row over all files.
pub(crate) type Place = (usize, Piece, u64);

impl Source {
    /// What a folder or a glob means is settled here, so that every pass sees the same.
    pub(crate) fn find(paths: &[String], options: InputOptions) -> Result<Self> {
        let files = expand(paths)?;
        let stamps = files
            .iter()
            .map(|file| stamp(file))
            .collect::<Result<_>>()?;
        Ok(Self {
            files,
            stamps,
            options,
            columns: None,
        })
    }

    /// Standard input as a file, where it is one of the inputs.
    pub(crate) fn replace_stdin(&mut self, file: &Path) {
        for path in &mut self.files {
            if path == Path::new("-") {
                file.clone_into(path);
            }
        }
    }

    pub(crate) fn open(&mut self) -> Result<()> {
        let mut columns = Vec::new();
        let mut rows = 0;
        for file in &self.files {
            let Some(file) = ColumnFile::open(file, &self.options)? else {
                return Ok(());
            };
            let first = rows;
            rows += file.rows();
            columns.push((file, first));
        }
        self.columns = Some(columns);
        Ok(())
    }

    /// Whether the inputs are what they were.
    pub(crate) fn unchanged(&self) -> bool {
        let now = |file: &PathBuf| stamp(file).ok();
        (self.files.iter().zip(&self.stamps))
            .all(|(file, before)| before.is_none() || now(file).as_ref() == Some(before))
    }

    /// Rows of all files, where that is known before reading them.
    pub(crate) fn rows(&self) -> Option<u64> {
        let columns = self.columns.as_ref()?;
        Some(columns.iter().map(|(file, _)| file.rows()).sum())
    }

    /// Files that can be copied by columns: all are parquet and have the same ones.
    pub(crate) fn alike(&self) -> Option<&[(ColumnFile, u64)]> {
        let columns = self.columns.as_deref()?;
        let (first, _) = columns.first()?;
        let alike = columns.iter().all(|(file, _)| file.same_columns(first));
        alike.then_some(columns)
    }

    /// The pieces of all files from a row on.
    pub(crate) fn pieces(&self, from: u64, bytes: u64) -> Vec<Place> {
        let files = self.columns.iter().flatten().enumerate();
        let pieces = files.flat_map(|(number, (file, first))| {
            let place = move |piece: Piece| (number, first + piece.first, piece);
            file.pieces(bytes).into_iter().map(place)
        });
        pieces
            .filter_map(|(number, first, piece)| {
                let past = from.saturating_sub(first).min(piece.rows as u64);
                let rest = piece.after(past as usize);
                (rest.rows > 0).then_some((number, rest, first + past))
            })
            .collect()
    }

    pub(crate) fn chunk(&self, place: &Place, columns: Option<&[&str]>) -> Result<Chunk> {
        let files = self.columns.as_deref().unwrap_or_default();
        files[place.0].0.read(&place.1, columns)
    }

    pub(crate) fn each_row(&self) -> Result<impl Iterator<Item = Result<Row>> + Send + use<>> {
        let paths: Vec<String> = (self.files.iter())
            .map(|file| file.display().to_string())
            .collect();
        let keep_going = self.options.keep_going;
        let whole = |row: &Row| row.text("prompt").is_ok() && row.text("response").is_ok();
        Ok(Rows::open(&paths, &self.options)?
            .filter(move |row| !keep_going || row.as_ref().map_or(true, whole)))
    }

    /// Signs all rows from a number on and hands them on in order. A row without prompt or response is
    /// broken like one that cannot be read: it ends the run, or only holds its place (`keep_going`).
    /// Rows that are read one by one are shown to `schema`.
    pub(crate) fn sign(
        &self,
        method: &Method,
        from: u64,
        piece: u64,
        schema: &mut Schema,
        job: &Job,
        mut take: impl FnMut(Signed) -> Result<()> + Send,
    ) -> Result<()> {
        if self.columns.is_some() {
            let pieces = self.pieces(from, piece);
            let mut batches = pieces.chunks(pieces_at_once());
            pipeline(
                job,
                || Ok(batches.next()),
                |batch| self.sign_pieces(method, batch),
                |signed| signed.into_iter().try_for_each(&mut take),
            )
        } else {
            let mut rows = self.each_row()?;
            let mut place = from;
            pipeline(
                job,
                || batch(&mut rows, from, &mut place, schema),
                |batch| Ok(sign_rows(method, &batch)),
                |signed| signed.into_iter().try_for_each(&mut take),
            )
        }
    }

    fn sign_pieces(&self, method: &Method, places: &[Place]) -> Result<Vec<Signed>> {
        let files = self.columns.as_deref().unwrap_or_default();
        places
            .par_iter()
            .with_max_len(1)
            .map(|place| {
                let chunk = self.chunk(place, Some(&["prompt", "response"]))?;
                let file = &files[place.0].0;
                let [prompts, responses] =
                    ["prompt", "response"].map(|name| file.texts(&chunk, name, place.2));
                let (prompts, responses) = (prompts?, responses?);
                let mut fault = None;
                let pairs = prompts.iter().zip(responses.iter()).enumerate();
                let signed = method.sign(
                    chunk.rows(),
                    pairs.map(|(row, (prompt, response))| {
                        let pair = prompt.zip(response);
                        if pair.is_none() && fault.is_none() && !self.options.keep_going {
                            let of = if prompt.is_none() {
                                &prompts
                            } else {
                                &responses
                            };
                            fault = Some(of.null_error(row));
                        }
                        pair
                    }),
                );
                fault.map_or(Ok(signed), Err)
            })
            .collect()
    }
}

/// Pieces that are worked on together; as many again wait to be put away.
pub(crate) fn pieces_at_once() -> usize {
    rayon::current_num_threads() * 2
}

/// The next rows, with gaps where rows are broken; `None` at the end.
fn batch(
    rows: &mut (impl Iterator<Item = Result<Row>> + Send),
    from: u64,
    place: &mut u64,
    schema: &mut Schema,
) -> Result<Option<Vec<Option<Row>>>> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let Some(row) = rows.next().transpose()? else {
            break;
        };
        schema.add_row(&row.fields);
        if row.row < from {
            continue;
        }
        bytes += row.text("prompt")?.len() + row.text("response")?.len();
        batch.extend((*place..row.row).map(|_| None));
        *place = row.row + 1;
        batch.push(Some(row));
    }
    Ok((!batch.is_empty()).then_some(batch))
}

fn sign_rows(method: &Method, rows: &[Option<Row>]) -> Vec<Signed> {
    let each = rows.len().div_ceil(pieces_at_once()).max(1);
    rows.par_chunks(each)
        .map(|rows| {
            let pairs = rows.iter().map(|row| {
                let row = row.as_ref()?;
                row.text("prompt").ok().zip(row.text("response").ok())
            });
            method.sign(rows.len(), pairs)
        })
        .collect()
}

/// Gets a batch, works on the one before and puts away the one before that, all at once; in order.
pub(crate) fn pipeline<B: Send, S: Send>(
    job: &Job,
    mut next: impl FnMut() -> Result<Option<B>> + Send,
    work: impl Fn(B) -> Result<S> + Sync,
    mut take: impl FnMut(S) -> Result<()> + Send,
) -> Result<()> {
    let mut batch = next()?;
    let mut done = None;
    while batch.is_some() || done.is_some() {
        job.cancel.check()?;
        let (now, before) = (batch.take(), done.take());
        let more = now.is_some();
        let (coming, (worked, taken)) = rayon::join(
            || if more { next() } else { Ok(None) },
            || {
                rayon::join(
                    || now.map(&work).transpose(),
                    || before.map_or(Ok(()), &mut take),
                )
            },
        );
        taken?;
        done = worked?;
        batch = coming?;
    }
    Ok(())
}
