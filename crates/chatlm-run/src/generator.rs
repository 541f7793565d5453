//! A loaded model that answers texts: model folder, optional adapter, tokenizer and settings.
//!
//! Settings given by the caller beat the folder's `generation_config.json`, which beats the
//! defaults of [`Settings`]. Every prompt is cut to the model's room and ends in `[EOS]`.

use std::path::{Path, PathBuf};

use chatlm_checkpoint::{load_adapter, load_model};
use chatlm_generate::{Request, Search, Settings, generate};
use chatlm_job::{Cancel, Code, Error, Job, Result, mix};
use chatlm_t5::Model;
use chatlm_tokenizer::{DecodeStream, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::open_device;

/// What to load.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GeneratorOptions {
    /// A model folder with its tokenizer.
    pub model: PathBuf,
    /// A PEFT adapter folder for that model.
    #[serde(default)]
    pub adapter: Option<PathBuf>,
    /// `f32`; other precisions are refused until they are built.
    pub dtype: String,
    /// The longest prompt in tokens, `[EOS]` included; longer ones are cut.
    #[serde(default = "longest_prompt")]
    pub max_length: usize,
    /// `cpu`, `cuda:N` or `metal`; where left out the best there is.
    #[serde(default)]
    pub device: Option<String>,
}

fn longest_prompt() -> usize {
    512
}

/// Settings as a caller gives them: what is left out comes from the model folder or the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenSettings {
    pub search: Option<String>,
    pub max_new_tokens: Option<usize>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub no_repeat_ngram: Option<usize>,
    pub seed: Option<u64>,
}

/// One answered prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    pub prompt: String,
    pub response: String,
    /// Ids without `[PAD]`, with `[EOS]` where it was reached.
    pub tokens: Vec<u32>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    pub text: String,
    /// Tokens generated so far.
    pub tokens: usize,
    pub done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    Stop,
    Length,
    Cancelled,
}

/// The loaded model.
pub struct Generator {
    model: Model,
    tokenizer: Tokenizer,
    folder: PathBuf,
    defaults: Value,
    max_length: usize,
}

impl Generator {
    pub fn load(options: &GeneratorOptions, job: &Job) -> Result<Self> {
        chatlm_t5::cpu::check()?;
        require_f32(&options.dtype)?;
        let device = open_device(options.device.as_deref())?;
        job.progress.report("load", 0, None, "bytes");
        let mut folder = load_model(&options.model, &device)?;
        let tokenizer = Tokenizer::load(&options.model)?;
        check_vocabulary(&folder.config, &tokenizer, &options.model)?;
        job.cancel.check()?;
        let lora = match &options.adapter {
            Some(adapter) => Some(load_adapter(
                adapter,
                &folder.config,
                &mut folder.parameters,
            )?),
            None => None,
        };
        let model = Model::new(&folder.config, &folder.parameters, lora.as_ref())?;
        Ok(Self {
            model,
            tokenizer,
            folder: options.model.clone(),
            defaults: folder.generation,
            max_length: options.max_length,
        })
    }

    /// A generator over a model that is there already, such as one in training.
    pub fn around(model: Model, tokenizer: Tokenizer, max_length: usize) -> Self {
        Self {
            model,
            tokenizer,
            folder: PathBuf::new(),
            defaults: Value::Null,
            max_length,
        }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Resolves given settings against the folder's and the defaults; checks the ranges.
    pub fn settings(&self, given: &GivenSettings) -> Result<Settings> {
        resolve(given, &self.defaults)
    }

    /// The ids of a prompt, cut to the room there is, always with `[EOS]` last.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(prompt)?;
        ids.truncate(self.max_length.saturating_sub(1));
        ids.push(self.tokenizer.eos_id());
        Ok(ids)
    }

