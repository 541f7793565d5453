//! A call of attention, and the same of candle's operators.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use chatlm_kernels::testing::device;
use chatlm_kernels::{
    DropoutKeys, Precision, RelativeBias, Rows, Tape, Value, Weight, attention, plain,
};

use super::{dropout_keys, random, values};

/// Buckets of the relative bias; the last one is never used.
pub(crate) const BUCKETS: usize = 8;
const SITE: u64 = 3;

#[derive(Clone)]
pub(crate) struct Attend {
    pub(crate) heads: usize,
    pub(crate) queries: Arc<Rows>,
    pub(crate) keys: Arc<Rows>,
    pub(crate) causal: bool,
    /// The relative bias is the only weight then.
    pub(crate) biased: bool,
    drop: Option<DropoutKeys>,
    /// The longest row that the bias covers.
    longest: usize,
}

impl Attend {
    /// Rows over themselves.
    pub(crate) fn own(heads: usize, lengths: &[usize], causal: bool) -> Self {
        Self::cross(heads, lengths, lengths, causal)
    }

    pub(crate) fn cross(heads: usize, queries: &[usize], keys: &[usize], causal: bool) -> Self {
        Self::over(
            heads,
            Arc::new(Rows::new(queries)),
            Arc::new(Rows::new(keys)),
            causal,
        )
    }

    pub(crate) fn over(heads: usize, queries: Arc<Rows>, keys: Arc<Rows>, causal: bool) -> Self {
        Self {
            heads,
            // One distance more than is needed.
            longest: queries.longest().max(keys.longest()) + 1,
            queries,
            keys,
            causal,
            biased: false,
            drop: None,
        }
    }

    pub(crate) fn for_rows_of(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    pub(crate) fn biased(self) -> Self {
        Self {
            biased: true,
            ..self
        }
    }

    pub(crate) fn dropped(self) -> Self {
        let keys = dropout_keys(self.queries.count());
        self.dropped_by(Some(&keys))
    }

    pub(crate) fn dropped_by(self, keys: Option<&DropoutKeys>) -> Self {
        let drop = keys.cloned();
        Self { drop, ..self }
    }

    /// Queries, keys and values; of such a size that scores are about 1 and the softmax is soft.
    pub(crate) fn inputs(&self, width: usize) -> [Tensor; 3] {
        let inner = self.heads * width;
        let queries = random(1, &[self.queries.places(), inner]);
        [
            (queries / (width as f64).sqrt()).unwrap(),
            random(2, &[self.keys.places(), inner]),
            random(3, &[self.keys.places(), inner]),
        ]
    }

    pub(crate) fn weights(&self) -> Vec<Tensor> {
        let weight = self.biased.then(|| random(4, &[BUCKETS, self.heads]));
        weight.into_iter().collect()
    }

    fn buckets(&self) -> Vec<u32> {
        (0..2 * self.longest as u32 - 1)
            .map(|distance| distance * 5 % 7)
            .collect()
    }

    pub(crate) fn run(&self, tape: &Tape, x: &[Value], weights: &[Weight]) -> Result<Value> {
        let bias = weights.first().map(|weight| RelativeBias {
            weight: weight.clone(),
            buckets: Arc::new(self.buckets()),
        });
        attention(
            tape,
            (&x[0], &x[1], &x[2]),
            self.heads,
            bias.as_ref(),
            &self.queries,
            &self.keys,
            self.causal,
            self.drop.as_ref().map(|keys| (keys, SITE)),
        )
    }

    /// What a row's probabilities are multiplied by, in f64: every key's value is a direction of its
    /// own, so the result is the probabilities, and those of equal scores are equal.
    fn factors(&self, row: usize) -> Result<Tensor> {
        let longest = self.keys.longest();
        let inner = self.heads * longest;
        let zeros = |rows: &Rows| Tensor::zeros((rows.places(), inner), DType::F32, &device());
        let mut directions = vec![0.0f32; self.keys.places() * inner];
        for row in 0..self.keys.count() {
            for (position, place) in self.keys.range(row).enumerate() {
                for head in 0..self.heads {
                    directions[place * inner + head * longest + position] = 1.0;
                }
            }
        }
        let directions = Tensor::from_vec(directions, (self.keys.places(), inner), &device())?;
        let inputs = [zeros(&self.queries)?, zeros(&self.keys)?, directions];
        let mixed = self.run(
            &Tape::off(Precision::F32),
            &inputs.map(Value::constant),
            &[],
        )?;
        let scale = 1.0 / (1.0 - self.drop.as_ref().map_or(0.0, |drop| drop.rate));
        let (own, theirs) = (self.queries.range(row), self.keys.length(row));
        let mixed = mixed.tensor().narrow(0, own.start, own.len())?;
        let kept = values(&mixed).into_iter();
        let kept = kept.map(|p| if p > 0.0 { scale } else { 0.0 }).collect();
        Tensor::from_vec(kept, (own.len(), self.heads, longest), &device())?
            .narrow(2, 0, theirs)?
            .transpose(0, 1)?
            .unsqueeze(0)
    }

    /// (1, heads, queries, keys)
    fn bias(&self, weight: &Tensor, queries: usize, keys: usize) -> Result<Tensor> {
        let buckets = self.buckets();
        let middle = buckets.len() / 2;
        let pairs = (0..queries).flat_map(|query| (0..keys).map(move |key| (query, key)));
        let of: Vec<u32> = pairs
            .map(|(query, key)| buckets[middle + key - query])
            .collect();
        weight
            .index_select(&Tensor::new(of, weight.device())?, 0)?
            .reshape((queries, keys, self.heads))?
            .permute((2, 0, 1))?
            .unsqueeze(0)
    }

    pub(crate) fn plain(&self, x: &[Tensor], weights: &[Tensor]) -> Result<Tensor> {
        let inner = x[0].dims2()?.1;
        let mut rows = Vec::new();
        for row in 0..self.queries.count() {
            let (own, theirs) = (self.queries.range(row), self.keys.range(row));
            if own.is_empty() {
                continue;
            }
            if theirs.is_empty() {
                rows.push(Tensor::zeros((own.len(), inner), DType::F64, &device())?);
                continue;
            }
            let heads = |x: &Tensor, places: &std::ops::Range<usize>| {
                x.narrow(0, places.start, places.len())?
                    .reshape((1, places.len(), self.heads, inner / self.heads))?
                    .transpose(1, 2)?
                    .contiguous()
            };
            let (q, k, v) = (
                heads(&x[0], &own)?,
                heads(&x[1], &theirs)?,
                heads(&x[2], &theirs)?,
            );
            let scores = q.matmul(&k.t()?.contiguous()?)?;
            let bias = match weights.first() {
                Some(weight) => Some(self.bias(weight, own.len(), theirs.len())?),
                None => None,
            };
            let mut p = plain::attention_probabilities(&scores, bias.as_ref(), None, self.causal)?;
            if self.drop.is_some() {
                p = (p * self.factors(row)?)?;
            }
            let mixed = p.matmul(&v)?.transpose(1, 2)?.contiguous()?;
            rows.push(mixed.reshape((own.len(), inner))?);
        }
        if rows.is_empty() {
            return Tensor::zeros((0, inner), DType::F64, &device());
        }
        Tensor::cat(&rows, 0)
    }
}
