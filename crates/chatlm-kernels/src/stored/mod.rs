//! Weights for inference, as they lie in a file: row-major `(out, in)` in f32, bf16, f16 or int8, in
//! mapped memory where possible, and the products of few rows with them.
//!
//! A row of the result is a row of dot products over contiguous memory: nothing is packed or copied,
//! each weight is read once a product, and a row's bits know no neighbours. With few rows the memory's
//! bandwidth is the limit, so the smaller precisions are the faster ones.
//!
//! int8 is symmetric, one scale a row of the weight; the other operand is rounded to int8 row by row
//! as it comes (Dettmers et al. 2022, "LLM.int8()", vector-wise quantization).

mod kernel;
mod memory;
mod operand;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::Tensor;
use chatlm_job::{Error, Result};
use rayon::prelude::*;

use crate::cpu::cpu;
use crate::gemm::Out;
use crate::math::vector;
use kernel::{Sums, Tiles};
pub use memory::Mapping;
use memory::Place;
use operand::{Form, Input, Operand};

/// How the values of a [`Stored`] weight are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredKind {
    F32,
    F16,
    Bf16,
    /// A scale a row, values from -127 to 127.
    Int8,
}

impl StoredKind {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

#[derive(Debug, Clone)]
enum Values {
    /// Shared with a model in training.
    Tensor(Tensor),
    F32(Place<f32>),
    F16(Place<u16>),
    Bf16(Place<u16>),
    Int8 {
        /// Value + 128, so that the processor's product of unsigned and signed bytes serves.
        values: Place<u8>,
        /// One a row.
        scales: Place<f32>,
    },
}

/// A weight matrix `(out, in)` that is only read.
#[derive(Debug, Clone)]
pub struct Stored {
    out: usize,
    inner: usize,
    values: Values,
}

/// What a product multiplies: `(weight, scale)`, and where its `(rows, out)` go.
pub struct Job<'a> {
    pub weight: &'a Stored,
    pub scale: f32,
    pub out: &'a mut [f32],
}

/// Rows of a weight that are one task.
const TASK: usize = 32;
/// Rows of a weight that are multiplied together.
const TILE: usize = 8;
/// Rows of the input that are multiplied together.
const WIDE: usize = 4;
/// Rows of the input that stay in the cache while a weight passes, at most.
const BLOCK: usize = 64;
/// Bytes that they may take there.
const CACHE: usize = 1 << 18;

impl Stored {
    fn of(out: usize, inner: usize, values: Values) -> Self {
        Self { out, inner, values }
    }

    /// Over a contiguous f32 tensor of the processor, without a copy.
    pub fn tensor(tensor: &Tensor) -> Result<Self> {
        let (out, inner) = tensor.dims2().map_err(Error::internal)?;
        let tensor = tensor.contiguous().map_err(Error::internal)?;
        crate::rows::read(&tensor).map_err(Error::internal)?;
        Ok(Self::of(out, inner, Values::Tensor(tensor)))
    }

    /// Part of a mapped file, from byte `at` on, little-endian; int8 takes its scales from another
    /// place. `None` where the place is outside the file or not aligned.
    pub fn mapped(
        map: &Arc<Mapping>,
        (out, inner): (usize, usize),
        kind: StoredKind,
        at: usize,
        scales: Option<usize>,
    ) -> Option<Self> {
        let count = out * inner;
        let values = match kind {
            StoredKind::F32 => Values::F32(Place::mapped(map, at, count)?),
            StoredKind::F16 => Values::F16(Place::mapped(map, at, count)?),
            StoredKind::Bf16 => Values::Bf16(Place::mapped(map, at, count)?),
            StoredKind::Int8 => Values::Int8 {
                values: Place::mapped(map, at, count)?,
                scales: Place::mapped(map, scales?, out)?,
            },
        };
        Some(Self::of(out, inner, values))
    }

    /// Values of its own, rounded from f32: to nearest, ties to even.
    pub fn rounded(values: &[f32], (out, inner): (usize, usize), kind: StoredKind) -> Self {
        let mut builder = StoredBuilder::new((out, inner), kind);
        builder.push(values);
        builder.finish()
    }

    pub fn kind(&self) -> StoredKind {
        match self.values {
            Values::Tensor(_) | Values::F32(_) => StoredKind::F32,
            Values::F16(_) => StoredKind::F16,
            Values::Bf16(_) => StoredKind::Bf16,
            Values::Int8 { .. } => StoredKind::Int8,
        }
    }

