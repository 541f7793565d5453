//! Whole tables: joining, splitting, and text for a tokenizer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_job::{AtomicFile, Code, Error, Job, Random, Result, check_target, mix};
use chatlm_tokenizer::RowTexts;
use serde_json::Value;

use crate::copying::{Copy, Tables};
use crate::input::{InputOptions, Opened, expand, open};
use crate::parquet::ParquetTable;
use crate::rows::{Fields, Row, Rows};
use crate::writer::{Cell, ColumnKind, TableWriter};

/// Rows between two looks at the cancel flag.
const PIECE: u64 = 1024;

/// Columns in the order they are first seen, with kinds that hold all their values.
#[derive(Debug, Default)]
pub struct Schema {
    columns: Vec<(String, Option<ColumnKind>)>,
}

impl Schema {
    fn add(&mut self, name: &str, kind: Option<ColumnKind>) {
        let Some((_, known)) = self.columns.iter_mut().find(|(known, _)| known == name) else {
            self.columns.push((name.to_owned(), kind));
            return;
        };
        *known = match (*known, kind) {
            (known, None) => known,
            (None, kind) => kind,
            (Some(known), Some(kind)) if known == kind => Some(known),
            (Some(ColumnKind::Int64), Some(ColumnKind::Float64))
            | (Some(ColumnKind::Float64), Some(ColumnKind::Int64)) => Some(ColumnKind::Float64),
            _ => Some(ColumnKind::Text),
        };
    }

    /// Takes in the columns of a row.
    pub fn add_row(&mut self, fields: &Fields) {
        for (name, value) in fields {
            self.add(
                name,
                match value {
                    Value::Null => None,
                    Value::Number(number) if number.is_i64() => Some(ColumnKind::Int64),
                    Value::Number(_) => Some(ColumnKind::Float64),
                    _ => Some(ColumnKind::Text),
                },
            );
        }
    }

    /// A column that was null throughout counts as text.
    pub fn columns(&self) -> Vec<(&str, ColumnKind)> {
        self.columns
            .iter()
            .map(|(name, kind)| (name.as_str(), kind.unwrap_or(ColumnKind::Text)))
            .collect()
    }
}

/// Rows that can be read twice: once for the columns, once to write them.
struct Source {
    files: Vec<PathBuf>,
    options: InputOptions,
    /// Standard input can be read only once, so its rows are kept.
    kept: Option<Vec<Row>>,
    broken: u64,
}

impl Source {
    fn open(paths: &[String], options: &InputOptions, job: &Job) -> Result<(Self, Schema)> {
        let files = expand(paths)?;
        let mut schema = Schema::default();
        let stdin = files.iter().any(|file| file.as_os_str() == "-");
        let mut kept = stdin.then(Vec::new);
        let (mut seen, mut broken) = (0, 0);
        let parquet = |file: &Path| -> Result<Option<ParquetTable>> {
            let table = match open(file, options, Arc::default()) {
                Ok(Opened::Parquet(bytes)) => ParquetTable::open(file, bytes).map(Some),
                other => other.map(|_| None),
            };
            match table {
                // The rows count it as broken when its turn comes.
                Err(error) if options.keep_going && error.code() == Code::InputFormat => Ok(None),
                table => table,
            }
        };
        let groups: Vec<Vec<PathBuf>> = if stdin {
            vec![files.clone()]
        } else {
            files.iter().map(|f| vec![f.clone()]).collect()
        };
        for group in groups {
            if let (false, Some(table)) = (stdin, if stdin { None } else { parquet(&group[0])? }) {
                seen += table.rows;
                table
                    .columns
                    .iter()
                    .for_each(|(name, kind)| schema.add(name, Some(*kind)));
                continue;
            }
            let mut rows = Rows::of(group, options).counted_from(seen);
            for row in rows.by_ref() {
                let row = row?;
                seen = row.row + 1;
                if seen % PIECE == 0 {
                    job.cancel.check()?;
                    job.progress.report("look", seen, None, "rows");
                }
                schema.add_row(&row.fields);
                if let Some(kept) = &mut kept {
                    kept.push(row);
                }
            }
            broken += rows.broken();
        }
        Ok((
            Self {
                files,
                options: options.clone(),
                kept,
                broken,
            },
            schema,
        ))
    }

    fn rows(self) -> SourceRows {
        match self.kept {
            Some(rows) => SourceRows::Kept(rows.into_iter(), self.broken),
            None => SourceRows::Read(Box::new(Rows::of(self.files, &self.options))),
        }
    }
}

enum SourceRows {
    Kept(std::vec::IntoIter<Row>, u64),
    Read(Box<Rows>),
}

