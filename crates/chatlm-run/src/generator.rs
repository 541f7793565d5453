//! A loaded model that answers texts: model folder, optional adapter, tokenizer and settings.
//!
//! Every prompt is cut to the model's room and ends in `[EOS]`. What settings mean is in `settings.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use chatlm_checkpoint::{find_not_finite, load_adapter, load_model, load_weights};
use chatlm_generate::{Decoder, Plain, Request, generate};
use chatlm_job::{Cancel, Code, Error, Job, Result, mix};
use chatlm_t5::{Config, Model, Session, StoredKind, Weights, has_kernels};
use chatlm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::open_device;
use crate::forced::precision;
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
    /// `f32`, `f16`, `bf16` or `int8`; left out, what the folder holds.
    #[serde(default)]
    pub dtype: Option<String>,
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

/// What computes.
pub enum Engine {
    /// The processor's.
    Weights(Arc<Weights>),
    /// The training model's own steps, on any device.
    Model(Box<Model>),
}

impl Engine {
    /// The device's engine over a folder, and the folder's generation settings.
    pub(crate) fn load(
        model: &Path,
        adapter: Option<&Path>,
        kind: Option<StoredKind>,
        device: &Device,
    ) -> Result<(Self, Value)> {
        match adapter {
            _ if !has_kernels(device) => on_device(model, adapter, kind, device),
            Some(adapter) => adapted(model, adapter, kind),
            None => {
                let folder = load_weights(model, kind)?;
                Ok((Self::Weights(folder.weights), folder.generation))
            }
        }
    }

    pub(crate) fn config(&self) -> &Config {
        match self {
            Self::Weights(weights) => weights.config(),
            Self::Model(model) => model.config(),
        }
    }

    /// What searches run over.
    pub(crate) fn decoder(&self) -> Box<dyn Decoder + '_> {
        match self {
            Self::Weights(weights) => Box::new(Session::new(weights.clone())),
            Self::Model(model) => Box::new(Plain::new(model, true)),
        }
    }
}

/// The loaded model.
pub struct Generator {
    engine: Engine,
    tokenizer: Tokenizer,
    folder: PathBuf,
    defaults: Value,
    max_length: usize,
}

impl Generator {
    pub fn load(options: &GeneratorOptions, job: &Job) -> Result<Self> {
        chatlm_t5::cpu::check()?;
        let device = open_device(options.device.as_deref())?;
        job.progress.report("load", 0, None, "bytes");
        let kind = precision(options.dtype.as_deref())?;
        let tokenizer = Tokenizer::load(&options.model)?;
        let adapter = options.adapter.as_deref();
        let (engine, defaults) = Engine::load(&options.model, adapter, kind, &device)?;
        let generator = Self {
            engine,
            tokenizer,
            folder: options.model.clone(),
            defaults,
            max_length: options.max_length,
        };
        check_vocabulary(generator.config(), &generator.tokenizer, &options.model)?;
        job.cancel.check()?;
        Ok(generator)
    }

    /// A generator over a model that is there already, such as one in training.
    pub fn around(engine: Engine, tokenizer: Tokenizer, max_length: usize) -> Self {
        Self {
            engine,
            tokenizer,
            folder: PathBuf::new(),
            defaults: Value::Null,
            max_length,
        }
    }

    pub fn config(&self) -> &Config {
        self.engine.config()
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
    pub(crate) fn decoder(&self) -> Box<dyn Decoder + '_> {
        self.engine.decoder()
    }

    /// Bytes of a value of the keys and values that answers keep.
    pub(crate) fn cache_value_bytes(&self) -> u64 {
        match &self.engine {
            Engine::Weights(weights) if weights.keeps_halves() => 2,
            _ => 4,
        }
    }

    /// Scores that are not finite come from weights that are not, mostly: the first is named.
    pub(crate) fn blame(&self, error: Error) -> Error {
        if error.code() != Code::NotFinite || self.folder.as_os_str().is_empty() {
            return error;
        }
        find_not_finite(&self.folder).err().unwrap_or(error)
    }

