//! Files and folders that appear whole or not at all: written beside the target under a temporary
//! name, synced, renamed. What a killed process left behind is removed by the next one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Code, Error, Result};

/// What is being written, and a folder that was moved out of the way of its successor.
const PARTIAL: &str = "partial";
const OLD: &str = "old";

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
    tidy_for(&folder, Some(&name));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!(".{name}.{}-{count}.{PARTIAL}", std::process::id())))
}

/// Clears `folder` of what killed processes left: half-written files and folders go, and a folder that was
/// moved aside comes back where its successor was not there yet.
pub fn tidy(folder: &Path) {
    tidy_for(folder, None);
}

fn tidy_for(folder: &Path, only: Option<&str>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        // `.NAME.PROCESS-COUNT.partial`, as `temporary` names them.
        let mut parts = file.strip_prefix('.').unwrap_or_default().rsplitn(3, '.');
        let (Some(suffix), Some(middle), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let process = middle.split('-').next().unwrap_or_default();
        if only.is_some_and(|only| only != name) || !is_dead(process) {
            continue;
        }
        match suffix {
            PARTIAL => remove(&entry.path()),
            OLD if folder.join(name).symlink_metadata().is_ok() => remove(&entry.path()),
            OLD => {
                let _ = fs::rename(entry.path(), folder.join(name));
            }
            _ => {}
        }
    }
}

/// Whether `process` is the number of one that has ended; where that cannot be told it has not.
fn is_dead(process: &str) -> bool {
    process
        .parse::<u32>()
        .is_ok_and(|id| id != std::process::id())
        && Path::new("/proc").is_dir()
        && !Path::new("/proc").join(process).exists()
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

/// Moves `from` over `target`. A folder in the way changes places with it in one step, so that at no
/// moment there is none; where the file system cannot do that it is moved aside first, and [`tidy`] brings
/// it back should this process be killed between the two.
fn replace(from: &Path, target: &Path) -> Result<()> {
    if target.is_dir() {
        if exchange(from, target) {
            remove(from);
            return sync_folder(&parent(target));
        }
        let aside = from.with_extension(OLD);
        fs::rename(target, &aside).map_err(|e| Error::io(&e, "replace", target))?;
        if let Err(error) = fs::rename(from, target) {
            let _ = fs::rename(&aside, target);
            return Err(Error::io(&error, "write", target));
        }
        remove(&aside);
    } else {
        fs::rename(from, target).map_err(|e| Error::io(&e, "write", target))?;
    }
    sync_folder(&parent(target))
}

#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
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
    fn a_folder_moved_aside_comes_back_where_its_successor_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            ".model.4000000000-0.old",
            ".best.4000000000-0.old",
            ".best.4000000000-1.partial",
            "best",
        ];
        for name in names {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("f"), name).unwrap();
        }
        tidy(folder.path());
        assert_eq!(entries(folder.path()), ["best", "model"]);
        assert_eq!(fs::read(folder.path().join("best/f")).unwrap(), b"best");
        let back = fs::read(folder.path().join("model/f")).unwrap();
        assert_eq!(back, b".model.4000000000-0.old");
    }

    #[test]
    fn leavings_of_a_dead_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".a.txt.4000000000-0.partial"), "x").unwrap();
        AtomicFile::write_all(&folder.path().join("a.txt"), false, b"one").unwrap();
        assert_eq!(entries(folder.path()), ["a.txt"]);
    }
}