    /// `(out, in)`
    pub fn shape(&self) -> (usize, usize) {
        (self.out, self.inner)
    }

    /// The values and scales of an int8 weight as a file holds them.
    pub fn int8(&self) -> Option<(&[u8], &[f32])> {
        match &self.values {
            Values::Int8 { values, scales } => Some((values.get(), scales.get())),
            _ => None,
        }
    }

    /// Where the values lie in a mapped file: takes them out of this process's memory, until they are
    /// read again.
    pub fn release(&self) {
        match &self.values {
            Values::Tensor(_) => {}
            Values::F32(values) => values.release(),
            Values::F16(values) | Values::Bf16(values) => values.release(),
            Values::Int8 { values, .. } => values.release(),
        }
    }

    /// A row in f32.
    pub fn row(&self, row: usize, to: &mut [f32]) -> Result<()> {
        let range = row * self.inner..(row + 1) * self.inner;
        match &self.values {
            Values::Tensor(tensor) => {
                to.copy_from_slice(&crate::rows::read(tensor).map_err(Error::internal)?[range]);
            }
            Values::F32(values) => to.copy_from_slice(&values.get()[range]),
            Values::F16(values) => {
                for (to, &bits) in to.iter_mut().zip(&values.get()[range]) {
                    *to = half::f16::from_bits(bits).to_f32();
                }
            }
            Values::Bf16(values) => {
                for (to, &bits) in to.iter_mut().zip(&values.get()[range]) {
                    *to = f32::from_bits(u32::from(bits) << 16);
                }
            }
            Values::Int8 { values, scales } => {
                let scale = scales.get()[row];
                for (to, &value) in to.iter_mut().zip(&values.get()[range]) {
                    *to = (f32::from(value) - 128.0) * scale;
                }
            }
        }
        Ok(())
    }

    /// All values in f32.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut all = vec![0.0; self.out * self.inner];
        for (row, to) in all.chunks_mut(self.inner.max(1)).enumerate() {
            self.row(row, to)?;
        }
        Ok(all)
    }
}