    /// The ids of a prompt, cut to the room there is, always with `[EOS]` last.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        Ok(self.encode_cut(prompt)?.0)
    }

    /// [`Generator::encode`], and whether the prompt had to be cut.
    pub fn encode_cut(&self, prompt: &str) -> Result<(Vec<u32>, bool)> {
        let mut ids = self.tokenizer.encode(prompt)?;
        let room = self.max_length.saturating_sub(1);
        let cut = ids.len() > room;
        ids.truncate(room);
        ids.push(self.tokenizer.eos_id());
        Ok((ids, cut))
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
        let rows: Vec<(u64, &str)> = (first..).zip(prompts.iter().map(String::as_str)).collect();
        let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); prompts.len()];
        let mut done = first;
        let total = first + prompts.len() as u64;
        self.answer_rows(&rows, settings, batch, &job.cancel, &mut |some| {
            done += some.len() as u64;
            for (place, found) in some {
                answers[place] = found;
            }
            job.progress
                .report("generate", done, Some(total), "answers");
            Ok(())
        })?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Answers prompts with the numbers that their draws depend on, and hands over each batch as it is
    /// done: the places of its rows and their answers.
    pub(crate) fn answer_rows(
        &self,
        rows: &[(u64, &str)],
        settings: &AnswerSettings,
        batch: usize,
        cancel: &Cancel,
        each: &mut dyn FnMut(Vec<(usize, Vec<Answer>)>) -> Result<()>,
    ) -> Result<()> {
        let mut requests = Vec::with_capacity(rows.len());
        for (row, prompt) in rows {
            requests.push(Request {
                ids: self.encode(prompt)?,
                key: mix(settings.decoding.seed, *row),
            });
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&place| std::cmp::Reverse(requests[place].ids.len()));
        let mut decoder = self.decoder();
        let stops = Stops::new(&settings.stop);
        for places in order.chunks(batch.max(1)) {
            cancel.check()?;
            let group: Vec<Request> = places.iter().map(|&at| requests[at].clone()).collect();
            let mut watch = Watch::new(&self.tokenizer, &stops);
            let found = generate(
                decoder.as_mut(),
                &group,
                &settings.decoding,
                cancel,
                &mut watch,
            )
            .map_err(|error| self.blame(error))?;
            watch.result?;
            let spelled = places.iter().zip(found).map(|(&place, found)| {
                let answers = found.into_iter();
                let spell = |answer| self.spell(rows[place].1, answer, &stops);
                Ok((place, answers.map(spell).collect::<Result<Vec<_>>>()?))
            });
            each(spelled.collect::<Result<_>>()?)?;
        }
        Ok(())
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
            Err(error) => return Err(self.blame(error)),
        };
        telling.finish(finish_reason)
    }
}

/// A float folder with an adapter merged into it, and the folder's generation settings.
fn adapted(model: &Path, adapter: &Path, kind: Option<StoredKind>) -> Result<(Engine, Value)> {
    let mut folder = load_model(model, &Device::Cpu)?;
    let lora = load_adapter(adapter, &folder.config, &mut folder.parameters)?;
    let kind = kind.unwrap_or(StoredKind::F32);
    let weights = Weights::of_parameters(&folder.config, &folder.parameters, Some(&lora), kind)?;
    Ok((Engine::Weights(Arc::new(weights)), folder.generation))
}

/// The training model on a device without an engine for answers, which computes in f32.
fn on_device(
    dir: &Path,
    adapter: Option<&Path>,
    kind: Option<StoredKind>,
    device: &Device,
) -> Result<(Engine, Value)> {
    if let Some(kind) = kind.filter(|&kind| kind != StoredKind::F32) {
        let what = format!("{kind:?} is not available on this device");
        let help = "use --dtype f32, or --device cpu";
        return Err(Error::new(Code::PrecisionUnavailable, what, help));
    }
    let (model, generation) = load_plain(dir, adapter, device)?;
    Ok((Engine::Model(Box::new(model)), generation))
}

/// The training model of a float folder, and the folder's generation settings.
pub(crate) fn load_plain(
    dir: &Path,
    adapter: Option<&Path>,
    device: &Device,
) -> Result<(Model, Value)> {
    let mut folder = load_model(dir, device)?;
    let lora = match adapter {
        Some(adapter) => Some(load_adapter(
            adapter,
            &folder.config,
            &mut folder.parameters,
        )?),
        None => None,
    };
    let model = Model::new(&folder.config, &folder.parameters, lora.as_ref())?;
    Ok((model, folder.generation))
}

/// Every id the tokenizer can give must have a row in the embedding.
pub(crate) fn check_vocabulary(
    config: &Config,
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
