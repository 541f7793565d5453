//! What a decoder's single steps need beside the products of [`crate::products`]: a cache of keys and
//! values that never moves what it holds, attention of one query a row over it, and the element-wise
//! parts. Forward only, f32, on the processor.

use candle_core::Tensor;
use chatlm_job::{Error, Result};
use rayon::prelude::*;

use crate::dropout::gelu;
use crate::gemm::Out;
use crate::math::{bf16, exp_in_place, max, vector};
use crate::norm::normalize;
use crate::rows::read;
use crate::stored::{Job, Stored, products};

/// `x (…, in)` by each of the weights, in one pass of all threads.
pub fn stored_linear(x: &Tensor, weights: &[&Stored]) -> Result<Vec<Tensor>> {
    let rows = x.dims2().map_err(Error::internal)?.0;
    let values = read(x).map_err(Error::internal)?;
    let mut outs: Vec<Vec<f32>> = weights
        .iter()
        .map(|weight| vec![0.0; rows * weight.shape().0])
        .collect();
    let mut jobs: Vec<Job<'_>> = weights
        .iter()
        .zip(&mut outs)
        .map(|(weight, out)| Job {
            weight,
            scale: 1.0,
            out,
        })
        .collect();
    products(&values, rows, &mut jobs)?;
    let tensor = |(out, weight): (Vec<f32>, &&Stored)| {
        Tensor::from_vec(out, (rows, weight.shape().0), x.device()).map_err(Error::internal)
    };
    outs.into_iter().zip(weights).map(tensor).collect()
}

/// T5's layer norm of rows as wide as `weight`.
pub fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f64, out: &mut [f32]) {
    vector(
        #[inline(always)]
        || {
            let width = weight.len().max(1);
            for (x, out) in x.chunks(width).zip(out.chunks_mut(width)) {
                normalize(x, weight, eps, out);
            }
        },
    );
}

/// `max(x, 0)`; NaN stays.
pub fn relu_rows(x: &mut [f32]) {
    vector(
        #[inline(always)]
        || {
            for x in x {
                *x = if *x < 0.0 { 0.0 } else { *x };
            }
        },
    );
}

/// `gelu(x) · gate`, in place of x.
pub fn gated_gelu_rows(x: &mut [f32], gate: &[f32]) {
    vector(
        #[inline(always)]
        || {
            for (x, gate) in x.iter_mut().zip(gate) {
                *x = gelu(*x).0 * gate;
            }
        },
    );
}

/// `x += y`.
pub fn add_rows(x: &mut [f32], y: &[f32]) {
    vector(
        #[inline(always)]
        || {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        },
    );
}

/// What keys and values are kept in: f32, or the bits of bf16, which are half as many to read.
pub trait Kept: Copy + Default + Send + Sync {
    fn of(value: f32) -> Self;
    fn wide(self) -> f32;
}

impl Kept for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Kept for u16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        bf16(value)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

/// Values as they are kept.
pub fn keep<T: Kept>(values: &[f32]) -> Vec<T> {
    let mut kept = vec![T::default(); values.len()];
    keep_in(values, &mut kept);
    kept
}

fn keep_in<T: Kept>(values: &[f32], kept: &mut [T]) {
    vector(
        #[inline(always)]
        || {
            for (kept, value) in kept.iter_mut().zip(values) {
                *kept = T::of(*value);
            }
        },
    );
}

/// Slots of a chunk.
const CHUNK: usize = 32;

/// Keys and values of one layer, a slot a token. Grows by chunks: nothing that is there moves.
#[derive(Debug)]
pub struct Slots<T> {
    /// Values of a key, all heads.
    inner: usize,
    /// Keys, then values, of `CHUNK` slots.
    chunks: Vec<Box<[T]>>,
}

impl<T: Kept> Slots<T> {
    pub fn new(inner: usize) -> Self {
        Self {
            inner,
            chunks: Vec::new(),
        }
    }

    /// Writes a slot; the next new one or one that nobody reads any more.
    pub fn write(&mut self, slot: u32, key: &[f32], value: &[f32]) {
        let (chunk, place) = (slot as usize / CHUNK, slot as usize % CHUNK);
        while self.chunks.len() <= chunk {
            let room = vec![T::default(); 2 * CHUNK * self.inner];
            self.chunks.push(room.into_boxed_slice());
        }
        let chunk = &mut self.chunks[chunk];
        let at = place * self.inner;
        keep_in(key, &mut chunk[at..at + self.inner]);
        let at = at + CHUNK * self.inner;
        keep_in(value, &mut chunk[at..at + self.inner]);
    }

    #[inline(always)]
    fn key(&self, slot: u32) -> &[T] {
        let at = slot as usize % CHUNK * self.inner;
        &self.chunks[slot as usize / CHUNK][at..at + self.inner]
    }

    #[inline(always)]
    fn value(&self, slot: u32) -> &[T] {
        let at = (CHUNK + slot as usize % CHUNK) * self.inner;
        &self.chunks[slot as usize / CHUNK][at..at + self.inner]
    }
}

