//! The whole model: embedding, the two stacks, the output projection.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use chatlm_job::{Error, Result};
use chatlm_kernels::{
    Drop, DropoutKeys, Precision, Projection, Rows, Tape, Value, Weight, embedding, linear,
};

use crate::attention::{Adapter, Attention, Linear};
use crate::cache::{Cache, LayerCache};
use crate::config::Config;
use crate::lora::{LoraConfig, MAGNITUDE};
use crate::parameters::Parameters;
use crate::sequences::Sequences;
use crate::stack::{Block, FeedForward, Residual, Stack};
use crate::tensor_error;

/// How a forward pass is made.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Training: one key a batch row. `None`: no dropout.
    pub dropout: Option<Arc<DropoutKeys>>,
    /// Whether adapters take part.
    pub adapter: bool,
    /// Activations inside the blocks are computed again by the backward pass, not kept.
    pub recompute: bool,
}

impl Pass {
    /// No dropout, adapters on.
    pub fn inference() -> Self {
        Self {
            dropout: None,
            adapter: true,
            recompute: false,
        }
    }

    /// Dropout at a site in the network.
    pub(crate) fn drop(&self, site: u64) -> Drop<'_> {
        self.dropout.as_deref().map(|keys| (keys, site))
    }
}

/// A T5 over weights that it shares with [`Parameters`]: an optimizer's update shows at once.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    shared: Weight,
    /// The output projection where it is not tied.
    head: Option<Weight>,
    encoder: Stack,
    decoder: Stack,
}

impl Model {
    /// A model without gradients.
    pub fn new(
        config: &Config,
        parameters: &Parameters,
        lora: Option<&LoraConfig>,
    ) -> Result<Self> {
        Self::with_trainable(config, parameters, lora, &|_| None)
    }

    /// `trainable` gives the weights that are trained their places among the gradients.
    pub fn with_trainable(
        config: &Config,
        parameters: &Parameters,
        lora: Option<&LoraConfig>,
        trainable: &dyn Fn(&str) -> Option<usize>,
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
        self.shared.tensor().device()
    }

    /// Encodes the rows of `source` to `(places, d)`.
    pub fn encode(&self, tape: &Tape, source: &Sequences, pass: &Pass) -> Result<Value> {
        embedding(tape, &self.shared, &source.ids)
            .and_then(|x| self.encoder.forward(tape, &x, &source.rows, None, pass))
            .map_err(tensor_error)
    }

    /// Decodes the rows of `target` over `encoded`, row by row, to `(places, d)`: teacher forcing.
    pub fn decode(
        &self,
        tape: &Tape,
        target: &Sequences,
        encoded: &Value,
        source: &Arc<Rows>,
        pass: &Pass,
    ) -> Result<Value> {
        embedding(tape, &self.shared, &target.ids)
            .and_then(|x| {
                let source = Some((encoded, source));
                self.decoder.forward(tape, &x, &target.rows, source, pass)
            })
            .map_err(tensor_error)
    }

