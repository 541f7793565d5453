//! Multi-head attention as T5 has it: scores without scaling plus a learned relative bias (Raffel et al.
//! 2020), over rows laid end to end: a query sees the keys of its own row. Softmax streams over tiles of
//! keys, the backward computes probabilities again (Dao et al. 2022, "FlashAttention"), so no
//! (queries × keys) matrix is ever in memory.

use crate::machine::{Arg, Call, Dropout, Element, Machine, Memory, Module, check, small};

/// Lines of a tile of queries or keys, as in kernels/attention.cuh.
const TILE: u32 = 32;
const THREADS: u32 = 128;
/// Widths of a head that the kernels are made for; a head uses the next one up.
const ROOMS: [u32; 3] = [32, 64, 128];

/// The widest head there is a kernel for.
pub const WIDEST: usize = 128;

/// The bias of each distance: f32 (heads, 2 · longest − 1), `key − query + longest − 1` in each line.
#[derive(Debug, Clone, Copy)]
pub struct Bias {
    pub lines: Memory,
    /// The longest row that the distances cover.
    pub longest: usize,
}

/// One call, forward and backward.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    pub element: Element,
    pub heads: usize,
    /// Of one head: 1 to [`WIDEST`].
    pub width: usize,
    /// Queries see keys up to their own place; rows of queries and keys are the same then.
    pub causal: bool,
    /// Where each row's queries begin, and where the last ends.
    pub queries: &'a [u32],
    /// The same of the keys.
    pub keys: &'a [u32],
    pub bias: Option<Bias>,
    pub drop: Option<Dropout<'a>>,
}

/// What the forward reads and writes: q and out `(places of queries, heads · width)`, k and v `(places of
/// keys, heads · width)`, norms f32 `(heads, places of queries)`.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    pub q: Memory,
    pub k: Memory,
    pub v: Memory,
    pub out: Memory,
    /// The log of each query's softmax sum, −∞ where a query sees nothing; its output is 0 then.
    pub norms: Memory,
}

/// What the backward writes, besides reading all of [`Forward`].
#[derive(Debug, Clone, Copy)]
pub struct Gradients {
    /// Of the output: read.
    pub out: Memory,
    pub dq: Memory,
    pub dk: Memory,
    pub dv: Memory,
    /// Of the bias by distance, f32 (heads, 2 · longest − 1); written over.
    pub lines: Option<Memory>,
}

/// The sizes of a call, checked.
struct Sizes {
    heads: u32,
    width: u32,
    room: u32,
    places: u32,
    longest: u32,
    /// Bytes of queries and of keys.
    bytes: [u64; 2],
    /// The longest row of keys.
    keys: u32,
}

/// A tile's row and its first place there, for every tile of 32.
fn tiles(starts: &[u32]) -> Vec<u32> {
    let mut tiles = Vec::new();
    for (row, ends) in starts.windows(2).enumerate() {
        for from in (0..ends[1] - ends[0]).step_by(TILE as usize) {
            tiles.extend([row as u32, from]);
        }
    }
    tiles
}

fn longest(starts: &[u32]) -> u32 {
    starts
        .windows(2)
        .map(|ends| ends[1] - ends[0])
        .max()
        .unwrap_or(0)
}

