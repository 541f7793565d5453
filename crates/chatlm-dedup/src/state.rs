//! What is known of each row while bands are compared: the earliest similar row, the earliest similar
//! row of the other set, and the connected groups (union-find whose root is the smallest member).
//!
//! Threads change it at once and in any order: every change lowers a number, and what remains at the
//! end is the lowest of all, whatever the order was. So it may also be saved at any moment, and the work
//! since then done again.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use chatlm_job::{AtomicFile, Error, Result};
use xxhash_rust::xxh3::Xxh3Default;

/// No row.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct State {
    /// Rows below this one belong to the other sets (`--against`).
    pub(crate) own: u32,
    best: Vec<AtomicU32>,
    parent: Vec<AtomicU32>,
    /// Empty where there is no other set.
    contaminated: Vec<AtomicU32>,
    /// Rows that take no part in the bands: broken ones and repetitions of an earlier row's text.
    out: Vec<AtomicU64>,
    /// Of those, repetitions.
    repeated: Vec<AtomicU64>,
}

impl State {
    pub(crate) fn new(own: u32, rows: u32, broken: &[u64]) -> Self {
        let bits = || (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let none = |count: u32| (0..count).map(|_| AtomicU32::new(NONE)).collect();
        let state = Self {
            own,
            best: none(rows),
            parent: (0..rows).map(AtomicU32::new).collect(),
            contaminated: none(if own > 0 { rows } else { 0 }),
            out: bits(),
            repeated: bits(),
        };
        for &place in broken {
            set(&state.out, place as u32);
        }
        state
    }

    /// Bytes held for each row.
    pub(crate) fn bytes_a_row(own: bool) -> u64 {
        // Two bits are counted as a byte.
        if own { 13 } else { 9 }
    }

    pub(crate) fn rows(&self) -> u32 {
        self.best.len() as u32
    }

    pub(crate) fn is_out(&self, place: u32) -> bool {
        get(&self.out, place)
    }

    pub(crate) fn is_repeated(&self, place: u32) -> bool {
        get(&self.repeated, place)
    }

    /// The row's text is that of an earlier row of the same set.
    pub(crate) fn repeats(&self, place: u32, first: u32) {
        set(&self.out, place);
        set(&self.repeated, place);
        self.similar(place, first);
    }

    /// The earliest similar row that is known.
    pub(crate) fn best(&self, place: u32) -> u32 {
        self.best[place as usize].load(Relaxed)
    }

    pub(crate) fn similar(&self, place: u32, earlier: u32) {
        self.best[place as usize].fetch_min(earlier, Relaxed);
        self.join(place, earlier);
    }

    /// The earliest similar row of the other set that is known.
    pub(crate) fn contaminated(&self, place: u32) -> u32 {
        let known = self.contaminated.get(place as usize);
        known.map_or(NONE, |known| known.load(Relaxed))
    }

    pub(crate) fn contaminate(&self, place: u32, other: u32) {
        self.contaminated[place as usize].fetch_min(other, Relaxed);
    }

    /// The smallest member of the row's group, as far as is known.
    pub(crate) fn group(&self, mut place: u32) -> u32 {
        loop {
            let above = self.parent[place as usize].load(Relaxed);
            if above == place {
                return place;
            }
            let next = self.parent[above as usize].load(Relaxed);
            if next != above {
                // Shorter for those who come later; a path that changed meanwhile is as good.
                let _ = self.parent[place as usize].compare_exchange(above, next, Relaxed, Relaxed);
            }
            place = next;
        }
    }

    pub(crate) fn join(&self, a: u32, b: u32) {
        let (mut a, mut b) = (a, b);
        loop {
            (a, b) = (self.group(a), self.group(b));
            if a == b {
                return;
            }
            let (low, high) = (a.min(b), a.max(b));
            if self.parent[high as usize]
                .compare_exchange(high, low, Relaxed, Relaxed)
                .is_ok()
            {
                return;
            }
        }
    }

    fn numbers(&self) -> [&[AtomicU32]; 3] {
        [&self.best, &self.parent, &self.contaminated]
    }

    fn bits(&self) -> [&[AtomicU64]; 2] {
        [&self.out, &self.repeated]
    }

    /// Saves it together with how many bands are done.
    pub(crate) fn save(&self, path: &Path, bands: u64) -> Result<()> {
        let mut file = AtomicFile::create(path, true)?;
        let mut hasher = Xxh3Default::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
                .map_err(|e| Error::io(&e, "write", path))
        };
        put(&bands.to_le_bytes())?;
        let mut buffer = Vec::with_capacity(1 << 16);
        for numbers in self.numbers() {
            for piece in numbers.chunks(1 << 14) {
                buffer.clear();
                buffer.extend(piece.iter().flat_map(|n| n.load(Relaxed).to_le_bytes()));
                put(&buffer)?;
            }
        }
        for bits in self.bits() {
            for piece in bits.chunks(1 << 13) {
                buffer.clear();
                buffer.extend(piece.iter().flat_map(|n| n.load(Relaxed).to_le_bytes()));
                put(&buffer)?;
            }
        }
        let checksum = hasher.digest();
        file.write_all(&checksum.to_le_bytes())
            .map_err(|e| Error::io(&e, "write", path))?;
        file.commit()
    }

