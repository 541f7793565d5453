//! What the targets share: readers that give a few bytes at a time, a file to read again and again, processor time.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

/// Gives at most `most` bytes a read, as a slow pipe does.
pub struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    most: usize,
}

impl Pieces {
    pub fn new(bytes: &[u8], most: usize) -> Self {
        Self {
            bytes: bytes.to_vec(),
            at: 0,
            most,
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = into.len().min(self.most).min(self.bytes.len() - self.at);
        into[..size].copy_from_slice(&self.bytes[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

/// Writes a file that only this process knows; the same ending gives the same file. `scripts/fuzz.mjs` says where and
/// takes it away.
pub fn written(bytes: &[u8], ending: &str) -> String {
    let folder =
        std::env::var_os("CHATLM_FUZZ_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("chatlm-fuzz-{}.{ending}", std::process::id()));
    fs::write(&path, bytes).expect("the folder can be written to");
    path.display().to_string()
}

/// Panics where `work` takes longer than `most` milliseconds of the processor's time.
pub fn within(most: u64, work: impl FnOnce()) {
    let started = worked();
    work();
    let took = (worked() - started) / 1_000_000;
    assert!(took <= most, "it takes {took} ms, {most} would be enough");
}

/// Nanoseconds that this thread has had the processor: other programs do not count.
fn worked() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    first.expect("Linux counts a thread's time")
}

/// Takes a byte that says how the rest is used.
pub fn mode(bytes: &[u8]) -> (u8, &[u8]) {
    bytes
        .split_first()
        .map_or((0, bytes), |(mode, rest)| (*mode, rest))
}

/// The text of bytes, as the readers make it.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
