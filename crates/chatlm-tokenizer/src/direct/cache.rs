//! The ids of short pieces that a thread met before: a table in which a new piece takes the place of
//! an older one of the same hash.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

const PLACES: usize = 1 << 14;
const LONGEST: usize = 30;
const IDS: usize = 8;

#[derive(Clone, Copy, Default)]
struct Known {
    /// 0 where there is none.
    length: u8,
    count: u8,
    piece: [u8; LONGEST],
    ids: [u32; IDS],
}

#[derive(Default)]
pub(super) struct Cache {
    owner: u64,
    known: Vec<Known>,
}

/// A number that no other tokenizer has.
pub(super) fn owner() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Cache {
    /// Empties the table if another tokenizer filled it.
    pub(super) fn own(&mut self, owner: u64) {
        if self.owner != owner {
            self.known.clear();
            self.known.resize(PLACES, Known::default());
            self.owner = owner;
        }
    }

    /// Appends the ids of a piece, which `find` finds where they are not known.
    pub(super) fn get(
        &mut self,
        piece: &[u8],
        out: &mut Vec<u32>,
        find: impl FnOnce(&mut Vec<u32>),
    ) {
        if piece.len() > LONGEST {
            return find(out);
        }
        let place = &mut self.known[xxh3_64(piece) as usize % PLACES];
        if usize::from(place.length) == piece.len() && place.piece[..piece.len()] == *piece {
            return out.extend_from_slice(&place.ids[..usize::from(place.count)]);
        }
        let start = out.len();
        find(out);
        let ids = &out[start..];
        if ids.len() <= IDS {
            place.length = piece.len() as u8;
            place.count = ids.len() as u8;
            place.piece[..piece.len()].copy_from_slice(piece);
            place.ids[..ids.len()].copy_from_slice(ids);
        }
    }
}
