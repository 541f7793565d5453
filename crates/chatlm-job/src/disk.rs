//! Room on a disk, asked for before much is written.

use std::path::Path;

use crate::{Code, Error, Result};

/// Bytes that may still be written where `path` lies or would lie; `None` where that is not told.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|folder| folder.exists());
    let here = there.filter(|folder| !folder.as_os_str().is_empty());
    free(here.unwrap_or(Path::new(".")))
}

#[cfg(unix)]
fn free(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

/// Fails with `DISK_FULL` where `bytes` of `what` do not fit beside `path`.
pub fn require_room(path: &Path, bytes: u64, what: &str) -> Result<()> {
    let Some(free) = free_bytes(path).filter(|free| *free < bytes) else {
        return Ok(());
    };
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    Err(Error::new(
        Code::DiskFull,
        format!(
            "{what} takes {} MB, and there are {} MB left at {}",
            megabytes(bytes),
            free / 1_000_000,
            path.display()
        ),
        "free some room or choose another disk, then run the same command again",
    )
    .with("file", path.display().to_string())
    .with("needed", bytes)
    .with("free", free))
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("not/there/yet");
        assert!(free_bytes(&deep).unwrap() > 0);
        require_room(&deep, 1, "a byte").unwrap();
        let error = require_room(&deep, u64::MAX, "a checkpoint").unwrap_err();
        assert_eq!(error.code(), Code::DiskFull);
        assert!(error.message().contains("a checkpoint takes"), "{error}");
    }
}