/// What a row's query sees.
#[derive(Clone, Copy)]
pub enum Seen<'a, T> {
    /// The slots of its path, oldest first.
    Path {
        slots: &'a Slots<T>,
        path: &'a [u32],
    },
    /// Keys and values `(length, inner)`.
    Whole { keys: &'a [T], values: &'a [T] },
}

impl<T: Kept> Seen<'_, T> {
    fn len(&self, inner: usize) -> usize {
        match self {
            Self::Path { path, .. } => path.len(),
            Self::Whole { keys, .. } => keys.len() / inner.max(1),
        }
    }

    #[inline(always)]
    fn key(&self, place: usize, inner: usize) -> &[T] {
        match self {
            Self::Path { slots, path } => slots.key(path[place]),
            Self::Whole { keys, .. } => &keys[place * inner..(place + 1) * inner],
        }
    }

    #[inline(always)]
    fn value(&self, place: usize, inner: usize) -> &[T] {
        match self {
            Self::Path { slots, path } => slots.value(path[place]),
            Self::Whole { values, .. } => &values[place * inner..(place + 1) * inner],
        }
    }
}

/// Products of a step's attention that are worth another thread.
const WORTH: usize = 1 << 16;

/// Attention of one query a row, `q (rows, heads · width)`, without scaling. `bias (heads, n)` holds a
/// number a head and distance back from the query's own place, n at least the longest row's length.
pub fn attend<T: Kept>(
    q: &[f32],
    seen: &[Seen<'_, T>],
    heads: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if seen.is_empty() || heads == 0 {
        return;
    }
    let inner = q.len() / seen.len();
    let work: usize = seen.iter().map(|seen| seen.len(inner) * inner * 2).sum();
    // Heads go to threads in groups, so that each reads longer pieces.
    let group = if work < WORTH {
        heads
    } else {
        heads.div_ceil(4)
    };
    let groups = heads.div_ceil(group);
    let to = Out::new(out, inner);
    let task = |task: usize| {
        let (row, first) = (task / groups, task % groups * group);
        let part = Part {
            q: &q[row * inner..(row + 1) * inner],
            seen: seen[row],
            inner,
            width: inner / heads,
            heads: first..heads.min(first + group),
            bias: bias.map(|bias| (bias, bias.len() / heads)),
        };
        let mixed = vector(
            #[inline(always)]
            || part.mix(),
        );
        to.copy(row, part.heads.start * part.width, &mixed);
    };
    if work < WORTH {
        (0..seen.len() * groups).for_each(task);
    } else {
        (0..seen.len() * groups).into_par_iter().for_each(task);
    }
}

/// Some heads of one row.
struct Part<'a, T> {
    q: &'a [f32],
    seen: Seen<'a, T>,
    inner: usize,
    width: usize,
    heads: std::ops::Range<usize>,
    /// And its values a head.
    bias: Option<(&'a [f32], usize)>,
}

impl<T: Kept> Part<'_, T> {
    /// Keys and values are passed once each, all heads of a place together.
    #[inline(always)]
    fn mix(&self) -> Vec<f32> {
        let (length, width, count) = (self.seen.len(self.inner), self.width, self.heads.len());
        let from = self.heads.start * width;
        let mut out = vec![0.0; count * width];
        if length == 0 {
            return out;
        }
        let mut scores = vec![0.0; count * length];
        let part = from..from + count * width;
        for place in 0..length {
            if place + AHEAD < length {
                prefetch(&self.seen.key(place + AHEAD, self.inner)[part.clone()]);
            }
            let key = self.seen.key(place, self.inner);
            for head in 0..count {
                let at = from + head * width;
                let (q, key) = (&self.q[at..at + width], &key[at..at + width]);
                scores[head * length + place] = dot_kept(q, key);
            }
        }
        for (head, scores) in scores.chunks_mut(length).enumerate() {
            if let Some((bias, stride)) = self.bias {
                let line = &bias[(self.heads.start + head) * stride..][..length];
                for (score, bias) in scores.iter_mut().zip(line.iter().rev()) {
                    *score += bias;
                }
            }
            let largest = max(scores);
            let scale = 1.0 / exp_in_place(scores, largest);
            for score in scores {
                *score *= scale;
            }
        }
        for place in 0..length {
            if place + AHEAD < length {
                prefetch(&self.seen.value(place + AHEAD, self.inner)[part.clone()]);
            }
            let value = self.seen.value(place, self.inner);
            for head in 0..count {
                let at = from + head * width;
                let p = scores[head * length + place];
                let out = &mut out[head * width..(head + 1) * width];
                for (out, value) in out.iter_mut().zip(&value[at..at + width]) {
                    *out += p * value.wide();
                }
            }
        }
        out
    }
}

/// Places whose keys are on their way: they do not lie side by side, so the processor foresees none.
const AHEAD: usize = 4;

/// Asks for values that are read soon.
#[inline(always)]
fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks((64 / size_of::<T>()).max(1)) {
        #[expect(unsafe_code, reason = "a processor intrinsic")]
        // SAFETY: a prefetch reads nothing that the program sees.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// The sum of products with kept values.
#[inline(always)]
fn dot_kept<T: Kept>(a: &[f32], b: &[T]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane].wide();
        }
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y.wide()).sum();
    // A tree, not a row, of additions: the processor makes them side by side.
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0] + tail
}
