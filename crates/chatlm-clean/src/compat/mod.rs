//! How the reference program reads the medical csv files (`repair_line_error_csv_file` and what
//! follows it): the bytes as gb2312 with bad ones ignored, csv as Python's module reads it, newlines
//! inside fields to backslash and n, commas inside fields to `，`; written as csv, read again by
//! lines and split at commas, so that quotes stay and a carriage return breaks a row in two.

mod bytes;
mod csv;

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_dataset::{Row, expand};
use chatlm_job::{Error, Result};
use serde_json::{Map, Value};

const NAMES: [&str; 4] = ["department", "title", "ask", "answer"];
/// Everything after the fourth column, joined.
const REST: &str = "rest";

/// The lines of the repaired files as rows, files one after another.
pub(crate) struct CsvRows {
    files: std::vec::IntoIter<PathBuf>,
    encoding: Option<String>,
    file: Arc<str>,
    lines: VecDeque<String>,
    row: u64,
}

impl CsvRows {
    /// With an encoding given, the files are decoded in it; else as the reference program does.
    pub(crate) fn open(paths: &[String], encoding: Option<&str>) -> Result<Self> {
        bytes::check(encoding)?;
        Ok(Self {
            files: expand(paths)?.into_iter(),
            encoding: encoding.map(str::to_owned),
            file: Arc::from(""),
            lines: VecDeque::new(),
            row: 0,
        })
    }

    fn begin(&mut self, path: &Path) -> Result<()> {
        let read = if path == Path::new("-") {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            fs::read(path)
        };
        let bytes = read.map_err(|e| Error::io(&e, "read", path))?;
        let text = bytes::decode(&bytes, self.encoding.as_deref());
        self.file = Arc::from(path.display().to_string());
        self.lines.clear();
        for record in csv::records(path, &text)? {
            self.lines.extend(csv::repaired(&record));
        }
        // The reference program drops the header as a row too short.
        if self
            .lines
            .front()
            .is_some_and(|line| line.trim_end() == NAMES.join(","))
        {
            self.lines.pop_front();
        }
        Ok(())
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
                    fields: fields(&line),
                }));
            }
            let path = self.files.next()?;
            if let Err(error) = self.begin(&path) {
                self.files = Vec::new().into_iter();
                return Some(Err(error));
            }
        }
    }
}

fn fields(line: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut parts = line.split(',');
    for (name, part) in NAMES.iter().zip(parts.by_ref()) {
        fields.insert((*name).to_owned(), part.into());
    }
    let rest: String = parts.collect();
    if !rest.is_empty() {
        fields.insert(REST.to_owned(), rest.into());
    }
    fields
}
