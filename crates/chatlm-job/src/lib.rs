//! What every long job shares, and nothing heavier: the error that crosses the border, the cancel
//! flag, progress, counter-based randomness, files that appear whole or not at all, locks
//! between processes, room on disks, and hashes.
//!
//! This crate knows neither tensors nor tables; all other crates may depend on it.

mod atomic;
mod cache;
mod disk;
mod error;
mod hash;
mod job;
mod lock;
mod random;
mod work;

pub use atomic::{AtomicDir, AtomicFile, check_target, tidy};
pub use cache::cache_folder;
pub use disk::{free_bytes, require_room};
pub use error::{Code, Error, Kind, Result};
pub use hash::{Hashing, sha256_bytes, sha256_file};
pub use job::{Cancel, Job, Progress, Reporter};
pub use lock::FileLock;
pub use random::{Permutation, Random, mix};
pub use work::{WorkFolder, lock_work};
