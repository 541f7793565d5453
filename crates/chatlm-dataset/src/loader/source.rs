//! The rows of all sets by index, in bounded memory: parquet is read by slices where they are; of other
//! formats a little is held in memory, more is put into a store on disk (`store.rs`). So is parquet
//! whose row groups are too large to be read by slices.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_job::{Job, Result, cache_folder};

use super::SetSpec;
use super::store::{Store, Texts, Writer, place, place_once};
use crate::input::{InputOptions, Opened, expand, open};
use crate::parquet::ParquetTable;
use crate::rows::{Rows, row_error};

/// What the loader takes from a row.
#[derive(Debug)]
pub(crate) struct Record {
    /// Counted over all sets.
    pub(crate) index: u64,
    /// One text a column, or what is wrong with the row.
    pub(crate) texts: Result<Vec<String>>,
}

/// Bytes of text held in memory, over all sets.
const HELD: u64 = 64 << 20;

/// Row groups above this size are not read by slices: each slice reads its group from the start.
const GROUP: u64 = 64 << 20;

/// Rows of such a table read at a time.
const PIECE: u64 = 65_536;

enum Kind {
    Parquet(ParquetTable),
    Memory(Vec<Texts>),
    Store(Store),
}

struct SourceFile {
    name: Arc<str>,
    /// The first row's index over all sets, and its number over the inputs of its set.
    first: u64,
    number: u64,
    rows: u64,
    kind: Kind,
}

pub(crate) struct Source {
    files: Vec<SourceFile>,
    columns: Vec<String>,
    /// Where stores are.
    cache: PathBuf,
    /// Rows of each set.
    pub(crate) sets: Vec<u64>,
}

/// What makes a text unfit, if anything.
fn fault(file: &str, row: u64, column: &str, text: Option<&str>) -> Result<()> {
    let what = match text {
        None => "is null",
        Some("") => "is empty",
        Some(_) => return Ok(()),
    };
    Err(row_error(file, row, &format!("the field {column:?} {what}")).with("field", column))
}

impl Source {
    pub(crate) fn open(
        sets: &[SetSpec],
        columns: &[String],
        cache: Option<PathBuf>,
        job: &Job,
    ) -> Result<Self> {
        let mut source = Self {
            files: Vec::new(),
            columns: columns.to_vec(),
            cache: cache.unwrap_or_else(|| cache_folder("rows")),
            sets: Vec::new(),
        };
        let (mut first, mut held) = (0, HELD);
        for set in sets {
            let start = first;
            for path in expand(&set.paths)? {
                job.cancel.check()?;
                let kind = source.open_file(&path, first - start, &mut held, job)?;
                let file = SourceFile {
                    name: path.display().to_string().into(),
                    first,
                    number: first - start,
                    rows: kind.rows(),
                    kind,
                };
                first += file.rows;
                source.files.push(file);
            }
            source.sets.push(first - start);
        }
        Ok(source)
    }

    fn open_file(&self, path: &Path, number: u64, held: &mut u64, job: &Job) -> Result<Kind> {
        let options = InputOptions::default();
        // Standard input is opened once, by the rows; looking at it here would use it up.
        let stdin = path.as_os_str() == "-";
        let opened = if stdin {
            None
        } else {
            Some(open(path, &options, Arc::default())?)
        };
        let table = match opened {
            Some(Opened::Parquet(bytes)) => Some(ParquetTable::open(path, bytes)?),
            _ => None,
        };
        if let Some(table) = &table {
            for column in &self.columns {
                if !table.columns.iter().any(|(known, _)| known == column) {
                    let there: Vec<&str> = table.columns.iter().map(|(n, _)| n.as_str()).collect();
                    let what = format!("there is no field {column:?}; it has {}", there.join(", "));
                    let name = path.display().to_string();
                    return Err(row_error(&name, number, &what).with("field", column.as_str()));
                }
            }
        }
        let kept = place(&self.cache, path, &self.columns).filter(|_| !stdin);
        let fits = table
            .as_ref()
            .is_some_and(|table| table.largest_group() <= GROUP);
        match table {
            Some(table) if fits => return Ok(Kind::Parquet(table)),
            _ => {}
        }
        let width = self.columns.len();
        if let Some(store) = kept.as_deref().and_then(|place| Store::open(place, width)) {
            return Ok(Kind::Store(store));
        }
        let once = kept.is_none();
        let kept = kept.unwrap_or_else(|| place_once(&self.cache));
        let mut keeper = Keeper::new(kept, width, held);
        match table {
            Some(table) => self.keep_table(&table, number, &mut keeper, job)?,
            None => self.keep_rows(path, &options, number, &mut keeper, job)?,
        }
        keeper.finish(once)
    }

