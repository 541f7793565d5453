//! Two numbers a row on disk, in the order of the rows: appended in blocks that each have a checksum, so
//! that a computation that was killed goes on where its last whole block ended, and damage is found.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatlm_job::{Error, Result};

const MAGIC: &[u8; 8] = b"chatlmS1";

/// What a file holds, up to the first block that is not whole.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Scores {
    pub(crate) chosen: Vec<f32>,
    pub(crate) rejected: Vec<f32>,
}

/// What reading found.
pub(crate) struct Read {
    pub(crate) scores: Scores,
    /// Bytes of the file that are whole.
    length: u64,
    /// More than a torn end is wrong.
    pub(crate) damaged: bool,
}

impl Scores {
    pub(crate) fn rows(&self) -> u64 {
        self.chosen.len() as u64
    }

    /// Rows `from..` as a block: their number, the values, the checksum of both.
    fn block(&self, from: usize) -> Vec<u8> {
        let mut bytes = ((self.chosen.len() - from) as u32).to_le_bytes().to_vec();
        for pair in self.chosen[from..].iter().zip(&self.rejected[from..]) {
            bytes.extend(pair.0.to_le_bytes());
            bytes.extend(pair.1.to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// A whole file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.block(0)].concat()
    }
}

fn number(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

/// Reads what is whole; a file that is not there is an empty one.
pub(crate) fn read(path: &Path) -> Read {
    let bytes = fs::read(path).unwrap_or_default();
    let mut found = Read {
        scores: Scores::default(),
        length: 0,
        damaged: !bytes.is_empty() && !bytes.starts_with(MAGIC),
    };
    if !bytes.starts_with(MAGIC) {
        return found;
    }
    let mut at = MAGIC.len();
    while let Some(count) = number(&bytes, at) {
        let values = u32::from_le_bytes(count) as usize * 8;
        let Some(sum) = number(&bytes, at + 4 + values) else {
            break;
        };
        if crc32c::crc32c(&bytes[at..at + 4 + values]) != u32::from_le_bytes(sum) {
            found.damaged = true;
            break;
        }
        for pair in bytes[at + 4..at + 4 + values].as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            found.scores.chosen.push(f32::from_le_bytes([a, b, c, d]));
            found.scores.rejected.push(f32::from_le_bytes([e, f, g, h]));
        }
        at += values + 8;
    }
    found.length = at as u64;
    found
}

/// A file that grows.
pub(crate) struct ScoreFile {
    path: PathBuf,
    file: File,
    pub(crate) scores: Scores,
    written: usize,
}

impl ScoreFile {
    /// Opens a file behind what is whole in it.
    pub(crate) fn open(path: &Path, found: Read) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io(&e, "write", path);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(fail)?;
        file.set_len(found.length).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        if found.length == 0 {
            file.write_all(MAGIC).map_err(fail)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            written: found.scores.chosen.len(),
            scores: found.scores,
        })
    }

    /// Writes the rows that came since the last time.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.written < self.scores.chosen.len() {
            let block = self.scores.block(self.written);
            self.file
                .write_all(&block)
                .map_err(|e| Error::io(&e, "write", &self.path))?;
            self.written = self.scores.chosen.len();
        }
        Ok(())
    }

    /// Writes and syncs all; the scores.
    pub(crate) fn finish(mut self) -> Result<Scores> {
        self.flush()?;
        self.file
            .sync_all()
            .map_err(|e| Error::io(&e, "write", &self.path))?;
        Ok(self.scores)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn add(file: &mut ScoreFile, rows: std::ops::Range<u32>) {
        file.scores.chosen.extend(rows.clone().map(|n| n as f32));
        file.scores.rejected.extend(rows.map(|n| -(n as f32)));
        file.flush().unwrap();
    }

    #[test]
    fn a_torn_end_and_damage_cost_only_what_is_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.scores");
        let mut file = ScoreFile::open(&path, read(&path)).unwrap();
        add(&mut file, 0..5);
        add(&mut file, 5..9);
        let whole = file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(read(&path).scores, whole);

        // Any cut leaves whole blocks, and going on gives the same file.
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let found = read(&path);
            let rows = found.scores.rows() as u32;
            assert!([0, 5].contains(&rows), "{cut}");
            assert!(!found.damaged || cut < MAGIC.len());
            let mut file = ScoreFile::open(&path, found).unwrap();
            if rows == 0 {
                add(&mut file, 0..5);
            }
            add(&mut file, 5..9);
            assert_eq!(file.finish().unwrap(), whole);
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        // A changed byte of a value is found.
        for (at, rows) in [(14, 0), (8 + 8 + 40 + 6, 5)] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            let found = read(&path);
            assert!(found.damaged);
            assert_eq!(found.scores.rows(), rows);
        }
        fs::write(&path, whole.to_bytes()).unwrap();
        assert_eq!(read(&path).scores, whole);
    }
}
