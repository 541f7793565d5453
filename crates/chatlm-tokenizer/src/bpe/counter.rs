//! How often each word stands in a text, in bounded memory: words go by their hash into shards, and
//! shards that grow too large go to disk as runs, each to be joined on its own in the end.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use chatlm_job::{Error, Result};
use hashbrown::HashTable;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Shards, and files on disk: one has to fit the memory.
pub(crate) const SHARDS: usize = 64;

/// Follows each word in a [`Batch`]: no byte of UTF-8.
const STOP: u8 = 0xff;

/// Words of some texts, by shard, each followed by `STOP`.
pub(crate) struct Batch {
    shards: Vec<Vec<u8>>,
    pub(crate) words: u64,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            shards: vec![Vec::new(); SHARDS],
            words: 0,
        }
    }

    pub(crate) fn push(&mut self, word: &[u8]) {
        let shard = &mut self.shards[(xxh3_64(word) >> 58) as usize];
        shard.extend_from_slice(word);
        shard.push(STOP);
        self.words += 1;
    }

    /// All words, for comparing.
    #[cfg(test)]
    pub(crate) fn sorted(&self) -> Vec<String> {
        let words = (0..SHARDS).flat_map(|shard| self.shard(shard));
        let mut words: Vec<String> = words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        words.sort();
        words
    }

    fn shard(&self, shard: usize) -> impl Iterator<Item = &[u8]> {
        self.shards[shard]
            .split_inclusive(|byte| *byte == STOP)
            .map(|word| &word[..word.len() - 1])
    }
}

/// A word's place in its shard's bytes.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    end: u32,
    count: u64,
}

/// Distinct words and their counts.
#[derive(Default)]
struct Shard {
    bytes: Vec<u8>,
    table: HashTable<Entry>,
}

impl Shard {
    fn add(&mut self, word: &[u8], count: u64) {
        let Self { bytes, table } = self;
        let text = |entry: &Entry| entry.start as usize..entry.end as usize;
        if let Some(entry) = table.find_mut(xxh3_64(word), |entry| &bytes[text(entry)] == word) {
            entry.count += count;
            return;
        }
        let start = bytes.len() as u32;
        bytes.extend_from_slice(word);
        let entry = Entry {
            start,
            end: bytes.len() as u32,
            count,
        };
        table.insert_unique(xxh3_64(word), entry, |entry| xxh3_64(&bytes[text(entry)]));
    }

    fn memory(&self) -> usize {
        self.bytes.capacity() + self.table.capacity() * (size_of::<Entry>() + 1) * 8 / 7
    }

    /// Whether another batch could make places of 32 bits too small.
    fn full(&self) -> bool {
        self.bytes.len() > 1 << 31
    }

    fn each(&self, mut word: impl FnMut(&[u8], u64)) {
        for entry in &self.table {
            word(
                &self.bytes[entry.start as usize..entry.end as usize],
                entry.count,
            );
        }
    }
}

/// Counts words.
pub(crate) struct Counter {
    shards: Vec<Shard>,
    /// Bytes that shards may take.
    memory: usize,
    spill: Spill,
}

/// The files of shards that went to disk.
struct Spill {
    folder: PathBuf,
    files: Vec<Option<BufWriter<File>>>,
    /// What the joined words take at most: symbols and entries.
    pub(crate) written: Written,
}

/// Sums over words.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) words: u64,
    pub(crate) bytes: u64,
}

impl Counter {
    /// Runs go into `folder`, which is made when it is needed.
    pub(crate) fn new(folder: &Path, memory: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            memory,
            spill: Spill {
                folder: folder.to_owned(),
                files: (0..SHARDS).map(|_| None).collect(),
                written: Written::default(),
            },
        }
    }

    pub(crate) fn add(&mut self, batches: &[Batch]) -> Result<()> {
        self.shards
            .par_iter_mut()
            .enumerate()
            .for_each(|(n, shard)| {
                for batch in batches {
                    for word in batch.shard(n) {
                        shard.add(word, 1);
                    }
                }
            });
        let memory: usize = self.shards.iter().map(Shard::memory).sum();
        if memory > self.memory || self.shards.iter().any(Shard::full) {
            self.spill.write(&mut self.shards)?;
        }
        Ok(())
    }

    /// Adds a word seen `count` times.
    pub(crate) fn add_counted(&mut self, word: &[u8], count: u64) {
        self.shards[(xxh3_64(word) >> 58) as usize].add(word, count);
    }

    /// At least the distinct words there are, and their bytes.
    pub(crate) fn bound(&self) -> Written {
        let mut sum = self.spill.written;
        for shard in &self.shards {
            sum.words += shard.table.len() as u64;
            sum.bytes += shard.bytes.len() as u64;
        }
        sum
    }

    /// Writes all words to a file; what it holds.
    pub(crate) fn save(self, path: &Path) -> Result<Written> {
        let fail = |e: io::Error| Error::io(&e, "write", path);
        let mut file = BufWriter::with_capacity(1 << 18, File::create(path).map_err(fail)?);
        let mut written = Written::default();
        let mut failed = None;
        self.drain(|word, count| {
            written.words += 1;
            written.bytes += word.len() as u64;
            if failed.is_none() {
                failed = write_run(&mut file, word, count).err();
            }
        })?;
        let file = match failed {
            Some(error) => Err(error),
            None => file.into_inner().map_err(io::IntoInnerError::into_error),
        };
        file.and_then(|file| file.sync_all()).map_err(fail)?;
        Ok(written)
    }

    /// Every word once with its count, shard by shard, each given up before the next.
    pub(crate) fn drain(mut self, mut word: impl FnMut(&[u8], u64)) -> Result<()> {
        let spilled = self.spill.files.iter().any(Option::is_some);
        if spilled {
            self.spill.write(&mut self.shards)?;
        }
        for n in 0..SHARDS {
            let mut shard = std::mem::take(&mut self.shards[n]);
            if let Some(file) = self.spill.files[n].take() {
                self.spill.read(n, file, &mut shard)?;
            }
            shard.each(&mut word);
        }
        Ok(())
    }
}