    fn keep_rows(
        &self,
        path: &Path,
        options: &InputOptions,
        number: u64,
        keeper: &mut Keeper<'_>,
        job: &Job,
    ) -> Result<()> {
        let name = path.display().to_string();
        for row in Rows::of(vec![path.to_owned()], options).counted_from(number) {
            let row = row?;
            if row.row.is_multiple_of(1024) {
                job.cancel.check()?;
                job.progress.report("index", row.row, None, "rows");
            }
            let mut texts = Vec::with_capacity(self.columns.len());
            for column in &self.columns {
                let text = row.text(column)?;
                fault(&name, row.row, column, Some(text))?;
                texts.push(Some(text.to_owned()));
            }
            keeper.push(texts)?;
        }
        Ok(())
    }

    /// Reads a table from its start to its end. A piece reads its row group from the start, so pieces
    /// are large.
    fn keep_table(
        &self,
        table: &ParquetTable,
        number: u64,
        keeper: &mut Keeper<'_>,
        job: &Job,
    ) -> Result<()> {
        let mut start = 0;
        while start < table.rows {
            let rows = PIECE.min(table.rows - start);
            job.cancel.check()?;
            job.progress
                .report("index", start, Some(table.rows), "rows");
            let mut columns = table.texts(start, rows, &self.columns, number)?;
            for row in 0..rows as usize {
                keeper.push(columns.iter_mut().map(|texts| texts[row].take()).collect())?;
            }
            start += rows;
        }
        Ok(())
    }

    /// The rows with these indices, which rise and lie near each other.
    pub(crate) fn read(&self, indices: &[u64]) -> Result<Vec<Record>> {
        let mut records = Vec::with_capacity(indices.len());
        let mut rest = indices;
        while let Some(index) = rest.first() {
            let place = self
                .files
                .partition_point(|file| file.first + file.rows <= *index);
            let Some(file) = self.files.get(place) else {
                return Err(chatlm_job::Error::internal(format!(
                    "there is no row {index}"
                )));
            };
            let here = rest.partition_point(|index| *index < file.first + file.rows);
            file.read(&rest[..here], &self.columns, &mut records)?;
            rest = &rest[here..];
        }
        Ok(records)
    }
}

impl Kind {
    fn rows(&self) -> u64 {
        match self {
            Self::Parquet(table) => table.rows,
            Self::Memory(rows) => rows.len() as u64,
            Self::Store(store) => store.rows,
        }
    }
}

/// Takes rows into memory while there is room, then to disk.
struct Keeper<'a> {
    place: PathBuf,
    width: usize,
    /// Bytes that may still be held.
    room: &'a mut u64,
    memory: Vec<Texts>,
    store: Option<Writer>,
}

impl<'a> Keeper<'a> {
    fn new(place: PathBuf, width: usize, room: &'a mut u64) -> Self {
        Self {
            place,
            width,
            room,
            memory: Vec::new(),
            store: None,
        }
    }

    fn push(&mut self, texts: Texts) -> Result<()> {
        if let Some(store) = &mut self.store {
            return store.push(&texts);
        }
        let taken = size(&texts);
        self.memory.push(texts);
        if taken <= *self.room {
            *self.room -= taken;
            return Ok(());
        }
        let mut store = Writer::create(&self.place, self.width)?;
        *self.room += self.memory.iter().map(size).sum::<u64>() - taken;
        for texts in self.memory.drain(..) {
            store.push(&texts)?;
        }
        self.memory = Vec::new();
        self.store = Some(store);
        Ok(())
    }

