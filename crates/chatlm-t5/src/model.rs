//! The whole model: embedding, the two stacks, the output projection.

use candle_core::{Device, Tensor};
use chatlm_job::{Error, Result};
use chatlm_kernels::{Drop, DropoutKeys, linear_scaled, projected_cross_entropy};

use crate::attention::{Adapter, Attention, Linear};
use crate::cache::{Cache, LayerCache};
use crate::config::Config;
use crate::lora::LoraConfig;
use crate::parameters::Parameters;
use crate::stack::{Block, FeedForward, Residual, Stack};
use crate::tensor_error;

/// How a forward pass is made.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Training: one key a batch row. `None`: no dropout.
    pub dropout: Option<&'a DropoutKeys>,
    /// Whether adapters take part.
    pub adapter: bool,
}

impl<'a> Pass<'a> {
    /// No dropout, adapters on.
    pub fn inference() -> Self {
        Self {
            dropout: None,
            adapter: true,
        }
    }

    /// Dropout at a place in the network.
    pub(crate) fn drop(&self, site: u64) -> Drop<'a> {
        self.dropout.map(|keys| (keys, site))
    }
}

/// A T5 over weights that it shares with [`Parameters`]: an optimizer's update shows at once.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    shared: Tensor,
    /// The output projection where it is not tied.
    head: Option<Tensor>,
    encoder: Stack,
    decoder: Stack,
}

impl Model {
    /// `track` says whether gradients are wanted; without it nothing is kept for a backward pass.
    pub fn new(
        config: &Config,
        parameters: &Parameters,
        lora: Option<&LoraConfig>,
        track: bool,
    ) -> Result<Self> {
        Self::with_trainable(config, parameters, lora, &|_| track)
    }

    /// Gradients only for the weights that `trainable` names.
    pub fn with_trainable(
        config: &Config,
        parameters: &Parameters,
        lora: Option<&LoraConfig>,
        trainable: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        Builder {
            config,
            parameters,
            lora,
            trainable,
            site: 0,
        }
        .model()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn device(&self) -> &Device {
        self.shared.device()
    }

    /// Encodes `ids (b, s)`, whose `mask (b, s)` is 1 where real, to `(b, s, d)`.
    pub fn encode(&self, ids: &Tensor, mask: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        self.embed(ids)
            .and_then(|x| self.encoder.forward(&x, Some(mask), None, pass))
            .map_err(tensor_error)
    }

    /// Decodes `ids (b, t)`, padded at the right, to `(b, t, d)`: teacher forcing.
    pub fn decode(
        &self,
        ids: &Tensor,
        encoded: &Tensor,
        mask: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        self.embed(ids)
            .and_then(|x| self.decoder.forward(&x, None, Some((encoded, mask)), pass))
            .map_err(tensor_error)
    }

    /// Scores over the vocabulary for `hidden (…, d)`; scaled by `d^-0.5` where the embedding is tied.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.project(hidden).map_err(tensor_error)
    }

    /// The output projection, and what its product is scaled by.
    fn head(&self) -> (&Tensor, f64) {
        match &self.head {
            Some(head) => (head, 1.0),
            None => (&self.shared, (self.config.d_model as f64).powf(-0.5)),
        }
    }

    fn project(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let (head, scale) = self.head();
        linear_scaled(hidden, head, scale)
    }

    /// The SUM of the cross-entropies of `hidden (n, d)` with `targets (n)` in nats, without the
    /// logits: what [`Self::logits`] and [`chatlm_kernels::cross_entropy`] give, in less memory.
    pub fn cross_entropy(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        ignore: u32,
        smoothing: f64,
    ) -> Result<Tensor> {
        let (head, scale) = self.head();
        projected_cross_entropy(hidden, head, scale, targets, ignore, smoothing)
            .map_err(tensor_error)
    }

    fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        // (batch, length) → (batch, length, d)
        let (batch, length) = ids.dims2()?;
        self.shared
            .embedding(&ids.flatten_all()?)?
            .reshape((batch, length, self.config.d_model))
    }

    /// Prepares decoding: keys and values of the encoder's output, once.
    pub fn start(&self, encoded: &Tensor, mask: &Tensor, pass: &Pass<'_>) -> Result<Cache> {
        let layer = |block: &Block| -> candle_core::Result<LayerCache> {
            let Some((cross, _)) = &block.cross else {
                candle_core::bail!("a decoder block without cross-attention")
            };
            let (key, value) = cross.keys_and_values(encoded, pass)?;
            LayerCache::new(key, value)
        };
        let layers = self
            .decoder
            .blocks
            .iter()
            .map(layer)
            .collect::<candle_core::Result<Vec<_>>>();
        Ok(Cache {
            layers: layers.map_err(tensor_error)?,
            mask: mask.clone(),
            length: 0,
        })
    }

    /// One token a row, `ids (b, 1)`, to scores over the next one, `(b, v)`.
    pub fn step(&self, ids: &Tensor, cache: &mut Cache, pass: &Pass<'_>) -> Result<Tensor> {
        self.embed(ids)
            .and_then(|x| self.decoder.step(&x, cache, pass))
            .and_then(|hidden| self.project(&hidden.squeeze(1)?))
            .map_err(tensor_error)
    }
}

