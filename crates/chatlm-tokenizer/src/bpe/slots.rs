//! The words of a corpus as symbols, end to end in one buffer of 16 or 32 bits a symbol.
//!
//! A word is its count in slots of 14 bits, its symbols, then `END`; what a shrinking word frees is
//! filled with `END` too. A word's place is that of its first count slot. Slots are atomics so that
//! threads may rewrite different words at once; no two ever touch one word.

use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use rayon::prelude::*;

/// Slots a segment has at least, the unit of parallel work over the whole corpus.
const SEGMENT: usize = 1 << 17;

const COUNT_BITS: u32 = 14;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;
/// More count slots follow.
const COUNT_MORE: u32 = 1 << COUNT_BITS;

/// One symbol as it lies in memory.
pub(super) trait Slot: Send + Sync + Sized {
    const END: u32;
    fn new(value: u32) -> Self;
    fn get(&self) -> u32;
    fn set(&self, value: u32);
}

impl Slot for AtomicU16 {
    const END: u32 = 0xffff;
    fn new(value: u32) -> Self {
        Self::new(value as u16)
    }
    fn get(&self) -> u32 {
        u32::from(self.load(Ordering::Relaxed))
    }
    fn set(&self, value: u32) {
        self.store(value as u16, Ordering::Relaxed);
    }
}

impl Slot for AtomicU32 {
    const END: u32 = 0xffff_ffff;
    fn new(value: u32) -> Self {
        Self::new(value)
    }
    fn get(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }
    fn set(&self, value: u32) {
        self.store(value, Ordering::Relaxed);
    }
}

/// Slots that a word of so many symbols takes.
pub(super) fn slots_of(symbols: usize, count: u64) -> usize {
    let mut slots = symbols + 2;
    let mut rest = count >> COUNT_BITS;
    while rest > 0 {
        slots += 1;
        rest >>= COUNT_BITS;
    }
    slots
}

/// The words of a corpus.
pub(super) struct Slots<S> {
    slots: Vec<S>,
    /// Whole words each.
    segments: Vec<Range<usize>>,
}

impl<S: Slot> Slots<S> {
    /// An empty corpus with room for so many slots; the room costs memory only where it is filled.
    pub(super) fn with_capacity(slots: usize) -> Self {
        Self {
            slots: Vec::with_capacity(slots),
            segments: Vec::new(),
        }
    }

    /// Adds a word; those of fewer than two symbols hold no pair and are left out.
    pub(super) fn push(&mut self, count: u64, symbols: impl ExactSizeIterator<Item = u32>) {
        if symbols.len() < 2 || count == 0 {
            return;
        }
        let start = self.slots.len();
        let mut rest = count;
        loop {
            let low = rest as u32 & COUNT_MASK;
            rest >>= COUNT_BITS;
            let more = if rest > 0 { COUNT_MORE } else { 0 };
            self.slots.push(S::new(low | more));
            if rest == 0 {
                break;
            }
        }
        self.slots.extend(symbols.map(S::new));
        self.slots.push(S::new(S::END));
        let end = self.slots.len();
        match self.segments.last_mut() {
            Some(last) if last.len() < SEGMENT => last.end = end,
            _ => self.segments.push(start..end),
        }
    }

    /// Slots in use.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(ExactSizeIterator::len).sum()
    }

    pub(super) fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// The count of the word at a place, and the place of its first symbol.
    #[inline]
    pub(super) fn count(&self, place: usize) -> (u64, usize) {
        let (mut count, mut shift, mut at) = (0, 0, place);
        loop {
            let slot = self.slots[at].get();
            count |= u64::from(slot & COUNT_MASK) << shift;
            at += 1;
            shift += COUNT_BITS;
            if slot & COUNT_MORE == 0 {
                return (count, at);
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> u32 {
        self.slots[at].get()
    }

    #[inline]
    pub(super) fn set(&self, at: usize, symbol: u32) {
        self.slots[at].set(symbol);
    }

    /// Moves the words of each segment together and leaves out those of one symbol.
    pub(super) fn compact(&mut self) {
        let slots = &self.slots;
        self.segments.par_iter_mut().for_each(|segment| {
            let (mut at, mut to) = (segment.start, segment.start);
            while at < segment.end {
                let place = at;
                while slots[at].get() & COUNT_MORE != 0 {
                    at += 1;
                }
                at += 1;
                let first = at;
                while slots[at].get() != S::END {
                    at += 1;
                }
                let symbols = at - first;
                let word = place..at + 1;
                while at < segment.end && slots[at].get() == S::END {
                    at += 1;
                }
                if symbols >= 2 {
                    for from in word {
                        slots[to].set(slots[from].get());
                        to += 1;
                    }
                }
            }
            segment.end = to;
        });
        self.segments.retain(|segment| !segment.is_empty());
    }

    /// Calls `word` with place, count and the range of the symbols' places of each word of a segment,
    /// right after [`Self::compact`] or before any rewriting.
    pub(super) fn words(
        &self,
        segment: &Range<usize>,
        mut word: impl FnMut(usize, u64, Range<usize>),
    ) {
        let mut place = segment.start;
        while place < segment.end {
            let (count, first) = self.count(place);
            let mut at = first;
            while self.slots[at].get() != S::END {
                at += 1;
            }
            word(place, count, first..at);
            place = at + 1;
            while place < segment.end && self.slots[place].get() == S::END {
                place += 1;
            }
        }
    }
}