/// Makes a weight of its own memory from f32 values that come in whole rows.
pub struct StoredBuilder {
    shape: (usize, usize),
    kind: StoredKind,
    wide: Vec<f32>,
    short: Vec<u16>,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl StoredBuilder {
    pub fn new((out, inner): (usize, usize), kind: StoredKind) -> Self {
        let count = out * inner;
        let room = |wanted: bool| if wanted { count } else { 0 };
        Self {
            shape: (out, inner),
            kind,
            wide: Vec::with_capacity(room(kind == StoredKind::F32)),
            short: Vec::with_capacity(room(matches!(kind, StoredKind::F16 | StoredKind::Bf16))),
            bytes: Vec::with_capacity(room(kind == StoredKind::Int8)),
            scales: Vec::new(),
        }
    }

    /// Adds rows.
    pub fn push(&mut self, values: &[f32]) {
        match self.kind {
            StoredKind::F32 => self.wide.extend_from_slice(values),
            StoredKind::F16 => {
                let bits = |&value: &f32| half::f16::from_f32(value).to_bits();
                self.short.extend(values.iter().map(bits));
            }
            StoredKind::Bf16 => {
                let bits = |&value: &f32| half::bf16::from_f32(value).to_bits();
                self.short.extend(values.iter().map(bits));
            }
            StoredKind::Int8 => {
                for row in values.chunks(self.shape.1.max(1)) {
                    let largest = row.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
                    // A row that is not finite stays visible: its scale is not.
                    let finite = row.iter().all(|value| value.is_finite());
                    let scale = if finite { largest / 127.0 } else { f32::NAN };
                    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                    let byte = |&v: &f32| ((v * inverse).round_ties_even() + 128.0) as u8;
                    self.bytes.extend(row.iter().map(byte));
                    self.scales.push(scale);
                }
            }
        }
    }

    pub fn finish(self) -> Stored {
        let values = match self.kind {
            StoredKind::F32 => Values::F32(Place::Owned(self.wide.into())),
            StoredKind::F16 => Values::F16(Place::Owned(self.short.into())),
            StoredKind::Bf16 => Values::Bf16(Place::Owned(self.short.into())),
            StoredKind::Int8 => Values::Int8 {
                values: Place::Owned(self.bytes.into()),
                scales: Place::Owned(self.scales.into()),
            },
        };
        Stored::of(self.shape.0, self.shape.1, values)
    }
}

/// `x (rows, in)` by each of the weights, whose inner width must be x's: one pass of all threads.
pub fn products(x: &[f32], rows: usize, jobs: &mut [Job<'_>]) -> Result<()> {
    let inner = x.len().checked_div(rows).unwrap_or(0);
    let mut plans = Vec::with_capacity(jobs.len());
    let mut tasks = 0;
    let mut input = Input::new(x, rows, inner);
    for job in jobs.iter() {
        input.prepare(Form::of(cpu(), job.weight.kind()));
    }
    for job in jobs {
        let (out, width) = job.weight.shape();
        if width != inner || job.out.len() != rows * out {
            return Err(Error::internal(format!(
                "{} values in {rows} rows for a weight of ({out}, {width})",
                x.len()
            )));
        }
        plans.push((tasks, job.weight, job.scale, Out::new(job.out, out.max(1))));
        tasks += out.div_ceil(TASK);
    }
    let plans: Vec<_> = plans
        .into_iter()
        .map(|(first, weight, scale, out)| Ok((first, weight.product(&input, scale)?, out)))
        .collect::<Result<_>>()?;
    let run = |task: usize| {
        let at = plans.partition_point(|(first, ..)| *first <= task) - 1;
        let (first, product, out) = &plans[at];
        product.run(task - first, |row, column, values| {
            out.copy(row, column, values);
        });
    };
    if rows * inner > 0 {
        (0..tasks).into_par_iter().for_each(run);
    }
    Ok(())
}

/// The place of the largest of `x (rows, in)` by the weight, row by row: the first of equals, `None`
/// where one is not finite. The product itself is never written.
pub fn largest(x: &[f32], rows: usize, weight: &Stored, scale: f32) -> Result<Vec<Option<u32>>> {
    let mut input = Input::new(x, rows, x.len() / rows.max(1));
    input.prepare(Form::of(cpu(), weight.kind()));
    if x.len() != rows * weight.inner {
        return Err(Error::internal("rows of another width than the weight's"));
    }
    let product = weight.product(&input, scale)?;
    let none = || vec![(f32::NEG_INFINITY, u32::MAX, true); rows];
    // The larger, of equals the earlier one: whichever thread comes first.
    let better = |a: &mut (f32, u32, bool), b: (f32, u32, bool)| {
        let finite = a.2 && b.2;
        if b.0 > a.0 || (b.0.to_bits() == a.0.to_bits() && b.1 < a.1) {
            *a = b;
        }
        a.2 = finite;
    };
    let best = (0..weight.out.div_ceil(TASK))
        .into_par_iter()
        .fold(none, |mut best, task| {
            product.run(task, |row, column, values| {
                for (place, &value) in values.iter().enumerate() {
                    let id = (column + place) as u32;
                    better(&mut best[row], (value + 0.0, id, value.is_finite()));
                }
            });
            best
        })
        .reduce(none, |mut a, b| {
            for (a, b) in a.iter_mut().zip(b) {
                better(a, b);
            }
            a
        });
    let id = |(_, id, finite): (f32, u32, bool)| (finite && id != u32::MAX).then_some(id);
    Ok(best.into_iter().map(id).collect())
}

/// One weight by one input.
struct Product<'a> {
    view: View<'a>,
    out: usize,
    inner: usize,
    rows: usize,
    scale: f32,
    operand: &'a Operand<'a>,
    tiles: Tiles,
}

/// Where a weight's bytes are.
struct View<'a> {
    at: *const u8,
    /// Bytes of a row.
    row: usize,
    /// Of an int8 weight.
    scales: &'a [f32],
    /// Holds a tensor's memory.
    _guard: Option<Box<dyn std::ops::Deref<Target = [f32]> + 'a>>,
}

#[expect(unsafe_code, reason = "an address into memory that is only read")]
// SAFETY: nothing writes through the address, and what it points into outlives the view; the guard
// is only held, and dropped by the thread that made it.
unsafe impl Sync for View<'_> {}

