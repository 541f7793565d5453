//! Locks that processes share, such as those of the Hugging Face cache.

use std::path::Path;

use chatlm_job::FileLock as Core;
use napi_derive::napi;

use crate::error::guarded;

/// A lock on a file (`flock`), which Python's filelock honours too. Ends with the process.
#[napi]
pub struct FileLock {
    held: Option<Core>,
}

#[napi]
impl FileLock {
    /// Takes the lock, or answers null where another holder has it.
    #[napi(catch_unwind)]
    pub fn try_acquire(path: String) -> napi::Result<Option<FileLock>> {
        let held = guarded(|| Core::try_acquire(Path::new(&path)))?;
        Ok(held.map(|held| Self { held: Some(held) }))
    }

    #[napi]
    pub fn release(&mut self) {
        self.held = None;
    }
}