    /// The projection of hidden states onto the vocabulary: tied to the embedding it is scaled by
    /// `d^-0.5`.
    pub fn projection(&self, precision: Precision) -> Projection<'_> {
        let (weight, scale) = match &self.head {
            Some(head) => (head, 1.0),
            None => (&self.shared, (self.config.d_model as f64).powf(-0.5)),
        };
        Projection {
            weight,
            scale,
            precision,
        }
    }

    /// Scores over the vocabulary for `hidden (n, d)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let Projection { weight, scale, .. } = self.projection(Precision::F32);
        let hidden = Value::constant(hidden.clone());
        linear(&Tape::off(Precision::F32), &hidden, weight, scale)
            .map(Value::into_tensor)
            .map_err(tensor_error)
    }

    /// Prepares decoding: keys and values of the encoder's output, once.
    pub fn start(&self, encoded: &Value, source: &Arc<Rows>, pass: &Pass) -> Result<Cache> {
        let tape = Tape::off(Precision::F32);
        let layer = |block: &Block| -> candle_core::Result<LayerCache> {
            let Some((cross, _)) = &block.cross else {
                candle_core::bail!("a decoder block without cross-attention")
            };
            let (key, value) = cross.keys_and_values(&tape, encoded, source, pass)?;
            LayerCache::new(key, value)
        };
        let layers = self
            .decoder
            .blocks
            .iter()
            .map(|block| layer(block))
            .collect::<candle_core::Result<Vec<_>>>();
        let longest = source.longest();
        let mask: Vec<u8> = (0..source.count())
            .flat_map(|row| (0..longest).map(move |place| (row, place)))
            .map(|(row, place)| u8::from(place < source.length(row)))
            .collect();
        let mask = Tensor::from_vec(mask, (source.count(), longest), self.device());
        Ok(Cache {
            layers: layers.map_err(tensor_error)?,
            mask: mask.map_err(tensor_error)?,
            length: 0,
        })
    }

    /// One token a row, `ids (b, 1)`, to the decoder's last hidden states `(b, d)`.
    pub fn step_hidden(&self, ids: &Tensor, cache: &mut Cache, pass: &Pass) -> Result<Tensor> {
        let tape = Tape::off(Precision::F32);
        embedding(&tape, &self.shared, ids)
            .and_then(|x| self.decoder.step(&tape, x, cache, pass))
            .map(Value::into_tensor)
            .map_err(tensor_error)
    }

    /// One token a row, `ids (b, 1)`, to scores over the next one, `(b, v)`.
    pub fn step(&self, ids: &Tensor, cache: &mut Cache, pass: &Pass) -> Result<Tensor> {
        self.logits(&self.step_hidden(ids, cache, pass)?)
    }
}

/// Puts the model together, numbering the places of dropout in a fixed order.
struct Builder<'a> {
    config: &'a Config,
    parameters: &'a Parameters,
    lora: Option<&'a LoraConfig>,
    trainable: &'a dyn Fn(&str) -> Option<usize>,
    site: u64,
}

impl Builder<'_> {
    fn model(mut self) -> Result<Model> {
        let head = if self.config.tie_word_embeddings {
            None
        } else {
            Some(self.weight("lm_head.weight")?)
        };
        Ok(Model {
            config: self.config.clone(),
            shared: self.weight("shared.weight")?,
            head,
            encoder: self.stack("encoder", self.config.num_layers)?,
            decoder: self.stack("decoder", self.config.decoder_layers())?,
        })
    }

    fn next_site(&mut self) -> u64 {
        self.site += 1;
        self.site
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let var = self
            .parameters
            .get(name)
            .ok_or_else(|| Error::internal(format!("the weight {name} is missing")))?;
        Ok(Weight::new(
            var.as_detached_tensor(),
            (self.trainable)(name),
        ))
    }

    fn linear(&mut self, module: &str) -> Result<Linear> {
        // Every layer takes a number, so that an adapter moves no other place's.
        let site = self.next_site();
        let a = format!("{module}.lora_A.weight");
        let adapter = match self.lora {
            Some(lora) if self.parameters.get(&a).is_some() => Some(Adapter {
                a: self.weight(&a)?,
                b: self.weight(&format!("{module}.lora_B.weight"))?,
                magnitude: if lora.use_dora {
                    Some(self.weight(&format!("{module}.{MAGNITUDE}"))?)
                } else {
                    None
                },
                scaling: lora.scaling(module)?,
                dropout: lora.dropout,
                site,
            }),
            _ => None,
        };
        Ok(Linear {
            weight: self.weight(&format!("{module}.weight"))?,
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
            norm: self.weight(&format!("{layer}.layer_norm.weight"))?,
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
            blocks.push(Arc::new(Block {
                attention,
                attention_residual,
                cross,
                feed_forward,
                feed_forward_residual,
            }));
        }
        let bias = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        Ok(Stack {
            config: self.config.clone(),
            decoder,
            relative_attention_bias: self.weight(&bias)?,
            blocks,
            final_norm: self.weight(&format!("{name}.final_layer_norm.weight"))?,
            input_site,
            output_site: self.next_site(),
        })
    }
}
