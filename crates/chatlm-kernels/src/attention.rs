//! Multi-head attention as T5 has it: scores without scaling plus a learned relative bias
//! (Raffel et al. 2020), causality, softmax, dropout, and the mix of the values, over rows laid end
//! to end: a query sees the keys of its own row.
//!
//! Queries go in blocks; no more of the (queries × keys) matrix is ever held. The backward computes
//! it again from one number a query (Dao et al. 2022, "FlashAttention"). Heads are strides of the
//! projections, not copies.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::dropout::{Drop, Mask};
use crate::gemm::{Matrix, Out, Precision, Product};
use crate::layout::Rows;
use crate::math::{dot, exp, exp_in_place, max, vector};
use crate::plain;
use crate::rows::{fused, read, zeros};
use crate::tape::{Tape, Value, Weight, twin};

/// Queries whose scores are held at once.
const BLOCK: usize = 128;

/// A learned number for each head and distance between query and key.
#[derive(Debug, Clone)]
pub struct RelativeBias {
    /// (buckets, heads)
    pub weight: Weight,
    /// The bucket of each distance `key − query` from `1 − longest` to `longest − 1`.
    pub buckets: Arc<Vec<u32>>,
}

impl RelativeBias {
    /// The longest row that the distances cover.
    fn longest(&self) -> usize {
        self.buckets.len().div_ceil(2)
    }

    /// One line of distances a head: (heads, distances).
    fn lines(&self, heads: usize) -> Result<Vec<f32>> {
        let weight = read(self.weight.tensor())?;
        let mut lines = Vec::with_capacity(heads * self.buckets.len());
        for head in 0..heads {
            lines.extend(
                self.buckets
                    .iter()
                    .map(|&bucket| weight[bucket as usize * heads + head]),
            );
        }
        Ok(lines)
    }

    /// The bias of `queries` over `keys` as a tensor, (1, heads, queries, keys): for the twin.
    fn tensor(&self, weight: &Tensor, queries: usize, keys: usize) -> Result<Tensor> {
        let (_, heads) = weight.dims2()?;
        let middle = self.longest() - 1;
        let buckets: Vec<u32> = (0..queries)
            .flat_map(|query| (0..keys).map(move |key| middle + key - query))
            .map(|distance| self.buckets[distance])
            .collect();
        let buckets = Tensor::from_vec(buckets, queries * keys, weight.device())?;
        weight
            .index_select(&buckets, 0)?
            .reshape((queries, keys, heads))?
            .permute((2, 0, 1))?
            .unsqueeze(0)?
            .contiguous()
    }
}

/// One call, as its backward needs it.
struct Attention {
    heads: usize,
    /// The width of all heads together.
    inner: usize,
    causal: bool,
    queries: Arc<Rows>,
    keys: Arc<Rows>,
    mask: Option<Mask>,
    /// (heads, distances)
    bias: Vec<f32>,
    /// Distances a head.
    distances: usize,
    precision: Precision,
}

