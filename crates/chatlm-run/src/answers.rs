//! Answers that are kept while more are found: a line each, `{"row":N,"response":"…"}`, in a file that
//! grows. Groups of rows come in order, rows inside a group in any.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use chatlm_job::{Error, Result};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Line {
    row: u64,
    response: String,
}

pub(crate) struct Answers {
    path: PathBuf,
    /// Of what an earlier process wrote.
    reader: BufReader<File>,
    kept: u64,
    left: u64,
    /// Read, but of a later group.
    ahead: Option<Line>,
    file: File,
    waiting: Vec<u8>,
}

impl Answers {
    /// Opens a file and cuts off what a kill has torn.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io(&e, "write", path);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(fail)?;
        let (mut kept, mut whole) = (0, 0);
        let mut reader = BufReader::new(File::open(path).map_err(fail)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(fail)?;
            if length == 0
                || !line.ends_with(b"\n")
                || serde_json::from_slice::<Line>(&line).is_err()
            {
                break;
            }
            kept += 1;
            whole += length as u64;
        }
        file.set_len(whole).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        reader.rewind().map_err(fail)?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            kept,
            left: kept,
            ahead: None,
            file,
            waiting: Vec::new(),
        })
    }

    /// How many an earlier process has left.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// The kept answers to these rows, which are behind those asked for before.
    pub(crate) fn of(&mut self, rows: Range<u64>) -> Result<HashMap<u64, String>> {
        let mut found = HashMap::new();
        loop {
            let line = match self.ahead.take() {
                Some(line) => line,
                None if self.left == 0 => return Ok(found),
                None => {
                    let mut text = String::new();
                    self.reader
                        .read_line(&mut text)
                        .map_err(|e| Error::io(&e, "read", &self.path))?;
                    self.left -= 1;
                    serde_json::from_str(&text).map_err(Error::internal)?
                }
            };
            if line.row >= rows.end {
                self.ahead = Some(line);
                return Ok(found);
            }
            found.insert(line.row, line.response);
        }
    }

    pub(crate) fn add(&mut self, row: u64, response: &str) -> Result<()> {
        let line = Line {
            row,
            response: response.to_owned(),
        };
        serde_json::to_writer(&mut self.waiting, &line).map_err(Error::internal)?;
        self.waiting.push(b'\n');
        Ok(())
    }

    /// Hands what was added to the system: it outlives this process.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file
            .write_all(&self.waiting)
            .map_err(|e| Error::io(&e, "write", &self.path))?;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn answers_come_back_by_groups_and_a_torn_line_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let mut answers = Answers::open(&path).unwrap();
        assert!(answers.of(0..3).unwrap().is_empty());
        for (row, text) in [(2, "丙"), (0, "甲"), (4, "戊\n")] {
            answers.add(row, text).unwrap();
        }
        answers.flush().unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in whole.len() - 5..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut answers = Answers::open(&path).unwrap();
            let last = cut == whole.len();
            assert_eq!(answers.kept(), 2 + u64::from(last));
            let first = answers.of(0..3).unwrap();
            assert_eq!(first[&0], "甲");
            assert_eq!((first.len(), first[&2].as_str()), (2, "丙"));
            // New ones are written behind the whole ones.
            answers.add(1, "乙").unwrap();
            answers.flush().unwrap();
            let second = answers.of(3..6).unwrap();
            assert_eq!(second.get(&4).map(String::as_str), last.then_some("戊\n"));
        }
    }
}
