//! A T5's weights as inference reads them: matrices that may lie in a mapped file, in f32, f16, bf16
//! or int8; norms and biases in f32.

use candle_core::{Device, Tensor};
use chatlm_job::Result;
use chatlm_kernels::{Stored, StoredKind, Weight};

use crate::config::Config;
use crate::lora::LoraConfig;
use crate::parameters::{Parameters, shapes};
use crate::tensor_error;

/// Where weights come from: asked once for each name with its `(out, in)`; vectors are one row.
pub trait WeightSource {
    fn weight(&mut self, name: &str, shape: (usize, usize)) -> Result<Stored>;
}

#[derive(Debug)]
pub(super) struct AttentionWeights {
    pub(super) q: Stored,
    pub(super) k: Stored,
    pub(super) v: Stored,
    pub(super) o: Stored,
    pub(super) norm: Norm,
}

/// A norm's weight, as both stacks want it.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) values: Vec<f32>,
    pub(super) weight: Weight,
}

#[derive(Debug)]
pub(super) struct FeedForwardWeights {
    /// `wi`, or `wi_0` and `wi_1` where gated.
    pub(super) inputs: Vec<Stored>,
    pub(super) wo: Stored,
    pub(super) norm: Norm,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention: AttentionWeights,
    /// The decoder's look at the encoder.
    pub(super) cross: Option<AttentionWeights>,
    pub(super) feed_forward: FeedForwardWeights,
}

impl Layer {
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Stored> {
        let attention = std::iter::once(&self.attention).chain(&self.cross);
        let ff = &self.feed_forward;
        attention
            .flat_map(|a| [&a.q, &a.k, &a.v, &a.o])
            .chain(&ff.inputs)
            .chain([&ff.wo])
    }
}

#[derive(Debug)]
pub(super) struct Layers {
    pub(super) blocks: Vec<Layer>,
    /// (buckets, heads)
    pub(super) bias: Vec<f32>,
    pub(super) final_norm: Norm,
}

impl Layers {
    /// Takes what lies in a mapped file out of this process's memory, until it is read again. Not f32:
    /// who takes that has the memory, and four times the pages would have to be asked for again.
    pub(super) fn release(&self) {
        for layer in &self.blocks {
            let small = |matrix: &&Stored| matrix.kind() != StoredKind::F32;
            layer.matrices().filter(small).for_each(Stored::release);
        }
    }
}

/// All weights of a T5, only read.
#[derive(Debug)]
pub struct Weights {
    pub(super) config: Config,
    pub(super) shared: Stored,
    /// The output projection where it is not tied.
    pub(super) head: Option<Stored>,
    pub(super) encoder: Layers,
    pub(super) decoder: Layers,
}

impl Weights {
    pub fn new(config: &Config, source: &mut dyn WeightSource) -> Result<Self> {
        config.validate()?;
        Builder { config, source }.weights()
    }

    /// Over the weights of a model in training, without copies where `kind` is f32; an adapter is
    /// merged into copies of the matrices that it changes.
    pub fn of_parameters(
        config: &Config,
        parameters: &Parameters,
        lora: Option<&LoraConfig>,
        kind: StoredKind,
    ) -> Result<Self> {
        Self::new(
            config,
            &mut FromParameters {
                parameters,
                lora,
                kind,
            },
        )
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether keys and values of answers are kept in 16 bits.
    pub fn keeps_halves(&self) -> bool {
        self.shared.kind() != StoredKind::F32
    }

    /// The output projection, and what its products are multiplied by.
    pub(super) fn projection(&self) -> (&Stored, f32) {
        match &self.head {
            Some(head) => (head, 1.0),
            None => (&self.shared, (self.config.d_model as f32).powf(-0.5)),
        }
    }
}

/// Names and `(out, in)` of all weights, vectors as one row; in the order of the names.
pub fn weight_shapes(config: &Config) -> Vec<(String, (usize, usize))> {
    let two = |shape: Vec<usize>| match shape[..] {
        [out, inner] => (out, inner),
        _ => (1, shape.iter().product()),
    };
    shapes(config)
        .into_iter()
        .map(|(name, shape)| (name, two(shape)))
        .collect()
}

struct FromParameters<'a> {
    parameters: &'a Parameters,
    lora: Option<&'a LoraConfig>,
    kind: StoredKind,
}

