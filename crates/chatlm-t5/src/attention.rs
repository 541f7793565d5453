//! A linear layer that may carry an adapter, and multi-head attention without scaling, as T5 has it.

use candle_core::{Result, Tensor};
use chatlm_kernels::{
    DropoutKeys, attention, attention_probabilities, dropout, linear, linear_scaled, residual,
};

use crate::cache::LayerCache;
use crate::model::Pass;

/// An adapter on a linear layer.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// (r, in)
    pub(crate) a: Tensor,
    /// (out, r)
    pub(crate) b: Tensor,
    pub(crate) scaling: f64,
    pub(crate) dropout: f64,
    pub(crate) site: u64,
}

/// `x·Wᵀ`, plus the adapter's part unless it is switched off. No bias, as everywhere in T5.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// (out, in)
    pub(crate) weight: Tensor,
    pub(crate) adapter: Option<Adapter>,
}

impl Linear {
    fn active(&self, pass: &Pass<'_>) -> Option<&Adapter> {
        self.adapter.as_ref().filter(|_| pass.adapter)
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let y = linear(x, &self.weight)?;
        let Some(adapter) = self.active(pass) else {
            return Ok(y);
        };
        let x = match pass.dropout {
            Some(keys) if adapter.dropout > 0.0 => {
                let keys = DropoutKeys {
                    rows: keys.rows.clone(),
                    rate: adapter.dropout,
                };
                dropout(x, &keys, adapter.site)?
            }
            _ => x.clone(),
        };
        let low = linear_scaled(&linear(&x, &adapter.a)?, &adapter.b, adapter.scaling)?;
        residual(&y, &low, None)
    }
}

/// What a query may see.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// (1, heads, queries, keys)
    pub(crate) bias: Option<&'a Tensor>,
    /// (batch, keys), 1 where real
    pub(crate) mask: Option<&'a Tensor>,
    pub(crate) causal: bool,
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

impl Attention {
    /// (batch, length, heads · width) → (batch, heads, length, width)
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, length, inner) = x.dims3()?;
        x.reshape((batch, length, self.heads, inner / self.heads))?
            .transpose(1, 2)?
            .contiguous()
    }

    /// One step's queries over keys and values of the cache, each (batch, heads, length, width).
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        view: View<'_>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        // (batch, heads, queries, keys)
        let scores = q.matmul(&k.transpose(2, 3)?)?;
        let probabilities = attention_probabilities(&scores, view.bias, view.mask, view.causal)?;
        let (batch, heads, queries, width) = q.dims4()?;
        let seen = probabilities
            .matmul(v)?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((batch, queries, heads * width))?;
        self.o.forward(&seen, pass)
    }

    /// Queries from `x (batch, queries, d)`, keys and values from `source (batch, keys, d)`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        source: &Tensor,
        view: View<'_>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let q = self.q.forward(x, pass)?;
        // Keys and values side by side: one product, one gradient for the source.
        let kv = if self.k.active(pass).is_none() && self.v.active(pass).is_none() {
            linear(source, &Tensor::cat(&[&self.k.weight, &self.v.weight], 0)?)?
        } else {
            Tensor::cat(
                &[self.k.forward(source, pass)?, self.v.forward(source, pass)?],
                2,
            )?
        };
        let drop = pass.drop(self.site);
        let seen = attention(&q, &kv, self.heads, view.bias, view.mask, view.causal, drop)?;
        self.o.forward(&seen, pass)
    }

    /// Keys and values as the cache keeps them, each (batch, heads, length, width).
    pub(crate) fn keys_and_values(
        &self,
        source: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let k = self.split(&self.k.forward(source, pass)?)?;
        let v = self.split(&self.v.forward(source, pass)?)?;
        Ok((k, v))
    }

    /// One new query over everything cached and itself.
    pub(crate) fn step(
        &self,
        x: &Tensor,
        cache: &mut LayerCache,
        length: usize,
        view: View<'_>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let q = self.split(&self.q.forward(x, pass)?)?;
        let (k, v) = self.keys_and_values(x, pass)?;
        let (k, v) = cache.push(&k, &v, length)?;
        self.attend(&q, &k, &v, view, pass)
    }

    /// One new query over the encoder's keys and values.
    pub(crate) fn step_cross(
        &self,
        x: &Tensor,
        cache: &LayerCache,
        view: View<'_>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let q = self.split(&self.q.forward(x, pass)?)?;
        self.attend(&q, &cache.cross_key, &cache.cross_value, view, pass)
    }
}
