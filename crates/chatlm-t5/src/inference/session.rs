//! Rows that write answers: each has read a prompt and keeps a path through the cache of keys and
//! values. Rows may come, go and be copied at any step; what they have read is shared, never copied.

use std::sync::Arc;

use chatlm_job::{Error, Result};
use chatlm_kernels::{
    Job, Kept, Seen, Slots, Stored, add_rows, attend, gated_gelu_rows, largest, products,
    relu_rows, rms_norm_rows,
};

use super::encoder::Source;
use super::weights::{AttentionWeights, FeedForwardWeights, Norm, Weights};
use crate::bias::bucket;
use crate::config::Config;

/// Keys and values of each layer.
#[derive(Debug)]
enum Cache {
    Wide(Vec<Slots<f32>>),
    Half(Vec<Slots<u16>>),
}

#[derive(Debug, Clone)]
struct Row {
    source: Arc<Source>,
    /// The slots of its tokens, oldest first.
    path: Vec<u32>,
}

/// A decoder at work over [`Weights`], on the processor. Keys and values are kept in f32 where the
/// weights are, else in bf16.
#[derive(Debug)]
pub struct Session {
    weights: Arc<Weights>,
    rows: Vec<Row>,
    cache: Cache,
    /// Rows that read each slot.
    readers: Vec<u32>,
    free: Vec<u32>,
    /// (heads, distances back), as long as the longest row has needed.
    bias: Vec<f32>,
    /// After the last step: (rows, d).
    hidden: Vec<f32>,
}

impl Session {
    pub fn new(weights: Arc<Weights>) -> Self {
        let inner = weights.config.inner();
        let layers = 0..weights.decoder.blocks.len();
        let cache = if weights.keeps_halves() {
            Cache::Half(layers.map(|_| Slots::new(inner)).collect())
        } else {
            Cache::Wide(layers.map(|_| Slots::new(inner)).collect())
        };
        Self {
            weights,
            rows: Vec::new(),
            cache,
            readers: Vec::new(),
            free: Vec::new(),
            bias: Vec::new(),
            hidden: Vec::new(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.weights.config
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Encodes prompts; each becomes a row behind those that are there.
    pub fn add(&mut self, prompts: &[&[u32]]) -> Result<()> {
        for source in in_pool(|| self.weights.encode(prompts, !self.rows.is_empty()))? {
            self.rows.push(Row {
                source,
                path: Vec::new(),
            });
            self.hidden
                .resize(self.rows.len() * self.weights.config.d_model, 0.0);
        }
        Ok(())
    }

    /// The rows become the given ones, in this order; one may be given several times.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        let d = self.weights.config.d_model;
        let mut hidden = Vec::with_capacity(rows.len() * d);
        let mut next = Vec::with_capacity(rows.len());
        for &row in rows {
            let Some(from) = self.rows.get(row) else {
                return Err(Error::internal(format!("there is no row {row}")));
            };
            for &slot in &from.path {
                self.readers[slot as usize] += 1;
            }
            next.push(from.clone());
            hidden.extend_from_slice(&self.hidden[row * d..(row + 1) * d]);
        }
        for row in std::mem::replace(&mut self.rows, next) {
            for slot in row.path {
                let readers = &mut self.readers[slot as usize];
                *readers -= 1;
                if *readers == 0 {
                    self.free.push(slot);
                }
            }
        }
        self.hidden = hidden;
        Ok(())
    }

    /// Each row reads one more token; `logits` becomes the scores after it, row after row.
    pub fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        in_pool(|| self.read(tokens))?;
        let (weight, scale) = self.weights.projection();
        logits.resize(self.rows.len() * self.weights.config.vocab_size, 0.0);
        let job = Job {
            weight,
            scale,
            out: logits,
        };
        in_pool(|| products(&self.hidden, self.rows.len(), &mut [job]))
    }

    /// The same, answering only the most likely token of each row: the first of the largest scores,
    /// `None` where one is not finite.
    pub fn step_best(&mut self, tokens: &[u32]) -> Result<Vec<Option<u32>>> {
        in_pool(|| self.read(tokens))?;
        let (weight, scale) = self.weights.projection();
        in_pool(|| largest(&self.hidden, self.rows.len(), weight, scale))
    }

    /// The decoder's last hidden states after the last step, `(rows, d)`.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    fn slot(&mut self) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.readers.push(0);
            (self.readers.len() - 1) as u32
        });
        self.readers[slot as usize] = 1;
        slot
    }

    /// Makes the bias of distances up to `length` ready.
    fn stretch_bias(&mut self, length: usize) {
        let config = &self.weights.config;
        let heads = config.num_heads;
        if self.bias.len() >= heads * length {
            return;
        }
        let room = length.next_power_of_two().max(64);
        let of = |head: usize, back: usize| {
            let bucket = bucket(
                -(back as i64),
                false,
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
            );
            self.weights.decoder.bias[bucket as usize * heads + head]
        };
        let lines = (0..heads).flat_map(|head| (0..room).map(move |back| (head, back)));
        self.bias = lines.map(|(head, back)| of(head, back)).collect();
    }

    /// One step up to the last hidden states.
    fn read(&mut self, tokens: &[u32]) -> Result<()> {
        if tokens.len() != self.rows.len() {
            return Err(Error::internal("a step wants one token a row"));
        }
        let weights = self.weights.clone();
        let d = weights.config.d_model;
        let mut x = vec![0.0; tokens.len() * d];
        for (&token, to) in tokens.iter().zip(x.chunks_mut(d)) {
            weights.shared.row(token as usize, to)?;
        }
        for row in 0..self.rows.len() {
            let slot = self.slot();
            self.rows[row].path.push(slot);
        }
        self.stretch_bias(
            self.rows
                .iter()
                .map(|row| row.path.len())
                .max()
                .unwrap_or(0),
        );
        let mut step = Step {
            config: &weights.config,
            rows: tokens.len(),
            normed: vec![0.0; tokens.len() * d],
            projected: vec![0.0; tokens.len() * d],
            x,
        };
        for (place, layer) in weights.decoder.blocks.iter().enumerate() {
            self.attend(&mut step, place, &layer.attention)?;
            if let Some(cross) = &layer.cross {
                self.look(&mut step, place, cross)?;
            }
            step.feed_forward(&layer.feed_forward)?;
        }
        step.norm(&weights.decoder.final_norm);
        self.hidden = step.normed;
        Ok(())
    }

    /// Self-attention over each row's path, to which the new token belongs.
    fn attend(&mut self, step: &mut Step<'_>, place: usize, own: &AttentionWeights) -> Result<()> {
        step.norm(&own.norm);
        let inner = step.config.inner();
        let [mut q, mut k, mut v] = [(); 3].map(|()| vec![0.0; step.rows * inner]);
        step.products(&mut [(&own.q, &mut q), (&own.k, &mut k), (&own.v, &mut v)])?;
        let view = (&self.rows[..], step.config.num_heads, &self.bias[..]);
        match &mut self.cache {
            Cache::Wide(layers) => write_and_attend(&mut layers[place], view, &q, &mut k, &v),
            Cache::Half(layers) => write_and_attend(&mut layers[place], view, &q, &mut k, &v),
        }
        step.add(&own.o, &k)
    }

    /// Attention over each row's prompt.
    fn look(&self, step: &mut Step<'_>, place: usize, cross: &AttentionWeights) -> Result<()> {
        step.norm(&cross.norm);
        let inner = step.config.inner();
        let [mut q, mut out] = [(); 2].map(|()| vec![0.0; step.rows * inner]);
        step.products(&mut [(&cross.q, &mut q)])?;
        let sources = self.rows.iter().map(|row| &row.source.layers);
        let heads = step.config.num_heads;
        match self.cache {
            Cache::Wide(_) => {
                let seen: Vec<_> = sources.filter_map(|layers| layers.wide(place)).collect();
                attend(&q, &seen, heads, None, &mut out);
            }
            Cache::Half(_) => {
                let seen: Vec<_> = sources.filter_map(|layers| layers.half(place)).collect();
                attend(&q, &seen, heads, None, &mut out);
            }
        }
        step.add(&cross.o, &out)
    }
}

