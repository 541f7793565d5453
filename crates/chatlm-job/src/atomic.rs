//! Files and folders that appear whole or not at all: written beside the target under a temporary
//! name, synced, renamed. What a killed process left behind is removed by the next one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Code, Error, Result};

const SUFFIX: &str = "partial";

/// Refuses an existing target unless `force` is set.
pub fn check_target(target: &Path, force: bool) -> Result<()> {
    if !force && target.symlink_metadata().is_ok() {
        return Err(Error::new(
            Code::TargetExists,
            format!("{} is there already", target.display()),
            "give another name, or --force to replace it",
        )
        .with("file", target.display().to_string()));
    }
    Ok(())
}

fn parent(target: &Path) -> PathBuf {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn name(target: &Path) -> Result<String> {
    target
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .ok_or_else(|| {
            Error::new(
                Code::Usage,
                format!("{} is not a file name", target.display()),
                "name a file or folder to write",
            )
        })
}

/// Makes the parent folder, removes leavings of dead processes, and names this process's own.
fn temporary(target: &Path) -> Result<PathBuf> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (folder, name) = (parent(target), name(target)?);
    fs::create_dir_all(&folder).map_err(|e| Error::io(&e, "create", &folder))?;
    remove_leavings(&folder, &name);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!(".{name}.{}-{count}.{SUFFIX}", std::process::id())))
}

fn remove_leavings(folder: &Path, name: &str) {
    let prefix = format!(".{name}.");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(middle) = file
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(&format!(".{SUFFIX}")))
        else {
            continue;
        };
        let process = middle.split('-').next().unwrap_or_default();
        let ours = process == std::process::id().to_string();
        if !ours && Path::new("/proc").is_dir() && !Path::new("/proc").join(process).exists() {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    // Best effort: a leaving that cannot be removed does no harm.
    let _ = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::io(&e, "sync", folder))
}

/// Moves `from` over `target`; a folder in the way is moved aside first, so that no reader sees half.
fn replace(from: &Path, target: &Path) -> Result<()> {
    let aside = from.with_extension("old");
    if target.is_dir() {
        fs::rename(target, &aside).map_err(|e| Error::io(&e, "replace", target))?;
    }
    fs::rename(from, target).map_err(|e| Error::io(&e, "write", target))?;
    remove(&aside);
    sync_folder(&parent(target))
}

/// A file being written; dropped without [`AtomicFile::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Opens a temporary file beside `target`, creating its folder.
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        check_target(target, force)?;
        let temporary = temporary(target)?;
        let file = File::create(&temporary).map_err(|e| Error::io(&e, "write", target))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            file: Some(BufWriter::with_capacity(1 << 20, file)),
        })
    }

    /// The temporary file's path, for libraries that open files themselves.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Flushes, syncs and renames.
    pub fn commit(mut self) -> Result<()> {
        if let Some(mut writer) = self.file.take() {
            writer
                .flush()
                .and_then(|()| writer.get_ref().sync_all())
                .map_err(|e| Error::io(&e, "write", &self.target))?;
        }
        replace(&self.temporary, &self.target)
    }

    /// Writes a whole file at once.
    pub fn write_all(target: &Path, force: bool, bytes: &[u8]) -> Result<()> {
        let mut file = Self::create(target, force)?;
        file.write(bytes)
            .map_err(|e| Error::io(&e, "write", target))?;
        file.commit()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map(|()| bytes.len()),
            None => Err(io::Error::other("already committed")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        drop(self.file.take());
        remove(&self.temporary);
    }
}

/// A folder being written; dropped without [`AtomicDir::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicDir {
    target: PathBuf,
    temporary: PathBuf,
}

impl AtomicDir {
    /// Makes an empty temporary folder beside `target`.
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        check_target(target, force)?;
        let temporary = temporary(target)?;
        fs::create_dir_all(&temporary).map_err(|e| Error::io(&e, "create", target))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
        })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Syncs every file and renames the folder.
    pub fn commit(self) -> Result<()> {
        sync_tree(&self.temporary)?;
        replace(&self.temporary, &self.target)
    }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(&e, "read", folder))? {
        let path = entry.map_err(|e| Error::io(&e, "read", folder))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync_folder(&path)?;
        }
    }
    sync_folder(folder)
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        remove(&self.temporary);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.txt");
        let mut file = AtomicFile::create(&target, false).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert!(entries(folder.path()).is_empty());
    }

    #[test]
    fn an_existing_target_needs_force() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/a.txt");
        AtomicFile::write_all(&target, false, b"one").unwrap();
        let error = AtomicFile::write_all(&target, false, b"two").unwrap_err();
        assert_eq!(error.code(), Code::TargetExists);
        AtomicFile::write_all(&target, true, b"two").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
    }

    #[test]
    fn a_folder_replaces_a_folder_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        for (name, force) in [("old", false), ("new", true)] {
            let dir = AtomicDir::create(&target, force).unwrap();
            fs::write(dir.path().join(name), name).unwrap();
            dir.commit().unwrap();
        }
        assert_eq!(entries(&target), ["new"]);
        assert_eq!(entries(folder.path()), ["model"]);
    }

    #[test]
    fn leavings_of_a_dead_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".a.txt.4000000000-0.partial"), "x").unwrap();
        AtomicFile::write_all(&folder.path().join("a.txt"), false, b"one").unwrap();
        assert_eq!(entries(folder.path()), ["a.txt"]);
    }
}
