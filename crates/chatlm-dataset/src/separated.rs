//! Csv and tsv: the first row names the fields; quotes, and newlines inside them, as in RFC 4180, read as
//! the csv crate reads them.
//!
//! A quote that somebody forgot to close would swallow rows up to the next quote. So a row that goes on
//! behind its line must end well: where it does not, it is broken, and reading goes on behind its first
//! line.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use chatlm_job::{Code, Error, Result};
use serde_json::{Map, Value};

use crate::lines::{LIMIT, too_long};
use crate::packed::read_error;
use crate::rows::{Fault, Fields, FileRows};

/// Bytes that can be given back.
struct Bytes {
    reader: Box<dyn BufRead + Send>,
    again: Vec<u8>,
    at: usize,
}

impl Bytes {
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.at < self.again.len() {
            return Ok(&self.again[self.at..]);
        }
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if self.at < self.again.len() {
            self.at += count;
        } else {
            self.reader.consume(count);
        }
    }

    fn give_back(&mut self, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(&self.again[self.at.min(self.again.len())..]);
        (self.again, self.at) = (bytes, 0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first byte of a field.
    Start,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field: its end, or the first of two.
    Closed,
    /// In a line that is too long, behind the limit.
    Lost,
}

/// A row as it was cut.
struct Record {
    fields: Vec<Vec<u8>>,
    /// What is behind the first line of a row of several lines.
    rest: Option<Vec<u8>>,
    /// A quote was closed and the field went on.
    loose: bool,
    fault: Option<String>,
}

struct Records {
    bytes: Bytes,
    separator: u8,
}

impl Records {
    /// The next row that is not blank; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Record>> {
        let mut record = Record {
            fields: Vec::new(),
            rest: None,
            loose: false,
            fault: None,
        };
        let (mut field, mut place, mut size) = (Vec::new(), Place::Start, 0);
        loop {
            let separator = self.separator;
            let piece = self.bytes.fill()?;
            if piece.is_empty() {
                if place == Place::Start && record.fields.is_empty() {
                    return Ok(None);
                }
                if place == Place::Quoted {
                    record.fault = Some("a quote is opened and never closed".to_owned());
                }
                record.fields.push(field);
                return Ok(Some(record));
            }
            let (mut used, mut ended) = (0, false);
            for &byte in piece {
                used += 1;
                size += 1;
                if let Some(rest) = &mut record.rest {
                    rest.push(byte);
                }
                let newline = byte == b'\n' || byte == b'\r';
                if newline && place != Place::Quoted {
                    // The second half of an end of line, or a blank line.
                    if place == Place::Start && record.fields.is_empty() {
                        continue;
                    }
                    ended = true;
                    break;
                }
                if place == Place::Lost {
                    continue;
                }
                if size > LIMIT {
                    record.fault = Some(too_long());
                    if place == Place::Quoted && record.rest.is_some() {
                        record.fault = Some(format!("a quote is opened, and {}", too_long()));
                        ended = true;
                        break;
                    }
                    (field, place) = (Vec::new(), Place::Lost);
                    record.fields.clear();
                    continue;
                }
                place = match (place, byte) {
                    (Place::Quoted, b'"') => Place::Closed,
                    (Place::Quoted, _) => {
                        if newline && record.rest.is_none() {
                            record.rest = Some(Vec::new());
                        }
                        field.push(byte);
                        Place::Quoted
                    }
                    (_, byte) if byte == separator => {
                        record.fields.push(std::mem::take(&mut field));
                        Place::Start
                    }
                    (Place::Start, b'"') => Place::Quoted,
                    (Place::Closed, b'"') => {
                        field.push(byte);
                        Place::Quoted
                    }
                    (before, byte) => {
                        record.loose |= before == Place::Closed;
                        field.push(byte);
                        Place::Plain
                    }
                };
            }
            self.bytes.consume(used);
            if ended {
                record.fields.push(field);
                return Ok(Some(record));
            }
        }
    }
}

