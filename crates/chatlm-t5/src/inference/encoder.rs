//! The encoder over stored weights, and the keys and values that the decoder looks at.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use chatlm_job::Result;
use chatlm_kernels::{
    Precision, RelativeBias, Rows, Seen, Stored, StoredKind, Tape, Value, Weight, attention,
    gated_gelu, keep, relu, residual, rms_norm, stored_linear,
};

use super::weights::{Layer, Weights};
use crate::bias::distances;
use crate::tensor_error;

/// A prompt, encoded: what the decoder's layers look at.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) layers: Kind,
}

/// Keys and values of each decoder layer, `(length, inner)`, as the decoder's cache keeps its own.
#[derive(Debug)]
pub(super) enum Kind {
    Wide(Vec<[Vec<f32>; 2]>),
    Half(Vec<[Vec<u16>; 2]>),
}

impl Kind {
    pub(super) fn wide(&self, layer: usize) -> Option<Seen<'_, f32>> {
        match self {
            Self::Wide(layers) => Some(whole(&layers[layer])),
            Self::Half(_) => None,
        }
    }

    pub(super) fn half(&self, layer: usize) -> Option<Seen<'_, u16>> {
        match self {
            Self::Half(layers) => Some(whole(&layers[layer])),
            Self::Wide(_) => None,
        }
    }
}

fn whole<T>([keys, values]: &[Vec<T>; 2]) -> Seen<'_, T> {
    Seen::Whole { keys, values }
}

struct Pass<'a> {
    weights: &'a Weights,
    tape: Tape,
    rows: Arc<Rows>,
    bias: RelativeBias,
}

impl Weights {
    /// Encodes prompts, each of ids inside the vocabulary, all together and without padding.
    ///
    /// What is not read while prompts are (the decoder, where no row is `at_work`), or while answers
    /// are written (the encoder), leaves this process's memory meanwhile, where it lies in a file.
    pub(super) fn encode(&self, prompts: &[&[u32]], at_work: bool) -> Result<Vec<Arc<Source>>> {
        if !at_work {
            self.decoder.release();
        }
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let rows = Arc::new(Rows::new(&lengths));
        let config = &self.config;
        let shape = (config.relative_attention_num_buckets, config.num_heads);
        let lines = Tensor::from_slice(&self.encoder.bias, shape, &Device::Cpu);
        let pass = Pass {
            weights: self,
            tape: Tape::off(Precision::F32),
            bias: RelativeBias {
                weight: Weight::new(lines.map_err(tensor_error)?, None),
                buckets: Arc::new(distances(config, true, rows.longest())),
            },
            rows: rows.clone(),
        };
        let mut x = vec![0.0; rows.places() * config.d_model];
        let ids = prompts.iter().flat_map(|prompt| prompt.iter());
        for (id, to) in ids.zip(x.chunks_mut(config.d_model)) {
            self.shared.row(*id as usize, to)?;
        }
        let x = Tensor::from_vec(x, (rows.places(), config.d_model), &Device::Cpu);
        let mut x = Value::constant(x.map_err(tensor_error)?);
        for layer in &self.encoder.blocks {
            x = pass.block(layer, &x)?;
        }
        let x = pass.norm(&x, &self.encoder.final_norm.weight)?;
        let sources = self.sources(x.tensor(), &rows)?;
        self.encoder.release();
        Ok(sources)
    }

    /// Keys and values of all decoder layers, in one pass over the weights.
    fn sources(&self, encoded: &Tensor, rows: &Rows) -> Result<Vec<Arc<Source>>> {
        let cross = self
            .decoder
            .blocks
            .iter()
            .filter_map(|layer| layer.cross.as_ref());
        let matrices: Vec<&Stored> = cross.flat_map(|cross| [&cross.k, &cross.v]).collect();
        let projected = stored_linear(encoded, &matrices)?
            .into_iter()
            .map(|tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()))
            .collect::<candle_core::Result<Vec<_>>>()
            .map_err(tensor_error)?;
        let inner = self.config.inner();
        let source = |row: usize| {
            let range = rows.range(row);
            let part = |values: &Vec<f32>| values[range.start * inner..range.end * inner].to_vec();
            let layers = projected.chunks(2);
            Arc::new(Source {
                layers: if self.shared.kind() == StoredKind::F32 {
                    Kind::Wide(
                        layers
                            .map(|pair| [part(&pair[0]), part(&pair[1])])
                            .collect(),
                    )
                } else {
                    let kept = |values| keep(&part(values));
                    Kind::Half(
                        layers
                            .map(|pair| [kept(&pair[0]), kept(&pair[1])])
                            .collect(),
                    )
                },
            })
        };
        Ok((0..rows.count()).map(source).collect())
    }
}

fn linear(x: &Value, weights: &[&Stored]) -> Result<Vec<Value>> {
    let tensors = stored_linear(x.tensor(), weights)?;
    Ok(tensors.into_iter().map(Value::constant).collect())
}

impl Pass<'_> {
    fn norm(&self, x: &Value, weight: &Weight) -> Result<Value> {
        rms_norm(
            &self.tape,
            x,
            weight,
            self.weights.config.layer_norm_epsilon,
        )
        .map_err(tensor_error)
    }

    fn add(&self, x: &Value, y: &[Value]) -> Result<Value> {
        residual(&self.tape, x, &y[0], &self.rows, None).map_err(tensor_error)
    }

    fn block(&self, layer: &Layer, x: &Value) -> Result<Value> {
        let (tape, rows) = (&self.tape, &self.rows);
        let own = &layer.attention;
        let qkv = linear(&self.norm(x, &own.norm.weight)?, &[&own.q, &own.k, &own.v])?;
        let heads = self.weights.config.num_heads;
        let seen = attention(
            tape,
            (&qkv[0], &qkv[1], &qkv[2]),
            heads,
            Some(&self.bias),
            rows,
            rows,
            false,
            None,
        )
        .map_err(tensor_error)?;
        let x = self.add(x, &linear(&seen, &[&own.o])?)?;
        let ff = &layer.feed_forward;
        let inputs: Vec<&Stored> = ff.inputs.iter().collect();
        let inner = linear(&self.norm(&x, &ff.norm.weight)?, &inputs)?;
        let inner = match inner.get(1) {
            Some(gate) => gated_gelu(tape, &inner[0], gate, rows, None),
            None => relu(tape, &inner[0], rows, None),
        };
        self.add(&x, &linear(&inner.map_err(tensor_error)?, &[&ff.wo])?)
    }
}
