//! Csv and tsv: the first row names the fields; quotes, and newlines inside them, as in RFC 4180.

use std::io::{self, BufRead, Read};
use std::path::Path;

use chatlm_job::{Code, Error, Result};
use serde_json::{Map, Value};

use crate::rows::{Fault, Fields, FileRows};

/// A row put after the file's end: where it does not come out alone, a quote was left open.
const SENTINEL: &str = "\u{1}the end\u{1}";

/// The file and then the sentinel on a line of its own.
struct Guarded {
    inner: Box<dyn BufRead + Send>,
    rest: io::Cursor<Vec<u8>>,
}

impl Read for Guarded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(into)? {
            0 => self.rest.read(into),
            size => Ok(size),
        }
    }
}

pub(crate) fn rows(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
    separator: u8,
    ragged: bool,
) -> Result<FileRows> {
    let rest = io::Cursor::new(format!("\n{SENTINEL}\n").into_bytes());
    let mut records = csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .from_reader(Guarded {
            inner: reader,
            rest,
        })
        .into_records();
    let header = match records.next() {
        Some(Ok(header)) if header.get(0) == Some(SENTINEL) => return Ok(Box::new(io_none())),
        Some(Ok(header)) => header,
        Some(Err(error)) => return Err(broken(path, &error)),
        None => return Ok(Box::new(io_none())),
    };
    let names = names(path, header.iter())?;
    let path = path.to_owned();
    let mut stopped = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if stopped {
            return None;
        }
        match records.next()? {
            Ok(record) if record.len() == 1 && &record[0] == SENTINEL => None,
            Ok(record) if record.iter().any(|field| field.contains(SENTINEL)) => {
                stopped = true;
                Some(Err(Fault::Row(
                    "a quote is opened and never closed".to_owned(),
                )))
            }
            Ok(record) => {
                let values = record.iter().map(str::to_owned).collect::<Vec<_>>();
                Some(fields(&names, values.into_iter(), ragged))
            }
            Err(error) => {
                stopped = true;
                Some(Err(Fault::File(broken(&path, &error))))
            }
        }
    })))
}

fn io_none() -> std::iter::Empty<Result<Fields, Fault>> {
    std::iter::empty()
}

fn broken(path: &Path, error: &csv::Error) -> Error {
    if let csv::ErrorKind::Io(error) = error.kind() {
        return Error::io(error, "read", path);
    }
    Error::new(
        Code::InputFormat,
        format!("{} is not a csv file: {error}", path.display()),
        "check the file; fields with commas, quotes or newlines stand in double quotes",
    )
    .with("file", path.display().to_string())
}

pub(crate) fn names<'a>(path: &Path, header: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (place, name) in header.enumerate() {
        let name = name.trim();
        let name = if name.is_empty() {
            format!("column{}", place + 1)
        } else {
            name.to_owned()
        };
        if names.contains(&name) {
            return Err(Error::new(
                Code::InputFormat,
                format!("{}: two columns are called {name:?}", path.display()),
                "the first row of a csv file names the columns; each name once",
            )
            .with("file", path.display().to_string())
            .with("field", name));
        }
        names.push(name);
    }
    Ok(names)
}

pub(crate) fn fields(
    names: &[String],
    record: std::vec::IntoIter<String>,
    ragged: bool,
) -> Result<Fields, Fault> {
    if !ragged && record.len() != names.len() {
        return Err(Fault::Row(format!(
            "it has {} fields where the first row names {}",
            record.len(),
            names.len()
        )));
    }
    let mut fields = Map::with_capacity(record.len());
    for (place, value) in record.enumerate() {
        let name = names
            .get(place)
            .cloned()
            .unwrap_or_else(|| format!("column{}", place + 1));
        fields.insert(name, Value::String(value));
    }
    Ok(fields)
}
