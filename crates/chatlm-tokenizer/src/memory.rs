//! How much memory training may take.

use chatlm_job::{Code, Error, Result};

/// Kept free of what the limit allows: threads, buffers of files, the allocator's own.
const RESERVE: u64 = 96 << 20;

/// Least that training can work with.
const LEAST: u64 = 24 << 20;

/// A limit on the whole process.
pub(crate) struct Memory {
    /// Bytes beyond what the process held at the start.
    bytes: u64,
}

impl Memory {
    /// `limit` is what the user allows the process; half of the free memory where nothing was said.
    pub(crate) fn new(limit: Option<u64>) -> Result<Self> {
        let held = kib("/proc/self/status", "VmRSS:").unwrap_or(64 << 10) * 1024;
        let free = kib("/proc/meminfo", "MemAvailable:").unwrap_or(4 << 20) * 1024;
        let Some(limit) = limit else {
            return Ok(Self { bytes: free / 2 });
        };
        let needed = held + RESERVE + LEAST;
        if limit < needed {
            return Err(Error::new(
                Code::Usage,
                format!("{} MiB are too little to train in", limit >> 20),
                format!("give --max-memory at least {} MiB", (needed >> 20) + 1),
            ));
        }
        // Free lists and pages half in use take a part of every allocation.
        Ok(Self {
            bytes: (limit - held - RESERVE) / 20 * 19,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

/// The most memory this process has held; 0 where it is not told.
pub(crate) fn peak_rss_bytes() -> u64 {
    kib("/proc/self/status", "VmHWM:").unwrap_or(0) * 1024
}

fn kib(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