impl WeightSource for FromParameters<'_> {
    fn weight(&mut self, name: &str, shape: (usize, usize)) -> Result<Stored> {
        let get = |name: &str| {
            self.parameters
                .get(name)
                .map(candle_core::Var::as_detached_tensor)
        };
        let missing = || chatlm_job::Error::internal(format!("the weight {name} is missing"));
        let tensor = get(name).ok_or_else(missing)?;
        let tensor = tensor.reshape(shape).map_err(tensor_error)?;
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let tensor = match self.lora {
            Some(lora) => lora
                .merged(module, &tensor, self.parameters)?
                .unwrap_or(tensor),
            None => tensor,
        };
        if self.kind == StoredKind::F32 || is_small(name) {
            return Stored::tensor(&tensor);
        }
        let values = tensor
            .flatten_all()
            .and_then(|tensor| tensor.to_vec1::<f32>());
        Ok(Stored::rounded(
            &values.map_err(tensor_error)?,
            shape,
            self.kind,
        ))
    }
}

/// Norms and position biases stay f32 in every precision: they are few, and everything passes through
/// them.
pub fn is_small(name: &str) -> bool {
    name.ends_with("layer_norm.weight") || name.contains("relative_attention_bias")
}

struct Builder<'a> {
    config: &'a Config,
    source: &'a mut dyn WeightSource,
}

impl Builder<'_> {
    fn weights(mut self) -> Result<Weights> {
        let (vocabulary, d) = (self.config.vocab_size, self.config.d_model);
        Ok(Weights {
            config: self.config.clone(),
            shared: self.source.weight("shared.weight", (vocabulary, d))?,
            head: if self.config.tie_word_embeddings {
                None
            } else {
                Some(self.source.weight("lm_head.weight", (vocabulary, d))?)
            },
            encoder: self.stack("encoder", self.config.num_layers)?,
            decoder: self.stack("decoder", self.config.decoder_layers())?,
        })
    }

    fn norm(&mut self, at: &str) -> Result<Norm> {
        let name = format!("{at}.weight");
        let values = self
            .source
            .weight(&name, (1, self.config.d_model))?
            .to_f32()?;
        let tensor =
            Tensor::from_slice(&values, values.len(), &Device::Cpu).map_err(tensor_error)?;
        Ok(Norm {
            values,
            weight: Weight::new(tensor, None),
        })
    }

    fn attention(&mut self, at: &str, kind: &str) -> Result<AttentionWeights> {
        let (inner, d) = (self.config.inner(), self.config.d_model);
        let mut matrix = |name: &str, shape| {
            self.source
                .weight(&format!("{at}.{kind}.{name}.weight"), shape)
        };
        Ok(AttentionWeights {
            q: matrix("q", (inner, d))?,
            k: matrix("k", (inner, d))?,
            v: matrix("v", (inner, d))?,
            o: matrix("o", (d, inner))?,
            norm: self.norm(&format!("{at}.layer_norm"))?,
        })
    }

    fn feed_forward(&mut self, at: &str) -> Result<FeedForwardWeights> {
        let (d, ff) = (self.config.d_model, self.config.d_ff);
        let names: &[&str] = if self.config.gated() {
            &["wi_0", "wi_1"]
        } else {
            &["wi"]
        };
        let mut matrix = |name: &str, shape| {
            self.source
                .weight(&format!("{at}.DenseReluDense.{name}.weight"), shape)
        };
        let inputs = names.iter().map(|name| matrix(name, (ff, d)));
        Ok(FeedForwardWeights {
            inputs: inputs.collect::<Result<_>>()?,
            wo: matrix("wo", (d, ff))?,
            norm: self.norm(&format!("{at}.layer_norm"))?,
        })
    }

    fn stack(&mut self, name: &str, count: usize) -> Result<Layers> {
        let decoder = name == "decoder";
        let layers = (0..count).map(|block| {
            let at = |layer: usize| format!("{name}.block.{block}.layer.{layer}");
            Ok(Layer {
                attention: self.attention(&at(0), "SelfAttention")?,
                cross: if decoder {
                    Some(self.attention(&at(1), "EncDecAttention")?)
                } else {
                    None
                },
                feed_forward: self.feed_forward(&at(if decoder { 2 } else { 1 }))?,
            })
        });
        let blocks = layers.collect::<Result<_>>()?;
        let bias = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let shape = (
            self.config.relative_attention_num_buckets,
            self.config.num_heads,
        );
        Ok(Layers {
            blocks,
            bias: self.source.weight(&bias, shape)?.to_f32()?,
            final_norm: self.norm(&format!("{name}.final_layer_norm"))?,
        })
    }
}
