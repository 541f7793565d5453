//! `bench encode`: texts to ids in batches on all threads, as the loader encodes.

use std::path::Path;
use std::time::Instant;

use chatlm_dataset::{InputOptions, texts};
use chatlm_job::{Code, Error, Job, Result};
use chatlm_tokenizer::Tokenizer;

use crate::machine::{peak_rss_bytes, set_threads};

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchEncode {
    pub inputs: Vec<String>,
    pub tokenizer: String,
    /// Texts encoded together.
    pub batch: usize,
    /// Bytes of text that are taken, from the start of the inputs.
    pub bytes: u64,
    /// Times that all texts are encoded, after one that does not count.
    pub rounds: usize,
    pub threads: Option<usize>,
}

/// What came of it, by the median round.
#[derive(Debug, Clone)]
pub struct BenchEncodeReport {
    pub tokens_per_second: f64,
    pub characters_per_second: f64,
    pub bytes_per_second: f64,
    pub texts: u64,
    pub tokens: u64,
    pub peak_rss_bytes: u64,
    pub cpu: String,
}

/// Encodes the same texts again and again; reading them is not counted.
pub fn bench_encode(options: &BenchEncode, job: &Job) -> Result<BenchEncodeReport> {
    if let Some(threads) = options.threads {
        set_threads(threads)?;
    }
    let tokenizer = Tokenizer::load(Path::new(&options.tokenizer))?;
    let mut all: Vec<String> = Vec::new();
    let (mut bytes, mut characters) = (0, 0);
    for text in texts(&options.inputs, &InputOptions::default())? {
        let text = text?;
        bytes += text.len() as u64;
        characters += text.chars().count() as u64;
        all.push(text);
        if bytes >= options.bytes {
            break;
        }
    }
    if all.is_empty() {
        return Err(Error::new(
            Code::InputFormat,
            "there is no text to encode",
            "check the input: its text columns are empty, or it has none",
        ));
    }
    let (mut seconds, mut tokens) = (Vec::new(), 0);
    for round in 0..=options.rounds as u64 {
        tokens = 0;
        let started = Instant::now();
        for batch in all.chunks(options.batch) {
            job.cancel.check()?;
            let ids = tokenizer.encode_batch(batch)?;
            tokens += ids.iter().map(|ids| ids.len() as u64).sum::<u64>();
        }
        // The first round builds what is built once.
        if round > 0 {
            seconds.push(started.elapsed().as_secs_f64().max(1e-9));
        }
        let total = options.rounds as u64 + 1;
        job.progress
            .report("encode", round + 1, Some(total), "rounds");
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    Ok(BenchEncodeReport {
        tokens_per_second: tokens as f64 / median,
        characters_per_second: characters as f64 / median,
        bytes_per_second: bytes as f64 / median,
        texts: all.len() as u64,
        tokens,
        peak_rss_bytes: peak_rss_bytes(),
        cpu: chatlm_t5::cpu::cpu().name().to_owned(),
    })
}