impl SourceRows {
    fn broken(&self) -> u64 {
        match self {
            Self::Kept(_, broken) => *broken,
            Self::Read(rows) => rows.broken(),
        }
    }
}

impl Iterator for SourceRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Kept(rows, _) => rows.next().map(Ok),
            Self::Read(rows) => rows.next(),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    pub rows: u64,
    /// Rows that could not be read (`keep_going`).
    pub broken: u64,
}

/// The cells of a row in the order of the columns; lists and objects are written as JSON.
pub struct Cells(Vec<Owned>);

enum Owned {
    Text(String),
    Int64(i64),
    Float64(f64),
    Null,
}

impl Cells {
    /// Takes the values of these columns out of a row; what it lacks is null.
    pub fn new(fields: &mut Fields, columns: &[(&str, ColumnKind)]) -> Self {
        let cell = |(name, kind): &(&str, ColumnKind)| {
            let value = fields.get_mut(*name).map(Value::take).unwrap_or_default();
            match (kind, value) {
                (_, Value::Null) => Owned::Null,
                (ColumnKind::Text, Value::String(text)) => Owned::Text(text),
                (ColumnKind::Text, other) => Owned::Text(other.to_string()),
                (ColumnKind::Int64, value) => value.as_i64().map_or(Owned::Null, Owned::Int64),
                (ColumnKind::Float64, value) => value.as_f64().map_or(Owned::Null, Owned::Float64),
            }
        };
        Self(columns.iter().map(cell).collect())
    }

    pub fn cells(&self) -> Vec<Cell<'_>> {
        self.0
            .iter()
            .map(|owned| match owned {
                Owned::Text(text) => Cell::Text(text),
                Owned::Int64(value) => Cell::Int64(*value),
                Owned::Float64(value) => Cell::Float64(*value),
                Owned::Null => Cell::Null,
            })
            .collect()
    }
}

/// Writes the rows of all inputs, in order, into one table; columns that a row lacks are null.
pub fn merge(
    paths: &[String],
    options: &InputOptions,
    out: &Path,
    force: bool,
    job: &Job,
) -> Result<Written> {
    check_target(out, force)?;
    if let Some(tables) = Tables::open(&expand(paths)?, options)? {
        let mut table = tables.writer(out, force)?;
        tables.each("merge", job, |_, chunk| table.push(chunk))?;
        let rows = table.finish()?;
        return Ok(Written { rows, broken: 0 });
    }
    let (source, schema) = Source::open(paths, options, job)?;
    let columns = schema.columns();
    let mut table = TableWriter::create(out, &columns, force)?;
    let mut rows = source.rows();
    for row in rows.by_ref() {
        table.push(&Cells::new(&mut row?.fields, &columns).cells())?;
        if table.rows() % PIECE == 0 {
            job.cancel.check()?;
            job.progress.report("merge", table.rows(), None, "rows");
        }
    }
    Ok(Written {
        rows: table.finish()?,
        broken: rows.broken(),
    })
}

/// How many rows a split put where; rows outside the shares are in `rows` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    pub rows: u64,
    pub train: u64,
    pub valid: u64,
    pub test: u64,
    /// Rows that could not be read (`keep_going`).
    pub broken: u64,
}

