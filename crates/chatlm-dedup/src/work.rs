//! The folder beside the output where a run keeps what it has done: `.NAME.dedup`. Its manifest holds a
//! key of options and inputs; a run with another key starts over, one with the same goes on. A finished
//! run removes it, a failed one too; an interrupted or killed one leaves it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use chatlm_job::{AtomicFile, Error, Result, lock_work, sha256_bytes};
use serde::{Deserialize, Serialize};

/// Changes where the files of the folder change their meaning.
const VERSION: u32 = 2;

/// How far the run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    key: String,
    /// Rows of the other sets, once they are read.
    pub(crate) other: Option<u64>,
    /// The columns of the output where rows were read one by one, once all are read.
    pub(crate) columns: Option<Vec<(String, String)>>,
    /// Results are being put in place: what is there is this run's own.
    pub(crate) finishing: bool,
    /// Seconds of earlier runs.
    pub(crate) seconds: f64,
}

#[derive(Debug)]
pub(crate) struct Work {
    folder: PathBuf,
    pub(crate) manifest: Manifest,
    /// Whether an earlier run left something to go on with.
    pub(crate) resumes: bool,
    _lock: File,
}

/// What tells an input that changed: its path, size and time of change; `None` is standard input.
pub(crate) type Stamp = Option<(String, u64, u128)>;

pub(crate) fn stamp(path: &Path) -> Result<Stamp> {
    if path == Path::new("-") {
        return Ok(None);
    }
    let read = |e: &std::io::Error| Error::io(e, "read", path);
    let metadata = fs::metadata(path).map_err(|e| read(&e))?;
    let changed = metadata.modified().map_err(|e| read(&e))?;
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    let full = fs::canonicalize(path).map_err(|e| read(&e))?;
    Ok(Some((
        full.display().to_string(),
        metadata.len(),
        since.as_nanos(),
    )))
}

/// Where the work of this output lies.
pub(crate) fn folder_of(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!(".{name}.dedup"))
}

impl Work {
    /// Opens the folder, empty unless an earlier run with the same key left its work.
    pub(crate) fn open(folder: PathBuf, settings: &str, stamps: &[Stamp]) -> Result<Self> {
        let failed = |e: &std::io::Error| Error::io(e, "write", &folder);
        fs::create_dir_all(&folder).map_err(|e| failed(&e))?;
        let lock = lock_work(&folder)?;
        let whole = stamps.iter().all(Option::is_some);
        let inputs = serde_json::to_string(stamps).map_err(Error::internal)?;
        let key = sha256_bytes(format!("{settings}\n{inputs}").as_bytes());
        let fresh = Manifest {
            version: VERSION,
            key,
            other: None,
            columns: None,
            finishing: false,
            seconds: 0.0,
        };
        let known = fs::read(folder.join("manifest.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok())
            .filter(|known| whole && known.version == VERSION && known.key == fresh.key);
        let mut work = Self {
            folder,
            resumes: known.is_some(),
            manifest: known.clone().unwrap_or(fresh),
            _lock: lock,
        };
        if known.is_none() {
            for name in ["manifest.json", "spill", "state", "stdin"] {
                let _ = fs::remove_file(work.path(name));
            }
            work.note(|_| ())?;
        }
        Ok(work)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Changes the manifest and puts it on disk.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        change(&mut self.manifest);
        let bytes = serde_json::to_vec(&self.manifest).map_err(Error::internal)?;
        AtomicFile::write_all(&self.path("manifest.json"), true, &bytes)
    }

    /// Removes the folder with all it holds.
    pub(crate) fn remove(self) {
        // Without its manifest the folder holds nothing to go on with. Best effort: what stays is
        // removed by the next run.
        let _ = fs::remove_file(self.path("manifest.json"));
        let _ = fs::remove_dir_all(&self.folder);
    }
}