    /// Answers all prompts, `batch` at a time, longest first so that little is padding.
    pub fn answer(
        &self,
        prompts: &[String],
        settings: &Settings,
        batch: usize,
        job: &Job,
    ) -> Result<Vec<Answer>> {
        let mut requests = Vec::with_capacity(prompts.len());
        for (row, prompt) in prompts.iter().enumerate() {
            requests.push(Request {
                ids: self.encode(prompt)?,
                key: mix(settings.seed, row as u64),
            });
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(requests[row].ids.len()));
        let mut answers: Vec<Option<Answer>> = vec![None; prompts.len()];
        let mut done = 0;
        for rows in order.chunks(batch.max(1)) {
            job.cancel.check()?;
            let group: Vec<Request> = rows.iter().map(|&row| requests[row].clone()).collect();
            let tokens = generate(
                &self.model,
                &group,
                settings,
                true,
                &job.cancel,
                &mut |_, _| {},
            )?;
            for (&row, tokens) in rows.iter().zip(tokens) {
                let response = self.tokenizer.decode(&tokens)?;
                answers[row] = Some(Answer {
                    prompt: prompts[row].clone(),
                    response,
                    tokens,
                });
            }
            done += rows.len() as u64;
            job.progress
                .report("generate", done, Some(prompts.len() as u64), "answers");
        }
        answers
            .into_iter()
            .map(|answer| answer.ok_or_else(|| Error::internal("a prompt was left unanswered")))
            .collect()
    }

    /// Answers one prompt, handing out text as it becomes certain. `emit` returns whether to go on.
    pub fn stream(
        &self,
        prompt: &str,
        settings: &Settings,
        cancel: &Cancel,
        emit: &mut dyn FnMut(Piece) -> bool,
    ) -> Result<()> {
        let request = Request {
            ids: self.encode(prompt)?,
            key: mix(settings.seed, 0),
        };
        let mut text = self.tokenizer.stream();
        let mut count = 0;
        let mut failure = None;
        let tokens = {
            let mut on_token = |_: usize, id: u32| {
                count += 1;
                match push(&mut text, id) {
                    Ok(Some(piece)) => {
                        let piece = Piece {
                            text: piece,
                            tokens: count,
                            done: false,
                            finish_reason: None,
                        };
                        if !emit(piece) {
                            cancel.cancel();
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        failure = Some(error);
                        cancel.cancel();
                    }
                }
            };
            generate(
                &self.model,
                &[request],
                settings,
                true,
                cancel,
                &mut on_token,
            )
        };
        if let Some(error) = failure {
            return Err(error);
        }
        let finish_reason = match tokens {
            Ok(tokens) if tokens[0].last() == Some(&self.tokenizer.eos_id()) => FinishReason::Stop,
            Ok(_) => FinishReason::Length,
            Err(error) if error.code() == Code::Cancelled => FinishReason::Cancelled,
            Err(error) => return Err(error),
        };
        let rest = text.finish()?.unwrap_or_default();
        emit(Piece {
            text: rest,
            tokens: count,
            done: true,
            finish_reason: Some(finish_reason),
        });
        Ok(())
    }
}

fn push(text: &mut DecodeStream, id: u32) -> Result<Option<String>> {
    Ok(text.push(id)?.filter(|piece| !piece.is_empty()))
}

/// Only f32 is built so far.
fn require_f32(dtype: &str) -> Result<()> {
    match dtype {
        "f32" => Ok(()),
        "bf16" | "f16" | "int8" => Err(Error::new(
            Code::PrecisionUnavailable,
            format!("{dtype} is not available in this build"),
            "use --dtype f32",
        )),
        other => Err(Error::new(
            Code::Usage,
            format!("{other} is not a precision"),
            "use one of f32, bf16, f16, int8",
        )),
    }
}

/// Every id the tokenizer can give must have a row in the embedding.
pub(crate) fn check_vocabulary(
    config: &chatlm_t5::Config,
    tokenizer: &Tokenizer,
    folder: &Path,
) -> Result<()> {
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(Error::new(
            Code::ModelInvalid,
            format!(
                "the tokenizer has {} tokens, the model of {} only {} embeddings",
                tokenizer.vocab_size(),
                folder.display(),
                config.vocab_size
            ),
            "use the tokenizer that the model was trained with",
        )
        .with("file", folder.display().to_string()));
    }
    Ok(())
}