impl Stored {
    fn view(&self) -> Result<View<'_>> {
        let mut guard = None;
        let mut of_row_scales: &[f32] = &[];
        let at = match &self.values {
            Values::Tensor(tensor) => {
                let values = crate::rows::read(tensor).map_err(Error::internal)?;
                let at = values.as_ptr().cast();
                guard = Some(Box::new(values) as Box<dyn std::ops::Deref<Target = [f32]>>);
                at
            }
            Values::F32(values) => values.get().as_ptr().cast(),
            Values::F16(values) | Values::Bf16(values) => values.get().as_ptr().cast(),
            Values::Int8 { values, scales } => {
                of_row_scales = scales.get();
                values.get().as_ptr()
            }
        };
        Ok(View {
            at,
            row: self.inner * self.kind().size(),
            scales: of_row_scales,
            _guard: guard,
        })
    }

    fn product<'a>(&'a self, input: &'a Input<'_>, scale: f32) -> Result<Product<'a>> {
        let kind = self.kind();
        let operand = input
            .form(Form::of(cpu(), kind))
            .ok_or_else(|| Error::internal("an input that is not prepared for its weight"))?;
        Ok(Product {
            view: self.view()?,
            out: self.out,
            inner: self.inner,
            rows: input.rows,
            scale,
            operand,
            tiles: Tiles::of(cpu(), kind),
        })
    }
}

impl Product<'_> {
    /// Computes `TASK` columns of the result and hands them out: row, first column, values.
    fn run(&self, task: usize, mut sink: impl FnMut(usize, usize, &[f32])) {
        let first = task * TASK;
        let count = TASK.min(self.out - first);
        let mut sums = [[0u32; TASK]; BLOCK];
        // Fewer of wide rows, so that they stay in the second cache.
        let height = (CACHE / (self.inner * 4).max(1)).clamp(WIDE, BLOCK) / WIDE * WIDE;
        for from in (0..self.rows).step_by(height) {
            let sums = &mut sums[..height.min(self.rows - from)];
            for tile in (0..count).step_by(TILE) {
                self.tile(first, tile..count.min(tile + TILE), from, sums);
            }
            for (row, sums) in (from..).zip(sums) {
                let mut values = [0.0f32; TASK];
                vector(
                    #[inline(always)]
                    || self.values(first, row, sums, &mut values[..count]),
                );
                sink(row, first, &values[..count]);
            }
        }
    }

    /// Some rows of the weight by the rows of the input from `from` on, a line of sums each.
    #[expect(unsafe_code, reason = "register kernels take addresses of rows")]
    fn tile(
        &self,
        first: usize,
        columns: std::ops::Range<usize>,
        from: usize,
        lines: &mut [[u32; TASK]],
    ) {
        let (x, x_row) = self.operand.bytes(self.inner);
        let (w_row, k) = (self.view.row, self.inner);
        let whole = columns.len() == TILE;
        let mut sums: Sums = [0; TILE * WIDE];
        let mut row = 0;
        while row < lines.len() {
            // SAFETY: the weight has rows `first + columns`, the input the rows from `from + row` on
            // that there are lines for, all of k values; the sums have room for the largest tile.
            let many = unsafe {
                let w = self.view.at.add((first + columns.start) * w_row);
                let x = x.add((from + row) * x_row);
                if whole && lines.len() - row >= WIDE {
                    for half in 0..2 {
                        let w = w.add(half * WIDE * w_row);
                        (self.tiles.wide)(w, w_row, x, x_row, k, &mut sums);
                        for (line, sums) in
                            lines[row..].iter_mut().zip(sums.chunks(WIDE)).take(WIDE)
                        {
                            line[columns.start + half * WIDE..][..WIDE].copy_from_slice(sums);
                        }
                    }
                    WIDE
                } else {
                    if whole {
                        (self.tiles.narrow)(w, w_row, x, x_row, k, &mut sums);
                    } else {
                        for column in 0..columns.len() {
                            let w = w.add(column * w_row);
                            (self.tiles.single)(w, w_row, x, x_row, k, &mut sums[column..]);
                        }
                    }
                    lines[row][columns.clone()].copy_from_slice(&sums[..columns.len()]);
                    1
                }
            };
            row += many;
        }
    }

    /// What sums stand for.
    #[inline(always)]
    fn values(&self, first: usize, row: usize, sums: &[u32; TASK], values: &mut [f32]) {
        if let Operand::Int8 {
            scales,
            sums: of_row,
            ..
        } = self.operand
        {
            let (scale, sum) = (self.scale * scales[row], 128 * of_row[row]);
            let columns = &self.view.scales[first..first + values.len()];
            for ((value, bits), column) in values.iter_mut().zip(sums).zip(columns) {
                // The weight's bytes are 128 too large.
                *value = scale * column * (*bits as i32 - sum) as f32;
            }
        } else {
            for (value, bits) in values.iter_mut().zip(sums) {
                *value = self.scale * f32::from_bits(*bits);
            }
        }
    }
}
