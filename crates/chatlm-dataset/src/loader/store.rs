//! Rows on disk that any place can be read from: what the loader makes of inputs that have no such
//! place, in one pass and in the memory of one block.
//!
//! A file holds blocks of 1024 rows, each packed by zstd, then where they start. Files live in the
//! user's cache, by a key that names the input, its size, its time and the columns, so the next start
//! finds them. What nobody has opened for a month goes when another file is made.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use chatlm_job::{AtomicFile, Code, Error, Result, sha256_bytes};

/// Rows packed together.
const BLOCK: u64 = 1024;

/// The end of a whole file; another layout gets another number.
const MAGIC: &[u8; 8] = b"chatlmR1";

const ENDING: &str = "rows";
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// zstd's quickest level packs text to a third.
const LEVEL: i32 = 1;

/// A length that says null.
const NULL: u32 = u32::MAX;

/// The texts of a row by column.
pub(super) type Texts = Vec<Option<String>>;

/// Where the rows of an input are kept; `None` where the input cannot be told again.
pub(super) fn place(folder: &Path, input: &Path, columns: &[String]) -> Option<PathBuf> {
    let path = fs::canonicalize(input).ok()?;
    let about = fs::metadata(&path).ok()?;
    let time = about.modified().ok()?;
    let time = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    let key = format!(
        "{}\n{}\n{time}\n{}",
        path.display(),
        about.len(),
        columns.join("\n")
    );
    Some(folder.join(format!("{}.{ENDING}", &sha256_bytes(key.as_bytes())[..32])))
}

/// A place for rows that are read once, such as those of standard input.
pub(super) fn place_once(folder: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let key = format!(
        "{}-{}",
        std::process::id(),
        now.unwrap_or_default().as_nanos()
    );
    folder.join(format!("once-{key}.{ENDING}"))
}

/// Rows being written.
pub(super) struct Writer {
    target: PathBuf,
    file: AtomicFile,
    columns: usize,
    block: Vec<u8>,
    rows: u64,
    ends: Vec<u64>,
}

impl Writer {
    pub(super) fn create(target: &Path, columns: usize) -> Result<Self> {
        target.parent().map(forget_old);
        Ok(Self {
            file: AtomicFile::create(target, true)?,
            target: target.to_owned(),
            columns,
            block: Vec::new(),
            rows: 0,
            ends: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, texts: &[Option<String>]) -> Result<()> {
        for text in texts {
            let length = text.as_ref().map_or(NULL, |text| text.len() as u32);
            self.block.extend(length.to_le_bytes());
            self.block
                .extend_from_slice(text.as_deref().unwrap_or_default().as_bytes());
        }
        self.rows += 1;
        if self.rows.is_multiple_of(BLOCK) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let fail = |e: &std::io::Error| Error::io(e, "write", &self.target);
        let packed = pack(&self.block).map_err(|e| fail(&e))?;
        let before = self.ends.last().copied().unwrap_or(0);
        self.file
            .write_all(&(self.block.len() as u64).to_le_bytes())
            .and_then(|()| self.file.write_all(&packed))
            .map_err(|e| fail(&e))?;
        self.ends.push(before + 8 + packed.len() as u64);
        self.block.clear();
        Ok(())
    }

    /// Puts the file in place and opens it.
    pub(super) fn finish(mut self) -> Result<Store> {
        self.flush()?;
        let mut tail: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        tail.extend(self.rows.to_le_bytes());
        tail.extend(MAGIC);
        self.file
            .write_all(&tail)
            .map_err(|e| Error::io(&e, "write", &self.target))?;
        self.file.commit()?;
        Store::open(&self.target, self.columns)
            .ok_or_else(|| Error::internal(format!("{} cannot be read", self.target.display())))
    }
}

/// A block with its checksum.
fn pack(block: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
    packer.include_checksum(true)?;
    packer.compress(block)
}

/// Rows on disk.
pub(super) struct Store {
    path: PathBuf,
    file: Mutex<File>,
    columns: usize,
    pub(super) rows: u64,
    /// Where each block ends.
    ends: Vec<u64>,
}

impl Store {
    /// Opens what is there; anything but a whole file counts as nothing.
    pub(super) fn open(path: &Path, columns: usize) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let size = file.seek(SeekFrom::End(0)).ok()?;
        let mut last = [0; 16];
        file.seek(SeekFrom::Start(size.checked_sub(16)?)).ok()?;
        file.read_exact(&mut last).ok()?;
        let (rows, magic) = last.split_at(8);
        let rows = u64::from_le_bytes(rows.try_into().ok()?);
        let start = size.checked_sub(16 + rows.div_ceil(BLOCK).checked_mul(8)?)?;
        let mut table = vec![0; (size - 16 - start) as usize];
        file.seek(SeekFrom::Start(start)).ok()?;
        file.read_exact(&mut table).ok()?;
        let ends: Vec<u64> = table
            .chunks_exact(8)
            .filter_map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))
            .collect();
        let whole = magic == MAGIC && ends.last().copied().unwrap_or(0) == start;
        // Says that it is in use, for whoever clears old ones.
        let _ = file.set_modified(SystemTime::now());
        whole.then(|| Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            columns,
            rows,
            ends,
        })
    }

    /// Rows `start..start + count`.
    pub(super) fn read(&self, start: u64, count: u64) -> Result<Vec<Texts>> {
        let mut rows = Vec::with_capacity(count as usize);
        let end = (start + count).min(self.rows);
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            let bytes = self.block(block as usize)?;
            let mut rest = bytes.as_slice();
            for row in block * BLOCK..((block + 1) * BLOCK).min(end) {
                let texts: Result<Texts, Short> =
                    (0..self.columns).map(|_| text(&mut rest)).collect();
                let texts = texts.map_err(|Short| self.damaged())?;
                if row >= start {
                    rows.push(texts);
                }
            }
        }
        Ok(rows)
    }

    fn block(&self, block: usize) -> Result<Vec<u8>> {
        let start = block.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut packed = vec![0; (self.ends[block] - start) as usize];
        let read = match self.file.lock() {
            Ok(mut file) => file
                .seek(SeekFrom::Start(start))
                .and_then(|_| file.read_exact(&mut packed)),
            Err(_) => return Err(self.damaged()),
        };
        read.map_err(|e| Error::io(&e, "read", &self.path))?;
        let (size, packed) = packed.split_first_chunk().ok_or_else(|| self.damaged())?;
        zstd::bulk::decompress(packed, u64::from_le_bytes(*size) as usize)
            .map_err(|_| self.damaged())
    }

    fn damaged(&self) -> Error {
        Error::new(
            Code::InputFormat,
            format!("{} is damaged", self.path.display()),
            "remove it: it is made again from the input",
        )
        .with("file", self.path.display().to_string())
    }

    /// Takes the file's name away; what is open stays readable where the system allows it.
    pub(super) fn unnamed(self) -> Self {
        let _ = fs::remove_file(&self.path);
        self
    }
}

