//! Evaluations of a run: loss, BLEU-4, sample answers, and the best model kept.

use std::sync::Arc;

use chatlm_generate::Settings;
use chatlm_job::{Code, Error, Result};
use chatlm_t5::{StoredKind, Weights, has_kernels};
use serde_json::json;

use super::TrainingRun;
use crate::event::{Evaluated, Event};
use crate::generator::{Engine, Generator};
use crate::settings::AnswerSettings;
use crate::setup::RunKind;
use crate::validation::{Measured, measure, measure_preferences};

impl TrainingRun {
    /// Of several workers the leader evaluates, and all learn what it found.
    pub(super) fn evaluate_for_all(&mut self, events: &mut Vec<Event>) -> Result<()> {
        if self.crew.is_alone() {
            return self.evaluate(events);
        }
        let mut found = Vec::new();
        if self.crew.leads() {
            let done = match self.evaluate(events) {
                Err(error) if error.code() == Code::Cancelled => false,
                result => result.map(|()| true)?,
            };
            let told = (done, self.state.best, self.state.worse);
            found = serde_json::to_vec(&told).map_err(Error::internal)?;
        }
        let found = self.crew.told_by_leader(found)?;
        let (done, best, worse): (bool, Option<f64>, u64) =
            serde_json::from_slice(&found).map_err(Error::internal)?;
        if !done {
            return Err(Error::cancelled());
        }
        if !self.crew.leads() {
            (self.state.best, self.state.worse) = (best, worse);
            self.state.evaluated = Some(self.state.step);
        }
        Ok(())
    }

    pub(super) fn evaluate(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let step = self.state.step;
        let epoch = self.epoch();
        let Some(valid) = &mut self.valid else {
            return Ok(());
        };
        let model = self.trainer.model()?;
        let measured = if self.kind == RunKind::Dpo {
            let reference = self.valid_reference.as_ref();
            measure_preferences(&model, valid, &self.config, reference, &self.job)?
        } else {
            measure(&model, valid, &self.config, &self.job)?
        };
        let engine = if has_kernels(model.device()) {
            let (config, parameters) = (self.trainer.config(), self.trainer.parameters());
            let lora = self.trainer.lora();
            let weights = Weights::of_parameters(config, parameters, lora, StoredKind::F32)?;
            Engine::Weights(Arc::new(weights))
        } else {
            Engine::Model(Box::new(model))
        };
        let generator = Generator::around(engine, self.tokenizer.clone(), self.config.max_length);
        let settings: AnswerSettings = Settings {
            max_new_tokens: self.config.max_length,
            ..Settings::default()
        }
        .into();
        let count = self.config.samples.max(self.config.bleu_rows) as usize;
        let shown = crate::validation::sample_rows(self.kind, &self.config, count)?;
        let prompts: Vec<String> = shown.iter().map(|(prompt, _)| prompt.clone()).collect();
        let answers = generator.answer(&prompts, &settings, self.config.batch_size, &self.job)?;
        let Measured { loss, rewards } = measured;
        let bleu = (self.config.bleu_rows > 0 && !answers.is_empty()).then(|| {
            let rows = answers.len().min(self.config.bleu_rows as usize);
            let sum: f64 = shown
                .iter()
                .zip(&answers)
                .take(rows)
                .map(|((_, label), answer)| chatlm_train::bleu4(label, &answer.response))
                .sum();
            sum / rows as f64
        });
        let best = self.state.best.is_none_or(|before| loss < before);
        // Before anything tells of it: an evaluation that cannot keep its model is made again.
        if best {
            self.export("best")?;
        }
        for ((prompt, label), answer) in shown
            .into_iter()
            .zip(answers)
            .take(self.config.samples as usize)
        {
            let response = answer.response;
            self.journals.sample(&json!({
                "step": step, "prompt": prompt, "response": response, "label": label,
            }))?;
            events.push(Event::Sample {
                step,
                prompt,
                response,
                label,
            });
        }
        let event = Evaluated {
            step,
            epoch,
            eval_loss: loss,
            eval_bleu4: bleu,
            rewards,
            best,
            stamp: self.journals.stamp(self.state.window.tokens),
        };
        self.journals.evaluation(&event)?;
        events.push(Event::Evaluated(event));
        if best {
            self.state.best = Some(loss);
            self.state.worse = 0;
        } else {
            self.state.worse += 1;
        }
        self.state.evaluated = Some(step);
        Ok(())
    }
}