/// One head of one row: what a task works on.
#[derive(Clone, Copy)]
struct Part<'a> {
    row: usize,
    head: usize,
    queries: usize,
    keys: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Attention {
    fn width(&self) -> usize {
        self.inner / self.heads
    }

    /// All (row, head) pairs.
    fn tasks(&self) -> impl IndexedParallelIterator<Item = (usize, usize)> {
        let heads = self.heads;
        (0..self.queries.count() * heads)
            .into_par_iter()
            .map(move |task| (task / heads, task % heads))
    }

    fn part<'a>(
        &self,
        row: usize,
        head: usize,
        q: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
    ) -> Part<'a> {
        let from = head * self.width();
        let (queries, keys) = (self.queries.range(row), self.keys.range(row));
        let rest = |values: &'a [f32], start: usize| {
            values.get(start * self.inner + from..).unwrap_or_default()
        };
        Part {
            row,
            head,
            queries: queries.len(),
            keys: keys.len(),
            q: rest(q, queries.start),
            k: rest(k, keys.start),
            v: rest(v, keys.start),
        }
    }

    /// Keys that the queries before `end` may see.
    fn seen(&self, part: &Part<'_>, end: usize) -> usize {
        if self.causal {
            end.min(part.keys)
        } else {
            part.keys
        }
    }

    fn product<'a>(
        &self,
        (m, n, k): (usize, usize, usize),
        a: Matrix<'a>,
        b: Matrix<'a>,
    ) -> Product<'a> {
        Product {
            m,
            n,
            k,
            a,
            b,
            scale: 1.0,
            precision: self.precision,
        }
    }

    /// Scores of the queries `from..to` without bias, into `scores (to − from, seen)`.
    fn scores(&self, part: &Part<'_>, from: usize, to: usize, seen: usize, scores: &mut [f32]) {
        let (inner, width) = (self.inner, self.width());
        let (a, b) = (
            Matrix::rows(&part.q[from * inner..], inner),
            Matrix::columns(part.k, inner),
        );
        self.product((to - from, seen, width), a, b)
            .write_to(scores, seen, false, false);
    }

    /// The bias of a query over the keys from the first on.
    #[inline(always)]
    fn line(&self, head: usize, query: usize) -> &[f32] {
        let lines = &self.bias[head * self.distances..(head + 1) * self.distances];
        &lines[self.distances / 2 - query..]
    }

    /// Adds the bias to a query's scores, and answers how many keys it sees.
    #[inline(always)]
    fn biased(&self, part: &Part<'_>, query: usize, row: &mut [f32]) -> usize {
        if self.distances > 0 {
            for (score, bias) in row.iter_mut().zip(self.line(part.head, query)) {
                *score += bias;
            }
        }
        if self.causal {
            (query + 1).min(row.len())
        } else {
            row.len()
        }
    }

    /// The output `(queries, inner)`, and the log of each query's softmax sum, `(heads, queries)`.
    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (inner, width) = (self.inner, self.width());
        let places = self.queries.places();
        let (mut out, mut norms) = (zeros(places * inner), zeros(places * self.heads));
        let (to, to_norms) = (Out::new(&mut out, inner), Out::new(&mut norms, places));
        self.tasks().for_each(|(row, head)| {
            let part = self.part(row, head, q, k, v);
            let first = self.queries.range(row).start;
            let mut scores = vec![0.0f32; BLOCK.min(part.queries) * part.keys];
            let mut norms = vec![0.0f32; part.queries];
            for from in (0..part.queries).step_by(BLOCK) {
                let end = (from + BLOCK).min(part.queries);
                let seen = self.seen(&part, end);
                if seen == 0 {
                    // A query that may see nothing attends to nothing; the output is 0 already.
                    norms[from..end].fill(f32::NEG_INFINITY);
                    continue;
                }
                let scores = &mut scores[..(end - from) * seen];
                self.scores(&part, from, end, seen, scores);
                vector(
                    #[inline(always)]
                    || {
                        for (query, row) in (from..).zip(scores.chunks_mut(seen)) {
                            let visible = self.biased(&part, query, row);
                            let (row, hidden) = row.split_at_mut(visible);
                            let largest = max(row);
                            let total = exp_in_place(row, largest);
                            let scale = 1.0 / total;
                            for p in row.iter_mut() {
                                *p *= scale;
                            }
                            hidden.fill(0.0);
                            norms[query] = largest + total.ln();
                            if let Some(mask) = &self.mask {
                                let line = mask.query(part.row, part.head, query);
                                for (key, p) in row.iter_mut().enumerate() {
                                    *p *= line.factor(key);
                                }
                            }
                        }
                    },
                );
                let (a, b) = (Matrix::rows(scores, seen), Matrix::rows(part.v, inner));
                self.product((end - from, width, seen), a, b)
                    .write_out(to.at(first + from, head * width), false);
            }
            to_norms.copy(head, first, &norms);
        });
        (out, norms)
    }

    /// Gradients of queries, keys and values, and of the bias lines.
    fn backward(
        &self,
        (q, k, v): (&[f32], &[f32], &[f32]),
        norms: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 4] {
        let (inner, width) = (self.inner, self.width());
        let places = self.queries.places();
        let (mut dq, mut dk, mut dv) = (zeros(q.len()), zeros(k.len()), zeros(v.len()));
        let (to_q, to_k, to_v) = (
            Out::new(&mut dq, inner),
            Out::new(&mut dk, inner),
            Out::new(&mut dv, inner),
        );
        let parts: Vec<Vec<f32>> = self
            .tasks()
            .map(|(row, head)| {
                let part = self.part(row, head, q, k, v);
                let (first, first_key) =
                    (self.queries.range(row).start, self.keys.range(row).start);
                let mut lines = vec![0.0f32; self.distances];
                let room = BLOCK.min(part.queries) * part.keys;
                let (mut p, mut ds) = (vec![0.0f32; room], vec![0.0f32; room]);
                let blocks = part.queries.div_ceil(BLOCK);
                // From the last block, which sees all keys and so writes all their gradients first.
                for block in (0..blocks).rev() {
                    let from = block * BLOCK;
                    let end = (from + BLOCK).min(part.queries);
                    let (rows, seen) = (end - from, self.seen(&part, end));
                    if seen == 0 {
                        continue;
                    }
                    let (p, ds) = (&mut p[..rows * seen], &mut ds[..rows * seen]);
                    self.scores(&part, from, end, seen, p);
                    let g = &gradient[(first + from) * inner + head * width..];
                    let g = Matrix::rows(g, inner);
                    // d(p·mask) = dy·vᵀ
                    self.product((rows, seen, width), g, Matrix::columns(part.v, inner))
                        .write_to(ds, seen, false, false);
                    vector(
                        #[inline(always)]
                        || {
                            let both = p.chunks_mut(seen).zip(ds.chunks_mut(seen));
                            for (query, (p, ds)) in (from..end).zip(both) {
                                let visible = self.biased(&part, query, p);
                                let norm = norms[head * places + first + query];
                                let (p, hidden) = p.split_at_mut(visible);
                                hidden.fill(0.0);
                                let (ds, hidden) = ds.split_at_mut(visible);
                                hidden.fill(0.0);
                                for p in p.iter_mut() {
                                    *p = exp(*p - norm);
                                }
                                // ds = p · (dp − Σ p·dp); then p takes its dropout, for dv.
                                if let Some(mask) = &self.mask {
                                    let line = mask.query(part.row, part.head, query);
                                    for (key, ds) in ds.iter_mut().enumerate() {
                                        *ds *= line.factor(key);
                                    }
                                    let total = dot(p, ds);
                                    for (key, (ds, p)) in ds.iter_mut().zip(p).enumerate() {
                                        *ds = *p * (*ds - total);
                                        *p *= line.factor(key);
                                    }
                                } else {
                                    let total = dot(p, ds);
                                    for (ds, p) in ds.iter_mut().zip(p) {
                                        *ds = *p * (*ds - total);
                                    }
                                }
                                if self.distances > 0 {
                                    let line = &mut lines[self.distances / 2 - query..];
                                    for (sum, ds) in line.iter_mut().zip(ds.iter()) {
                                        *sum += ds;
                                    }
                                }
                            }
                        },
                    );
                    let add = block + 1 < blocks;
                    // dv = (p·mask)ᵀ·dy, dq = ds·k, dk = dsᵀ·q
                    self.product((seen, width, rows), Matrix::columns(p, seen), g)
                        .write_out(to_v.at(first_key, head * width), add);
                    let keys = Matrix::rows(part.k, inner);
                    self.product((rows, width, seen), Matrix::rows(ds, seen), keys)
                        .write_out(to_q.at(first + from, head * width), false);
                    let queries = Matrix::rows(&part.q[from * inner..], inner);
                    self.product((seen, width, rows), Matrix::columns(ds, seen), queries)
                        .write_out(to_k.at(first_key, head * width), add);
                }
                lines
            })
            .collect();
        // Rows are added up in their order.
        let mut lines = vec![0.0f32; self.heads * self.distances];
        for (task, part) in parts.iter().enumerate() {
            let head = task % self.heads;
            let line = &mut lines[head * self.distances..(head + 1) * self.distances];
            for (sum, value) in line.iter_mut().zip(part) {
                *sum += value;
            }
        }
        [dq, dk, dv, lines]
    }
}

