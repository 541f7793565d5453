//! Forward and backward over the micro-batches of a step: the loss, and its gradients added up as if
//! they were one batch.

use std::sync::Arc;
use std::time::Instant;

use chatlm_job::{Error, Result};
use chatlm_t5::{
    Config, DropoutKeys, Gradients, LoraConfig, Model, Pass, Precision, Sink, Tape, Value,
};

use crate::batch::{PreferenceBatch, SequenceBatch};
use crate::config::TrainConfig;
use crate::loss::{NOTHING, target_log_probabilities};
use crate::preference::{Objective, PreferenceSums, pairs};

/// What the passes of a step have found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found<M> {
    pub(crate) measured: M,
    pub(crate) forward_seconds: f64,
}

/// What a step's sums are divided by: of all micro-batches, and of all workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Totals {
    /// Target tokens, or those of the chosen answers.
    pub(crate) tokens: f64,
    pub(crate) pairs: f64,
}

impl Totals {
    pub(crate) fn of(micro: &[SequenceBatch]) -> Self {
        Self {
            tokens: micro.iter().map(|batch| batch.tokens).sum::<usize>() as f64,
            pairs: 0.0,
        }
    }

    pub(crate) fn of_pairs(micro: &[PreferenceBatch]) -> Self {
        let chosen = micro.iter().map(|batch| &batch.chosen);
        Self {
            tokens: chosen.clone().map(|side| side.tokens).sum::<usize>() as f64,
            pairs: chosen.map(SequenceBatch::len).sum::<usize>() as f64,
        }
    }
}

/// What the passes look at, and nothing that a step changes.
#[derive(Clone, Copy)]
pub(crate) struct Passes<'a> {
    pub(crate) model: &'a Model,
    pub(crate) settings: &'a TrainConfig,
    pub(crate) config: &'a Config,
    pub(crate) lora: Option<&'a LoraConfig>,
    /// What the gradients come multiplied by; measured losses do not.
    pub(crate) scale: f64,
}

impl Passes<'_> {
    fn precision(&self) -> Precision {
        match self.settings.precision.as_str() {
            "bf16" => Precision::Bf16,
            "f16" => Precision::F16,
            _ => Precision::F32,
        }
    }

    fn pass(&self, rows: &[u64]) -> Pass {
        Pass {
            dropout: self.keys(rows),
            adapter: true,
            recompute: self.settings.recompute,
        }
    }

    /// Dropout of a training pass; `None` where every rate is 0.
    fn keys(&self, rows: &[u64]) -> Option<Arc<DropoutKeys>> {
        let rate = self.config.dropout_rate;
        let adapter = self.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        (rate > 0.0 || adapter > 0.0).then(|| {
            Arc::new(DropoutKeys {
                rows: rows.to_vec(),
                rate,
            })
        })
    }

    /// These micro-batches' part of the mean loss; its gradients are added up.
    pub(crate) fn gradients<'g>(
        &self,
        micro: &[SequenceBatch],
        totals: Totals,
        gradients: &mut Gradients<'g>,
        mut watch: Option<Sink<'g>>,
    ) -> Result<Found<f64>> {
        let total = totals.tokens.max(1.0);
        let mut found = Found::<f64>::default();
        for (place, batch) in micro.iter().enumerate() {
            let started = Instant::now();
            let (model, precision) = (self.model, self.precision());
            let (tape, pass) = (Tape::new(precision), self.pass(&batch.keys));
            let encoded = model.encode(&tape, &batch.source, &pass)?;
            let hidden = model.decode(&tape, &batch.target, &encoded, &batch.source.rows, &pass)?;
            drop(encoded);
            let (sum, gradient) = model
                .projection(precision)
                .cross_entropy_backward(
                    hidden.tensor(),
                    &batch.labels,
                    NOTHING,
                    self.settings.label_smoothing,
                    self.scale / total,
                    gradients,
                )
                .map_err(Error::internal)?;
            found.forward_seconds += started.elapsed().as_secs_f64();
            found.measured += sum / total;
            if !found.measured.is_finite() {
                break;
            }
            if place + 1 == micro.len()
                && let Some(sink) = watch.take()
            {
                gradients.watch(sink);
            }
            tape.backward(vec![(hidden, gradient)], gradients)
                .map_err(Error::internal)?;
        }
        Ok(found)
    }

    pub(crate) fn preference_gradients<'g>(
        &self,
        micro: &[PreferenceBatch],
        totals: Totals,
        gradients: &mut Gradients<'g>,
        watch: Option<Sink<'g>>,
    ) -> Result<Found<PreferenceSums>> {
        let objective = Objective::of(self.settings);
        let count = totals.pairs.max(1.0);
        let cross_entropy = objective.nll / totals.tokens.max(1.0);
        let (mut sums, mut forward_seconds) = (PreferenceSums::new(objective), 0.0);
        for batch in micro {
            let started = Instant::now();
            let (model, precision) = (self.model, self.precision());
            let (tape, pass) = (Tape::new(precision), self.pass(&batch.chosen.keys));
            // Both answers belong to the same prompt: it is encoded once.
            let encoded = model.encode(&tape, &batch.chosen.source, &pass)?;
            let score = |side| target_log_probabilities(&tape, model, side, &encoded, &pass);
            let (chosen, left) = score(&batch.chosen)?;
            let (rejected, right) = score(&batch.rejected)?;
            drop(encoded);
            forward_seconds += started.elapsed().as_secs_f64();
            // A row's derivative is that of each of its tokens.
            let (mut by_chosen, mut by_rejected) = (Vec::new(), Vec::new());
            for (row, pair) in pairs(batch, objective.kind, &chosen, &rejected)?
                .into_iter()
                .enumerate()
            {
                let loss = sums.add(&pair);
                let spread = |by: &mut Vec<f32>, side: &SequenceBatch, value: f64| {
                    by.resize(by.len() + side.target.rows.length(row), value as f32);
                };
                let value = loss.by_chosen / count - cross_entropy;
                spread(&mut by_chosen, &batch.chosen, self.scale * value);
                let value = loss.by_rejected / count;
                spread(&mut by_rejected, &batch.rejected, self.scale * value);
            }
            if !sums.means().loss.is_finite() {
                break;
            }
            let projection = model.projection(precision);
            let mut seed = |hidden: &Value, side: &SequenceBatch, by: &[f32]| {
                projection
                    .log_probabilities_backward(
                        hidden.tensor(),
                        &side.labels,
                        NOTHING,
                        by,
                        gradients,
                    )
                    .map_err(Error::internal)
            };
            let chosen = seed(&left, &batch.chosen, &by_chosen)?;
            let rejected = seed(&right, &batch.rejected, &by_rejected)?;
            tape.backward(vec![(left, chosen), (right, rejected)], gradients)
                .map_err(Error::internal)?;
        }
        // Not before: the decoder's weights are used twice on a tape, and are complete after both.
        if let Some(sink) = watch {
            gradients.watch(sink);
        }
        Ok(Found {
            measured: sums,
            forward_seconds,
        })
    }
}
