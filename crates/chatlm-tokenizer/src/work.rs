//! What an interrupted training leaves: the counted words, and the merges so far.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chatlm_job::{AtomicDir, AtomicFile, Error, Job, Result, WorkFolder};
use serde::{Deserialize, Serialize};

use crate::bpe::{Progress, Save, Saving, Words, Written};
use crate::count::{Counted, count};
use crate::memory::Memory;
use crate::words::Cutter;

/// Changes where the files change their meaning.
const VERSION: u32 = 1;

/// Between two times of saving the merges.
const SAVE_EVERY: Duration = Duration::from_secs(20);

const WORDS: &str = "words.bin";
/// Says what [`WORDS`] holds; written after it.
const COUNTED: &str = "counted.json";
const MERGES: &str = "merges.json";

#[derive(Serialize, Deserialize)]
struct Told {
    alphabet: String,
    texts: u64,
    written: Written,
}

/// Where a training works.
pub(crate) enum Work {
    Kept {
        folder: WorkFolder,
        save: Option<Box<Save<'static>>>,
    },
    /// Nothing outlives the run.
    Temporary(AtomicDir),
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

impl Work {
    /// Opens what an earlier run of the same settings over the same files left; without `files` nothing
    /// is kept.
    pub(crate) fn open(out: &Path, settings: &str, files: Option<&[PathBuf]>) -> Result<Self> {
        let Some(files) = files else {
            return AtomicDir::create(out, true).map(Self::Temporary);
        };
        let settings = format!("{VERSION} {settings}");
        let folder = WorkFolder::open(out, "tokenizer", &settings, files)?;
        Ok(Self::Kept { folder, save: None })
    }

    /// The words that an earlier run counted, or those of `texts`, kept for a later one. `fits` says
    /// whether anything can be learnt from their characters.
    pub(crate) fn count(
        self,
        texts: impl Iterator<Item = Result<String>> + Send,
        cutter: &Cutter<'_>,
        memory: &Memory,
        fits: impl Fn(&[char]) -> Result<()>,
        job: &Job,
    ) -> Result<(Self, Counted)> {
        if let Some(counted) = self.counted()? {
            return Ok((self, counted));
        }
        let counted = count(texts, cutter, memory, &self.folder(), job)
            .and_then(|counted| fits(&counted.alphabet).map(|()| counted))
            .and_then(|counted| self.keep(counted));
        match counted {
            Ok(counted) => Ok((self, counted)),
            // Half a count is of no use to a later run.
            Err(error) => {
                self.remove();
                Err(error)
            }
        }
    }

    /// For files that nobody needs afterwards.
    pub(crate) fn folder(&self) -> PathBuf {
        match self {
            Self::Kept { folder, .. } => folder.path("spill"),
            Self::Temporary(folder) => folder.path().to_owned(),
        }
    }

    /// The words that an earlier run counted.
    fn counted(&self) -> Result<Option<Counted>> {
        let Self::Kept { folder, .. } = self else {
            return Ok(None);
        };
        let Some(told) = read::<Told>(&folder.path(COUNTED)) else {
            // Runs of a counting that did not end.
            let spill = self.folder();
            if spill.is_dir() {
                std::fs::remove_dir_all(&spill).map_err(|e| Error::io(&e, "remove", &spill))?;
            }
            return Ok(None);
        };
        Ok(Some(Counted {
            words: Words::Saved(folder.path(WORDS), told.written),
            alphabet: told.alphabet.chars().collect(),
            texts: told.texts,
        }))
    }

    /// Keeps counted words for a later run.
    fn keep(&self, counted: Counted) -> Result<Counted> {
        let (Self::Kept { folder, .. }, Words::Counted(_)) = (self, &counted.words) else {
            return Ok(counted);
        };
        let path = folder.path(WORDS);
        let Words::Counted(counter) = counted.words else {
            return Ok(counted);
        };
        let written = counter.save(&path)?;
        let told = Told {
            alphabet: counted.alphabet.iter().collect(),
            texts: counted.texts,
            written,
        };
        let bytes = serde_json::to_vec(&told).map_err(Error::internal)?;
        AtomicFile::write_all(&folder.path(COUNTED), true, &bytes)?;
        Ok(Counted {
            words: Words::Saved(path, written),
            ..counted
        })
    }

    /// The merges of an earlier run, and where to put this one's.
    pub(crate) fn saving(&mut self) -> Saving<'_> {
        let Self::Kept { folder, save } = self else {
            return Saving::default();
        };
        let path = folder.path(MERGES);
        let progress = read(&path);
        let save = save.insert(Box::new(move |progress: &Progress| {
            let bytes = serde_json::to_vec(progress).map_err(Error::internal)?;
            AtomicFile::write_all(&path, true, &bytes)
        }));
        Saving {
            progress,
            save: Some(save),
            every: SAVE_EVERY,
        }
    }

    /// The training is done.
    pub(crate) fn remove(self) {
        if let Self::Kept { folder, .. } = self {
            folder.remove();
        }
    }
}