/// Enters the thread pool once, not at every product.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Writes each row's newest key and value, and lets its query see its whole path; the result takes the
/// place of the keys.
fn write_and_attend<T: Kept>(
    slots: &mut Slots<T>,
    (rows, heads, bias): (&[Row], usize, &[f32]),
    q: &[f32],
    k: &mut [f32],
    v: &[f32],
) {
    let inner = q.len() / rows.len().max(1);
    for (row, (key, value)) in rows.iter().zip(k.chunks(inner).zip(v.chunks(inner))) {
        if let Some(&slot) = row.path.last() {
            slots.write(slot, key, value);
        }
    }
    let slots = &*slots;
    let seen: Vec<Seen<'_, T>> = rows
        .iter()
        .map(|row| Seen::Path {
            slots,
            path: &row.path,
        })
        .collect();
    attend(q, &seen, heads, Some(bias), k);
}

/// What passes through the layers of one step.
struct Step<'a> {
    config: &'a Config,
    rows: usize,
    /// (rows, d)
    x: Vec<f32>,
    normed: Vec<f32>,
    projected: Vec<f32>,
}

impl Step<'_> {
    fn norm(&mut self, norm: &Norm) {
        let eps = self.config.layer_norm_epsilon;
        rms_norm_rows(&self.x, &norm.values, eps, &mut self.normed);
    }

    /// Products of the normed rows.
    fn products(&self, weights: &mut [(&Stored, &mut Vec<f32>)]) -> Result<()> {
        let jobs = weights.iter_mut().map(|(weight, out)| Job {
            weight,
            scale: 1.0,
            out,
        });
        products(&self.normed, self.rows, &mut jobs.collect::<Vec<_>>())
    }

    /// Adds `y` by the weight to x.
    fn add(&mut self, weight: &Stored, y: &[f32]) -> Result<()> {
        let job = Job {
            weight,
            scale: 1.0,
            out: &mut self.projected,
        };
        products(y, self.rows, &mut [job])?;
        add_rows(&mut self.x, &self.projected);
        Ok(())
    }

    fn feed_forward(&mut self, ff: &FeedForwardWeights) -> Result<()> {
        self.norm(&ff.norm);
        let room = self.rows * self.config.d_ff;
        let mut inner = vec![0.0; room];
        match &ff.inputs[..] {
            [wi, gate] => {
                let mut gates = vec![0.0; room];
                self.products(&mut [(wi, &mut inner), (gate, &mut gates)])?;
                gated_gelu_rows(&mut inner, &gates);
            }
            inputs => {
                for wi in inputs {
                    self.products(&mut [(wi, &mut inner)])?;
                }
                relu_rows(&mut inner);
            }
        }
        self.add(&ff.wo, &inner)
    }
}
