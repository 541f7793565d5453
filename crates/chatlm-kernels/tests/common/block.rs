//! A tiny model of all operators: embedding, two layers, and the projection tied to the embedding.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use chatlm_kernels::testing::device;
use chatlm_kernels::{
    Drop, DropoutKeys, Gradients, Precision, Projection, Rows, Tape, Value, Weight, dropout,
    embedding, gated_gelu, linear, plain, relu, residual, rms_norm,
};

use super::attend::{Attend, BUCKETS};
use super::{Found, dropout_keys, factors, gathered, random, sizes, values};

const INNER: usize = 16;
const MIDDLE: usize = 24;
const WORDS: usize = 23;
const LAYERS: usize = 2;
const EPS: f64 = 1e-6;
const SMOOTHING: f64 = 0.1;
const SCALE: f64 = 0.25;
const FACTOR: f64 = 0.125;
pub(crate) const IGNORE: u32 = 0;

/// Places among the weights: these, and then those of the layers.
pub(crate) const TABLE: usize = 0;
pub(crate) const BIAS: usize = 1;
const NORM: usize = 2;
const SHARED: usize = 3;
/// Weights of a layer: norm, q, k, v, o, norm, gate, up, down.
pub(crate) const OF_LAYER: usize = 9;
/// The second layer has no use for its `up`.
pub(crate) const UNUSED: usize = SHARED + OF_LAYER + 7;

#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) rows: Arc<Rows>,
    pub(crate) keys: Option<DropoutKeys>,
    pub(crate) recompute: bool,
}

impl Block {
    pub(crate) fn new(lengths: &[usize], dropped: bool) -> Self {
        Self {
            rows: Arc::new(Rows::new(lengths)),
            keys: dropped.then(|| dropout_keys(lengths.len())),
            recompute: false,
        }
    }

    pub(crate) fn weights() -> Vec<Tensor> {
        let inner = [INNER, INNER];
        let mut shapes: Vec<Vec<usize>> = vec![vec![WORDS, INNER], vec![BUCKETS, 2], vec![INNER]];
        for _ in 0..LAYERS {
            shapes.push(vec![INNER]);
            shapes.extend([inner; 4].map(Vec::from));
            shapes.push(vec![INNER]);
            shapes.extend([[MIDDLE, INNER]; 2].map(Vec::from));
            shapes.push(vec![INNER, MIDDLE]);
        }
        let shapes = shapes.iter().enumerate();
        // Small enough that the softmax stays soft.
        shapes
            .map(|(n, shape)| (random(n as u64, shape) * 0.4).unwrap())
            .collect()
    }

    pub(crate) fn layer(layer: usize) -> std::ops::Range<usize> {
        SHARED + layer * OF_LAYER..SHARED + (layer + 1) * OF_LAYER
    }

    fn ids(&self, step: usize) -> Vec<u32> {
        (0..self.rows.places())
            .map(|place| (place * step % WORDS) as u32)
            .collect()
    }

    /// Some of them are ignored.
    pub(crate) fn targets(&self) -> Vec<u32> {
        self.ids(7)
    }