impl Attention<'_> {
    fn sizes<M: Machine>(&self, machine: &M) -> Result<Sizes, M::Error> {
        let refuse = |what: String| Err(machine.refuse(what));
        let width = small(machine, "columns", self.width)?;
        let Some(&room) = ROOMS.iter().find(|&&room| width > 0 && width <= room) else {
            return refuse(format!(
                "a head of {width} columns: 1 to {WIDEST} are possible"
            ));
        };
        let rising = |starts: &[u32]| starts.first() == Some(&0) && starts.is_sorted();
        if self.queries.len() != self.keys.len() || !rising(self.queries) || !rising(self.keys) {
            return refuse(format!(
                "rows of queries {:?} and of keys {:?}",
                self.queries, self.keys
            ));
        }
        if self.causal && self.queries != self.keys {
            return refuse("causal attention is over a row's own places".to_owned());
        }
        let heads = small(machine, "heads", self.heads)?;
        if heads == 0 || heads > crate::machine::MOST {
            return refuse(format!("{heads} heads"));
        }
        let places = |starts: &[u32]| starts.last().copied().unwrap_or(0);
        let inner = u64::from(heads) * u64::from(width) * self.element.bytes();
        let covered = match &self.bias {
            Some(bias) => small(machine, "distances", 2 * bias.longest)? / 2,
            None => 0,
        };
        let needed = longest(self.queries).max(longest(self.keys));
        if self.bias.is_some() && (covered < needed || covered == 0) {
            return refuse(format!("a bias of rows of {covered} for rows of {needed}"));
        }
        Ok(Sizes {
            heads,
            width,
            room,
            places: places(self.queries),
            longest: covered,
            bytes: [
                u64::from(places(self.queries)) * inner,
                u64::from(places(self.keys)) * inner,
            ],
            keys: longest(self.keys),
        })
    }

    fn check<M: Machine>(
        &self,
        machine: &M,
        sizes: &Sizes,
        with: &Forward,
    ) -> Result<(), M::Error> {
        let [queries, keys] = sizes.bytes;
        let norms = u64::from(sizes.places) * u64::from(sizes.heads) * 4;
        check(
            machine,
            &[
                ("q", Some(with.q), queries),
                ("k", Some(with.k), keys),
                ("v", Some(with.v), keys),
                ("the output", Some(with.out), queries),
                ("norms", Some(with.norms), norms),
                ("the bias", self.bias.map(|bias| bias.lines), sizes.lines()),
            ],
        )
    }

    /// What all attention kernels take: rows, tiles, sizes, bias, dropout.
    fn arguments(
        &self,
        sizes: &Sizes,
        [queries, keys, tiles]: [Memory; 3],
        drop: [Arg; 3],
    ) -> Vec<Arg> {
        let mut arguments = vec![
            queries.into(),
            keys.into(),
            tiles.into(),
            sizes.heads.into(),
            sizes.width.into(),
            sizes.places.into(),
            self.causal.into(),
            self.bias.map(|bias| bias.lines).into(),
            sizes.longest.into(),
        ];
        arguments.extend(drop);
        arguments
    }

    pub fn forward<M: Machine>(&self, machine: &M, with: &Forward) -> Result<(), M::Error> {
        let sizes = self.sizes(machine)?;
        self.check(machine, &sizes, with)?;
        let list = tiles(self.queries);
        if list.is_empty() {
            return Ok(());
        }
        let rows = [
            machine.numbers(self.queries)?,
            machine.numbers(self.keys)?,
            machine.numbers(&list)?,
        ];
        let drop = Dropout::arguments(self.drop.as_ref(), self.queries.len() - 1, machine)?;
        let mut arguments = vec![with.q.into(), with.k.into(), with.v.into()];
        arguments.extend(self.arguments(&sizes, rows, drop));
        arguments.append(&mut vec![with.out.into(), with.norms.into()]);
        machine.launch(&Call::new(
            Module::Attention,
            format!("attention_forward_{}_{}", self.element.name(), sizes.room),
            ([(list.len() / 2) as u32, sizes.heads, 1], THREADS),
            arguments,
        ))
    }

    pub fn backward<M: Machine>(
        &self,
        machine: &M,
        with: &Forward,
        to: &Gradients,
    ) -> Result<(), M::Error> {
        let sizes = self.sizes(machine)?;
        self.check(machine, &sizes, with)?;
        let [of_queries, of_keys] = sizes.bytes;
        check(
            machine,
            &[
                ("the gradient", Some(to.out), of_queries),
                ("dq", Some(to.dq), of_queries),
                ("dk", Some(to.dk), of_keys),
                ("dv", Some(to.dv), of_keys),
                ("the bias's gradient", to.lines, sizes.lines()),
            ],
        )?;
        if to.lines.is_some() && self.bias.is_none() {
            return Err(machine.refuse("a gradient of no bias".to_owned()));
        }
        let (element, room) = (self.element.name(), sizes.room);
        let drop = Dropout::arguments(self.drop.as_ref(), self.queries.len() - 1, machine)?;
        let (starts, key_starts) = (machine.numbers(self.queries)?, machine.numbers(self.keys)?);
        let dots = machine.zeros(u64::from(sizes.places) * u64::from(sizes.heads) * 4)?;
        let lines = u64::from(sizes.places) * u64::from(sizes.heads);
        if lines > 0 {
            machine.launch(&Call::new(
                Module::AttentionBackward,
                format!("attention_dots_{element}"),
                (
                    [lines.div_ceil(u64::from(THREADS / 32)) as u32, 1, 1],
                    THREADS,
                ),
                vec![
                    with.out.into(),
                    to.out.into(),
                    sizes.heads.into(),
                    sizes.width.into(),
                    sizes.places.into(),
                    dots.into(),
                ],
            ))?;
        }
        let read: [Arg; 6] = [
            with.q.into(),
            with.k.into(),
            with.v.into(),
            to.out.into(),
            with.norms.into(),
            dots.into(),
        ];
        // Four tiles, and the lines of probabilities and of scores' gradients.
        let (tile, line) = (TILE * (room + 1) * 4, TILE * (TILE + 1) * 4);

        let list = tiles(self.keys);
        if !list.is_empty() {
            let mut arguments = read.to_vec();
            let rows = [starts, key_starts, machine.numbers(&list)?];
            arguments.extend(self.arguments(&sizes, rows, drop));
            arguments.append(&mut vec![to.dk.into(), to.dv.into()]);
            let blocks = [(list.len() / 2) as u32, sizes.heads, 1];
            machine.launch(
                &Call::new(
                    Module::AttentionBackward,
                    format!("attention_keys_{element}_{room}"),
                    (blocks, THREADS),
                    arguments,
                )
                .shared(4 * tile + 2 * line),
            )?;
        }

        let list = tiles(self.queries);
        let count = (list.len() / 2) as u32;
        let tile_list = machine.numbers(&list)?;
        let span = sizes.keys.next_multiple_of(TILE) + TILE - 1;
        let parts = match to.lines {
            Some(_) => Some(
                machine.zeros(u64::from(count) * u64::from(sizes.heads) * u64::from(span) * 4)?,
            ),
            None => None,
        };
        if count > 0 {
            let mut arguments = read.to_vec();
            let rows = [starts, key_starts, tile_list];
            arguments.extend(self.arguments(&sizes, rows, drop));
            arguments.append(&mut vec![to.dq.into(), parts.into(), span.into()]);
            machine.launch(
                &Call::new(
                    Module::AttentionBackward,
                    format!("attention_queries_{element}_{room}"),
                    ([count, sizes.heads, 1], THREADS),
                    arguments,
                )
                .shared(4 * tile + line),
            )?;
        }
        let (Some(lines), Some(parts)) = (to.lines, parts) else {
            return Ok(());
        };
        let distances = sizes.heads * (2 * sizes.longest - 1);
        machine.launch(&Call::new(
            Module::AttentionBackward,
            "attention_bias",
            ([distances.div_ceil(THREADS), 1, 1], THREADS),
            vec![
                parts.into(),
                tile_list.into(),
                count.into(),
                sizes.heads.into(),
                span.into(),
                sizes.longest.into(),
                lines.into(),
            ],
        ))
    }
}

impl Sizes {
    /// Bytes of the bias's lines.
    fn lines(&self) -> u64 {
        u64::from(self.heads) * u64::from(2 * self.longest).saturating_sub(1) * 4
    }
}
