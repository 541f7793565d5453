//! Blocks of attention and feed-forward, each `x + dropout(layer(norm(x)))`, and the two stacks.

use candle_core::{Result, Tensor};
use chatlm_kernels::{dropout, relu, residual, rms_norm};

use crate::attention::{Attention, Linear, View};
use crate::bias::relative_bias;
use crate::cache::Cache;
use crate::config::Config;
use crate::model::Pass;

#[derive(Debug, Clone)]
pub(crate) struct FeedForward {
    /// `wi`, or `wi_0` and `wi_1` where gated.
    pub(crate) inputs: Vec<Linear>,
    pub(crate) wo: Linear,
    pub(crate) site: u64,
}

impl FeedForward {
    fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let inner = self.inputs[0].forward(x, pass)?;
        let inner = match self.inputs.get(1) {
            // gelu's tanh form, as T5 v1.1's gelu_new.
            Some(linear) => {
                let gated = (inner.gelu()? * linear.forward(x, pass)?)?;
                drop(&gated, self.site, pass)?
            }
            None => relu(&inner, pass.drop(self.site))?,
        };
        self.wo.forward(&inner, pass)
    }
}

/// A norm before a sublayer, and the dropout after it.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    pub(crate) norm: Tensor,
    pub(crate) epsilon: f64,
    pub(crate) site: u64,
}

impl Residual {
    fn around(
        &self,
        x: &Tensor,
        pass: &Pass<'_>,
        layer: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let y = layer(&rms_norm(x, &self.norm, self.epsilon)?)?;
        residual(x, &y, pass.drop(self.site))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) attention: Attention,
    pub(crate) attention_residual: Residual,
    /// The decoder's look at the encoder.
    pub(crate) cross: Option<(Attention, Residual)>,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_residual: Residual,
}

#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub(crate) config: Config,
    pub(crate) decoder: bool,
    /// (buckets, heads), shared by all blocks.
    pub(crate) relative_attention_bias: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Tensor,
    pub(crate) input_site: u64,
    pub(crate) output_site: u64,
}

impl Stack {
    /// `x (batch, length, d)` with `mask` over its own places (encoder), `source` and its mask over
    /// the encoder's (decoder).
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
        source: Option<(&Tensor, &Tensor)>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let length = x.dim(1)?;
        let bias = self.bias(0, length, length, x)?;
        let own = View {
            bias: Some(&bias),
            mask,
            causal: self.decoder,
        };
        let mut x = drop(x, self.input_site, pass)?;
        for block in &self.blocks {
            x = block
                .attention_residual
                .around(&x, pass, |x| block.attention.forward(x, x, own, pass))?;
            if let (Some((cross, residual)), Some((source, mask))) = (&block.cross, source) {
                let view = View {
                    bias: None,
                    mask: Some(mask),
                    causal: false,
                };
                x = residual.around(&x, pass, |x| cross.forward(x, source, view, pass))?;
            }
            x = block
                .feed_forward_residual
                .around(&x, pass, |x| block.feed_forward.forward(x, pass))?;
        }
        self.finish(&x, pass)
    }

    /// One decoder step: `x (batch, 1, d)`.
    pub(crate) fn step(&self, x: &Tensor, cache: &mut Cache, pass: &Pass<'_>) -> Result<Tensor> {
        let length = cache.length;
        let bias = self.bias(length, 1, length + 1, x)?;
        let own = View {
            bias: Some(&bias),
            mask: None,
            causal: false,
        };
        let mut x = x.clone();
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.attention_residual.around(&x, pass, |x| {
                block.attention.step(x, layer, length, own, pass)
            })?;
            if let Some((cross, residual)) = &block.cross {
                let view = View {
                    bias: None,
                    mask: Some(&cache.mask),
                    causal: false,
                };
                x = residual.around(&x, pass, |x| cross.step_cross(x, layer, view, pass))?;
            }
            x = block
                .feed_forward_residual
                .around(&x, pass, |x| block.feed_forward.forward(x, pass))?;
        }
        cache.length += 1;
        self.finish(&x, pass)
    }

    fn bias(&self, from: usize, queries: usize, keys: usize, like: &Tensor) -> Result<Tensor> {
        let weight = &self.relative_attention_bias;
        relative_bias(
            weight,
            &self.config,
            !self.decoder,
            from,
            queries,
            keys,
            like.device(),
        )
    }

    fn finish(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let x = rms_norm(x, &self.final_norm, self.config.layer_norm_epsilon)?;
        drop(&x, self.output_site, pass)
    }
}

fn drop(x: &Tensor, site: u64, pass: &Pass<'_>) -> Result<Tensor> {
    match pass.drop(site) {
        Some((keys, site)) => dropout(x, keys, site),
        None => Ok(x.clone()),
    }
}
