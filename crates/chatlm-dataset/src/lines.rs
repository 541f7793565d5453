//! Plain text: each line that is not blank is a row with the one field `text`.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use chatlm_job::Error;
use serde_json::{Map, Value};

use crate::rows::{Fault, Fields};

/// Lines without their ends, blank ones left out.
pub(crate) struct Lines {
    pub(crate) reader: Box<dyn BufRead + Send>,
    pub(crate) path: PathBuf,
    pub(crate) failed: bool,
}

impl Lines {
    pub(crate) fn new(path: &Path, reader: Box<dyn BufRead + Send>) -> Self {
        Self {
            reader,
            path: path.to_owned(),
            failed: false,
        }
    }
}

impl Iterator for Lines {
    type Item = Result<String, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {
                    line.truncate(line.trim_end_matches(['\r', '\n']).len());
                    if !line.trim().is_empty() {
                        return Some(Ok(line));
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(Fault::File(Error::io(&error, "read", &self.path))));
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