/// Words that were counted, here or in a file.
pub(crate) enum Words {
    Counted(Counter),
    /// As [`Counter::save`] wrote them.
    Saved(PathBuf, Written),
}

impl Words {
    /// At least the distinct words there are, and their bytes.
    pub(crate) fn bound(&self) -> Written {
        match self {
            Self::Counted(counter) => counter.bound(),
            Self::Saved(_, written) => *written,
        }
    }

    /// Every word once with its count.
    pub(crate) fn drain(self, mut each: impl FnMut(&[u8], u64)) -> Result<()> {
        match self {
            Self::Counted(counter) => counter.drain(each),
            Self::Saved(path, _) => read_all(&path, |word, count| each(word, count)),
        }
    }
}

fn read_all(path: &Path, mut each: impl FnMut(&[u8], u64)) -> Result<()> {
    let fail = |e: io::Error| Error::io(&e, "read", path);
    let mut file = BufReader::with_capacity(1 << 18, File::open(path).map_err(fail)?);
    let mut word = Vec::new();
    while let Some(count) = read_run(&mut file, &mut word).map_err(fail)? {
        each(&word, count);
    }
    Ok(())
}

impl Spill {
    fn path(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("words-{shard:02}"))
    }

    /// Appends all shards to their files and empties them, which keeps their memory.
    fn write(&mut self, shards: &mut [Shard]) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::io(&e, "write", &self.folder))?;
        for (n, shard) in shards.iter_mut().enumerate() {
            let path = self.path(n);
            let fail = |e: io::Error| Error::io(&e, "write", &path);
            let file = match &mut self.files[n] {
                Some(file) => file,
                none => none.insert(BufWriter::with_capacity(
                    1 << 16,
                    File::create(&path).map_err(fail)?,
                )),
            };
            for entry in &shard.table {
                let word = &shard.bytes[entry.start as usize..entry.end as usize];
                write_run(file, word, entry.count).map_err(fail)?;
            }
            file.flush().map_err(fail)?;
            self.written.words += shard.table.len() as u64;
            self.written.bytes += shard.bytes.len() as u64;
            shard.table.clear();
            shard.bytes.clear();
        }
        Ok(())
    }

    fn read(&self, n: usize, file: BufWriter<File>, shard: &mut Shard) -> Result<()> {
        drop(file);
        let path = self.path(n);
        read_all(&path, |word, count| shard.add(word, count))?;
        std::fs::remove_file(&path).map_err(|e| Error::io(&e, "read", &path))
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if self.files.iter().any(Option::is_some) || self.folder.is_dir() {
            self.files.clear();
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

fn write_run(file: &mut impl Write, word: &[u8], count: u64) -> io::Result<()> {
    file.write_all(&count.to_le_bytes())?;
    file.write_all(&(word.len() as u32).to_le_bytes())?;
    file.write_all(word)
}

/// The next word into `word`, and its count; `None` at the end.
fn read_run(file: &mut impl Read, word: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let mut head = [0; 12];
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..])? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    let (count, length) = head.split_at(8);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte))
    };
    word.resize(number(length) as usize, 0);
    file.read_exact(word)?;
    Ok(Some(number(count)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn counted(memory: usize, words: &[String]) -> HashMap<String, u64> {
        let folder = tempfile::tempdir().unwrap();
        let spill = folder.path().join("spill");
        let mut counter = Counter::new(&spill, memory);
        for piece in words.chunks(100) {
            let mut batch = Batch::new();
            for word in piece {
                batch.push(word.as_bytes());
            }
            counter.add(&[batch]).unwrap();
        }
        assert_eq!(spill.is_dir(), memory < 1 << 20);
        let bound = counter.bound().words;
        let mut counts = HashMap::new();
        counter
            .drain(|word, count| {
                let word = String::from_utf8(word.to_vec()).unwrap();
                assert_eq!(counts.insert(word, count), None);
            })
            .unwrap();
        assert!(!spill.exists());
        assert!(bound >= counts.len() as u64);
        counts
    }

    #[test]
    fn spilling_changes_no_count() {
        let words: Vec<String> = (0..5000)
            .map(|n: u32| format!("词{}", n * n % 200 + n % 7))
            .collect();
        let mut plain: HashMap<String, u64> = HashMap::new();
        for word in &words {
            *plain.entry(word.clone()).or_default() += 1;
        }
        assert_eq!(counted(1 << 30, &words), plain);
        assert_eq!(counted(1, &words), plain);
    }
}