fn resolve(given: &GivenSettings, folder: &Value) -> Result<Settings> {
    let number = |name: &str| folder.get(name).and_then(Value::as_f64);
    let count = |name: &str| folder.get(name).and_then(Value::as_u64).map(|n| n as usize);
    let defaults = Settings::default();
    let sampled = folder
        .get("do_sample")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let search = match given.search.as_deref() {
        Some("greedy") => Search::Greedy,
        Some("sample") => Search::Sample,
        Some(other @ ("beam" | "beam-sample" | "contrastive")) => {
            return Err(Error::new(
                Code::Usage,
                format!("--search {other} is not available in this build"),
                "use greedy or sample",
            ));
        }
        Some(other) => {
            return Err(Error::new(
                Code::Usage,
                format!("{other} is not a way to search"),
                "use greedy or sample",
            ));
        }
        None if sampled => Search::Sample,
        None => Search::Greedy,
    };
    let settings = Settings {
        search,
        max_new_tokens: given
            .max_new_tokens
            .or_else(|| count("max_new_tokens"))
            .unwrap_or(defaults.max_new_tokens),
        temperature: given
            .temperature
            .or_else(|| number("temperature"))
            .unwrap_or(defaults.temperature),
        top_k: given
            .top_k
            .or_else(|| count("top_k"))
            .unwrap_or(defaults.top_k),
        top_p: given
            .top_p
            .or_else(|| number("top_p"))
            .unwrap_or(defaults.top_p),
        repetition_penalty: given
            .repetition_penalty
            .or_else(|| number("repetition_penalty"))
            .unwrap_or(defaults.repetition_penalty),
        no_repeat_ngram: given
            .no_repeat_ngram
            .or_else(|| count("no_repeat_ngram_size"))
            .unwrap_or(defaults.no_repeat_ngram),
        seed: given.seed.unwrap_or(defaults.seed),
    };
    let range = |ok: bool, message: &str, help: &str| {
        if ok {
            Ok(())
        } else {
            Err(Error::new(Code::Usage, message, help))
        }
    };
    range(
        settings.max_new_tokens > 0,
        "--max-new-tokens must be at least 1",
        "320 is the default",
    )?;
    range(
        settings.temperature > 0.0 && settings.temperature.is_finite(),
        "--temperature must be above 0",
        "1 leaves the distribution as it is; for the most likely token use --search greedy",
    )?;
    range(
        settings.top_p > 0.0 && settings.top_p <= 1.0,
        "--top-p must be above 0 and at most 1",
        "1 switches it off",
    )?;
    range(
        settings.repetition_penalty > 0.0 && settings.repetition_penalty.is_finite(),
        "--repetition-penalty must be above 0",
        "1 switches it off",
    )?;
    Ok(settings)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn given_beats_folder_beats_default() {
        let folder = json!({"max_new_tokens": 50, "top_k": 7, "do_sample": true});
        let given = GivenSettings {
            top_k: Some(3),
            ..GivenSettings::default()
        };
        let settings = resolve(&given, &folder).unwrap();
        assert_eq!((settings.top_k, settings.max_new_tokens), (3, 50));
        assert_eq!(settings.search, Search::Sample);
        let plain = resolve(&GivenSettings::default(), &Value::Null).unwrap();
        assert_eq!((plain.search, plain.max_new_tokens), (Search::Greedy, 320));
    }

    #[test]
    fn values_out_of_range_are_wrong_usage() {
        for given in [
            GivenSettings {
                top_p: Some(0.0),
                ..GivenSettings::default()
            },
            GivenSettings {
                temperature: Some(-1.0),
                ..GivenSettings::default()
            },
            GivenSettings {
                max_new_tokens: Some(0),
                ..GivenSettings::default()
            },
            GivenSettings {
                search: Some("beam".into()),
                ..GivenSettings::default()
            },
        ] {
            assert_eq!(
                resolve(&given, &Value::Null).unwrap_err().code(),
                Code::Usage
            );
        }
    }
}