    /// `once`: nobody can find the store again.
    fn finish(self, once: bool) -> Result<Kind> {
        let Some(store) = self.store else {
            return Ok(Kind::Memory(self.memory));
        };
        let store = store.finish()?;
        Ok(Kind::Store(if once { store.unnamed() } else { store }))
    }
}

/// What a row takes in memory, roughly.
fn size(texts: &Texts) -> u64 {
    texts
        .iter()
        .flatten()
        .map(|text| text.len() as u64 + 48)
        .sum()
}

impl SourceFile {
    fn read(&self, indices: &[u64], columns: &[String], records: &mut Vec<Record>) -> Result<()> {
        let (Some(lowest), Some(highest)) = (indices.first(), indices.last()) else {
            return Ok(());
        };
        let (start, count) = (lowest - self.first, highest - lowest + 1);
        let mut stored = Vec::new();
        let mut sliced = Vec::new();
        match &self.kind {
            Kind::Memory(_) => {}
            Kind::Store(store) => stored = store.read(start, count)?,
            Kind::Parquet(table) => sliced = table.texts(start, count, columns, self.number)?,
        }
        for index in indices {
            let row = self.number + index - self.first;
            let place = (index - lowest) as usize;
            let texts: Texts = match &self.kind {
                Kind::Memory(rows) => rows[(index - self.first) as usize].clone(),
                Kind::Store(_) => stored
                    .get_mut(place)
                    .map(std::mem::take)
                    .unwrap_or_default(),
                Kind::Parquet(_) => {
                    let take = |texts: &mut Texts| texts.get_mut(place).and_then(Option::take);
                    sliced.iter_mut().map(take).collect()
                }
            };
            let checked = texts.into_iter().zip(columns).map(|(text, column)| {
                fault(&self.name, row, column, text.as_deref())?;
                Ok(text.unwrap_or_default())
            });
            records.push(Record {
                index: *index,
                texts: checked.collect(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs;

    /// More text than is held in memory goes to disk, and the second start finds it there.
    #[test]
    fn large_text_files_are_kept_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name).display().to_string();
        let filler = "长".repeat(9000);
        let texts: Vec<String> = (0..3000).map(|n| format!("{n} {filler}")).collect();
        let line = |text: &str| format!("{{\"prompt\":\"{text}\",\"more\":1}}\n");
        let lines: Vec<String> = texts.iter().map(|text| line(text)).collect();
        fs::write(name("large.jsonl"), lines.concat()).unwrap();
        fs::write(name("small.jsonl"), line("p")).unwrap();
        let sets = [SetSpec {
            paths: vec![name("small.jsonl"), name("large.jsonl")],
            weight: 1.0,
        }];
        let cache = folder.path().join("cache");
        let open = || {
            let columns = ["prompt".to_owned()];
            Source::open(&sets, &columns, Some(cache.clone()), &Job::quiet()).unwrap()
        };
        let text = |source: &Source, index: u64| {
            let record = source.read(&[index]).unwrap().pop().unwrap();
            record.texts.unwrap().pop().unwrap()
        };
        let made = |place: &Path| fs::metadata(place).unwrap().len();
        for _ in 0..2 {
            let source = open();
            assert_eq!(source.sets, [3001]);
            assert_eq!(text(&source, 0), "p");
            for row in [0, 1023, 1024, 2999] {
                assert_eq!(text(&source, row + 1), texts[row as usize]);
            }
            let stores: Vec<_> = fs::read_dir(&cache)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            assert_eq!(stores.len(), 1);
            assert!(made(&stores[0]) < 1 << 20);
        }
        // Another file at the same place is read anew.
        fs::write(name("large.jsonl"), line("new")).unwrap();
        assert_eq!(text(&open(), 1), "new");
    }
}
