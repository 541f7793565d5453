//! The articles of all inputs as rows, whatever form each file has.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_dataset::{Row, Rows};
use chatlm_job::{Code, Error, Result};
use serde_json::{Map, Value};

use super::bzip::Streams;
use super::dump::{Dump, is_xml};
use super::extracted::{Extracted, Lines};
use super::{Article, Fault};
use crate::options::CleanOptions;
use crate::source::Raw;

/// The form of a file, opened.
enum Form {
    Dump(Dump),
    Extracted(Extracted),
    /// WikiExtractor's `--json`, or any table with `title` and `text`.
    Table(Rows),
}

/// Articles of files.
pub(crate) struct Articles {
    files: std::vec::IntoIter<PathBuf>,
    options: CleanOptions,
    file: Arc<str>,
    form: Option<Form>,
    row: u64,
    broken: u64,
    undecodable: u64,
    ended: bool,
}

impl Articles {
    pub(crate) fn open(files: Vec<PathBuf>, options: &CleanOptions) -> Self {
        Self {
            files: files.into_iter(),
            options: options.clone(),
            file: "".into(),
            form: None,
            row: 0,
            broken: 0,
            undecodable: 0,
            ended: false,
        }
    }

    fn begin(&mut self, path: &Path) -> Result<()> {
        self.file = path.display().to_string().into();
        self.form = Some(form(path, &self.options)?);
        Ok(())
    }

    fn row(&self, article: Article) -> Row {
        let mut fields = Map::new();
        fields.insert("title".to_owned(), article.title.into());
        fields.insert("text".to_owned(), article.text.into());
        fields.insert("markup".to_owned(), article.markup.into());
        fields.insert("redirect".to_owned(), article.redirect.into());
        fields.insert("namespace".to_owned(), article.namespace.into());
        Row {
            file: self.file.clone(),
            row: self.row,
            fields,
        }
    }

    fn close(&mut self) {
        self.undecodable += match self.form.take() {
            Some(Form::Dump(dump)) => dump.undecodable,
            Some(Form::Extracted(extracted)) => extracted.undecodable(),
            Some(Form::Table(rows)) => {
                self.broken += rows.broken();
                rows.undecodable()
            }
            None => 0,
        };
    }

    /// The next article, or why there is none; the file is closed at its end.
    fn article(&mut self) -> Option<Result<Row, Fault>> {
        let article = match self.form.as_mut()? {
            Form::Dump(dump) => dump.next(),
            Form::Extracted(extracted) => extracted.next(),
            Form::Table(rows) => {
                return rows.next().map(|row| {
                    let mut row = row.map_err(|error| Fault::File(error.message().to_owned()))?;
                    row.file = self.file.clone();
                    row.row = self.row;
                    if let Some(Value::String(title)) = row.fields.get("title") {
                        let title = title.clone();
                        row.fields.insert("title".to_owned(), title.into());
                    }
                    Ok(row)
                });
            }
        };
        article.map(|article| article.map(|article| self.row(article)))
    }
}

impl Iterator for Articles {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if self.form.is_none() {
                let path = self.files.next()?;
                if let Err(error) = self.begin(&path) {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
            let Some(article) = self.article() else {
                self.close();
                continue;
            };
            let (what, whole) = match article {
                Ok(row) => {
                    self.row += 1;
                    return Some(Ok(row));
                }
                Err(Fault::Article(what)) => (what, false),
                Err(Fault::File(what)) => (what, true),
            };
            let row = self.row;
            self.row += 1;
            if self.options.keep_going {
                self.broken += 1;
                if whole {
                    self.close();
                }
                continue;
            }
            self.ended = true;
            let code = if whole {
                Code::InputFormat
            } else {
                Code::InputRow
            };
            let error = Error::new(
                code,
                format!("{}, row {row}: {what}", self.file),
                "make or fetch the file again; --keep-going keeps what could be read",
            );
            return Some(Err(error.with("file", &*self.file).with("row", row)));
        }
        None
    }
}

impl Raw for Articles {
    fn broken(&self) -> u64 {
        self.broken
    }

    fn undecodable(&self) -> u64 {
        self.undecodable
    }
}

/// Tells the form of a file by its first bytes.
fn form(path: &Path, options: &CleanOptions) -> Result<Form> {
    let fail = |e: &std::io::Error| Error::io(e, "read", path);
    let mut file = open(path)?;
    let head = file.fill_buf().map_err(|e| fail(&e))?;
    if head.starts_with(b"BZh") {
        let streams = Streams::new(file);
        return Ok(Form::Dump(Dump::new(Box::new(streams))));
    }
    if is_xml(&mut file).map_err(|e| fail(&e))? {
        return Ok(Form::Dump(Dump::new(Box::new(file))));
    }
    let head = file.fill_buf().map_err(|e| fail(&e))?;
    let start = head
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .unwrap_or(0);
    if head[start..].starts_with(b"{") || head.starts_with(b"PAR1") {
        drop(file);
        let rows = Rows::open(&[path.display().to_string()], &options.input())?;
        return Ok(Form::Table(rows));
    }
    let docs = head[start..].starts_with(b"<doc ");
    let name: Arc<str> = path.display().to_string().into();
    Ok(Form::Extracted(Extracted::new(
        Lines::of(name, Box::new(file)),
        docs,
    )))
}

fn open(path: &Path) -> Result<BufReader<Box<dyn std::io::Read + Send>>> {
    let source: Box<dyn std::io::Read + Send> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).map_err(|e| Error::io(&e, "read", path))?)
    };
    Ok(BufReader::with_capacity(1 << 18, source))
}

/// Whether a file is a dump.
pub(super) fn is_dump(path: &Path) -> Result<bool> {
    if path == Path::new("-") {
        return Ok(false);
    }
    let mut file = open(path)?;
    let fail = |e: std::io::Error| Error::io(&e, "read", path);
    Ok(file.fill_buf().map_err(fail)?.starts_with(b"BZh") || is_xml(&mut file).map_err(fail)?)
}