/// Puts the model together, numbering the places of dropout in a fixed order.
struct Builder<'a> {
    config: &'a Config,
    parameters: &'a Parameters,
    lora: Option<&'a LoraConfig>,
    trainable: &'a dyn Fn(&str) -> bool,
    site: u64,
}

impl Builder<'_> {
    fn model(mut self) -> Result<Model> {
        let head = if self.config.tie_word_embeddings {
            None
        } else {
            Some(self.tensor("lm_head.weight")?)
        };
        Ok(Model {
            config: self.config.clone(),
            shared: self.tensor("shared.weight")?,
            head,
            encoder: self.stack("encoder", self.config.num_layers)?,
            decoder: self.stack("decoder", self.config.decoder_layers())?,
        })
    }

    fn next_site(&mut self) -> u64 {
        self.site += 1;
        self.site
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let var = self
            .parameters
            .get(name)
            .ok_or_else(|| Error::internal(format!("the weight {name} is missing")))?;
        Ok(if (self.trainable)(name) {
            var.as_tensor().clone()
        } else {
            var.as_detached_tensor()
        })
    }

    fn linear(&mut self, module: &str) -> Result<Linear> {
        // Every layer takes a number, so that an adapter moves no other place's.
        let site = self.next_site();
        let a = format!("{module}.lora_A.weight");
        let adapter = match self.lora {
            Some(lora) if self.parameters.get(&a).is_some() => Some(Adapter {
                a: self.tensor(&a)?,
                b: self.tensor(&format!("{module}.lora_B.weight"))?,
                scaling: lora.scaling(),
                dropout: lora.dropout,
                site,
            }),
            _ => None,
        };
        Ok(Linear {
            weight: self.tensor(&format!("{module}.weight"))?,
            adapter,
        })
    }

    fn attention(&mut self, at: &str) -> Result<Attention> {
        Ok(Attention {
            q: self.linear(&format!("{at}.q"))?,
            k: self.linear(&format!("{at}.k"))?,
            v: self.linear(&format!("{at}.v"))?,
            o: self.linear(&format!("{at}.o"))?,
            heads: self.config.num_heads,
            site: self.next_site(),
        })
    }

    fn residual(&mut self, layer: &str) -> Result<Residual> {
        Ok(Residual {
            norm: self.tensor(&format!("{layer}.layer_norm.weight"))?,
            epsilon: self.config.layer_norm_epsilon,
            site: self.next_site(),
        })
    }

    fn stack(&mut self, name: &str, layers: usize) -> Result<Stack> {
        let decoder = name == "decoder";
        let input_site = self.next_site();
        let mut blocks = Vec::with_capacity(layers);
        for block in 0..layers {
            let at = |layer: usize| format!("{name}.block.{block}.layer.{layer}");
            let attention = self.attention(&format!("{}.SelfAttention", at(0)))?;
            let attention_residual = self.residual(&at(0))?;
            let cross = if decoder {
                let cross = self.attention(&format!("{}.EncDecAttention", at(1)))?;
                Some((cross, self.residual(&at(1))?))
            } else {
                None
            };
            let last = at(if decoder { 2 } else { 1 });
            let inputs: &[&str] = if self.config.gated() {
                &["wi_0", "wi_1"]
            } else {
                &["wi"]
            };
            let mut linears = Vec::new();
            for input in inputs {
                linears.push(self.linear(&format!("{last}.DenseReluDense.{input}"))?);
            }
            let feed_forward = FeedForward {
                inputs: linears,
                wo: self.linear(&format!("{last}.DenseReluDense.wo"))?,
                site: self.next_site(),
            };
            let feed_forward_residual = self.residual(&last)?;
            blocks.push(Block {
                attention,
                attention_residual,
                cross,
                feed_forward,
                feed_forward_residual,
            });
        }
        let bias = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        Ok(Stack {
            config: self.config.clone(),
            decoder,
            relative_attention_bias: self.tensor(&bias)?,
            blocks,
            final_norm: self.tensor(&format!("{name}.final_layer_norm.weight"))?,
            input_site,
            output_site: self.next_site(),
        })
    }
}