    /// Takes in what was saved; the bands that were done, or `None` where there is nothing whole.
    pub(crate) fn restore(&self, path: &Path) -> Option<u64> {
        let numbers: usize = self.numbers().iter().map(|n| n.len() * 4).sum();
        let bits: usize = self.bits().iter().map(|n| n.len() * 8).sum();
        let mut file = File::open(path).ok()?;
        if file.metadata().ok()?.len() != (numbers + bits + 16) as u64 {
            return None;
        }
        // Twice through the file: nothing is taken over before the checksum holds.
        let mut buffer = vec![0; 1 << 16];
        let mut hasher = Xxh3Default::new();
        let mut left = numbers + bits + 8;
        while left > 0 {
            let piece = left.min(buffer.len());
            file.read_exact(&mut buffer[..piece]).ok()?;
            hasher.update(&buffer[..piece]);
            left -= piece;
        }
        let mut word = [0; 8];
        file.read_exact(&mut word).ok()?;
        if u64::from_le_bytes(word) != hasher.digest() {
            return None;
        }
        let mut file = std::io::BufReader::with_capacity(1 << 16, File::open(path).ok()?);
        file.read_exact(&mut word).ok()?;
        let bands = u64::from_le_bytes(word);
        let mut half = [0; 4];
        for number in self.numbers().into_iter().flatten() {
            file.read_exact(&mut half).ok()?;
            number.store(u32::from_le_bytes(half), Relaxed);
        }
        for number in self.bits().into_iter().flatten() {
            file.read_exact(&mut word).ok()?;
            number.store(u64::from_le_bytes(word), Relaxed);
        }
        Some(bands)
    }
}

fn get(bits: &[AtomicU64], place: u32) -> bool {
    bits[place as usize / 64].load(Relaxed) >> (place % 64) & 1 == 1
}

fn set(bits: &[AtomicU64], place: u32) {
    bits[place as usize / 64].fetch_or(1 << (place % 64), Relaxed);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn the_root_is_the_smallest_member_for_any_order_of_threads() {
        let state = State::new(0, 10_000, &[]);
        (1..10_000u32)
            .into_par_iter()
            .filter(|n| n % 100 != 0)
            .for_each(|n| state.join(n, n - n % 100 + (n % 100) / 2));
        for n in 0..10_000 {
            assert_eq!(state.group(n), n - n % 100);
        }
    }

    #[test]
    fn what_is_saved_comes_back_and_what_is_damaged_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let state = State::new(2, 130, &[7]);
        state.similar(9, 4);
        state.repeats(129, 3);
        state.contaminate(5, 1);
        state.save(&path, 3).unwrap();
        let other = State::new(2, 130, &[]);
        assert_eq!(other.restore(&path), Some(3));
        assert_eq!(
            (other.best(9), other.group(9), other.contaminated(5)),
            (4, 4, 1)
        );
        assert!(other.is_out(7) && other.is_repeated(129) && !other.is_repeated(7));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(State::new(2, 130, &[]).restore(&path), None);
    }
}
