//! Measuring a model: perplexity of given answers, BLEU-4 of its own.

use std::path::PathBuf;

use chatlm_dataset::{Cursor, InputOptions, Loader, Rows};
use chatlm_job::{Cancel, Code, Error, Job, Result};
use chatlm_t5::Model;
use chatlm_tokenizer::Tokenizer;
use chatlm_train::{SequenceBatch, bleu4, sequence_loss};
use serde::Serialize;

use crate::device::open_device;
use crate::forced::Forced;
use crate::generator::{Generator, GeneratorOptions, check_vocabulary, load_plain};
use crate::given::GivenSettings;
use crate::settings::AnswerSettings;
use crate::setup::open_evaluation_rows;

#[derive(Debug, Clone)]
pub struct PerplexityOptions {
    pub model: PathBuf,
    pub adapter: Option<PathBuf>,
    pub inputs: Vec<String>,
    pub batch: usize,
    pub max_length: usize,
    /// The precision of the engine that answers, instead of the training model in f32.
    pub dtype: Option<String>,
    /// Another precision, whose likeliest tokens are compared.
    pub compare: Option<String>,
    /// As [`GeneratorOptions::device`].
    pub device: Option<String>,
}

/// `perplexity = exp(loss)`, `loss` the mean over all target tokens in nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerplexityReport {
    pub perplexity: f64,
    pub loss: f64,
    pub tokens: u64,
    /// The share of target tokens where two precisions' likeliest tokens are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

#[derive(Debug, Clone)]
pub struct BleuOptions {
    pub model: Option<PathBuf>,
    pub adapter: Option<PathBuf>,
    /// Rows with `prediction` and `label`, instead of a model.
    pub predictions: Option<String>,
    pub inputs: Vec<String>,
    pub batch: usize,
    pub max_new_tokens: usize,
    pub limit: Option<u64>,
    pub encoding: Option<String>,
    /// As [`GeneratorOptions::device`].
    pub device: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BleuReport {
    pub bleu4: f64,
    pub rows: u64,
}

/// Loss over the first `limit` rows of an unshuffled loader, from its start.
pub(crate) fn mean_loss(
    model: &Model,
    rows: &mut Loader,
    limit: u64,
    cancel: &Cancel,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PerplexityReport> {
    rows.seek(Cursor { epoch: 0, row: 0 });
    let total = rows.rows().min(limit);
    let (mut sum, mut tokens, mut seen) = (0.0, 0, 0);
    while seen < total {
        cancel.check()?;
        let batch = rows.next_batch()?;
        let keep = batch.keys.len().min((total - seen) as usize);
        let sequences = SequenceBatch::new(
            &batch.keys[..keep],
            &batch.fields[0][..keep],
            &batch.fields[1][..keep],
            model.config().pad_token_id,
            model.device(),
        )?;
        let (loss, count) = sequence_loss(model, &sequences)?;
        sum += loss;
        tokens += count as u64;
        seen += keep as u64;
        progress(seen, total);
    }
    let loss = sum / (tokens.max(1)) as f64;
    Ok(PerplexityReport {
        perplexity: loss.exp(),
        loss,
        tokens,
        agreement: None,
    })
}

/// Perplexity of the responses of `inputs` given their prompts.
pub fn evaluate_perplexity(options: &PerplexityOptions, job: &Job) -> Result<PerplexityReport> {
    let (batch, longest) = (options.batch, options.max_length);
    if options.dtype.is_some() || options.compare.is_some() {
        if options.adapter.is_some() {
            return Err(Error::new(
                Code::Usage,
                "an adapter's perplexity is measured in f32 alone",
                "merge it (chatlm lora merge), then give --dtype or --compare",
            ));
        }
        let (dtype, compare) = (options.dtype.as_deref(), options.compare.as_deref());
        let forced = Forced::load(&options.model, dtype, compare)?;
        let tokenizer = Tokenizer::load(&options.model)?;
        let mut rows = open_evaluation_rows(&options.inputs, batch, longest, &tokenizer, job)?;
        return forced.measure(&mut rows, job);
    }
    let device = open_device(options.device.as_deref())?;
    let (model, _) = load_plain(&options.model, options.adapter.as_deref(), &device)?;
    let tokenizer = Tokenizer::load(&options.model)?;
    check_vocabulary(model.config(), &tokenizer, &options.model)?;
    let mut rows = open_evaluation_rows(&options.inputs, batch, longest, &tokenizer, job)?;
    let mut progress = |done, total| {
        job.progress.report("evaluate", done, Some(total), "rows");
    };
    mean_loss(&model, &mut rows, u64::MAX, &job.cancel, &mut progress)
}

/// BLEU-4 by characters: the mean over rows of greedy answers, or of predictions in a file.
pub fn evaluate_bleu(options: &BleuOptions, job: &Job) -> Result<BleuReport> {
    let limit = options.limit.unwrap_or(u64::MAX) as usize;
    let input = InputOptions {
        encoding: options.encoding.clone(),
        keep_going: false,
    };
    let read = |paths: &[String], first: &str, second: &str| -> Result<Vec<(String, String)>> {
        Rows::open(paths, &input)?
            .take(limit)
            .map(|row| {
                let row = row?;
                Ok((row.text(first)?.to_owned(), row.text(second)?.to_owned()))
            })
            .collect()
    };
    let pairs = match (&options.predictions, &options.model) {
        (Some(file), None) => read(std::slice::from_ref(file), "label", "prediction")?,
        (None, Some(model)) => {
            let rows = read(&options.inputs, "prompt", "response")?;
            let generator = Generator::load(
                &GeneratorOptions {
                    model: model.clone(),
                    adapter: options.adapter.clone(),
                    dtype: None,
                    max_length: 512,
                    device: options.device.clone(),
                },
                job,
            )?;
            let settings = generator.settings(&GivenSettings {
                search: Some("greedy".to_owned()),
                max_new_tokens: Some(options.max_new_tokens),
                ..GivenSettings::default()
            })?;
            answers(&generator, rows, &settings, options.batch, job)?
        }
        _ => {
            return Err(Error::new(
                Code::Usage,
                "give either a model or predictions",
                "use --model DIR --in PATH, or --predictions FILE",
            ));
        }
    };
    if pairs.is_empty() {
        return Err(Error::new(
            Code::InputFormat,
            "there is no row to evaluate",
            "check the input; an empty table has no BLEU",
        ));
    }
    let sum: f64 = pairs
        .iter()
        .map(|(label, output)| bleu4(label, output))
        .sum();
    Ok(BleuReport {
        bleu4: sum / pairs.len() as f64,
        rows: pairs.len() as u64,
    })
}

/// Labels beside the model's answers.
fn answers(
    generator: &Generator,
    rows: Vec<(String, String)>,
    settings: &AnswerSettings,
    batch: usize,
    job: &Job,
) -> Result<Vec<(String, String)>> {
    let (prompts, labels): (Vec<String>, Vec<String>) = rows.into_iter().unzip();
    let answers = generator.answer(&prompts, settings, batch, job)?;
    Ok(labels
        .into_iter()
        .zip(answers.into_iter().map(|answer| answer.response))
        .collect())
}