pub(crate) fn rows(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
    separator: u8,
    ragged: bool,
) -> Result<FileRows> {
    let mut records = Records {
        bytes: Bytes {
            reader,
            again: Vec::new(),
            at: 0,
        },
        separator,
    };
    let fail = |e: &io::Error| read_error(e, path);
    let names = match records.next().map_err(|e| fail(&e))? {
        None => return Ok(Box::new(std::iter::empty())),
        Some(header) => match header.fault {
            Some(fault) => return Err(wrong(path, &format!("in the row of names {fault}"))),
            None => names(path, header.fields.into_iter().map(text))?,
        },
    };
    Ok(Box::new(Table {
        path: path.to_owned(),
        records,
        names,
        ragged,
        failed: false,
    }))
}

struct Table {
    path: PathBuf,
    records: Records,
    names: Vec<String>,
    /// Rows may have any number of fields.
    ragged: bool,
    failed: bool,
}

impl Iterator for Table {
    type Item = Result<Fields, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut record = match self.records.next() {
            Ok(record) => record?,
            Err(error) => {
                self.failed = true;
                return Some(Err(Fault::File(read_error(&error, &self.path))));
            }
        };
        let several = record.rest.is_some();
        let (there, named) = (record.fields.len(), self.names.len());
        if record.fault.is_none() && !self.ragged && several && (record.loose || there != named) {
            record.fault = Some("a quote is opened and closed inside another row".to_owned());
        } else if record.fault.is_none() && !self.ragged && there != named {
            record.fault = Some(format!(
                "it has {there} fields where the first row names {named}"
            ));
        }
        if let Some(fault) = record.fault {
            if let Some(rest) = record.rest {
                self.records.bytes.give_back(rest);
            }
            return Some(Err(Fault::Row(fault)));
        }
        Some(Ok(fields(&self.names, record.fields.into_iter().map(text))))
    }
}

/// The bytes are decoded text, cut at signs of one byte.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn wrong(path: &Path, what: &str) -> Error {
    Error::new(
        Code::InputFormat,
        format!("{}: {what}", path.display()),
        "the first row of a csv file names the columns; each name once",
    )
    .with("file", path.display().to_string())
    .with("row", 0)
}

/// The values of a row by name; those beyond the names are `column5` and so on.
pub(crate) fn fields(names: &[String], values: impl ExactSizeIterator<Item = String>) -> Fields {
    let mut fields = Map::with_capacity(values.len());
    for (place, value) in values.enumerate() {
        let name = names.get(place).cloned();
        let name = name.unwrap_or_else(|| format!("column{}", place + 1));
        fields.insert(name, Value::String(value));
    }
    fields
}

/// What the first row names the columns.
pub(crate) fn names(path: &Path, header: impl Iterator<Item = String>) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (place, name) in header.enumerate() {
        let name = name.trim().to_owned();
        let name = if name.is_empty() {
            format!("column{}", place + 1)
        } else {
            name
        };
        if names.contains(&name) {
            let what = format!("two columns are called {name:?}");
            return Err(wrong(path, &what).with("field", name));
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str) -> Vec<Vec<String>> {
        let bytes = Bytes {
            reader: Box::new(io::Cursor::new(text.to_owned())),
            again: Vec::new(),
            at: 0,
        };
        let mut records = Records {
            bytes,
            separator: b',',
        };
        std::iter::from_fn(|| records.next().unwrap())
            .map(|record| record.fields.into_iter().map(super::text).collect())
            .collect()
    }

    proptest! {
        #[test]
        fn rows_are_cut_as_the_csv_crate_cuts_them(text in "[ab\",\n\r]{0,40}") {
            let mut reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(text.as_bytes());
            let theirs: Vec<Vec<String>> = reader
                .records()
                .map(|record| record.unwrap().iter().map(str::to_owned).collect())
                .collect();
            prop_assert_eq!(cut(&text), theirs);
        }
    }
}
