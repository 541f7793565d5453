//! A checkpoint that is written while training goes on.

use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};

use chatlm_checkpoint::{Checkpoints, Snapshot};
use chatlm_job::{Error, Result};
use serde_json::Value;

use crate::worker::panic_error;

/// A copy on its way to the disk. Dropped, it is waited for: whoever opens the folder next finds it whole.
pub(super) struct Writing {
    step: u64,
    thread: Option<JoinHandle<Result<PathBuf>>>,
}

impl Writing {
    /// Begins to write `copy` as the checkpoint of `step`, and to remove all but the newest `keep` then.
    pub(super) fn start(
        checkpoints: &Checkpoints,
        step: u64,
        copy: Snapshot,
        state: Value,
        keep: usize,
    ) -> Result<Self> {
        let checkpoints = checkpoints.clone();
        let thread = Builder::new()
            .name("chatlm-save".to_owned())
            .spawn(move || {
                let path = checkpoints.save_snapshot(step, &copy, &state)?;
                drop(copy);
                checkpoints.retain(keep)?;
                Ok(path)
            })
            .map_err(|e| Error::io(&e, "start a thread for", "chatlm-save"))?;
        Ok(Self {
            step,
            thread: Some(thread),
        })
    }

    pub(super) fn step(&self) -> u64 {
        self.step
    }

    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end; answers the checkpoint's folder.
    pub(super) fn finish(mut self) -> Result<PathBuf> {
        let thread = self.thread.take();
        let ended = thread.ok_or_else(|| Error::internal("a checkpoint is waited for twice"))?;
        ended
            .join()
            .unwrap_or_else(|panic| Err(panic_error(&*panic)))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
