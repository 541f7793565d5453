//! The merges of a BPE: which pair becomes which token, and applying them to one word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Words up to this many symbols are merged by looking at all pairs again; longer ones by a queue.
const SHORT: usize = 96;

/// No pair, or no merge for it.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Entry {
    pair: u64,
    rank: u32,
    token: u32,
}

const FREE: Entry = Entry {
    pair: u64::MAX,
    rank: NONE,
    token: NONE,
};

/// Pairs of tokens with their rank and what they become: a hash table with open addressing.
pub(super) struct Merges {
    entries: Vec<Entry>,
    shift: u32,
}

/// Room for the words of one text after another.
#[derive(Default)]
pub(super) struct Room {
    pub(super) symbols: Vec<u32>,
    /// Of the pair that starts at each symbol, apart so that the lowest rank is found fast.
    ranks: Vec<u32>,
    tokens: Vec<u32>,
    links: Vec<(u32, u32)>,
    queue: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) << 32 | u64::from(second)
}

impl Merges {
    /// Of the same pair twice the later counts, as in the tokenizers crate.
    pub(super) fn new(merges: &[(u32, u32, u32)]) -> Self {
        let size = (merges.len() * 2).next_power_of_two().max(16);
        let mut table = Self {
            entries: vec![FREE; size],
            shift: 64 - size.trailing_zeros(),
        };
        for (rank, (first, second, token)) in merges.iter().enumerate() {
            let pair = pair(*first, *second);
            let place = table.place(pair);
            table.entries[place] = Entry {
                pair,
                rank: rank as u32,
                token: *token,
            };
        }
        table
    }

    /// Where a pair stands, or the free place that it would take.
    fn place(&self, pair: u64) -> usize {
        let mut place = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.entries[place].pair != pair && self.entries[place].pair != u64::MAX {
            place = (place + 1) & (self.entries.len() - 1);
        }
        place
    }

    /// Rank and token of a pair.
    fn of(&self, first: u32, second: u32) -> (u32, u32) {
        let entry = self.entries[self.place(pair(first, second))];
        (entry.rank, entry.token)
    }

    /// Merges the symbols in `room` and appends what is left to `out`: always the pair of the lowest
    /// rank, of equal ones the first.
    pub(super) fn apply(&self, room: &mut Room, out: &mut Vec<u32>) {
        if room.symbols.len() > SHORT {
            self.apply_long(room, out);
        } else {
            self.apply_short(room);
            out.extend_from_slice(&room.symbols);
        }
        room.symbols.clear();
    }

    fn apply_short(&self, room: &mut Room) {
        let Room {
            symbols,
            ranks,
            tokens,
            ..
        } = room;
        ranks.clear();
        tokens.clear();
        for two in symbols.windows(2) {
            let (rank, token) = self.of(two[0], two[1]);
            ranks.push(rank);
            tokens.push(token);
        }
        loop {
            let best = ranks.iter().copied().fold(NONE, u32::min);
            let place = ranks.iter().position(|rank| *rank == best);
            let Some(place) = place.filter(|_| best != NONE) else {
                return;
            };
            symbols[place] = tokens[place];
            symbols.remove(place + 1);
            ranks.remove(place);
            tokens.remove(place);
            for at in [place.wrapping_sub(1), place] {
                if at < ranks.len() {
                    (ranks[at], tokens[at]) = self.of(symbols[at], symbols[at + 1]);
                }
            }
        }
    }

    /// The same with a queue of pairs; an entry whose pair is no longer there is passed over.
    fn apply_long(&self, room: &mut Room, out: &mut Vec<u32>) {
        let Room {
            symbols,
            links,
            queue,
            ..
        } = room;
        let count = symbols.len() as u32;
        links.clear();
        // Before the first and behind the last stands NONE.
        links.extend((0..count).map(|at| {
            let next = if at + 1 < count { at + 1 } else { NONE };
            (at.checked_sub(1).unwrap_or(NONE), next)
        }));
        queue.clear();
        let ask = |queue: &mut BinaryHeap<_>, symbols: &[u32], at: u32, next: u32| {
            let (rank, token) = self.of(symbols[at as usize], symbols[next as usize]);
            if rank != NONE {
                queue.push(Reverse((rank, at, token)));
            }
        };
        for at in 0..count - 1 {
            ask(queue, symbols, at, at + 1);
        }
        while let Some(Reverse((rank, at, token))) = queue.pop() {
            let next = links[at as usize].1;
            if symbols[at as usize] == NONE
                || next == NONE
                || self.of(symbols[at as usize], symbols[next as usize]) != (rank, token)
            {
                continue;
            }
            symbols[at as usize] = token;
            symbols[next as usize] = NONE;
            let behind = links[next as usize].1;
            links[at as usize].1 = behind;
            if behind != NONE {
                links[behind as usize].0 = at;
                ask(queue, symbols, at, behind);
            }
            let before = links[at as usize].0;
            if before != NONE {
                ask(queue, symbols, before, at);
            }
        }
        out.extend(symbols.iter().filter(|symbol| **symbol != NONE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn long_words_are_merged_as_short_ones(
            symbols in prop::collection::vec(0u32..6, 1..90),
            merges in prop::collection::vec((0u32..12, 0u32..12), 0..20),
        ) {
            let mut all: Vec<(u32, u32, u32)> = Vec::new();
            for (first, second) in merges {
                // As in a vocabulary: a merge is of tokens that are there before.
                let known = 6 + all.len() as u32;
                if first < known && second < known && !all.iter().any(|m| (m.0, m.1) == (first, second)) {
                    all.push((first, second, known));
                }
            }
            let table = Merges::new(&all);
            let mut room = Room { symbols: symbols.clone(), ..Room::default() };
            table.apply_short(&mut room);
            let short = room.symbols.clone();
            room.symbols = symbols;
            let mut long = Vec::new();
            table.apply_long(&mut room, &mut long);
            prop_assert_eq!(short, long);
        }
    }
}