/// Attention of queries `q (places, heads · width)` over `k` and `v (places, heads · width)`: row r
/// of `queries` over row r of `keys`; if causal, over the keys up to the query's own position. `drop`
/// is dropout of the probabilities. Answers `(places, heads · width)`.
#[expect(clippy::too_many_arguments, reason = "what attention depends on")]
pub fn attention(
    tape: &Tape,
    (q, k, v): (&Value, &Value, &Value),
    heads: usize,
    bias: Option<&RelativeBias>,
    queries: &Arc<Rows>,
    keys: &Arc<Rows>,
    causal: bool,
    drop: Drop<'_>,
) -> Result<Value> {
    let (places, inner) = q.tensor().dims2()?;
    let fits = [k, v]
        .iter()
        .all(|x| x.tensor().dims() == [keys.places(), inner]);
    if places != queries.places() || !fits || heads == 0 || inner % heads != 0 {
        bail!(
            "attention of {heads} heads of {:?} over {:?} and {:?}",
            q.tensor().dims(),
            k.tensor().dims(),
            v.tensor().dims()
        );
    }
    if queries.count() != keys.count() {
        bail!(
            "{} rows of queries for {} of keys",
            queries.count(),
            keys.count()
        );
    }
    if causal && queries != keys {
        bail!("causal attention is over a row's own places");
    }
    let longest = queries.longest().max(keys.longest());
    if let Some(bias) = bias
        && (bias.weight.tensor().dims().last() != Some(&heads)
            || bias.buckets.len() % 2 == 0
            || bias.longest() < longest)
    {
        bail!(
            "a bias of {} distances for rows of {longest}",
            bias.buckets.len()
        );
    }
    let mask = Mask::new(drop, queries)?;
    let weights: Vec<&Weight> = bias.iter().map(|bias| &bias.weight).collect();
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(&[q.tensor(), k.tensor(), v.tensor()])
        && crate::cuda::attends(inner, heads)
    {
        return crate::cuda::attention(tape, [q, k, v], heads, bias, [queries, keys], causal, mask);
    }
    if tape.precision() == Precision::F16 || !fused(&[q.tensor(), k.tensor(), v.tensor()]) {
        let (bias, queries, keys) = (bias.cloned(), queries.clone(), keys.clone());
        let precision = tape.precision();
        return twin(tape, &[q, k, v], &weights, move |x, w| {
            let bias = |queries, keys| match (&bias, w.first()) {
                (Some(bias), Some(weight)) => bias.tensor(weight, queries, keys).map(Some),
                _ => Ok(None),
            };
            plain::attention(
                [&x[0], &x[1], &x[2]],
                heads,
                bias,
                [&queries, &keys],
                causal,
                mask.as_ref(),
                precision,
            )
        });
    }
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let op = Attention {
        heads,
        inner,
        causal,
        queries: queries.clone(),
        keys: keys.clone(),
        mask,
        bias: match bias {
            Some(bias) => bias.lines(heads)?,
            None => Vec::new(),
        },
        distances: bias.map_or(0, |bias| bias.buckets.len()),
        precision: Precision::F32,
    };
    let (out, norms) = op.forward(&read(q.tensor())?, &read(k.tensor())?, &read(v.tensor())?);
    let out = Tensor::from_vec(out, (places, inner), q.tensor().device())?;
    let tracked = [&q, &k, &v].iter().any(|x| x.tracked())
        || weights.iter().any(|weight| weight.index().is_some());
    let bias = bias.cloned();
    Ok(tape.result(out, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        let [dq, dk, dv, lines] = {
            let (g, q, k, v) = (
                read(&gradient)?,
                read(q.tensor())?,
                read(k.tensor())?,
                read(v.tensor())?,
            );
            op.backward((&q, &k, &v), &norms, &g)
        };
        for (value, gradient) in [(&q, dq), (&k, dk), (&v, dv)] {
            let gradient =
                Tensor::from_vec(gradient, value.tensor().shape(), value.tensor().device())?;
            backward.add(value, gradient)?;
        }
        if let Some(bias) = &bias
            && let Some(index) = bias.weight.index()
        {
            backward.gradients.write(index, |table, add| {
                if !add {
                    table.fill(0.0);
                }
                for (place, value) in lines.iter().enumerate() {
                    let (head, distance) = (place / op.distances, place % op.distances);
                    table[bias.buckets[distance] as usize * heads + head] += value;
                }
            });
        }
        Ok(())
    }))
}
