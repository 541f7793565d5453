//! Plain text: each line that is not blank is a row with the one field `text`.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::packed::read_error;
use crate::rows::{Fault, Fields};

/// Bytes of a row at most: what is longer is a file of another kind, or a broken one, and is not held.
pub(crate) const LIMIT: usize = 64 << 20;

/// What is wrong with a row above the limit.
pub(crate) fn too_long() -> String {
    format!("it is longer than {} MiB", LIMIT >> 20)
}

/// Lines without their ends, blank ones left out.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    failed: bool,
}

impl Lines {
    pub(crate) fn new(path: &Path, reader: Box<dyn BufRead + Send>) -> Self {
        Self {
            reader,
            path: path.to_owned(),
            failed: false,
        }
    }

    /// The next line with its end; `None` behind the last, an error text for one above the limit.
    pub(crate) fn line(&mut self) -> io::Result<Option<Result<String, String>>> {
        let (mut line, mut size) = (Vec::new(), 0);
        loop {
            let piece = self.reader.fill_buf()?;
            let end = piece.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(piece.len(), |end| end + 1);
            size += used;
            if size <= LIMIT {
                line.extend_from_slice(&piece[..used]);
            } else {
                line = Vec::new();
            }
            self.reader.consume(used);
            if end.is_some() || used == 0 {
                break;
            }
        }
        Ok(match size {
            0 => None,
            _ if size > LIMIT => Some(Err(too_long())),
            _ => Some(String::from_utf8(line).map_err(|_| "it is no text".to_owned())),
        })
    }
}

impl Iterator for Lines {
    type Item = Result<String, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.line() {
                Ok(None) => return None,
                Ok(Some(Ok(mut line))) => {
                    line.truncate(line.trim_end_matches(['\r', '\n']).len());
                    if !line.trim().is_empty() {
                        return Some(Ok(line));
                    }
                }
                Ok(Some(Err(what))) => return Some(Err(Fault::Row(what))),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(Fault::File(read_error(&error, &self.path))));
                }
            }
        }
        None
    }
}

pub(crate) fn lines(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
) -> impl Iterator<Item = Result<Fields, Fault>> + Send + use<> {
    Lines::new(path, reader).map(|line| {
        let mut fields = Map::new();
        fields.insert("text".to_owned(), Value::String(line?));
        Ok(fields)
    })
}
