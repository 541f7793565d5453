//! `bench generate`: answers of a fixed length to random prompts, through the engine of every answer.

use std::path::PathBuf;
use std::time::Instant;

use chatlm_generate::{Request, Search, Settings, generate};
use chatlm_job::{Cancel, Code, Error, Random, Result, mix};

use crate::device::open_device;
use crate::forced::precision;
use crate::generator::Engine;
use crate::machine::{peak_rss_bytes, set_threads};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchGenerate {
    pub model: PathBuf,
    pub batch: usize,
    /// Tokens a prompt, `[EOS]` included.
    pub source: usize,
    /// New tokens a row: exactly so many, whatever they are.
    pub tokens: usize,
    /// `greedy` or `beam`.
    pub search: String,
    pub beams: usize,
    /// `f32`, `f16`, `bf16`, `int8`; left out, that of the folder.
    pub dtype: Option<String>,
    /// Runs that count, after one that does not.
    pub runs: usize,
    pub seed: u64,
    pub threads: Option<usize>,
    /// As [`crate::GeneratorOptions::device`].
    pub device: Option<String>,
}

/// Medians over the runs.
#[derive(Debug, Clone)]
pub struct BenchGenerateReport {
    /// New tokens of all rows a second, encoder included.
    pub tokens_per_second: f64,
    /// From the prompts to the first token of all rows.
    pub first_token_seconds: f64,
    pub load_seconds: f64,
    pub peak_rss_bytes: u64,
    /// The processor path in use.
    pub cpu: String,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Runs the answers.
pub fn bench_generate(options: &BenchGenerate, cancel: &Cancel) -> Result<BenchGenerateReport> {
    chatlm_t5::cpu::check()?;
    if let Some(threads) = options.threads {
        set_threads(threads)?;
    }
    let search = match options.search.as_str() {
        "greedy" => Search::Greedy,
        "beam" => Search::Beam,
        other => {
            return Err(Error::new(
                Code::Usage,
                format!("{other} is no search that is measured"),
                "use greedy or beam",
            ));
        }
    };
    let device = open_device(options.device.as_deref())?;
    let started = Instant::now();
    let kind = precision(options.dtype.as_deref())?;
    let (engine, _) = Engine::load(&options.model, None, kind, &device)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let requests = prompts(options, engine.config().vocab_size);
    let seconds = |tokens: usize| -> Result<f64> {
        let settings = Settings {
            search,
            beams: options.beams,
            max_new_tokens: tokens,
            // No token is this one: every answer is as long as it may be.
            end_tokens: vec![u32::MAX],
            ..Settings::default()
        };
        let mut taken = Vec::new();
        for _ in 0..=options.runs.max(1) {
            let mut decoder = engine.decoder();
            let started = Instant::now();
            let answers = generate(decoder.as_mut(), &requests, &settings, cancel, &mut ())?;
            taken.push(started.elapsed().as_secs_f64());
            let short = answers.iter().flatten().find(|a| a.tokens.len() != tokens);
            if let Some(answer) = short {
                let length = answer.tokens.len();
                return Err(Error::internal(format!(
                    "{length} tokens instead of {tokens}"
                )));
            }
        }
        Ok(median(taken.split_off(1)))
    };
    let first_token_seconds = seconds(1)?;
    let all = seconds(options.tokens)?;
    Ok(BenchGenerateReport {
        tokens_per_second: (options.batch * options.tokens) as f64 / all.max(1e-9),
        first_token_seconds,
        load_seconds,
        peak_rss_bytes: peak_rss_bytes(),
        cpu: chatlm_t5::cpu::cpu().name().to_owned(),
    })
}

fn prompts(options: &BenchGenerate, vocabulary: usize) -> Vec<Request> {
    let words = vocabulary.saturating_sub(2).max(1) as u64;
    let row = |row: u64| {
        let mut random = Random::new(mix(options.seed, row));
        let mut ids: Vec<u32> = (1..options.source.max(1))
            .map(|_| 2 + random.below(words) as u32)
            .collect();
        ids.push(1);
        Request {
            ids,
            key: mix(options.seed, row),
        }
    };
    (0..options.batch as u64).map(row).collect()
}
