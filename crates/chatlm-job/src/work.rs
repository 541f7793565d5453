//! The folder beside an output where a long run keeps what it has done, so that the next one goes on:
//! `.NAME.SUFFIX`. A key of settings and inputs tells whether what lies there is of use.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::{AtomicFile, Code, Error, Result, sha256_bytes};

/// The file that holds the key.
const KEY: &str = "key";

/// How often, and with what pause, a lock is asked for: a program that is just being started by this one holds
/// its files until it runs.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Locks an existing folder of work for as long as the file is open; refused where another process has it.
pub fn lock_work(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let lock = File::create(&path).map_err(|e| Error::io(&e, "write", &path))?;
    for _ in 0..TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            // A file system without locks: nothing guards it then.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(lock),
        }
    }
    Err(Error::new(
        Code::Usage,
        format!("another process is at work in {}", folder.display()),
        "wait for it, or give another --out",
    ))
}

/// A folder of work, locked while it is open. It stays when it is dropped; a finished run removes it.
#[derive(Debug)]
pub struct WorkFolder {
    folder: PathBuf,
    resumes: bool,
    _lock: File,
}

impl WorkFolder {
    /// Opens the folder of an output, emptied unless it was left by a run of the same settings over the
    /// same inputs, told by path, size and time of change (standard input is never the same).
    pub fn open(output: &Path, suffix: &str, settings: &str, inputs: &[PathBuf]) -> Result<Self> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let folder = output.with_file_name(format!(".{name}.{suffix}"));
        let fail = |e: &std::io::Error| Error::io(e, "write", &folder);
        fs::create_dir_all(&folder).map_err(|e| fail(&e))?;
        let lock = lock_work(&folder)?;
        let stamps: Vec<String> = inputs
            .iter()
            .map(|input| stamp(input))
            .collect::<Result<_>>()?;
        let key = sha256_bytes(format!("{settings}\n{}", stamps.join("\n")).as_bytes());
        let stdin = inputs.iter().any(|input| input == Path::new("-"));
        let known = fs::read_to_string(folder.join(KEY)).ok();
        let resumes = !stdin && known.as_ref() == Some(&key);
        let work = Self {
            folder,
            resumes,
            _lock: lock,
        };
        if !resumes {
            work.empty()?;
            AtomicFile::write_all(&work.path(KEY), true, key.as_bytes())?;
        }
        Ok(work)
    }

    /// Whether an earlier run left its work.
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes the folder with all it holds; what cannot be removed is told apart by its key.
    pub fn remove(self) {
        drop(fs::remove_dir_all(&self.folder));
    }

    fn empty(&self) -> Result<()> {
        let fail = |e: std::io::Error| Error::io(&e, "write", &self.folder);
        for entry in fs::read_dir(&self.folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.ends_with("lock") {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(fail)?;
        }
        Ok(())
    }
}

/// What tells an input that changed.
fn stamp(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return Ok("-".to_owned());
    }
    let fail = |e: std::io::Error| Error::io(&e, "read", path);
    let metadata = fs::metadata(path).map_err(fail)?;
    let changed = metadata.modified().map_err(fail)?;
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    let full = fs::canonicalize(path).map_err(fail)?;
    Ok(format!(
        "{} {} {}",
        full.display(),
        metadata.len(),
        since.as_nanos()
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn work_is_kept_for_the_same_settings_and_inputs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("a.txt"), folder.path().join("out"));
        fs::write(&input, "一").unwrap();
        let open = |settings: &str| {
            WorkFolder::open(&output, "work", settings, std::slice::from_ref(&input))
        };
        let work = open("a").unwrap();
        assert!(!work.resumes());
        assert_eq!(open("a").unwrap_err().code(), Code::Usage);
        fs::write(work.path("done"), "1").unwrap();
        drop(work);
        let work = open("a").unwrap();
        assert!(work.resumes() && work.path("done").exists());
        drop(work);
        let work = open("b").unwrap();
        assert!(!work.resumes() && !work.path("done").exists());
        drop(work);
        fs::write(&input, "一二").unwrap();
        let work = open("b").unwrap();
        assert!(!work.resumes());
        work.remove();
        assert!(!folder.path().join(".out.work").exists());
    }
}