/// Draws each row into `train.parquet`, `valid.parquet` or `test.parquet` of the folder `out`.
pub fn split(
    paths: &[String],
    options: &InputOptions,
    out: &Path,
    shares: [f64; 3],
    seed: u64,
    force: bool,
    job: &Job,
) -> Result<Split> {
    let sum: f64 = shares.iter().sum();
    if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || sum > 1.0 + 1e-9 || sum <= 0.0 {
        return Err(Error::new(
            Code::Usage,
            format!(
                "shares of {}, {} and {} do not fit",
                shares[0], shares[1], shares[2]
            ),
            "give shares between 0 and 1 whose sum is at most 1, such as 0.91, 0.0025 and 0.0875",
        ));
    }
    let targets = ["train", "valid", "test"].map(|name| out.join(format!("{name}.parquet")));
    for target in &targets {
        check_target(target, force)?;
    }
    let place = |row: u64| {
        let drawn = Random::new(mix(seed, row)).uniform();
        let mut edge = 0.0;
        shares.iter().position(|share| {
            edge += share;
            // Shares that sum to 1 but for rounding lose no row.
            drawn < edge || (edge > 1.0 - 1e-9 && *share > 0.0)
        })
    };
    if let Some(tables) = Tables::open(&expand(paths)?, options)? {
        let mut parts = targets
            .iter()
            .map(|target| tables.writer(target, force))
            .collect::<Result<Vec<_>>>()?;
        tables.each("split", job, |first, chunk| {
            let rows = first..first + chunk.rows() as u64;
            let places: Vec<Option<usize>> = rows.map(place).collect();
            for (number, part) in parts.iter_mut().enumerate() {
                let ours: Vec<bool> = places.iter().map(|p| *p == Some(number)).collect();
                part.push_some(chunk, &ours)?;
            }
            Ok(())
        })?;
        let counts = parts.into_iter().map(Copy::finish);
        return Ok(Split::new(
            tables.rows(),
            &counts.collect::<Result<Vec<u64>>>()?,
            0,
        ));
    }
    let (source, schema) = Source::open(paths, options, job)?;
    let columns = schema.columns();
    let mut tables = targets
        .iter()
        .map(|t| TableWriter::create(t, &columns, force))
        .collect::<Result<Vec<_>>>()?;
    let (mut all, mut rows) = (source.rows(), 0);
    for row in all.by_ref() {
        let mut row = row?;
        if let Some(place) = place(rows) {
            tables[place].push(&Cells::new(&mut row.fields, &columns).cells())?;
        }
        rows += 1;
        if rows % PIECE == 0 {
            job.cancel.check()?;
            job.progress.report("split", rows, None, "rows");
        }
    }
    let counts = tables.into_iter().map(TableWriter::finish);
    Ok(Split::new(
        rows,
        &counts.collect::<Result<Vec<u64>>>()?,
        all.broken(),
    ))
}

impl Split {
    fn new(rows: u64, counts: &[u64], broken: u64) -> Self {
        Self {
            rows,
            train: counts[0],
            valid: counts[1],
            test: counts[2],
            broken,
        }
    }
}

/// Whether a row comes from a plain text file.
fn is_line(fields: &Fields) -> bool {
    fields.len() == 1 && fields.contains_key("text")
}

/// Writes text for a tokenizer: `prompt[SEP]response[SEP]` a row, lines of text files as they are.
pub fn corpus(
    paths: &[String],
    options: &InputOptions,
    out: &Path,
    force: bool,
    job: &Job,
) -> Result<Written> {
    let mut file = AtomicFile::create(out, force)?;
    let mut count = 0;
    let mut rows = Rows::open(paths, options)?;
    for row in rows.by_ref() {
        let row = row?;
        let line = if is_line(&row.fields) {
            format!("{}\n", row.text("text")?)
        } else {
            format!(
                "{}[SEP]{}[SEP]\n",
                row.text("prompt")?,
                row.text("response")?
            )
        };
        file.write_all(line.as_bytes())
            .map_err(|e| Error::io(&e, "write", out))?;
        count += 1;
        if count % PIECE == 0 {
            job.cancel.check()?;
            job.progress.report("corpus", count, None, "rows");
        }
    }
    file.commit()?;
    Ok(Written {
        rows: count,
        broken: rows.broken(),
    })
}

/// The texts of every row, column by column, and where it came from. Bytes that are no text are an error
/// unless `keep_going` says otherwise: a tokenizer would learn what stands for them.
pub fn row_texts(
    paths: &[String],
    options: &InputOptions,
) -> Result<impl Iterator<Item = Result<RowTexts>> + Send + use<>> {
    let mut rows = Rows::open(paths, options)?;
    let strict = !options.keep_going;
    Ok(std::iter::from_fn(move || {
        let row = rows.next()?;
        if strict && rows.undecodable() > 0 {
            return Some(row.and_then(|row| Err(undecodable(&row))));
        }
        Some(row.map(|row| {
            RowTexts {
                file: row.file,
                row: row.row,
                texts: row
                    .fields
                    .into_iter()
                    .filter_map(|(_, value)| match value {
                        Value::String(text) if !text.is_empty() => Some(text),
                        _ => None,
                    })
                    .collect(),
            }
        }))
    }))
}

/// The row is the first of those read together with the bytes.
fn undecodable(row: &Row) -> Error {
    Error::new(
        Code::InputFormat,
        format!(
            "{}, at row {} or soon after: bytes that are no text in its encoding",
            row.file, row.row
        ),
        "give --encoding NAME if it is not the one detected (UTF-8 mostly), or mend the file",
    )
    .with("file", row.file.to_string())
    .with("row", row.row)
}

/// Every text of every row: what a tokenizer is trained on.
pub fn texts(
    paths: &[String],
    options: &InputOptions,
) -> Result<impl Iterator<Item = Result<String>> + Send + use<>> {
    Ok(row_texts(paths, options)?.flat_map(|row| match row {
        Ok(row) => row.texts.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }))
}
