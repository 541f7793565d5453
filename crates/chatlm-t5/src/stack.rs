//! Blocks of attention and feed-forward, each `x + dropout(layer(norm(x)))`, and the two stacks.

use std::sync::Arc;

use candle_core::Result;
use chatlm_kernels::{
    RelativeBias, Rows, Tape, Value, Weight, dropout, gated_gelu, relu, residual, rms_norm,
};

use crate::attention::{Attention, Linear, View};
use crate::bias::{distances, step_bias};
use crate::cache::{Cache, LayerCache};
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
    fn forward(&self, tape: &Tape, x: &Value, rows: &Arc<Rows>, pass: &Pass) -> Result<Value> {
        let drop = pass.drop(self.site);
        let inner = self.inputs[0].forward(tape, x, rows, pass)?;
        let inner = match self.inputs.get(1) {
            Some(linear) => {
                let gate = linear.forward(tape, x, rows, pass)?;
                gated_gelu(tape, &inner, &gate, rows, drop)?
            }
            None => relu(tape, &inner, rows, drop)?,
        };
        self.wo.forward(tape, &inner, rows, pass)
    }

    fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.inputs
            .iter()
            .chain([&self.wo])
            .flat_map(Linear::weights)
    }
}

/// A norm before a sublayer, and the dropout after it.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    pub(crate) norm: Weight,
    pub(crate) epsilon: f64,
    pub(crate) site: u64,
}

impl Residual {
    fn around(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        pass: &Pass,
        layer: impl FnOnce(&Value) -> Result<Value>,
    ) -> Result<Value> {
        let y = layer(&rms_norm(tape, x, &self.norm, self.epsilon)?)?;
        residual(tape, x, &y, rows, pass.drop(self.site))
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

/// What all blocks of a stack share in one pass.
#[derive(Clone)]
struct Context {
    rows: Arc<Rows>,
    bias: RelativeBias,
    causal: bool,
    /// The encoder's rows, for a decoder.
    source: Arc<Rows>,
    pass: Pass,
}

impl Block {
    fn forward(
        &self,
        tape: &Tape,
        x: &Value,
        source: Option<&Value>,
        context: &Context,
    ) -> Result<Value> {
        let Context {
            rows,
            bias,
            causal,
            source: source_rows,
            pass,
        } = context;
        let own = View {
            bias: Some(bias),
            rows,
            causal: *causal,
        };
        let mut x = self.attention_residual.around(tape, x, rows, pass, |x| {
            self.attention.forward(tape, x, rows, x, own, pass)
        })?;
        if let (Some((cross, residual)), Some(source)) = (&self.cross, source) {
            let view = View {
                bias: None,
                rows: source_rows,
                causal: false,
            };
            x = residual.around(tape, &x, rows, pass, |x| {
                cross.forward(tape, x, rows, source, view, pass)
            })?;
        }
        self.feed_forward_residual
            .around(tape, &x, rows, pass, |x| {
                self.feed_forward.forward(tape, x, rows, pass)
            })
    }

    /// One decoder step: `x (batch, d)`.
    fn step(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        (layer, cache): (&mut LayerCache, &StepCache<'_>),
        pass: &Pass,
    ) -> Result<Value> {
        let mut x = self.attention_residual.around(tape, x, rows, pass, |x| {
            let own = (&mut *layer, cache.length);
            self.attention.step(tape, x, rows, own, cache.bias, pass)
        })?;
        if let Some((cross, residual)) = &self.cross {
            x = residual.around(tape, &x, rows, pass, |x| {
                cross.step_cross(tape, x, rows, (layer, cache.mask), pass)
            })?;
        }
        self.feed_forward_residual
            .around(tape, &x, rows, pass, |x| {
                self.feed_forward.forward(tape, x, rows, pass)
            })
    }

    fn weights(&self) -> Vec<&Weight> {
        let cross = self.cross.iter();
        self.attention
            .weights()
            .chain(cross.clone().flat_map(|(cross, _)| cross.weights()))
            .chain(self.feed_forward.weights())
            .chain([
                &self.attention_residual.norm,
                &self.feed_forward_residual.norm,
            ])
            .chain(cross.map(|(_, residual)| &residual.norm))
            .collect()
    }
}

/// What all layers of a decoder step share.
struct StepCache<'a> {
    length: usize,
    bias: &'a candle_core::Tensor,
    mask: &'a candle_core::Tensor,
}

#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub(crate) config: Config,
    pub(crate) decoder: bool,
    /// (buckets, heads), shared by all blocks.
    pub(crate) relative_attention_bias: Weight,
    pub(crate) blocks: Vec<Arc<Block>>,
    pub(crate) final_norm: Weight,
    pub(crate) input_site: u64,
    pub(crate) output_site: u64,
}

impl Stack {
    /// `x (places, d)` of `rows`; a decoder also looks at `source (places, d)` and its rows.
    pub(crate) fn forward(
        &self,
        tape: &Tape,
        x: &Value,
        rows: &Arc<Rows>,
        source: Option<(&Value, &Arc<Rows>)>,
        pass: &Pass,
    ) -> Result<Value> {
        let buckets = distances(&self.config, !self.decoder, rows.longest());
        let context = Context {
            rows: rows.clone(),
            bias: RelativeBias {
                weight: self.relative_attention_bias.clone(),
                buckets: Arc::new(buckets),
            },
            causal: self.decoder,
            source: source.map_or(rows, |(_, rows)| rows).clone(),
            pass: pass.clone(),
        };
        let source = source.map(|(source, _)| source);
        tape.last_use_of(&[&self.relative_attention_bias]);
        let mut x = dropout(tape, x, rows, pass.drop(self.input_site))?;
        for block in &self.blocks {
            let weights = block.weights();
            tape.last_use_of(&weights);
            // Where nothing asks for gradients there is nothing to compute again.
            let asked = x.tracked()
                || source.is_some_and(Value::tracked)
                || weights.iter().any(|weight| weight.index().is_some());
            x = if pass.recompute && asked {
                let inputs = std::iter::once(&x).chain(source).cloned().collect();
                let (block, context) = (block.clone(), context.clone());
                tape.recomputed(inputs, move |tape, inputs| {
                    block.forward(tape, &inputs[0], inputs.get(1), &context)
                })?
            } else {
                block.forward(tape, &x, source, &context)?
            };
        }
        tape.last_use_of(&[&self.final_norm]);
        let x = rms_norm(tape, &x, &self.final_norm, self.config.layer_norm_epsilon)?;
        dropout(tape, &x, rows, pass.drop(self.output_site))
    }

    /// One decoder step: `x (batch, d)`, without dropout.
    pub(crate) fn step(
        &self,
        tape: &Tape,
        x: Value,
        cache: &mut Cache,
        pass: &Pass,
    ) -> Result<Value> {
        let length = cache.length;
        let bias = step_bias(
            self.relative_attention_bias.tensor(),
            &self.config,
            length + 1,
        )?;
        let rows = Arc::new(Rows::new(&vec![1; x.tensor().dims()[0]]));
        let shared = StepCache {
            length,
            bias: &bias,
            mask: &cache.mask,
        };
        let mut x = x;
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.step(tape, &x, &rows, (layer, &shared), pass)?;
        }
        cache.length += 1;
        rms_norm(tape, &x, &self.final_norm, self.config.layer_norm_epsilon)
    }
}
