//! How the reference program reads csv files (`repair_line_error_csv_file` and what follows it): bad
//! bytes ignored, csv as Python's module reads it, newlines inside fields to backslash and n, commas
//! inside fields to `，`; written as csv, read again by lines and split at commas, so that quotes stay
//! and a carriage return breaks a row in two.

mod bytes;
mod csv;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use chatlm_dataset::{Row, expand};
use chatlm_job::{Error, Result};
use serde_json::{Map, Value};

use crate::options::CleanOptions;
use crate::source::Raw;
use bytes::{Charset, charset, decode};

/// Bytes in the encoding of this label as text, and how many of them were none.
#[cfg(feature = "fuzzing")]
pub fn decoded(bytes: &[u8], label: &str) -> Result<(String, u64)> {
    Ok(decode(bytes, charset(label)?))
}

/// Everything after the fourth column, joined.
pub(crate) const REST: &str = "rest";

/// What the reference program knows of a file.
pub(crate) struct Layout {
    pub names: [&'static str; 4],
    /// In which it reads unless told otherwise.
    pub encoding: &'static str,
    /// Whether it reads lines as Python's codecs do: they end at every sign that Unicode knows for it,
    /// so that an unquoted field with such a sign breaks its row in two.
    pub unicode_lines: bool,
}

/// A file being read.
struct Open {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    records: csv::Reader,
    begun: bool,
}

/// The lines of the repaired files as rows, files one after another.
pub(crate) struct CsvRows {
    layout: &'static Layout,
    charset: Charset,
    files: std::vec::IntoIter<PathBuf>,
    open: Option<Open>,
    file: Arc<str>,
    lines: VecDeque<String>,
    row: u64,
    undecodable: u64,
}

impl CsvRows {
    pub(crate) fn open(options: &CleanOptions, layout: &'static Layout) -> Result<Self> {
        Ok(Self {
            layout,
            charset: charset(options.encoding.as_deref().unwrap_or(layout.encoding))?,
            files: expand(&options.inputs)?.into_iter(),
            open: None,
            file: Arc::from(""),
            lines: VecDeque::new(),
            row: 0,
            undecodable: 0,
        })
    }

    /// Repairs the next record; false at the end of all files.
    fn advance(&mut self) -> Result<bool> {
        let Some(open) = &mut self.open else {
            let Some(path) = self.files.next() else {
                return Ok(false);
            };
            let reader: Box<dyn BufRead + Send> = if path.as_os_str() == "-" {
                Box::new(BufReader::new(std::io::stdin()))
            } else {
                let file = File::open(&path).map_err(|e| Error::io(&e, "read", &path))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            };
            self.file = Arc::from(path.display().to_string());
            self.open = Some(Open {
                path,
                reader,
                records: csv::Reader::new(),
                begun: false,
            });
            return Ok(true);
        };
        let mut line = Vec::new();
        let read = open.reader.read_until(b'\n', &mut line);
        read.map_err(|e| Error::io(&e, "read", &open.path))?;
        let mut records = Vec::new();
        if line.is_empty() {
            records.extend(open.records.end());
        } else {
            let (text, ignored) = decode(&line, self.charset);
            self.undecodable += ignored;
            for line in csv::lines(&text, self.layout.unicode_lines) {
                records.extend(open.records.line(&open.path, line)?);
            }
        }
        for record in records {
            self.lines.extend(csv::repaired(&record));
            // The reference program drops the header as a row too short.
            let first = !std::mem::replace(&mut open.begun, true);
            let header = |line: &String| {
                let mut names = self.layout.names.iter();
                line.trim_end()
                    .split(',')
                    .all(|name| Some(&name) == names.next())
            };
            if first && self.lines.front().is_some_and(header) {
                self.lines.pop_front();
            }
        }
        if line.is_empty() {
            self.open = None;
        }
        Ok(true)
    }

    fn fields(&self, line: &str) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut parts = line.split(',');
        for (name, part) in self.layout.names.iter().zip(parts.by_ref()) {
            fields.insert((*name).to_owned(), part.into());
        }
        let rest: String = parts.collect();
        if !rest.is_empty() {
            fields.insert(REST.to_owned(), rest.into());
        }
        fields
    }
}

impl Iterator for CsvRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                let row = self.row;
                self.row += 1;
                return Some(Ok(Row {
                    file: self.file.clone(),
                    row,
                    fields: self.fields(&line),
                }));
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.files = Vec::new().into_iter();
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Raw for CsvRows {
    fn broken(&self) -> u64 {
        0
    }

    fn undecodable(&self) -> u64 {
        self.undecodable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that a file becomes, before it is split into fields.
    fn lines(bytes: &[u8], charset: Charset, unicode: bool) -> Result<Vec<String>> {
        let mut records = csv::Reader::new();
        let mut repaired = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, _) = decode(line, charset);
            for line in csv::lines(&text, unicode) {
                let record = records.line("x".as_ref(), line)?;
                repaired.extend(record.iter().flat_map(|record| csv::repaired(record)));
            }
        }
        let rest = records.end();
        repaired.extend(rest.iter().flat_map(|record| csv::repaired(record)));
        Ok(repaired)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, signs in "[\",\n\ra]{0,40}") {
            for bytes in [bytes.as_slice(), signs.as_bytes()] {
                for charset in [Charset::Gb2312, Charset::Gb18030] {
                    for unicode in [false, true] {
                        if let Ok(lines) = lines(bytes, charset, unicode) {
                            prop_assert!(lines.iter().all(|line| line.ends_with('\n')));
                        }
                    }
                }
            }
        }
    }
}
