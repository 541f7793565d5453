//! How much memory a run may hold and what it is spent on. What is counted is the whole process: what it
//! held when the run began, Node included, comes off first.

use chatlm_job::{Code, Error, Result};

use crate::bands::ENTRY;
use crate::judge::Room;
use crate::state::State;

const MIB: u64 = 1 << 20;
/// Without `--max-memory`: at most this, and at most half of what the machine has free.
const MOST: u64 = 4 << 30;
/// What the allocator, stacks, file buffers and the writer's rows take beside what is planned.
const SLACK: u64 = 96 * MIB;
/// What is needed beside the rows' own state: pieces being read, entries of a band.
const LEAST: u64 = 64 * MIB;
/// What a piece being read takes for each of its uncompressed bytes: compressed and plain pages,
/// columns, texts, keys; for writing again as many.
const PIECE_COST: u64 = 5;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// What the process may hold at most.
    pub(crate) budget: u64,
    /// What it held before.
    base: u64,
}

impl Memory {
    pub(crate) fn new(asked: Option<u64>) -> Self {
        let base = status("VmRSS:");
        let budget = asked.unwrap_or_else(|| (available() / 2).min(MOST).max(base + 512 * MIB));
        Self { budget, base }
    }

    fn free(self) -> u64 {
        self.budget.saturating_sub(self.base + SLACK)
    }

    /// Bytes that each row needs all the time: its state and where its text ends.
    fn rows(rows: u64, other: bool) -> u64 {
        rows * (State::bytes_a_row(other) + 4)
    }

    /// Refuses a budget that cannot hold this many rows.
    pub(crate) fn check(self, rows: u64, other: bool) -> Result<()> {
        let needed = Self::rows(rows, other) + LEAST;
        if needed <= self.free() {
            return Ok(());
        }
        let needed = (needed + self.base + SLACK).next_multiple_of(MIB);
        Err(Error::new(
            Code::Usage,
            format!(
                "{} MiB of memory are too little to compare {rows} rows",
                self.budget / MIB
            ),
            format!("give --max-memory {}MiB or more", needed / MIB),
        )
        .with("needed", needed))
    }

    /// Uncompressed bytes of the pieces that are read, of which `pieces` are held at a time.
    pub(crate) fn piece(self, pieces: usize) -> u64 {
        (self.free() / 2 / (pieces as u64 * PIECE_COST)).clamp(MIB / 4, 16 * MIB)
    }

    /// What the comparison may hold beside the state.
    pub(crate) fn room(self, rows: u64, other: bool, threads: usize) -> Room {
        let spare = self
            .free()
            .saturating_sub(Self::rows(rows, other))
            .max(LEAST / 2);
        // A unit of text is up to four slots and a shingle, sixteen bytes each.
        let units = spare / 4 / (threads as u64 * 80);
        Room {
            entries: (spare / 2 / ENTRY) as usize,
            units: units.clamp(1 << 10, 1 << 17) as usize,
            index: (spare / 4) as usize,
        }
    }
}

/// A line of `/proc/self/status` in bytes; 0 where there is none.
fn status(name: &str) -> u64 {
    kilobytes("/proc/self/status", name).unwrap_or(0)
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(number * 1024)
}

/// The most memory the whole process has held so far.
pub(crate) fn peak() -> u64 {
    status("VmHWM:")
}

/// What the machine, or the container, has free.
fn available() -> u64 {
    let machine = kilobytes("/proc/meminfo", "MemAvailable:").unwrap_or(2 * MOST);
    let number = |file: &str| {
        std::fs::read_to_string(file)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    match (
        number("/sys/fs/cgroup/memory.max"),
        number("/sys/fs/cgroup/memory.current"),
    ) {
        (Some(most), Some(used)) => machine.min(most.saturating_sub(used)),
        _ => machine,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_budget_too_small_is_refused_with_the_size_that_does() {
        let memory = Memory {
            budget: 300 * MIB,
            base: 100 * MIB,
        };
        memory.check(1_000_000, false).unwrap();
        let error = memory.check(10_000_000, false).unwrap_err();
        assert_eq!(error.code(), Code::Usage);
        let needed = error.context()["needed"].as_u64().unwrap();
        assert!(error.help().contains(&format!("{}MiB", needed / MIB)));
        Memory {
            budget: needed,
            ..memory
        }
        .check(10_000_000, false)
        .unwrap();
    }
}
