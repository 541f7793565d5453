//! A greedy decoding step: the most likely token of each row, and one query's attention over a cache of
//! keys and values.

use crate::machine::{Call, Element, MOST, Machine, Memory, Module, check, small};

const THREADS: u32 = 256;
const ATTENTION_THREADS: u32 = 128;

/// In place of a token where a score of the row is not finite.
pub const NONE: u32 = u32::MAX;

/// The place of the first of the largest of `scores (rows, width)` of each row, u32 (rows); [`NONE`] where
/// a score is not finite.
pub fn argmax<M: Machine>(
    machine: &M,
    element: Element,
    scores: Memory,
    (rows, width): (usize, usize),
    out: Memory,
) -> Result<(), M::Error> {
    let (count, columns) = (
        small(machine, "rows", rows)?,
        small(machine, "columns", width)?,
    );
    check(
        machine,
        &[
            (
                "scores",
                Some(scores),
                (rows * width) as u64 * element.bytes(),
            ),
            ("tokens", Some(out), rows as u64 * 4),
        ],
    )?;
    if rows == 0 {
        return Ok(());
    }
    machine.launch(&Call::new(
        Module::Decode,
        format!("decode_argmax_{}", element.name()),
        ([count, 1, 1], THREADS),
        vec![scores.into(), columns.into(), out.into()],
    ))
}

/// One query a row and head over a cache.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    pub element: Element,
    pub heads: usize,
    /// Of one head: 1 to [`crate::attention::WIDEST`].
    pub width: usize,
    /// Keys that the cache has room for.
    pub room: usize,
    /// Keys of each row that are there, from the first on; a row without any gives 0.
    pub lengths: &'a [u32],
}

/// What a step reads and writes: q and out `(rows, heads · width)`, k and v `(rows, heads, room, width)`,
/// bias f32 `(heads, room)`.
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    pub q: Memory,
    pub k: Memory,
    pub v: Memory,
    pub bias: Option<Memory>,
    pub out: Memory,
}

impl Step<'_> {
    /// `softmax(q·kᵀ + bias)·v`, without scaling, as T5 has it.
    pub fn attention<M: Machine>(&self, machine: &M, with: &Cache) -> Result<(), M::Error> {
        let (heads, width) = (
            small(machine, "heads", self.heads)?,
            small(machine, "columns", self.width)?,
        );
        let room = small(machine, "keys", self.room)?;
        let sizes = [32, 64, 128];
        let Some(size) = sizes.iter().find(|&&size| width > 0 && width <= size) else {
            return Err(machine.refuse(format!("a head of {width} columns: 1 to 128 are possible")));
        };
        if let Some(length) = self.lengths.iter().find(|&&length| length > room) {
            return Err(machine.refuse(format!("{length} keys in room for {room}")));
        }
        let rows = small(machine, "rows", self.lengths.len())?;
        let line =
            self.lengths.len() as u64 * u64::from(heads) * u64::from(width) * self.element.bytes();
        let cache = line * u64::from(room);
        check(
            machine,
            &[
                ("q", Some(with.q), line),
                ("k", Some(with.k), cache),
                ("v", Some(with.v), cache),
                (
                    "the bias",
                    with.bias,
                    u64::from(heads) * u64::from(room) * 4,
                ),
                ("the output", Some(with.out), line),
            ],
        )?;
        if rows == 0 || heads == 0 {
            return Ok(());
        }
        if rows > MOST {
            return Err(machine.refuse(format!("{rows} rows: {MOST} are possible")));
        }
        let lengths = machine.numbers(self.lengths)?;
        machine.launch(&Call::new(
            Module::Decode,
            format!("decode_attention_{}_{size}", self.element.name()),
            ([heads, rows, 1], ATTENTION_THREADS),
            vec![
                with.q.into(),
                with.k.into(),
                with.v.into(),
                with.bias.into(),
                lengths.into(),
                heads.into(),
                width.into(),
                room.into(),
                with.out.into(),
            ],
        ))
    }
}
