//! A loaded model that answers texts: model folder, optional adapter, tokenizer and settings.
//!
//! Every prompt is cut to the model's room and ends in `[EOS]`. What settings mean is in `settings.rs`.

use std::path::{Path, PathBuf};

use candle_core::Device;
use chatlm_checkpoint::{load_adapter, load_model};
use chatlm_generate::{Decoder, Plain, Request, generate};
use chatlm_job::{Cancel, Code, Error, Job, Result, mix};
use chatlm_t5::Model;
use chatlm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::given::GivenSettings;
use crate::settings::{AnswerSettings, resolve};
use crate::stop::Stops;
use crate::tell::{FinishReason, Piece, Telling, Watch};

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
}

fn longest_prompt() -> usize {
    512
}

/// One answered prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub prompt: String,
    /// Up to the first stop text, if there is one.
    pub response: String,
    /// Ids without `[PAD]`, with `[EOS]` where it was reached; those of a stop text are there.
    pub tokens: Vec<u32>,
    /// Of a search with beams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    pub finish_reason: FinishReason,
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
        let device = Device::Cpu;
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
    pub fn settings(&self, given: &GivenSettings) -> Result<AnswerSettings> {
        resolve(given, &self.defaults)
    }

    /// What searches run over.
    fn decoder(&self) -> Box<dyn Decoder + '_> {
        Box::new(Plain::new(&self.model, true))
    }

    /// The ids of a prompt, cut to the room there is, always with `[EOS]` last.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(prompt)?;
        ids.truncate(self.max_length.saturating_sub(1));
        ids.push(self.tokenizer.eos_id());
        Ok(ids)
    }

    /// Answers all prompts, `batch` at a time, longest first so that little is padding. Prompts with
    /// several answers have them one after the other, best first.
    pub fn answer(
        &self,
        prompts: &[String],
        settings: &AnswerSettings,
        batch: usize,
        job: &Job,
    ) -> Result<Vec<Answer>> {
        self.answer_from(0, prompts, settings, batch, job)
    }

    /// As [`Generator::answer`], for prompts that follow `first` others: answers that are drawn are
    /// the same however prompts are handed over.
    pub fn answer_from(
        &self,
        first: u64,
        prompts: &[String],
        settings: &AnswerSettings,
        batch: usize,
        job: &Job,
    ) -> Result<Vec<Answer>> {
        let mut requests = Vec::with_capacity(prompts.len());
        for (row, prompt) in (first..).zip(prompts) {
            requests.push(Request {
                ids: self.encode(prompt)?,
                key: mix(settings.decoding.seed, row),
            });
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(requests[row].ids.len()));
        let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); prompts.len()];
        let mut done = first;
        let mut decoder = self.decoder();
        let stops = Stops::new(&settings.stop);
        for rows in order.chunks(batch.max(1)) {
            job.cancel.check()?;
            let group: Vec<Request> = rows.iter().map(|&row| requests[row].clone()).collect();
            let mut watch = Watch::new(&self.tokenizer, &stops);
            let found = generate(
                decoder.as_mut(),
                &group,
                &settings.decoding,
                &job.cancel,
                &mut watch,
            )?;
            watch.result?;
            for (&row, found) in rows.iter().zip(found) {
                answers[row] = found
                    .into_iter()
                    .map(|answer| self.spell(&prompts[row], answer, &stops))
                    .collect::<Result<_>>()?;
            }
            done += rows.len() as u64;
            let total = first + prompts.len() as u64;
            job.progress
                .report("generate", done, Some(total), "answers");
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn spell(
        &self,
        prompt: &str,
        answer: chatlm_generate::Answer,
        stops: &Stops,
    ) -> Result<Answer> {
        let text = self.tokenizer.decode(&answer.tokens)?;
        Ok(Answer {
            prompt: prompt.to_owned(),
            response: stops.cut(&text).to_owned(),
            tokens: answer.tokens,
            score: answer.score.map(f64::from),
            finish_reason: answer.end.into(),
        })
    }

    /// Answers one prompt, handing out text as it becomes certain. `emit` returns whether to go on.
    pub fn stream(
        &self,
        prompt: &str,
        settings: &AnswerSettings,
        cancel: &Cancel,
        emit: &mut dyn FnMut(Piece) -> bool,
    ) -> Result<()> {
        let request = Request {
            ids: self.encode(prompt)?,
            key: mix(settings.decoding.seed, 0),
        };
        let mut decoding = settings.decoding.clone();
        if !decoding.search.has_beams() {
            // The first of several drawn answers is drawn like the only one.
            decoding.answers = 1;
        }
        let stops = Stops::new(&settings.stop);
        let mut telling = Telling::new(&self.tokenizer, &stops, cancel, emit);
        let found = generate(
            self.decoder().as_mut(),
            &[request],
            &decoding,
            cancel,
            &mut telling,
        );
        let finish_reason = match found {
            Ok(found) => found[0]
                .first()
                .map_or(FinishReason::Length, |a| a.end.into()),
            Err(error) if error.code() == Code::Cancelled => FinishReason::Cancelled,
            Err(error) => return Err(error),
        };
        telling.finish(finish_reason)
    }
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