    fn drop(&self, site: usize) -> Drop<'_> {
        self.keys.as_ref().map(|keys| (keys, site as u64))
    }

    fn attend(&self) -> Attend {
        Attend::over(2, self.rows.clone(), self.rows.clone(), true)
            .biased()
            .dropped_by(self.keys.as_ref())
    }

    fn run_layer(
        &self,
        tape: &Tape,
        x: &Value,
        layer: usize,
        bias: &Weight,
        w: &[Weight],
    ) -> Result<Value> {
        let (rows, site) = (&self.rows, 10 * layer);
        let normed = rms_norm(tape, x, &w[0], EPS)?;
        let project = |weight: &Weight| linear(tape, &normed, weight, 1.0);
        let parts = [project(&w[1])?, project(&w[2])?, project(&w[3])?];
        let mixed = self
            .attend()
            .run(tape, &parts, std::slice::from_ref(bias))?;
        let mixed = linear(tape, &mixed, &w[4], 1.0)?;
        let x = residual(tape, x, &mixed, rows, self.drop(site + 1))?;
        let normed = rms_norm(tape, &x, &w[5], EPS)?;
        let gate = linear(tape, &normed, &w[6], 1.0)?;
        let middle = if layer == 0 {
            let up = linear(tape, &normed, &w[7], 1.0)?;
            gated_gelu(tape, &gate, &up, rows, self.drop(site + 2))?
        } else {
            relu(tape, &gate, rows, self.drop(site + 2))?
        };
        let down = linear(tape, &middle, &w[8], 1.0)?;
        residual(tape, &x, &down, rows, self.drop(site + 3))
    }

    /// Hidden states; the tape is told where the gradients of the weights are complete.
    pub(crate) fn forward(&self, tape: &Tape, w: &[Weight]) -> Result<Value> {
        let ids = Tensor::new(self.ids(5), &device())?;
        tape.last_use_of(&[&w[TABLE]]);
        let x = embedding(tape, &w[TABLE], &ids)?;
        tape.last_use_of(&[&w[BIAS]]);
        let mut x = dropout(tape, &x, &self.rows, self.drop(100))?;
        for layer in 0..LAYERS {
            let (bias, own) = (w[BIAS].clone(), w[Self::layer(layer)].to_vec());
            tape.last_use_of(&own.iter().collect::<Vec<_>>());
            x = if self.recompute {
                let block = self.clone();
                tape.recomputed(vec![x], move |tape, x| {
                    block.run_layer(tape, &x[0], layer, &bias, &own)
                })?
            } else {
                self.run_layer(tape, &x, layer, &bias, &own)?
            };
        }
        tape.last_use_of(&[&w[NORM]]);
        rms_norm(tape, &x, &w[NORM], EPS)
    }

    /// Forward and backward; answers the loss.
    pub(crate) fn step(
        &self,
        precision: Precision,
        w: &[Weight],
        gradients: &mut Gradients<'_>,
    ) -> Result<f64> {
        let tape = Tape::new(precision);
        let hidden = self.forward(&tape, w)?;
        let projection = Projection {
            weight: &w[TABLE],
            scale: SCALE,
            precision,
        };
        let (loss, gradient) = projection.cross_entropy_backward(
            hidden.tensor(),
            &self.targets(),
            IGNORE,
            SMOOTHING,
            FACTOR,
            gradients,
        )?;
        tape.backward(vec![(hidden, gradient)], gradients)?;
        Ok(loss * FACTOR)
    }

    /// The loss, and the gradients of all weights.
    pub(crate) fn found(&self, precision: Precision) -> Found {
        let weights = Self::weights();
        let weights: Vec<&Tensor> = weights.iter().collect();
        let mut gradients = Gradients::new(sizes(&weights));
        let loss = self
            .step(precision, &super::trained(&weights), &mut gradients)
            .unwrap();
        let mut found = vec![vec![loss]];
        found.extend(gathered(&gradients, &weights));
        found
    }

    fn plain_layer(&self, x: &Tensor, layer: usize, bias: &Tensor, w: &[Tensor]) -> Result<Tensor> {
        let dropped = |x: Tensor, site| {
            let width = x.dims2()?.1;
            x * factors(
                &self.rows,
                width,
                self.keys.as_ref(),
                10 * layer as u64 + site,
            )
        };
        let normed = plain_norm(x, &w[0])?;
        let project = |weight| plain::linear(&normed, weight);
        let parts = [project(&w[1])?, project(&w[2])?, project(&w[3])?];
        let mixed = self.attend().plain(&parts, std::slice::from_ref(bias))?;
        let x = (x + dropped(plain::linear(&mixed, &w[4])?, 1)?)?;
        let normed = plain_norm(&x, &w[5])?;
        let gate = plain::linear(&normed, &w[6])?;
        let middle = if layer == 0 {
            (gelu(&gate)? * plain::linear(&normed, &w[7])?)?
        } else {
            gate.relu()?
        };
        x + dropped(plain::linear(&dropped(middle, 2)?, &w[8])?, 3)?
    }

    /// The loss by candle's operators.
    pub(crate) fn plain(&self, w: &[Tensor]) -> Result<Tensor> {
        let ids = Tensor::new(self.ids(5), &device())?;
        let keys = self.keys.as_ref();
        let mut x = (w[TABLE].embedding(&ids)? * factors(&self.rows, INNER, keys, 100))?;
        for layer in 0..LAYERS {
            x = self.plain_layer(&x, layer, &w[BIAS], &w[Self::layer(layer)])?;
        }
        let logits = (plain::linear(&plain_norm(&x, &w[NORM])?, &w[TABLE])? * SCALE)?;
        let targets = Tensor::new(self.targets(), &device())?;
        plain::cross_entropy(&logits, &targets, IGNORE, SMOOTHING)? * FACTOR
    }

    /// The loss, and the gradients of all weights, by candle in f64.
    pub(crate) fn reference(&self) -> Found {
        let vars: Vec<candle_core::Var> = Self::weights()
            .iter()
            .map(|w| candle_core::Var::from_tensor(&w.to_dtype(DType::F64).unwrap()).unwrap())
            .collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let loss = self.plain(&tensors).unwrap();
        let store = loss.backward().unwrap();
        let gradients = vars.iter().map(|var| match store.get(var) {
            Some(gradient) => values(gradient),
            None => vec![0.0; var.elem_count()],
        });
        std::iter::once(values(&loss)).chain(gradients).collect()
    }
}

/// `plain::rms_norm` is in f32 whatever it gets.
fn plain_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
    x.broadcast_div(&(mean + EPS)?.sqrt()?)?
        .broadcast_mul(weight)
}

/// candle's own has a derivative of six digits.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let inner = ((x.powf(3.0)? * 0.044_715)? + x)? * (2.0 / std::f64::consts::PI).sqrt();
    x * ((inner?.tanh()? + 1.0)? * 0.5)?
}