/// The bytes of a block end too early.
struct Short;

/// Takes the next text, which may be null.
fn text(rest: &mut &[u8]) -> Result<Option<String>, Short> {
    let (length, behind) = rest.split_first_chunk().ok_or(Short)?;
    let length = u32::from_le_bytes(*length);
    if length == NULL {
        *rest = behind;
        return Ok(None);
    }
    let (bytes, behind) = behind.split_at_checked(length as usize).ok_or(Short)?;
    *rest = behind;
    String::from_utf8(bytes.to_vec())
        .map(Some)
        .map_err(|_| Short)
}

/// Removes files that were not opened for a month, as far as that can be done.
fn forget_old(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let old = entry
            .metadata()
            .and_then(|about| about.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MONTH));
        if old && path.extension().is_some_and(|ending| ending == ENDING) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn row(number: u64) -> Texts {
        vec![
            Some(format!("问{number}")),
            (!number.is_multiple_of(7)).then(|| "答".repeat(number as usize % 50)),
        ]
    }

    #[test]
    fn rows_come_back_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        for rows in [0, 1, 1023, 1024, 1025, 5000] {
            let target = folder.path().join(format!("{rows}.rows"));
            let mut writer = Writer::create(&target, 2).unwrap();
            for number in 0..rows {
                writer.push(&row(number)).unwrap();
            }
            let store = writer.finish().unwrap();
            assert_eq!(store.rows, rows);
            for (start, count) in [(0, 10), (0, rows), (1000, 100), (1024, 1), (rows, 5)] {
                let expected: Vec<Texts> = (start..(start + count).min(rows)).map(row).collect();
                assert_eq!(
                    store.read(start, count).unwrap(),
                    expected,
                    "{start} {count}"
                );
            }
        }
    }

    #[test]
    fn half_a_file_counts_as_none_and_a_damaged_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.rows");
        let mut writer = Writer::create(&target, 2).unwrap();
        (0..3000).for_each(|number| writer.push(&row(number)).unwrap());
        drop(writer.finish().unwrap());
        let bytes = fs::read(&target).unwrap();
        for size in [0, 10, 1000, bytes.len() - 1] {
            fs::write(&target, &bytes[..size]).unwrap();
            assert!(Store::open(&target, 2).is_none(), "{size}");
        }
        let mut other = bytes.clone();
        other[100..200].fill(7);
        fs::write(&target, other).unwrap();
        let store = Store::open(&target, 2).unwrap();
        assert_eq!(store.read(0, 1).unwrap_err().code(), Code::InputFormat);
        assert_eq!(store.read(2048, 2).unwrap(), [row(2048), row(2049)]);
    }
}
