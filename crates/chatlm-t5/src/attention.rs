//! A linear layer that may carry an adapter, and multi-head attention without scaling, as T5 has it.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use chatlm_kernels::{
    DropoutKeys, RelativeBias, Rows, Tape, Value, Weight, adapted_lengths, attention,
    attention_probabilities, dropout, linear, residual, scaled_columns,
};

use crate::cache::LayerCache;
use crate::model::Pass;

/// An adapter on a linear layer.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// (r, in)
    pub(crate) a: Weight,
    /// (out, r)
    pub(crate) b: Weight,
    /// DoRA: the length that each row of the adapted weight is to have, (out).
    pub(crate) magnitude: Option<Weight>,
    pub(crate) scaling: f64,
    pub(crate) dropout: f64,
    pub(crate) site: u64,
}

/// `x·Wᵀ`, plus the adapter's part unless it is switched off. No bias, as everywhere in T5.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// (out, in)
    pub(crate) weight: Weight,
    pub(crate) adapter: Option<Adapter>,
}

impl Linear {
    /// `x (places, in)`, of the given rows, to `(places, out)`.
    pub(crate) fn forward(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        pass: &Pass,
    ) -> Result<Value> {
        let y = linear(tape, x, &self.weight, 1.0)?;
        let Some(adapter) = self.adapter.as_ref().filter(|_| pass.adapter) else {
            return Ok(y);
        };
        let keys = pass.dropout.as_ref().map(|keys| DropoutKeys {
            rows: keys.rows.clone(),
            rate: adapter.dropout,
        });
        let drop = keys.as_ref().map(|keys| (keys, adapter.site));
        let x = dropout(tape, x, rows, drop)?;
        let low = linear(tape, &x, &adapter.a, 1.0)?;
        let low = linear(tape, &low, &adapter.b, adapter.scaling)?;
        let Some(magnitude) = &adapter.magnitude else {
            return residual(tape, &y, &low, rows, None);
        };
        let (a, b) = (adapter.a.tensor(), adapter.b.tensor());
        let lengths = adapted_lengths(self.weight.tensor(), a, b, adapter.scaling)?;
        if drop.is_none_or(|(keys, _)| keys.rate == 0.0) {
            let whole = residual(tape, &y, &low, rows, None)?;
            return scaled_columns(tape, &whole, magnitude, &lengths, 0.0);
        }
        // As PEFT: what the magnitude changes sees the dropped input, the base the whole one.
        let base = linear(tape, &x, &self.weight, 1.0)?;
        let base = scaled_columns(tape, &base, magnitude, &lengths, 1.0)?;
        let low = scaled_columns(tape, &low, magnitude, &lengths, 0.0)?;
        let change = residual(tape, &base, &low, rows, None)?;
        residual(tape, &y, &change, rows, None)
    }

    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        let adapter = self.adapter.iter();
        let adapter = adapter.flat_map(|a| [Some(&a.a), Some(&a.b), a.magnitude.as_ref()]);
        std::iter::once(&self.weight).chain(adapter.flatten())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) heads: usize,
    pub(crate) site: u64,
}

/// What a query may see.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) bias: Option<&'a RelativeBias>,
    /// The rows of the keys.
    pub(crate) rows: &'a Arc<Rows>,
    pub(crate) causal: bool,
}

impl Attention {
    /// Queries from `x (places, d)` of `rows`, keys and values from `source (places, d)`.
    pub(crate) fn forward(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        source: &Value,
        view: View<'_>,
        pass: &Pass,
    ) -> Result<Value> {
        let q = self.q.forward(tape, x, rows, pass)?;
        let k = self.k.forward(tape, source, view.rows, pass)?;
        let v = self.v.forward(tape, source, view.rows, pass)?;
        let seen = attention(
            tape,
            (&q, &k, &v),
            self.heads,
            view.bias,
            rows,
            view.rows,
            view.causal,
            pass.drop(self.site),
        )?;
        self.o.forward(tape, &seen, rows, pass)
    }

    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        [&self.q, &self.k, &self.v, &self.o]
            .into_iter()
            .flat_map(Linear::weights)
    }

    /// (batch · length, heads · width) → (batch, heads, length, width)
    fn split(&self, x: &Tensor, batch: usize) -> Result<Tensor> {
        let (places, inner) = x.dims2()?;
        x.reshape((batch, places / batch, self.heads, inner / self.heads))?
            .transpose(1, 2)?
            .contiguous()
    }

    /// Keys and values of all rows of `source (places, d)` as the cache keeps them: padded to the
    /// longest row, each (batch, heads, length, width).
    pub(crate) fn keys_and_values(
        &self,
        tape: &Tape,
        source: &Value,
        rows: &Arc<Rows>,
        pass: &Pass,
    ) -> Result<(Tensor, Tensor)> {
        let padded = |x: Value| -> Result<Tensor> {
            let longest = rows.longest();
            let lines = (0..rows.count())
                .map(|row| {
                    let range = rows.range(row);
                    let line = x.tensor().narrow(0, range.start, range.len())?;
                    line.pad_with_zeros(0, 0, longest - range.len())
                })
                .collect::<Result<Vec<_>>>()?;
            self.split(&Tensor::cat(&lines, 0)?, rows.count())
        };
        Ok((
            padded(self.k.forward(tape, source, rows, pass)?)?,
            padded(self.v.forward(tape, source, rows, pass)?)?,
        ))
    }

    /// One step's queries over keys and values of the cache, each (batch, heads, length, width).
    fn attend(
        &self,
        tape: &Tape,
        q: &Tensor,
        (k, v): (&Tensor, &Tensor),
        (bias, mask): (Option<&Tensor>, Option<&Tensor>),
        rows: &Arc<Rows>,
        pass: &Pass,
    ) -> Result<Value> {
        // (batch, heads, 1, keys)
        let scores = q.matmul(&k.transpose(2, 3)?)?;
        let probabilities = attention_probabilities(&scores, bias, mask)?;
        let (batch, heads, _, width) = q.dims4()?;
        let seen = probabilities.matmul(v)?.reshape((batch, heads * width))?;
        self.o.forward(tape, &Value::constant(seen), rows, pass)
    }

    /// One new query a row, `x (batch, d)`, over everything cached and itself.
    pub(crate) fn step(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        (cache, length): (&mut LayerCache, usize),
        bias: &Tensor,
        pass: &Pass,
    ) -> Result<Value> {
        let batch = rows.count();
        let project = |layer: &Linear| -> Result<Tensor> {
            self.split(layer.forward(tape, x, rows, pass)?.tensor(), batch)
        };
        let q = project(&self.q)?;
        let (k, v) = cache.push(&project(&self.k)?, &project(&self.v)?, length)?;
        self.attend(tape, &q, (&k, &v), (Some(bias), None), rows, pass)
    }

    /// One new query a row over the encoder's keys and values.
    pub(crate) fn step_cross(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        (cache, mask): (&LayerCache, &Tensor),
        pass: &Pass,
    ) -> Result<Value> {
        let q = self.q.forward(tape, x, rows, pass)?;
        let q = self.split(q.tensor(), rows.count())?;
        let source = (&cache.cross_key, &cache.cross_value);
        self.attend(tape, &q, source, (None, Some(mask)), rows, pass)
    }
}
